"""All actors of a process: one task per id, in one TaskGroup; and the two stops, in order.

To change it: what happens inside one actor is `cell.py`'s. Leaving the `async with` leaves nothing running.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog
from structlog.typing import FilteringBoundLogger

from actors.background import CANCEL_GRACE_SECONDS, BusySignal
from actors.cell import AnyCell, Cell
from actors.clock import Clock, SystemClock
from actors.context import MAILBOX_MAX, ActorContext, Factory, Plan
from actors.errors import ActorStopped, DuplicateActor, SystemDraining
from actors.home import Limits, Resident
from actors.ref import ActorRef
from actors.signals import Signal
from actors.supervision import Failure, Supervisor, stop_on_failure

M = TypeVar("M")
C = TypeVar("C")

ACTOR_ID_CHARS_MAX = 1024
CUT_GRACE_SECONDS = 2 * CANCEL_GRACE_SECONDS
"""How long an actor that is cut may take over `deactivate`; longer than its background work gets, which comes first."""

log: FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DrainReport:
    """How the actors of a drain ended, by id, in the order of their ends.

    `cut` had work in hand when time was up. `stuck` ignored their cancellation and may run still, or their background
    work does: they are among `cut`, too.
    """

    finished: tuple[str, ...]
    cut: tuple[str, ...]
    stuck: tuple[str, ...] = ()


class ActorSystem:
    """Owns every actor's task. Use as `async with`; leaving it ends what still lives, without waiting for its work."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        busy: BusySignal | None = None,
        on_escalation: Callable[[Failure], None] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        """Have no actors yet. `on_end` is called in the loop whenever one has ended; it must not raise."""
        self._on_end = on_end
        self._clock = clock if clock is not None else SystemClock()
        self._busy = busy if busy is not None else BusySignal(self._clock)
        self._on_escalation = on_escalation
        self._task_group = asyncio.TaskGroup()
        self._cells: dict[str, AnyCell] = {}
        # What each running drain has seen end.
        self._tallies: dict[object, list[Resident]] = {}
        self._changed = Signal()
        self._context: Context = copy_context()
        self._is_draining = False
        self.gave_up: Failure | None = None

    def __len__(self) -> int:
        """Return how many actors live, those that are stopping included."""
        return len(self._cells)

    async def __aenter__(self) -> Self:
        """Be ready to spawn."""
        # Actors outlive whoever spawned them: they get the system's context variables, not those of some request.
        self._context = copy_context()
        await self._task_group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every actor: what receives is cancelled, what waits is stopped and deactivated."""
        self._is_draining = True
        try:
            await self._cut_all()
        except BaseException as interruption:
            await self._task_group.__aexit__(type(interruption), interruption, interruption.__traceback__)
            raise
        # Not told of the body's error, which the group would wrap: it reaches the caller as it was raised.
        await self._task_group.__aexit__(None, None, None)

    @property
    def clock(self) -> Clock:
        """The clock that all actors use."""
        return self._clock

    @property
    def busy(self) -> BusySignal:
        """Whether any actor has work in flight that counts."""
        return self._busy

    @property
    def task_group(self) -> asyncio.TaskGroup:
        """The parent of every task in the system."""
        return self._task_group

    async def spawn(
        self,
        actor_id: str,
        factory: Factory[M],
        *,
        mailbox_max: int = MAILBOX_MAX,
        idle_after: float | None = None,
        supervisor: Supervisor = stop_on_failure,
    ) -> ActorRef[M]:
        """Start an actor and return before it is activated: messages wait, and a failure goes to `supervisor`.

        After `idle_after` seconds without a message, background work or children, it passivates. Raises DuplicateActor
        while one of this id lives, SystemDraining.
        """
        return self.bring_up(Plan(actor_id, factory, Limits(mailbox_max, idle_after), supervisor), None)

    def get(self, actor_id: str) -> ActorRef[Any] | None:
        """Return the actor of this id, or None if none lives. The caller knows what messages it takes."""
        cell = self._cells.get(actor_id)
        return None if cell is None else ActorRef(cell)

    def refs(self) -> "tuple[ActorRef[Any], ...]":
        """Return every actor that lives now. The caller knows what messages they take."""
        return tuple(ActorRef(cell) for cell in self._cells.values())

    def fullest_mailbox(self) -> int:
        """Return how many messages wait in the mailbox that holds most."""
        return max((len(cell.mailbox) for cell in self._cells.values()), default=0)

    def seen(self, actor_id: str) -> object | None:
        """Return the actor itself as it stands, to be looked at and never called on; `None` where none is active."""
        cell = self._cells.get(actor_id)
        return None if cell is None else cell.actor

    def ids(self) -> tuple[str, ...]:
        """Return the ids of the actors that live now."""
        return tuple(self._cells)

    async def stop(self, actor_id: str) -> None:
        """Return when the actor has ended after its current message; at once if there is none.

        Called from the actor's own task, or one below it, this only asks it to stop: waiting would wait for itself.
        """
        cell = self._cells.get(actor_id)
        if cell is None:
            return
        cell.stop()
        if not cell.encloses(asyncio.current_task()):
            await cell.ended()

    # `asyncio.timeout` goes by the machine's time, this by the system's clock.
    async def drain(self, timeout: float) -> DrainReport:
        """Refuse new actors, end each actor as it runs out of work, and after `timeout` seconds end the rest.

        Mailboxes stay open until their actor ends. Takes at most 2 * CUT_GRACE_SECONDS longer than
        `timeout`. Cancelled, it leaves the system draining.
        """
        self._is_draining = True
        tally = object()
        self._tallies[tally] = []
        try:
            for cell in tuple(self._cells.values()):
                cell.drain()
            in_time = await self._changed.until(self._is_empty, self._clock, timeout)
            cut = frozenset() if in_time else await self._cut_all()
            return self._report(self._tallies[tally], cut)
        finally:
            del self._tallies[tally]

    def bring_up(self, plan: Plan[M], parent: ActorContext[C] | None) -> ActorRef[M]:
        """See `Spawner`."""
        assert 0 < len(plan.actor_id) <= ACTOR_ID_CHARS_MAX, "an id is 1 to ACTOR_ID_CHARS_MAX characters"
        above = None if parent is None else parent.cell
        self._check(plan.actor_id, above)
        cell: Cell[M] = Cell(plan.actor_id, self, plan.limits, plan.supervisor, above)
        context = ActorContext(cell, plan.factory, self)
        cell.begin(context, self._context.copy())
        self._cells[plan.actor_id] = cell
        return context.ref

    def bury(self, resident: Resident) -> None:
        """See `Home`."""
        del self._cells[resident.actor_id]
        for ended in self._tallies.values():
            ended.append(resident)
        self._changed.fire()
        if self._on_end is not None:
            self._on_end()

    def give_up(self, failure: Failure) -> None:
        """See `Home`. The first such failure stays in `gave_up`."""
        self.gave_up = self.gave_up or failure
        log.error("failure_escalated_to_system", actor_id=failure.actor_id, exc_info=failure.error)
        if self._on_escalation is None:
            return
        try:
            self._on_escalation(failure)
        except Exception as error:
            log.error("on_escalation_failed", actor_id=failure.actor_id, exc_info=error)

    def _check(self, actor_id: str, parent: AnyCell | None) -> None:
        if self._is_draining:
            raise SystemDraining(f"no actor {actor_id!r}: the system is draining")
        if actor_id in self._cells:
            raise DuplicateActor(f"an actor {actor_id!r} lives already")
        if parent is not None and parent.is_winding_down:
            raise ActorStopped(f"no actor {actor_id!r}: its parent {parent.actor_id!r} is stopping")

    def _is_empty(self) -> bool:
        return not self._cells

    async def _cut_all(self) -> frozenset[str]:
        """End every actor without waiting for its work; return the ids of those that had some."""
        cut = {actor_id for actor_id, cell in tuple(self._cells.items()) if cell.cut()}
        if not await self._changed.until(self._is_empty, self._clock, CUT_GRACE_SECONDS):
            cut |= self._cells.keys()
            for cell in tuple(self._cells.values()):
                cell.abort()
            await self._changed.until(self._is_empty, self._clock, CUT_GRACE_SECONDS)
        if cut:
            log.warning("actors_cut", actor_ids=sorted(cut), stuck=sorted(self._cells))
        return frozenset(cut)

    def _report(self, ended: list[Resident], cut: frozenset[str]) -> DrainReport:
        stuck = (*(cell.actor_id for cell in ended if cell.background), *self._cells)
        in_order = (*(cell.actor_id for cell in ended), *self._cells)
        is_cut = cut.union(stuck)
        return DrainReport(
            finished=tuple(actor_id for actor_id in in_order if actor_id not in is_cut),
            cut=tuple(actor_id for actor_id in in_order if actor_id in is_cut),
            stuck=stuck,
        )
