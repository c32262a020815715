"""When a handler has come to rest: what was handed over has gone where it goes, and its tasks all wait again.

Counted in turns of the event loop, which are the same for the same code; never in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from orchestrator.parking import any_about_to_run
from orchestrator.user_code import Branches

T = TypeVar("T")

SETTLE_TURNS: Final = 8
"""Loop turns between two outcomes, at least: nested gathers and task groups pass one on to the handler meanwhile."""
SETTLES_MAX: Final = 50
"""So often is that repeated while a task goes on. One that never waits, as it polls, must not hold up the rest."""


class Settling:
    """Waits for the tasks of one run to come to rest, for one that wants to know at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_on = False
        self._loop = loop
        self._handler: asyncio.Task[object] | None = None
        self._branches: Branches = set()
        self._resting: dict[asyncio.Task[object] | None, asyncio.Future[Any]] = {}

    def begin(self, handler: asyncio.Task[object] | None, branches: Branches) -> None:
        """Note the handler's own task and the living tasks that it started."""
        self._handler, self._branches = handler, branches

    def close(self) -> None:
        """Keep hold of no task: the run is over."""
        self._handler, self._branches = None, set()

    async def rest(self, waiter: asyncio.Future[T]) -> T:
        """Return the result of the future; until then it is known what the task waits for."""
        task = asyncio.current_task(self._loop)
        self._resting[task] = waiter
        try:
            return await waiter
        finally:
            del self._resting[task]
            # A task that is cancelled here keeps this frame with its error, and must not be kept by it.
            del task

    @property
    def is_due(self) -> bool:
        """Whether some task is about to go on, and may yet ask for something."""
        # Asked for each outcome, of a thousand branches maybe: most of them rest here, and are told by their futures.
        if any(map(asyncio.Future.done, self._resting.values())):
            return True
        if any_about_to_run(self._branches.difference(self._resting)):
            return True
        return self._handler is not None and self._handler not in self._resting and any_about_to_run((self._handler,))

    def call(self, then: Callable[[], None]) -> None:
        """Call `then` after some turns of the loop, and no sooner than the tasks wait."""
        self.is_on = True
        self._turn(SETTLE_TURNS, then, SETTLES_MAX)

    def _turn(self, turns: int, then: Callable[[], None], repeats: int) -> None:
        if turns:
            self._loop.call_soon(self._turn, turns - 1, then, repeats)
        elif repeats and self.is_due:
            self._turn(SETTLE_TURNS, then, repeats - 1)
        else:
            then()
