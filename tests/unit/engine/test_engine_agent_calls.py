"""What an agent run calls is recorded once, and found again by every later run of it, wherever that is."""

import asyncio
import math
from collections import Counter
from typing import Any

import pytest
from engine_trials import Plot, cancel, pass_seconds, same_end_whatever_happens, told, until_end
from engine_world import Gate, Node, World, app_of

from actors import settle
from orchestrator import AgentFailed, ApprovalTimedOut, RetryPolicy, SessionContext, current_invocation
from orchestrator.agents import AgentReply
from orchestrator.invocation import CallFunction, CallInDoubt, CallResult, Calls
from orchestrator.session.events import SessionCompleted, StepCompleted
from orchestrator.session.transitions import SessionStatus


def calls() -> Calls:
    """Return the calls of the running agent."""
    found = current_invocation().calls
    assert found is not None
    return found


class Caller:
    """An agent that calls a model, a tool, and the model again, and counts how often each really ran."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()

    async def invoke_async(self, prompt: object, **_: object) -> object:
        """Return what the three calls came to."""
        return [await calls().run(name, self._call(name)) for name in ("model#1", "search#1", "model#2")]

    def _call(self, name: str) -> CallFunction:
        async def made() -> CallResult:
            self.ran[name] += 1
            return CallResult(f"{name} said", {"total_tokens": 10})

        return made


async def delegate(ctx: SessionContext) -> object:
    """Let the agent do it all."""
    return await ctx.invoke_agent("caller", "go")


async def test_the_calls_of_a_run_are_recorded_whatever_happens() -> None:
    """Each under the run's operation; a crash after any event leads to the same end, and repeats no recorded call."""
    assert [
        "AGENT_INVOCATION_STARTED",
        "AGENT_STARTED caller",
        "STEP_COMPLETED caller/model#1",
        "STEP_COMPLETED caller/search#1",
        "STEP_COMPLETED caller/model#2",
        "AGENT_COMPLETED caller",
        "AGENT_BACKGROUND_TASK_COMPLETED",
    ] == await same_end_whatever_happens(app_of(delegate, caller=Caller()), told())


@pytest.mark.parametrize(("seq", "missing"), [(2, 3), (3, 2), (4, 1), (5, 0)])
async def test_a_recorded_call_is_not_made_again_after_a_crash(seq: int, missing: int) -> None:
    """What was paid for is not paid for again, and the session's usage counts each call once."""
    whole = World()
    await whole.run(app_of(delegate, caller=Caller()))
    caller = Caller()
    world = await whole.as_of(seq)
    await world.resume(app_of(delegate, caller=caller))
    assert missing == caller.ran.total()
    assert {"total_tokens": 30} == (await world.state()).usage


async def test_a_later_attempt_finds_what_an_earlier_one_recorded() -> None:
    """An attempt that failed after a call does not make that call again."""
    caller, tries = Caller(), Counter[str]()

    async def flaky(prompt: object) -> object:
        answer = await caller.invoke_async(prompt)
        tries["all"] += 1
        if tries["all"] == 1:
            raise ConnectionError("the answer was lost")
        return answer

    async def handler(ctx: SessionContext) -> object:
        return await ctx.invoke_agent("flaky", "go", retry=RetryPolicy(max_attempts=2))

    world = World()
    assert SessionCompleted(["model#1 said", "search#1 said", "model#2 said"]) == await world.run(
        app_of(handler, flaky=flaky)
    )
    assert {"model#1": 1, "search#1": 1, "model#2": 1} == caller.ran


async def test_what_a_run_reports_at_its_end_is_not_counted_twice() -> None:
    """Its calls are counted as they end; of the total that it names, only the rest is added."""

    class Reporting(Caller):
        async def invoke_async(self, prompt: object, **_: object) -> object:
            await super().invoke_async(prompt)
            return {"usage": {"total_tokens": 34, "cost": 0.5}}

    world = World()
    await world.run(app_of(delegate, caller=Reporting()))
    assert {"total_tokens": 34, "cost": 0.5} == (await world.state()).usage


