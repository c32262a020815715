"""Sessions that are to end before their handler does: what a cancel reaches, wherever the session is."""

import asyncio
import threading
from collections.abc import Awaitable

import pytest
from engine_trials import cancel, same_end_whatever_happens, told, told_live, until_end
from engine_world import Diary, Gate, Handler, World, app_of

from actors import settle
from orchestrator import SessionContext, StepFailed
from orchestrator.errors import SessionCancelled as Cancelled
from orchestrator.inbox import SessionEnded, UnknownSession
from orchestrator.session.events import SessionCancelled, SessionCompleted


async def test_a_step_that_swallows_its_cancellation_leaves_no_trace_of_it() -> None:
    """The handler hears of the end all the same, and its cleanup may use task groups and time limits of asyncio."""
    said = list[str]()
    gate = Gate()

    async def stubborn() -> str:
        try:
            await gate.passing()
        except asyncio.CancelledError:
            return "never mind"
        return "passed"

    async def fails() -> None:
        raise ValueError("no")

    async def handler(ctx: SessionContext) -> None:
        try:
            await ctx.step("stubborn", stubborn)
        except Cancelled:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fails())
                    group.create_task(asyncio.Event().wait())
            except* ValueError:
                said.append("cleaned")
            raise

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await gate.reached()
        await cancel(world, node)
        await settle()
        assert SessionCancelled("enough") == await until_end(world, node, 3)
    assert ["cleaned"] == said


async def test_a_cancel_reaches_what_the_handler_awaits_whatever_happens() -> None:
    """It hears of it once, cleans up by steps of its own, and the session ends as cancelled."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> None:
        await diary.step(ctx, "a")
        try:
            await ctx.sleep(1_000)
        except Cancelled as asked:
            await diary.step(ctx, "clean-1")
            await ctx.sleep(2, name="breath")
            await diary.step(ctx, f"clean-2-{asked}")
            raise

    story = await same_end_whatever_happens(app_of(handler), told(cancel, cancel, cancel))
    assert [
        "AGENT_INVOCATION_STARTED",
        "STEP_COMPLETED a",
        "TIMER_STARTED sleep",
        "CANCEL_REQUESTED",
        "STEP_COMPLETED clean-1",
        "TIMER_STARTED breath",
        "TIMER_FIRED breath",
        "STEP_COMPLETED clean-2-enough",
        "AGENT_BACKGROUND_TASK_CANCELLED",
    ] == story


async def noop() -> None:
    """Be a step that takes no time."""


async def branches_that_wait(ctx: SessionContext) -> object:
    """Wait in branches for one thing each; each cleans up for itself."""

    async def one(name: str, wait: Awaitable[object]) -> None:
        try:
            await wait
        except Cancelled:
            await ctx.step(f"clean-{name}", noop)

    await asyncio.gather(
        one("timer", ctx.sleep(1_000)),
        one("signal", ctx.wait_for_signal("go", timeout=500)),
        one("approval", ctx.request_approval("publish", timeout=500)),
        one("agent", ctx.invoke_agent("slow", "prompt")),
    )
    return None


async def branches_of_a_group(ctx: SessionContext) -> object:
    """Let one branch end by itself, and the others by the cancel."""

    async def chain(name: str) -> None:
        await ctx.step(f"{name}-1", noop)
        await ctx.sleep(2, name=f"{name}-2")
        await ctx.wait_for_signal(name)

    try:
        await ctx.gather(chain("x"), chain("y"))
    finally:
        await ctx.step("clean", noop)
    return None


async def late_branches(ctx: SessionContext) -> object:
    """Ask from a branch that does something of its own first."""

    async def late(name: str) -> None:
        for _ in range(30):
            await asyncio.sleep(0)
        await ctx.invoke_agent("slow", "prompt", name=name)

    async def early() -> None:
        await ctx.sleep(1)
        await ctx.wait_for_signal("go")

    try:
        await ctx.gather(early(), late("l1"), late("l2"))
    finally:
        await ctx.step("clean", noop)
    return None


@pytest.mark.parametrize("handler", [branches_that_wait, branches_of_a_group, late_branches])
async def test_a_cancel_reaches_every_branch_whatever_happens(handler: Handler) -> None:
    """And its agents are cancelled with it."""
    running = set[object]()

    async def slow(_: object) -> None:
        task = asyncio.current_task()
        running.add(task)
        try:
            await asyncio.Event().wait()
        finally:
            running.discard(task)

    nothing = told()
    await same_end_whatever_happens(app_of(handler, slow=slow), told(nothing, nothing, nothing, cancel))
    assert set() == running


async def test_a_failing_branch_does_not_overtake_what_its_siblings_had_begun() -> None:
    """A sibling that asks late asks on a replay too before it is cancelled."""

    async def slow(_: object) -> None:
        await asyncio.Event().wait()

    async def fails() -> None:
        raise ValueError("no")

    async def handler(ctx: SessionContext) -> str:
        async def late() -> None:
            for _ in range(30):
                await asyncio.sleep(0)
            await ctx.invoke_agent("slow", "prompt")

        async def early() -> None:
            await ctx.sleep(2)
            await ctx.step("bad", fails)

        try:
            await ctx.gather(early(), late())
        except StepFailed as failed:
            await ctx.sleep(1, name="after")
            return failed.operation
        return "?"

    app = app_of(handler, slow=slow)
    assert SessionCompleted("bad") == (await (await told_live(app, told())).recorded())[-1].event
    await same_end_whatever_happens(app, told())


async def test_an_async_step_is_broken_off_and_a_sync_one_is_left() -> None:
    """A thread cannot be stopped; its result is dropped."""
    gate, entered, leave = Gate(), threading.Event(), threading.Event()
    ends = list[str]()

    async def in_loop() -> None:
        try:
            await gate.passing()
        except asyncio.CancelledError:
            ends.append("broken off")
            raise

    def in_thread() -> str:
        entered.set()
        leave.wait(5)
        return "never recorded"

    async def handler(ctx: SessionContext) -> None:
        await asyncio.gather(ctx.step("loop", in_loop), ctx.step("thread", in_thread))

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await gate.reached()
        await asyncio.to_thread(entered.wait, 5)
        await cancel(world, node)
        assert SessionCancelled("enough") == await world.end()
        leave.set()
    assert ["broken off"] == ends
    assert [] == [each for each in await world.story() if each.startswith("STEP")]


async def test_a_cancel_that_finds_the_handler_just_returned_lets_it_undo_its_work() -> None:
    """It runs once more from its journal, and hears of it at its end."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> str:
        ctx.on_failure("undo", diary.note, "undone")
        return await diary.step(ctx, "a")

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        node.line.hold_on("append")
        await settle()
        cancelling = asyncio.ensure_future(cancel(world, node))
        await settle()
        node.line.thaw()
        await asyncio.gather(cancelling, return_exceptions=True)
        end = await world.end()
    assert (end == SessionCancelled("enough")) == ("undone" in diary.entries)


