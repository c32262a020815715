"""A handler's waits for signals: each asks its session's actor, and asks again whenever there may be another answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from orchestrator.session import messages as m

Tell: TypeAlias = Callable[[m.Message], None]
"""Reaches the session's actor. Handed in at each call: who keeps it refers back to who keeps the waits."""


class SignalWaits:
    """The waits of one run that are open."""

    def __init__(self) -> None:
        self._open: dict[str, m.SignalAwaited] = {}
        self._asking: set[str] = set()

    @property
    def are_answered(self) -> bool:
        """Whether the actor has looked for what each of them asked: one may be there already, or set a time limit."""
        return not (self._asking & self._open.keys())

    @property
    def operations(self) -> tuple[str, ...]:
        """The operation ids of those that are open, in the order they asked."""
        return tuple(self._open)

    @contextmanager
    def asking(self, wait: m.SignalAwaited, tell: Tell) -> Iterator[None]:
        """Ask, and keep the wait open for as long as the block lasts."""
        self._open[wait.operation] = wait
        try:
            self._ask(wait, tell)
            yield
        finally:
            del self._open[wait.operation]

    def arrived(self, name: str, tell: Tell) -> None:
        """Let those who wait for a signal of that name ask again, in the order they asked."""
        for wait in tuple(self._open.values()):
            if wait.name == name:
                self._ask(wait, tell)

    def ask_again(self, tell: Tell) -> None:
        """Let all of them ask again."""
        for wait in tuple(self._open.values()):
            self._ask(wait, tell)

    def considered(self, wait: m.SignalAwaited) -> None:
        """Note that the actor has looked for that signal: from here on its arrival is what counts."""
        self._asking.discard(wait.operation)

    def _ask(self, wait: m.SignalAwaited, tell: Tell) -> None:
        self._asking.add(wait.operation)
        tell(wait)
