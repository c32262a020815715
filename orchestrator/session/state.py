"""A session's state: the fold of its journal, frozen, and `evolve`, the one function that folds.

State is replaced, never changed. It holds nothing that cannot be had again from the journal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias, assert_never

from rpds import HashTrieMap, HashTrieSet

from orchestrator.session import events as e
from orchestrator.session.activation import Activation
from orchestrator.session.frozen import quick, replace
from orchestrator.session.mail import NO_MAIL, Mail, mail_left_by
from orchestrator.session.spending import (
    SPENDING,
    Spent,
    is_of_session,
    rest_of,
    spent_after,
    spent_before,
    summed,
    time_within,
)
from orchestrator.session.transitions import (
    ENDED,
    OPERATION_TRANSITIONS,
    SESSION_TRANSITIONS,
    SETTLED,
    OperationKind,
    Phase,
    SessionStatus,
    kind_of,
    may_follow,
)
from orchestrator.session.values import ErrorRecord, Json, JsonObject

Order: TypeAlias = e.AgentStarted | e.TimerStarted | e.CallbackCreated | e.ApprovalRequested | e.ChildStarted
"""An event that sets something off outside the handler: all that is needed to go on with it anywhere."""


@quick
@dataclass(frozen=True, slots=True)
class Operation:
    """One thing a handler awaits, as far as the journal knows it.

    `attempt` is the latest one (from 1). `changed_at` and `changed_seq` are those of the latest event, `started_at` and
    `started_seq` those of the first. `order` is the event that set it off, for what does not run in the handler.
    `agent_run` is the agent run that it is a call of.
    """

    operation_id: str
    kind: OperationKind
    phase: Phase
    attempt: int
    changed_at: datetime
    changed_seq: int
    started_at: datetime
    started_seq: int
    result: Json = None
    error: ErrorRecord | None = None
    next_attempt_at: datetime | None = None
    order: Order | None = None
    agent_run: str | None = None

    @property
    def is_handlers(self) -> bool:
        """Whether the handler awaits it: not what an agent run called, nor the session itself, nor news for people."""
        is_its_own = self.agent_run is None and not is_of_session(self.operation_id)
        return is_its_own and self.kind is not OperationKind.PROGRESS

    @property
    def is_settled(self) -> bool:
        """Whether the outcome is recorded: the handler gets this one and no other (I5)."""
        return self.phase in SETTLED


Operations: TypeAlias = "HashTrieMap[str, Operation]"

NO_OPERATIONS: Final[Operations] = HashTrieMap()
PAUSED: Final = "paused"
"""Stands among what a generation leaves to the next one, with the reason, where it was paused."""
NO_USAGE: Final[HashTrieMap[str, JsonObject]] = HashTrieMap()
NO_RUNS: Final[HashTrieSet[str]] = HashTrieSet()
NO_PATCHES: Final[HashTrieSet[str]] = HashTrieSet()


@quick
@dataclass(frozen=True, slots=True)
class Stop:
    """The session is to end: since when and why, and, where its handler took too long to, since when it is stopped."""

    seq: int
    at: datetime
    cause: str
    reason: str
    forced_seq: int | None = None
    forced_at: datetime | None = None
    is_kill: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """The session begins nothing new: since when, and why."""

    at: datetime
    reason: str


@quick
@dataclass(frozen=True, slots=True)
class SessionState:
    """The fold of one journal up to `last_seq`.

    `open_operations` are those ordered and not settled. `usage` is the sum of what agents reported, with what the
    generations before left of it, `usage_of_calls` what the calls of each agent run used, and `spent` what caps look at
    besides. `continued_as` is the next generation's session id, `next_input` its input, `asking_runs` the agent runs
    that asked somebody outside.
    """

    session_id: str
    started: e.SessionStarted
    started_at: datetime
    updated_at: datetime
    status: SessionStatus
    last_seq: int
    epoch: int
    spent: Spent
    activation: Activation
    operations: Operations = NO_OPERATIONS
    open_operations: Operations = NO_OPERATIONS
    result: Json = None
    error: ErrorRecord | None = None
    usage: JsonObject | None = None
    usage_of_calls: HashTrieMap[str, JsonObject] = NO_USAGE
    asking_runs: HashTrieSet[str] = NO_RUNS
    resumes: int = 0
    fruitless_resumes: int = 0
    mail: Mail = NO_MAIL
    stop: Stop | None = None
    pause: Pause | None = None
    patches: HashTrieSet[str] = NO_PATCHES
    continued_as: str | None = None
    next_input: Json = None

    @property
    def has_ended(self) -> bool:
        """Whether the journal holds its terminal event; nothing is appended after it (I2)."""
        return self.status in ENDED

    @property
    def is_held(self) -> bool:
        """Whether the session begins nothing new: it is paused, or people are asked whether it may spend more.

        One that is to end does what its clean-up needs.
        """
        return self.is_paused or (self.spent.asking is not None and self.stop is None)

    @property
    def is_paused(self) -> bool:
        """Whether a person paused the session, and it is not to end."""
        return self.pause is not None and self.stop is None

    def runs(self, agent_run: str | None) -> bool:
        """Return whether that agent run goes on; true for `None`, which is the handler."""
        return agent_run is None or agent_run in self.open_operations

    def allows(self, operation_id: str, event: type[e.Event]) -> bool:
        """Return whether such an event may follow for the operation, known or new."""
        operation = self.operations.get(operation_id)
        if operation is None:
            return may_follow(None, Phase.NEW, event)
        return may_follow(operation.kind, operation.phase, event)


def begin(session_id: str, first: e.Recorded) -> SessionState:
    """Return the state after event 1."""
    assert isinstance(first.event, e.SessionStarted), f"event 1 of {session_id} is {type(first.event).__name__}"
    assert first.seq == 1, f"the first event of {session_id} has seq {first.seq}"
    spent, usage = spent_before(first.event.carried, first.at)
    return SessionState(
        session_id=session_id,
        started=first.event,
        started_at=first.at,
        updated_at=first.at,
        status=SessionStatus.RUNNING,
        last_seq=1,
        epoch=first.epoch,
        spent=spent,
        activation=Activation(1, first.at, first.node, first.epoch),
        usage=usage,
        mail=NO_MAIL if first.event.carried is None else mail_left_by(first.event.carried),
        pause=_pause_left_by(first),
    )


def evolve(state: SessionState, recorded: e.Recorded) -> SessionState:
    """Return the state after one more event. Total: every event that a journal holds has a next state."""
    assert recorded.seq == state.last_seq + 1, f"{state.session_id}: event {recorded.seq} after {state.last_seq}"
    event = recorded.event
    if not isinstance(event, _SESSION_EVENTS):
        return _with_operation(state, recorded, event)
    return _with_session_event(state, recorded, event)


def _with_session_event(  # noqa: PLR0911 - one arm an event
    state: SessionState, recorded: e.Recorded, event: _SessionEvent
) -> SessionState:
    stamped = replace(state, last_seq=recorded.seq, epoch=recorded.epoch, updated_at=recorded.at, fruitless_resumes=0)
    match event:
        case e.SessionStarted():
            raise AssertionError(f"{state.session_id}: a second AGENT_INVOCATION_STARTED at {recorded.seq}")
        case e.SessionResumed():
            spent = state.spent.resumed(recorded.seq)
            fruitless = state.fruitless_resumes + 1
            activation = Activation(recorded.seq, recorded.at, recorded.node, recorded.epoch, state.activation.seq)
            resumed = replace(stamped, fruitless_resumes=fruitless, spent=spent)
            return replace(resumed, resumes=state.resumes + 1, activation=activation)
        case e.SignalReceived():
            return replace(stamped, mail=state.mail.with_signal(event))
        case e.CancelRequested():
            return replace(stamped, mail=state.mail.with_request(event), stop=_stop(state.stop, recorded, event))
        case e.PauseRequested():
            return replace(stamped, mail=state.mail.with_request(event), pause=Pause(recorded.at, event.reason))
        case e.ResumeRequested():
            return replace(stamped, mail=state.mail.with_request(event), pause=None)
        case e.PatchRecorded():
            return replace(stamped, patches=state.patches.insert(event.change_id))
        case e.SessionCompleted():
            return replace(stamped, status=SESSION_TRANSITIONS[type(event)], result=event.result)
        case e.SessionFailed():
            return replace(stamped, status=SESSION_TRANSITIONS[type(event)], error=event.error)
        case e.SessionCancelled():
            error = ErrorRecord("SessionCancelled", "SESSION_CANCELLED", event.reason)
            return replace(stamped, status=SESSION_TRANSITIONS[type(event)], error=error)
        case e.SessionContinued():
            status = SESSION_TRANSITIONS[type(event)]
            return replace(stamped, status=status, continued_as=event.continued_as, next_input=event.input)
        case _:
            assert_never(event)


def replay(session_id: str, journal: Iterable[e.Recorded]) -> SessionState | None:
    """Return the fold of a whole journal; `None` for an empty one."""
    state: SessionState | None = None
    for recorded in journal:
        state = begin(session_id, recorded) if state is None else evolve(state, recorded)
    return state


def _pause_left_by(first: e.Recorded) -> Pause | None:
    """Return the pause that the generation before was in when it continued as this one."""
    carried = first.event.carried if isinstance(first.event, e.SessionStarted) else None
    reason = None if carried is None else carried.get(PAUSED)
    return Pause(first.at, reason) if isinstance(reason, str) else None


def _stop(before: Stop | None, recorded: e.Recorded, event: e.CancelRequested) -> Stop:
    if before is None:
        return Stop(recorded.seq, recorded.at, event.cause, event.reason, is_kill=event.cause == e.KILL)
    if event.cause == e.KILL:
        return replace(before, is_kill=True)
    if event.cause == "grace" and before.forced_seq is None:
        return replace(before, forced_seq=recorded.seq, forced_at=recorded.at)
    return before


_OperationEvent: TypeAlias = (
    e.StepStarted
    | e.StepCompleted
    | e.StepFailed
    | e.StepRetrying
    | e.AgentStarted
    | e.AgentCompleted
    | e.AgentFailed
    | e.AgentRetrying
    | e.TimerStarted
    | e.TimerFired
    | e.CallbackCreated
    | e.ApprovalRequested
    | e.CallbackCompleted
    | e.CallbackFailed
    | e.CallbackTimedOut
    | e.ValueRecorded
    | e.ChildStarted
    | e.ChildCompleted
    | e.ChildFailed
    | e.ProgressReported
)
_SessionEvent: TypeAlias = (
    e.SessionStarted
    | e.SessionResumed
    | e.SignalReceived
    | e.CancelRequested
    | e.PauseRequested
    | e.ResumeRequested
    | e.PatchRecorded
    | e.SessionCompleted
    | e.SessionFailed
    | e.SessionCancelled
    | e.SessionContinued
)
# Written out once more, because the type checker narrows by a tuple of classes and not by an alias.
_SESSION_EVENTS: Final = (
    e.SessionStarted,
    e.SessionResumed,
    e.SignalReceived,
    e.CancelRequested,
    e.PauseRequested,
    e.ResumeRequested,
    e.PatchRecorded,
    e.SessionCompleted,
    e.SessionFailed,
    e.SessionCancelled,
    e.SessionContinued,
)


def _with_operation(state: SessionState, recorded: e.Recorded, event: _OperationEvent) -> SessionState:
    before = state.operations.get(event.operation)
    after = _next_operation(before, recorded, event)
    mail = state.mail
    if isinstance(event, e.ValueRecorded):
        mail, signal = mail.without_signal(event.value)
        after = replace(after, result=signal)
    open_operations = state.open_operations
    asking_runs = state.asking_runs
    if after.agent_run is not None and after.order is not None:
        asking_runs = asking_runs.insert(after.agent_run)
    elif after.is_settled and after.operation_id in asking_runs:
        for asked in [op.operation_id for op in open_operations.values() if op.agent_run == after.operation_id]:
            # Nobody is left who waits for that answer.
            open_operations = open_operations.discard(asked)
        asking_runs = asking_runs.discard(after.operation_id)
    if after.order is not None:
        open_operations = (
            open_operations.discard(after.operation_id)
            if after.is_settled
            else open_operations.insert(after.operation_id, after)
        )
    return replace(
        state,
        last_seq=recorded.seq,
        epoch=recorded.epoch,
        updated_at=recorded.at,
        operations=state.operations.insert(after.operation_id, after),
        open_operations=open_operations,
        usage=_usage(state, event),
        usage_of_calls=_usage_of_calls(state, event),
        asking_runs=asking_runs,
        spent=_spent(state, before, recorded, event) if isinstance(event, SPENDING) else state.spent,
        mail=mail,
        fruitless_resumes=0,
    )


# Tuples, made once: `A | B` written where it is asked for would be made anew for every event.
_RESULTS: Final = (e.StepCompleted, e.AgentCompleted, e.CallbackCompleted, e.ChildCompleted)
_ERRORS: Final = (e.StepFailed, e.AgentFailed, e.StepRetrying, e.AgentRetrying, e.CallbackFailed, e.ChildFailed)
_RETRYING: Final = (e.StepRetrying, e.AgentRetrying)
_ORDERS: Final = (e.AgentStarted, e.TimerStarted, e.CallbackCreated, e.ApprovalRequested, e.ChildStarted)
_ATTEMPTED: Final = (
    *(e.StepStarted, e.StepCompleted, e.StepFailed, e.StepRetrying),
    *(e.AgentStarted, e.AgentCompleted, e.AgentFailed, e.AgentRetrying),
)


def _next_operation(before: Operation | None, recorded: e.Recorded, event: _OperationEvent) -> Operation:
    kind = kind_of(event) if before is None else before.kind
    attempt = event.attempt if isinstance(event, _ATTEMPTED) else 1
    retrying = isinstance(event, _RETRYING)
    return Operation(
        operation_id=event.operation,
        kind=kind,
        phase=OPERATION_TRANSITIONS[type(event)][kind][1],
        # The state names the attempt that is under way or due next; the event names the one that failed.
        attempt=attempt + 1 if retrying else attempt,
        changed_at=recorded.at,
        changed_seq=recorded.seq,
        started_at=recorded.at if before is None else before.started_at,
        started_seq=recorded.seq if before is None else before.started_seq,
        result=event.result if isinstance(event, _RESULTS) else None,
        error=_error(before, event),
        next_attempt_at=event.next_attempt_at if isinstance(event, _RETRYING) else None,
        order=event if isinstance(event, _ORDERS) else (before.order if before is not None else None),
        agent_run=_agent_run(event) if before is None else before.agent_run,
    )


_OF_AGENT_RUNS: Final = (e.StepStarted, e.StepCompleted, e.StepFailed, e.CallbackCreated, e.ApprovalRequested)


def _agent_run(first: _OperationEvent) -> str | None:
    return first.agent_run if isinstance(first, _OF_AGENT_RUNS) else None


def _error(before: Operation | None, event: _OperationEvent) -> ErrorRecord | None:
    """Return what failed, or what a wait that ended at its time limit failed of; `None` for every other event."""
    if isinstance(event, _RESULTS):
        return None
    if isinstance(event, _ERRORS):
        return event.error
    waited_for_signal = isinstance(event, e.TimerFired) and before is not None and before.kind is OperationKind.SIGNAL
    if waited_for_signal:
        return ErrorRecord("OperationTimedOut", "OPERATION_TIMED_OUT", "no signal came in time")
    if isinstance(event, e.CallbackTimedOut):
        if before is not None and before.kind is OperationKind.APPROVAL:
            return ErrorRecord("ApprovalTimedOut", "APPROVAL_TIMED_OUT", "nobody answered in time")
        return ErrorRecord("OperationTimedOut", "OPERATION_TIMED_OUT", "no answer came in time")
    return None


def _spent(state: SessionState, before: Operation | None, recorded: e.Recorded, event: _OperationEvent) -> Spent:
    attempt_since = None if before is None or before.is_settled else before.next_attempt_at or before.changed_at
    if attempt_since is not None and event.operation in state.asking_runs:
        attempt_since += _time_people_took(state, event.operation, attempt_since, recorded.at)
    return spent_after(state.spent, event, recorded.at, attempt_since=attempt_since, budget=state.started.budget)


def _time_people_took(state: SessionState, agent_run: str, since: datetime, until: datetime) -> timedelta:
    """Return how long an agent run waited for people within that time."""
    asked = (op for op in state.operations.values() if op.agent_run == agent_run and op.kind is OperationKind.APPROVAL)
    return time_within(since, until, ((op.started_at, op.changed_at if op.is_settled else until) for op in asked))


def _usage(state: SessionState, event: _OperationEvent) -> JsonObject | None:
    """Return what the session has used by then: a run's calls count when they end, and the rest of it at its end."""
    if isinstance(event, e.StepCompleted):
        return summed(state.usage, event.usage)
    if not isinstance(event, e.AgentCompleted):
        return state.usage
    counted = state.usage_of_calls.get(event.operation)
    return summed(state.usage, event.usage if counted is None else rest_of(event.usage, counted))


def _usage_of_calls(state: SessionState, event: _OperationEvent) -> HashTrieMap[str, JsonObject]:
    if not isinstance(event, e.StepCompleted) or event.agent_run is None or not event.usage:
        return state.usage_of_calls
    usage = summed(state.usage_of_calls.get(event.agent_run), event.usage)
    return state.usage_of_calls.insert(event.agent_run, usage or {})
