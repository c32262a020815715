"""`POST /invocations` as Bedrock AgentCore Runtime calls it: one invocation is one session, however often it comes."""

import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from bedrock_agentcore.runtime.models import REQUEST_ID_HEADER, SESSION_HEADER, PingStatus
from http_stage import NOON, Stage, sample_app, stage
from pydantic import BaseModel

from actors import ManualClock, settle
from orchestrator import NonRetryable, Orchestrator, SessionContext
from orchestrator.errors import RegistrationError
from orchestrator.http import parameters as p
from orchestrator.http.invocations import REQUEST_ID
from orchestrator.http.openapi import document
from orchestrator.http.routes import ROUTES
from orchestrator.http.server import HttpLimits
from orchestrator.http.streams import KEEP_ALIVE_SECONDS
from orchestrator.session.events import (
    Event,
    ProgressReported,
    SessionCancelled,
    SessionCompleted,
    SessionContinued,
    SessionStarted,
)
from orchestrator.session.values import Json, derive_session_id, payload_digest

RUNTIME = "user-17-conversation-0000000000042"
"""As short as AgentCore allows."""
UNFIT = ["x" * 256, f"{RUNTIME}/thread", f"{RUNTIME}:g2"]
"""Runtime session ids that are no session ids of ours."""
STREAM = {"Accept": "text/event-stream"}


class Prompt(BaseModel):
    """What `chat` is started with."""

    prompt: str


def chat_app() -> Orchestrator:
    """Return an application whose only session type does what its prompt says."""
    app = Orchestrator()

    @app.session("chat")
    async def chat(ctx: SessionContext, asked: Prompt) -> str:
        match asked.prompt:
            case "fail":
                raise NonRetryable("no such thing")
            case _:
                await ctx.progress("thinking", percent=50, data={"tokens": 7})
        return asked.prompt.upper()

    return app


class AtOnce:
    """An `EventSignal` that lets everything else run, and looks again."""

    async def wait(self, session_id: str, timeout: float) -> None:
        """See `EventSignal.wait`."""
        await settle()


def chatting(**given: Any) -> AbstractAsyncContextManager[Stage]:
    """Run a node of the chat application, whose streams look again at once."""
    return stage(app=chat_app(), news=AtOnce(), **given)


