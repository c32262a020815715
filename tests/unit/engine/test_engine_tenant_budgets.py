"""What a tenant may spend in a month: counted once whatever dies, over all its sessions and nodes."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from engine_life import crash_at_every_call, live
from engine_world import NOON, Gate, Node, World, failed

from actors import settle
from orchestrator import Budget, Orchestrator, SessionCancelled, SessionContext, current_invocation
from orchestrator.session.events import SessionCancelled as Cancelled
from orchestrator.session.events import SessionCompleted, SessionFailed
from orchestrator.session.values import Json
from orchestrator.usage import NO_CAPS, Caps, Total
from orchestrator.usage.memory import MemoryUsage

USAGE: dict[str, Json] = {"input_tokens": 30, "output_tokens": 10, "cost": 0.5}
ONE_CALL = Total(input_tokens=30, output_tokens=10, tokens=40, cost_micros=500_000, agent_calls=1)
MONTH = "2026-01"


async def research(_: object) -> Json:
    """Say what it used."""
    return {"usage": USAGE}


async def twice(ctx: SessionContext) -> str:
    """Call the agent two times."""
    for _ in range(2):
        await ctx.invoke_agent("researcher", "tea")
    return "done"


def app_with(handler: object = twice, agent: object = research, budget: Budget | None = None) -> Orchestrator:
    """Return an application with one session type and one agent."""
    app = Orchestrator()
    app.session("main", budget=budget)(handler)  # type: ignore[type-var]
    app.agent("researcher")(agent)
    return app


def exceeded(used: str, limit: str, unit: str) -> SessionFailed:
    """Return the end of a session whose tenant has spent what it may."""
    text = f"the tenant's budget is spent: {used} of {limit} {unit}"
    return failed("TenantBudgetExceeded", "TENANT_BUDGET_EXCEEDED", text)


async def capped(caps: Caps) -> World:
    """Return a world whose tenant may spend so much."""
    world = World()
    await world.usage.set_caps("default", caps, at=NOON)
    return world


async def test_what_a_session_spent_is_counted_at_its_end() -> None:
    """Once, for its tenant and the month of its end; one that asked no agent leaves nothing to count."""
    world = World()
    async with world.node(app_with()) as node:
        await node.start(session_id="a", tenant="acme")
        assert SessionCompleted("done") == await world.end("a")
        await settle()
        assert ONE_CALL + ONE_CALL == await world.usage.month("acme", MONTH)
        assert () == (await world.head("a")).outbox


@pytest.mark.parametrize("caps", [NO_CAPS, Caps(tokens=1_000_000)], ids=["without a cap", "with a cap"])
async def test_wherever_a_node_dies_a_session_is_counted_once(caps: Caps) -> None:
    """Power fails at each call to the table, one after the other: the sums are those of the journal, each time."""

    async def scenario(world: World, node: Node) -> None:
        await world.usage.set_caps("default", caps, at=NOON)
        await node.start()
        await settle()

    async def after(world: World) -> None:
        assert ONE_CALL + ONE_CALL == await world.usage.month("default", MONTH)

    assert await crash_at_every_call(app_with(), scenario, after=after) > 10


async def test_a_frozen_node_that_counts_late_counts_nothing_twice() -> None:
    """Its successor has counted the whole by then."""
    world = await capped(Caps(tokens=1_000_000))
    async with world.node(app_with()) as zombie, world.node(app_with(), "node-2") as successor:
        zombie.line.hold_on("usage_count")
        await zombie.start()
        await zombie.line.until_held()
        await live(world, successor, dead=("node-1",))
        zombie.line.thaw()
        await settle()
        assert ONE_CALL + ONE_CALL == await world.usage.month("default", MONTH)


@pytest.mark.parametrize(
    ("caps", "end"),
    [
        (Caps(agent_calls=3), exceeded("3", "3", "agent calls")),
        (Caps(tokens=100), exceeded("120", "100", "tokens")),
        (Caps(cost=1.25), exceeded("1.5", "1.25", "cost")),
    ],
    ids=["agent calls", "tokens", "cost"],
)
async def test_sessions_of_a_tenant_spend_from_one_budget(caps: Caps, end: SessionFailed) -> None:
    """The second one ends where it is spent; the tenant's next month is another one, and so is another tenant."""
    world = await capped(caps)
    async with world.node(app_with()) as node:
        await node.start(session_id="a")
        assert SessionCompleted("done") == await world.end("a")
        await node.start(session_id="b")
        assert end == await world.end("b")
        await node.start(session_id="c", tenant="other")
        assert SessionCompleted("done") == await world.end("c")
        await world.pass_time((datetime(2026, 2, 1, tzinfo=UTC) - NOON).total_seconds())
        await node.start(session_id="d")
        assert SessionCompleted("done") == await world.end("d")


