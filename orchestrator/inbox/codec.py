"""Messages from outside ↔ the JSON text that waits in an inbox: what one version writes, later ones must read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import assert_never

from orchestrator.inbox import InboxItem
from orchestrator.session import messages as m
from orchestrator.session.values import ErrorRecord, Json, JsonObject, canonical_json


def encode_message(message: m.Delivered) -> str:
    """Return the text of a message, equal for equal messages."""
    match message:
        case m.SignalSent():
            body: JsonObject = {"kind": "signal", "name": message.name, "data": message.data}
        case m.CancelAsked():
            body = {"kind": "cancel", "reason": message.reason}
        case m.CallbackAnswered():
            body = {
                "kind": "callback",
                "operation": message.operation,
                "result": message.result,
                "error": _error_fields(message.error),
                "timed_out": message.timed_out,
            }
        case m.ChildEnded():
            body = {
                "kind": "child",
                "operation": message.operation,
                "child_id": message.child_id,
                "result": message.result,
                "error": _error_fields(message.error),
            }
        case _:
            assert_never(message)
    return canonical_json(body)


def decode_message(item: InboxItem) -> m.Delivered:
    """Return the message of an inbox item.

    Raises:
        ValueError: this version does not know its kind.
    """
    body = json.loads(item.body)
    match body["kind"]:
        case "signal":
            return m.SignalSent(item.message_id, body["name"], body["data"])
        case "cancel":
            return m.CancelAsked(item.message_id, body["reason"])
        case "callback":
            return m.CallbackAnswered(
                callback_id=item.message_id,
                operation=body["operation"],
                result=body["result"],
                error=_error(body["error"]),
                timed_out=body["timed_out"],
            )
        case "child":
            return m.ChildEnded(
                message_id=item.message_id,
                operation=body["operation"],
                child_id=body["child_id"],
                result=body["result"],
                error=_error(body["error"]),
            )
        case kind:
            raise ValueError(f"inbox message {item.message_id} is of the unknown kind {kind!r:.50}")


def dismissal_by(items: Iterable[InboxItem]) -> m.Dismissed:
    """Return what ends a session that was cancelled before it ran; what else waits in its inbox is left unread."""
    for item in items:
        message = decode_message(item)
        if isinstance(message, m.CancelAsked):
            return m.Dismissed(message.message_id, message.reason)
    return m.Dismissed("dismissed", "cancelled")


def _error_fields(error: ErrorRecord | None) -> Json:
    return None if error is None else {"type": error.type, "code": error.code, "message": error.message}


def _error(fields: JsonObject | None) -> ErrorRecord | None:
    return None if fields is None else ErrorRecord(str(fields["type"]), str(fields["code"]), str(fields["message"]))
