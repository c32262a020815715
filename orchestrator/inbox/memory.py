"""Waiting messages and wake-ups in memory: the same protocols, the same refusals. Shipped for tests."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

from orchestrator.inbox import InboxItem, MessageConflict


class MemoryInbox:
    """The `Inbox` of one process."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, dict[str, InboxItem]] = defaultdict(dict)

    async def put(self, session_id: str, item: InboxItem) -> None:
        """See `Inbox.put`."""
        await asyncio.sleep(0)
        standing = self._waiting[session_id].setdefault(item.message_id, item)
        if standing.body != item.body:
            raise MessageConflict(session_id, item.message_id)

    async def read(self, session_id: str) -> tuple[InboxItem, ...]:
        """See `Inbox.read`."""
        await asyncio.sleep(0)
        waiting = self._waiting.get(session_id, {}).values()
        return tuple(sorted(waiting, key=lambda item: (item.position, item.message_id)))

    async def delete(self, session_id: str, message_ids: Sequence[str]) -> None:
        """See `Inbox.delete`."""
        await asyncio.sleep(0)
        for message_id in message_ids:
            self._waiting[session_id].pop(message_id, None)


class MemoryWakeUps:
    """The `WakeUps` of one process."""

    def __init__(self) -> None:
        self._notes: defaultdict[str, set[str]] = defaultdict(set)

    async def put(self, node_id: str, session_id: str) -> None:
        """See `WakeUps.put`."""
        await asyncio.sleep(0)
        self._notes[node_id].add(session_id)

    async def take(self, node_id: str) -> AsyncIterator[str]:
        """See `WakeUps.take`."""
        await asyncio.sleep(0)
        for session_id in sorted(self._notes[node_id]):
            self._notes[node_id].discard(session_id)
            yield session_id