async def test_the_time_of_agent_runs_is_spent_too() -> None:
    """The time of runs that ended, to the millisecond."""
    gate, world = Gate(), await capped(Caps(agent_seconds=60))

    async def slow(_: object) -> str:
        return await gate.passing()

    async with world.node(app_with(agent=slow)) as node:
        await node.start()
        await gate.reached()
        await world.pass_time(61.5)
        gate.open()
        assert exceeded("61.5", "60", "seconds of agent runs") == await world.end()


async def test_time_in_which_people_were_asked_is_not_spent() -> None:
    """Two are asked, one after the other has not answered yet: what both took counts for nothing, the rest in full."""
    gate, world = Gate(), await capped(Caps(agent_seconds=1_000))

    async def asks_two(_: object) -> Json:
        await gate.passing()
        calls = current_invocation().calls
        assert calls is not None
        answers = await asyncio.gather(calls.ask("pay#1", 1), calls.ask("pay#2", 2))
        return [answer.by for answer in answers]

    async def once(ctx: SessionContext) -> object:
        return await ctx.invoke_agent("researcher", "tea")

    async with world.node(app_with(once, agent=asks_two)) as node:
        await node.start()
        await gate.reached()
        await world.pass_time(7)
        gate.open()
        await settle()
        await world.pass_time(100)
        await node.deliveries.approve("s", "researcher/pay#1", True, "ann", None)
        await world.pass_time(100)
        await node.deliveries.approve("s", "researcher/pay#2", True, "bob", None)
        assert SessionCompleted(["ann", "bob"]) == await world.end()
        state = await world.state()
    assert 7 <= state.spent.agent_seconds < 10


async def test_two_sessions_at_once_pass_a_cap_by_no_more_than_what_is_under_way() -> None:
    """Of calls, not by one: each is counted before it begins, and those that come after the last one do not begin."""
    gate, begun = Gate(), list[int]()
    world = await capped(Caps(agent_calls=3))

    async def agent(_: object) -> Json:
        begun.append(1)
        await gate.passing()
        return {"usage": USAGE}

    async def handler(ctx: SessionContext) -> None:
        await asyncio.gather(*(ctx.invoke_agent("researcher", n, name=f"r{n}") for n in range(4)))

    async with world.node(app_with(handler, agent)) as first, world.node(app_with(handler, agent), "node-2") as second:
        await first.start(session_id="a")
        await second.start(session_id="b")
        ends = [await world.end("a"), await world.end("b")]
    assert [SessionFailed, SessionFailed] == [type(end) for end in ends]
    assert 3 == len(begun)


async def test_of_runs_that_are_ordered_at_once_as_many_begin_as_fit() -> None:
    """Also where all of them begin at once: on the node that takes over from one that died before it had the caps."""
    begun, gate, world = list[int](), Gate(), World()

    class Late(MemoryUsage):
        async def caps(self, tenant: str) -> Caps:
            await gate.passing()
            return await super().caps(tenant)

    async def agent(number: int) -> Json:
        begun.append(number)
        return {"usage": USAGE}

    async def handler(ctx: SessionContext) -> None:
        await asyncio.gather(*(ctx.invoke_agent("researcher", n, name=f"r{n}") for n in range(4)))

    world.usage = Late()
    await world.usage.set_caps("default", Caps(agent_calls=3), at=NOON)
    app = app_with(handler, agent)
    async with world.node(app) as node, world.node(app, "node-2") as successor:
        await node.start()
        await gate.reached()
        await settle()
        node.crash()
        gate.open()
        await live(world, successor, dead=("node-1",))
        assert exceeded("3", "3", "agent calls") == await world.end()
    assert [0, 1, 2] == sorted(begun)


async def test_a_run_that_begins_again_on_another_node_is_taken_once() -> None:
    """A crash between the taking and the run's end: the cap has room for it still."""
    gate, world = Gate(), await capped(Caps(agent_calls=2))

    async def agent(_: object) -> Json:
        await gate.passing()
        return {"usage": USAGE}

    async with world.node(app_with(agent=agent)) as node, world.node(app_with(agent=agent), "node-2") as successor:
        await node.start()
        await gate.reached()
        node.crash()
        gate.open()
        await live(world, successor, dead=("node-1",))
        assert SessionCompleted("done") == await world.end()


