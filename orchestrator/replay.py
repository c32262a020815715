"""The turnstile between a journal and a handler: outcomes pass one at a time, in the journal's order.

Live and on replay alike, one outcome is handed over, then the loop turns a few times before the next: code that asks
"which of these was first" gets the answer it got the first time. The same order makes a handler that asks for something
else visible: the journal's next outcome stays unclaimed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias, TypeVar

from actors import Clock
from orchestrator.errors import SessionCancelled
from orchestrator.passages import (
    Interruption,
    Passage,
    is_arrival,
    is_forced_stop,
    must_be_claimed,
    operation_of,
    passages,
    past_of,
)
from orchestrator.session.state import Operation, SessionState
from orchestrator.session.transitions import OperationKind
from orchestrator.settling import Settling
from orchestrator.user_code import Branches

T = TypeVar("T")

STALL_TURNS: Final = 40
STALL_SECONDS: Final = 30.0
"""How long a replay waits for branches that may still ask for the journal's next operation: handler code may use
asyncio between operations. It delays nothing but the verdict on a handler that has branches and does not match."""
FORCED_SECONDS: Final = 1.0
"""How long a forced stop waits for its turn: a handler that awaits no operation would keep it waiting for ever."""

Waiter: TypeAlias = "asyncio.Future[Operation | None] | asyncio.Future[None]"


class Turnstile:
    """Hands the outcomes of one session to one run of its handler."""

    def __init__(
        self,
        state: SessionState,
        clock: Clock,
        on_stall: Callable[[Operation, str], None],
        on_forced: Callable[[], None],
    ) -> None:
        """Start before the first outcome of a journal.

        `on_stall(recorded, asked)` is called when the handler asks for another operation than the journal holds,
        `on_forced()` when the handler is to be ended.
        """
        past = past_of(state)
        self._known, self._replay, self._unasked, self._begun = past.known, past.outcomes, past.unasked, past.begun
        self._claims_left = sum(1 for passage in self._replay if must_be_claimed(passage))
        self._asked: set[str] = set()
        self._clock = clock
        self._on_stall = on_stall
        self._on_forced = on_forced
        self._broken_off: set[str] = set()
        self._reaching: dict[str, asyncio.Future[Operation | None]] = {}
        self._awaiting: dict[str, asyncio.Future[None]] = {}
        self._reporting: dict[str, asyncio.Future[None]] = {}
        self._breakable: dict[str, asyncio.Task[object]] = {}
        self._changes: deque[Passage] = deque()
        self._given_up: set[str] = set()
        self._passed: set[str] = set()
        self._arrivals = 0
        self._holds = 0
        self._handler: asyncio.Task[object] | None = None
        self._branches: Branches = set()
        self.loop = asyncio.get_running_loop()
        """The loop that the handler runs in: to ask for it each time costs a system call on Python 3.11."""
        self._settling = Settling(self.loop)
        self._is_concurrent = self._is_over = self._is_forced = self._has_struck = False

    @property
    def is_replaying(self) -> bool:
        """Whether the handler is still going through what the journal already held."""
        return bool(self._claims_left or self._unasked)

    def begin(self, handler: asyncio.Task[object] | None, branches: Branches) -> None:
        """Note the handler's own task and the living tasks that it started.

        As long as the handler alone asks, nothing can overtake; as long as it has no branches, nobody else will ask.
        """
        self._handler, self._branches = handler, branches
        self._settling.begin(handler, branches)
        if any(is_forced_stop(passage) for passage in self._replay):
            self._clock.call_later(STALL_SECONDS, self._force_at_last)

    def known(self, operation_id: str) -> Operation | None:
        """Return the operation as the handler has seen it so far; on replay, as the journal has it."""
        return self._known.get(operation_id)

    def unclaimed(self) -> Operation | None:
        """Return the first recorded operation that nobody asked for; `None` when all have been."""
        asked = self._given_up | self._reaching.keys()
        recorded = (
            *(p for p in self._replay if isinstance(p, Operation) and not is_arrival(p)),
            *self._unasked.values(),
        )
        return next((op for op in recorded if op.operation_id not in asked), None)

    def changed(self, operation: Operation) -> None:
        """Take an operation as the journal has it after a new event; whoever awaits it goes on in its turn."""
        if operation.kind is OperationKind.PROGRESS:
            # Nothing depends on it, and a replay does not wait for it: it has no turn.
            self._known[operation.operation_id] = operation
            _resolve(self._reporting.get(operation.operation_id), None)
            return
        # Of a callback it is always the last of its passages that is new.
        self._take(passages(operation)[-1] if operation.kind is OperationKind.CALLBACK else operation)

    def interrupt(self, interruption: Interruption) -> None:
        """Let the handler hear of a stop, in its turn; one that has ended hears nothing any more."""
        if self._is_over:
            return
        if interruption.is_forced:
            self._clock.call_later(FORCED_SECONDS, self._force_at_last)
        self._take(interruption)

    def finish(self) -> None:
        """Note that the handler has ended: what is left to do for it is not interrupted."""
        self._is_over = True
        self._replay = deque(passage for passage in self._replay if isinstance(passage, Operation))
        self._changes = deque(passage for passage in self._changes if isinstance(passage, Operation))

    def close(self) -> None:
        """End every operation that is awaited or runs: their handler has ended, and will be handed nothing more."""
        waiters: tuple[Waiter, ...] = (*self._reaching.values(), *self._awaiting.values(), *self._reporting.values())
        for waiter in waiters:
            waiter.cancel()
        for task in self._breakable.values():
            # A second cancel would break off the clean-up that the first one set off.
            if not task.cancelling():
                task.cancel()
        self._on_stall, self._on_forced, self._handler = _unheard_stall, _unheard, None
        self._settling.close()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hand nothing over during the block: whoever got the last outcome is not done with it."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            if not self._settling.is_on:
                # Whoever held it goes on first, and those who wait for that.
                self._hand_over_soon(settles=self._has_branches)

    def breakable(self, operation_id: str, task: asyncio.Task[object]) -> None:
        """Let a stop break off what runs inside a task of the handler's own."""
        self._breakable[operation_id] = task
        if self._changes and not self._settling.is_on:
            self._hand_over()

    def unbreakable(self, operation_id: str) -> bool:
        """Note that it has ended; return whether a stop broke it off, by cancelling its task."""
        self._breakable.pop(operation_id, None)
        if operation_id not in self._broken_off:
            return False
        self._broken_off.discard(operation_id)
        return True

    @property
    def is_quiet(self) -> bool:
        """Whether nothing that is recorded is still on its way to the handler."""
        if self.is_replaying or self._changes or self._settling.is_on or self._holds:
            return False
        # What it was given, it takes up in a turn of the loop that may not have come yet.
        return not any(waiter.done() for waiter in self._awaiting.values())

    @property
    def has_struck(self) -> bool:
        """Whether the handler has heard of a stop by now, or ended before it did."""
        return self._has_struck or self._is_over

    def under_way(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the operations that run inside the handler's own tasks, and those that it awaits."""
        return tuple(self._breakable), tuple(self._awaiting)

    @property
    def has_breakable(self) -> bool:
        """Whether anything runs inside the handler's own tasks."""
        return bool(self._breakable)

    async def reach(self, operation_id: str) -> Operation | None:
        """Return the operation once it is its turn; `None` when it is new.

        Raises:
            SessionCancelled: the session is to end.
        """
        self._arrivals += 1
        self._asked.add(operation_id)
        self._is_concurrent = self._is_concurrent or asyncio.current_task(self.loop) is not self._handler
        self._unasked.pop(operation_id, None)
        if operation_id in self._passed:
            return self._known[operation_id]
        if not (
            self._replay
            or self._unasked
            or self._reaching
            or self._holds
            or (self._changes and self._is_interrupted_next())
        ):
            if self._changes and not self._settling.is_on:
                # They waited for this to be asked for.
                self._settling.call(self._hand_over)
            return self._known.get(operation_id)
        reached: asyncio.Future[Operation | None] = self.loop.create_future()
        self._reaching[operation_id] = reached
        if not self._settling.is_on:
            # Branches that began together ask one after the other: none is overtaken because another asked first.
            self._hand_over_soon(settles=bool(self._replay) and self._has_branches)
        try:
            return await self._settling.rest(reached)
        except (asyncio.CancelledError, SessionCancelled):
            # Its branch was cancelled, as it was the first time: whatever outcome is recorded is passed over.
            self._given_up.add(operation_id)
            self._reaching.pop(operation_id, None)
            raise

    async def next_change(self, operation_id: str, *, after_seq: int) -> Operation:
        """Return the operation once an event of it with a seq over `after_seq` is journaled.

        Raises:
            SessionCancelled: the session is to end.
        """
        while True:
            known = self._known.get(operation_id)
            if known is not None and known.changed_seq > after_seq:
                return known
            changed: asyncio.Future[None] = self.loop.create_future()
            self._awaiting[operation_id] = changed
            if self._changes and self._is_interrupted_next() and not self._settling.is_on:
                self._hand_over()
            try:
                await self._settling.rest(changed)
            finally:
                if self._awaiting.get(operation_id) is changed:
                    del self._awaiting[operation_id]

    async def reported(self, operation_id: str) -> None:
        """Return once that news for people is journaled; a stop of the session does not break it off."""
        if operation_id not in self._known:
            reported = self._reporting[operation_id] = self.loop.create_future()
            try:
                await self._settling.rest(reported)
            finally:
                del self._reporting[operation_id]

    def _take(self, passage: Passage) -> None:
        self._changes.append(passage)
        if not self._settling.is_on:
            self._hand_over_soon(settles=self._has_branches and self._settling.is_due)

    def _is_interrupted_next(self) -> bool:
        return bool(self._changes) and isinstance(self._changes[0], Interruption)

    def _hand_over(self) -> None:
        """Hand the next outcome to whoever waits for it."""
        self._settling.is_on = False
        # A loop, because as many may have come meanwhile as no stack holds.
        while not self._holds and self._hand_over_next():
            pass

    def _hand_over_next(self) -> bool:
        """Hand one outcome over; return whether the next one may follow at once."""
        while self._replay and operation_of(self._replay[0]) in self._given_up:
            self._pop_recorded()
        if self._replay and self._is_early(self._replay[0]):
            self._watch_for_stall(self._arrivals, STALL_TURNS)
        elif self._replay:
            return self._hand_over_recorded(self._replay[0])
        elif self._reaching and not self._is_interrupted_next():
            self._begin_asked()
        elif self._changes:
            return self._hand_over_change(self._changes[0])
        return False

    def _is_early(self, passage: Passage) -> bool:
        """Return whether something began before this passage that the handler has not asked for yet."""
        while self._begun and self._begun[0].operation_id in self._asked:
            self._begun.popleft()
        return bool(self._begun) and self._begun[0].started_seq < passage.changed_seq

    def _hand_over_change(self, change: Passage) -> bool:
        if isinstance(change, Interruption):
            self._interrupt_soon(change, self._changes)
            return False
        if self._unasked:
            # What the journal holds was asked for before this happened, and is about to be asked for again.
            return False
        self._changes.popleft()
        self._known[change.operation_id] = change
        _resolve(self._awaiting.get(change.operation_id), None)
        return self._goes_on()

    def _interrupt_soon(self, interruption: Interruption, queue: deque[Passage]) -> None:
        """Interrupt whatever the handler awaits, once it awaits something and whoever was to ask has asked."""
        if not (interruption.is_forced or self._reaching or self._awaiting or self._breakable):
            return

        def strike() -> None:
            if queue and queue[0] is interruption and not self._is_over:
                queue.popleft()
                self._strike(interruption)
            self._settling.call(self._hand_over)

        self._settling.call(strike)

    def _strike(self, interruption: Interruption) -> None:
        if interruption.is_forced:
            self._force()
            return
        self._has_struck = True
        waiters: list[Waiter] = [*self._reaching.values(), *self._awaiting.values()]
        self._reaching.clear()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(SessionCancelled(interruption.reason))
        for operation_id, task in tuple(self._breakable.items()):
            self._broken_off.add(operation_id)
            task.cancel()

    def _force_at_last(self) -> None:
        if not self._is_over:
            self._force()

    def _force(self) -> None:
        if not self._is_forced:
            self._is_forced = True
            self._on_forced()

    def _pop_recorded(self) -> Passage:
        passage = self._replay.popleft()
        self._claims_left -= must_be_claimed(passage)
        if isinstance(passage, Operation) and is_arrival(passage):
            self._passed.add(passage.operation_id)
        return passage

    def _begin_asked(self) -> None:
        """Let begin what was asked for during the replay, in that order: the new only when nothing old is missing."""
        for operation_id in tuple(self._reaching):
            known = self._known.get(operation_id)
            if known is not None or not self._unasked:
                _resolve(self._reaching.pop(operation_id), known)
        if self._reaching:
            self._watch_for_stall(self._arrivals, STALL_TURNS)
        else:
            self._settling.call(self._hand_over)

    def _hand_over_recorded(self, passage: Passage) -> bool:
        if isinstance(passage, Interruption):
            self._interrupt_soon(passage, self._replay)
            return False
        reached = self._reaching.pop(passage.operation_id, None)
        if reached is not None:
            self._pop_recorded()
            _resolve(reached, passage)
            return self._goes_on()
        if self._reaching and is_arrival(passage):
            self._pass_soon(passage)
        elif self._reaching:
            self._watch_for_stall(self._arrivals, STALL_TURNS)
        return False

    def _pass_soon(self, arrival: Operation) -> None:
        """Let an answer pass that nobody awaits yet, once whoever was to ask for it by now has asked."""

        def let_pass() -> None:
            if self._replay and self._replay[0] is arrival and arrival.operation_id not in self._reaching:
                self._pop_recorded()
            self._hand_over()

        self._settling.call(let_pass)

    def _goes_on(self) -> bool:
        """Return whether the next outcome may follow at once; if not, it follows when the loop has settled."""
        # With one task asking, nothing can overtake: the next outcome need not wait for the loop to settle.
        if self._is_concurrent:
            self._settling.call(self._hand_over)
            return False
        return bool(self._changes or self._reaching or (self._replay and is_forced_stop(self._replay[0])))

    def _hand_over_soon(self, *, settles: bool) -> None:
        if settles:
            self._settling.call(self._hand_over)
        else:
            self._hand_over()

    @property
    def _has_branches(self) -> bool:
        return self._is_concurrent or len(self._branches) > 0

    def _watch_for_stall(self, arrivals: int, turns: int) -> None:
        """Report a stall when nothing more is asked for and the journal's next outcome stays unclaimed."""
        if not self._is_stalled(arrivals):
            return
        if turns > 1:
            self.loop.call_soon(self._watch_for_stall, arrivals, turns - 1)
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
        if not self._replay:
            return next(iter(self._unasked.values()), None)
        first = self._replay[0]
        if self._is_early(first):
            return self._begun[0]
        return first if isinstance(first, Operation) and not is_arrival(first) else None

    def _is_stalled(self, arrivals: int) -> bool:
        missing = self._missing()
        return (
            arrivals == self._arrivals
            and missing is not None
            and bool(self._reaching)
            and missing.operation_id not in self._reaching
        )


def _unheard_stall(recorded: Operation, asked: str) -> None:
    """Nobody wants to know any more."""


def _unheard() -> None:
    """Nobody wants to know any more."""


def _resolve(waiter: asyncio.Future[T] | None, outcome: T) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(outcome)
