"""A paused session begins nothing new, and goes on where it was; a killed one ends at once, whatever it is doing."""

import asyncio

import pytest
from engine_trials import helper, kill, napping, pass_seconds, same_end_whatever_happens, told, until_end
from engine_world import Diary, Gate, Node, World, app_of

from actors import settle
from orchestrator import RetryPolicy, SessionContext
from orchestrator.inbox import MessageConflict
from orchestrator.session.events import SessionCancelled, SessionCompleted
from orchestrator.session.transitions import SessionStatus
from orchestrator.views import session_view


async def pause(_: World, node: Node) -> None:
    """Hold the session, always under the same message id."""
    await node.deliveries.pause("s", "look at this", "pause-1")


async def resume(_: World, node: Node) -> None:
    """Let it go, always under the same message id."""
    await node.deliveries.resume("s", "looks good", "resume-1")


async def test_a_session_that_is_paused_and_resumed_comes_to_its_end_whatever_happens() -> None:
    """Both requests stand in the journal once, however often they are told."""
    story = await same_end_whatever_happens(app_of(napping, helper=helper), told(pause, pause, resume, resume))
    assert 1 == story.count("PAUSE_REQUESTED") == story.count("RESUME_REQUESTED")
    assert "AGENT_BACKGROUND_TASK_COMPLETED" == story[-1]


async def test_a_paused_session_begins_nothing_and_leaves_memory() -> None:
    """What had begun comes to its end; the session is shown as paused from the first moment, and listed as such."""
    world = World()
    async with world.node(app_of(napping, helper=helper)) as node:
        await node.start()
        await settle()
        await pause(world, node)
        view = await session_view(world.heads, world.journal, "s")
        assert ("PAUSED", "look at this") == (view["state"], view["pause_requested"]["reason"])  # type: ignore[index, call-overload]
        await pass_seconds(world, node, 60)
        assert [
            "STEP_COMPLETED a",
            "TIMER_STARTED sleep",
            "PAUSE_REQUESTED",
            "SESSION_RESUMED",
            "TIMER_FIRED sleep",
        ] == (await world.story())[1:]
        assert (SessionStatus.PAUSED, None) == ((await world.head()).status, node.system.get("s"))
        await resume(world, node)
        await until_end(world, node)
    assert "STEP_COMPLETED b" in await world.story()


async def test_a_step_under_way_comes_to_its_end_in_a_paused_session() -> None:
    """Its retries too; the next step waits."""
    gate, tries = Gate(), list[str]()

    async def flaky() -> str:
        tries.append("try")
        await gate.passing()
        if len(tries) == 1:
            raise ConnectionError("again")
        return "done"

    async def handler(ctx: SessionContext) -> object:
        await ctx.step("first", flaky, retry=RetryPolicy(max_attempts=2))
        return await ctx.step("second", str, "x")

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await gate.reached()
        await pause(world, node)
        gate.open()
        await pass_seconds(world, node, 30)
        assert "STEP_COMPLETED first" == (await world.story())[-1]
        assert SessionStatus.PAUSED == (await world.head()).status
        await resume(world, node)
        assert SessionCompleted("x") == await until_end(world, node)


@pytest.mark.parametrize("what", ["agent", "timer", "callback", "approval", "child", "signal", "at most once"])
async def test_no_kind_of_operation_begins_while_the_session_is_paused(what: str) -> None:
    """Not even one that was asked for when the pause was on its way."""

    async def begin(ctx: SessionContext) -> None:
        match what:
            case "agent":
                await ctx.invoke_agent("helper", "go")
            case "timer":
                await ctx.sleep(1)
            case "callback":
                await ctx.create_callback("cb")
            case "approval":
                await ctx.request_approval("ap", timeout=1)
            case "child":
                await ctx.run_session("child", None)
            case "signal":
                await ctx.wait_for_signal("go")
            case _:
                await ctx.step("once", str, semantics="at_most_once")

    gate = Gate()

    async def handler(ctx: SessionContext) -> object:
        await ctx.step("first", gate.passing)
        await begin(ctx)
        return "begun"

    async def child(ctx: SessionContext) -> None:
        """End at once."""

    app = app_of(handler, helper=helper)
    app.session("child")(child)
    world = World()
    async with world.node(app) as node:
        await node.start()
        await gate.reached()
        # The step's outcome and the pause wait in one mailbox, and what the handler asks for next comes behind both.
        gate.open()
        await asyncio.gather(pause(world, node), settle())
        await pass_seconds(world, node, 5)
        assert ["PAUSE_REQUESTED", "STEP_COMPLETED first"] == sorted((await world.story())[1:3])
        assert {"PAUSE_REQUESTED", "STEP_COMPLETED first", "SESSION_RESUMED"} >= set((await world.story())[1:])
        if what == "signal":
            await node.deliveries.signal("s", "go", 1, "m1")
            await pass_seconds(world, node, 5)
            assert "VALUE_RECORDED wait_for_signal" not in await world.story()
        await resume(world, node)
        if what == "approval":
            return
        assert SessionCompleted("begun") == await until_end(world, node)


