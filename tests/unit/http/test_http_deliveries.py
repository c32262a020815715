"""What can be told to a session over HTTP: it arrives as it was meant, and each refusal has its status and code."""

import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from http_stage import Stage, stage

from orchestrator.deliveries_memory import Promise
from orchestrator.errors import Poison
from orchestrator.session.values import Json

JSON = {"Content_Type": "application/json"}
ANSWER: Json = {"token": "t", "status": "SUCCESS", "result": {"n": 1}}
APPROVAL: Json = {"approved": True, "by": "ann", "comment": None}


def prepared(node: Stage) -> None:
    """Let there be an open and an ended session, callbacks and approvals of every kind."""
    node.deliveries.sessions |= {"s", "ended"}
    node.deliveries.ended.add("ended")
    node.deliveries.callbacks |= {
        "c": Promise("s", token="t"),
        "late": Promise("s", token="t", has_expired=True),
        "answered": Promise("s", token="t", answer="another"),
        "ended": Promise("ended", token="t"),
    }
    node.deliveries.approvals |= {
        ("s", "publish"): Promise("s"),
        ("s", "pay"): Promise("s", approvers=frozenset({"bob"})),
    }


async def test_a_signal_carries_any_json_value_and_is_accepted() -> None:
    """202 with the message id that was given; an empty body is null."""
    async with stage() as node:
        prepared(node)
        values: list[Json] = [{"a": [1]}, "text", 0, False, None]
        for number, value in enumerate(values):
            data = json.dumps(value).encode()
            answer = await node.ask(
                "POST", "/sessions/s/signals/nudge", data=data, Idempotency_Key=f"m-{number}", **JSON
            )
            assert (202, {"session_id": "s", "message_id": f"m-{number}", "status": "ACCEPTED"}) == answer
        assert 202 == (await node.ask("POST", "/sessions/s/signals/nudge", Idempotency_Key="empty"))[0]
        told = [json.loads(text) for text in node.deliveries.messages.values()]
        assert [["signal", "nudge", value] for value in [*values, None]] == told


async def test_a_cancel_may_say_why() -> None:
    """The body is optional; without a key the message gets an id of its own."""
    async with stage() as node:
        prepared(node)
        status, body = await node.ask("POST", "/sessions/s/cancel", json={"reason": "too late"})
        assert (202, "random-1") == (status, body["message_id"])
        assert 202 == (await node.ask("POST", "/sessions/s/cancel"))[0]
        told = [json.loads(text) for text in node.deliveries.messages.values()]
        assert [["cancel", "too late"], ["cancel", None]] == told


@pytest.mark.parametrize("name", ["publish#2", "chapter/publish", "chapter#3/publish#2"])
async def test_an_approval_is_named_by_its_operation_wherever_the_handler_asks(name: str) -> None:
    """A second use of a name, and one within a scope, hold what a path must encode."""
    async with stage() as node:
        prepared(node)
        node.deliveries.approvals["s", name] = Promise("s")
        path = f"/sessions/s/approvals/{quote(name, safe='')}"
        answer = await node.ask("POST", path, json=APPROVAL)
        assert (200, {"session_id": "s", "name": name, "status": "ACCEPTED"}) == answer
        assert '[true,"ann",null]' == node.deliveries.approvals["s", name].answer
        _, found = await node.ask("GET", "/openapi.json")
        assert re.search(schema_of(found, "Approved", "name")["pattern"], name), "the document announces the answer"


async def test_callbacks_and_approvals_are_answered() -> None:
    """200, and again for the same answer; what arrives is what was sent."""
    async with stage() as node:
        prepared(node)
        for _ in range(2):
            answer = await node.ask("POST", "/callbacks/c", json=ANSWER)
            assert (200, {"callback_id": "c", "status": "ACCEPTED"}) == answer
            answer = await node.ask("POST", "/sessions/s/approvals/publish", json=APPROVAL)
            assert (200, {"session_id": "s", "name": "publish", "status": "ACCEPTED"}) == answer
        assert '["SUCCESS",{"n":1},null]' == node.deliveries.callbacks["c"].answer
        assert '[true,"ann",null]' == node.deliveries.approvals["s", "publish"].answer


COMPLETED: Json = {"state": "TASK_STATE_COMPLETED"}
PUSHES: dict[str, Json] = {
    "a task": {"task": {"id": "t", "status": COMPLETED}},
    "a status": {"statusUpdate": {"taskId": "t", "status": COMPLETED}},
    "a task of protocol 0.3": {"kind": "task", "id": "t", "status": {"state": "completed"}},
    "a message": {"message": {"messageId": "m", "parts": [{"text": "done"}]}},
}


