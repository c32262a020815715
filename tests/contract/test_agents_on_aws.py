"""Agents on AWS as a node runs them: Lambda functions on an emulator, and both kinds on a server that misbehaves."""

import asyncio
import base64
import io
import json
import zipfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import unquote

import pytest
import pytest_asyncio
from aiobotocore.session import get_session
from aiohttp import web
from engine_trials import cancel
from engine_world import World, app_of

from actors import SystemClock
from orchestrator import (
    AgentCoreAgent,
    LambdaAgent,
    OperationFailed,
    Orchestrator,
    RegistrationError,
    RetryPolicy,
    SessionContext,
)
from orchestrator.agents import AgentReply, Connections
from orchestrator.agents.local import LocalAgents
from orchestrator.aws.agents import AgentRuntimes, LambdaFunctions
from orchestrator.aws.clients import connect
from orchestrator.deliveries import CallbackAnswered
from orchestrator.errors import OrchestratorError
from orchestrator.intake import Start
from orchestrator.invocation import InvocationScope, invocation_for
from orchestrator.remote import ANSWER_BYTES_MAX, AgentService, RemoteFault
from orchestrator.session.events import AgentRetrying, Event, SessionCompleted, StepCompleted
from orchestrator.session.tracing import attempt_span_id, span_id, traceparent_of
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import Json
from orchestrator.telemetry.context import xray_header
from tests.contract.misbehaving import Behave, Service, answering, cut_in_the_middle, endless, hang_up, serving
from tests.contract.stage import aws_environment
from tests.contract.waiting import SECONDS_MAX
from tests.emulators import REGION, Emulator, access_key

pytestmark = pytest.mark.asyncio(loop_scope="module")
FUNCTION = f"arn:aws:lambda:{REGION}:{{account}}:function:scorer"
RUNTIME = f"arn:aws:bedrock-agentcore:{REGION}:111122223333:runtime/summariser-a1B2c3D4e5"
CODE = """
def handler(event, context):
    if "raise" in event:
        raise ValueError(event["raise"])
    return {"event": event, "usage": {"total_tokens": 7}}
"""
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Stage:
    """One agent, on a node that calls AWS somewhere."""

    def __init__(self, agents: LocalAgents) -> None:
        self._agents = agents

    async def run(self, prompt: Json, **kwargs: Json) -> AgentReply:
        """Run the agent as one attempt of an operation."""
        agent = self._agents.named("agent")
        assert agent is not None
        invocation = invocation_for("order-17", "score", 2, lambda _: None, session_trace=TRACE)
        with InvocationScope(invocation):
            return await agent.run(prompt, kwargs)

    async def error(self, prompt: Json) -> OrchestratorError:
        """Run the agent and return what it raises."""
        with pytest.raises(OrchestratorError) as raised:
            await self.run(prompt)
        return raised.value


@asynccontextmanager
async def connections(url: str, account: str = "111122223333") -> AsyncIterator[Connections]:
    """Yield what a node lends to agents on AWS."""
    with aws_environment(url, account):
        async with connect([AgentService("lambda", REGION), AgentService("bedrock-agentcore", REGION)]) as clients:
            clock = SystemClock()
            yield Connections(
                clock=clock,
                draw=lambda: 0.0,
                functions={region: LambdaFunctions(each, clock.now) for region, each in clients.functions.items()},
                runtimes={region: AgentRuntimes(each, clock.now) for region, each in clients.runtimes.items()},
            )


@contextmanager
def stage(agent: AgentCoreAgent | LambdaAgent, lent: Connections) -> Iterator[Stage]:
    """Yield a node on which that agent runs."""
    app = Orchestrator()
    app.agent("agent")(agent)
    with ThreadPoolExecutor(1) as threads:
        yield Stage(LocalAgents(app, threads, SystemClock(), connections=lent))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def line() -> AsyncIterator[tuple[Service, Connections]]:
    """A server in the place of AWS, and what leads there: all tests share it, for clients take long to make."""
    service = Service()
    async with serving(service) as url, connections(url) as lent:
        yield service, lent


@pytest.fixture
def service(line: tuple[Service, Connections]) -> Service:
    """The server, asked nothing yet."""
    service, _ = line
    service.answers.clear()
    service.asked.clear()
    service.bodies.clear()
    return service


@pytest.fixture
def lent(line: tuple[Service, Connections]) -> Connections:
    """What leads there."""
    return line[1]


