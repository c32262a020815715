"""The journal in memory: the same protocol and the same refusals as the real one. Shipped for tests and simulations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from orchestrator.journal import JournalConflict
from orchestrator.journal.codec import decode, encode, operation_of, type_name
from orchestrator.session.events import Recorded


class MemoryJournal:
    """A `Journal` of one process. It keeps events encoded, so that what cannot be stored fails here as well."""

    def __init__(self) -> None:
        self._sessions: dict[str, list[tuple[Recorded, str]]] = {}

    async def append(self, session_id: str, events: Sequence[Recorded], *, started_at: datetime) -> None:
        """See `Journal.append`."""
        await asyncio.sleep(0)
        held = self._sessions.get(session_id, [])
        for new in events:
            if new.seq <= len(held) and held[new.seq - 1][0].event_id != new.event_id:
                raise JournalConflict(session_id, _read(held[new.seq - 1]))
        fresh = [(new, encode(new.event)) for new in events if new.seq > len(held)]
        if fresh:
            assert fresh[0][0].seq == len(held) + 1, f"{session_id}: event {fresh[0][0].seq} would leave a gap"
            self._sessions.setdefault(session_id, []).extend(fresh)

    def events(self, session_id: str) -> list[Recorded]:
        """Return a whole journal at once; `[]` for none."""
        return [_read(stored) for stored in self._sessions.get(session_id, [])]

    async def read(self, session_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """See `Journal.read`."""
        await asyncio.sleep(0)
        for stored in self._sessions.get(session_id, [])[after:]:
            yield _read(stored)


def _read(stored: tuple[Recorded, str]) -> Recorded:
    recorded, text = stored
    event = decode(type_name(recorded.event), operation_of(recorded.event), text)
    return Recorded(recorded.seq, event, recorded.at, recorded.epoch, recorded.node, recorded.event_id)
