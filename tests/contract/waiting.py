"""Waiting for what happens, instead of for time: a log that can be awaited, and a clock that tells who sleeps on it.

To change it: nothing here may sleep. The one real time is the patience after which a test that waits in vain fails.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

from actors import ManualClock

T = TypeVar("T")

SECONDS_MAX: Final = 10.0
"""How long a test waits for what should happen before it counts as not happening."""

SHORT_SECONDS: Final = 1.0

START: Final = datetime(2026, 1, 31, 12, 0, 0, 123000, tzinfo=UTC)
"""When tests take place; milliseconds, because the journal keeps no more."""


class Log(Generic[T]):
    """What happened so far, in order; `until` waits for more of it."""

    def __init__(self) -> None:
        self.entries: list[T] = []
        self._grown = asyncio.Event()

    def add(self, entry: T) -> None:
        """Note one more."""
        self.entries.append(entry)
        self._grown.set()

    async def until(self, enough: Callable[[list[T]], bool]) -> list[T]:
        """Return the entries as soon as they are enough. Raises TimeoutError where that does not come."""
        async with asyncio.timeout(SECONDS_MAX):
            while not enough(self.entries):
                self._grown.clear()
                await self._grown.wait()
        return self.entries

    async def count(self, wanted: int) -> list[T]:
        """Return the entries as soon as there are that many."""
        return await self.until(lambda entries: len(entries) >= wanted)


class WatchedClock(ManualClock):
    """A `ManualClock` that logs every sleep asked of it, so that a test knows when to move it."""

    def __init__(self, start: datetime = START) -> None:
        super().__init__(start)
        self.sleeps: Log[float] = Log()
        self._is_hurrying = False

    def hurry(self) -> None:
        """Let every sleep of up to a second pass at once from now on, and those that are being slept."""
        self._is_hurrying = True
        self.advance(SHORT_SECONDS)

    async def sleep(self, seconds: float) -> None:
        """See `ManualClock.sleep`."""
        if self._is_hurrying and seconds <= SHORT_SECONDS:
            self.advance(seconds)
            return await asyncio.sleep(0)
        asleep = asyncio.ensure_future(super().sleep(seconds))
        try:
            # One turn, so that the sleep is on the agenda before the test hears of it and moves the clock.
            await asyncio.sleep(0)
            self.sleeps.add(seconds)
            await asleep
        finally:
            asleep.cancel()
