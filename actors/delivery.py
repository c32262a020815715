"""A message whose sender waits to hear how it went, and the senders that one actor keeps waiting.

To change it: a caller is told exactly once: handled, failed, or that its actor has stopped.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from actors.errors import ActorStopped

M = TypeVar("M")


class Delivery(Generic[M]):
    """`fail` tells the sender what went wrong, `handled` (if it asked for that) that `receive` returned."""

    __slots__ = ("fail", "handled", "message")

    def __init__(
        self, message: M, fail: Callable[[BaseException], None], handled: Callable[[], None] | None = None
    ) -> None:
        self.message = message
        self.fail = fail
        self.handled = handled


def unwrap(item: M | Delivery[M]) -> M:
    """Return the message itself."""
    return item.message if isinstance(item, Delivery) else item


class Callers(Generic[M]):
    """The deliveries whose senders still wait."""

    __slots__ = ("_deliveries",)

    def __init__(self) -> None:
        self._deliveries: dict[Delivery[M], None] | None = None

    def add(self, delivery: Delivery[M]) -> None:
        """Somebody waits for `delivery`."""
        if self._deliveries is None:
            self._deliveries = {}
        self._deliveries[delivery] = None

    def discard(self, delivery: Delivery[M]) -> None:
        """Nobody waits for `delivery` any more."""
        if self._deliveries is not None:
            self._deliveries.pop(delivery, None)

    def refuse(self, actor_id: str) -> None:
        """Tell all that wait that the actor has stopped."""
        for delivery in self._deliveries or ():
            delivery.fail(ActorStopped(f"actor {actor_id!r} stopped before it answered"))
