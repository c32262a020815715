"""Bad input stops nothing: it ends in the dead-letter queue or a 4xx, with a reason, and the rest goes on (I11)."""

import asyncio
import io
import json
import signal

import aiohttp
import pytest

from orchestrator.session.values import Json
from tests.integration.deployment import Deployment, Worker, start_message

MEBIBYTE = 1_048_576

POISON = {
    "not JSON": ("tea, please", "INVALID_JSON"),
    "half a document": ('{"kind": "start"', "INVALID_JSON"),
    "a list": ("[1, 2]", "INVALID_MESSAGE"),
    "no kind": ('{"session_type": "echo"}', "INVALID_MESSAGE"),
    "an unknown kind": ('{"kind": "restart", "session_type": "echo"}', "UNKNOWN_KIND"),
    "a kind that is no text": ('{"kind": {"a": 1}}', "UNKNOWN_KIND"),
    "an unknown type": (json.dumps(start_message("nobody")), "UNKNOWN_SESSION_TYPE"),
    "an input that does not validate": (json.dumps(start_message("order", {"item": "tea"})), "INVALID_INPUT"),
    "deep nesting": (
        '{"kind": "start", "session_type": "echo", "input": ' + "[" * 9_000 + "]" * 9_000 + "}",
        "INVALID_JSON",
    ),
    "NaN": ('{"kind": "start", "session_type": "echo", "input": NaN}', "INVALID_JSON"),
    "a lone surrogate": ('{"kind": "start", "session_type": "echo", "input": "\\ud800"}', "INVALID_JSON"),
    "a session id with control characters": (
        json.dumps(start_message("echo", session_id="a\x07b")),
        "INVALID_MESSAGE",
    ),
    "a session id that names a generation": (json.dumps(start_message("echo", session_id="a:g2")), "INVALID_MESSAGE"),
    "a tenant with spaces": (json.dumps(start_message("echo", tenant="a b")), "INVALID_MESSAGE"),
    "an empty idempotency key": (json.dumps(start_message("echo", idempotency_key="")), "INVALID_MESSAGE"),
    "a signal without a session": ('{"kind": "signal", "name": "nudge"}', "INVALID_MESSAGE"),
    "a cancel of what can be no session": ('{"kind": "cancel", "session_id": "a/b"}', "INVALID_MESSAGE"),
    "a callback of nobody's": (
        '{"kind": "callback", "callback_id": "c", "token": "t", "status": "SUCCESS"}',
        "UNKNOWN_CALLBACK",
    ),
    "a record that S3 never sent": ('{"Records": [{"eventSource": "aws:s3"}]}', "INVALID_MESSAGE"),
    "an object that no trigger matches": (
        json.dumps(
            {
                "Records": [
                    {
                        "eventSource": "aws:s3",
                        "eventName": "ObjectCreated:Put",
                        "s3": {"bucket": {"name": "b"}, "object": {"key": "out/a.bin", "sequencer": "1"}},
                    }
                ]
            }
        ),
        "NO_TRIGGER",
    ),
}


async def test_what_can_never_succeed_is_dead_lettered_with_its_reason_and_the_rest_goes_on(
    deployment: Deployment,
) -> None:
    """Every kind of bad message comes out unchanged with code and text; a good one behind them all runs."""
    worker = await deployment.start()
    for body, _ in POISON.values():
        await deployment.send(body)
    await deployment.send(start_message("echo", 1, session_id="after"))
    await worker.logged("session_ended", session_id="after")

    letters = dict(await deployment.dead_letters(len(POISON)))
    assert dict(POISON.values()) == {body: attributes["ErrorCode"] for body, attributes in letters.items()}
    assert all(attributes["ErrorMessage"] and attributes["OriginalMessageId"] for attributes in letters.values())
    invalid = letters[POISON["an input that does not validate"][0]]
    assert "input.amount: Field required" == invalid["ErrorMessage"]
    await worker.logged("message_dead_lettered", times=len(POISON))


async def test_an_input_over_the_inline_limit_lives_in_the_bucket(deployment: Deployment) -> None:
    """By queue and over HTTP: the journal names where it is, the handler gets it whole, and the end is found by it."""
    worker, text = await deployment.start(), "x" * 300_000
    await deployment.send(start_message("echo", text, session_id="queue"))
    start: Json = {"session_type": "echo", "input": text, "session_id": "http"}
    async with deployment.http.post(f"{worker.base_url}/sessions", json=start) as answer:
        assert 202 == answer.status
    for session_id in ("queue", "http"):
        await worker.logged("session_ended", session_id=session_id, status="COMPLETED")
        first, last, _ = await deployment.items(session_id)
        for reference in (json.loads(first["data"])["input"], json.loads(last["data"])["result"]):
            assert reference["artifact"].startswith(f"s3://{deployment.settings.bucket}/sessions/{session_id}/")
    code, out, err = await deployment.cli("submit", "echo", "--input", "-", "--wait", stdin=json.dumps(text))
    assert (0, text) == (code, json.loads(out)), err


