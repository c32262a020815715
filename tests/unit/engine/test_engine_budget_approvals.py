"""A session at its cap asks people whether it may go on: nothing begins meanwhile, and what they say is done."""

import asyncio

import pytest
from engine_trials import Plot, same_end_whatever_happens, told
from engine_world import NOON, Diary, Gate, Node, World, failed

from actors import settle
from orchestrator import Budget, Orchestrator, Price, RetryPolicy, SessionContext, current_invocation
from orchestrator.invocation import CallResult
from orchestrator.replaying import replay_journal
from orchestrator.session.events import SessionCompleted
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import Json
from orchestrator.usage import Caps

USAGE: dict[str, Json] = {"total_tokens": 40}
BUDGET = Budget(agent_calls=2, on_reached="ask", approvers=["ann"])


async def research(_: object) -> Json:
    """Say what it used."""
    return {"usage": USAGE}


async def note(n: int) -> int:
    """Do something besides."""
    return n


async def four_times(ctx: SessionContext) -> str:
    """Call the agent four times, and a step after each."""
    for n in range(4):
        await ctx.invoke_agent("researcher", "tea")
        await ctx.step("note", note, n)
    return "done"


def asking(handler: object = four_times, agent: object = research, budget: Budget = BUDGET) -> Orchestrator:
    """Return an application whose sessions ask at their cap."""
    app = Orchestrator()
    app.session("main", budget=budget)(handler)  # type: ignore[type-var]
    app.agent("researcher", price=Price(input=5, output=5))(agent)
    return app


def answered(*, yes: bool, name: str = "budget") -> Plot:
    """Return the act of the person who may answer."""

    async def act(_: World, node: Node) -> None:
        await node.deliveries.approve("s", name, yes, "ann", None)

    return act


async def test_a_yes_lets_a_session_go_on_whatever_happens() -> None:
    """With as much once more: the loop of four calls is one question long."""
    story = await same_end_whatever_happens(asking(), told(answered(yes=True), answered(yes=True, name="@budget")))
    assert [
        *("AGENT_INVOCATION_STARTED", "AGENT_STARTED researcher", "AGENT_COMPLETED researcher", "STEP_COMPLETED note"),
        *("AGENT_STARTED researcher#2", "AGENT_COMPLETED researcher#2", "STEP_COMPLETED note#2"),
        *("APPROVAL_REQUESTED @budget", "CALLBACK_COMPLETED @budget"),
        *("AGENT_STARTED researcher#3", "AGENT_COMPLETED researcher#3", "STEP_COMPLETED note#3"),
        *("AGENT_STARTED researcher#4", "AGENT_COMPLETED researcher#4", "STEP_COMPLETED note#4"),
        "AGENT_BACKGROUND_TASK_COMPLETED",
    ] == story


@pytest.mark.parametrize(
    ("budget", "acts"),
    [(BUDGET, [answered(yes=False)]), (Budget(agent_calls=2, on_reached="ask", approval_timeout=2), [])],
    ids=["no", "nobody answers in time"],
)
async def test_anything_else_ends_it_whatever_happens(budget: Budget, acts: list[Plot]) -> None:
    """As if it had not asked."""
    story = await same_end_whatever_happens(asking(budget=budget), told(*acts))
    assert ["CANCEL_REQUESTED", "AGENT_BACKGROUND_TASK_FAILED"] == story[-2:]


async def test_people_are_told_what_was_spent_and_only_approvers_may_answer() -> None:
    """As of any approval; meanwhile the session leaves memory."""
    world = World()
    async with world.node(asking()) as node:
        await node.start()
        await settle()
        (notice,) = world.notifications.approvals
        assert {"cap": "agent_calls", "limit": 2, "used": 2} == notice.subject
        assert ["ann"] == notice.approvers
        await world.pass_time(60)
        assert 0 == len(node.system)
        assert SessionStatus.SUSPENDED is (await world.head()).status
        await answered(yes=True)(world, node)
        assert SessionCompleted("done") == await world.end()
        assert 1 == (await world.state()).spent.grants


async def test_nothing_begins_while_people_are_asked_and_what_runs_ends() -> None:
    """No agent, no step, no timer; a branch that asked while it was so goes on after the answer."""
    gate, diary, world = Gate(), Diary(), World()

    async def slow(_: object) -> Json:
        await gate.passing()
        return {"usage": USAGE}

    async def branch(ctx: SessionContext) -> None:
        await ctx.invoke_agent("slow", "tea")
        await diary.step(ctx, "after")

    async def handler(ctx: SessionContext) -> str:
        await asyncio.gather(branch(ctx), four_times(ctx))
        return "done"

    app = asking(handler, budget=Budget(agent_calls=3, on_reached="ask"))
    app.agent("slow")(slow)
    async with world.node(app) as node:
        await node.start()
        await gate.reached()
        await settle()
        assert "APPROVAL_REQUESTED @budget" == (await world.story())[-1]
        gate.open()
        await settle()
        assert ([], "AGENT_COMPLETED slow") == (diary.entries, (await world.story())[-1])
        await answered(yes=True)(world, node)
        assert SessionCompleted("done") == await world.end()
    assert ["after"] == diary.entries