async def asked(node: Stage, body: Json, headers: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON object that an invocation is answered with."""
    return await sent(node, json.dumps(body).encode(), headers)


async def sent(node: Stage, data: bytes, headers: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Return what a body of these bytes is answered with."""
    of_json = {"Content-Type": "application/json", **headers}
    async with node.http.post(f"{node.url}/invocations", data=data, headers=of_json) as answer:
        return answer.status, await answer.json(content_type=None)


async def invoked(node: Stage, body: Json, headers: Mapping[str, str]) -> str:
    """Return the session id that an accepted invocation is answered with."""
    status, answer = await asked(node, body, headers)
    assert (200, "ACCEPTED") == (status, answer.get("status")), answer
    return str(answer["session_id"])


async def told(node: Stage, prompt: str, runtime_id: str = RUNTIME) -> list[dict[str, Json]]:
    """Return what an invocation's stream tells: the data of each frame, with the frame's event."""
    headers = {**STREAM, SESSION_HEADER: runtime_id}
    async with node.http.post(f"{node.url}/invocations", json={"prompt": prompt}, headers=headers) as answer:
        assert (200, "text/event-stream") == (answer.status, answer.content_type), await answer.text()
        text = await answer.text()
    frames = [dict(line.split(": ", 1) for line in each.splitlines()) for each in text.split("\n\n") if each]
    assert {"retry": "1000"} == frames[0]
    return [{"event": each["event"], **json.loads(each["data"])} for each in frames[1:]]


def named(runtime_id: str) -> dict[str, str]:
    """Return the header of that runtime session id."""
    return {SESSION_HEADER: runtime_id}


def test_the_headers_are_those_of_agentcores_own_sdk() -> None:
    """Letter for letter; so are the words of a ping, below."""
    assert (SESSION_HEADER, REQUEST_ID_HEADER) == (p.RUNTIME_SESSION_ID.name, REQUEST_ID)


async def test_the_first_invocation_of_a_runtime_session_is_reachable_under_its_id() -> None:
    """It is answered once it is durable, and the session is there."""
    async with chatting() as node:
        headers = {SESSION_HEADER: RUNTIME}
        async with node.http.post(f"{node.url}/invocations", json={"prompt": "hello"}, headers=headers) as answer:
            assert {"session_id": RUNTIME, "status": "ACCEPTED"} == await answer.json()
            assert (200, f"/sessions/{RUNTIME}") == (answer.status, answer.headers["Location"])
        await settle()
        _, session = await node.ask("GET", f"/sessions/{RUNTIME}")
        assert ("chat", "COMPLETED", "HELLO") == (session["session_type"], session["state"], session["result"])


async def test_a_repeated_invocation_is_the_same_session_also_after_its_end() -> None:
    """Clients repeat what they have no answer to: one run, and nothing is told apart."""
    async with chatting() as node:
        first = await invoked(node, {"prompt": "hello"}, named(RUNTIME))
        await settle()
        _, before = await node.ask("GET", f"/sessions/{RUNTIME}/events")
        assert first == await invoked(node, {"prompt": "hello"}, named(RUNTIME))
        assert (before, 1) == ((await node.ask("GET", f"/sessions/{RUNTIME}/events"))[1], await sessions(node))


async def test_another_prompt_in_the_same_runtime_session_is_a_session_of_its_own() -> None:
    """A conversation: each turn runs once, its repetitions are absorbed, and no turn is refused for one before."""
    async with chatting() as node:
        turns = [await invoked(node, {"prompt": prompt}, named(RUNTIME)) for prompt in ("hello", "and?", "so?")]
        assert (RUNTIME, 3) == (turns[0], len(set(turns)))
        assert turns == [await invoked(node, {"prompt": say}, named(RUNTIME)) for say in ("hello", "and?", "so?")]
        assert 3 == await sessions(node)
        other = await invoked(node, {"prompt": "and?"}, named(f"{RUNTIME}-b"))
        assert f"{RUNTIME}-b" == other


async def test_a_key_lets_the_same_prompt_run_twice_and_tells_its_repetitions() -> None:
    """Saying "go on" twice is two turns; the same key with another body is a mistake."""
    async with chatting() as node:
        going: Json = {"prompt": "go on"}
        one = await invoked(node, going, keyed("turn-1"))
        two = await invoked(node, going, keyed("turn-2"))
        assert one == await invoked(node, going, keyed("turn-1"))
        assert 2 == await sessions(node)
        assert one != two
        body: Json = {"prompt": "stop"}
        status, problem = await asked(node, body, keyed("turn-1"))
        assert (409, "IDEMPOTENCY_CONFLICT") == (status, problem["code"])


async def test_what_a_start_says_of_its_id_holds_in_an_invocation() -> None:
    """Its session id goes before the runtime session's, its key is a key; with either, another body is a conflict."""
    async with chatting() as node:
        hello: dict[str, Json] = {"session_type": "chat", "input": {"prompt": "hello"}}
        other: dict[str, Json] = {"session_type": "chat", "input": {"prompt": "other"}}
        mine: dict[str, Json] = {"session_id": "mine"}
        assert "mine" == await invoked(node, {**hello, **mine}, named(RUNTIME))
        assert 409 == (await asked(node, {**other, **mine}, named(RUNTIME)))[0]
        key: dict[str, Json] = {"idempotency_key": "turn-1"}
        assert await invoked(node, hello, keyed("turn-1")) == await invoked(node, {**hello, **key}, named(RUNTIME))
        assert 409 == (await asked(node, {**other, **key}, named(RUNTIME)))[0]
        assert RUNTIME == await invoked(node, hello, named(RUNTIME))


@pytest.mark.parametrize("runtime_id", UNFIT)
async def test_a_runtime_session_id_that_is_no_session_id_stands_for_one(runtime_id: str) -> None:
    """The same one on every node; the answer names it, and it is found there. A turn is another one."""
    async with chatting() as node, chatting() as other:
        first = await invoked(node, {"prompt": "hello"}, named(runtime_id))
        assert first == await invoked(other, {"prompt": "hello"}, named(runtime_id))
        assert (200, first) == (status_and_id(await node.ask("GET", f"/sessions/{first}")))
        assert first != await invoked(node, {"prompt": "and?"}, named(runtime_id))


@pytest.mark.parametrize("runtime_id", ["x" * 32, "x" * 257, f"{RUNTIME} {RUNTIME}", "\u00fc" * 40])
async def test_a_runtime_session_id_that_agentcore_would_not_send_is_refused(runtime_id: str) -> None:
    """33 to 256 characters; the text names the header, also under `error`, where AgentCore's clients look."""
    async with chatting() as node:
        status, problem = await asked(node, {"prompt": "hello"}, named(runtime_id))
        assert (422, "INVALID_MESSAGE") == (status, problem["code"])
        assert str(problem["detail"]).startswith(f"{SESSION_HEADER}: ")
        assert problem["detail"] == problem["error"]
        assert 0 == await sessions(node)


async def test_an_invocation_without_a_runtime_session_is_a_start_like_any_other() -> None:
    """As somebody who tries it by hand sends it: a new session each time, or the one of its key."""
    async with chatting() as node:
        hello: Json = {"prompt": "hello"}
        assert await invoked(node, hello, {}) != await invoked(node, hello, {})
        keyed = await invoked(node, hello, {"Idempotency-Key": "k"})
        assert derive_session_id("default", "chat", "k") == keyed


async def test_a_body_may_name_its_session_type() -> None:
    """As a start does. Without, an application of several must say which of them takes invocations."""
    async with stage() as node:
        order: Json = {"session_type": "order", "input": {"item": "tea"}, "tenant": "acme"}
        session_id = await invoked(node, order, named(RUNTIME))
        _, session = await node.ask("GET", f"/sessions/{session_id}")
        assert ("order", "acme") == (session["session_type"], session["tenant"])
        status, problem = await asked(node, {"item": "tea"}, named(f"{RUNTIME}-b"))
        assert (422, "UNKNOWN_SESSION_TYPE") == (status, problem["code"])
        assert str(problem["detail"]).endswith("known: echo, order")


@pytest.mark.parametrize("body", [{"prompt": "tea"}, ["tea"], "tea", 7, None])
async def test_any_json_is_the_input_of_the_type_that_takes_invocations(body: Json) -> None:
    """The whole body, as it came."""
    app = sample_app()

    @app.session("talk", invocations=True)
    async def talk(ctx: SessionContext, value: object) -> object:
        return value

    async with stage(app=app) as node:
        assert RUNTIME == await invoked(node, body, named(RUNTIME))
        await settle()
        _, session = await node.ask("GET", f"/sessions/{RUNTIME}")
        assert ("talk", body) == (session["session_type"], session["result"])


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"{", "INVALID_JSON", "the body is not JSON"),
        (b"", "INVALID_JSON", "the body is empty"),
        (b'{"prompt": 7}', "INVALID_INPUT", "input"),
        (b'{"session_type": "tea"}', "UNKNOWN_SESSION_TYPE", "session_type: 'tea'"),
        (b'{"session_type": 7}', "INVALID_MESSAGE", "session_type: "),
        (b'{"session_type": "chat", "input": {"prompt": "x"}, "session_id": "a/b"}', "INVALID_MESSAGE", "session_id: "),
        (b'{"session_type": "chat", "input": {"prompt": "x"}, "tenant": "a b"}', "INVALID_MESSAGE", "tenant: "),
    ],
)
async def test_a_body_that_asks_for_nothing_that_can_be_is_refused(data: bytes, code: str, says: str) -> None:
    """422 with a code, and a text under `error`; nothing is begun."""
    async with chatting() as node:
        status, problem = await sent(node, data, named(RUNTIME))
        assert (422, code) == (status, problem["code"])
        assert str(problem["error"]).startswith(says)
        assert 0 == await sessions(node)


