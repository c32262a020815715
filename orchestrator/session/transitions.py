"""The state diagrams, as tables: of a session and of one operation. The pictures in the docs are made from them.

`decide` asks these tables and nothing else whether an event may follow; change a table and the behaviour changes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

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
    PROGRESS = "progress"


SETTLED: Final = frozenset({Phase.COMPLETED, Phase.FAILED})

OPERATION_TRANSITIONS: Final[dict[type[e.Event], tuple[OperationKind, frozenset[Phase], Phase]]] = {
    e.StepStarted: (OperationKind.STEP, frozenset({Phase.NEW, Phase.RETRYING}), Phase.STARTED),
    e.StepCompleted: (OperationKind.STEP, frozenset({Phase.NEW, Phase.STARTED, Phase.RETRYING}), Phase.COMPLETED),
    e.StepFailed: (OperationKind.STEP, frozenset({Phase.NEW, Phase.STARTED, Phase.RETRYING}), Phase.FAILED),
    e.StepRetrying: (OperationKind.STEP, frozenset({Phase.NEW, Phase.STARTED, Phase.RETRYING}), Phase.RETRYING),
    e.AgentStarted: (OperationKind.AGENT, frozenset({Phase.NEW}), Phase.STARTED),
    e.AgentCompleted: (OperationKind.AGENT, frozenset({Phase.STARTED, Phase.RETRYING}), Phase.COMPLETED),
    e.AgentFailed: (OperationKind.AGENT, frozenset({Phase.STARTED, Phase.RETRYING}), Phase.FAILED),
    e.AgentRetrying: (OperationKind.AGENT, frozenset({Phase.STARTED, Phase.RETRYING}), Phase.RETRYING),
    e.ProgressReported: (OperationKind.PROGRESS, frozenset({Phase.NEW}), Phase.COMPLETED),
}
"""Event → the kind of operation it belongs to, the phases it may follow, the phase it leads to."""

SESSION_TRANSITIONS: Final[dict[type[e.Event], SessionStatus]] = {
    e.SessionStarted: SessionStatus.RUNNING,
    e.SessionCompleted: SessionStatus.COMPLETED,
    e.SessionFailed: SessionStatus.FAILED,
}
"""Event → the status it leads to; the other events leave the status as it is. Nothing follows an ended status (I2)."""


def may_follow(kind: OperationKind | None, phase: Phase, event: type[e.Event]) -> bool:
    """Return whether an operation of this kind (`None`: a new one), in this phase, may be changed by such an event."""
    wanted_kind, phases, _ = OPERATION_TRANSITIONS[event]
    return phase in phases and (kind is None or kind is wanted_kind)