async def test_a_message_too_long_for_the_dead_letter_queue_is_kept_in_the_bucket(deployment: Deployment) -> None:
    """A body of one mebibyte leaves no room for the reason, so the letter names where the body is."""
    body = '{"kind": "nothing", "padding": "' + "x" * (MEBIBYTE - 34) + '"}'
    assert MEBIBYTE == len(body)
    worker = await deployment.start()
    await deployment.send(body)
    await worker.logged("message_dead_lettered")
    ((letter, attributes),) = await deployment.dead_letters(1)
    assert "UNKNOWN_KIND" == attributes["ErrorCode"]
    reference = json.loads(letter)
    bucket, _, key = reference["artifact"].removeprefix("s3://").partition("/")
    stored = await deployment.clients.s3.get_object(Bucket=bucket, Key=key)
    assert body.encode() == await stored["Body"].read()


async def test_the_test_event_of_s3_is_acknowledged_and_starts_nothing(deployment: Deployment) -> None:
    """S3 sends one when notifications are set up: it is no error and no session."""
    worker = await deployment.start()
    await deployment.send({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"})
    await deployment.send(start_message("echo", 1, session_id="after"))
    await worker.logged("session_ended", session_id="after")
    worker.signal(signal.SIGTERM)
    await worker.ended()
    assert 0 == await deployment.queue_depth()
    assert [] == [line for line in worker.lines if line["event"] == "message_dead_lettered"]


async def test_a_file_in_the_bucket_starts_one_session_however_often_s3_tells(deployment: Deployment) -> None:
    """The same version of an object is one session; keys arrive form-encoded and reach the handler decoded."""
    record: Json = {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "b"}, "object": {"key": "in/t%C3%A9+1.txt", "sequencer": "0055", "size": 3}},
    }
    worker = await deployment.start()
    event: dict[str, Json] = {"Records": [record]}
    await deployment.send(event)
    await deployment.send({"Type": "Notification", "Message": json.dumps(event)})
    await worker.logged("session_ended", status="COMPLETED")
    absorbed = await worker.logged("duplicate_absorbed")
    last = (await deployment.items(str(absorbed[0]["session_id"])))[-2]
    assert {"result": "b/in/té 1.txt"} == json.loads(last["data"])


HANDLERS = {
    "raises": ("RuntimeError", "UNHANDLED", "the handler's own reason"),
    "not-json": ("NotSerializable", "NOT_SERIALIZABLE", "result: object is not JSON"),
    "exits-in-a-task": ("UserCodeExit", "USER_CODE_EXIT", "SystemExit: 3"),
    "refused": ("StepFailed", "STEP_FAILED", "refuse: NonRetryable: will never work"),
}


@pytest.mark.parametrize("session_type", HANDLERS)
async def test_a_handler_that_fails_ends_its_own_session_with_a_clear_error(
    deployment: Deployment, session_type: str
) -> None:
    """The terminal event names type, code and text of what went wrong."""
    worker = await deployment.start()
    await deployment.send(start_message(session_type, session_id="bad"))
    await worker.logged("session_ended", session_id="bad", status="FAILED")
    statuses = await deployment.statuses("bad")
    assert "AGENT_BACKGROUND_TASK_FAILED" == statuses[-1]
    assert "FAILED" == (await deployment.head("bad"))["state"]
    error = json.loads((await deployment.items("bad"))[-2]["data"])["error"]
    kind, code, text = HANDLERS[session_type]
    assert (kind, code) == (error["type"], error["code"])
    assert error["message"].startswith(text)


async def test_handlers_that_never_end_hold_up_neither_others_nor_the_end_of_the_node(deployment: Deployment) -> None:
    """One that never returns and one that swallows its cancellation are handed over when the node drains."""
    worker = await deployment.start(ORCHESTRATOR_DRAIN_SECONDS="0.2")
    for session_type in ("never-returns", "swallows-cancellation"):
        await deployment.send(start_message(session_type, session_id=session_type))
        await worker.logged("session_accepted", session_id=session_type)
    await deployment.send(start_message("echo", 1, session_id="after"))
    await worker.logged("session_ended", session_id="after")
    assert 0 == await deployment.stop(worker)
    for session_type in ("never-returns", "swallows-cancellation"):
        head = await deployment.head(session_type)
        assert ("RUNNING", False) == (head["state"], "owner" in head)


