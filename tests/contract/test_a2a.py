"""Remote agents over the wire: the real `a2a-sdk` server in a process of its own, in each generation that it speaks."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from engine_trials import cancel
from engine_world import World, app_of

from orchestrator import A2AAgent, SessionContext
from orchestrator.session.events import AgentRetrying, ApprovalRequested, Recorded, SessionCancelled, StepCompleted
from orchestrator.session.values import JsonObject
from tests.contract.a2a_stage import (
    TWICE,
    Analyst,
    HurriedClock,
    analyst,
    app_with,
    code_of,
    outcome,
    returned,
    world,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
INTERFACES = ("jsonrpc", "rest", "older")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def remote() -> AsyncIterator[Analyst]:
    """The server, for all tests here that do not kill it."""
    async with analyst() as running:
        yield running


def has_submitted(there: World) -> bool:
    """Return whether the submission of a task is recorded."""
    return any(isinstance(recorded.event, StepCompleted) for recorded in there.journal.events("s"))


def error_code(recorded: Recorded) -> str | None:
    """Return the code of the error that an attempt ended in, if this event tells of one."""
    return recorded.event.error.code if isinstance(recorded.event, AgentRetrying) else None


async def told_since(remote: Analyst, before: dict[str, list[str]]) -> tuple[int, int]:
    """Return how much the server was asked, and how much it cancelled, since then."""
    now = await remote.told()
    return len(now["asked"]) - len(before["asked"]), len(now["cancelled"]) - len(before["cancelled"])


@pytest.mark.parametrize("interface", INTERFACES)
async def test_a_task_is_submitted_once_and_followed_to_its_end(remote: Analyst, interface: str) -> None:
    """Its parts are the result, each once and by its kind; its usage is recorded."""
    there = world()

    result = await outcome(there, app_with(A2AAgent(remote.url(interface)), "hello"))

    assert isinstance(result, dict)
    ids = {"task_id", "context_id"}
    expected: JsonObject = {"text": "heard hello", "data": [{"parts": 1, "half": 0.5}], "files": []}
    assert expected == {name: value for name, value in result.items() if name not in ids}
    assert all(result[name] for name in ids)
    assert {"total_tokens": 7} == (await there.state()).usage
    assert ["STEP_COMPLETED analyst/submit.1"] == [line for line in await there.story() if line.startswith("STEP")]


@pytest.mark.parametrize("interface", INTERFACES)
async def test_an_agent_that_makes_no_task_of_it_is_heard_all_the_same(remote: Analyst, interface: str) -> None:
    """Its message is the result, and recorded: nobody could ask for it again."""
    there = world()

    result = await outcome(there, app_with(A2AAgent(remote.url(interface)), "at once"))

    assert isinstance(result, dict)
    assert ("an answer, no task", None) == (result["text"], result["task_id"])


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("fail", "AGENT_REPORTED_FAILURE"),
        ("reject", "AGENT_REJECTED"),
        ("ask", "AGENT_INPUT_REQUIRED"),
        ("authorise", "AGENT_AUTH_REQUIRED"),
    ],
)
async def test_every_way_not_to_complete_has_its_code(remote: Analyst, interface: str, prompt: str, code: str) -> None:
    """A task that waits for what does not come is cancelled on the other side."""
    before = len((await remote.told())["cancelled"])

    assert code == await code_of(A2AAgent(remote.url(interface)), prompt)

    after = len((await remote.told())["cancelled"])
    assert (1 if prompt in {"ask", "authorise"} else 0) == after - before


@pytest.mark.parametrize("interface", INTERFACES)
@pytest.mark.parametrize("approved", [True, False])
async def test_what_a_task_asks_in_its_middle_a_person_answers(
    remote: Analyst, interface: str, *, approved: bool
) -> None:
    """By an approval, whose comment is the answer; if they refuse, the task is cancelled."""
    before = await remote.told()
    there, agent = world(), A2AAgent(remote.url(interface), asks_people=True)

    async with there.node(app_with(agent, "ask")) as node:
        await node.start()
        await there.until(lambda: any(isinstance(each.event, ApprovalRequested) for each in there.journal.events("s")))
        [asked] = [e.event for e in there.journal.events("s") if isinstance(e.event, ApprovalRequested)]
        assert {"agent": agent.url, "asks": "green or black?"} == asked.subject
        await node.deliveries.approve("s", asked.operation, approved, "ann", "green")
        result = await returned(there)

    assert isinstance(result, dict)
    assert ("green it is" if approved else "AGENT_INPUT_REQUIRED") == result["text" if approved else "code"]
    assert ((2, 0) if approved else (1, 1)) == await told_since(remote, before)


async def test_what_is_longer_than_a_node_reads_fails_and_what_is_shorter_is_kept(remote: Analyst) -> None:
    """The journal holds a reference of an answer of megabytes, and the handler sees all of it."""

    async def main(ctx: SessionContext) -> object:
        answer = await ctx.invoke_agent("analyst", "large 3")
        assert isinstance(answer, dict)
        return len(str(answer["text"]))

    there, agent = world(), A2AAgent(remote.url())

    assert 3 * 1024 * 1024 == await outcome(there, app_of(main, analyst=agent))
    assert there.artifacts.objects
    assert "AGENT_ANSWER_TOO_LARGE" == await code_of(agent, "large 20")


async def test_a_crash_of_ours_starts_no_second_task(remote: Analyst) -> None:
    """Another node goes on with the one that was submitted; that a node leaves cancels nothing on the other side."""
    before = await remote.told()
    there, app = world(), app_with(A2AAgent(remote.url()), "wait crash", retry=TWICE)

    async with there.node(app) as node:
        await node.start()
        await there.until(lambda: has_submitted(there))
        node.crash()
    async with there.node(app, "node-2") as other:
        assert await other.claim(dead_owner="node-1")
        await remote.release("crash")
        result = await returned(there)

    assert isinstance(result, dict)
    assert "waited" == result["text"]
    assert (1, 0) == await told_since(remote, before)


async def test_a_node_that_drains_leaves_the_task_to_its_successor(remote: Analyst) -> None:
    """Its run is cancelled, and the task is not: another node follows it on."""
    before = await remote.told()
    there, app = world(), app_with(A2AAgent(remote.url()), "wait drain")

    async with there.node(app) as node:
        await node.start()
        await there.until(lambda: has_submitted(there))
        await node.system.drain(0)
    async with there.node(app, "node-2") as other:
        assert await other.claim(only_unowned=True)
        await remote.release("drain")
        result = await returned(there)

    assert isinstance(result, dict)
    assert "waited" == result["text"]
    assert (1, 0) == await told_since(remote, before)


async def test_a_session_that_is_cancelled_cancels_the_task(remote: Analyst) -> None:
    """What it answers after that is heard by nobody."""
    before = await remote.told()
    there, app = world(), app_with(A2AAgent(remote.url()), "wait cancel")

    async with there.node(app) as node:
        await node.start()
        await there.until(lambda: has_submitted(there))
        await cancel(there, node)
        assert isinstance(await there.end(), SessionCancelled)
    await remote.release("cancel")

    assert (1, 1) == await told_since(remote, before)


async def test_a_run_whose_time_is_up_cancels_the_task_and_a_later_attempt_asks_anew(remote: Analyst) -> None:
    """The answer to the first, had it come yet, would be the result; cancelled, it is let be."""
    before = await remote.told()

    result = await outcome(world(), app_with(A2AAgent(remote.url()), "wait long", retry=TWICE, timeout=5))

    assert isinstance(result, dict)
    assert "OPERATION_TIMED_OUT" == result["code"]
    assert (2, 2) == await told_since(remote, before)


async def test_a_task_that_failed_is_not_asked_about_again(remote: Analyst) -> None:
    """The next attempt submits another one, under another message id."""
    before = await remote.told()

    result = await outcome(world(), app_with(A2AAgent(remote.url()), "fail", retry=TWICE))

    assert isinstance(result, dict)
    assert "AGENT_REPORTED_FAILURE" == result["code"]
    asked = (await remote.told())["asked"][len(before["asked"]) :]
    assert (2, 2) == (len(asked), len(set(asked)))


async def test_a_task_that_the_other_side_has_forgotten_is_submitted_again_by_the_policy() -> None:
    """Killed and started anew, the server knows nothing of it: a fault, which another attempt answers."""
    async with analyst() as first:
        agent = A2AAgent(first.url())
        there = world()
        async with there.node(app_with(agent, "wait kill", retry=TWICE)) as node:
            await node.start()
            await there.until(lambda: has_submitted(there))
            assert isinstance(there.clock, HurriedClock)
            there.clock.goes.clear()
            await first.kill()
            async with analyst(first.port) as second:
                await second.release("kill")
                there.clock.goes.set()
                result = await returned(there)
                told = await second.told()

    assert isinstance(result, dict)
    assert "waited" == result["text"]
    assert [error_code(event) for event in there.journal.events("s")].count("AGENT_TASK_LOST") == 1
    assert 1 == len(told["asked"])