async def test_what_was_refused_does_not_fill_the_cap_that_it_met() -> None:
    """However many sessions were turned away: what is granted on top is there for who comes next."""
    world = await capped(Caps(agent_calls=2))
    async with world.node(app_with()) as node:
        for session_id in ("a", "b", "c", "d"):
            await node.start(session_id=session_id)
            await world.end(session_id)
        assert 2 == (await world.usage.month("default", MONTH)).agent_calls
        await world.usage.set_caps("default", Caps(agent_calls=4), at=NOON)
        await world.pass_time(10)
        await node.start(session_id="late")
        assert SessionCompleted("done") == await world.end("late")


async def test_a_run_that_began_before_the_cap_was_set_stays_counted() -> None:
    """It is under way when another one of its session is refused; what it used up is the tenant's all the same."""
    gate, world = Gate(), World()

    async def agent(name: object) -> Json:
        if name == "early":
            await gate.passing()
        return {"usage": USAGE}

    async def handler(ctx: SessionContext) -> None:
        early = ctx.invoke_agent("researcher", "early", name="early")
        await asyncio.gather(early, later(ctx))

    async def later(ctx: SessionContext) -> None:
        await ctx.sleep(10)
        await asyncio.gather(*(ctx.invoke_agent("researcher", n, name=f"late-{n}") for n in range(2)))

    async with world.node(app_with(handler, agent)) as node:
        await node.start()
        await gate.reached()
        await world.usage.set_caps("default", Caps(agent_calls=1), at=NOON)
        await world.pass_time(11)
        assert exceeded("1", "1", "agent calls") == await world.end()
    assert 1 == (await world.usage.month("default", MONTH)).agent_calls


async def test_a_run_that_another_cap_refuses_is_not_counted() -> None:
    """Neither in the session that ends by it, nor what its handler asks for while it cleans up."""
    world = await capped(Caps(tokens=40))

    async def handler(ctx: SessionContext) -> None:
        try:
            await twice(ctx)
        except SessionCancelled:
            await ctx.invoke_agent("researcher", "tidy up")

    async with world.node(app_with(handler)) as node:
        await node.start()
        assert exceeded("40", "40", "tokens") == await world.end()
    assert ONE_CALL == replace(await world.usage.month("default", MONTH), agent_millis=0)


async def test_a_run_that_began_stays_counted_though_its_node_dies_and_it_may_not_begin_again() -> None:
    """Others spent what was left meanwhile."""
    gate, world = Gate(), await capped(Caps(tokens=100))

    async def agent(_: object) -> Json:
        await gate.passing()
        return {"usage": USAGE}

    app = app_with(agent=agent)
    async with world.node(app) as node, world.node(app, "node-2") as successor:
        await node.start()
        await gate.reached()
        node.crash()
        await world.usage.count("default", "other", Total(tokens=120), at=NOON)
        await live(world, successor, dead=("node-1",))
        assert exceeded("120", "100", "tokens") == await world.end()
    assert 1 == (await world.usage.month("default", MONTH)).agent_calls


@pytest.mark.parametrize("caps", [Caps(agent_calls=1), Caps(tokens=40)], ids=["calls", "tokens"])
@pytest.mark.parametrize("how", ["kill", "cancel"])
async def test_a_run_that_people_are_asked_about_is_not_counted_when_nobody_waits_for_them(
    caps: Caps, how: str
) -> None:
    """The session ends by something else than its tenant's cap, and the run never began."""
    world = await capped(caps)
    async with world.node(app_with(budget=Budget(on_reached="ask"))) as node:
        await node.start()
        await settle()
        assert "APPROVAL_REQUESTED @budget" in await world.story()
        await getattr(node.deliveries, how)("s", "too late", None)
        assert Cancelled("too late") == await world.end()
    assert 1 == (await world.usage.month("default", MONTH)).agent_calls


async def test_a_cap_that_is_lifted_lets_new_sessions_spend() -> None:
    """A node hears of it within seconds."""
    world = await capped(Caps(agent_calls=1))
    async with world.node(app_with()) as node:
        await node.start(session_id="a")
        assert exceeded("1", "1", "agent calls") == await world.end("a")
        await world.usage.set_caps("default", NO_CAPS, at=NOON)
        await world.pass_time(3)
        await node.start(session_id="b")
        assert SessionCompleted("done") == await world.end("b")