async def test_a_cancelled_session_cleans_up_though_it_is_paused() -> None:
    """A stop overrides the pause: undo steps are operations too."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> None:
        ctx.on_failure("undo", diary.note, "undone")
        await ctx.sleep(100)

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await pause(world, node)
        await node.deliveries.cancel("s", "enough", None)
        assert SessionCancelled("enough") == await until_end(world, node)
    assert ["undone"] == diary.entries


async def test_a_pause_outlives_a_generation() -> None:
    """A session that goes on in a fresh journal is as paused there as it was."""
    gate = Gate()

    async def handler(ctx: SessionContext, count: int) -> object:
        if count == 0:
            await ctx.step("first", gate.passing)
            ctx.continue_as_new(1)
        return await ctx.step("second", str, "x")

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start(0)
        await gate.reached()
        await pause(world, node)
        gate.open()
        await pass_seconds(world, node, 5)
        assert ["AGENT_INVOCATION_STARTED"] == await world.story("s:g2")
        assert SessionStatus.PAUSED == (await world.head("s:g2")).status
        await resume(world, node)
        await world.play("s:g2")
        assert SessionCompleted("x") == await world.end("s:g2")


async def test_a_pause_reaches_a_session_that_waits_for_its_slot_before_it_begins() -> None:
    """It is given its slot, and begins nothing."""
    world = World(tenant_limit=1)
    async with world.node(app_of(napping, helper=helper)) as node:
        await node.start()
        await node.start(session_id="t")
        await node.deliveries.pause("t", "not yet", None)
        await kill(world, node)
        await world.end()
        await pass_seconds(world, node, 5, "t")
        assert {"AGENT_INVOCATION_STARTED", "SESSION_RESUMED", "PAUSE_REQUESTED"} >= set(await world.story("t"))
        assert "PAUSE_REQUESTED" in await world.story("t")


async def test_another_request_under_a_known_id_is_a_conflict() -> None:
    """As for every message."""
    world = World()
    async with world.node(app_of(napping, helper=helper)) as node:
        await node.start()
        await settle()
        await pause(world, node)
        with pytest.raises(MessageConflict):
            await node.deliveries.kill("s", "look at this", "pause-1")


async def test_what_was_asked_for_before_a_short_pause_is_not_asked_for_twice() -> None:
    """A start that is on its way while the session is paused and resumed is no second one, of a run that died."""
    gate, diary, world = Gate(), Diary(), World()

    async def handler(ctx: SessionContext) -> object:
        await ctx.step("first", gate.passing)
        return await ctx.step("once", diary.note, "ran", semantics="at_most_once")

    async with world.node(app_of(handler)) as node:
        await node.start()
        await gate.reached()
        gate.open()
        # The step's outcome and both requests wait in one mailbox; what the handler asks for next comes behind them.
        await asyncio.gather(pause(world, node), resume(world, node))
        assert SessionCompleted("ran") == await until_end(world, node)


async def test_a_cancelled_session_begins_nothing_that_its_pause_held_back() -> None:
    """Its handler waits for the pause to end, and hears of the stop first."""
    diary, world = Diary(), World()

    async def handler(ctx: SessionContext) -> None:
        await ctx.sleep(1)
        await diary.step(ctx, "late")

    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await pause(world, node)
        await world.pass_time(1)
        await node.deliveries.cancel("s", "enough", None)
        assert SessionCancelled("enough") == await until_end(world, node)
    assert [] == diary.entries


@pytest.mark.parametrize("others", [1, 5])
async def test_a_session_begins_nothing_before_it_has_read_its_mail(others: int) -> None:
    """A pause that waits behind other messages holds all that begins with them."""
    diary, world = Diary(), World(tenant_limit=1)

    async def handler(ctx: SessionContext) -> None:
        if ctx.session_id == "t":
            await ctx.wait_for_signal("go")
        await diary.step(ctx, ctx.session_id)

    async with world.node(app_of(handler)) as node:
        # Another one has the slot.
        await node.start(session_id="t")
        await node.start()
        for number in range(others):
            await node.deliveries.signal("s", "go", number, None)
        await pause(world, node)
        assert SessionStatus.QUEUED == (await world.head()).status
        await node.deliveries.signal("t", "go", None, None)
        await world.end("t")
        await pass_seconds(world, node, 5)
        assert "PAUSE_REQUESTED" in await world.story()
    assert ["t"] == diary.entries
