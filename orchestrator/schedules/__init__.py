"""How far each schedule has been seen to, so that whoever starts next knows what was missed while nobody ran.

`Schedules` is the protocol; `dynamodb` and `memory` keep it, and one contract suite holds both to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ScheduleName:
    """A schedule of a session type; `name` tells it from the others of that type."""

    session_type: str
    name: str


class Schedules(Protocol):
    """A mark for each schedule: all that was due up to there was started, or passed over."""

    async def begin(self, schedule: ScheduleName, *, now: datetime, expires_at: datetime) -> datetime:
        """Return the mark; a schedule that has none, or whose mark has expired by `now`, gets it there."""
        ...

    async def seen_to(self, schedule: ScheduleName, until: datetime, *, expires_at: datetime) -> None:
        """Move the mark on to `until`; it never goes back. Returning means that it is durable. Safe to repeat.

        `expires_at` is when the schedule counts as given up, unless somebody sees to it before.
        """
        ...
