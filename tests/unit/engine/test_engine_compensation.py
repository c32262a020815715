"""What a session that fails or is cancelled undoes, and changed code over what it waits for."""

import asyncio

import pytest
from engine_trials import Plot, pass_seconds, same_end_whatever_happens, told, until_end
from engine_world import Diary, Handler, Node, World, app_of

from actors import settle
from orchestrator import SessionContext
from orchestrator.context import UNDO_RETRY
from orchestrator.session.events import SessionCancelled, SessionFailed


async def cancel(_: World, node: Node) -> None:
    """Ask the session to end, always under the same message id."""
    await node.deliveries.cancel("s", "enough", "cancel-1")


def books(diary: Diary, *, then: str) -> Handler:
    """Return a handler that does three things, each with its undo step, and then `fails`, `waits` or `returns`."""

    async def handler(ctx: SessionContext) -> str:
        for name in ("a", "b", "c"):
            ctx.on_failure(f"undo-{name}", diary.note, f"undone {name}")
            await diary.step(ctx, name)
        if then == "fails":
            raise ValueError("no")
        if then == "waits":
            await ctx.wait_for_signal("go")
        return "done"

    return handler


@pytest.mark.parametrize(("then", "last"), [("fails", "FAILED"), ("waits", "CANCELLED"), ("returns", "COMPLETED")])
async def test_undo_steps_run_in_reverse_order_whatever_happens(then: str, last: str) -> None:
    """Journaled like any step: a crash between two repeats none; a session that completes runs none."""
    diary = Diary()
    plot = told(cancel) if then == "waits" else told()
    story = await same_end_whatever_happens(app_of(books(diary, then=then)), plot)
    undone = [each for each in story if "undo" in each]
    assert ([] if then == "returns" else [f"STEP_COMPLETED undo-{name}" for name in "cba"]) == undone
    assert f"AGENT_BACKGROUND_TASK_{last}" == story[-1]


@pytest.mark.parametrize("then", ["fails", "waits"])
async def test_an_undo_step_that_is_recorded_is_not_run_again(then: str) -> None:
    """Whichever event everybody died after."""
    diary = Diary()
    app = app_of(books(diary, then=then))
    whole = World()
    async with whole.node(app) as node:
        await node.start()
        await settle()
        if then == "waits":
            await cancel(whole, node)
        await until_end(whole, node)
    story = await whole.story()
    for seq in range(story.index("STEP_COMPLETED c") + 1, len(story) + 1):
        world = await whole.as_of(seq)
        diary.entries.clear()
        async with world.node(app, "node-2") as node:
            if then == "waits":
                await cancel(world, node) if seq < len(story) else None
            await node.claim(dead_owner="node-1")
            await until_end(world, node)
        recorded = sum(1 for each in story[:seq] if "undo" in each)
        assert ["undone c", "undone b", "undone a"][recorded:] == diary.entries, story[:seq]


async def test_an_undo_step_that_fails_for_good_leaves_the_others_to_run() -> None:
    """It is tried as often as undo steps are, and logged."""
    diary = Diary()
    tries = list[int]()

    async def bad() -> None:
        tries.append(1)
        raise ValueError("cannot be undone")

    async def handler(ctx: SessionContext) -> None:
        ctx.on_failure("first", diary.note, "first")
        ctx.on_failure("bad", bad)
        ctx.on_failure("last", diary.note, "last")
        raise RuntimeError("no")

    world = World()
    world.jitter = 0.01
    end = await world.run(app_of(handler))
    assert isinstance(end, SessionFailed)
    assert "RuntimeError" == end.error.type
    assert ["last", "first"] == diary.entries
    assert UNDO_RETRY.max_attempts == len(tries)
    assert ["bad"] == [line["operation"] for line in world.logged("undo_failed")]


@pytest.mark.parametrize("held", [1, 2])
async def test_a_cancel_that_comes_while_a_session_undoes_its_work_lets_it_finish(held: int) -> None:
    """Each undo step runs once; the session ends as cancelled."""
    diary = Diary()
    going = asyncio.Event()

    async def slow(entry: str) -> None:
        diary.entries.append(entry)
        if len(diary.entries) == held:
            going.set()
            await world.clock.sleep(5)

    async def handler(ctx: SessionContext) -> None:
        ctx.on_failure("a", slow, "a")
        ctx.on_failure("b", slow, "b")
        raise ValueError("no")

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await going.wait()
        await cancel(world, node)
        end = await until_end(world, node, 10)
    assert SessionCancelled("enough") == end
    assert ["b", "a"] == diary.entries
    whole, story = world, await world.story()
    assert held == story.index("CANCEL_REQUESTED")
    for seq in range(1, len(story) + 1):
        earlier = world = await whole.as_of(seq)
        diary.entries[:] = ["x"] * 5
        async with earlier.node(app_of(handler), "node-2") as node:
            await node.claim(dead_owner="node-1")
            last = await until_end(earlier, node, 10)
        assert (seq > held) == (end == last), story[:seq]