@pytest.mark.parametrize("said", [None, "application/octet-stream"])
async def test_a_body_need_not_say_that_it_is_json_but_a_page_of_another_site_must(said: str | None) -> None:
    """Clients of AgentCore's often do not; a browser would ask first before it lets a page say so."""
    async with chatting() as node:
        headers = {**named(RUNTIME), **({} if said is None else {"Content-Type": said})}
        skipped = () if said else ("Content-Type",)
        url, data = f"{node.url}/invocations", b'{"prompt": "hello"}'
        page = {**headers, "Origin": "https://example.com"}
        async with node.http.post(url, data=data, headers=page, skip_auto_headers=skipped) as answer:
            assert 415 == answer.status
        async with node.http.post(url, data=data, headers=headers, skip_auto_headers=skipped) as answer:
            assert 200 == answer.status
        text = {**headers, "Content-Type": "text/plain"}
        async with node.http.post(url, data=data, headers=text) as answer:
            assert (415, "UNSUPPORTED_MEDIA_TYPE") == (answer.status, (await answer.json(content_type=None))["code"])


async def test_other_endpoints_say_nothing_under_error() -> None:
    """The member is for AgentCore's clients alone."""
    async with chatting() as node:
        _, problem = await node.ask("GET", "/sessions/nobody")
        assert "error" not in problem


