"""Marks of schedules in memory: the same protocol. Shipped for tests."""

from __future__ import annotations

import asyncio
from datetime import datetime

from orchestrator.schedules import ScheduleName


class MemorySchedules:
    """The `Schedules` of one process."""

    def __init__(self) -> None:
        self._marks: dict[ScheduleName, tuple[datetime, datetime]] = {}

    async def begin(self, schedule: ScheduleName, *, now: datetime, expires_at: datetime) -> datetime:
        """See `Schedules.begin`."""
        await asyncio.sleep(0)
        mark, expires = self._marks.get(schedule, (now, now))
        if expires > now:
            return mark
        self._marks[schedule] = (now, expires_at)
        return now

    async def seen_to(self, schedule: ScheduleName, until: datetime, *, expires_at: datetime) -> None:
        """See `Schedules.seen_to`."""
        await asyncio.sleep(0)
        mark, _ = self._marks.get(schedule, (until, expires_at))
        if mark <= until:
            self._marks[schedule] = (until, expires_at)
