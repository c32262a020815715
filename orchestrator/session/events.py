"""Every event a journal can hold, past tense, frozen: the facts that a session's state is folded from.

The contract fixes the type names (`TYPE_NAMES`) and the fields that others read. An event that a journal somewhere
already holds is never renamed and never loses a field; a new field has a default, so that old journals still read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from orchestrator.session.frozen import quick
from orchestrator.session.values import ErrorRecord, Json, JsonObject, RetrySpec


@quick
@dataclass(frozen=True, slots=True)
class SessionStarted:
    """The session was accepted; always event 1.

    `parent` and `parent_operation` name the session that waits for this one's end. `time_limit` is in seconds.
    `patches` are the changes that the code knew which accepted it. `carried` is what the generation before left.
    `budget` is what the session may spend, as `session.budget.spec_of` returns it.
    """

    session_type: str
    tenant: str
    input: Json
    payload_sha256: str
    trace: str | None
    task_token: str | None = None
    parent: str | None = None
    parent_operation: str | None = None
    time_limit: float | None = None
    patches: Json = None
    carried: JsonObject | None = None
    budget: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class SessionResumed:
    """A new epoch took the session over; from here on only its claimer commits (I7)."""


@dataclass(frozen=True, slots=True)
class StepStarted:
    """An `at_most_once` step is about to run: without an outcome after it, its run is in doubt (I5).

    Here and in the events below, `agent_run` is the operation of the agent run that this is a call of: not a step of
    the handler, but a model or a tool that an agent called.
    """

    operation: str
    attempt: int
    agent_run: str | None = None


@quick
@dataclass(frozen=True, slots=True)
class StepCompleted:
    """A step ran and this is its result, the only one its session ever sees (I5); `usage` as in `AgentCompleted`."""

    operation: str
    result: Json
    attempt: int
    usage: JsonObject | None = None
    agent_run: str | None = None


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step failed for good."""

    operation: str
    error: ErrorRecord
    attempt: int
    agent_run: str | None = None


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
class TimerStarted:
    """The session waits until `fire_at`; with `signal`, for a signal of that name until then."""

    operation: str
    fire_at: datetime
    signal: str | None = None


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The instant has come."""

    operation: str


@dataclass(frozen=True, slots=True)
class CallbackCreated:
    """Somebody outside is to answer, by a token that stands nowhere in the journal."""

    operation: str
    callback_id: str
    times_out_at: datetime | None = None
    agent_run: str | None = None


@dataclass(frozen=True, slots=True)
class ApprovalRequested:
    """A person is to say yes or no to `subject`; one of `approvers` (a list of names), or anybody."""

    operation: str
    callback_id: str
    subject: Json
    approvers: Json = None
    times_out_at: datetime | None = None
    agent_run: str | None = None


@dataclass(frozen=True, slots=True)
class CallbackCompleted:
    """The answer came; of an approval it is `{"approved", "by", "comment"}`."""

    operation: str
    result: Json


@dataclass(frozen=True, slots=True)
class CallbackFailed:
    """The answer came, and it is a failure."""

    operation: str
    error: ErrorRecord


@dataclass(frozen=True, slots=True)
class CallbackTimedOut:
    """No answer came in time."""

    operation: str


@dataclass(frozen=True, slots=True)
class SignalReceived:
    """A signal arrived; it is kept until the handler waits for one of its name."""

    name: str
    message_id: str
    data: Json


@dataclass(frozen=True, slots=True)
class ValueRecorded:
    """An operation has an outcome that stands elsewhere: a wait for a signal got `{"signal": …, "message_id": …}`."""

    operation: str
    value: Json


@dataclass(frozen=True, slots=True)
class PatchRecorded:
    """The handler passed the new side of a change in its code, and stays on it."""

    change_id: str


@dataclass(frozen=True, slots=True)
class ChildStarted:
    """A session of its own was ordered, and its end is waited for."""

    operation: str
    session_type: str
    child_id: str
    input: Json


@dataclass(frozen=True, slots=True)
class ChildCompleted:
    """The child session ended with a result."""

    operation: str
    result: Json


@dataclass(frozen=True, slots=True)
class ChildFailed:
    """The child session ended without a result."""

    operation: str
    error: ErrorRecord


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The session is to end.

    `cause` is `request`, `time_limit`, `budget` or `tenant_budget` when that was spent, `journal` when that grew too
    long, `grace` when the handler took too long, or `kill` when it is not even asked.
    """

    reason: str
    cause: str = "request"
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class PauseRequested:
    """The session is to begin nothing new until it is resumed; what had begun goes on to its end."""

    reason: str
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class ResumeRequested:
    """The session may go on."""

    reason: str
    message_id: str | None = None


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


@dataclass(frozen=True, slots=True)
class SessionCancelled:
    """The session was cancelled, and has ended; its last event."""

    reason: str


@dataclass(frozen=True, slots=True)
class SessionContinued:
    """The session goes on in a journal of its own, `continued_as`, which answers to its first id; its last event."""

    input: Json
    continued_as: str


KILL: Final = "kill"
"""The cause of a `CancelRequested` that is followed by the session's end at once."""

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
    | TimerStarted
    | TimerFired
    | CallbackCreated
    | ApprovalRequested
    | CallbackCompleted
    | CallbackFailed
    | CallbackTimedOut
    | SignalReceived
    | ValueRecorded
    | PatchRecorded
    | ChildStarted
    | ChildCompleted
    | ChildFailed
    | CancelRequested
    | PauseRequested
    | ResumeRequested
    | ProgressReported
    | SessionCompleted
    | SessionFailed
    | SessionCancelled
    | SessionContinued
)

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
    TimerStarted: "TIMER_STARTED",
    TimerFired: "TIMER_FIRED",
    CallbackCreated: "CALLBACK_CREATED",
    ApprovalRequested: "APPROVAL_REQUESTED",
    CallbackCompleted: "CALLBACK_COMPLETED",
    CallbackFailed: "CALLBACK_FAILED",
    CallbackTimedOut: "CALLBACK_TIMED_OUT",
    SignalReceived: "SIGNAL_RECEIVED",
    ValueRecorded: "VALUE_RECORDED",
    PatchRecorded: "PATCH_RECORDED",
    ChildStarted: "CHILD_STARTED",
    ChildCompleted: "CHILD_COMPLETED",
    ChildFailed: "CHILD_FAILED",
    CancelRequested: "CANCEL_REQUESTED",
    PauseRequested: "PAUSE_REQUESTED",
    ResumeRequested: "RESUME_REQUESTED",
    ProgressReported: "PROGRESS_REPORTED",
    SessionCompleted: "AGENT_BACKGROUND_TASK_COMPLETED",
    SessionFailed: "AGENT_BACKGROUND_TASK_FAILED",
    SessionCancelled: "AGENT_BACKGROUND_TASK_CANCELLED",
    SessionContinued: "AGENT_BACKGROUND_TASK_CONTINUED",
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


def stamped(
    events: tuple[Event, ...], first: int, at: datetime, epoch: int, node: str, new_id: Callable[[], str]
) -> tuple[Recorded, ...]:
    """Return events with their places in the journal, from `first` on."""
    if len(events) == 1:
        # As nearly always: a loop would cost as much as the event.
        return (Recorded(first, events[0], at, epoch, node, new_id()),)
    return tuple(Recorded(first + i, event, at, epoch, node, new_id()) for i, event in enumerate(events))
