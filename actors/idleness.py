"""How long an actor has had nothing to do.

To change it: one timer per idle actor, moved on when it fires, rather than one timer per message.
"""

from typing import Protocol

from actors.clock import Cancellable, Clock


class Resting(Protocol):
    """Who may have nothing to do."""

    def is_quiet(self) -> bool:
        """Whether there is nothing to do right now."""
        ...

    def passivate(self) -> None:
        """There was nothing to do for long enough."""


class Idleness:
    """Passivates `owner` once it has been quiet for `idle_after` seconds since the last `restart`."""

    __slots__ = ("_clock", "_idle_after", "_owner", "_since", "_timer")

    def __init__(self, clock: Clock, idle_after: float, owner: Resting) -> None:
        self._clock = clock
        self._idle_after = idle_after
        self._owner = owner
        self._since = 0.0
        self._timer: Cancellable | None = None

    def restart(self) -> None:
        """Count from now: there is nothing to do as of this moment."""
        self._since = self._clock.monotonic()
        if self._timer is None:
            self._timer = self._clock.call_later(self._idle_after, self._look)

    def cancel(self) -> None:
        """Count no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if not self._owner.is_quiet():
            # Whoever falls quiet again restarts the count.
            return
        left = self._since + self._idle_after - self._clock.monotonic()
        if left > 0:
            self._timer = self._clock.call_later(left, self._look)
        else:
            self._owner.passivate()
