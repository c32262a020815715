"""Nodes that drain, and full ones: what they run to its end, hand over, or leave to others."""

import asyncio

import pytest
from engine_world import NOON, Gate, Node, World, app_of, gated_app

from actors import settle
from orchestrator import SessionContext
from orchestrator.session.events import SessionCompleted
from orchestrator.session.transitions import SessionStatus


async def drained(world: World, node: Node, *, seconds: float = 10) -> None:
    """Drain the node with so much time, and let that pass."""
    async with asyncio.TaskGroup() as group:
        draining = group.create_task(node.system.drain(seconds))
        for _ in range(40):
            await settle()
            if not draining.done():
                # In small steps: several graces follow upon each other, and each must be seen to end.
                world.clock.advance(1)


async def test_a_handler_that_never_returns_is_handed_over_by_a_drain() -> None:
    """HEAD: nobody's, due now, running; the next node goes on where this one was."""
    app, gate = gated_app()
    world = World()
    async with world.node(app) as node:
        await node.start()
        await gate.reached()
        await drained(world, node)
        head = await world.head()
    assert (None, SessionStatus.RUNNING, 1) == (head.owner, head.status, head.last_seq)
    assert head.wake_at is not None
    assert head.wake_at <= world.clock.now()
    assert 1 == len(world.logged("session_handed_over"))
    gate.open()
    assert SessionCompleted(result="passed") == await world.resume(app, dead_owner=None)
    assert 0 == (await world.head()).takeovers, "a drain is no crash"


async def test_a_handler_that_swallows_its_cancellation_is_handed_over_by_a_drain() -> None:
    """It is waited for as long as the grace says, then left behind; what it does later reaches nobody."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> str:
        while not gate_is_open.is_set():
            try:
                await gate.passing()
            except asyncio.CancelledError:
                await asyncio.shield(still_here.wait())
        return "stubborn"

    gate_is_open, still_here = asyncio.Event(), asyncio.Event()
    app, world = app_of(handler), World()
    async with world.node(app) as node:
        await node.start()
        await gate.reached()
        await drained(world, node)
        gate_is_open.set()
        still_here.set()
        await settle()
    head = await world.head()
    assert (None, SessionStatus.RUNNING) == (head.owner, head.status)
    assert ["AGENT_INVOCATION_STARTED"] == await world.story()
    assert SessionCompleted(result="stubborn") == await world.resume(app, dead_owner=None)


async def test_a_drain_lets_short_work_finish() -> None:
    """What ends in time is not handed over."""
    app, gate = gated_app()
    world = World()
    async with world.node(app) as node, asyncio.TaskGroup() as group:
        await node.start()
        await gate.reached()
        draining = group.create_task(node.system.drain(10))
        await settle()
        gate.open()
        assert SessionCompleted(result="passed") == await world.end()
        assert ("s",) == (await draining).finished
    assert [] == world.logged("session_handed_over")


async def test_a_start_on_a_draining_node_is_accepted_and_left_to_another() -> None:
    """Durable, unowned, due now (I3)."""
    app, gate = gated_app()
    gate.open()
    world = World()
    async with world.node(app) as node:
        node.router.is_draining = True
        assert (await node.start()).is_new
        assert 0 == len(node.system)
    head = await world.head()
    assert (None, SessionStatus.RUNNING, NOON) == (head.owner, head.status, head.wake_at)
    assert SessionCompleted(result="passed") == await world.resume(app, dead_owner=None)


async def test_a_start_that_meets_a_drain_half_way_is_accepted_and_left_to_another() -> None:
    """The system refuses the actor after HEAD was written: HEAD is given up again, not left to a node that stops."""
    app, gate = gated_app()
    gate.open()
    world = World()
    async with world.node(app) as node:
        await node.system.drain(0)
        assert (await node.start()).is_new
    head = await world.head()
    assert (None, SessionStatus.RUNNING, NOON) == (head.owner, head.status, head.wake_at)
    assert SessionCompleted(result="passed") == await world.resume(app, dead_owner=None)


@pytest.mark.parametrize("meanwhile", ["a message comes in", "another node takes it"])
async def test_a_start_that_meets_a_drain_is_accepted_whatever_happens_to_its_head(meanwhile: str) -> None:
    """The sender is answered that it is accepted; HEAD is given up unless somebody else has it by then."""
    app, gate = gated_app()
    gate.open()
    world = World()
    async with world.node(app) as node, world.node(app, "node-2") as other:
        node.line.hold_answer("create")
        starting = asyncio.ensure_future(node.start())
        await node.line.until_held()
        await node.system.drain(0)
        if meanwhile == "a message comes in":
            await other.deliveries.signal("s", "go", 1, "1")
        else:
            assert await other.claim(dead_owner="node-1")
        node.line.thaw()
        assert (await starting).is_new
        await other.claim(only_unowned=True)
        assert SessionCompleted(result="passed") == await world.end()


async def test_an_end_that_is_claimed_by_a_node_that_drains_stays_an_end() -> None:
    """Whoever asks meanwhile is told how it ended, and what is still to be told of it is left to another node."""

    async def handler(ctx: SessionContext) -> None:
        ctx.continue_as_new(None)

    app, world = app_of(handler), World()
    async with world.node(app) as node:
        node.line.cut_before("settle_outbox")
        await node.start()
        await settle()
    async with world.node(app, "node-2") as node:
        await node.system.drain(0)
        assert await node.claim()
    head = await world.head()
    assert (None, SessionStatus.CONTINUED, NOON, ("next",)) == (head.owner, head.status, head.wake_at, head.outbox)


async def test_a_start_on_a_full_node_is_accepted_and_left_to_another() -> None:
    """A node takes no more actors than it may."""
    app, gate = gated_app()
    world = World()
    async with world.node(app, sessions_max=1) as node:
        await node.start(session_id="one")
        await node.start(session_id="two")
        assert 1 == len(node.system)
        assert ("node-1", None) == ((await world.head("one")).owner, (await world.head("two")).owner)
        gate.open()
