"""Where a cell lives and what it is made from: the few things it needs from outside, as protocols.

To change it: keep it small; `cell.py` knows the system by nothing else.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol, TypeVar

from actors.actor import Actor
from actors.background import Background, BusySignal
from actors.clock import Clock
from actors.supervision import Failure

M_contra = TypeVar("M_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many messages may wait, and after how many idle seconds the actor passivates (None: never)."""

    mailbox_max: int
    idle_after: float | None


class Maker(Protocol[M_contra]):
    """Who makes an actor, and another one for each restart."""

    def make(self) -> Actor[M_contra]:
        """Return a new actor, not yet activated. May raise: it is actor code."""
        ...


class Resident(Protocol):
    """What a home remembers of a cell that has ended."""

    @property
    def actor_id(self) -> str:
        """Its id."""
        ...

    @property
    def background(self) -> Background:
        """What still is in flight of it, which ignored its cancellation."""
        ...


class Home(Protocol):
    """Where cells live."""

    @property
    def clock(self) -> Clock:
        """What time it is there."""
        ...

    @property
    def busy(self) -> BusySignal:
        """Where work in flight is counted."""
        ...

    @property
    def task_group(self) -> asyncio.TaskGroup:
        """What the tasks belong to."""
        ...

    def bury(self, resident: Resident) -> None:
        """Free the id of `resident`, which has ended."""

    def give_up(self, failure: Failure) -> None:
        """Take a failure that no supervisor would take."""
