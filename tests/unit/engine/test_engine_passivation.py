"""A session that only waits leaves memory, and is back in any node for what it waits for: nothing is lost between."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest
from engine_life import crash_at_every_call, live, look_after, until_suspended
from engine_world import Gate, Handler, Node, World, app_of

from actors import settle
from orchestrator import OperationTimedOut, SessionContext
from orchestrator.session.events import SessionCancelled, SessionCompleted, SignalReceived
from orchestrator.session.transitions import SessionStatus


def resting_world(seconds: float = 0.5) -> World:
    """Return a world whose sessions leave memory after so many seconds."""
    world = World()
    world.passivate_after = seconds
    return world


async def asleep(ctx: SessionContext) -> str:
    """Wait for time."""
    await ctx.sleep(3600)
    return "awake"


async def for_signal(ctx: SessionContext) -> object:
    """Wait for a signal."""
    return await ctx.wait_for_signal("nudge")


async def for_answer(ctx: SessionContext) -> object:
    """Wait for a callback."""
    callback = await ctx.create_callback("cb")
    return await callback.result()


async def for_approval(ctx: SessionContext) -> object:
    """Wait for a person."""
    return (await ctx.request_approval("ok", "this")).by


async def for_child(ctx: SessionContext) -> object:
    """Wait for a child, which waits for a signal."""
    return await ctx.run_session("child")


async def for_any(ctx: SessionContext) -> object:
    """Wait for a signal for an hour, in a branch beside a sleep."""
    first = asyncio.create_task(ctx.wait_for_signal("nudge", timeout=timedelta(hours=1)))
    return await ctx.gather(first, ctx.sleep(10))


WAITING: list[Handler] = [asleep, for_signal, for_answer, for_approval, for_child, for_any]


@pytest.mark.parametrize("handler", WAITING)
async def test_a_session_that_waits_costs_nothing(handler: Handler) -> None:
    """No actor, no task and no object of it is left; HEAD says SUSPENDED, and no owner."""
    world = resting_world()
    app = app_of(handler)
    app.session("child")(for_signal)
    before = held_of_sessions()
    async with world.node(app) as node:
        tasks = len(asyncio.all_tasks())
        await node.start()
        await settle()
        assert 0 < len(node.system)
        await until_suspended(world, node)
        await settle()
        head = await world.head()
        assert (SessionStatus.SUSPENDED, None) == (head.status, head.owner)
        assert (0, tasks) == (len(node.system), len(asyncio.all_tasks()))
        assert held_of_sessions() <= before


def held_of_sessions() -> set[int]:
    """Return the ids of all objects in memory that belong to one session."""
    gc.collect()
    held = {"SessionActor", "HandlerRun", "Driver", "Turnstile", "SessionState"}
    return {id(each) for each in gc.get_objects() if type(each).__name__ in held}


@pytest.mark.parametrize("delivery", ["signal", "cancel", "answer", "approve", "time"])
async def test_it_is_woken_in_any_node(delivery: str) -> None:
    """By a message, an answer, a person or time; on a node that never held it."""
    handler: Handler = {"answer": for_answer, "approve": for_approval, "time": asleep}.get(delivery, for_signal)
    tokens = list[str]()
    world = resting_world()

    async def kept(ctx: SessionContext) -> object:
        callback = await ctx.create_callback("cb")
        tokens.append(callback.token)
        return await callback.result()

    app = app_of(kept if delivery == "answer" else handler)
    async with world.node(app) as node:
        await node.start()
        await until_suspended(world, node)
    async with world.node(app, "node-2") as other:
        end: object = SessionCompleted("hello")
        match delivery:
            case "signal":
                await other.deliveries.signal("s", "nudge", "hello", None)
            case "cancel":
                await other.deliveries.cancel("s", "enough", None)
                end = SessionCancelled("enough")
            case "answer":
                operation = (await world.state()).operations["cb"]
                assert operation.order is not None
                callback_id = getattr(operation.order, "callback_id", "")
                await other.deliveries.callback(callback_id, tokens[0], "SUCCESS", "hello", None)
            case "approve":
                await other.deliveries.approve("s", "ok", True, "hello", None)
            case _:
                await look_after(world, other)
                assert 0 == len(other.system), "it is not due yet"
                world.clock.advance(3600)
                await look_after(world, other)
                end = SessionCompleted("awake")
        await settle()
        assert end == await world.end()


async def test_a_child_that_ends_on_another_node_wakes_its_parent() -> None:
    """Parent and child are suspended; the one that ends is claimed there, and so is who waits for it."""
    world = resting_world()
    app = app_of(for_child)
    app.session("child")(for_signal)
    async with world.node(app) as node:
        await node.start()
        await until_suspended(world, node)
    child_id = (await world.state()).operations["child"].order.child_id  # type: ignore[union-attr]
    async with world.node(app, "node-2") as other:
        await other.deliveries.signal(child_id, "nudge", "from the child", None)
        await settle()
        assert SessionCompleted("from the child") == await world.end()
    assert 1 == sum("CHILD_COMPLETED" in line for line in await world.story())


# --- what keeps it ---------------------------------------------------------------------------------------------------


async def stays(world: World, handler: Handler, *, agent: object = None) -> bool:
    """Return whether the session is still in memory after a long rest."""
    async with world.node(app_of(handler, agent=agent or for_signal)) as node:
        await node.start()
        for _ in range(10):
            await world.pass_time(1)
        return len(node.system) == 1


async def test_a_session_at_work_stays_in_memory() -> None:
    """A step and an agent are work, beside whatever else waits; a sync step is too."""
    gate = Gate()

    async def agent(prompt: object) -> str:
        return await gate.passing()

    async def with_step(ctx: SessionContext) -> object:
        return await ctx.gather(ctx.sleep(3600), ctx.step("a", gate.passing))

    async def with_agent(ctx: SessionContext) -> object:
        return await ctx.gather(ctx.sleep(3600), ctx.invoke_agent("agent", 1))

    assert await stays(resting_world(), with_step)
    assert await stays(resting_world(), with_agent, agent=agent)


async def test_a_handler_with_a_timer_or_open_work_of_its_own_stays_in_memory() -> None:
    """What asyncio would cut off by leaving: its timers, a thread, a future that somebody outside sets."""
    world = resting_world()

    async def with_sleep(ctx: SessionContext) -> object:
        await ctx.gather(ctx.sleep(3600), asyncio.sleep(1000))
        return None

    async def with_timeout(ctx: SessionContext) -> object:
        async with asyncio.timeout(1000):
            await ctx.sleep(3600)
        return None

    async def with_wait_for(ctx: SessionContext) -> object:
        return await asyncio.wait_for(ctx.sleep(3600), 1000)

    async def with_wait(ctx: SessionContext) -> object:
        task = asyncio.create_task(ctx.sleep(3600))
        return len(await asyncio.wait({task}, timeout=1000))

    async def with_future(ctx: SessionContext) -> object:
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return await ctx.gather(ctx.sleep(3600), opened)

    async def with_gathered_future(ctx: SessionContext) -> object:
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return await asyncio.gather(ctx.sleep(3600), opened)

    async def with_waited_future(ctx: SessionContext) -> object:
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return len(await asyncio.wait({asyncio.create_task(ctx.sleep(3600)), opened}))

    async def with_retry(ctx: SessionContext) -> object:
        return await ctx.gather(ctx.sleep(3600), world.clock.sleep(1000))

    handlers = [with_sleep, with_timeout, with_wait_for, with_wait, with_future, with_gathered_future]
    handlers += [with_waited_future, with_retry]
    kept = [handler.__name__ for handler in handlers if await stays(world_of(world), handler)]
    assert [handler.__name__ for handler in handlers] == kept


def world_of(world: World) -> World:
    """Return a fresh world that rests like that one."""
    return resting_world(world.passivate_after)


async def test_a_handler_that_joins_a_task_of_somebody_else_stays_in_memory() -> None:
    """A task that the handler did not start goes on without it, and would be awaited for nothing."""
    gate = Gate()
    shared = asyncio.create_task(gate.passing())

    async def handler(ctx: SessionContext) -> object:
        return await ctx.gather(ctx.sleep(3600), joined())

    async def joined() -> str:
        return await shared

    assert await stays(resting_world(), handler)
    shared.cancel()


# --- nothing is lost -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["request", "answer"])
async def test_a_message_that_comes_while_head_is_being_released_is_not_lost(stage: str) -> None:
    """It came before the write, which is refused; or after it, and wakes the session anew (rules 5 and 6)."""
    world = resting_world()
    app = app_of(for_signal)
    async with world.node(app) as node, world.node(app, "node-2") as other:
        await node.start()
        await settle()
        if stage == "request":
            node.line.hold_on("release")
        else:
            node.line.hold_answer("release")
        world.clock.advance(0.5)
        await settle()
        world.clock.advance(0.5)
        await node.line.until_held()
        sender = asyncio.create_task(other.deliveries.signal("s", "nudge", "hello", None))
        here = asyncio.create_task(node.deliveries.signal("s", "nudge", "hello too", None))
        await settle()
        node.line.thaw()
        await asyncio.gather(sender, here)
        await live(world, node)
        await look_after(world, other)
        end = await world.end()
    woken = ["SESSION_RESUMED"] if stage == "answer" else []
    received = ["SIGNAL_RECEIVED", "SIGNAL_RECEIVED", "VALUE_RECORDED nudge"]
    assert [*woken, *received] == (await world.story())[1:-1]
    signals = [recorded.event for recorded in await world.recorded() if isinstance(recorded.event, SignalReceived)]
    assert {"hello", "hello too"} == {signal.data for signal in signals}
    assert SessionCompleted(signals[0].data) == end


async def test_what_the_handler_asks_just_before_its_session_leaves_is_not_lost() -> None:
    """It asks in the moment in which its actor looks whether it may leave: its wait has a time limit all the same."""
    world = resting_world()

    async def handler(ctx: SessionContext) -> object:
        own: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Rings in the same moment as the alarm by which the actor looks, and behind it.
        world.clock.call_later(1.0, lambda: own.set_result(None))
        await ctx.step("a", none)
        await own
        try:
            return await ctx.wait_for_signal("nudge", timeout=5)
        except OperationTimedOut:
            return "late"

    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await world.pass_time(0.5)
        await world.pass_time(0.5)
        await live(world, node, step=0.5)
        assert SessionCompleted("late") == await world.end()


async def none() -> None:
    """Be a step."""


async def test_a_waiting_session_survives_a_death_at_every_call() -> None:
    """Suspended, woken by a signal, a cancel or time: on whichever call its node dies, the story ends alike."""

    async def handler(ctx: SessionContext) -> object:
        first = await ctx.wait_for_signal("nudge")
        await ctx.sleep(2)
        callback = await ctx.create_callback("cb", timeout=timedelta(seconds=3))
        try:
            return [first, await callback.result()]
        except OperationTimedOut:
            return [first, "nobody"]

    async def scenario(world: World, node: Node) -> None:
        await node.start()
        for _ in range(3):
            await world.pass_time(0.5)
        await node.deliveries.signal("s", "nudge", "hello", "m-1")
        await look_after(world, node)
        for _ in range(30):
            await world.pass_time(0.5)
            await look_after(world, node)

    async def after(world: World) -> None:
        assert SessionCompleted(["hello", "nobody"]) == (await world.recorded())[-1].event
        assert 1 == sum("SIGNAL_RECEIVED" in line for line in await world.story())

    assert 30 < await crash_at_every_call(app_of(handler), scenario, after=after, passivate_after=0.5)


async def test_many_rounds_of_leaving_and_coming_back_leave_nothing_behind() -> None:
    """Each costs one SESSION_RESUMED in the journal: no takeover is counted, no task stays, no inbox item."""
    world = resting_world(0.1)
    rounds = 60

    async def handler(ctx: SessionContext) -> object:
        return [await ctx.wait_for_signal("nudge") for _ in range(rounds)]

    async with world.node(app_of(handler)) as node, world.node(app_of(handler), "node-2") as other:
        tasks = len(asyncio.all_tasks())
        await node.start()
        for number in range(rounds):
            await settle()
            for _ in range(3):
                await world.pass_time(0.1)
            assert (0, 0, tasks) == (len(node.system), len(other.system), len(asyncio.all_tasks())), number
            await (other if number % 2 else node).deliveries.signal("s", "nudge", number, None)
        assert SessionCompleted(list(range(rounds))) == await world.end()
        head = await world.head()
        assert (0, rounds + 1) == (head.takeovers, head.epoch)
        assert () == await world.inbox.read("s")
        assert [] == world.errors_logged()
    assert 1 + 3 * rounds + 1 == len(await world.recorded())


async def test_a_resting_session_does_not_ring_for_ever_once_it_has_left() -> None:
    """Its alarm is put off with it."""
    world = resting_world()
    async with world.node(app_of(for_signal)) as node:
        await node.start()
        await until_suspended(world, node)
        written = world.standing["s"]
        await world.pass_time(3600)
        assert written == world.standing["s"]


# --- busy ------------------------------------------------------------------------------------------------------------


async def test_a_node_is_busy_while_code_runs_and_not_while_it_waits() -> None:
    """HEALTHY_BUSY follows steps and agents (in whatever branch), and nothing that waits for others."""
    gates = [Gate() for _ in range(3)]
    world = World()

    async def agent(prompt: object) -> str:
        return await gates[1].passing()

    async def handler(ctx: SessionContext) -> object:
        async def branch() -> None:
            await ctx.step("a", gates[0].passing)
            await ctx.sleep(10)
            await ctx.invoke_agent("agent", 1)
            await ctx.sleep(10)
            await ctx.step("b", gates[2].passing)
            await ctx.wait_for_signal("nudge")

        return len(await ctx.gather(ctx.sleep(3600), branch()))

    seen = list[tuple[str, bool]]()
    async with world.node(app_of(handler, agent=agent)) as node:

        async def look(what: str) -> None:
            await settle()
            seen.append((what, node.system.busy.is_busy))

        await node.start()
        await look("step")
        gates[0].open()
        await look("sleep")
        await world.pass_time(10)
        await look("agent")
        gates[1].open()
        await look("sleep")
        await world.pass_time(10)
        await look("step")
        gates[2].open()
        await look("signal")
        await node.deliveries.signal("s", "nudge", None, None)
        await world.pass_time(3600)
        await world.end()
        await look("end")
    assert [
        ("step", True),
        ("sleep", False),
        ("agent", True),
        ("sleep", False),
        ("step", True),
        ("signal", False),
        ("end", False),
    ] == seen


Work = Callable[[SessionContext], Coroutine[Any, Any, object]]


@pytest.mark.parametrize("handler", WAITING)
async def test_a_node_whose_sessions_only_wait_is_not_busy(handler: Handler) -> None:
    """Nor after a takeover."""
    app = app_of(handler)
    app.session("child")(for_signal)
    world = World()
    async with world.node(app) as node:
        await node.start()
        await settle()
        assert not node.system.busy.is_busy
        node.crash()
    async with world.node(app, "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        assert not node.system.busy.is_busy


async def test_an_outcome_on_its_way_to_the_handler_keeps_its_session_in_memory() -> None:
    """It was written down late, and the handler has not had its turn yet: nothing would ever wake the session again."""
    world = resting_world(30)

    async def nap(ctx: SessionContext) -> str:
        await ctx.sleep(10)
        return "awake"

    async with world.node(app_of(nap)) as node:
        await node.start()
        await settle()
        node.line.hold_on("append")
        await world.pass_time(10)
        await node.line.until_held()
        await world.pass_time(40)
        node.line.thaw()
        assert SessionCompleted(result="awake") == await world.end()
