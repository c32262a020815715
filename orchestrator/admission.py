"""The gate before what a handler begins: shut while its session is held, with what was asked for meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from orchestrator.session import messages as m

_KEEPING_NOTHING: Final = nullcontext()


class Admission:
    """Whether one run of a handler may begin something new."""

    def __init__(self, *, is_shut: bool) -> None:
        self.is_shut = is_shut
        self._requests: dict[str, tuple[m.Request, asyncio.Task[object] | None]] = {}
        self._refused: set[str] = set()
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def refused(self) -> tuple[m.Request, ...]:
        """What a held session was asked for and has not begun. It must be asked again, and for nothing else.

        Another request may have begun, or be on its way: told twice, it would pass for one of a run that died.
        """
        return tuple(request for operation, (request, _) in self._requests.items() if operation in self._refused)

    @property
    def held(self) -> tuple[asyncio.Task[object] | None, ...]:
        """The tasks that asked for those, while the gate is shut: they only wait for it to open."""
        return tuple(task for _, task in self._requests.values()) if self.is_shut else ()

    def asking(self, message: m.Message) -> AbstractContextManager[None]:
        """Keep the request, where it is one, for as long as the block lasts."""
        # Most messages are the outcomes of steps.
        return self._keeping(message) if isinstance(message, m.REQUESTS) else _KEEPING_NOTHING

    @contextmanager
    def _keeping(self, request: m.Request) -> Iterator[None]:
        self._requests[request.operation] = request, asyncio.current_task()
        try:
            yield
        finally:
            self._requests.pop(request.operation, None)
            self._refused.discard(request.operation)

    def refuse(self, operation: str) -> None:
        """Note that the session was asked for that while it is held, and has not begun it."""
        if operation in self._requests:
            self._refused.add(operation)

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
        self._refused.clear()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def close(self) -> None:
        """Cancel whoever waits: the run is over."""
        for waiter in self._waiters:
            waiter.cancel()
