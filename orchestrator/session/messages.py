"""What a session can be told. A message may repeat, be late or be wrong; `decide` answers such a one with no events.

Outcomes of the handler's own work and of background agents are messages like any other. Randomness and anything
read from a clock travel inside the message, so that `decide` stays pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from orchestrator.session.frozen import quick
from orchestrator.session.values import ErrorRecord, Json, JsonObject, RetrySpec


@dataclass(frozen=True, slots=True)
class StepStarting:
    """The handler is about to run an `at_most_once` step."""

    operation: str
    attempt: int
    knew_of_stop: bool = False


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
    knew_of_stop: bool = False


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
    """The agent raised or timed out; `jitter` is a draw from [0, 1) for the backoff.

    `retry_after` is for how many seconds it asked to be left alone, 0 if it did not.
    """

    operation: str
    attempt: int
    error: ErrorRecord
    is_retryable: bool
    jitter: float
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class CallStarting:
    """An agent run is about to make a call that must not be made twice."""

    operation: str
    agent_run: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call of an agent run has a result; or, with `error`, failed and must not be made again."""

    operation: str
    agent_run: str
    result: Json = None
    usage: JsonObject | None = None
    error: ErrorRecord | None = None


@quick
@dataclass(frozen=True, slots=True)
class ProgressMade:
    """The handler, a step or an agent has news for people."""

    operation: str
    message: str
    percent: float | None = None
    data: Json = None


@dataclass(frozen=True, slots=True)
class TimerRequested:
    """The handler asks to wait `seconds`."""

    operation: str
    seconds: float
    knew_of_stop: bool = False


@dataclass(frozen=True, slots=True)
class TimerDue:
    """The instant of a timer, or of a wait for a signal, has come."""

    operation: str


@dataclass(frozen=True, slots=True)
class CallbackRequested:
    """The handler, or that agent run, asks for a callback; `timeout` in seconds."""

    operation: str
    callback_id: str
    timeout: float | None = None
    knew_of_stop: bool = False
    agent_run: str | None = None


@dataclass(frozen=True, slots=True)
class ApprovalAsked:
    """The handler, or that agent run, asks a person; `timeout` in seconds, `approvers` a list of names."""

    operation: str
    callback_id: str
    subject: Json
    approvers: Json = None
    timeout: float | None = None
    knew_of_stop: bool = False
    agent_run: str | None = None


@dataclass(frozen=True, slots=True)
class CallbackAnswered:
    """The callback was decided, at its item, for good. `error` is `None` for a success."""

    callback_id: str
    operation: str
    result: Json = None
    error: ErrorRecord | None = None
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class SignalSent:
    """Somebody outside sends the session a signal."""

    message_id: str
    name: str
    data: Json


@dataclass(frozen=True, slots=True)
class SignalAwaited:
    """The handler waits for a signal of that name; `timeout` in seconds."""

    operation: str
    name: str
    timeout: float | None = None
    knew_of_stop: bool = False


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Somebody outside wants the session to end."""

    message_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class PauseAsked:
    """Somebody outside wants the session to begin nothing new."""

    message_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ResumeAsked:
    """Somebody outside lets a paused session go on."""

    message_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class KillAsked:
    """Somebody outside wants the session to end now, whatever its handler does."""

    message_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dismissed:
    """The session was cancelled, or killed, while it waited for a slot of its tenant: its handler never runs.

    `cause` is that of `CancelRequested`.
    """

    message_id: str
    reason: str
    cause: str = "request"


@dataclass(frozen=True, slots=True)
class TimeLimitReached:
    """The session has lived as long as it may."""


@dataclass(frozen=True, slots=True)
class WallTimeReached:
    """The session has taken as long as its budget lets it."""


@dataclass(frozen=True, slots=True)
class CallAtCap:
    """An agent run is about to make a call, in a session that has spent what it may."""

    agent_run: str


@dataclass(frozen=True, slots=True)
class TenantCapReached:
    """An attempt of an agent run was not begun, because its tenant has spent what it may in that month ("2026-01")."""

    operation: str
    attempt: int
    cap: str
    limit: float
    used: float
    month: str


@dataclass(frozen=True, slots=True)
class GraceOver:
    """The handler was asked to end and has not, for as long as it may take; then it is stopped; then left behind."""


@dataclass(frozen=True, slots=True)
class PatchReached:
    """The handler took the new side of a change."""

    change_id: str


@dataclass(frozen=True, slots=True)
class ChildRequested:
    """The handler asks for a session of its own."""

    operation: str
    session_type: str
    child_id: str
    input: Json
    knew_of_stop: bool = False


@dataclass(frozen=True, slots=True)
class ChildEnded:
    """A child session has ended; `error` is `None` where it completed."""

    message_id: str
    operation: str
    child_id: str
    result: Json = None
    error: ErrorRecord | None = None


@dataclass(frozen=True, slots=True)
class HandlerReturned:
    """The handler ran to its end. `knew_of_stop`: it ended with all that a cancelled session's handler has to do."""

    result: Json
    knew_of_stop: bool = False


@dataclass(frozen=True, slots=True)
class HandlerRaised:
    """The handler raised: the session fails. `knew_of_stop` as in `HandlerReturned`."""

    error: ErrorRecord
    knew_of_stop: bool = False


@dataclass(frozen=True, slots=True)
class HandlerContinued:
    """The handler wants the session to go on in a fresh journal with that input."""

    input: Json
    knew_of_stop: bool = False


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
    | CallStarting
    | CallEnded
    | TimerRequested
    | TimerDue
    | CallbackRequested
    | ApprovalAsked
    | CallbackAnswered
    | SignalSent
    | SignalAwaited
    | CancelAsked
    | PauseAsked
    | ResumeAsked
    | KillAsked
    | Dismissed
    | TimeLimitReached
    | WallTimeReached
    | CallAtCap
    | TenantCapReached
    | GraceOver
    | PatchReached
    | ChildRequested
    | ChildEnded
    | ProgressMade
    | HandlerReturned
    | HandlerRaised
    | HandlerContinued
    | CrashLoopDetected
)

Request: TypeAlias = (
    StepStarting | AgentRequested | TimerRequested | CallbackRequested | ApprovalAsked | SignalAwaited | ChildRequested
)
REQUESTS: Final = (
    *(StepStarting, AgentRequested, TimerRequested),
    *(CallbackRequested, ApprovalAsked, SignalAwaited, ChildRequested),
)
"""What a handler asks to begin. `knew_of_stop`: it had heard by then that the session is to end, and asks all the same.

One that is still on its way when the session is stopped begins nothing: who asked is told of the stop instead.
"""

Control: TypeAlias = CancelAsked | PauseAsked | ResumeAsked | KillAsked
"""What an operator tells a session."""
WITH_MESSAGE_ID: Final = (SignalSent, CancelAsked, PauseAsked, ResumeAsked, KillAsked)
"""What the session remembers by an id that its sender chose."""

Ending: TypeAlias = CancelAsked | KillAsked
"""What asks a session to end, gently or not."""

Delivered: TypeAlias = CallbackAnswered | SignalSent | Control | ChildEnded
"""What comes from outside the session, under an id by which a repetition is known."""


def message_id_of(message: Delivered) -> str:
    """Return the id under which the session remembers the message; a callback's is its callback id."""
    return message.callback_id if isinstance(message, CallbackAnswered) else message.message_id
