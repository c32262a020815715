"""What a session may spend: it ends at its cap, or asks people first, wherever it runs and whatever dies meanwhile."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from engine_world import NOON, Diary, Gate, World, failed

from actors import settle
from orchestrator import AgentFailed, Budget, Orchestrator, Price, RetryPolicy, SessionCancelled, SessionContext
from orchestrator.session.events import SessionCompleted, SessionFailed
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import Json

USAGE: dict[str, Json] = {"input_tokens": 30, "output_tokens": 10}


class Researcher:
    """An agent that counts its calls, and says what each used."""

    def __init__(self, usage: dict[str, Json] | None = None) -> None:
        self.calls = 0
        self.usage = USAGE if usage is None else usage

    async def invoke_async(self, prompt: object, **_: object) -> Json:
        """Answer."""
        self.calls += 1
        return {"answer": self.calls, "usage": self.usage}


def app_with(handler: Any, agent: object, budget: Budget | None, price: Price | None = None) -> Orchestrator:
    """Return an application whose sessions may spend so much."""
    app = Orchestrator()
    app.session("main", budget=budget)(handler)
    app.agent("researcher", price=price)(agent)
    return app


async def for_ever(ctx: SessionContext) -> object:
    """Call the agent again and again."""
    for _ in range(100):
        await ctx.invoke_agent("researcher", "tea")
    return "done"


def exceeded(used: str, limit: str, unit: str) -> SessionFailed:
    """Return the end of a session that has spent its budget."""
    text = f"the session's budget is spent: {used} of {limit} {unit}"
    return failed("BudgetExceeded", "BUDGET_EXCEEDED", text)


@pytest.mark.parametrize(
    ("budget", "calls", "end"),
    [
        (Budget(agent_calls=3), 3, exceeded("3", "3", "agent calls")),
        (Budget(tokens=100), 3, exceeded("120", "100", "tokens")),
        (Budget(cost=0.0005), 3, exceeded("0.00072", "0.0005", "cost")),
        (Budget(tokens=10_000, agent_calls=2), 2, exceeded("2", "2", "agent calls")),
    ],
    ids=["agent calls", "tokens", "cost", "whichever comes first"],
)
async def test_a_loop_of_agent_calls_ends_at_the_cap(budget: Budget, calls: int, end: SessionFailed) -> None:
    """The call that reaches it is the last one: what a cap is passed by is what that call used."""
    agent, world = Researcher(), World()
    assert end == await world.run(app_with(for_ever, agent, budget, Price(input=5, output=9)))
    assert calls == agent.calls


async def test_wall_time_ends_a_session_that_only_waits() -> None:
    """It leaves memory, and is woken for that."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.sleep(timedelta(days=1))

    world = World()
    async with world.node(app_with(handler, Researcher(), Budget(wall_time=timedelta(seconds=90)))) as node:
        await node.start()
        await world.play()
        head = await world.head()
        assert (SessionStatus.SUSPENDED, NOON + timedelta(seconds=90)) == (head.status, head.wake_at)
        assert await node.claim(only_unowned=True)
        end = await world.end()
    assert isinstance(end, SessionFailed)
    assert "BUDGET_EXCEEDED" == end.error.code
    assert "of 90 seconds of wall time" in end.error.message


async def test_a_handler_hears_of_the_stop_and_may_clean_up_but_spend_no_more() -> None:
    """As with any stop; an agent that it calls then fails before it begins."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> object:
        ctx.on_failure("undo", diary.note, "undone")
        try:
            return await for_ever(ctx)
        except SessionCancelled:
            with pytest.raises(AgentFailed, match="budget is spent"):
                await ctx.invoke_agent("researcher", "sum up")
            return await diary.step(ctx, "cleaned")

    agent, world = Researcher(), World()
    assert exceeded("1", "1", "agent calls") == await world.run(app_with(handler, agent, Budget(agent_calls=1)))
    assert (["cleaned", "undone"], 1) == (diary.entries, agent.calls)


async def test_a_retry_is_spending_too() -> None:
    """The attempt that failed is told of; another is not made."""
    attempts = list[int]()

    async def agent(_: object) -> Json:
        attempts.append(1)
        raise ValueError("no")

    async def handler(ctx: SessionContext) -> object:
        return await ctx.invoke_agent("researcher", "tea", retry=RetryPolicy(max_attempts=9))

    world = World()
    assert exceeded("2", "2", "agent calls") == await world.run(app_with(handler, agent, Budget(agent_calls=2)))
    assert 2 == len(attempts)
    assert ["AGENT_STARTED researcher", "AGENT_RETRYING researcher", "AGENT_FAILED researcher", "CANCEL_REQUESTED"] == (
        await world.story()
    )[1:5]


async def test_a_budget_holds_over_all_generations() -> None:
    """Who goes on in a fresh journal takes along what it has spent."""

    async def handler(ctx: SessionContext, generation: int) -> object:
        await ctx.invoke_agent("researcher", "tea")
        ctx.continue_as_new(generation + 1)

    agent, world = Researcher(), World()
    async with world.node(app_with(handler, agent, Budget(tokens=100))) as node:
        await node.start(1)
        await world.until(lambda: "s:g4" in world.standing)
        assert exceeded("120", "100", "tokens") == await world.end("s:g4")
    assert 3 == agent.calls


async def test_a_deployment_changes_the_budget_of_new_sessions_only() -> None:
    """A session keeps the budget that it began with, whichever node goes on with it."""
    gate, agent, world = Gate(), Researcher(), World()

    async def handler(ctx: SessionContext) -> object:
        await ctx.invoke_agent("researcher", "tea")
        await ctx.step("gate", gate.passing)
        return await for_ever(ctx)

    async with world.node(app_with(handler, agent, Budget(agent_calls=2))) as node:
        await node.start()
        await gate.reached()
        node.crash()
    gate.open()
    assert exceeded("2", "2", "agent calls") == await world.resume(app_with(handler, agent, None))


async def test_branches_pass_the_cap_by_what_was_under_way() -> None:
    """All that began before the cap was reached runs to its end, and is counted."""
    gate, world = Gate(), World()

    async def agent(_: object) -> Json:
        await gate.passing()
        return {"usage": USAGE}

    async def handler(ctx: SessionContext) -> object:
        await asyncio.gather(*(ctx.invoke_agent("researcher", n, name=f"r{n}") for n in range(5)))
        return await ctx.invoke_agent("researcher", "more")

    async with world.node(app_with(handler, agent, Budget(tokens=50))) as node:
        await node.start()
        await settle()
        gate.open()
        assert exceeded("200", "50", "tokens") == await world.end()


async def test_an_agents_own_cost_goes_before_its_price() -> None:
    """It knows what it was billed."""
    usage: dict[str, Json] = {"inputTokens": 1_000_000, "outputTokens": 1, "totalTokens": 1_000_001, "cost": 0.25}

    async def handler(ctx: SessionContext) -> None:
        await ctx.invoke_agent("researcher", "tea")

    world = World()
    price = Price(input=3, output=15)
    assert SessionCompleted(None) == await world.run(app_with(handler, Researcher(usage), None, price))
    counted = {"input_tokens": 1_000_000, "output_tokens": 1, "total_tokens": 1_000_001, "cost": 0.25}
    assert counted == (await world.state()).usage
