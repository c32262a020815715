"""The actors that one actor supervises, and how they are made to end before it does.

To change it: whoever waits here must not be able to wait for ever on a child that waits for its parent.
"""

import asyncio
from typing import Any, Protocol

from actors.background import CANCEL_GRACE_SECONDS
from actors.clock import Clock
from actors.signals import Signal


class Child(Protocol):
    """What a parent asks of a child."""

    @property
    def actor_id(self) -> str:
        """Its id."""
        ...

    def stop(self) -> None:
        """End after the current message."""

    def cut(self) -> bool:
        """End at once."""
        ...

    def abort(self) -> None:
        """End at once, whatever it is about."""

    def encloses(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether `task` is its own or one below."""
        ...


class Children:
    """The living children of one actor."""

    __slots__ = ("_by_id", "_changed")

    def __init__(self) -> None:
        # Hardly any actor has children: an empty dict for each would be memory for nothing.
        self._by_id: dict[str, Child] | None = None
        self._changed: Signal | None = None

    def __len__(self) -> int:
        """Return how many live."""
        return len(self._by_id) if self._by_id else 0

    def add(self, child: Child) -> None:
        """`child` is born."""
        if self._by_id is None:
            self._by_id, self._changed = {}, Signal()
        self._by_id[child.actor_id] = child

    def remove(self, child: Child) -> None:
        """`child` has ended."""
        assert self._by_id is not None, "no child was ever added"
        assert self._changed is not None, "made together"
        del self._by_id[child.actor_id]
        self._changed.fire()

    def enclose(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether `task` is a child's or one below it."""
        return any(child.encloses(task) for child in self._living())

    async def stop(self) -> None:
        """Return when all have ended, each after its current message, however long that takes."""
        for child in self._living():
            child.stop()
        if self._changed is not None:
            await self._changed.until(self._is_empty)

    async def cut(self, clock: Clock) -> None:
        """Return when all have ended, at once; or after two graces, should one ignore its cancellation."""
        for child in self._living():
            child.cut()
        if self._changed is None or await self._changed.until(self._is_empty, clock, CANCEL_GRACE_SECONDS):
            return
        for child in self._living():
            child.abort()
        await self._changed.until(self._is_empty, clock, CANCEL_GRACE_SECONDS)

    def _living(self) -> tuple[Child, ...]:
        return tuple(self._by_id.values()) if self._by_id else ()

    def _is_empty(self) -> bool:
        return not self._by_id
