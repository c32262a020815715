"""The gate before what a handler begins: shut while its session is held, with what was asked for meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.session import messages as m


class Admission:
    """Whether one run of a handler may begin something new; `requests` are those that are not answered yet."""

    def __init__(self, *, is_shut: bool) -> None:
        self.is_shut = is_shut
        self._requests: dict[str, tuple[m.Request, asyncio.Task[object] | None]] = {}
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def requests(self) -> tuple[m.Request, ...]:
        """What was asked for and is not known to have begun: a held session has not answered it, and must be asked."""
        return tuple(request for request, _ in self._requests.values())

    @property
    def held(self) -> tuple[asyncio.Task[object] | None, ...]:
        """The tasks that asked for those, while the gate is shut: they only wait for it to open."""
        return tuple(task for _, task in self._requests.values()) if self.is_shut else ()

    @contextmanager
    def asking(self, message: m.Message) -> Iterator[None]:
        """Keep the request, where it is one, for as long as the block lasts."""
        if not isinstance(message, m.REQUESTS):
            yield
            return
        self._requests[message.operation] = message, asyncio.current_task()
        try:
            yield
        finally:
            self._requests.pop(message.operation, None)

    async def opened(self) -> None:
        """Return once the gate is open, or everybody has to leave."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(opened)
        try:
            await opened
        finally:
            self._waiters.remove(opened)

    def open(self) -> None:
        """Let everybody in."""
        self.is_shut = False
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def close(self) -> None:
        """Cancel whoever waits: the run is over."""
        for waiter in self._waiters:
            waiter.cancel()
