"""Remote agents that misbehave on the wire, older ones, and what is never told to whom."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from aiohttp import web

from orchestrator import A2AAgent, RegistrationError, RetryPolicy
from orchestrator.intake import Start
from orchestrator.session.events import AgentRetrying
from orchestrator.session.tracing import attempt_span_id, traceparent_of
from orchestrator.session.values import Json, JsonObject
from tests.contract.a2a_stage import ONCE, TWICE, app_with, code_of, outcome, returned, world
from tests.contract.misbehaving import Behave, Service, answering, cut_in_the_middle, endless, hang_up, serving

SECRET = "s3cr3t-token"
JSON_RPC: JsonObject = {"jsonrpc": "2.0", "id": "1"}


async def card(request: web.Request) -> web.StreamResponse:
    """Answer by a card that leads back here."""
    return web.json_response(card_of(f"http://{request.host}/agent"))


def card_of(url: str) -> JsonObject:
    """Return the card of an agent that is there."""
    interface: JsonObject = {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
    return {"name": "analyst", "description": "d", "version": "1", "supportedInterfaces": [interface]}


def result_of(result: Json) -> Behave:
    """Return a behaviour: that result of a call."""
    return answering(json.dumps({**JSON_RPC, "result": result}).encode())


def error_of(code: int, message: str = "no") -> Behave:
    """Return a behaviour: that error of a call."""
    return answering(json.dumps({**JSON_RPC, "error": {"code": code, "message": message}}).encode())


def task(state: str, text: str = "") -> JsonObject:
    """Return a task in that state."""
    message: JsonObject = {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": text}]}
    return {"id": "task-1", "contextId": "c", "status": {"state": f"TASK_STATE_{state}", "message": message}}


SUBMITTED = result_of({"task": task("SUBMITTED")})
COMPLETED = result_of(task("COMPLETED", "done"))
NESTED = answering(b'{"jsonrpc": "2.0", "result": ' + b"[" * 50_000)
PACKED = answering(b"\x1f\x8b", headers={"Content-Encoding": "x-pack"})
MANY = answering(b'{"jsonrpc": "2.0", "result": {"message": {"parts": [' + b'{"text":""},' * 1_000_000 + b"{}]}}}")
ELSEWHERE = answering(b"", status=307, headers={"Location": "http://127.0.0.2:9/"})


@asynccontextmanager
async def peer(*answers: Behave) -> AsyncIterator[tuple[Service, A2AAgent]]:
    """Yield a server that answers so, and the agent behind it."""
    service = Service([*answers])
    async with serving(service) as url:
        yield service, A2AAgent(url, headers={"Authorization": f"Bearer {SECRET}"})


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        pytest.param([card, answering(b"", status=500)], "AGENT_UNWELL", id="500"),
        pytest.param([card, answering(b"", status=429)], "AGENT_THROTTLED", id="429"),
        pytest.param([card, answering(b"", status=401)], "AGENT_REFUSED", id="401"),
        pytest.param([card, answering(b"", status=404)], "AGENT_REFUSED", id="404"),
        pytest.param([card, ELSEWHERE], "AGENT_REFUSED", id="sent elsewhere"),
        pytest.param([card, cut_in_the_middle], "AGENT_CUT_OFF", id="cut in the middle"),
        pytest.param([card, hang_up], "AGENT_CUT_OFF", id="hung up"),
        pytest.param([card, endless], "AGENT_ANSWER_TOO_LARGE", id="50 MB"),
        pytest.param([card, MANY], "AGENT_ANSWER_TOO_LARGE", id="a million parts"),
        pytest.param([card, answering(b"<html>")], "AGENT_UNREADABLE", id="no JSON"),
        pytest.param([card, answering(b"[]")], "AGENT_UNREADABLE", id="a list"),
        pytest.param([card, answering(b"{}")], "AGENT_UNREADABLE", id="no JSON-RPC"),
        pytest.param([card, result_of("tea")], "AGENT_UNREADABLE", id="a text"),
        pytest.param([card, result_of({"task": {"id": 7, "status": []}})], "AGENT_UNREADABLE", id="no task"),
        pytest.param([card, result_of({})], "AGENT_UNREADABLE", id="nothing"),
        pytest.param([card, NESTED], "AGENT_UNREADABLE", id="nested"),
        pytest.param([card, PACKED], "AGENT_UNREADABLE", id="packed"),
        pytest.param([card, error_of(-32603)], "AGENT_UNWELL", id="internal error"),
        pytest.param([card, error_of(-32602)], "AGENT_REFUSED", id="invalid parameters"),
        pytest.param([card, error_of(-32601), error_of(-32601)], "AGENT_REFUSED", id="speaks nothing we know"),
        pytest.param([answering(b"", status=500)], "AGENT_UNWELL", id="no card now"),
        pytest.param([answering(b"tea")], "AGENT_UNREADABLE", id="a card that is none"),
        pytest.param([answering(b'{"name": "x"}')], "AGENT_REFUSED", id="a card that leads nowhere"),
        pytest.param([answering(json.dumps(card_of("tea")).encode())], "AGENT_REFUSED", id="a card that leads astray"),
        pytest.param([endless], "AGENT_ANSWER_TOO_LARGE", id="a card of 50 MB"),
    ],
)
async def test_whatever_goes_wrong_has_a_code(answers: list[Behave], code: str) -> None:
    """And one attempt asks once."""
    async with peer(*answers) as (service, agent):
        assert code == await code_of(agent)
        assert not service.answers


async def test_nobody_there_is_unreachable() -> None:
    """A refused connection says nothing about the agent."""
    assert "AGENT_UNREACHABLE" == await code_of(A2AAgent("http://127.0.0.1:9"))


async def test_an_agent_is_told_in_whose_trace_it_works() -> None:
    """Each request to it carries the span of the attempt; what another one is asked for does not."""
    there, trace = world(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with peer(card, SUBMITTED, COMPLETED) as (service, agent), there.node(app_with(agent, "x")) as node:
        await node.router.start(Start("main", "s", "default", None, trace=trace, input_bytes=4))
        await returned(there)
        asked = [request.headers.get("traceparent") for request in service.asked]
    assert {traceparent_of(trace, attempt_span_id("s", "analyst", 1))} == {*asked}


async def test_a_busy_agent_is_left_alone_for_as_long_as_it_asks() -> None:
    """`Retry-After` is the least pause, up to the longest that the policy has."""
    busy = answering(b"", status=429, headers={"Retry-After": "17"})
    for longest, pause in ((60, 17), (5, 5)):
        there = world()
        retry = RetryPolicy(max_attempts=2, max_delay=timedelta(seconds=longest))
        async with peer(card, busy, card, result_of({"task": task("COMPLETED", "done")})) as (_, agent):
            result = await outcome(there, app_with(agent, "x", retry=retry))
        assert isinstance(result, dict)
        assert "done" == result["text"]
        [waited] = [
            each.event.next_attempt_at - each.at
            for each in there.journal.events("s")
            if isinstance(each.event, AgentRetrying)
        ]
        assert timedelta(seconds=pause) == waited


async def test_faults_while_a_task_is_followed_are_waited_out() -> None:
    """The agent works on, whatever its front says: one submission, one attempt."""
    faults = [answering(b"", status=500), hang_up, cut_in_the_middle, answering(b"", status=429), answering(b"tea")]
    async with peer(card, SUBMITTED, *faults, COMPLETED) as (service, agent):
        result = await outcome(world(), app_with(agent, "x"))
        methods = [body["method"] for body in service.bodies if isinstance(body, dict)]

    assert isinstance(result, dict)
    assert "done" == result["text"]
    assert ["SendMessage", *["GetTask"] * 6] == methods


async def test_an_agent_that_stays_silent_is_given_up_at_last() -> None:
    """After minutes in vain the attempt has failed; the next one asks after the same task."""
    down = [answering(b"", status=500)] * 60
    async with peer(card, SUBMITTED, *down) as (service, agent):
        assert "AGENT_UNWELL" == await code_of(agent)
        given_up_after = len(down) - len(service.answers)
    assert 20 < given_up_after < 60


async def test_an_answer_that_comes_after_the_timeout_is_the_next_attempts_result() -> None:
    """A task that cannot be cancelled is followed on, not asked for a second time."""
    working = [result_of(task("WORKING"))] * 8
    not_cancelable = error_of(-32002)
    async with serving(service := Service()) as url:
        service.answers += [card, SUBMITTED]

        async def late(request: web.Request) -> web.StreamResponse:
            """Work until the first attempt has been cancelled, in vain; be done by the second."""
            method = service.bodies[-1]["method"] if isinstance(service.bodies[-1], dict) else "GET"
            service.answers.append(late)
            if method == "CancelTask":
                working.clear()
                return await not_cancelable(request)
            if method == "GET":
                return await card(request)
            return await (result_of(task("WORKING")) if working else COMPLETED)(request)

        service.answers.append(late)
        result = await outcome(world(), app_with(A2AAgent(url), "x", retry=TWICE, timeout=5))
        methods = [body["method"] for body in service.bodies if isinstance(body, dict)]

    assert isinstance(result, dict)
    assert "done" == result["text"]
    assert (1, 1) == (methods.count("SendMessage"), methods.count("CancelTask"))


@pytest.mark.parametrize("has_card", [False, True])
@pytest.mark.parametrize("prompt", ["hello", {"amount": 1}])
async def test_an_agent_of_the_first_generation_is_spoken_to_as_it_understands(prompt: Json, *, has_card: bool) -> None:
    """By `tasks/send`, under a task id of ours; found out by its having no card, or by its not knowing the method."""
    missing = answering(b"", status=404)
    part: JsonObject = {"type": "text", "text": "done"}
    done: JsonObject = {"id": "", "status": {"state": "completed"}, "artifacts": [{"parts": [part]}]}

    async def old_card(request: web.Request) -> web.StreamResponse:
        return web.json_response({"name": "old", "url": f"http://{request.host}/rpc", "capabilities": {}, "skills": []})

    async with serving(service := Service()) as url:

        async def accepted(request: web.Request) -> web.StreamResponse:
            return await result_of({"id": parameters(service)["id"], "status": {"state": "submitted"}})(request)

        async def completed(request: web.Request) -> web.StreamResponse:
            return await result_of({**done, "id": parameters(service)["id"]})(request)

        found_out = [missing, old_card, error_of(-32601)] if has_card else [missing, missing]
        service.answers += [*found_out, accepted, answering(b"", status=500), completed]
        result = await outcome(world(), app_with(A2AAgent(url), prompt, retry=ONCE))
        asked = [body for body in service.bodies if isinstance(body, dict) and body["method"] != "message/send"]

    assert isinstance(result, dict)
    assert "done" == result["text"]
    assert ["tasks/send", "tasks/get", "tasks/get"] == [body["method"] for body in asked]
    parts: Json = [{"type": "text", "text": "hello"}] if prompt == "hello" else [{"type": "data", "data": prompt}]
    assert {"role": "user", "parts": parts} == asked[0]["params"]["message"]  # type: ignore[call-overload, index]


def parameters(service: Service) -> JsonObject:
    """Return the parameters of the latest call."""
    latest = service.bodies[-1]
    assert isinstance(latest, dict)
    found = latest["params"]
    assert isinstance(found, dict)
    return found


async def test_what_authorises_us_is_sent_to_the_agents_own_origin_alone() -> None:
    """A card that leads elsewhere, by mistake or not, gets no credentials there, unless that origin is named."""
    async with serving(elsewhere := Service()) as there:
        elsewhere.answers += [answering(b"", status=403), result_of({"task": task("COMPLETED", "done")})]

        async def misleading(_: web.Request) -> web.StreamResponse:
            return web.json_response(card_of(f"{there}/agent"))

        async with peer(misleading, misleading) as (service, agent):
            assert "AGENT_REFUSED" == await code_of(agent)
            named = A2AAgent(agent.url, headers=agent.headers, origins=(there,))
            await outcome(world(), app_with(named, "x"))

    sent = f"Bearer {SECRET}"
    assert [sent, sent] == [request.headers.get("Authorization") for request in service.asked]
    assert [None, sent] == [request.headers.get("Authorization") for request in elsewhere.asked]


async def test_no_secret_stands_in_a_journal_a_log_or_a_text() -> None:
    """Whatever goes wrong; and headers may be a function, asked for fresh ones at every run."""
    asked = 0

    async def fresh() -> dict[str, str]:
        nonlocal asked
        asked += 1
        return {"X-Api-Key": f"{SECRET}-{asked}"}

    there = world()
    async with peer(card, answering(b"", status=500), card, answering(b"", status=401)) as (service, agent):
        declared = A2AAgent(agent.url, headers=fresh)
        await outcome(there, app_with(declared, "x", retry=TWICE))
        seen = [request.headers["X-Api-Key"] for request in service.asked]

    assert [f"{SECRET}-1"] * 2 + [f"{SECRET}-2"] * 2 == seen
    assert SECRET not in f"{agent!r} {declared!r} {there.journal.events('s')!r} {there.logs!r}"


@pytest.mark.parametrize("url", ["", "analyst", "ftp://host/", "https://", "https://user:secret@host/"])
def test_what_is_no_address_is_found_when_it_is_declared(url: str) -> None:
    """A mistake stops the deployment, not a session; the error does not quote it."""
    with pytest.raises(RegistrationError) as raised:
        A2AAgent(url)
    assert "secret" not in str(raised.value)
