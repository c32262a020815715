"""What a session can be told. A message may repeat, be late or be wrong; `decide` answers such a one with no events.

Outcomes of the handler's own work and of background agents are messages like any other. Randomness and anything
read from a clock travel inside the message, so that `decide` stays pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.session.frozen import quick
from orchestrator.session.values import ErrorRecord, Json, JsonObject, RetrySpec


@dataclass(frozen=True, slots=True)
class StepStarting:
    """The handler is about to run an `at_most_once` step."""

    operation: str
    attempt: int


@quick
@dataclass(frozen=True, slots=True)
class StepSucceeded:
    """The step's function returned."""

    operation: str
    attempt: int
    result: Json


@dataclass(frozen=True, slots=True)
class StepAttemptFailed:
    """The step's function raised or timed out; `jitter` is a draw from [0, 1) for the backoff."""

    operation: str
    attempt: int
    error: ErrorRecord
    retry: RetrySpec
    is_retryable: bool
    jitter: float


@quick
@dataclass(frozen=True, slots=True)
class AgentRequested:
    """The handler asks for an agent run; `timeout` in seconds for each attempt."""

    operation: str
    agent: str
    prompt: Json
    kwargs: JsonObject | None = None
    timeout: float | None = None
    retry: RetrySpec | None = None


@quick
@dataclass(frozen=True, slots=True)
class AgentSucceeded:
    """The agent returned."""

    operation: str
    attempt: int
    result: Json
    usage: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class AgentAttemptFailed:
    """The agent raised or timed out; `jitter` is a draw from [0, 1) for the backoff."""

    operation: str
    attempt: int
    error: ErrorRecord
    is_retryable: bool
    jitter: float


@quick
@dataclass(frozen=True, slots=True)
class ProgressMade:
    """The handler, a step or an agent has news for people."""

    operation: str
    message: str
    percent: float | None = None
    data: Json = None


@dataclass(frozen=True, slots=True)
class HandlerReturned:
    """The handler ran to its end."""

    result: Json


@dataclass(frozen=True, slots=True)
class HandlerRaised:
    """The handler raised: the session fails."""

    error: ErrorRecord


@dataclass(frozen=True, slots=True)
class CrashLoopDetected:
    """The session was taken over from dead nodes `takeovers` times without a new event in between."""

    takeovers: int


Message: TypeAlias = (
    StepStarting
    | StepSucceeded
    | StepAttemptFailed
    | AgentRequested
    | AgentSucceeded
    | AgentAttemptFailed
    | ProgressMade
    | HandlerReturned
    | HandlerRaised
    | CrashLoopDetected
)
