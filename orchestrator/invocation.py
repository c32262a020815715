"""What a step or an agent may know about its own run, and how it reports progress from wherever it runs."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol, TypeAlias

from opentelemetry.context import Context, attach, detach

from actors import ActorStopped
from orchestrator.calls import Approval
from orchestrator.errors import NoInvocation, OrchestratorError, storable
from orchestrator.payloads import to_json
from orchestrator.session import messages as m
from orchestrator.session.frozen import quick
from orchestrator.session.tracing import attempt_span_id, span_id, traceparent_of
from orchestrator.session.values import Json, JsonObject
from orchestrator.telemetry.context import context_below

PROGRESS_MAX: Final = 1_000
"""Progress events of one attempt of a step or agent; later ones are dropped, for each is an item in the table."""


class CallInDoubt(OrchestratorError):
    """A call that must not be made twice was begun, and nobody recorded how it ended: it may have been made, or not."""

    code = "CALL_IN_DOUBT"


@dataclass(frozen=True, slots=True)
class CallResult:
    """What a call within an agent run came to; `usage` holds the counts it reported, `None` for none."""

    result: Json
    usage: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class Ticket:
    """A callback of an agent run: whoever has the token may answer it, at the URL or by a message."""

    callback_id: str
    url: str
    token: str


CallFunction: TypeAlias = Callable[[], Awaitable[CallResult]]


class Calls(Protocol):
    """The calls that an agent run makes, each recorded once: a later run of it finds them and does not repeat them.

    A later run is the same one after a crash, on another node, or another attempt at it. Names are the caller's: 1 to
    100 of `A-Z a-z 0-9 _ . : # -`, unique within the run, and the same ones whenever it runs.
    """

    async def run(self, name: str, fn: CallFunction, *, at_most_once: bool = False) -> Json:
        """Return the call's recorded result; without one, make the call and record it.

        What `fn` raises is raised, and nothing is recorded, so that a later run makes the call again.

        Raises:
            CallInDoubt: with `at_most_once`, the call was begun before and its outcome is not known.
            StepFailed: with `at_most_once`, it failed before.
        """
        ...

    async def ask(
        self, name: str, subject: Json, *, approvers: tuple[str, ...] | None = None, timeout: float | None = None
    ) -> Approval:
        """Return a person's answer; `timeout` in seconds.

        Until there is one, the run is cancelled here, and it starts anew when there is: nothing is kept in memory.

        Raises:
            ApprovalTimedOut: nobody answered in time.
        """
        ...

    async def callback(self, name: str, *, timeout: float | None = None) -> Ticket:
        """Return a callback of the run's own, with a fresh token; to be handed out within a recorded call."""
        ...

    async def answer(self, name: str) -> Json:
        """Return what the callback of that name was answered; until then, as in `ask`.

        Raises:
            CallbackFailed: the answer is a failure. OperationTimedOut: there was none in time.
        """
        ...


@quick
@dataclass(frozen=True, slots=True)
class Invocation:
    """What a step or an agent may know about its own run. `attempt` counts from 1.

    `session_trace` is the trace that the session was accepted under.

    Only agents have `calls`, and `is_over()`, which tells a run that is being cancelled whether nobody waits for it any
    more, because its session is to end or its time is up. Otherwise it is carried on elsewhere, or later.
    """

    session_id: str
    operation: str
    attempt: int
    report: Callable[[str, float | None, object], None]
    calls: Calls | None = None
    session_trace: str | None = None
    is_over: Callable[[], bool] = lambda: False

    @property
    def trace(self) -> str | None:
        """The W3C `traceparent` of its span, for others to become children of; `None` without a trace."""
        # Of an agent run each attempt is a span; of a step the operation is.
        parent_id = (
            span_id(self.session_id, self.operation)
            if self.calls is None
            else attempt_span_id(self.session_id, self.operation, self.attempt)
        )
        return traceparent_of(self.session_trace, parent_id)

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


def invocation_for(
    session_id: str,
    operation: str,
    attempt: int,
    tell: Callable[[m.Message], None],
    calls: Calls | None = None,
    session_trace: str | None = None,
) -> Invocation:
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

    return Invocation(session_id, operation, attempt, report, calls, session_trace)


class InvocationScope:
    """Makes `current_invocation()` return this while a `with` block runs, in it and in the threads it starts.

    Spans that are begun within are children of the invocation's. A class, because a `contextmanager` would take three
    times as long, once a step.
    """

    __slots__ = ("_invocation", "_token", "_trace_token")

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._trace_token: Token[Context] | None = None

    def __enter__(self) -> None:
        self._token = _invocation.set(self._invocation)
        if self._invocation.session_trace is not None:
            self._trace_token = attach(context_below(self._invocation))

    def __exit__(self, *_: object) -> None:
        _invocation.reset(self._token)
        if self._trace_token is not None:
            detach(self._trace_token)


def check_progress(message: object, percent: object) -> None:
    """Raise `ValueError` for progress that cannot be journaled."""
    # Whatever the annotations say: what cannot be journaled must be refused where the mistake is.
    if not isinstance(message, str):
        raise ValueError(f"message: {message!r:.100} is not a text")
    # A bool is an int; written down as one, it would make the journal unreadable.
    is_flag = isinstance(percent, bool)
    if percent is not None and (is_flag or not (isinstance(percent, int | float) and math.isfinite(percent))):
        raise ValueError(f"percent: {percent!r:.100} is not a finite number")
