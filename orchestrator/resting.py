"""When a session that only waits has rested for long enough to leave memory: an alarm, and how long it has been."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from actors import Cancellable, Clock

REST_SECONDS_MIN: Final = 0.05
HURRIED_SECONDS: Final = 0.2
"""How long a session that only waits is left in memory where there is reason to let it go at once."""


class RestAlarm:
    """Rings when a session that has done nothing since some instant may leave memory; `seconds` is how long that is."""

    def __init__(self, clock: Clock, seconds: float, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._patience = seconds
        self._is_hurried = False
        self._ring = ring
        self._alarm: Cancellable | None = None

    @property
    def is_set(self) -> bool:
        """Whether the alarm will ring."""
        return self._alarm is not None

    def arm(self, since: datetime) -> None:
        """Ring when the session will have rested for long enough, as far as one can tell now."""
        left = self._seconds - self._rested(since)
        # One that has rested, and could not leave, is looked at again after as long.
        delay = max(REST_SECONDS_MIN, left if 0 < left <= self._seconds else self._seconds)
        self._alarm = self._clock.call_later(delay, self._rang)

    def disarm(self) -> None:
        """Ring no more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def hurry(self, *, is_hurried: bool = True) -> None:
        """Let the session leave as soon as it does nothing but wait, from the next time the alarm is armed; or not."""
        self._is_hurried = is_hurried

    def is_over(self, since: datetime) -> bool:
        """Return whether the session has rested for long enough."""
        return self._rested(since) >= self._seconds

    @property
    def _seconds(self) -> float:
        return min(self._patience, HURRIED_SECONDS) if self._is_hurried else self._patience

    def _rested(self, since: datetime) -> float:
        # The difference either way: a clock that was set back keeps no session in memory.
        return abs((self._clock.now() - since).total_seconds())

    def _rang(self) -> None:
        self._alarm = None
        self._ring()
