"""Dead letters: what is written beside a message that can never succeed, and how one is made a message again.

A letter goes back as its sender sent it, and under an identity of its own: put back twice, it is done once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from orchestrator.aws.queue import ATTRIBUTES_MAX, MESSAGE_BYTES_MAX, QueueMessage
from orchestrator.errors import Poison
from orchestrator.intake.parsing import NEVER_SUCCEEDS, json_object
from orchestrator.intake.sns import unwrapped
from orchestrator.session.values import TENANT_DEFAULT, Json, compact_json, derive_session_id

ERROR_CODE: Final = "ErrorCode"
ERROR_MESSAGE: Final = "ErrorMessage"
ORIGINAL_ID: Final = "OriginalMessageId"
DEAD_LETTERS_PREFIX: Final = "dead-letters/"
"""Of the keys under which the bucket holds bodies that are too long for the queue."""
OURS: Final = frozenset({ERROR_CODE, ERROR_MESSAGE, ORIGINAL_ID})
EXHAUSTED: Final = "RECEIVES_EXHAUSTED"
"""Stands for the code of a letter that SQS moved itself: it was received too often, and no node said why."""
HOPELESS: Final = frozenset(
    {
        *(NEVER_SUCCEEDS, "INVALID_JSON", "UNKNOWN_KIND", "PAYLOAD_TOO_LARGE"),
        *("IDEMPOTENCY_CONFLICT", "MESSAGE_CONFLICT", "SESSION_ENDED"),
        *("WRONG_TOKEN", "NOT_AN_APPROVER", "CALLBACK_ANSWERED", "CALLBACK_EXPIRED"),
    }
)
"""What the same message comes to again, whatever is mended: its own fault, or a session's that does not come back."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message in the dead-letter queue. `body` may be the reference of one that was too long to be kept there."""

    receipt: str
    message_id: str
    code: str
    reason: str
    body: str
    attributes: Mapping[str, str]
    tenant: str | None
    trace_header: str | None
    sent_at: datetime | None

    @property
    def is_hopeless(self) -> bool:
        """Whether it would only come back."""
        return self.code in HOPELESS


def letter_of(message: QueueMessage) -> DeadLetter:
    """Return the letter that a message of the dead-letter queue is; `message_id` is the one it first had."""
    told = message.attributes
    return DeadLetter(
        receipt=message.receipt,
        message_id=told.get(ORIGINAL_ID, message.message_id),
        code=told.get(ERROR_CODE, EXHAUSTED),
        reason=told.get(ERROR_MESSAGE, "it was received too often, and no node said why"),
        body=message.body,
        attributes={name: text for name, text in told.items() if name not in OURS},
        tenant=message.group,
        trace_header=message.trace_header,
        sent_at=message.sent_at,
    )


def dead_letter_attributes(message: QueueMessage, code: str, text: str) -> dict[str, str]:
    """Return what goes out with a dead letter: why, which it was, and what its sender said, as far as there is room."""
    ours = {ERROR_CODE: code, ERROR_MESSAGE: text, ORIGINAL_ID: message.message_id}
    # The trace first: SQS takes ten attributes, and it is what leads back to the sender.
    senders = sorted(message.attributes.items(), key=lambda each: not each[0].startswith("trace"))
    kept = [(name, said) for name, said in senders if name not in OURS and said][: ATTRIBUTES_MAX - len(ours)]
    return ours | dict(kept)


def started_by(letter: DeadLetter) -> str | None:
    """Return the session that the letter would start; `None` for no start, and where its id is still to be drawn."""
    body = _native(letter.body)
    if body is None or body.get("kind") != "start":
        return None
    given, key = body.get("session_id"), body.get("idempotency_key")
    if isinstance(given, str):
        return given
    tenant = body.get("tenant") or TENANT_DEFAULT
    return derive_session_id(str(tenant), str(body.get("session_type")), key) if isinstance(key, str) else None


def renewed(letter: DeadLetter) -> str:
    """Return the body to send again; a message that was told apart by its delivery alone names that from now on."""
    body = _native(letter.body)
    if body is None:
        return letter.body
    named: dict[str, Json] = {}
    match body.get("kind"):
        case "start" if not isinstance(body.get("session_id"), str) and body.get("idempotency_key") is None:
            named = {"idempotency_key": letter.message_id}
        case "signal" | "cancel" if body.get("message_id") is None:
            named = {"message_id": letter.message_id}
    text = compact_json({**body, **named})
    beside = sum(len(name) + len(said.encode()) for name, said in letter.attributes.items())
    return text if named and len(text.encode()) + beside <= MESSAGE_BYTES_MAX else letter.body


def _native(text: str) -> dict[str, Json] | None:
    """Return the message of our own format, out of its envelopes; `None` for what is none."""
    try:
        body, _ = unwrapped(json_object(text))
    except Poison:
        return None
    return body if isinstance(body.get("kind"), str) else None