async def test_the_callers_trace_becomes_the_sessions_and_no_header_is_kept() -> None:
    """`traceparent` before X-Ray's header. Keys, tokens and baggage stand in no journal and no log; a user is no
    tenant, for whoever may invoke may name any.
    """
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    xray = "Root=1-67891233-abcdef012345678912345678;Parent=463ac35c9f6413ad;Sampled=1"
    secrets = {
        "Authorization": "Bearer secret-1",
        "WorkloadAccessToken": "secret-2",
        "X-Amz-Bedrock-AgentCore-Identity-WAT": "secret-3",
        "X-Amzn-Bedrock-AgentCore-Runtime-User-Id": "secret-4",
        "X-Amzn-Bedrock-AgentCore-Runtime-Custom-Key": "secret-5",
        "OAuth2CallbackUrl": "https://example.com/secret-6",
        "baggage": "user=secret-7",
    }
    async with chatting() as node:
        known = {**named(RUNTIME), REQUEST_ID: "request-1", "traceparent": parent, "X-Amzn-Trace-Id": xray}
        await invoked(node, {"prompt": "hello"}, {**known, **secrets})
        await invoked(node, {"prompt": "and?"}, {**named(f"{RUNTIME}-b"), "X-Amzn-Trace-Id": xray})
        await settle()
        assert [parent, "00-67891233abcdef012345678912345678-463ac35c9f6413ad-01"] == [
            await trace_of(node, RUNTIME),
            await trace_of(node, f"{RUNTIME}-b"),
        ]
        _, events = await node.ask("GET", f"/sessions/{RUNTIME}/events")
        assert "secret" not in json.dumps([events, node.logs])
        assert "default" == (await node.ask("GET", f"/sessions/{RUNTIME}"))[1]["tenant"]
        accepted = next(line for line in node.logs if line["event"] == "invocation_accepted")
        assert ("request-1", RUNTIME, True) == (
            accepted["request_id"],
            accepted["runtime_session_id"],
            accepted["is_new"],
        )


async def test_a_stream_tells_the_progress_and_the_result_and_closes() -> None:
    """To who accepts one. The same request again tells it all again, and runs nothing."""
    async with chatting() as node:
        hello = await told(node, "hello")
        thinking = {"message": "thinking", "percent": 50.0, "data": {"tokens": 7}}
        assert [
            {"event": "accepted", "session_id": RUNTIME, "status": "ACCEPTED"},
            {"event": "progress", "session_id": RUNTIME, "status": "RUNNING", **thinking},
            {"event": "result", "session_id": RUNTIME, "status": "COMPLETED", "result": "HELLO"},
        ] == hello
        assert (hello, 1) == (await told(node, "hello"), await sessions(node))


async def test_a_stream_tells_an_error_in_the_words_of_agentcores_sdk() -> None:
    """A failure, and a cancellation of a session that another node runs."""
    async with chatting() as node:
        await has_elsewhere(node, "hello", SessionCancelled("too late"))
        why = {"error": "too late", "error_type": "SessionCancelled", "message": "too late"}
        ended = {"event": "error", "session_id": RUNTIME, "status": "CANCELLED", "code": "SESSION_CANCELLED"}
        assert ended | why == (await told(node, "hello"))[-1]
    async with chatting() as node:
        why = {"error": "no such thing", "error_type": "NonRetryable", "message": "no such thing"}
        ended = {"event": "error", "session_id": RUNTIME, "status": "FAILED", "code": "NON_RETRYABLE"}
        assert ended | why == (await told(node, "fail"))[-1]


