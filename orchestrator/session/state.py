"""A session's state: the fold of its journal, frozen, and `evolve`, the one function that folds.

State is replaced, never changed. It holds nothing that cannot be had again from the journal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from rpds import HashTrieMap

from orchestrator.session import events as e
from orchestrator.session.frozen import quick, replace
from orchestrator.session.transitions import (
    ENDED,
    OPERATION_TRANSITIONS,
    SESSION_TRANSITIONS,
    SETTLED,
    OperationKind,
    Phase,
    SessionStatus,
    may_follow,
)
from orchestrator.session.values import ErrorRecord, Json, JsonObject


@quick
@dataclass(frozen=True, slots=True)
class Operation:
    """One thing a handler awaits, as far as the journal knows it.

    `attempt` is the latest one (from 1). `changed_at` and `changed_seq` are those of the latest event. `order` is
    the event that ordered an agent run: all that is needed to run it anywhere.
    """

    operation_id: str
    kind: OperationKind
    phase: Phase
    attempt: int
    changed_at: datetime
    changed_seq: int
    result: Json = None
    error: ErrorRecord | None = None
    next_attempt_at: datetime | None = None
    order: e.AgentStarted | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the outcome is recorded: the handler gets this one and no other (I5)."""
        return self.phase in SETTLED


Operations: TypeAlias = "HashTrieMap[str, Operation]"

NO_OPERATIONS: Final[Operations] = HashTrieMap()


@quick
@dataclass(frozen=True, slots=True)
class SessionState:
    """The fold of one journal up to `last_seq`.

    `open_agents` are the agent runs ordered and not settled, `usage` the sum of what agents reported.
    """

    session_id: str
    started: e.SessionStarted
    started_at: datetime
    updated_at: datetime
    status: SessionStatus
    last_seq: int
    epoch: int
    operations: Operations = NO_OPERATIONS
    open_agents: Operations = NO_OPERATIONS
    result: Json = None
    error: ErrorRecord | None = None
    usage: JsonObject | None = None
    resumes: int = 0
    fruitless_resumes: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether the journal holds its terminal event; nothing is appended after it (I2)."""
        return self.status in ENDED

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
    return SessionState(
        session_id=session_id,
        started=first.event,
        started_at=first.at,
        updated_at=first.at,
        status=SessionStatus.RUNNING,
        last_seq=1,
        epoch=first.epoch,
    )


def evolve(state: SessionState, recorded: e.Recorded) -> SessionState:
    """Return the state after one more event. Total: every event that a journal holds has a next state."""
    assert recorded.seq == state.last_seq + 1, f"{state.session_id}: event {recorded.seq} after {state.last_seq}"
    event = recorded.event
    if isinstance(event, e.SessionStarted):
        raise AssertionError(f"{state.session_id}: a second AGENT_INVOCATION_STARTED at {recorded.seq}")
    if isinstance(event, e.SessionResumed):
        counts = (state.resumes + 1, state.fruitless_resumes + 1)
        return replace(_stamped(state, recorded), resumes=counts[0], fruitless_resumes=counts[1])
    if isinstance(event, e.SessionCompleted):
        return replace(_stamped(state, recorded), status=SESSION_TRANSITIONS[type(event)], result=event.result)
    if isinstance(event, e.SessionFailed):
        return replace(_stamped(state, recorded), status=SESSION_TRANSITIONS[type(event)], error=event.error)
    return _with_operation(state, recorded, event)


def replay(session_id: str, journal: Iterable[e.Recorded]) -> SessionState | None:
    """Return the fold of a whole journal; `None` for an empty one."""
    state: SessionState | None = None
    for recorded in journal:
        state = begin(session_id, recorded) if state is None else evolve(state, recorded)
    return state


def _stamped(state: SessionState, recorded: e.Recorded) -> SessionState:
    """Return the state one event on, whatever event it was."""
    return replace(state, last_seq=recorded.seq, epoch=recorded.epoch, updated_at=recorded.at, fruitless_resumes=0)


_OperationEvent: TypeAlias = (
    e.StepStarted
    | e.StepCompleted
    | e.StepFailed
    | e.StepRetrying
    | e.AgentStarted
    | e.AgentCompleted
    | e.AgentFailed
    | e.AgentRetrying
    | e.ProgressReported
)


# Tuples, made once: `A | B` written where it is asked for would be made anew for every event.
_COMPLETED: Final = (e.StepCompleted, e.AgentCompleted)
_RETRYING: Final = (e.StepRetrying, e.AgentRetrying)
_GONE_WRONG: Final = (e.StepFailed, e.AgentFailed, e.StepRetrying, e.AgentRetrying)


def _with_operation(state: SessionState, recorded: e.Recorded, event: _OperationEvent) -> SessionState:
    before = state.operations.get(event.operation)
    after = _next_operation(before, recorded, event)
    open_agents = state.open_agents
    if after.kind is OperationKind.AGENT:
        open_agents = (
            open_agents.discard(after.operation_id)
            if after.is_settled
            else open_agents.insert(after.operation_id, after)
        )
    return replace(
        state,
        last_seq=recorded.seq,
        epoch=recorded.epoch,
        updated_at=recorded.at,
        operations=state.operations.insert(after.operation_id, after),
        open_agents=open_agents,
        usage=_summed(state.usage, event.usage) if isinstance(event, e.AgentCompleted) else state.usage,
        fruitless_resumes=0,
    )


def _next_operation(before: Operation | None, recorded: e.Recorded, event: _OperationEvent) -> Operation:
    kind, _, phase = OPERATION_TRANSITIONS[type(event)]
    attempt = 1 if isinstance(event, e.ProgressReported) else event.attempt
    retrying = isinstance(event, _RETRYING)
    return Operation(
        operation_id=event.operation,
        kind=kind,
        phase=phase,
        # The state names the attempt that is under way or due next; the event names the one that failed.
        attempt=attempt + 1 if retrying else attempt,
        changed_at=recorded.at,
        changed_seq=recorded.seq,
        result=event.result if isinstance(event, _COMPLETED) else None,
        error=event.error if isinstance(event, _GONE_WRONG) else None,
        next_attempt_at=event.next_attempt_at if isinstance(event, _RETRYING) else None,
        order=event if isinstance(event, e.AgentStarted) else (before.order if before is not None else None),
    )


def _summed(total: JsonObject | None, usage: JsonObject | None) -> JsonObject | None:
    """Return the sum, key by key, of the counts in both; what is not a number is left out."""
    if not usage:
        return total
    summed: JsonObject = dict(total or {})
    for key, count in usage.items():
        if isinstance(count, int | float) and not isinstance(count, bool):
            known = summed.get(key, 0)
            summed[key] = (known if isinstance(known, int | float) else 0) + count
    return summed
