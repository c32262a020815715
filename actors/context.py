"""What an actor may do: its own name, time, background work, children, and watching others.

To change it: nothing here blocks, so that an actor can call it from `receive` without thinking.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Never, Protocol, TypeVar

from actors.actor import Actor
from actors.background import Background
from actors.cell import Cell
from actors.clock import Clock
from actors.home import Limits
from actors.ref import ActorRef
from actors.supervision import Supervisor, Terminated, stop_on_failure

M = TypeVar("M")
C = TypeVar("C")

MAILBOX_MAX = 1000


@dataclass(frozen=True, slots=True)
class Plan(Generic[M]):
    """All that is needed to bring an actor to life."""

    actor_id: str
    factory: "Factory[M]"
    limits: Limits
    supervisor: Supervisor


class Spawner(Protocol):
    """Who brings actors to life."""

    def bring_up(self, plan: Plan[M], parent: "ActorContext[C] | None") -> ActorRef[M]:
        """Start the actor. Raises DuplicateActor, SystemDraining, ActorStopped if `parent` winds down."""
        ...


class ActorContext(Generic[M]):
    """Given to the factory; the same one through all restarts of an actor."""

    __slots__ = ("_factory", "_spawner", "cell", "ref")

    def __init__(self, cell: Cell[M], factory: "Factory[M]", spawner: Spawner) -> None:
        self.cell = cell
        self.ref: ActorRef[M] = ActorRef(cell)
        self._factory = factory
        self._spawner = spawner

    @property
    def actor_id(self) -> str:
        """The id that the actor was spawned under."""
        return self.cell.actor_id

    @property
    def background(self) -> Background:
        """This actor's work in flight: cancelled and awaited when it stops or restarts."""
        return self.cell.background

    @property
    def clock(self) -> Clock:
        """The system's clock."""
        return self.cell.clock

    def make(self) -> Actor[M]:
        """See `Maker`."""
        return self._factory(self)

    def stop(self) -> None:
        """Stop after the current message. What waits in the mailbox is not handled, and its callers are told."""
        self.cell.stop()

    def tell_self(self, message: M) -> None:
        """Accept `message` at once, even beyond the mailbox's bound. Raises ActorStopped only after the actor's end.

        Beyond the bound, because only this actor can make room: an outcome of its own work that waited for room, or
        was refused, would deadlock it or be lost. What is in flight bounds it instead.
        """
        self.cell.mailbox.push(message)

    async def spawn(
        self,
        child_id: str,
        factory: "Factory[C]",
        *,
        mailbox_max: int = MAILBOX_MAX,
        idle_after: float | None = None,
        supervisor: Supervisor = stop_on_failure,
    ) -> ActorRef[C]:
        """Start a child: it stops before this actor does, and what it escalates is this actor's failure.

        `child_id` is used as it is: ids are unique in the whole system. Raises DuplicateActor, SystemDraining,
        ActorStopped when this actor winds down (in `deactivate`); a child that is spawned after `stop` stops with it.
        """
        plan = Plan(child_id, factory, Limits(mailbox_max, idle_after), supervisor)
        return self._spawner.bring_up(plan, self)

    def watch(self, ref: ActorRef[Never], make_message: Callable[[Terminated], M]) -> None:
        """Tell this actor `make_message(terminated)` when `ref` ends, or at once if it has; beyond the bound too."""
        self.cell.watch(ref._cell, make_message)


Factory = Callable[[ActorContext[M]], Actor[M]]
