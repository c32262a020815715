"""A node at its limits: more sessions than places, no memory, a full mailbox; nothing is lost, and it catches up."""

import asyncio

from engine_world import Gate, World, app_of

from actors import settle
from actors.context import MAILBOX_MAX
from orchestrator import SessionContext
from orchestrator.session.events import SessionCompleted
from orchestrator.session.transitions import SessionStatus

BURST = MAILBOX_MAX + 500


async def test_what_comes_while_memory_is_short_is_accepted_and_runs_later() -> None:
    """It is durable and due, and takes none of the memory; those that live here go on."""
    world, gate = World(), Gate()

    async def handler(ctx: SessionContext) -> object:
        return await ctx.step("a", gate.passing)

    async with world.node(app_of(handler)) as node:
        await node.start(session_id="first")
        await gate.reached()
        node.capacity.short_of_memory(True)
        assert (await node.start(session_id="second")).is_new
        assert not await node.claim("second", only_unowned=True)
        left = await world.head("second")
        assert (1, None, left.created_at) == (len(node.system), left.owner, left.wake_at)

        gate.open()
        assert SessionCompleted("passed") == await world.end("first")
        node.capacity.short_of_memory(False)
        assert await node.claim("second", only_unowned=True)
        assert SessionCompleted("passed") == await world.end("second")


async def test_a_signal_for_a_suspended_session_waits_while_memory_is_short() -> None:
    """It is kept, the session is due, and hears of it once there is memory, here or on another node."""
    world, gate = World(), Gate()

    async def handler(ctx: SessionContext) -> object:
        return await ctx.wait_for_signal("go")

    async def busy(ctx: SessionContext) -> object:
        return await ctx.step("a", gate.passing)

    app = app_of(handler)
    app.session("busy")(busy)
    async with world.node(app) as node:
        await node.start(session_id="waits")
        await settle()
        await world.pass_time(world.passivate_after)
        await world.until(lambda: world.standing["waits"].status is SessionStatus.SUSPENDED)
        await node.start(session_id="works", session_type="busy")
        await gate.reached()
        node.capacity.short_of_memory(True)
        await node.deliveries.signal("waits", "go", "now", "1")
        assert 1 == len(node.system)
        node.capacity.short_of_memory(False)
        assert await node.claim("waits", only_unowned=True)
        assert SessionCompleted("now") == await world.end("waits")
        gate.open()


async def test_a_burst_of_signals_fills_a_mailbox_and_loses_none() -> None:
    """Whoever sends waits for room; each signal is journaled once, and taken in the order it was sent in."""
    world = World()

    async def handler(ctx: SessionContext) -> object:
        return [await ctx.wait_for_signal("go") for _ in range(BURST)]

    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        node.line.hold_on("append")
        async with asyncio.TaskGroup() as senders:
            for number in range(BURST):
                senders.create_task(node.deliveries.signal("s", "go", number, f"m-{number}"))
            await node.line.until_held()
            await settle()
            assert 1 == len(await world.recorded()), "the journal stands still, and so does whoever sends"
            node.line.thaw()
        assert SessionCompleted(list(range(BURST))) == await world.end()
    story = await world.story()
    assert BURST == sum(1 for each in story if each.startswith("SIGNAL_RECEIVED"))
    assert [] == world.errors_logged()
