"""What a step or an agent may know about its own run, and how it reports progress from wherever it runs."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from typing import Final

from actors import ActorStopped
from orchestrator.errors import NoInvocation, storable
from orchestrator.payloads import to_json
from orchestrator.session import messages as m
from orchestrator.session.frozen import quick

PROGRESS_MAX: Final = 1_000
"""Progress events of one attempt of a step or agent; later ones are dropped, for each is an item in the table."""


@quick
@dataclass(frozen=True, slots=True)
class Invocation:
    """What a step or an agent may know about its own run. `attempt` counts from 1."""

    session_id: str
    operation: str
    attempt: int
    report: Callable[[str, float | None, object], None]

    @property
    def idempotency_key(self) -> str:
        """The key to hand to other systems: the same on every attempt, in every process."""
        return f"{self.session_id}/{self.operation}"

    def progress(self, message: str, percent: float | None = None, data: object = None) -> None:
        """Tell people how far this operation is; does not wait until it is recorded."""
        self.report(message, percent, data)


_invocation: ContextVar[Invocation | None] = ContextVar("orchestrator_invocation", default=None)


def current_invocation() -> Invocation:
    """Return the run of the step or agent that this code is part of.

    Raises:
        NoInvocation: called anywhere else.
    """
    invocation = _invocation.get()
    if invocation is None:
        raise NoInvocation("current_invocation() works inside a step or an agent only")
    return invocation


def invocation_for(session_id: str, operation: str, attempt: int, tell: Callable[[m.Message], None]) -> Invocation:
    """Return the invocation of one attempt; its progress goes to the session's actor, from any thread."""
    loop = asyncio.get_running_loop()
    numbers = count(1)

    def deliver(message: m.ProgressMade) -> None:
        # A thread that is late may report to a session that has ended: nobody is interested any more.
        with contextlib.suppress(ActorStopped):
            tell(message)

    def report(message: str, percent: float | None, data: object) -> None:
        check_progress(message, percent)
        number = next(numbers)
        if number > PROGRESS_MAX or loop.is_closed():
            return
        progress_id = f"{operation}/progress#{attempt}.{number}"
        made = m.ProgressMade(progress_id, storable(message), percent, to_json(data, "data"))
        loop.call_soon_threadsafe(deliver, made)

    return Invocation(session_id, operation, attempt, report)


class InvocationScope:
    """Makes `current_invocation()` return this while a `with` block runs, in it and in the threads it starts.

    A class, because a `contextmanager` would take three times as long, once a step.
    """

    __slots__ = ("_invocation", "_token")

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation

    def __enter__(self) -> None:
        self._token = _invocation.set(self._invocation)

    def __exit__(self, *_: object) -> None:
        _invocation.reset(self._token)


def check_progress(message: object, percent: object) -> None:
    """Raise `ValueError` for progress that cannot be journaled."""
    # Whatever the annotations say: what cannot be journaled must be refused where the mistake is.
    if not isinstance(message, str):
        raise ValueError(f"message: {message!r:.100} is not a text")
    # A bool is an int; written down as one, it would make the journal unreadable.
    is_flag = isinstance(percent, bool)
    if percent is not None and (is_flag or not (isinstance(percent, int | float) and math.isfinite(percent))):
        raise ValueError(f"percent: {percent!r:.100} is not a finite number")
