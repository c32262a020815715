"""Odd things that a journal or an agent may say: telemetry takes them as they are, and no session suffers."""

from datetime import timedelta

import pytest
from engine_life import live
from engine_line import PowerCut
from engine_telemetry import Watched
from engine_world import NOON, Gate, app_of

from actors import settle
from orchestrator import SessionContext
from orchestrator.intake import Start
from orchestrator.session.events import SessionCompleted
from orchestrator.session.spending import COUNT_MAX
from orchestrator.session.values import Json
from orchestrator.telemetry.port import SILENT

TRACE, PARENT = "6a000000aaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"
MALFORMED = (
    *("x", "", "00-zz-..-01", f"00-{TRACE}-{PARENT}-zz", f"00-{TRACE}-{PARENT}", f"00-zz-{PARENT}-01"),
    *(f"00-{TRACE.upper()}-{PARENT}-01", f"01-{TRACE}-{PARENT}-01-more", f"00-{'0' * 32}-{PARENT}-01"),
)


@pytest.mark.parametrize("malformed", MALFORMED)
async def test_a_session_whose_journal_holds_a_malformed_trace_goes_on_without_one(malformed: str) -> None:
    """Its steps run, its end is counted, and it has no spans."""
    world, gate = Watched(), Gate()
    told, world.telemetry = world.telemetry, SILENT

    async def agent(_: object) -> Json:
        return {"usage": {"input_tokens": 1}}

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("work", gate.passing)
        await ctx.invoke_agent("agent", "go")

    app = app_of(handler, agent=agent)
    async with world.node(app) as node:
        await node.router.start(Start("main", "s", "default", None, trace=malformed, input_bytes=4))
        await settle()
        node.crash()
    world.telemetry = told
    gate.open()
    assert isinstance(await world.resume(app), SessionCompleted)
    assert [PowerCut] == world.failures()
    assert "STEP_RETRYING work" not in await world.story()
    assert [] == world.spans()
    assert [1] == [*world.metric("orchestrator.sessions.ended").values()]


async def test_a_malformed_trace_of_a_submitter_is_none() -> None:
    """The session begins a trace of its own."""
    world = Watched()

    async def handler(_: SessionContext) -> None:
        pass

    async with world.node(app_of(handler)) as node:
        await node.router.start(Start("main", "s", "default", None, trace="00-zz-..-01", input_bytes=4))
        await world.end()
    assert world.named("session main").parent is None


@pytest.mark.parametrize(
    ("reported", "told"),
    [(2**63, COUNT_MAX), (-(2**63) - 1, 0), (10**400, COUNT_MAX), (7, 7)],
    ids=["too high", "too low", "no float", "plain"],
)
async def test_usage_that_has_no_room_on_the_wire_is_bounded_as_sums_are(reported: int, told: int) -> None:
    """Or it would take with it all spans that are exported at once."""
    world = Watched()

    async def agent(_: object) -> Json:
        return {"usage": {"input_tokens": reported}}

    async def handler(ctx: SessionContext) -> None:
        await ctx.invoke_agent("agent", "go")

    assert isinstance(await world.run(app_of(handler, agent=agent)), SessionCompleted)
    assert told == world.named("invoke_agent agent").attributes["gen_ai.usage.input_tokens"]
    assert told == world.named("session main").attributes["gen_ai.usage.input_tokens"]


async def test_a_session_that_only_has_to_be_brought_to_its_recorded_end_is_not_active_for_ever() -> None:
    """Its owner died between the last event and HEAD."""
    world = Watched()

    async def handler(_: SessionContext) -> None:
        pass

    app = app_of(handler)
    await world.run(app)
    later, watched = await world.as_of(len(await world.recorded())), Watched()
    later.telemetry = watched.telemetry
    async with later.node(app, "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        await live(later, node)
    assert {} == watched.metric("orchestrator.sessions.active")
    assert 0 == watched.held_of_sessions()


async def test_a_session_whose_actor_failed_is_not_active_here_while_another_node_has_it() -> None:
    """What fails tells nobody that it leaves: as where HEAD was given up, and the answer to that was lost."""
    world = Watched()
    world.passivate_after = 0.5

    async def handler(ctx: SessionContext) -> None:
        await ctx.sleep(60)

    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        node.line.fail_once("release", OSError("lost"))
        await world.pass_time(1)
        assert [OSError] == world.failures()
        assert {} == world.metric("orchestrator.sessions.active")
        assert 0 == world.held_of_sessions()


async def test_no_span_ends_before_it_began_whatever_the_clocks_say() -> None:
    """The node that takes over is a minute behind the one that began."""
    world = Watched()

    async def handler(ctx: SessionContext) -> None:
        await ctx.sleep(3_600)

    async with world.node(app_of(handler)) as node, world.node(app_of(handler), "node-2") as later:
        await node.start()
        await settle()
        node.crash()
        world.clock.set_wall(NOON - timedelta(minutes=1))
        assert await later.claim(dead_owner="node-1")
        await later.deliveries.kill("s", "no more", None)
        await world.end()
    assert [] == [span.name for span in world.spans() if span.seconds < 0]