async def test_a_call_that_must_not_be_made_twice_is_in_doubt_after_a_crash() -> None:
    """Its start is recorded before it is made; a run that finds no outcome is told so, and does not make it."""
    gate, heard = Gate(), list[str]()

    async def slow() -> CallResult:
        return CallResult(await gate.passing())

    async def agent(prompt: object) -> object:
        try:
            return await calls().run("order#1", slow, at_most_once=True)
        except CallInDoubt as doubt:
            heard.append(doubt.code)
            return "in doubt"

    async def handler(ctx: SessionContext) -> object:
        return await ctx.invoke_agent("agent", "go")

    world = World()
    async with world.node(app_of(handler, agent=agent)) as node:
        await node.start()
        await gate.reached()
        node.crash()
        assert SessionCompleted("in doubt") == await world.resume(app_of(handler, agent=agent))
    assert ["CALL_IN_DOUBT"] == heard
    assert [
        "AGENT_STARTED agent",
        "STEP_STARTED agent/order#1",
        "SESSION_RESUMED",
        "STEP_FAILED agent/order#1",
        "AGENT_COMPLETED agent",
    ] == (await world.story())[1:-1]


async def test_a_call_that_failed_for_good_is_not_made_again() -> None:
    """One that must not be made twice, and is known to have failed, fails in every later run alike."""
    made = Counter[str]()

    async def refused() -> CallResult:
        made["order"] += 1
        raise ValueError("no such thing")

    async def agent(prompt: object) -> object:
        return await calls().run("order#1", refused, at_most_once=True)

    async def handler(ctx: SessionContext) -> object:
        try:
            return await ctx.invoke_agent("agent", "go", retry=RetryPolicy(max_attempts=2))
        except AgentFailed as failed:
            return failed.error.type

    world = World()
    assert SessionCompleted("StepFailed") == await world.run(app_of(handler, agent=agent))
    assert {"order": 1} == made


def approved(*, yes: bool) -> Plot:
    """Return the act of a person who answers what the agent asked."""

    async def act(_: World, node: Node) -> None:
        await node.deliveries.approve("s", "agent/pay#1", yes, "ann", "fine")

    return act


async def asking(prompt: object) -> object:
    """Ask before paying."""
    before = await calls().run("model#1", _thought)
    answer = await calls().ask("pay#1", {"amount": 3}, timeout=60)
    return [before, answer.approved, answer.by]


async def _thought() -> CallResult:
    return CallResult("pay 3")


async def ask_agent(ctx: SessionContext) -> object:
    """Let the agent do it, and say what it could not."""
    try:
        return await ctx.invoke_agent("agent", "go")
    except AgentFailed as failed:
        return failed.error.type


async def test_a_question_of_an_agent_is_answered_whatever_happens() -> None:
    """It is an approval like any other; the run goes on from its recorded calls."""
    assert [
        "AGENT_INVOCATION_STARTED",
        "AGENT_STARTED agent",
        "STEP_COMPLETED agent/model#1",
        "APPROVAL_REQUESTED agent/pay#1",
        "CALLBACK_COMPLETED agent/pay#1",
        "AGENT_COMPLETED agent",
        "AGENT_BACKGROUND_TASK_COMPLETED",
    ] == await same_end_whatever_happens(app_of(ask_agent, agent=asking), told(approved(yes=True)))


async def test_a_question_that_nobody_answers_times_out_whatever_happens() -> None:
    """The agent hears `ApprovalTimedOut`."""
    story = await same_end_whatever_happens(app_of(ask_agent, agent=asking), told())
    assert "CALLBACK_TIMED_OUT agent/pay#1" in story


async def test_an_agent_that_waits_for_a_person_costs_no_memory() -> None:
    """Its run is cancelled and its session leaves memory; the answer brings both back."""
    world = World()
    async with world.node(app_of(ask_agent, agent=asking)) as node:
        await node.start()
        await pass_seconds(world, node, 40)
        assert (SessionStatus.SUSPENDED, None) == ((await world.head()).status, node.system.get("s"))
        await approved(yes=False)(world, node)
        await until_end(world, node)
    assert SessionCompleted(["pay 3", False, "ann"]) == (await world.recorded())[-1].event


async def test_the_time_of_a_run_goes_on_while_it_waits() -> None:
    """A question lasts no longer than its run may: nothing else would end a run that is parked."""

    async def handler(ctx: SessionContext) -> object:
        try:
            return await ctx.invoke_agent("agent", "go", timeout=5)
        except AgentFailed as failed:
            return failed.error.code

    async def patient(prompt: object) -> object:
        try:
            return (await calls().ask("pay#1", None)).approved
        except ApprovalTimedOut:
            return "nobody"

    world = World()
    async with world.node(app_of(handler, agent=patient)) as node:
        await node.start()
        await pass_seconds(world, node, 4)
        assert SessionStatus.RUNNING == (await world.head()).status
        await until_end(world, node, 5)
    assert "CALLBACK_TIMED_OUT agent/pay#1" in await world.story()


