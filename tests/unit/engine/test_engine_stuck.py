"""A session that hangs is found and named by its node, once; one that waits as it said it would is not stuck."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

import pytest
from engine_why import watch_of
from engine_world import Gate, Handler, Node, World, app_of

from actors import ManualClock, settle
from orchestrator import Orchestrator, RetryPolicy, SessionContext
from orchestrator.stuck import DECAY, GROWTH_MAX, KINDS_MAX, LOOK_EVERY_SECONDS, Kind, StuckWatch, Usual

LEAST = 300.0
"""Seconds before which nothing is stuck."""
DEFAULT = 10 * LEAST
"""Seconds after which a session is stuck of which nothing is known."""
KIND = Kind("main", "fetch")


@asynccontextmanager
async def watched(handler: Handler, **agents: object) -> AsyncIterator[tuple[World, Node, StuckWatch]]:
    """Start session `s`, and watch its node; it is cut off with the block."""
    world = World()
    world.passivate_after = 1e9
    async with world.node(app_of(handler, **agents)) as node:
        await node.start()
        await settle()
        yield world, node, watch_of(node)
        node.crash()


async def looked(world: World, watch: StuckWatch, *, after: float) -> int:
    """Let time pass, look, and return how many sessions hang."""
    await world.pass_time(after)
    watch.look()
    return watch.count


# --- what is stuck ---------------------------------------------------------------------------------------------------


async def test_a_step_that_hangs_is_named_once_with_since_when() -> None:
    """After ten times what counts as usual where nothing is known; the log has what to ask next."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("first", quickly)
        await ctx.step("fetch", gate.passing)

    async with watched(handler) as (world, _, watch):
        assert 0 == await looked(world, watch, after=DEFAULT - 1)
        assert 1 == await looked(world, watch, after=1)
        assert 1 == await looked(world, watch, after=3_600)
        (line,) = world.logged("session_stuck")
        told = {
            name: line[name] for name in ("session_id", "session_type", "operations", "since", "advice", "log_level")
        }
        assert told == {
            "session_id": "s",
            "session_type": "main",
            "operations": ["fetch"],
            "since": "2026-01-01T12:00:00.000Z",
            "advice": "orchestrator why s",
            "log_level": "warning",
        }
        assert (DEFAULT, LEAST) == (line["quiet_seconds"], line["usual_seconds"])
        gate.open()


async def quickly() -> None:
    """End at once."""


async def test_an_agent_run_that_hangs_is_named_and_so_is_that_it_goes_on() -> None:
    """By its own operation; once it went on the session counts no more."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> None:
        await ctx.invoke_agent("writer", "tea")
        await ctx.sleep(timedelta(days=1))

    async with watched(handler, writer=gate.passing) as (world, _, watch):
        assert 1 == await looked(world, watch, after=DEFAULT)
        gate.open()
        await settle()
        assert 0 == await looked(world, watch, after=30)
        (line,) = world.logged("session_unstuck")
        assert ("s", ["writer"], DEFAULT) == (line["session_id"], line["operations"], line["quiet_seconds"])


async def test_code_of_the_handlers_own_that_hangs_is_told_of_as_such() -> None:
    """Between operations there is none to name."""

    async def handler(ctx: SessionContext) -> None:
        await asyncio.Event().wait()

    async with watched(handler) as (world, _, watch):
        assert 1 == await looked(world, watch, after=DEFAULT)
        assert ["handler code"] == [line["operations"] for line in world.logged("session_stuck")]


async def test_of_parallel_branches_those_are_named_that_run() -> None:
    """What waits for a person meanwhile is not what it hangs on; news of any branch puts it off."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> None:
        await ctx.gather(
            ctx.step("fetch", gate.passing), ctx.invoke_agent("writer", "tea"), ctx.request_approval("publish", None)
        )

    async with watched(handler, writer=gate.passing) as (world, node, watch):
        assert 0 == await looked(world, watch, after=DEFAULT - 1)
        await node.deliveries.signal("s", "hello", None, "m-1")
        assert 0 == await looked(world, watch, after=1)
        assert 1 == await looked(world, watch, after=DEFAULT)
        assert [["fetch", "writer"]] == [line["operations"] for line in world.logged("session_stuck")]
        gate.open()


async def test_the_pause_before_another_attempt_does_not_count() -> None:
    """It was announced; the attempt behind it counts from its own beginning."""
    gate = Gate()

    async def flaky(*_: object) -> None:
        if not failed:
            failed.append(True)
            raise ConnectionError("once")
        await gate.passing()

    failed: list[bool] = []
    retry = RetryPolicy(max_attempts=2, initial_delay=timedelta(days=2), max_delay=timedelta(days=2))

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("fetch", flaky, retry=retry)

    async with watched(handler) as (world, _, watch):
        assert 0 == await looked(world, watch, after=86_399)
        assert 0 == await looked(world, watch, after=DEFAULT - 1)
        assert 1 == await looked(world, watch, after=DEFAULT)
        assert ["2026-01-02T12:00:00.000Z"] == [line["since"] for line in world.logged("session_stuck")]
        gate.open()


# --- what is not -----------------------------------------------------------------------------------------------------


async def sleeps(ctx: SessionContext) -> None:
    """Wait for an instant."""
    await ctx.sleep(timedelta(days=300))


async def awaits_signal(ctx: SessionContext) -> None:
    """Wait for a signal."""
    await ctx.wait_for_signal("nudge")


async def awaits_callback(ctx: SessionContext) -> None:
    """Wait for a callback."""
    await (await ctx.create_callback("answer")).result()


async def asks(ctx: SessionContext) -> None:
    """Wait for a person."""
    await ctx.request_approval("publish", None)


