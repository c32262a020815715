"""A notice as the JSON object that systems read: the `detail` of its event, and the `data` of its webhook.

To change it: add fields, and never take one away or change what it means. No field holds a token.
"""

from __future__ import annotations

from typing import Final, assert_never

from orchestrator.notifications import ApprovalNotice, EndNotice, WorldNotice
from orchestrator.session.values import ErrorRecord, Json, JsonObject, compact_json, format_instant

DOCUMENT_BYTES_MAX: Final = 240_000
"""Under the 256 KB that EventBridge takes, with room for what it counts besides."""
ERROR_TEXT_LENGTH_MAX: Final = 4_000
_ELLIPSIS: Final = "…"


def document_of(notice: WorldNotice) -> JsonObject:
    """Return the notice's object, of at most `DOCUMENT_BYTES_MAX` bytes as JSON text.

    What would make it longer is left out, and a flag says so: the session's own result or subject can be read there.
    """
    match notice:
        case EndNotice():
            return _within_limit(_end(notice), "result")
        case ApprovalNotice():
            return _within_limit(_within_limit(_approval(notice), "subject"), "approvers")
        case _:
            assert_never(notice)


def cut(text: str, length_max: int) -> str:
    """Return the text, or as much of its beginning as fits with a sign that there is more."""
    return text if len(text) <= length_max else text[: length_max - len(_ELLIPSIS)] + _ELLIPSIS


def size_of(value: Json) -> int:
    """Return the bytes of the value as JSON text."""
    return len(compact_json(value).encode())


def _end(notice: EndNotice) -> JsonObject:
    return {
        "notification_id": notice.notification_id,
        "session_id": notice.session_id,
        "session_type": notice.session_type,
        "tenant": notice.tenant,
        "state": notice.state.value,
        "started_at": format_instant(notice.started_at),
        "ended_at": format_instant(notice.ended_at),
        "result": notice.result,
        "result_omitted": False,
        "error": None if notice.error is None else _error(notice.error),
        "continued_as": notice.continued_as,
        "parent": notice.parent,
    }


def _approval(notice: ApprovalNotice) -> JsonObject:
    return {
        "notification_id": notice.notification_id,
        "session_id": notice.session_id,
        "session_type": notice.session_type,
        "tenant": notice.tenant,
        "name": notice.name,
        "subject": notice.subject,
        "subject_omitted": False,
        "approvers": notice.approvers,
        "approvers_omitted": False,
        "requested_at": format_instant(notice.requested_at),
        "times_out_at": None if notice.times_out_at is None else format_instant(notice.times_out_at),
        "callback_id": notice.callback_id,
        "url": notice.url,
    }


def _error(error: ErrorRecord) -> JsonObject:
    return {"type": error.type, "code": error.code, "message": cut(error.message, ERROR_TEXT_LENGTH_MAX)}


def _within_limit(document: JsonObject, field: str) -> JsonObject:
    if size_of(document) <= DOCUMENT_BYTES_MAX:
        return document
    return document | {field: None, f"{field}_omitted": True}