@pytest.mark.parametrize("state", ["suspended", "blocked", "ended", "unknown", "owner died", "leaving"])
async def test_a_cancel_is_well_defined_wherever_the_session_is(state: str) -> None:
    """Asleep it is woken for it, blocked it ends without its handler, ended and unknown it is refused."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.wait_for_signal("go")

    async def changed(ctx: SessionContext) -> None:
        await ctx.sleep(3)

    async def longer(ctx: SessionContext) -> None:
        await ctx.wait_for_signal("go", timeout=500)

    world = World()
    async with world.node(app_of(longer)) as node:
        if state != "unknown":
            await node.start()
            await settle()
        if state == "leaving":
            node.line.hold_on("release")
            await world.pass_time(31)
            await node.line.until_held()
            cancelling = asyncio.ensure_future(cancel(world, node))
            await settle()
            node.line.thaw()
            await cancelling
            assert SessionCancelled("enough") == await world.end()
            return
        if state == "suspended":
            await world.pass_time(31)
            assert (await world.head()).owner is None
            await cancel(world, node)
            assert SessionCancelled("enough") == await world.end()
        if state in {"suspended", "unknown"}:
            with pytest.raises(UnknownSession if state == "unknown" else SessionEnded):
                await node.deliveries.cancel("s", None, None)
            return
        if state == "ended":
            await node.deliveries.signal("s", "go", None, None)
            await world.end()
            with pytest.raises(SessionEnded):
                await cancel(world, node)
            return
        node.crash()
    async with world.node(app_of(changed if state == "blocked" else longer), "node-2") as node:
        if state == "blocked":
            await node.claim(dead_owner="node-1")
            await world.blocked()
            await cancel(world, node)
        else:
            await cancel(world, node)
            await node.claim(dead_owner="node-1")
        assert SessionCancelled("enough") == await world.end()


@pytest.mark.parametrize("seq", [1, 2, 3, 4])
async def test_a_cancel_during_a_replay_is_heard_where_the_replay_ends(seq: int) -> None:
    """What is recorded is handed over first; what is new is not begun."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> None:
        for name in ("a", "b", "c"):
            await diary.step(ctx, name)
        await ctx.wait_for_signal("go")

    whole = World()
    async with whole.node(app_of(handler)) as node:
        await node.start()
        await settle()
    world = await whole.as_of(seq)
    diary.entries.clear()
    async with world.node(app_of(handler), "node-2") as node:
        await cancel(world, node)
        await node.claim(dead_owner="node-1")
        assert SessionCancelled("enough") == await world.end()
    assert [] == diary.entries or seq < 4