@pytest.mark.parametrize("update", PUSHES.values(), ids=PUSHES)
@pytest.mark.parametrize("content_type", ["application/json", "application/a2a+json"])
async def test_a_push_that_tells_of_a_tasks_end_answers_its_callback(update: Json, content_type: str) -> None:
    """At least once is how pushes come: again, it is no error. What they hold beside the state is not taken over."""
    async with stage() as node:
        prepared(node)
        for _ in range(2):
            answer = await node.ask(
                "POST",
                "/callbacks/c/a2a",
                data=json.dumps(update).encode(),
                Content_Type=content_type,
                X_A2A_Notification_Token="t",
            )
            assert (200, {"callback_id": "c", "status": "ACCEPTED"}) == answer
        assert '["SUCCESS",{"state":"completed"},null]' == node.deliveries.callbacks["c"].answer


@pytest.mark.parametrize(
    "update",
    [None, [], {}, {"task": 7}, {"statusUpdate": {"status": {"state": "TASK_STATE_WORKING"}}}, {"artifactUpdate": {}}],
    ids=str,
)
async def test_a_push_that_tells_of_no_end_answers_nothing(update: Json) -> None:
    """It is taken all the same: its sender would send it again."""
    async with stage() as node:
        prepared(node)
        body = json.dumps(update).encode()
        assert 200 == (await node.ask("POST", "/callbacks/c/a2a", data=body, X_A2A_Notification_Token="t", **JSON))[0]
        assert node.deliveries.callbacks["c"].answer is None


async def test_a_push_needs_the_token_that_its_agent_was_handed() -> None:
    """Another one, or none, is refused."""
    async with stage() as node:
        prepared(node)
        body = json.dumps(PUSHES["a task"]).encode()
        refused = (403, "WRONG_TOKEN")
        assert refused == await node.code("POST", "/callbacks/c/a2a", data=body, **JSON)
        assert refused == await node.code("POST", "/callbacks/c/a2a", data=body, X_A2A_Notification_Token="u", **JSON)
        unknown = await node.code("POST", "/callbacks/none/a2a", data=body, X_A2A_Notification_Token="t", **JSON)
        assert (404, "UNKNOWN_CALLBACK") == unknown
        assert node.deliveries.callbacks["c"].answer is None


def schema_of(document: Any, name: str, field: str) -> Any:
    """Return what the OpenAPI document says of a field of that schema."""
    return document["components"]["schemas"][name]["properties"][field]


