"""Answers to callbacks as their items keep them, equal texts for equal answers, and the message that each becomes."""

from __future__ import annotations

from typing import Final

from orchestrator.callbacks import Callback, UnreadableCallback
from orchestrator.calls import Approval
from orchestrator.errors import OWN_CODES, CallbackFailed
from orchestrator.payloads import stored_json
from orchestrator.session import messages as m
from orchestrator.session.values import ErrorRecord, Json, canonical_json

TIMED_OUT: Final = canonical_json({"status": "TIMED_OUT"})
"""The answer of nobody, in time."""


def success(result: Json) -> str:
    """Return the answer that succeeds with this result."""
    return canonical_json({"status": "SUCCESS", "result": result})


def failure(error: ErrorRecord) -> str:
    """Return the answer that fails with this error."""
    return canonical_json(
        {"status": "FAILURE", "error": {"type": error.type, "code": error.code, "message": error.message}}
    )


def message_of(callback: Callback) -> m.CallbackAnswered:
    """Return what the session is told of a callback that was decided.

    Raises:
        UnreadableCallback: the answer is none that this version knows.
    """
    assert callback.answer is not None, f"callback {callback.callback_id} is not decided"
    try:
        answer = stored_json(callback.answer)
    except ValueError as error:
        raise UnreadableCallback(f"the answer of callback {callback.callback_id} is no JSON: {error}") from None
    made = m.CallbackAnswered(callback.callback_id, callback.operation)
    match answer:
        case {"status": "SUCCESS", "result": result}:
            return m.CallbackAnswered(made.callback_id, made.operation, result=result)
        case {"status": "FAILURE", "error": {"type": str(kind), "code": str(code), "message": str(text)}}:
            return m.CallbackAnswered(made.callback_id, made.operation, error=ErrorRecord(kind, code, text))
        case {"status": "TIMED_OUT"}:
            return m.CallbackAnswered(made.callback_id, made.operation, timed_out=True)
        case _:
            raise UnreadableCallback(f"the answer of callback {callback.callback_id} is of another form")


def error_of(given: Json) -> ErrorRecord:
    """Return what the journal keeps of a failure that somebody outside reported: an object, a text, or nothing."""
    fields = given if isinstance(given, dict) else {"message": "" if given is None else given}
    code = str(fields.get("code") or CallbackFailed.code)[:100]
    return ErrorRecord(
        type=str(fields.get("type") or CallbackFailed.__name__)[:100],
        # Its code is the answerer's own: what timed out there is no timeout here.
        code=CallbackFailed.code if code in OWN_CODES else code,
        message=str(fields.get("message") or "no message")[:2_000],
    )


def approval_of(answer: Json) -> Approval:
    """Return what a person answered, as the journal keeps it."""
    assert isinstance(answer, dict), "an approval was answered with none"
    comment = answer.get("comment")
    return Approval(answer.get("approved") is True, str(answer["by"]), None if comment is None else str(comment))
