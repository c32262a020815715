"""Latest writes in memory: the same protocol, the same order. Shipped for tests."""

from __future__ import annotations

import asyncio
from datetime import datetime

from actors import Clock
from orchestrator.objects import KEPT, ObjectWrite, is_older


class MemoryLatestWrites:
    """The `LatestWrites` of one process."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._latest: dict[tuple[str, str], tuple[str, datetime]] = {}

    async def note(self, write: ObjectWrite) -> str:
        """See `LatestWrites.note`."""
        await asyncio.sleep(0)
        name, now = (write.bucket, write.key), self._clock.now()
        standing, expires_at = self._latest.get(name, (write.sequencer, now))
        if expires_at > now and is_older(write.sequencer, than=standing):
            return standing
        self._latest[name] = (write.sequencer, now + KEPT)
        return write.sequencer
