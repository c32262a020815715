"""Hearing of another actor's end, as a message.

To change it: a watch is known to both ends, so that whichever ends first leaves nothing behind in the other.
"""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from actors.errors import ActorStopped
from actors.mailbox import Mailbox
from actors.supervision import Terminated

M = TypeVar("M")


class Watched(Protocol):
    """Either end of a watch."""

    @property
    def terminated(self) -> Terminated | None:
        """How it ended; None while it lives."""
        ...

    @property
    def watches(self) -> "dict[Watch[Any], None]":
        """The watches it is an end of, in order of their making."""
        ...


class Watch(Generic[M]):
    """The owner of `mailbox` is to be told of `target`'s end, beyond the mailbox's bound."""

    __slots__ = ("_mailbox", "_make_message", "_on_error", "_target", "_watcher")

    def __init__(
        self,
        watcher: Watched,
        mailbox: Mailbox[M],
        make_message: Callable[[Terminated], M],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._watcher = watcher
        self._target: Watched | None = None
        self._mailbox = mailbox
        self._make_message = make_message
        self._on_error = on_error

    def begin(self, target: Watched) -> None:
        """Tell at once if `target` has ended, else when it does."""
        if target.terminated is not None:
            self._report(target.terminated)
            return
        self._target = target
        target.watches[self] = None
        self._watcher.watches[self] = None

    def end(self, ended: Watched, terminated: Terminated) -> None:
        """One end, `ended`, is dead: tell the watcher if that was the target."""
        for side in (self._watcher, self._target):
            if side is not None:
                side.watches.pop(self, None)
        if ended is self._target:
            self._report(terminated)

    def _report(self, terminated: Terminated) -> None:
        try:
            self._mailbox.push(self._make_message(terminated))
        except ActorStopped:
            return
        except Exception as error:
            self._on_error(error)