async def test_a_handler_that_blocks_the_loop_delays_the_node_and_shows_in_its_health(deployment: Deployment) -> None:
    """Other sessions go on after it; for a while the health check says that the loop stood still."""
    worker = await deployment.start()
    await deployment.send(start_message("blocks-the-loop", 5.8, session_id="blocker"))
    await worker.logged("session_accepted", session_id="blocker")
    await deployment.send(start_message("echo", 1, session_id="after"))
    await worker.logged("session_ended", session_id="after", status="COMPLETED")
    await worker.logged("session_ended", session_id="blocker", status="COMPLETED")
    status, body = await _get(deployment, worker, "/health")
    assert (503, "UNHEALTHY") == (status, body["status"])
    assert "event_loop" in str(body["checks"])


async def test_a_loop_blocked_past_the_node_timeout_ends_the_process_with_the_reason(deployment: Deployment) -> None:
    """A node that others must take for dead ends itself, and names the line that blocks it."""
    worker = await deployment.start(ORCHESTRATOR_HEARTBEAT_SECONDS="0.5", ORCHESTRATOR_NODE_TIMEOUT_SECONDS="2")
    await deployment.send(start_message("blocks-the-loop", 3_600, session_id="blocker"))
    assert 70 == await worker.ended()
    assert any("node_fenced" in line for line in worker.raw)
    assert any("in block" in line for line in worker.raw)


REQUESTS = {
    "not JSON": (b"tea", 422, "INVALID_JSON"),
    "a list": (b"[]", 422, "INVALID_MESSAGE"),
    "no type": (b"{}", 422, "INVALID_MESSAGE"),
    "an unknown type": (b'{"session_type": "nobody"}', 422, "UNKNOWN_SESSION_TYPE"),
    "an invalid input": (b'{"session_type": "order", "input": {"item": 1}}', 422, "INVALID_INPUT"),
    "a kind that is no start": (b'{"kind": "signal", "session_type": "echo"}', 422, "INVALID_MESSAGE"),
    "an id of dots": (b'{"session_type": "echo", "session_id": ".."}', 422, "INVALID_MESSAGE"),
    "NaN": (b'{"session_type": "echo", "input": NaN}', 422, "INVALID_JSON"),
    "a lone surrogate": (b'{"session_type": "echo", "input": "\\udc00"}', 422, "INVALID_JSON"),
    "bytes that are no UTF-8": (b'{"session_type": "echo", "input": "\xff"}', 422, "INVALID_JSON"),
    "deep nesting": (b'{"session_type": "echo", "input": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 422, "INVALID_JSON"),
    "an id with control characters": (b'{"session_type": "echo", "session_id": "a\\u0000"}', 422, "INVALID_MESSAGE"),
    "a body over the limit": (b'{"session_type": "echo", "input": "' + b"x" * MEBIBYTE + b'"}', 413, None),
}


async def test_bad_requests_are_answered_with_problems_that_name_the_field(deployment: Deployment) -> None:
    """Each is an RFC 9457 problem with its code; the next good request is accepted."""
    worker = await deployment.start()
    for name, (body, status, code) in REQUESTS.items():
        async with deployment.http.post(
            f"{worker.base_url}/sessions", data=io.BytesIO(body), headers={"Content-Type": "application/json"}
        ) as answer:
            problem = await answer.json(content_type="application/problem+json")
            assert (status, status) == (answer.status, problem["status"]), name
            assert code in {None, problem["code"]}, name
            assert problem["detail"], name
    broken = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with deployment.http.post(f"{worker.base_url}/sessions", data=b"no gzip", headers=broken) as answer:
        assert 400 == answer.status
    for path in (f"/sessions/{'x' * 3_000}", "/sessions/a%00b/events"):
        async with deployment.http.get(f"{worker.base_url}{path}") as answer:
            assert 404 == answer.status
    async with deployment.http.post(f"{worker.base_url}/sessions", data=b"{}") as answer:
        assert (415, "UNSUPPORTED_MEDIA_TYPE") == (answer.status, (await answer.json(content_type=None))["code"])
    async with deployment.http.post(f"{worker.base_url}/sessions", json={"session_type": "echo"}) as answer:
        assert 202 == answer.status


async def test_huge_headers_and_bodies_that_do_not_come_hold_nothing_up(deployment: Deployment) -> None:
    """Headers past the limit are refused; a body that stops coming is given up on while others are served."""
    worker = await deployment.start()
    async with deployment.http.get(f"{worker.base_url}/ping", headers={"X-Large": "x" * 100_000}) as answer:
        assert 400 == answer.status
    host, _, port = worker.base_url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = "POST /sessions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    writer.write(head.encode())
    await writer.drain()
    assert 200 == (await _get(deployment, worker, "/ping"))[0]
    status_line = await reader.readline()
    assert b"HTTP/1.1 408 Request Timeout\r\n" == status_line
    writer.close()


async def _get(deployment: Deployment, worker: Worker, path: str) -> tuple[int, dict[str, Json]]:
    async with deployment.http.get(f"{worker.base_url}{path}", timeout=aiohttp.ClientTimeout(20)) as answer:
        return answer.status, await answer.json(content_type=None)