@pytest.mark.parametrize("handler", [sleeps, awaits_signal, awaits_callback, asks])
async def test_who_waits_as_declared_is_not_stuck_however_long(handler: Handler) -> None:
    """Though it stays in memory all the while."""
    async with watched(handler) as (world, node, watch):
        assert 0 == await looked(world, watch, after=100 * 86_400)
        assert ("s",) == node.system.ids()


async def test_who_waits_for_a_child_is_not_stuck_but_the_child_may_be() -> None:
    """The one that hangs is the one to mend."""
    gate = Gate()
    app = Orchestrator()

    @app.session("main")
    async def main(ctx: SessionContext) -> None:
        await ctx.run_session("child", None, key="child")

    @app.session("child")
    async def child(ctx: SessionContext) -> None:
        await ctx.step("fetch", gate.passing)

    world = World()
    world.passivate_after = 1e9
    async with world.node(app) as node:
        await node.start()
        await settle()
        watch = watch_of(node)
        assert 1 == await looked(world, watch, after=DEFAULT)
        assert ["child"] == [line["session_type"] for line in world.logged("session_stuck")]
        node.crash()
        gate.open()


async def test_one_that_is_held_is_not_stuck() -> None:
    """It begins nothing because a person said so."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.wait_for_signal("nudge")
        await ctx.step("fetch", quickly)

    async with watched(handler) as (world, node, watch):
        await node.deliveries.pause("s", None, "m-1")
        await node.deliveries.signal("s", "nudge", None, "m-2")
        await settle()
        assert 0 == await looked(world, watch, after=100 * 86_400)


# --- what is usual ---------------------------------------------------------------------------------------------------


async def test_what_took_long_before_is_given_time_and_what_was_quick_is_not() -> None:
    """By the operation's name, whatever its counter: the node learns from those that settled."""
    gates = [Gate(), Gate()]

    async def handler(ctx: SessionContext) -> None:
        for gate in gates:
            await ctx.step("fetch", gate.passing)

    async with watched(handler) as (world, _, watch):
        assert 0 == await looked(world, watch, after=400)
        gates[0].open()
        await settle()
        assert 0 == await looked(world, watch, after=30)
        assert 0 == await looked(world, watch, after=4_000 - 31)
        assert 1 == await looked(world, watch, after=1)
        (line,) = world.logged("session_stuck")
        assert (["fetch#2"], 400.0) == (line["operations"], line["usual_seconds"])
        gates[1].open()


@pytest.mark.parametrize(("usual", "stuck_after"), [(5, DEFAULT), (LEAST / 10, LEAST)])
async def test_a_usual_that_is_quick_makes_no_session_stuck_before_its_time(usual: float, stuck_after: float) -> None:
    """Ten times nothing is nothing: what takes less than a tenth of the least time is not learned at all."""
    gates = [Gate(), Gate()]

    async def handler(ctx: SessionContext) -> None:
        for gate in gates:
            await ctx.step("fetch", gate.passing)

    async with watched(handler) as (world, _, watch):
        assert 0 == await looked(world, watch, after=usual)
        gates[0].open()
        await settle()
        watch.look()
        assert 0 == await looked(world, watch, after=LEAST - 1)
        assert 0 == await looked(world, watch, after=stuck_after - LEAST)
        assert 1 == await looked(world, watch, after=1)
        gates[1].open()


def test_the_usual_decays_and_one_that_hung_teaches_little() -> None:
    """A maximum that forgets; what is new counts for twice what was usual at most."""
    usual = Usual()
    assert 60.0 == usual.seconds((KIND,), 60.0)
    usual.learn(KIND, 100.0)
    assert 100.0 == usual.seconds((KIND,), 60.0)
    usual.learn(KIND, 10.0)
    assert DECAY * 100.0 == usual.seconds((KIND,), 60.0)
    usual.learn(KIND, 86_400.0)
    assert GROWTH_MAX * DECAY * 100.0 == usual.seconds((KIND,), 60.0)


def test_a_node_remembers_so_many_kinds_and_forgets_the_oldest() -> None:
    """Names are user code's, and may be endless."""
    usual = Usual()
    for number in range(KINDS_MAX + 1):
        usual.learn(Kind("main", f"fetch-{number}"), 100.0)
    assert 1.0 == usual.seconds((Kind("main", "fetch-0"),), 1.0)
    assert 100.0 == usual.seconds((Kind("main", "fetch-1"),), 1.0)


async def test_a_session_that_left_this_node_is_stuck_here_no_more() -> None:
    """Whoever has it now watches it."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("fetch", gate.passing)

    async with watched(handler) as (world, node, watch):
        assert 1 == await looked(world, watch, after=DEFAULT)
        await node.system.stop("s")
        assert 0 == await looked(world, watch, after=30)
        assert 1 == len(world.logged("session_unstuck"))
        gate.open()


def noted(looks: list[float], clock: ManualClock) -> None:
    """Note when this was called."""
    looks.append(clock.monotonic())


async def test_a_node_looks_every_half_minute_and_oftener_for_a_short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session is found at most a quarter of its limit late."""
    for seconds_min, pause in ((300.0, LOOK_EVERY_SECONDS), (4.0, 1.0)):
        world = World()
        async with world.node(app_of(sleeps)) as node:
            watch = watch_of(node, seconds_min=seconds_min, factor=1)
            looks: list[float] = []
            clock = node.system.clock
            assert isinstance(clock, ManualClock)
            monkeypatch.setattr(watch, "look", partial(noted, looks, clock))
            begun = clock.monotonic()
            task = asyncio.create_task(watch.run())
            await settle()
            for _ in range(2):
                await world.pass_time(pause)
            task.cancel()
            assert [pause, 2 * pause] == [at - begun for at in looks]
