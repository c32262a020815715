"""The journal: where a session's events live. It is the lock, too: who inserts event n+1 first is the writer.

`Journal` is the protocol; `dynamodb` and `memory` keep it, and one contract suite holds both to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol

from orchestrator.errors import OrchestratorError, Unavailable
from orchestrator.session.events import Recorded


class JournalConflict(OrchestratorError):
    """Another writer holds that place in the journal; `existing` is the event that stands there."""

    code = "JOURNAL_CONFLICT"

    def __init__(self, session_id: str, existing: Recorded) -> None:
        super().__init__(f"{session_id}: event {existing.seq} was written by {existing.node} in epoch {existing.epoch}")
        self.session_id = session_id
        self.existing = existing


class UnreadableEvent(OrchestratorError):
    """A journal holds an event that this version cannot read: newer code wrote it, or it was changed by hand."""

    code = "UNREADABLE_EVENT"


class AlteredEvent(UnreadableEvent):
    """What is encrypted in an event is not what was encrypted for its place: it was altered, or moved there."""

    code = "ALTERED_EVENT"


class UnwritableEvent(Unavailable):
    """An event holds what no journal can. The doors refuse such values: one that came this far found a gap in them."""

    code = "UNWRITABLE_EVENT"


class Journal(Protocol):
    """Immutable events of sessions, in order without gaps (I1)."""

    async def append(self, session_id: str, events: Sequence[Recorded], *, started_at: datetime) -> None:
        """Insert the events at their own seq, all or none; returning means that they are durable.

        Retries faults for as long as the caller lives. An insert whose answer was lost is recognised by its
        `event_id` and counts as done. `started_at` is when the session started: its events expire together.

        Raises:
            JournalConflict: another event stands at one of these places.
            UnwritableEvent: nothing was inserted.
        """
        ...

    def read(self, session_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """Yield the events with a seq over `after`, in order, as of now (a consistent read); none if unknown.

        Raises:
            UnreadableEvent: an event's type or data is not known to this version.
        """
        ...
