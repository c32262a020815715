"""What a handler asks for, as values, and `Operations`: the driver behind a context that carries it out.

Durations that users give are seconds or `timedelta`; inside they are seconds.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias, TypeVar

from orchestrator.session.frozen import quick
from orchestrator.session.values import DELAY_SECONDS_MAX, PERSON_LENGTH_MAX, Json, RetrySpec

T = TypeVar("T")

Semantics: TypeAlias = Literal["at_least_once", "at_most_once"]
Operation: TypeAlias = Coroutine[object, object, T]
Duration: TypeAlias = timedelta | float
"""A `timedelta`, or seconds."""
Content: TypeAlias = bytes | str | Path | AsyncIterable[bytes]
"""What an artifact is made of: bytes, a text (UTF-8), a file, or a stream."""

ATTEMPTS_MAX: Final = 1_000_000
MULTIPLIER_MAX: Final = 1_000.0
REASON_LENGTH_MAX: Final = 1_000
"""The longest text that says why: of a cancel, and beside an approval's answer."""


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
        # A bool is an int, and annotations bind nobody: as another kind of number, no journal could be read again.
        if type(self.max_attempts) is not int or not 1 <= self.max_attempts <= ATTEMPTS_MAX:
            raise ValueError(f"max_attempts: {self.max_attempts!r:.100} is no whole number from 1 to {ATTEMPTS_MAX}")
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


@quick
@dataclass(frozen=True, slots=True)
class StepCall:
    """A step as called; `timeout` bounds each attempt, in seconds."""

    fn: Callable[..., object]
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    retry: RetryPolicy
    timeout: float | None
    semantics: Semantics


@quick
@dataclass(frozen=True, slots=True)
class AgentCall:
    """An agent run as called; `timeout` bounds each attempt, in seconds."""

    agent: str
    prompt: object
    kwargs: Mapping[str, object]
    retry: RetryPolicy
    timeout: float | None


@dataclass(frozen=True, slots=True)
class ApprovalCall:
    """An approval as asked for; `timeout` in seconds, `approvers` are names, or `None` for anybody."""

    subject: object
    approvers: tuple[str, ...] | None
    timeout: float | None

    def __post_init__(self) -> None:
        for name in self.approvers or ():
            if not 1 <= _length_of(name) <= PERSON_LENGTH_MAX:
                raise ValueError(f"approvers: {name!r:.100} is no name (1 to {PERSON_LENGTH_MAX} characters)")


@dataclass(frozen=True, slots=True)
class ChildCall:
    """A child session as asked for; under a `key` of the caller's own choice, or one derived from its operation."""

    session_type: str
    input: object
    key: str | None


@dataclass(frozen=True, slots=True)
class Undo:
    """A step that runs if the session fails or is cancelled."""

    operation: str
    fn: Callable[..., object]
    args: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Approval:
    """What a person answered."""

    approved: bool
    by: str
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class Callback:
    """A promise that somebody outside completes, by `POST url` with the token.

    A token works once, and only as long as the callback is open; it stands in no journal, so a later run of the handler
    has another one that works too.
    """

    id: str
    token: str
    url: str
    await_result: Callable[[], Operation[Json]]

    def __repr__(self) -> str:
        """Show no token: what is printed ends in logs."""
        return f"Callback({self.id!r})"

    def result(self) -> Operation[Json]:
        """Wait for the answer.

        Raises:
            CallbackFailed: it is a failure. OperationTimedOut: none came in time.
        """
        return self.await_result()


class ContinueAsNew(BaseException):
    """Leaves the handler: the session goes on in a fresh journal. No `Exception`, so that no `except` takes it."""

    def __init__(self, payload: object) -> None:
        super().__init__("the session continues as a new one")
        self.payload = payload


class SessionArtifacts(Protocol):
    """The session's own files, as the bucket keeps them. A reference is the JSON that `put` returned."""

    async def put(self, session_id: str, name: str, data: Content) -> Json:
        """Store the content and return its reference."""
        ...

    async def get(self, reference: Json) -> bytes:
        """Return the content."""
        ...

    async def presigned_url(self, reference: Json, *, expires: timedelta) -> str:
        """Return an address that anybody may read it at until then."""
        ...


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

    @property
    def artifacts(self) -> SessionArtifacts:
        """The bucket."""
        ...

    async def step(self, operation: str, call: StepCall) -> object:
        """Run a step, or return its recorded outcome."""
        ...

    async def invoke_agent(self, operation: str, call: AgentCall) -> Json:
        """Order an agent run and wait for its outcome, or return the recorded one."""
        ...

    async def sleep(self, operation: str, seconds: float) -> None:
        """Return once that time has passed since the operation was first asked for."""
        ...

    async def create_callback(self, operation: str, timeout: float | None) -> Callback:
        """Create a callback, or return the recorded one with a fresh token."""
        ...

    async def request_approval(self, operation: str, call: ApprovalCall) -> Approval:
        """Ask a person and wait for the answer, or return the recorded one."""
        ...

    async def wait_for_signal(self, operation: str, name: str, timeout: float | None) -> Json:
        """Return the data of the next unconsumed signal of that name."""
        ...

    async def run_session(self, operation: str, call: ChildCall) -> Json:
        """Start a child session and wait for its end, or return the recorded one."""
        ...

    async def progress(self, operation: str, message: str, percent: float | None, data: object) -> None:
        """Record a progress event, once."""
        ...

    def patched(self, change_id: str) -> bool:
        """Return whether this session takes the new side of a change, for good."""
        ...

    def on_failure(self, undo: Undo) -> None:
        """Remember an undo step."""
        ...


def _length_of(name: object) -> int:
    """Return the length of a text; 0 for anything else, whatever the annotations say."""
    return len(name) if isinstance(name, str) else 0


def seconds_of(duration: Duration, name: str, *, allow_zero: bool = False) -> float:
    """Return a duration in seconds.

    Raises:
        ValueError: it is negative, no number, or longer than a session lives; the text names the argument.
    """
    if isinstance(duration, timedelta):
        seconds = duration.total_seconds()
    elif type(duration) in {int, float}:
        seconds = float(duration)
    else:
        raise ValueError(f"{name}: {duration!r:.100} is neither a timedelta nor a number of seconds")
    if math.isnan(seconds) or seconds < 0 or (seconds == 0 and not allow_zero):
        raise ValueError(f"{name}: {duration!r:.100} is not a positive duration")
    if seconds > DELAY_SECONDS_MAX:
        raise ValueError(f"{name}: {duration!r:.100} is over 400 days, the longest life of a session")
    return seconds


def optional_seconds_of(duration: Duration | None, name: str) -> float | None:
    """Return a duration in seconds; `None` for none. Raises `ValueError` as `seconds_of` does."""
    return None if duration is None else seconds_of(duration, name)
