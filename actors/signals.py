"""Waiting without polling: one-shot futures behind a condition, and a single turn of the loop.

To change it: every wait here survives the cancellation of the waiter and leaves nothing behind.
"""

import asyncio
from collections.abc import Callable, Generator
from types import coroutine
from typing import TypeVar

from actors.clock import Clock

T = TypeVar("T")


@coroutine
def next_turn() -> Generator[None, None, None]:
    """Return after everything that is ready now had its turn."""
    yield


def fail(future: asyncio.Future[T], error: BaseException) -> None:
    """Let whoever awaits `future` raise `error`; nothing if it is done already."""
    if future.done():
        return
    future.set_exception(error)
    # Looked at once, so that asyncio does not complain when the waiter has gone.
    future.exception()


class Signal:
    """Wakes everybody who waits for a condition that an event may have made true."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] | None = None

    def fire(self) -> None:
        """Let every waiter look at its condition again."""
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, met: Callable[[], bool], clock: Clock | None = None, within: float | None = None) -> bool:
        """Return True once `met()` holds, False if `within` seconds by `clock` pass first (0: do not wait)."""
        if clock is None or within is None:
            await self._wait(met)
            return True
        return await self._wait_within(met, clock, within)

    async def _wait_within(self, met: Callable[[], bool], clock: Clock, within: float) -> bool:
        expired = within <= 0

        def expire() -> None:
            nonlocal expired
            expired = True
            self.fire()

        timer = clock.call_later(within, expire)
        try:
            await self._wait(lambda: met() or expired)
        finally:
            timer.cancel()
        return met()

    async def _wait(self, met: Callable[[], bool]) -> None:
        while not met():
            await self._next_event()

    async def _next_event(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if self._waiters and waiter in self._waiters:
                self._waiters.remove(waiter)
