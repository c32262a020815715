"""What a node counts: sessions, operations, agents, takeovers, and what it is told by its rooms."""

import asyncio
from datetime import timedelta

from engine_life import live, until_suspended
from engine_telemetry import Watched
from engine_world import Gate, app_of

from actors import settle
from orchestrator import RetryPolicy, SessionContext, current_invocation
from orchestrator.notifications import NotDelivered
from orchestrator.notifications.memory import MemoryNotifications
from orchestrator.session.values import Json

MAIN = ("session_type", "main")
USAGE: dict[str, Json] = {"input_tokens": 30, "output_tokens": 10, "cost": 0.5}


async def same(value: object) -> object:
    """Return what it got."""
    return value


async def test_sessions_are_counted_by_type_and_by_how_they_ended() -> None:
    """With the time that each took."""
    world = Watched()

    async def handler(ctx: SessionContext, fails: bool) -> None:
        await ctx.sleep(5)
        if fails:
            raise ValueError("no")

    async with world.node(app_of(handler)) as node:
        for session_id, fails in (("a", False), ("b", False), ("c", True)):
            await node.start(fails, session_id=session_id)
        await settle()
        assert {(MAIN, ("state", "RUNNING")): 3} == world.metric("orchestrator.sessions.active")
        await world.play("c")
        for session_id in "abc":
            await world.end(session_id)
    completed, failed = (MAIN, ("status", "COMPLETED")), (MAIN, ("status", "FAILED"))
    assert {(MAIN,): 3} == world.metric("orchestrator.sessions.started")
    assert {completed: 2, failed: 1} == world.metric("orchestrator.sessions.ended")
    assert {completed: 2, failed: 1} == world.metric("orchestrator.sessions.duration")
    assert 15 == round(world.total("orchestrator.sessions.duration"))
    assert {} == world.metric("orchestrator.sessions.active")


async def test_operations_and_agents_are_measured_and_what_agents_report_is_summed() -> None:
    """Each attempt at an agent run by itself; a retry is counted when it is ordered."""
    gate, world = Gate(), Watched()

    async def agent(_: object) -> Json:
        if current_invocation().attempt == 1:
            raise ValueError("once more")
        await gate.passing()
        return {"usage": USAGE}

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("work", same, 1)
        await ctx.invoke_agent("agent", "go", retry=RetryPolicy(initial_delay=timedelta(seconds=2)))

    async with world.node(app_of(handler, agent=agent)) as node:
        await node.start()
        await settle()
        await world.pass_time(2)
        await gate.reached()
        await world.pass_time(4)
        gate.open()
        await world.end()
    assert {(("kind", "agent"),): 1} == world.metric("orchestrator.operations.retries")
    assert {
        (("kind", "agent"), ("outcome", "completed")): 1,
        (("kind", "step"), ("outcome", "completed")): 1,
    } == world.metric("orchestrator.operation.duration")
    assert {
        (("agent", "agent"), ("outcome", "failed")): 1,
        (("agent", "agent"), ("outcome", "completed")): 1,
    } == world.metric("orchestrator.agent.duration")
    assert 4 <= world.total("orchestrator.agent.duration") <= 6
    of_agent = ("gen_ai.agent.name", "agent")
    assert {(of_agent, ("gen_ai.token.type", "input")): 1, (of_agent, ("gen_ai.token.type", "output")): 1} == (
        world.metric("gen_ai.client.token.usage")
    )
    assert 40 == world.total("gen_ai.client.token.usage")
    assert {(("agent", "agent"),): 0.5} == world.metric("orchestrator.agent.cost")


async def test_takeovers_and_rests_are_counted_and_so_is_a_takeover_that_came_to_nothing() -> None:
    """The latter is what a crash loop is made of."""
    world = Watched()
    world.passivate_after = 0.5

    async def handler(ctx: SessionContext) -> None:
        await ctx.sleep(3_600)

    app = app_of(handler)
    async with world.node(app) as node, world.node(app, "node-2") as second, world.node(app, "node-3") as third:
        await node.start()
        await settle()
        node.crash()
        assert await second.claim(dead_owner="node-1")
        assert {(): 1} == world.metric("orchestrator.sessions.taken_over")
        assert {} == world.metric("orchestrator.sessions.fruitless_resumes")
        second.crash()
        assert await third.claim(dead_owner="node-2")
        assert {(): 2} == world.metric("orchestrator.sessions.taken_over")
        assert {(): 1} == world.metric("orchestrator.sessions.fruitless_resumes")
        await until_suspended(world, third)
        assert {(): 1} == world.metric("orchestrator.sessions.passivated")


async def test_an_append_that_another_epoch_was_faster_with_is_a_conflict() -> None:
    """A node that stood still and does not know it."""
    world, gate = Watched(), Gate()

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("work", gate.passing)

    app = app_of(handler)
    async with world.node(app) as zombie, world.node(app, "node-2") as successor:
        await zombie.start()
        await gate.reached()
        assert await successor.claim(dead_owner="node-1")
        gate.open()
        await live(world, successor, dead=("node-1",))
        await settle()
    assert {(): 1} == world.metric("orchestrator.journal.conflicts")


async def test_the_oldest_notice_that_nobody_took_has_an_age() -> None:
    """Until it is taken."""
    world = Watched()
    world.notifications = MemoryNotifications(channels_of_end=("bus",))
    world.notifications.faults["bus"] = NotDelivered("OUT_OF_ORDER")

    async def handler(_: SessionContext) -> None:
        return None

    async with world.node(app_of(handler)) as node:
        await node.start()
        await world.end()
        await settle()
        await world.pass_time(20)
        assert 20 == round(world.metric("orchestrator.outbox.age")[()])
        del world.notifications.faults["bus"]
        assert await node.claim(only_unowned=True)
        await settle()
        assert {(): 0.0} == world.metric("orchestrator.outbox.age")


async def test_many_at_once_leave_nothing_behind() -> None:
    """What was noted of a session goes when it leaves: a node runs for months."""
    world = Watched()

    async def handler(ctx: SessionContext) -> None:
        await asyncio.gather(*(ctx.step(f"s{n}", same, n) for n in range(3)))
        await ctx.sleep(1)

    async with world.node(app_of(handler)) as node:
        for number in range(20):
            await node.start(session_id=f"s{number}")
        await world.play("s19")
        for number in range(20):
            await world.end(f"s{number}")
    assert world.held_of_sessions() == 0
