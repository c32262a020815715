"""How a process is told to stop: once, and it ends in order; once more, and it ends without waiting for its work.

Until it has started there is nothing to end in order, so that the first word ends it at once.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP comes when the terminal closes: what was started must be stopped then, too."""

log: FilteringBoundLogger = structlog.get_logger("orchestrator")


class Stop:
    """Whether the process is to stop."""

    def __init__(self) -> None:
        """Nobody asked yet."""
        self.asked = asyncio.Event()
        self._is_insisted = False
        self._has_started = False
        self._starting: set[Block] = set()
        self._patient: set[Block] = set()

    def tell(self) -> None:
        """Ask to stop, or insist, if that was asked before."""
        self._is_insisted = self.asked.is_set()
        self.asked.set()
        for block in self._patient if self._is_insisted else self._starting:
            block.leave()

    def started(self) -> None:
        """Note that from here on there is something to end in order."""
        self._has_started = True
        self._starting.clear()

    def before_start(self) -> Block:
        """Return a block that is left as soon as it is asked to stop before `started` was called."""
        return Block(self._starting, is_due=self.asked.is_set() and not self._has_started)

    def unless_insisted(self, *, grace: float = 0.0) -> Block:
        """Return a block that is left as soon as somebody insists, or some seconds later."""
        return Block(self._patient, is_due=self._is_insisted, grace=grace)


class Block:
    """A block of code (`async with`) that can be left from outside; what stands after it goes on."""

    def __init__(self, among: set[Block], *, is_due: bool, grace: float = 0.0) -> None:
        """Be among those while it runs. One that is told to be left, or is due from the start, has the grace to end."""
        self._among = among
        self._is_due = is_due
        self._grace = grace
        # A timeout without a time cancels when it is told to, and tells that cancellation apart from any other.
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        """Begin."""
        await self._timeout.__aenter__()
        self._among.add(self)
        if self._is_due:
            self.leave()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """End; return whether it was left, and nothing is to be raised of it."""
        self._among.discard(self)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            return True
        return False

    def leave(self) -> None:
        """Cancel the block, wherever it waits, after its grace; asked again, nothing changes."""
        # Or who insists every second would put the end off for ever, and one that is being left cannot be cut shorter.
        if self._timeout.when() is None:
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._grace)


@asynccontextmanager
async def stop_signals() -> AsyncIterator[Stop]:
    """Yield what SIGTERM, SIGINT and SIGHUP tell; one that comes before `started` was called ends the block."""
    stop, loop = Stop(), asyncio.get_running_loop()
    for each in SIGNALS:
        loop.add_signal_handler(each, stop.tell)
    try:
        async with stop.before_start():
            yield stop
            return
        log.info("stopped_before_ready")
    finally:
        for each in SIGNALS:
            loop.remove_signal_handler(each)
        # What is left takes a moment, and must not turn an end in order into a failure.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
