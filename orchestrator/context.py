"""What a handler may await, and what a step or an agent may ask about itself.

Each operation takes its id when it is called, in call order, so that asyncio's own `gather` and `TaskGroup` number them
as they stand in the code. What an operation does lies behind `Operations`, which the handler's driver implements.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import count
from random import Random
from typing import Final, Literal, Protocol, TypeAlias, TypeVar, overload

from structlog.typing import FilteringBoundLogger

from actors import ActorStopped
from orchestrator.errors import MESSAGE_LENGTH_MAX, NoInvocation
from orchestrator.payloads import to_json
from orchestrator.session import messages as m
from orchestrator.session.frozen import quick
from orchestrator.session.values import DELAY_SECONDS_MAX, ID_PATTERN, Json, RetrySpec

T = TypeVar("T")

Semantics: TypeAlias = Literal["at_least_once", "at_most_once"]
Operation: TypeAlias = Coroutine[object, object, T]

NAME_LENGTH_MAX: Final = 100
ATTEMPTS_MAX: Final = 1_000_000
MULTIPLIER_MAX: Final = 1_000.0
PROGRESS_MAX: Final = 1_000
"""Progress events of one attempt of a step or agent; later ones are dropped, for each is an item in the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often an operation is tried: exponential backoff with full jitter, kept across restarts.

    The pause after attempt n is drawn from zero to `min(max_delay, initial_delay * multiplier ** (n - 1))`.
    """

    max_attempts: int = 3
    initial_delay: timedelta = timedelta(seconds=1)
    max_delay: timedelta = timedelta(minutes=1)
    multiplier: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.max_attempts <= ATTEMPTS_MAX:
            raise ValueError(f"max_attempts: {self.max_attempts} is not between 1 and {ATTEMPTS_MAX}")
        if self.initial_delay < timedelta(0) or self.max_delay < self.initial_delay:
            raise ValueError("initial_delay, max_delay: both at least zero, max_delay not under initial_delay")
        if self.max_delay.total_seconds() > DELAY_SECONDS_MAX:
            raise ValueError(f"max_delay: {self.max_delay} is over 400 days, the longest life of a session")
        if not 1 <= self.multiplier <= MULTIPLIER_MAX:
            raise ValueError(f"multiplier: {self.multiplier} is not between 1 and {MULTIPLIER_MAX:g}")

    @property
    def spec(self) -> RetrySpec:
        """The policy as the journal keeps it."""
        return RetrySpec(
            max_attempts=self.max_attempts,
            initial_delay=self.initial_delay.total_seconds(),
            max_delay=self.max_delay.total_seconds(),
            multiplier=float(self.multiplier),
        )


NO_RETRY: Final = RetryPolicy(max_attempts=1)


class Operations(Protocol):
    """The driver behind a context: it replays what the journal records and does the rest."""

    @property
    def is_replaying(self) -> bool:
        """Whether recorded outcomes are still being handed back."""
        ...

    @property
    def epoch(self) -> int:
        """The epoch under which this run of the handler commits."""
        ...

    async def step(self, operation: str, call: StepCall) -> object:
        """Run a step, or return its recorded outcome."""
        ...

    async def invoke_agent(self, operation: str, call: AgentCall) -> Json:
        """Order an agent run and wait for its outcome, or return the recorded one."""
        ...

    async def progress(self, operation: str, message: str, percent: float | None, data: object) -> None:
        """Record a progress event, once."""
        ...


@quick
@dataclass(frozen=True, slots=True)
class StepCall:
    """A step as called; `timeout` bounds each attempt."""

    fn: Callable[..., object]
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    retry: RetryPolicy
    timeout: timedelta | None
    semantics: Semantics


@quick
@dataclass(frozen=True, slots=True)
class AgentCall:
    """An agent run as called; `timeout` bounds each attempt."""

    agent: str
    prompt: object
    kwargs: Mapping[str, object]
    retry: RetryPolicy
    timeout: timedelta | None


_observed_at: ContextVar[datetime | None] = ContextVar("orchestrator_observed_at", default=None)


def observe(instant: datetime) -> None:
    """Note that the running task of a handler has seen an outcome of that instant; `ctx.now()` returns it.

    Kept per task and its children, because which of two branches goes on first may differ on replay.
    """
    _observed_at.set(instant)


class SessionContext:
    """A handler's only way to the world. Every awaited operation is journaled under its id and runs once."""

    def __init__(
        self,
        *,
        session_id: str,
        session_type: str,
        tenant: str,
        started_at: datetime,
        operations: Operations,
        make_logger: Callable[[], FilteringBoundLogger],
    ) -> None:
        """Made by the product, never by a handler."""
        self.session_id = session_id
        self.session_type = session_type
        self.tenant = tenant
        self._make_logger = make_logger
        self._started_at = started_at
        self._operations = operations
        self._uses: dict[str, int] = {}
        self._draws: dict[str, Random] = {}

    @cached_property
    def logger(self) -> FilteringBoundLogger:
        """A logger bound to the session; it says nothing while the handler is replaying."""
        return self._make_logger()

    @property
    def epoch(self) -> int:
        """How often the session has changed hands: 1 for its first owner."""
        return self._operations.epoch

    @property
    def is_replaying(self) -> bool:
        """Whether the handler is going again through what the journal already holds."""
        return self._operations.is_replaying

    @overload
    def step(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]],
        *args: object,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
        semantics: Semantics = "at_least_once",
        **kwargs: object,
    ) -> Operation[T]: ...

    @overload
    def step(
        self,
        name: str,
        fn: Callable[..., T],
        *args: object,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
        semantics: Semantics = "at_least_once",
        **kwargs: object,
    ) -> Operation[T]: ...

    def step(
        self,
        name: str,
        fn: Callable[..., object],
        *args: object,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
        semantics: Semantics = "at_least_once",
        **kwargs: object,
    ) -> Operation[object]:
        """Run `fn(*args, **kwargs)` once and record its result; a sync function runs in a thread.

        Without a crash it runs once; a crash before its result is recorded runs it again, unless `semantics` is
        `at_most_once`: then it ends as `StepInterrupted`. Without `retry` it is tried once. `timeout` bounds each
        attempt (a thread cannot be stopped: a sync function that is late goes on, its result is dropped).
        The result is JSON, a dataclass or a pydantic model; models come back as such by `fn`'s return annotation.

        Raises:
            StepFailed: the last attempt raised. OperationTimedOut: it took too long.
            StepInterrupted: an `at_most_once` step's node died while it ran.
        """
        if semantics not in {"at_least_once", "at_most_once"}:
            raise ValueError(f"semantics: {semantics!r} is neither 'at_least_once' nor 'at_most_once'")
        _check_timeout(timeout)
        call = StepCall(fn, args, kwargs, retry or NO_RETRY, timeout, semantics)
        return self._operations.step(self._operation_id(name), call)

    def invoke_agent(
        self,
        agent: str,
        prompt: object,
        *,
        name: str | None = None,
        timeout: timedelta | None = None,
        retry: RetryPolicy | None = None,
        **kwargs: object,
    ) -> Operation[Json]:
        """Run a registered agent in a background task; its start, result and token usage are recorded.

        The operation's name is the agent's unless `name` is given. `prompt` and `kwargs` must be JSON (or models):
        they are journaled, so that any node can run the agent. `timeout` bounds each attempt, across restarts.

        Raises:
            AgentFailed: the last attempt raised, or no such agent is registered. OperationTimedOut: it took too long.
        """
        _check_timeout(timeout)
        call = AgentCall(agent, prompt, kwargs, retry or NO_RETRY, timeout)
        return self._operations.invoke_agent(self._operation_id(name or agent), call)

    def progress(self, message: str, percent: float | None = None, data: object = None) -> Operation[None]:
        """Tell people how far the session is (`percent` 0..100); recorded once, nothing depends on it."""
        _check_progress(message, percent)
        return self._operations.progress(self._operation_id("progress"), message, percent, data)

    def now(self) -> datetime:
        """Return the time (UTC) of the latest outcome this branch has seen: the same on replay, as no clock is."""
        return _observed_at.get() or self._started_at

    def uuid4(self) -> uuid.UUID:
        """Return a random-looking UUID that is the same on replay; unique, but no secret."""
        return uuid.UUID(int=self._draw("uuid").getrandbits(128), version=4)

    def random(self) -> float:
        """Return a float from [0, 1) that is the same on replay; no secret."""
        return self._draw("random").random()

    def _draw(self, purpose: str) -> Random:
        """Return the session's generator for a purpose, seeded by the session id: repeatable, and no secret."""
        generator = self._draws.get(purpose)
        if generator is None:
            generator = self._draws[purpose] = Random(f"{purpose}:{self.session_id}")
        return generator

    def _operation_id(self, name: str) -> str:
        """Return `name`, or `name#2`, `name#3` … for its later uses, in call order."""
        if len(name) > NAME_LENGTH_MAX or ID_PATTERN.fullmatch(name) is None:
            raise ValueError(f"operation name {name!r}: use 1 to {NAME_LENGTH_MAX} of A-Z a-z 0-9 _ . : -")
        uses = self._uses[name] = self._uses.get(name, 0) + 1
        return name if uses == 1 else f"{name}#{uses}"


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
        _check_progress(message, percent)
        number = next(numbers)
        if number > PROGRESS_MAX or loop.is_closed():
            return
        progress_id = f"{operation}/progress#{attempt}.{number}"
        made = m.ProgressMade(progress_id, message[:MESSAGE_LENGTH_MAX], percent, to_json(data, "data"))
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


def _check_timeout(timeout: timedelta | None) -> None:
    if timeout is not None and timeout <= timedelta(0):
        raise ValueError(f"timeout: {timeout} is not positive")


def _check_progress(message: object, percent: object) -> None:
    # Whatever the annotations say: what cannot be journaled must be refused where the mistake is.
    if not isinstance(message, str):
        raise ValueError(f"message: {message!r:.100} is not a text")
    if percent is not None and not (isinstance(percent, int | float) and math.isfinite(percent)):
        raise ValueError(f"percent: {percent!r:.100} is not a finite number")