async def test_a_callback_of_an_agent_answers_it() -> None:
    """The token is handed out within a recorded call; the answer is what the run goes on with."""
    handed = dict[str, str]()

    async def agent(prompt: object) -> object:
        ticket = await calls().callback("done", timeout=60)

        async def submit() -> CallResult:
            handed.update({"id": ticket.callback_id, "token": ticket.token})
            return CallResult(None)

        await calls().run("submit", submit)
        return await calls().answer("done")

    async def answer(_: World, node: Node) -> None:
        await node.deliveries.callback(handed["id"], handed["token"], "SUCCESS", {"n": 1}, None)

    story = await same_end_whatever_happens(app_of(ask_agent, agent=agent), told(answer))
    assert ["CALLBACK_CREATED agent/done", "STEP_COMPLETED agent/submit", "CALLBACK_COMPLETED agent/done"] == story[2:5]


async def test_a_cancelled_session_ends_while_its_agent_waits() -> None:
    """Nobody is asked any more."""
    story = await same_end_whatever_happens(app_of(ask_agent, agent=asking), told(cancel))
    assert "AGENT_BACKGROUND_TASK_CANCELLED" == story[-1]


async def test_branches_of_a_run_may_all_ask() -> None:
    """The run goes on when all of them are answered, in whatever order."""

    async def agent(prompt: object) -> object:
        both = await asyncio.gather(calls().ask("pay#1", 1), calls().ask("pay#2", 2))
        return [answer.approved for answer in both]

    async def second(_: World, node: Node) -> None:
        await node.deliveries.approve("s", "agent/pay#2", False, "bob", None)

    world = World()
    async with world.node(app_of(ask_agent, agent=agent)) as node:
        await node.start()
        await settle()
        await second(world, node)
        await settle()
        assert "CALLBACK_COMPLETED agent/pay#2" == (await world.story())[-1]
        await approved(yes=True)(world, node)
        assert SessionCompleted([True, False]) == await world.end()


@pytest.mark.parametrize("name", ["", "a/b", "x" * 101, "ä"])
async def test_a_call_needs_a_name(name: str) -> None:
    """The text says what one is."""

    async def agent(prompt: object) -> object:
        return await calls().run(name, _thought)

    world = World()
    end = await world.run(app_of(delegate, caller=agent))
    assert "use 1 to 100 of A-Z" in str(end)
    assert [] == [each for each in await world.recorded() if isinstance(each.event, StepCompleted)]


async def test_a_run_that_is_slow_to_leave_does_not_stand_for_the_one_after_it() -> None:
    """Its question was answered while it still cleaned up: the new run keeps the session in memory until its end."""
    cleaning, working, runs = Gate(), Gate(), Counter[str]()

    async def agent(prompt: object) -> object:
        runs["begun"] += 1
        try:
            answer = await calls().ask("pay#1", None)
        finally:
            if runs["begun"] == 1:
                await cleaning.passing()
        await working.passing()
        return answer.approved

    world = World()
    async with world.node(app_of(ask_agent, agent=agent)) as node:
        await node.start()
        await cleaning.reached()
        await approved(yes=True)(world, node)
        await working.reached()
        cleaning.open()
        await pass_seconds(world, node, 100)
        assert SessionStatus.RUNNING == (await world.head()).status
        working.open()
        assert SessionCompleted(True) == await world.end()


async def test_what_a_parked_run_makes_of_its_cancellation_counts_for_nothing() -> None:
    """Not even when the answer came before it ended: the run that heard the answer is the one that counts."""
    cleaning, working = Gate(), Gate()

    async def agent(prompt: object) -> object:
        try:
            answer = await calls().ask("pay#1", None)
        except asyncio.CancelledError:
            await cleaning.passing()
            raise ValueError("nobody answered") from None
        await working.passing()
        return answer.approved

    world = World()
    async with world.node(app_of(ask_agent, agent=agent)) as node:
        await node.start()
        await cleaning.reached()
        await approved(yes=True)(world, node)
        await working.reached()
        cleaning.open()
        await settle()
        working.open()
        assert SessionCompleted(True) == await until_end(world, node)


