"""Time as a thing that is handed in, so that tests own it.

To change it: code in this package reads time from a `Clock` only; wall time is for people, monotonic time for waiting.
"""

import asyncio
import heapq
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Protocol


class Cancellable(Protocol):
    """Something that is due and can be called off."""

    def cancel(self) -> None:
        """Call it off; nothing if it happened already."""


class Clock(Protocol):
    """What time it is, and to be told when some has passed."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC. It may jump, in either direction."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some fixed moment. It never falls."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of monotonic time."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Cancellable:
        """Call `callback` from the loop after `seconds` of monotonic time, unless it is cancelled before."""
        ...


class SystemClock:
    """The machine's clock, and the running loop's timers."""

    __slots__ = ()

    def now(self) -> datetime:
        """Return the machine's wall time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the machine's monotonic seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Cancellable:
        """Call `callback` after `seconds`. Raises RuntimeError without a running loop."""
        return asyncio.get_running_loop().call_later(seconds, callback)


class _ManualTimer:
    """One entry of a `ManualClock`'s agenda."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Call it off."""
        self.callback = None

    def fire(self) -> None:
        """Call back, once, unless cancelled."""
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()


class ManualClock:
    """A clock that stands still until a test moves it. Monotonic time starts at 0."""

    def __init__(self, start: datetime) -> None:
        assert start.tzinfo is not None, "wall time is aware"
        self._wall_at_zero = start.astimezone(UTC)
        self._monotonic = 0.0
        self._agenda: list[tuple[float, int, _ManualTimer]] = []
        self._order = count()

    def now(self) -> datetime:
        """Return the wall time as it was set, plus what was advanced since."""
        return self._wall_at_zero + timedelta(seconds=self._monotonic)

    def monotonic(self) -> float:
        """Return the seconds advanced so far."""
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Return once `advance` has passed `seconds`; at once, after one turn of the loop, if they are 0 or less."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        if seconds <= 0:
            asyncio.get_running_loop().call_soon(wake)
            await woken
            return
        timer = self.call_later(seconds, wake)
        try:
            await woken
        finally:
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Cancellable:
        """Call `callback` within the `advance` that passes `seconds`, in due order, then in order of request."""
        timer = _ManualTimer(callback)
        heapq.heappush(self._agenda, (self._monotonic + max(0.0, seconds), next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Move time on and fire what falls due, also what those callbacks add; each sees the moment it was due.

        Tasks that were asleep go on only when the loop runs next (`settle`): a task that sleeps in a loop wakes
        once per call.
        """
        assert seconds >= 0, "monotonic time never falls"
        target = self._monotonic + seconds
        while self._agenda and self._agenda[0][0] <= target:
            due, _, timer = heapq.heappop(self._agenda)
            self._monotonic = max(self._monotonic, due)
            timer.fire()
        self._monotonic = target

    def next_due(self) -> float | None:
        """Return the seconds until the next timer falls due; `None` when nobody waits for time."""
        while self._agenda and self._agenda[0][2].callback is None:
            heapq.heappop(self._agenda)
        return max(0.0, self._agenda[0][0] - self._monotonic) if self._agenda else None

    def set_wall(self, now: datetime) -> None:
        """Step the wall time to `now` (aware), as an operator or NTP would; nothing falls due."""
        assert now.tzinfo is not None, "wall time is aware"
        self._wall_at_zero = now.astimezone(UTC) - timedelta(seconds=self._monotonic)
