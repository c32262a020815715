"""Notices as events on a bus of EventBridge, several in one request where several are to be sent.

A bus that is not there costs nothing: nobody listens, so nothing is owed to it, and now and then we look again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from actors import Clock
from orchestrator.aws.outlets import ENTRIES_MAX, REQUEST_BYTES_MAX, Bus, CallFailed, Entry
from orchestrator.notifications import NotDelivered, WorldNotice
from orchestrator.notifications.document import document_of
from orchestrator.session.values import compact_json
from orchestrator.telemetry.context import xray_header

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

LOOK_AGAIN_SECONDS: Final = 60.0


@dataclass(slots=True)
class _Waiting:
    entry: Entry
    is_done: bool = False
    code: str | None = None


class EventBridgeChannel:
    """The bus of a deployment. `is_on` says whether it is there, as far as is known."""

    def __init__(self, bus: Bus, clock: Clock, log: FilteringBoundLogger, *, is_named: bool) -> None:
        """`is_named`: somebody chose this bus, and it is not merely the default name."""
        self._bus = bus
        self._clock = clock
        self._log = log
        self._is_named = is_named
        self._queue: deque[_Waiting] = deque()
        self._turn = asyncio.Lock()
        # Until we have looked: what ends meanwhile must not go untold.
        self.is_on = True

    async def run(self) -> None:
        """Look whether the bus is there, and again as long as it is not; until cancelled, or it is there."""
        while reason := await self._missing():
            if self.is_on:
                self.is_on = False
                self._log.warning("event_bus_missing", bus=self._bus.name, reason=reason)
            await self._clock.sleep(LOOK_AGAIN_SECONDS)
        self.is_on = True

    async def _missing(self) -> str:
        """Return why nothing is told there; empty where it is, or has to be."""
        try:
            return "" if await self._bus.exists() else "NO_SUCH_BUS"
        except CallFailed as failed:
            # Out of reach, or not ours to look at: only a bus that somebody chose is insisted on.
            return "" if self._is_named else failed.reason

    async def tell(self, notice: WorldNotice) -> None:
        """Put the event on the bus. Raises `NotDelivered`."""
        waiting = _Waiting(entry_of(notice))
        self._queue.append(waiting)
        try:
            async with self._turn:
                while not waiting.is_done:
                    await self._send_some()
        except asyncio.CancelledError:
            if waiting in self._queue:
                self._queue.remove(waiting)
            raise
        if waiting.code is not None:
            raise NotDelivered(waiting.code)

    async def _send_some(self) -> None:
        """Send what waits, as much as one request takes; whoever's turn it is does it for all."""
        batch = self._next_batch()
        try:
            codes = await self._bus.put([each.entry for each in batch])
        except CallFailed as failed:
            # The next request would fare no better, and each may take its time to fail.
            batch += self._queue
            self._queue.clear()
            codes = [failed.reason] * len(batch)
        except asyncio.CancelledError:
            self._queue.extendleft(reversed(batch))
            raise
        for waiting, code in zip(batch, codes, strict=True):
            waiting.is_done, waiting.code = True, code

    def _next_batch(self) -> list[_Waiting]:
        batch, size = list[_Waiting](), 0
        while self._queue and len(batch) < ENTRIES_MAX:
            size += self._queue[0].entry.size
            if batch and size > REQUEST_BYTES_MAX:
                break
            batch.append(self._queue.popleft())
        return batch


def entry_of(notice: WorldNotice) -> Entry:
    """Return the notice as an event; no token stands in it."""
    return Entry(notice.kind, compact_json(document_of(notice)), notice.at, xray_header(notice.trace))
