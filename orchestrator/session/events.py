"""Every event a journal can hold, past tense, frozen: the facts that a session's state is folded from.

The contract fixes the type names (`TYPE_NAMES`) and the fields that others read. An event that a journal somewhere
already holds is never renamed and never loses a field; a new field has a default, so that old journals still read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from orchestrator.session.frozen import quick
from orchestrator.session.values import ErrorRecord, Json, JsonObject, RetrySpec


@quick
@dataclass(frozen=True, slots=True)
class SessionStarted:
    """The session was accepted; always event 1."""

    session_type: str
    tenant: str
    input: Json
    payload_sha256: str
    trace: str | None
    task_token: str | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class SessionResumed:
    """A new epoch took the session over; from here on only its claimer commits (I7)."""

    previous_owner: str | None = None


@dataclass(frozen=True, slots=True)
class StepStarted:
    """An `at_most_once` step is about to run: without an outcome after it, its run is in doubt (I5)."""

    operation: str
    attempt: int


@quick
@dataclass(frozen=True, slots=True)
class StepCompleted:
    """A step ran and this is its result, the only one its session ever sees (I5)."""

    operation: str
    result: Json
    attempt: int


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step failed for good."""

    operation: str
    error: ErrorRecord
    attempt: int


@dataclass(frozen=True, slots=True)
class StepRetrying:
    """Attempt `attempt` of a step failed; the next one is due at `next_attempt_at`."""

    operation: str
    error: ErrorRecord
    attempt: int
    next_attempt_at: datetime


@quick
@dataclass(frozen=True, slots=True)
class AgentStarted:
    """An agent run was ordered; the event holds all that running it needs, so that any node can. Durations: seconds."""

    operation: str
    agent: str
    prompt: Json
    attempt: int = 1
    kwargs: JsonObject | None = None
    timeout: float | None = None
    retry: RetrySpec | None = None


@quick
@dataclass(frozen=True, slots=True)
class AgentCompleted:
    """An agent run ended with a result; `usage` holds the token counts it reported, if any."""

    operation: str
    result: Json
    attempt: int
    usage: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class AgentFailed:
    """An agent run failed for good."""

    operation: str
    error: ErrorRecord
    attempt: int


@dataclass(frozen=True, slots=True)
class AgentRetrying:
    """Attempt `attempt` of an agent run failed; the next one is due at `next_attempt_at`."""

    operation: str
    error: ErrorRecord
    attempt: int
    next_attempt_at: datetime


@dataclass(frozen=True, slots=True)
class ProgressReported:
    """The handler or an agent told people how far it is; nothing depends on it."""

    operation: str
    message: str
    percent: float | None = None
    data: Json = None


@dataclass(frozen=True, slots=True)
class SessionCompleted:
    """The handler returned; the session's last event."""

    result: Json


@dataclass(frozen=True, slots=True)
class SessionFailed:
    """The session ended without a result; its last event."""

    error: ErrorRecord


Event: TypeAlias = (
    SessionStarted
    | SessionResumed
    | StepStarted
    | StepCompleted
    | StepFailed
    | StepRetrying
    | AgentStarted
    | AgentCompleted
    | AgentFailed
    | AgentRetrying
    | ProgressReported
    | SessionCompleted
    | SessionFailed
)

TerminalEvent: TypeAlias = SessionCompleted | SessionFailed

TYPE_NAMES: Final[dict[type[Event], str]] = {
    SessionStarted: "AGENT_INVOCATION_STARTED",
    SessionResumed: "SESSION_RESUMED",
    StepStarted: "STEP_STARTED",
    StepCompleted: "STEP_COMPLETED",
    StepFailed: "STEP_FAILED",
    StepRetrying: "STEP_RETRYING",
    AgentStarted: "AGENT_STARTED",
    AgentCompleted: "AGENT_COMPLETED",
    AgentFailed: "AGENT_FAILED",
    AgentRetrying: "AGENT_RETRYING",
    ProgressReported: "PROGRESS_REPORTED",
    SessionCompleted: "AGENT_BACKGROUND_TASK_COMPLETED",
    SessionFailed: "AGENT_BACKGROUND_TASK_FAILED",
}
"""Event class → the type name in the table (`status`) and on every screen."""

EVENT_TYPES: Final[dict[str, type[Event]]] = {name: kind for kind, name in TYPE_NAMES.items()}


@quick
@dataclass(frozen=True, slots=True)
class Recorded:
    """An event with its place in one journal: who wrote it, when, as which number."""

    seq: int
    event: Event
    at: datetime
    epoch: int
    node: str
    event_id: str
