"""The state diagrams, as tables: of a session and of one operation. The pictures in the docs are made from them.

`decide` asks these tables and nothing else whether an event may follow; change a table and the behaviour changes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeAlias

from orchestrator.session import events as e


class SessionStatus(StrEnum):
    """A session's `state` in the contract."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    BLOCKED = "BLOCKED"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    CONTINUED = "CONTINUED"


ENDED: Final = frozenset(
    {SessionStatus.COMPLETED, SessionStatus.FAILED, SessionStatus.CANCELLED, SessionStatus.CONTINUED}
)


class Phase(StrEnum):
    """Where one operation stands."""

    NEW = "NEW"
    STARTED = "STARTED"
    RETRYING = "RETRYING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class OperationKind(StrEnum):
    """What an operation is; a replay that finds another kind under the same id is a `NonDeterminismError`."""

    STEP = "step"
    AGENT = "agent"
    TIMER = "timer"
    CALLBACK = "callback"
    APPROVAL = "approval"
    SIGNAL = "signal"
    CHILD = "child"
    CALL = "call"
    PROGRESS = "progress"


SETTLED: Final = frozenset({Phase.COMPLETED, Phase.FAILED})

_NEW: Final = frozenset({Phase.NEW})
_STARTED: Final = frozenset({Phase.STARTED})
_STEP_OPEN: Final = frozenset({Phase.NEW, Phase.STARTED, Phase.RETRYING})
_AGENT_OPEN: Final = frozenset({Phase.STARTED, Phase.RETRYING})
_CALL_OPEN: Final = frozenset({Phase.NEW, Phase.STARTED})

Change: TypeAlias = tuple[frozenset[Phase], Phase]
"""The phases that an event may follow, and the one it leads to."""

OPERATION_TRANSITIONS: Final[dict[type[e.Event], dict[OperationKind, Change]]] = {
    e.StepStarted: {
        OperationKind.STEP: (frozenset({Phase.NEW, Phase.RETRYING}), Phase.STARTED),
        OperationKind.CALL: (_NEW, Phase.STARTED),
    },
    e.StepCompleted: {
        OperationKind.STEP: (_STEP_OPEN, Phase.COMPLETED),
        OperationKind.CALL: (_CALL_OPEN, Phase.COMPLETED),
    },
    e.StepFailed: {
        OperationKind.STEP: (_STEP_OPEN, Phase.FAILED),
        OperationKind.CALL: (_CALL_OPEN, Phase.FAILED),
    },
    e.StepRetrying: {OperationKind.STEP: (_STEP_OPEN, Phase.RETRYING)},
    e.AgentStarted: {OperationKind.AGENT: (_NEW, Phase.STARTED)},
    e.AgentCompleted: {OperationKind.AGENT: (_AGENT_OPEN, Phase.COMPLETED)},
    # One that is refused for its session's budget fails before it has begun.
    e.AgentFailed: {OperationKind.AGENT: (_NEW | _AGENT_OPEN, Phase.FAILED)},
    e.AgentRetrying: {OperationKind.AGENT: (_AGENT_OPEN, Phase.RETRYING)},
    e.TimerStarted: {OperationKind.TIMER: (_NEW, Phase.STARTED), OperationKind.SIGNAL: (_NEW, Phase.STARTED)},
    # For who waits for a signal, the instant is the end of the waiting.
    e.TimerFired: {OperationKind.TIMER: (_STARTED, Phase.COMPLETED), OperationKind.SIGNAL: (_STARTED, Phase.FAILED)},
    e.ValueRecorded: {OperationKind.SIGNAL: (_NEW | _STARTED, Phase.COMPLETED)},
    e.CallbackCreated: {OperationKind.CALLBACK: (_NEW, Phase.STARTED)},
    e.ApprovalRequested: {OperationKind.APPROVAL: (_NEW, Phase.STARTED)},
    e.CallbackCompleted: {
        OperationKind.CALLBACK: (_STARTED, Phase.COMPLETED),
        OperationKind.APPROVAL: (_STARTED, Phase.COMPLETED),
    },
    e.CallbackFailed: {
        OperationKind.CALLBACK: (_STARTED, Phase.FAILED),
        OperationKind.APPROVAL: (_STARTED, Phase.FAILED),
    },
    e.CallbackTimedOut: {
        OperationKind.CALLBACK: (_STARTED, Phase.FAILED),
        OperationKind.APPROVAL: (_STARTED, Phase.FAILED),
    },
    e.ChildStarted: {OperationKind.CHILD: (_NEW, Phase.STARTED)},
    e.ChildCompleted: {OperationKind.CHILD: (_STARTED, Phase.COMPLETED)},
    e.ChildFailed: {OperationKind.CHILD: (_STARTED, Phase.FAILED)},
    e.ProgressReported: {OperationKind.PROGRESS: (_NEW, Phase.COMPLETED)},
}
"""Event → for each kind of operation it may belong to, the phases it may follow and the phase it leads to."""

# Taken from the table once, because they are asked for every event.
_FROM: Final = {
    event: frozenset[Phase]().union(*(phases for phases, _ in changes.values()))
    for event, changes in OPERATION_TRANSITIONS.items()
}
_CALLS: Final = (e.StepStarted, e.StepCompleted, e.StepFailed)
_KINDS: Final = {event: next(iter(changes)) for event, changes in OPERATION_TRANSITIONS.items()}

SESSION_TRANSITIONS: Final[dict[type[e.Event], SessionStatus]] = {
    e.SessionStarted: SessionStatus.RUNNING,
    e.SessionCompleted: SessionStatus.COMPLETED,
    e.SessionFailed: SessionStatus.FAILED,
    e.SessionCancelled: SessionStatus.CANCELLED,
    e.SessionContinued: SessionStatus.CONTINUED,
}
"""Event → the status it leads to; the other events leave the status as it is. Nothing follows an ended status (I2)."""


def may_follow(kind: OperationKind | None, phase: Phase, event: type[e.Event]) -> bool:
    """Return whether an operation of this kind (`None`: a new one), in this phase, may be changed by such an event."""
    if kind is None:
        return phase in _FROM[event]
    changes = OPERATION_TRANSITIONS[event]
    return kind in changes and phase in changes[kind][0]


def kind_of(event: e.Event) -> OperationKind:
    """Return the kind of a new operation that begins with this event."""
    if isinstance(event, e.TimerStarted) and event.signal is not None:
        return OperationKind.SIGNAL
    if isinstance(event, _CALLS) and event.agent_run is not None:
        return OperationKind.CALL
    return _KINDS[type(event)]