async def test_a_cancel_that_is_about_to_strike_as_the_handler_raises_strikes_no_undo_step() -> None:
    """The handler has ended; its undo steps are what it was to do."""
    diary = Diary()
    failing = asyncio.Event()
    runs = list[int]()

    async def handler(ctx: SessionContext) -> None:
        runs.append(1)
        ctx.on_failure("undo", diary.note, "undone")

        async def fails() -> None:
            await failing.wait()
            raise ValueError("no")

        await ctx.gather(ctx.wait_for_signal("go"), fails())

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        node.line.hold_answer("append")
        cancelling = asyncio.ensure_future(cancel(world, node))
        await node.line.until_held()
        node.line.thaw()
        for _ in range(3):
            await asyncio.sleep(0)
        failing.set()
        await cancelling
        assert SessionCancelled("enough") == await until_end(world, node, 5)
    assert ["undone"] == diary.entries
    assert 1 == (await world.story()).count("STEP_COMPLETED undo")
    assert [1] == runs


# --- changed code -------------------------------------------------------------------------------------------------


async def original(ctx: SessionContext) -> str:
    """Wait for time, an answer, a person, a signal."""
    callback = await ctx.create_callback("cb")
    await ctx.sleep(2, name="pause")
    await ctx.request_approval("publish")
    await ctx.wait_for_signal("go", timeout=500)
    await callback.result()
    return "done"


async def renamed(ctx: SessionContext) -> str:
    """Wait under other names."""
    callback = await ctx.create_callback("promise")
    await ctx.sleep(2, name="rest")
    await ctx.request_approval("print")
    await ctx.wait_for_signal("went", timeout=500)
    await callback.result()
    return "done"


async def removed(ctx: SessionContext) -> str:
    """Wait for the last only."""
    await ctx.wait_for_signal("go", timeout=500)
    return "done"


async def added(ctx: SessionContext) -> str:
    """Wait for one thing more, first of all."""
    await ctx.sleep(1, name="more")
    return await original(ctx)


async def reordered(ctx: SessionContext) -> str:
    """Wait for the same in another order."""
    await ctx.sleep(2, name="pause")
    callback = await ctx.create_callback("cb")
    await ctx.request_approval("publish")
    await ctx.wait_for_signal("go", timeout=500)
    await callback.result()
    return "done"


async def of_another_kind(ctx: SessionContext) -> str:
    """Wait for something else under the same name."""
    await ctx.sleep(2, name="cb")
    return "done"


@pytest.mark.parametrize("changed", [renamed, removed, added, reordered, of_another_kind])
@pytest.mark.parametrize("waits_for", ["pause", "publish", "go"])
async def test_code_that_waits_for_something_else_is_blocked_and_goes_on_when_it_is_back(
    changed: Handler, waits_for: str
) -> None:
    """Nothing is lost: what comes for it meanwhile is kept, and its timers fire late rather than never."""
    world = World()
    async with world.node(app_of(original)) as node:
        await node.start()
        await settle()
        if waits_for != "pause":
            await pass_seconds(world, node, 3)
        if waits_for == "go":
            await node.deliveries.approve("s", "publish", True, "ann", None)
        await settle()
        node.crash()
    before = await world.story()
    assert waits_for == before[-1].split()[1]
    async with world.node(app_of(changed), "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        assert "NON_DETERMINISM" in await world.blocked()
        await node.deliveries.signal("s", "go", None, "1")
        await settle()
        assert "NON_DETERMINISM" in await world.blocked()
    async with world.node(app_of(original), "node-3") as node:
        assert await node.claim(only_unowned=True)
        await pass_seconds(world, node, 3)
        await node.deliveries.approve("s", "publish", True, "ann", None)
        await settle()
        await node.deliveries.cancel("s", "enough", "c")
        assert SessionCancelled("enough") == await until_end(world, node, 5)
    story = await world.story()
    assert before == story[: len(before)]
    assert 1 == story.count("TIMER_FIRED pause")
    assert 1 == story.count("VALUE_RECORDED go")


async def test_two_operations_of_one_name_in_two_branches_keep_their_numbers_whatever_happens() -> None:
    """The first to ask is the first, on every replay, whichever ends first."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> object:
        async def one(seconds: float, signal: str) -> list[object]:
            await ctx.sleep(seconds)
            first = await diary.step(ctx, "same")
            return [signal, first, await ctx.wait_for_signal(signal)]

        return await asyncio.gather(one(3, "x"), one(1, "y"), one(2, "x"))

    def sends(name: str, number: int) -> Plot:
        async def act(_: World, node: Node) -> None:
            await node.deliveries.signal("s", name, number, str(number))

        return act

    plot = told(sends("x", 1), sends("y", 2), told(), told(), told(), sends("x", 3))
    story = await same_end_whatever_happens(app_of(handler), plot)
    assert ["sleep#2", "sleep#3", "sleep"] == [each.split()[1] for each in story if "FIRED" in each]