async def test_a_question_does_not_break_off_the_calls_beside_it() -> None:
    """They come to their end and are recorded before their run is parked, and no crash is made up of it."""
    gate, made = Gate(), Counter[str]()

    def call(name: str) -> CallFunction:
        async def run() -> CallResult:
            made[name] += 1
            return CallResult(await gate.passing())

        return run

    async def agent(prompt: object) -> object:
        model, order, answer = await asyncio.gather(
            calls().run("model#1", call("model")),
            calls().run("order#1", call("order"), at_most_once=True),
            calls().ask("pay#1", None),
        )
        return [model, order, answer.approved]

    world = World()
    async with world.node(app_of(ask_agent, agent=agent)) as node:
        await node.start()
        await gate.reached()
        await settle()
        gate.open()
        await pass_seconds(world, node, 40)
        assert SessionStatus.SUSPENDED == (await world.head()).status
        await approved(yes=True)(world, node)
        assert SessionCompleted(["passed", "passed", True]) == await until_end(world, node)
    assert {"model": 1, "order": 1} == made


async def test_a_question_that_is_answered_meanwhile_parks_nobody() -> None:
    """The run waits for the call beside the question, and goes on with the answer."""
    gate = Gate()

    async def slow() -> CallResult:
        return CallResult(await gate.passing())

    async def agent(prompt: object) -> object:
        said, answer = await asyncio.gather(calls().run("model#1", slow), calls().ask("pay#1", None))
        return [said, answer.approved]

    world = World()
    async with world.node(app_of(ask_agent, agent=agent)) as node:
        await node.start()
        await gate.reached()
        await settle()
        await approved(yes=True)(world, node)
        gate.open()
        assert SessionCompleted(["passed", True]) == await until_end(world, node)


async def test_a_call_within_a_call_may_ask() -> None:
    """The outer one waits for nothing else; what is made beside the inner one ends first."""
    gate, made = Gate(), Counter[str]()

    async def slow() -> CallResult:
        made["slow"] += 1
        return CallResult(await gate.passing())

    async def outer() -> CallResult:
        said, answer = await asyncio.gather(calls().run("model#2", slow), calls().ask("pay#1", None))
        return CallResult([said, answer.approved])

    async def agent(prompt: object) -> object:
        return await calls().run("agent#1", outer)

    world = World()
    async with world.node(app_of(ask_agent, agent=agent)) as node:
        await node.start()
        await gate.reached()
        await settle()
        gate.open()
        await pass_seconds(world, node, 40)
        assert SessionStatus.SUSPENDED == (await world.head()).status
        await approved(yes=True)(world, node)
        assert SessionCompleted(["passed", True]) == await until_end(world, node)
    assert {"slow": 1} == made


async def test_a_question_that_comes_late_lasts_no_longer_than_its_run_may() -> None:
    """What the run worked before it asked is taken off."""
    world = World()

    async def agent(prompt: object) -> object:
        await world.clock.sleep(4)
        return (await calls().ask("pay#1", None)).approved

    async def handler(ctx: SessionContext) -> object:
        return await ctx.invoke_agent("agent", "go", timeout=5)

    async with world.node(app_of(handler, agent=agent)) as node:
        await node.start()
        await pass_seconds(world, node, 6)
        assert "CALLBACK_TIMED_OUT agent/pay#1" in await world.story()


async def test_what_an_ended_run_asked_is_answered_by_nobody() -> None:
    """Neither by somebody who is late nor by the clock."""

    async def agent(prompt: object) -> object:
        return (await calls().callback("done", timeout=10)).token

    async def handler(ctx: SessionContext) -> object:
        await ctx.invoke_agent("agent", "go")
        await ctx.sleep(20)
        return "slept"

    world = World()
    world.passivate_after = 1_000
    async with world.node(app_of(handler, agent=agent)) as node:
        await node.start()
        assert SessionCompleted("slept") == await until_end(world, node)
    assert ["AGENT_COMPLETED agent", "TIMER_STARTED sleep", "TIMER_FIRED sleep"] == (await world.story())[3:-1]


@pytest.mark.parametrize(
    "usage", [{"total_tokens": math.nan}, {"cost": math.inf}, {"a": object()}, {"x" * 9_000: 1}, "12"]
)
@pytest.mark.parametrize("where", ["call", "reply"])
async def test_usage_that_no_journal_can_hold_is_left_out(where: str, usage: Any) -> None:
    """What the agent answered is worth more than what it says of its costs, and a journal must stay readable."""

    async def thought() -> CallResult:
        return CallResult("tea", usage)

    async def agent(prompt: object) -> object:
        return AgentReply("tea", usage) if where == "reply" else await calls().run("model#1", thought)

    world = World()
    assert SessionCompleted("tea") == await world.run(app_of(ask_agent, agent=agent))
    assert None is (await world.state()).usage