async def test_a_retry_waits_for_the_answer() -> None:
    """And is made after a yes."""
    attempts, world = list[int](), World()

    async def agent(_: object) -> Json:
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError("no")
        return {"usage": USAGE}

    async def handler(ctx: SessionContext) -> str:
        await ctx.invoke_agent("researcher", "tea", retry=RetryPolicy(max_attempts=5))
        return "done"

    async with world.node(asking(handler, agent)) as node:
        await node.start()
        for _ in range(5):
            await world.pass_time(60)
        assert 2 == len(attempts)
        await answered(yes=True)(world, node)
        await world.play()
        assert SessionCompleted("done") == await world.end()
    assert 3 == len(attempts)


async def test_a_run_at_the_cap_goes_on_from_its_recorded_calls() -> None:
    """It is parked before the call that nobody granted; what it has paid for is not paid again."""
    calls, world = list[str](), World()

    async def agent(_: object) -> str:
        recorded = current_invocation().calls
        assert recorded is not None

        async def model(name: str) -> CallResult:
            calls.append(name)
            return CallResult(name, usage=USAGE)

        for name in ("a", "b", "c"):
            await recorded.run(name, lambda name=name: model(name))  # type: ignore[misc]
        return "done"

    async def handler(ctx: SessionContext) -> object:
        return await ctx.invoke_agent("researcher", "tea")

    app = asking(handler, agent, Budget(tokens=80, on_reached="ask"))
    async with world.node(app) as node:
        await node.start()
        await settle()
        assert (["a", "b"], "APPROVAL_REQUESTED @budget") == (calls, (await world.story())[-1])
        await world.pass_time(60)
        assert 0 == len(node.system)
        await answered(yes=True)(world, node)
        assert SessionCompleted("done") == await world.end()
    assert ["a", "b", "c"] == calls


@pytest.mark.parametrize(
    ("budget", "says"),
    [(Budget(tokens=100), "120 of 100 tokens"), (Budget(cost=0.0005), "0.0006 of 0.0005 cost")],
    ids=["tokens", "cost"],
)
async def test_a_run_at_the_cap_of_one_that_does_not_ask_is_stopped_before_its_next_call(
    budget: Budget, says: str
) -> None:
    """A long run cannot spend past its session's budget by more than one call, whose price counts with it."""
    calls, world = list[int](), World()

    async def agent(_: object) -> None:
        recorded = current_invocation().calls
        assert recorded is not None

        async def model() -> CallResult:
            calls.append(1)
            return CallResult("r", usage={"input_tokens": 40})

        for n in range(9):
            await recorded.run(f"model#{n}", model)

    async def handler(ctx: SessionContext) -> object:
        return await ctx.invoke_agent("researcher", "tea")

    end = await world.run(asking(handler, agent, budget))
    assert failed("BudgetExceeded", "BUDGET_EXCEEDED", f"the session's budget is spent: {says}") == end
    assert 3 == len(calls)


async def test_a_session_of_a_spent_tenant_asks_and_is_let_past() -> None:
    """For the rest of the month, and it alone; branches that were refused meanwhile go on with it."""
    world = World()
    await world.usage.set_caps("default", Caps(agent_calls=1), at=NOON)

    async def handler(ctx: SessionContext) -> str:
        await ctx.invoke_agent("researcher", "first")
        await asyncio.gather(*(ctx.invoke_agent("researcher", n, name=f"r{n}") for n in range(3)))
        return "done"

    async with world.node(asking(handler, budget=Budget(on_reached="ask"))) as node:
        await node.start()
        await settle()
        (notice,) = world.notifications.approvals
        assert isinstance(notice.subject, dict)
        assert "tenant_agent_calls" == notice.subject["cap"]
        await answered(yes=True)(world, node)
        assert SessionCompleted("done") == await world.end()
        await settle()
        assert 4 == (await world.usage.month("default", "2026-01")).agent_calls


async def test_a_cancel_does_not_wait_for_the_answer() -> None:
    """The handler hears it at once, and a question that is left is nobody's any more."""
    world = World()
    async with world.node(asking()) as node:
        await node.start()
        await settle()
        await node.deliveries.cancel("s", "enough", "c-1")
        await world.end()
    assert SessionStatus.CANCELLED is (await world.head()).status


async def test_a_handlers_own_approval_named_budget_is_its_own() -> None:
    """Both may be open one after the other; each is answered by its name."""

    async def handler(ctx: SessionContext) -> bool:
        for _ in range(3):
            await ctx.invoke_agent("researcher", "tea")
        return (await ctx.request_approval("budget")).approved

    world = World()
    async with world.node(asking(handler)) as node:
        await node.start()
        await settle()
        await answered(yes=True)(world, node)
        await settle()
        await answered(yes=False)(world, node)
        assert SessionCompleted(False) == await world.end()


@pytest.mark.parametrize("yes", [True, False])
async def test_a_journal_with_a_question_of_the_sessions_own_is_replayed_past_it(*, yes: bool) -> None:
    """Open, answered, and ended by the answer: the handler's operations alone are counted."""
    app, world = asking(), World()
    async with world.node(app) as node:
        await node.start()
        await settle()
        assert 4 == (await replay_journal("s", await world.recorded(), app)).operations
        await answered(yes=yes)(world, node)
        await world.end()
    assert (8 if yes else 4) == (await replay_journal("s", await world.recorded(), app)).operations
