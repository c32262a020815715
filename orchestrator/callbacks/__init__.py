"""Promised answers from outside: one item a callback, where its first answer, or its timeout, wins for good (rule 10).

`Callbacks` is the protocol; `dynamodb` and `memory` keep it, and one contract suite holds both to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from orchestrator.errors import OrchestratorError
from orchestrator.session import values
from orchestrator.session.values import APPROVAL_PREFIX, SESSION_LIFE_MAX, truncate_to_millis

TOKEN_BYTES: Final = 32
"""256 random bits: nobody guesses a callback's token."""
TOKENS_MAX: Final = 1_000
"""So many tokens work for one callback: their hashes take 64 KiB of its item (DynamoDB, "Item size": 400 KiB)."""


digest_of_operation: Final = values.digest_of_operation
approval_id_of: Final = values.approval_id_of
"""Approvals that a session asks for by itself have ids by the same rule, and what decides about them is pure."""


class UnreadableCallback(OrchestratorError):
    """A callback's item holds what this version cannot read: newer code wrote it, or it was changed by hand."""

    code = "UNREADABLE_CALLBACK"


@dataclass(frozen=True, slots=True)
class Callback:
    """One callback. `token_sha256` holds the hash (hex) of every token issued for it, no token itself.

    `answer` is the JSON text that won, `None` while nothing has. `times_out_at` is when waiting ends, if ever.
    """

    callback_id: str
    session_id: str
    operation: str
    token_sha256: frozenset[str]
    times_out_at: datetime | None = None
    answer: str | None = None


class Callbacks(Protocol):
    """The callbacks that sessions have created."""

    async def issue(self, callback: Callback, *, expires_at: datetime) -> Callback:
        """Store the callback, or add its token hashes to the one that stands there; return what stands then.

        One that has `TOKENS_MAX` of them gets no more: a session that wakes for years must not burst an item.
        `expires_at` is when the table may forget it, long after any timeout.
        """
        ...

    async def get(self, callback_id: str) -> Callback | None:
        """Return the callback as of now (a consistent read); `None` for an unknown one."""
        ...

    async def add_tokens(self, callback_id: str, token_sha256: Iterable[str]) -> Callback | None:
        """Let these tokens work too; return the callback then, `None` for an unknown one."""
        ...

    async def decide(self, callback_id: str, answer: str) -> Callback | None:
        """Record the answer if none is yet; return the callback with the one that won, `None` for an unknown one."""
        ...


def issued_with(
    token: str, callback_id: str, session_id: str, operation: str, times_out_at: datetime | None
) -> Callback:
    """Return the callback as it is issued with that token: of the token itself, nothing is kept."""
    hashed = frozenset({hashlib.sha256(token.encode()).hexdigest()})
    return Callback(callback_id, session_id, operation, hashed, times_out_at)


def expiry_of(issued_at: datetime) -> datetime:
    """Return when the table may forget a callback that is issued then: no session that created it lives any more."""
    return truncate_to_millis(issued_at) + SESSION_LIFE_MAX


def callback_id_of(session_id: str, operation: str) -> str:
    """Return the id of the callback that such an operation creates: always the same one."""
    return f"callback-{digest_of_operation(session_id, operation)}"


def is_approval(callback_id: str) -> bool:
    """Return whether a person answers that callback: its result is an approval."""
    return callback_id.startswith(APPROVAL_PREFIX)
