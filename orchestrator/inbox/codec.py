"""Messages from outside ↔ the JSON text that waits in an inbox: what one version writes, later ones must read."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Final, assert_never

from orchestrator.inbox import InboxItem, UnreadableMessage
from orchestrator.payloads import stored_json
from orchestrator.session import messages as m
from orchestrator.session.events import KILL
from orchestrator.session.mail import WORDS
from orchestrator.session.values import ErrorRecord, Json, JsonObject, canonical_json

_CONTROLS: Final = {word: kind for kind, word in WORDS.items()}


def encode_message(message: m.Delivered) -> str:
    """Return the text of a message, equal for equal messages."""
    match message:
        case m.SignalSent():
            body: JsonObject = {"kind": "signal", "name": message.name, "data": message.data}
        case m.CancelAsked() | m.PauseAsked() | m.ResumeAsked() | m.KillAsked():
            body = {"kind": WORDS[type(message)], "reason": message.reason}
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
        UnreadableMessage: this version does not know its kind, or one like it in another form.
    """
    try:
        body, message_id = stored_json(item.body), item.message_id
    except ValueError as error:
        raise UnreadableMessage(f"inbox message {item.message_id} is no JSON: {error}") from None
    match body:
        case {"kind": "signal", "name": str(name), "data": data}:
            return m.SignalSent(message_id, name, data)
        case {"kind": "cancel" | "pause" | "resume" | "kill" as word, "reason": str(reason)}:
            return _CONTROLS[word](message_id, reason)
        case {
            "kind": "callback",
            "operation": str(operation),
            "result": result,
            "error": failed,
            "timed_out": bool(timed_out),
        }:
            return m.CallbackAnswered(message_id, operation, result, _error(item, failed), timed_out)
        case {
            "kind": "child",
            "operation": str(operation),
            "child_id": str(child_id),
            "result": result,
            "error": failed,
        }:
            return m.ChildEnded(message_id, operation, child_id, result, _error(item, failed))
    raise UnreadableMessage(f"inbox message {message_id} is of a form that this version does not know")


def dismissal_by(items: Iterable[InboxItem]) -> m.Dismissed:
    """Return what ends a session that was cancelled before it ran; what else waits in its inbox is left unread."""
    for item in items:
        with suppress(UnreadableMessage):
            message = decode_message(item)
            match message:
                case m.CancelAsked():
                    return m.Dismissed(message.message_id, message.reason)
                case m.KillAsked():
                    return m.Dismissed(message.message_id, message.reason, KILL)
                case _:
                    pass
    return m.Dismissed("dismissed", "cancelled")


def _error_fields(error: ErrorRecord | None) -> Json:
    return None if error is None else {"type": error.type, "code": error.code, "message": error.message}


def _error(item: InboxItem, fields: Json) -> ErrorRecord | None:
    match fields:
        case None:
            return None
        case {"type": str(kind), "code": str(code), "message": str(text)}:
            return ErrorRecord(kind, code, text)
    raise UnreadableMessage(f"inbox message {item.message_id} tells of an error that this version cannot read")
