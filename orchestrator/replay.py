"""The turnstile between a journal and a handler: outcomes pass one at a time, in the journal's order.

Live and on replay alike, one outcome is handed over, then the loop turns a few times before the next: code that asks
"which of these was first" gets the answer it got the first time. The same order makes a handler that asks for something
else visible: the journal's next outcome stays unclaimed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Final

from actors import Clock
from orchestrator.session.state import Operation
from orchestrator.session.transitions import OperationKind

SETTLE_TURNS: Final = 8
"""Loop turns between two outcomes: enough for nested gathers and task groups to pass one on to the handler."""
STALL_TURNS: Final = 40
STALL_SECONDS: Final = 30.0
"""How long a replay waits for branches that may still ask for the journal's next operation: handler code may use
asyncio between operations. It delays nothing but the verdict on a handler that has branches and does not match."""


class Turnstile:
    """Hands the outcomes of one session to one run of its handler."""

    def __init__(self, known: Iterable[Operation], clock: Clock, on_stall: Callable[[Operation, str], None]) -> None:
        """Start before the first outcome. `on_stall(recorded, asked)` is called when the handler asks for another."""
        self._known = {operation.operation_id: operation for operation in known}
        self._replay = deque(
            sorted(
                (op for op in self._known.values() if op.is_settled and op.kind is not OperationKind.PROGRESS),
                key=lambda operation: operation.changed_seq,
            )
        )
        # Ordered before the last activation and not settled: the handler asks for these too before anything new begins.
        self._unasked = {
            op.operation_id: op
            for op in sorted(self._known.values(), key=lambda operation: operation.changed_seq)
            if not op.is_settled
        }
        self._clock = clock
        self._on_stall = on_stall
        self._reaching: dict[str, asyncio.Future[Operation | None]] = {}
        self._awaiting: dict[str, asyncio.Future[None]] = {}
        self._changes: deque[Operation] = deque()
        self._given_up: set[str] = set()
        self._arrivals = 0
        self._handler: asyncio.Task[object] | None = None
        self._branches: Collection[object] = ()
        self._is_concurrent = False
        self._is_settling = False

    @property
    def is_replaying(self) -> bool:
        """Whether the handler is still going through what the journal already held."""
        return bool(self._replay or self._unasked)

    def begin(self, handler: asyncio.Task[object] | None, branches: Collection[object]) -> None:
        """Note the handler's own task and the living tasks that it started.

        As long as the handler alone asks, nothing can overtake; as long as it has no branches, nobody else will ask.
        """
        self._handler = handler
        self._branches = branches

    def known(self, operation_id: str) -> Operation | None:
        """Return the operation as the handler has seen it so far; on replay, as the journal has it."""
        return self._known.get(operation_id)

    def unclaimed(self) -> Operation | None:
        """Return the first recorded operation that nobody asked for; `None` when all have been."""
        asked = self._given_up | self._reaching.keys()
        recorded = (*self._replay, *self._unasked.values())
        return next((op for op in recorded if op.operation_id not in asked), None)

    def changed(self, operation: Operation) -> None:
        """Take an operation as the journal has it after a new event; whoever awaits it goes on in its turn."""
        self._changes.append(operation)
        if not self._is_settling:
            self._hand_over()

    async def reach(self, operation_id: str) -> Operation | None:
        """Return the operation once it is its turn; `None` when it is new."""
        self._arrivals += 1
        self._is_concurrent = self._is_concurrent or asyncio.current_task() is not self._handler
        self._unasked.pop(operation_id, None)
        if not self.is_replaying and not self._reaching:
            return self._known.get(operation_id)
        reached: asyncio.Future[Operation | None] = asyncio.get_running_loop().create_future()
        self._reaching[operation_id] = reached
        if not self._is_settling:
            self._hand_over()
        try:
            return await reached
        except asyncio.CancelledError:
            # Its branch was cancelled, as it was the first time: whatever outcome is recorded is passed over.
            self._given_up.add(operation_id)
            self._reaching.pop(operation_id, None)
            raise

    async def next_change(self, operation_id: str, *, after_seq: int) -> Operation:
        """Return the operation once an event of it with a seq over `after_seq` is journaled."""
        while True:
            known = self._known.get(operation_id)
            if known is not None and known.changed_seq > after_seq:
                return known
            changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._awaiting[operation_id] = changed
            await changed

    def _hand_over(self) -> None:
        """Hand the next outcome to whoever waits for it."""
        self._is_settling = False
        while self._replay and self._replay[0].operation_id in self._given_up:
            self._replay.popleft()
        if self._replay:
            self._hand_over_recorded()
        elif self._reaching:
            self._begin_asked()
        elif self._changes:
            change = self._changes.popleft()
            self._known[change.operation_id] = change
            _resolve(self._awaiting.pop(change.operation_id, None), None)
            self._go_on()

    def _begin_asked(self) -> None:
        """Let begin what was asked for during the replay, in that order: the new only when nothing old is missing."""
        for operation_id in tuple(self._reaching):
            known = self._known.get(operation_id)
            if known is not None or not self._unasked:
                _resolve(self._reaching.pop(operation_id), known)
        if self._reaching:
            self._watch_for_stall(self._arrivals, STALL_TURNS)
        else:
            self._settle(SETTLE_TURNS, self._hand_over)

    def _hand_over_recorded(self) -> None:
        reached = self._reaching.pop(self._replay[0].operation_id, None)
        if reached is not None:
            _resolve(reached, self._replay.popleft())
            self._go_on()
        elif self._reaching:
            self._watch_for_stall(self._arrivals, STALL_TURNS)

    def _go_on(self) -> None:
        # With one task asking, nothing can overtake: the next outcome need not wait for the loop to settle.
        if self._is_concurrent:
            self._settle(SETTLE_TURNS, self._hand_over)
        elif self._changes or self._reaching:
            self._hand_over()

    def _settle(self, turns: int, then: Callable[[], None]) -> None:
        """Call `then` after so many turns of the loop."""
        self._is_settling = True
        loop = asyncio.get_running_loop()
        if turns > 1:
            loop.call_soon(self._settle, turns - 1, then)
        else:
            loop.call_soon(then)

    def _watch_for_stall(self, arrivals: int, turns: int) -> None:
        """Report a stall when nothing more is asked for and the journal's next outcome stays unclaimed."""
        if not self._is_stalled(arrivals):
            return
        if turns > 1:
            asyncio.get_running_loop().call_soon(self._watch_for_stall, arrivals, turns - 1)
        elif self._branches:
            self._clock.call_later(STALL_SECONDS, lambda: self._report_stall(arrivals))
        else:
            self._report_stall(arrivals)

    def _report_stall(self, arrivals: int) -> None:
        missing = self._missing()
        if missing is not None and self._is_stalled(arrivals):
            self._on_stall(missing, next(iter(self._reaching)))

    def _missing(self) -> Operation | None:
        """Return the operation that the handler must ask for next."""
        return self._replay[0] if self._replay else next(iter(self._unasked.values()), None)

    def _is_stalled(self, arrivals: int) -> bool:
        missing = self._missing()
        return (
            arrivals == self._arrivals
            and missing is not None
            and bool(self._reaching)
            and missing.operation_id not in self._reaching
        )


def _resolve(waiter: asyncio.Future[Operation | None] | asyncio.Future[None] | None, known: Operation | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(known)  # type: ignore[arg-type]