REFUSALS: dict[str, tuple[str, Json, int, str]] = {
    "a signal to nobody": ("/sessions/nobody/signals/a", None, 404, "UNKNOWN_SESSION"),
    "a signal after the end": ("/sessions/ended/signals/a", None, 409, "SESSION_ENDED"),
    "a cancel of nobody": ("/sessions/nobody/cancel", {}, 404, "UNKNOWN_SESSION"),
    "a cancel after the end": ("/sessions/ended/cancel", {}, 409, "SESSION_ENDED"),
    "an unknown callback": ("/callbacks/none", ANSWER, 404, "UNKNOWN_CALLBACK"),
    "a wrong token": ("/callbacks/c", {"token": "u", "status": "SUCCESS"}, 403, "WRONG_TOKEN"),
    "a second answer": ("/callbacks/answered", ANSWER, 409, "CALLBACK_ANSWERED"),
    "a late answer": ("/callbacks/late", ANSWER, 410, "CALLBACK_EXPIRED"),
    "an answer after the end": ("/callbacks/ended", ANSWER, 409, "SESSION_ENDED"),
    "an approval of nobody": ("/sessions/nobody/approvals/publish", APPROVAL, 404, "UNKNOWN_SESSION"),
    "an approval that nobody wants": ("/sessions/s/approvals/none", APPROVAL, 404, "UNKNOWN_CALLBACK"),
    "an approval by somebody else": ("/sessions/s/approvals/pay", APPROVAL, 403, "NOT_AN_APPROVER"),
    "an id that is none": ("/sessions/a%20b/signals/a", None, 422, "INVALID_MESSAGE"),
    "an id that ends a line": ("/sessions/s%0A/cancel", None, 422, "INVALID_MESSAGE"),
    "a signal's name that is none": ("/sessions/s/signals/a%2Fb", None, 422, "INVALID_MESSAGE"),
    "an approval's name that is none": ("/sessions/s/approvals/%C3%A9", APPROVAL, 422, "INVALID_MESSAGE"),
    "a callback's id that is none": (f"/callbacks/{'c' * 129}", ANSWER, 422, "INVALID_MESSAGE"),
    "a reason that is no text": ("/sessions/s/cancel", {"reason": 1}, 422, "INVALID_MESSAGE"),
    "a reason without end": ("/sessions/s/cancel", {"reason": "x" * 1_001}, 422, "INVALID_MESSAGE"),
    "a cancel that is no object": ("/sessions/s/cancel", [], 422, "INVALID_MESSAGE"),
    "a callback without token": ("/callbacks/c", {"status": "SUCCESS"}, 422, "INVALID_MESSAGE"),
    "a callback with another status": ("/callbacks/c", {"token": "t", "status": "DONE"}, 422, "INVALID_MESSAGE"),
    "a callback without body": ("/callbacks/c", [], 422, "INVALID_MESSAGE"),
    "an approval by nobody": ("/sessions/s/approvals/publish", {"approved": True, "by": ""}, 422, "INVALID_MESSAGE"),
    "an approval by a name without end": (
        "/sessions/s/approvals/publish",
        {"approved": True, "by": "x" * 201},
        422,
        "INVALID_MESSAGE",
    ),
    "an approval with a comment without end": (
        "/sessions/s/approvals/publish",
        {"approved": True, "by": "ann", "comment": "x" * 1_001},
        422,
        "INVALID_MESSAGE",
    ),
    "an approval that is no yes or no": (
        "/sessions/s/approvals/publish",
        {"approved": "yes", "by": "ann"},
        422,
        "INVALID_MESSAGE",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_each_refusal_has_its_status_and_code(case: str) -> None:
    """The codes are those of the errors of `Deliveries`, and what is malformed never gets there."""
    path, body, status, code = REFUSALS[case]
    async with stage() as node:
        prepared(node)
        assert (status, code) == await node.code("POST", path, data=json.dumps(body).encode(), **JSON)
        assert {} == node.deliveries.messages


async def test_a_message_id_is_an_id_and_means_one_message() -> None:
    """Another body under it is a conflict; what is no id is refused and named."""
    async with stage() as node:
        prepared(node)
        path = "/sessions/s/signals/nudge"
        await node.ask("POST", path, data=b"1", Idempotency_Key="m", **JSON)
        assert (202, "m") == await _message_id(node, path, b"1")
        assert (409, "MESSAGE_CONFLICT") == await node.code("POST", path, data=b"2", Idempotency_Key="m", **JSON)
        status, problem = await node.ask("POST", path, Idempotency_Key="a b")
        assert (422, "INVALID_MESSAGE") == (status, problem["code"])
        assert str(problem["detail"]).startswith("Idempotency-Key: 'a b'")


async def test_a_message_that_can_never_succeed_is_refused_with_its_reason() -> None:
    """`Poison` from behind is 422 with the reason as code."""

    async def refuse(session_id: str, name: str, data: Json, message_id: str | None) -> str:
        raise Poison("PAYLOAD_TOO_LARGE", "data: too large")

    async with stage() as node:
        node.deliveries.signal = refuse  # type: ignore[method-assign]
        assert (422, "PAYLOAD_TOO_LARGE") == await node.code("POST", "/sessions/s/signals/nudge")


async def test_the_answer_to_a_callback_may_be_larger_than_other_bodies() -> None:
    """Ten megabytes go to the bucket; the endpoint takes them."""
    async with stage() as node:
        prepared(node)
        assert (
            200
            == (
                await node.ask(
                    "POST", "/callbacks/c", json={"token": "t", "status": "SUCCESS", "result": "x" * 10_000_000}
                )
            )[0]
        )


async def test_a_callback_needs_its_token_and_no_key() -> None:
    """Who answers a callback knows nothing else of us; the other messages need a key."""
    async with stage(keys=["k"]) as node:
        prepared(node)
        assert 200 == (await node.ask("POST", "/callbacks/c", json=ANSWER))[0]
        for path in ("/sessions/s/signals/a", "/sessions/s/cancel", "/sessions/s/approvals/publish"):
            assert (401, "UNAUTHORIZED") == await node.code("POST", path)


async def _message_id(node: Stage, path: str, data: bytes) -> tuple[int, Json]:
    status, body = await node.ask("POST", path, data=data, Idempotency_Key="m", **JSON)
    return status, body["message_id"]