async def test_a_stream_goes_on_through_the_generations_of_its_session() -> None:
    """What continues as new has its result at the end of the last generation; another node runs it."""
    async with chatting() as node:
        second = f"{RUNTIME}:g2"
        await has_elsewhere(node, "hello", ProgressReported("a", "once more"), SessionContinued(None, second))
        await node.has(second, ProgressReported("a", "thinking"), SessionCompleted("HELLO"))
        ends = [(each["event"], each.get("message", each.get("result"))) for each in await told(node, "hello")]
        assert [("accepted", None), ("progress", "once more"), ("progress", "thinking"), ("result", "HELLO")] == ends
        assert {RUNTIME} == {each["session_id"] for each in await told(node, "hello")}


async def test_a_client_that_leaves_its_stream_does_the_session_no_harm() -> None:
    """Its stream ends at once, and the session goes on to the end that others see; no line complains."""
    async with stage(app=chat_app()) as node:
        await has_elsewhere(node, "hello")
        headers = {**STREAM, SESSION_HEADER: RUNTIME}
        async with node.http.post(f"{node.url}/invocations", json={"prompt": "hello"}, headers=headers) as answer:
            await node.bell.waited_for_by(1)
            answer.close()
            await node.bell.waited_for_by(0)
        assert 0 == len(node.streams)
        await node.record(RUNTIME, SessionCompleted("HELLO"))
        _, session = await node.ask("GET", f"/sessions/{RUNTIME}")
        assert ("COMPLETED", "HELLO") == (session["state"], session["result"])
        assert ["invocation_accepted"] == [line["event"] for line in node.logs]


async def test_a_silent_stream_keeps_its_connection_alive() -> None:
    """A comment every 15 seconds, so that no proxy takes it for dead."""
    clock = ManualClock(NOON)
    async with stage(app=chat_app(), clock=clock) as node:
        await has_elsewhere(node, "hello")
        headers = {**STREAM, SESSION_HEADER: RUNTIME}
        async with node.http.post(f"{node.url}/invocations", json={"prompt": "hello"}, headers=headers) as answer:
            await node.bell.waited_for_by(1)
            clock.advance(KEEP_ALIVE_SECONDS)
            await node.bell.ring()
            await node.bell.waited_for_by(1)
            await node.record(RUNTIME, SessionCompleted("HELLO"))
            await node.bell.ring()
            frames = (await answer.text()).split("\n\n")
        assert [": still here", "event: result"] == [frame.splitlines()[0] for frame in frames[2:4]]


async def test_a_node_that_serves_no_more_streams_or_drains_accepts_nothing() -> None:
    """503 with Retry-After: another node, or a later try, takes it."""
    async with chatting(limits=HttpLimits(streams_max=0)) as node:
        status, problem = await asked(node, {"prompt": "hello"}, {**named(RUNTIME), **STREAM})
        assert (503, "TOO_MANY_STREAMS", 0) == (status, problem["code"], await sessions(node))
        node.health.is_draining = True
        status, problem = await asked(node, {"prompt": "hello"}, named(RUNTIME))
        assert (503, "DRAINING", 0) == (status, problem["code"], await sessions(node))


async def test_a_node_with_keys_asks_for_one() -> None:
    """As at every endpoint that the contract does not open: on AgentCore, which sends none, keys are left unset."""
    async with chatting(keys=["k"]) as node:
        status, problem = await asked(node, {"prompt": "hello"}, named(RUNTIME))
        assert (401, "UNAUTHORIZED") == (status, problem["code"])
        key = {"Authorization": "Bearer k"}
        assert RUNTIME == await invoked(node, {"prompt": "hello"}, {**named(RUNTIME), **key})


