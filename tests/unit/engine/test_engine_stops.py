"""What a stop of the session meets: several branches at one answer, requests on their way, steps that wind up."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from engine_trials import pass_seconds, same_end_whatever_happens, told, until_end
from engine_world import Diary, Handler, Node, World, app_of

from actors import settle
from orchestrator import Budget, Callback, OperationTimedOut, Orchestrator, RetryPolicy, SessionContext
from orchestrator.errors import SessionCancelled as Cancelled
from orchestrator.session.events import SessionCancelled, SessionCompleted, SessionFailed


async def cancel(_: World, node: Node) -> None:
    """Ask the session to end, always under the same message id."""
    await node.deliveries.cancel("s", "enough", "cancel-1")


async def test_a_cancel_reaches_every_branch_that_waits_for_one_answer() -> None:
    """Each hears of it and cleans up, not only the one that asked first."""

    async def handler(ctx: SessionContext) -> None:
        callback = await ctx.create_callback("cb")

        async def one(number: int) -> None:
            try:
                await callback.result()
            except Cancelled:
                await ctx.sleep(1, name=f"clean-{number}")

        await asyncio.gather(one(1), one(2), one(3))

    story = await same_end_whatever_happens(app_of(handler), told(told(), cancel))
    assert ["clean-1", "clean-2", "clean-3"] == [each.split()[1] for each in story if each.startswith("TIMER_FIRED")]
    assert "AGENT_BACKGROUND_TASK_CANCELLED" == story[-1]


async def test_a_branch_that_is_cancelled_leaves_the_answer_to_the_others_that_wait_for_it() -> None:
    """Though it was the one that asked first."""
    handed = list[Callback]()

    async def handler(ctx: SessionContext) -> object:
        callback = await ctx.create_callback("cb")
        handed.append(callback)
        first = asyncio.ensure_future(callback.result())
        second = asyncio.ensure_future(callback.result())
        await ctx.wait_for_signal("go")
        first.cancel()
        return await second

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await node.deliveries.signal("s", "go", None, "1")
        await settle()
        await node.deliveries.callback(handed[-1].id, handed[-1].token, "SUCCESS", 7, None)
        assert SessionCompleted(7) == await world.end()


@pytest.mark.parametrize("kind", ["agent", "approval", "child", "timer", "callback", "signal", "at most once"])
async def test_what_was_asked_for_and_not_begun_when_the_stop_is_recorded_begins_no_more(kind: str) -> None:
    """Nobody waits for it: no agent runs, no person is asked, and a signal stays for the clean-up."""
    going, ran = asyncio.Event(), list[str]()

    async def slow(_: object) -> None:
        ran.append("agent")
        await asyncio.Event().wait()

    async def step() -> None:
        ran.append("step")

    async def handler(ctx: SessionContext) -> None:
        await going.wait()
        asked: dict[str, Callable[[], Awaitable[object]]] = {
            "agent": lambda: ctx.invoke_agent("slow", "prompt"),
            "approval": lambda: ctx.request_approval("publish"),
            "child": lambda: ctx.run_session("main"),
            "timer": lambda: ctx.sleep(100),
            "callback": lambda: ctx.create_callback("cb"),
            "signal": lambda: ctx.wait_for_signal("go"),
            "at most once": lambda: ctx.step("step", step, semantics="at_most_once"),
        }
        try:
            await asked[kind]()
        except Cancelled:
            await ctx.wait_for_signal("go", timeout=5)
            raise

    world = World()
    async with world.node(app_of(handler, slow=slow)) as node:
        await node.start()
        await node.deliveries.signal("s", "go", None, "1")
        await settle()
        node.line.hold_on("append")
        cancelling = asyncio.ensure_future(cancel(world, node))
        await node.line.until_held()
        going.set()
        for _ in range(20):
            await asyncio.sleep(0)
        node.line.thaw()
        await cancelling
        assert SessionCancelled("enough") == await until_end(world, node, 10)
    taken = f"VALUE_RECORDED {'go#2' if kind == 'signal' else 'go'}"
    assert ["CANCEL_REQUESTED", taken, "AGENT_BACKGROUND_TASK_CANCELLED"] == (await world.story())[-3:]
    assert ([], []) == (ran, world.notifications.approvals)


@pytest.mark.parametrize("retry", [None, RetryPolicy(max_attempts=5)])
@pytest.mark.parametrize("first", ["stop", "timeout"])
async def test_a_step_that_winds_up_slowly_hides_no_stop_behind_its_timeout(
    first: str, retry: RetryPolicy | None
) -> None:
    """Its time runs out while it winds up after the stop, or the other way round: the handler hears of the stop."""
    heard, world = list[str](), World()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            with suppress(asyncio.CancelledError):
                await world.clock.sleep(5)

    async def handler(ctx: SessionContext) -> None:
        try:
            await ctx.step("slow", slow, timeout=10, retry=retry)
        except Cancelled:
            heard.append("stop")
        except OperationTimedOut:
            heard.append("timeout")

    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await world.pass_time(8 if first == "stop" else 11)
        await cancel(world, node)
        assert SessionCancelled("enough") == await until_end(world, node, 10)
    assert ["stop"] == heard


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_an_undo_step_that_raises_what_a_stop_raises_has_failed_like_any_other(how: str) -> None:
    """It is tried again, the others run after it, and the session ends."""
    diary, tries = Diary(), list[int]()

    async def bad() -> None:
        tries.append(1)
        raise Cancelled("of its own accord")

    async def handler(ctx: SessionContext) -> None:
        ctx.on_failure("first", diary.note, "first")
        ctx.on_failure("bad", bad)
        ctx.on_failure("last", diary.note, "last")
        if how == "is cancelled":
            await ctx.wait_for_signal("go")
        raise RuntimeError("no")

    world = World()
    world.jitter = 0.01
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        if how == "is cancelled":
            await cancel(world, node)
        end = await until_end(world, node, 30)
    assert (SessionFailed if how == "fails" else SessionCancelled) is type(end)
    assert ["last", "first"] == diary.entries
    assert 5 == len(tries)


@pytest.mark.parametrize(
    ("limit", "code"),
    [("timeout", "SESSION_TIMED_OUT"), ("budget", "BUDGET_EXCEEDED")],
    ids=["time limit", "wall time"],
)
async def test_the_time_limit_of_a_session_ends_it_though_no_code_matches_it(limit: str, code: str) -> None:
    """On time, and without its clean-up: what cannot go on must not be open for ever."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.wait_for_signal("go", timeout=50_000)

    async def changed(ctx: SessionContext) -> None:
        await ctx.sleep(3)

    world = World()
    async with world.node(limited(handler, limit)) as node:
        await node.start()
        await settle()
        node.crash()
    async with world.node(limited(changed, limit), "node-2") as node:
        await node.claim(dead_owner="node-1")
        assert "NON_DETERMINISM" in await world.blocked()
        await pass_seconds(world, node, 99)
        assert not (await world.state()).has_ended
        await pass_seconds(world, node, 1)
        end = await world.end()
    assert isinstance(end, SessionFailed)
    assert code == end.error.code


@pytest.mark.parametrize("limit", ["timeout", "budget"])
async def test_the_time_limit_of_a_session_ends_it_though_its_type_is_gone(limit: str) -> None:
    """That is found at each try before its alarm can ring."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.wait_for_signal("go", timeout=50_000)

    world = World()
    async with world.node(limited(handler, limit)) as node:
        await node.start()
        await settle()
        node.crash()
    async with world.node(Orchestrator(), "node-2") as node:
        await node.claim(dead_owner="node-1")
        assert "UNKNOWN_SESSION_TYPE" in await world.blocked()
        await pass_seconds(world, node, 100)
        assert isinstance(await world.end(), SessionFailed)


def limited(handler: Handler, limit: str = "timeout") -> Orchestrator:
    """Return an application whose sessions may live a hundred seconds, by that limit."""
    app = Orchestrator()
    if limit == "timeout":
        app.session("main", timeout=100)(handler)
    else:
        app.session("main", budget=Budget(wall_time=100))(handler)
    return app