async def test_a_step_that_ends_as_the_cancel_comes_is_recorded_and_passed_over_on_a_replay() -> None:
    """The handler heard of the cancel there; it does so again."""
    gate, diary = Gate(), Diary()

    async def handler(ctx: SessionContext) -> None:
        try:
            await ctx.step("a", gate.passing)
        except Cancelled:
            await diary.step(ctx, "clean")
            await ctx.sleep(2)

    app = app_of(handler)
    world = World()
    async with world.node(app) as node:
        await node.start()
        await gate.reached()
        node.line.hold_on("append")
        cancelling = asyncio.ensure_future(cancel(world, node))
        await node.line.until_held()
        gate.open()
        await settle()
        node.line.thaw()
        await cancelling
        end = await until_end(world, node)
    story = await world.story()
    assert ["CANCEL_REQUESTED", "STEP_COMPLETED a", "STEP_COMPLETED clean"] == story[1:4]
    for seq in range(1, len(story) + 1):
        earlier = await world.as_of(seq)
        async with earlier.node(app, "node-2") as node:
            await node.claim(dead_owner="node-1")
            if seq > 1:
                assert end == await until_end(earlier, node), story[:seq]


async def test_a_cancel_that_interrupts_news_for_people_does_not_break_them_off() -> None:
    """A replay does not wait for news: the handler must hear of its end in another place, the same each time."""
    diary = Diary()
    heard = list[str]()

    async def handler(ctx: SessionContext) -> None:
        at = "news"
        try:
            await ctx.progress("hello")
            at = "step"
            await ctx.wait_for_signal("go")
        except Cancelled:
            heard.append(at)
            await diary.step(ctx, f"clean-{at}")

    app = app_of(handler)
    world = World()
    async with world.node(app) as node:
        await node.start()
        node.line.hold_on("append")
        await node.line.until_held()
        cancelling = asyncio.ensure_future(cancel(world, node))
        await settle()
        node.line.thaw()
        await cancelling
        await world.end()
    for seq in range(1, len(await world.recorded()) + 1):
        earlier = await world.as_of(seq)
        async with earlier.node(app, "node-2") as node:
            await cancel(earlier, node) if seq < 3 else None
            await node.claim(dead_owner="node-1")
            await until_end(earlier, node)
    assert {"step"} == set(heard)


@pytest.mark.parametrize("leaves", ["rest", "drain", "crash"])
async def test_a_handler_that_leaves_memory_does_not_clean_up(leaves: str) -> None:
    """Its `finally` is for the session's end: on leaving, no step of it runs and nothing is undone."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> None:
        ctx.on_failure("undo", diary.note, "undone")
        try:
            await ctx.gather(ctx.wait_for_signal("go"), branch(ctx))
        except asyncio.CancelledError as cut:
            raise ValueError("no") from cut
        finally:
            await diary.step(ctx, "handler")

    async def branch(ctx: SessionContext) -> None:
        try:
            await ctx.sleep(1_000)
        finally:
            await diary.step(ctx, "branch")

    app = app_of(handler)
    world = World()
    async with world.node(app) as node:
        await node.start()
        await settle()
        match leaves:
            case "rest":
                await world.pass_time(31)
            case "drain":
                draining = asyncio.ensure_future(node.system.drain(5))
                await world.pass_time(5)
                await world.pass_time(5)
                await draining
            case "crash":
                node.crash()
    assert [] == diary.entries
    async with world.node(app, "node-2") as node:
        await node.claim(dead_owner="node-1")
        await cancel(world, node)
        assert SessionCancelled("enough") == await until_end(world, node, 5)
    assert ["branch", "handler", "undone"] == diary.entries


async def test_agents_are_cancelled_before_the_handler_has_cleaned_up() -> None:
    """Nobody waits for them any more."""
    running = list[str]()

    async def slow(_: object) -> None:
        running.append("slow")
        try:
            await asyncio.Event().wait()
        finally:
            running.remove("slow")

    async def handler(ctx: SessionContext) -> None:
        try:
            await ctx.invoke_agent("slow", "prompt")
        finally:
            await ctx.sleep(5)

    world = World()
    async with world.node(app_of(handler, slow=slow)) as node:
        await node.start()
        await settle()
        assert ["slow"] == running
        await cancel(world, node)
        await settle()
        assert [] == running
        assert not (await world.state()).has_ended
        assert SessionCancelled("enough") == await until_end(world, node, 10)


async def test_a_step_of_a_branch_that_asks_a_little_later_is_not_missed_when_its_sibling_fails() -> None:
    """Its outcome was recorded right behind the failure: a replay lets it ask before it is cancelled."""
    bad, good = Gate(), Gate()

    async def fails() -> None:
        await bad.passing()
        raise ValueError("no")

    async def handler(ctx: SessionContext) -> str:
        async def later() -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            await ctx.step("good", good.passing)

        try:
            await ctx.gather(ctx.step("bad", fails), later())
        except StepFailed as failed:
            return failed.operation
        return "?"

    app = app_of(handler)
    world = World()
    async with world.node(app) as node:
        await node.start()
        await good.reached()
        node.line.hold_on("append")
        bad.open()
        await node.line.until_held()
        good.open()
        await settle()
        node.line.thaw()
        end = await world.end()
    story = await world.story()
    assert ["STEP_FAILED bad", "STEP_COMPLETED good"] == story[1:3]
    earlier = await world.as_of(3)
    assert end == await earlier.resume(app)