async def test_the_time_of_a_ping_moves_only_when_the_status_does() -> None:
    """However often it is asked for, and however many tasks come and go meanwhile: AgentCore counts idle time by it."""
    clock = ManualClock(NOON)
    async with stage(clock=clock) as node:
        noon = int(NOON.timestamp())
        assert [(PingStatus.HEALTHY, noon)] * 3 == [await ping(node, clock) for _ in range(3)]
        with node.health._busy.track():
            since = noon + 30
            assert [(PingStatus.HEALTHY_BUSY, since)] * 3 == [await ping(node, clock) for _ in range(3)]
            with node.health._busy.track():
                assert (PingStatus.HEALTHY_BUSY, since) == await ping(node, clock)
            assert (PingStatus.HEALTHY_BUSY, since) == await ping(node, clock)
        assert [(PingStatus.HEALTHY, noon + 80)] * 3 == [await ping(node, clock) for _ in range(3)]


async def test_a_node_whose_dependency_is_gone_still_answers_pings_with_one_of_the_two_words() -> None:
    """To end it would cure nothing, and AgentCore knows no third word; `/health` says what is wrong."""
    async with stage() as node:
        node.health._reachability = {"table": lambda: 600.0}
        assert 503 == (await node.ask("GET", "/health"))[0]
        status, body = await node.ask("GET", "/ping")
        assert (200, "Healthy") == (status, body["status"])


def test_only_one_session_type_takes_invocations() -> None:
    """Told when the module is imported; the only type there is takes them without a word."""
    assert "chat" == chat_app().invoked_type.name  # type: ignore[union-attr]
    assert sample_app().invoked_type is None
    app = Orchestrator()

    async def handler(ctx: SessionContext) -> None: ...

    app.session("a", invocations=True)(handler)
    with pytest.raises(RegistrationError, match="'a' and 'b'"):
        app.session("b", invocations=True)(handler)
    app.session("c")(handler)
    assert "a" == app.invoked_type.name  # type: ignore[union-attr]


def test_the_document_says_which_body_is_an_input() -> None:
    """Any that names no session type, where one takes invocations; else each must name its type."""
    choices = invocation_bodies(chat_app())
    assert [{"$ref": "#/components/schemas/Start.chat"}] == choices[:1]
    assert {"not": {"type": "object", "required": ["session_type"]}} == choices[1]["allOf"][1]
    assert 2 == len(invocation_bodies(sample_app()))


def invocation_bodies(app: Orchestrator) -> list[Any]:
    """Return the forms that the document knows of an invocation's body."""
    found: Any = document(ROUTES, app, needs_key=False)
    choices: list[Any] = found["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]["schema"][
        "oneOf"
    ]
    return choices


def keyed(key: str) -> dict[str, str]:
    """Return the headers of an invocation with a key of its own."""
    return {**named(RUNTIME), "Idempotency-Key": key}


async def has_elsewhere(node: Stage, prompt: str, *events: Event) -> None:
    """Let another node run the session of this prompt, with these events so far."""
    digest = payload_digest("chat", "default", {"prompt": prompt})
    await node.has(RUNTIME, *events, session_type="chat", payload_sha256=digest)


async def ping(node: Stage, clock: ManualClock) -> tuple[PingStatus, int]:
    """Return the status as AgentCore's own SDK reads it and the time, and let ten seconds pass."""
    status, body = await node.ask("GET", "/ping")
    assert (200, {"status", "time_of_last_update"}) == (status, set(body))
    clock.advance(10)
    since = body["time_of_last_update"]
    assert isinstance(since, int)
    return PingStatus(body["status"]), since


async def sessions(node: Stage) -> int:
    """Return how many sessions there are."""
    rows = (await node.ask("GET", "/sessions"))[1]["sessions"]
    assert isinstance(rows, list)
    return len(rows)


async def trace_of(node: Stage, session_id: str) -> Json:
    """Return the trace that a session's first event records."""
    async for recorded in node.journal.read(session_id):
        assert isinstance(recorded.event, SessionStarted)
        return recorded.event.trace
    raise AssertionError("no event")


def status_and_id(answer: tuple[int, dict[str, Json]]) -> tuple[int, Json]:
    """Return the two of an answer."""
    return answer[0], answer[1].get("session_id")