def failing(status: int, code: str, **headers: str) -> Behave:
    """Return a behaviour: an error as AWS words it."""
    about = {"x-amzn-ErrorType": code, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return answering(json.dumps({"message": "not now"}).encode(), status=status, headers=about)


@pytest_asyncio.fixture(loop_scope="module")
async def function(ministack: Emulator, account: str) -> str:
    """A function on the emulator, and its ARN."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as code:
        code.writestr("scorer.py", CODE)
    with aws_environment(ministack.endpoint_url, access_key(ministack, account)):
        async with get_session().create_client("lambda", region_name=REGION) as client:
            made = await client.create_function(
                FunctionName="scorer",
                Runtime="python3.11",
                Handler="scorer.handler",
                Role=f"arn:aws:iam::{account}:role/scorer",
                Code={"ZipFile": archive.getvalue()},
            )
            arn: str = made["FunctionArn"]
            return arn


async def test_a_function_is_run_with_the_prompt_as_its_event(function: str, ministack: Emulator, account: str) -> None:
    """Its answer is the result, and its usage is recorded; what it raises fails the run."""
    async with connections(ministack.endpoint_url, access_key(ministack, account)) as lent:
        with stage(LambdaAgent(function), lent) as node:
            reply = await node.run({"document": "s3://b/k"}, depth=2)
            failure = await node.error({"raise": "no such document"})

    expected: Json = {"event": {"document": "s3://b/k", "depth": 2}, "usage": {"total_tokens": 7}}
    assert reply == AgentReply(result=expected, usage={"total_tokens": 7})
    assert failure.code == "AGENT_REPORTED_FAILURE"
    assert str(failure).endswith(": no such document")


async def test_a_function_sees_whose_run_it_is(service: Service, lent: Connections) -> None:
    """Beside its event, so that it can tell a second attempt from a second wish; an error names what was raised.

    And in whose trace it is.
    """
    raised = b'{"errorType": "ValueError", "errorMessage": "no such document", "stackTrace": []}'
    service.answers.append(answering(raised, headers={"X-Amz-Function-Error": "Unhandled"}))

    with stage(LambdaAgent(FUNCTION.format(account="1" * 12)), lent) as node:
        failure = await node.error("x")

    headers = service.asked[0].headers
    assert headers["X-Amzn-Trace-Id"] == xray_header(traceparent_of(TRACE, span_id("order-17", "score")))
    context = json.loads(base64.b64decode(headers["X-Amz-Client-Context"]))
    expected = {"session_id": "order-17", "operation": "score", "attempt": 2, "idempotency_key": "order-17/score"}
    assert context == {"custom": expected}
    assert (failure.code, str(failure)) == ("AGENT_REPORTED_FAILURE", "ValueError: no such document")


async def test_a_runtime_is_asked_as_its_contract_says(service: Service, lent: Connections) -> None:
    """Every attempt of an operation has the same session of the runtime, long enough; the answer is the result."""
    service.answers += [answering(b'{"summary":"tea"}'), answering(b'"tea"')]

    with stage(AgentCoreAgent(RUNTIME, qualifier="live"), lent) as node:
        replies = [await node.run("sum up"), await node.run({"text": "tea"}, words=9)]

    header = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
    [session] = {request.headers[header] for request in service.asked}
    assert 33 <= len(session) <= 100
    assert [reply.result for reply in replies] == [{"summary": "tea"}, "tea"]
    assert service.bodies == [{"prompt": "sum up"}, {"text": "tea", "words": 9}]
    assert {unquote(request.raw_path) for request in service.asked} == {
        f"/runtimes/{RUNTIME}/invocations?qualifier=live"
    }


async def test_a_streamed_answer_is_the_list_of_its_events(service: Service, lent: Connections) -> None:
    """An event that tells of a failure fails the run, whatever came before it."""
    stream = {"Content-Type": "text/event-stream; charset=utf-8"}
    failed = b'data: {"error": "no tea", "error_type": "ValueError", "message": "x"}\n\n'
    service.answers += [
        answering(b': hello\n\ndata: {"a": 1}\n\ndata: plain\ndata: text\r\n\r\ndata: 2', headers=stream),
        answering(b'data: {"a": 1}\n\n' + failed, headers=stream),
        answering(b"data: 1\n\n" * 200_000, headers=stream),
    ]

    with stage(AgentCoreAgent(RUNTIME), lent) as node:
        reply, failure, flood = await node.run("x"), await node.error("x"), await node.error("x")

    assert reply.result == [{"a": 1}, "plain\ntext", 2]
    assert (failure.code, str(failure)) == ("AGENT_REPORTED_FAILURE", "ValueError: no tea")
    assert flood.code == "AGENT_ANSWER_TOO_LARGE"


@pytest.mark.parametrize("agent", [LambdaAgent(FUNCTION.format(account="1" * 12)), AgentCoreAgent(RUNTIME)])
@pytest.mark.parametrize(
    ("behaviour", "code", "is_retryable", "retry_after"),
    [
        pytest.param(
            failing(429, "TooManyRequestsException", Retry_After="17"), "AGENT_THROTTLED", True, 17.0, id="429"
        ),
        pytest.param(failing(429, "ThrottlingException"), "AGENT_THROTTLED", True, None, id="throttled"),
        pytest.param(failing(500, "ServiceException"), "AGENT_UNWELL", True, None, id="500"),
        pytest.param(answering(b"<html>bad gateway", status=502), "AGENT_UNWELL", True, None, id="502 of a proxy"),
        pytest.param(failing(424, "RuntimeClientError"), "AGENT_REPORTED_FAILURE", True, None, id="424"),
        pytest.param(failing(409, "RetryableConflictException"), "AGENT_UNWELL", True, None, id="409"),
        pytest.param(failing(403, "AccessDeniedException"), "AGENT_REFUSED", False, None, id="403"),
        pytest.param(failing(404, "ResourceNotFoundException"), "AGENT_REFUSED", False, None, id="404"),
        pytest.param(cut_in_the_middle, "AGENT_CUT_OFF", True, None, id="cut in the middle"),
        pytest.param(hang_up, "AGENT_UNREACHABLE", True, None, id="hung up"),
        pytest.param(endless, "AGENT_ANSWER_TOO_LARGE", False, None, id="50 MB"),
        pytest.param(answering(b"[" + b"0," * 200_000 + b"0]"), "AGENT_ANSWER_TOO_LARGE", False, None, id="many"),
        pytest.param(answering(b'"' + b',\\"' * 2_000_000), "AGENT_UNREADABLE", True, None, id="a text without end"),
        pytest.param(answering(b"\xff{"), "AGENT_UNREADABLE", True, None, id="no JSON"),
        pytest.param(answering(b"[" * 5_000), "AGENT_UNREADABLE", True, None, id="nested"),
    ],
)
async def test_whatever_goes_wrong_has_a_code_and_says_whether_to_try_again(  # noqa: PLR0917 - a table of cases
    agent: AgentCoreAgent | LambdaAgent,
    service: Service,
    lent: Connections,
    behaviour: Behave,
    code: str,
    is_retryable: bool,
    retry_after: float | None,
) -> None:
    """One request is sent for one attempt: the retry policy of the run decides about more."""
    service.answers.append(behaviour)

    with stage(agent, lent) as node:
        failure = await node.error("x")

    pause = failure.retry_after if isinstance(failure, RemoteFault) else None
    assert (failure.code, isinstance(failure, RemoteFault), pause) == (code, is_retryable, retry_after)
    assert len(service.asked) == 1


async def test_an_answer_of_megabytes_is_one_while_it_fits(service: Service, lent: Connections) -> None:
    """What a node reads of an answer is bounded, and far over what a journal holds inline."""
    # Full of what parts values outside of a text.
    text = '[{,\\"' * ((ANSWER_BYTES_MAX - 2) // 6)
    service.answers.append(answering(f'"{text}"'.encode()))

    with stage(AgentCoreAgent(RUNTIME), lent) as node:
        reply = await node.run("x")

    assert reply.result == text.replace("\\", "")


LATE = [LambdaAgent(FUNCTION.format(account="1" * 12), answers_later=True), AgentCoreAgent(RUNTIME, answers_later=True)]
TAKEN = answering(b"", status=202)


async def ask(ctx: SessionContext) -> object:
    """Ask the agent, twice if need be."""
    try:
        return await ctx.invoke_agent("agent", {"document": "k"}, retry=RetryPolicy(max_attempts=2))
    except OperationFailed as failed:
        return failed.error.code


def ticket_in(service: Service) -> tuple[str, str]:
    """Return the id and the token of the callback that the latest request holds."""
    latest = service.bodies[-1]
    assert isinstance(latest, dict)
    ticket = latest["callback"]
    assert isinstance(ticket, dict)
    assert str(ticket["url"]).endswith(f"/callbacks/{ticket['callback_id']}")
    return str(ticket["callback_id"]), str(ticket["token"])


def recorded(world: World, kind: type[Event]) -> int:
    """Return how many events of that kind are recorded: a call of the agent's run is a step."""
    return sum(isinstance(each.event, kind) for each in world.journal.events("s"))


@pytest.mark.parametrize("agent", LATE)
async def test_an_agent_that_answers_later_is_asked_once_and_nothing_is_kept_in_memory(
    agent: AgentCoreAgent | LambdaAgent, service: Service, lent: Connections
) -> None:
    """It redeems the callback that it was handed, after a crash of ours too; a second answer is a conflict."""
    service.answers.append(TAKEN)
    world, app = World(), app_of(ask, agent=agent)

    world.connections = lent
    async with world.node(app) as first:
        await first.start()
        await world.until(lambda: recorded(world, StepCompleted) == 1)
        first.crash()
    async with world.node(app, "node-2") as node:
        await node.claim(dead_owner="node-1")
        callback_id, token = ticket_in(service)
        await world.pass_time(world.passivate_after)
        assert SessionStatus.SUSPENDED is world.standing["s"].status
        await node.deliveries.callback(callback_id, token, "SUCCESS", {"score": 1, "usage": {"tokens": 2}}, None)
        end = await world.end()
        with pytest.raises(CallbackAnswered):
            await node.deliveries.callback(callback_id, token, "SUCCESS", {"score": 2}, None)

    assert SessionCompleted({"score": 1, "usage": {"tokens": 2}}) == end
    assert {"tokens": 2} == (await world.state()).usage
    assert 1 == len(service.asked)
    assert token not in f"{world.journal.events('s')!r} {world.logs!r}"


@pytest.mark.parametrize("agent", LATE)
async def test_a_failure_that_comes_later_is_retried_by_the_policy(
    agent: AgentCoreAgent | LambdaAgent, service: Service, lent: Connections
) -> None:
    """Each attempt has a callback of its own; what is said on the one before is not heard again."""
    service.answers += [TAKEN, TAKEN]
    world, app = World(), app_of(ask, agent=agent)

    world.connections = lent
    async with world.node(app) as node:
        await node.start()
        await world.until(lambda: recorded(world, StepCompleted) == 1)
        await node.deliveries.callback(*ticket_in(service), "FAILURE", None, {"message": "no tea"})
        await world.until(lambda: recorded(world, AgentRetrying) == 1)
        await world.pass_time(1)
        await world.until(lambda: recorded(world, StepCompleted) == 2)
        await node.deliveries.callback(*ticket_in(service), "FAILURE", None, {"message": "no tea"})
        end = await world.end()

    assert SessionCompleted("AGENT_REPORTED_FAILURE") == end
    assert 2 == len({ticket["callback"]["callback_id"] for ticket in service.bodies})  # type: ignore[call-overload, index]


async def test_a_run_that_nobody_waits_for_ends_its_session_in_the_runtime(service: Service, lent: Connections) -> None:
    """It costs for as long as it lives; the trace of our session goes with the request."""
    arrived, stopped = asyncio.Event(), asyncio.Event()

    async def never(_: web.Request) -> web.StreamResponse:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def stop(request: web.Request) -> web.StreamResponse:
        stopped.set()
        return await answering(b"{}")(request)

    service.answers += [never, stop]
    world, app = World(), app_of(ask, agent=AgentCoreAgent(RUNTIME))
    world.connections = lent

    async with world.node(app) as node:
        await node.router.start(Start("main", "s", "default", None, trace=TRACE, input_bytes=4))
        async with asyncio.timeout(SECONDS_MAX):
            await arrived.wait()
            await cancel(world, node)
            await stopped.wait()

    invoked, ended = service.asked
    assert traceparent_of(TRACE, attempt_span_id("s", "agent", 1)) == invoked.headers["traceparent"]
    assert unquote(ended.raw_path).endswith(f"/runtimes/{RUNTIME}/stopruntimesession")
    header = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
    assert invoked.headers[header] == ended.headers[header]


async def test_nobody_there_is_a_fault_that_another_attempt_may_not_meet() -> None:
    """A refused connection says nothing about the agent."""
    async with connections("http://127.0.0.1:9") as lent:
        with stage(AgentCoreAgent(RUNTIME), lent) as node:
            failure = await node.error("x")

    assert (failure.code, isinstance(failure, RemoteFault)) == ("AGENT_UNREACHABLE", True)


@pytest.mark.parametrize("arn", ["", "scorer", "arn:aws:s3:::bucket", RUNTIME.replace("111122223333", "1")])
@pytest.mark.parametrize("agent", [AgentCoreAgent, LambdaAgent])
async def test_what_is_no_arn_is_found_when_it_is_declared(
    agent: type[AgentCoreAgent] | type[LambdaAgent], arn: str
) -> None:
    """A mistake stops the deployment, not a session."""
    with pytest.raises(RegistrationError):
        agent(arn)
