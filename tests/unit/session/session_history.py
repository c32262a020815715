"""Journals for the tests of the pure rules: events in order, stamped, and the states they fold to."""

from datetime import UTC, datetime, timedelta

from orchestrator.session import events as e
from orchestrator.session.decide import start
from orchestrator.session.state import SessionState, replay
from orchestrator.session.values import ErrorRecord, RetrySpec

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ERROR = ErrorRecord("ValueError", "UNHANDLED", "no")
LATER = NOON + timedelta(minutes=5)
RETRY = RetrySpec(max_attempts=3, initial_delay=10.0, max_delay=60.0, multiplier=2.0)
STARTED = start("main", "acme", {"a": 1}, trace=None, task_token=None)
ORDERED = e.AgentStarted("a", agent="researcher", prompt="tea", timeout=60.0, retry=RETRY)


def recorded(*events: e.Event, epoch: int = 1) -> list[e.Recorded]:
    """Return the events as a journal holds them, one a second."""
    return [
        e.Recorded(seq, event, NOON + timedelta(seconds=seq - 1), epoch, "node-1", f"e{seq}")
        for seq, event in enumerate(events, 1)
    ]


def after(*events: e.Event) -> SessionState:
    """Return the state after SessionStarted and these events."""
    state = replay("s", recorded(STARTED, *events))
    assert state is not None
    return state


STEP_PHASES: dict[str, tuple[e.Event, ...]] = {
    "new": (),
    "started": (e.StepStarted("a", 1),),
    "retrying": (e.StepRetrying("a", ERROR, 1, LATER),),
    "completed": (e.StepCompleted("a", "done", 1),),
    "failed": (e.StepFailed("a", ERROR, 1),),
}
"""A step `a` in each phase; in `retrying`, attempt 2 is the one that is due."""

AGENT_PHASES: dict[str, tuple[e.Event, ...]] = {
    "new": (),
    "started": (ORDERED,),
    "retrying": (ORDERED, e.AgentRetrying("a", ERROR, 1, LATER)),
    "completed": (ORDERED, e.AgentCompleted("a", "done", 1)),
    "failed": (ORDERED, e.AgentFailed("a", ERROR, 1)),
}

ENDS: tuple[e.TerminalEvent, ...] = (e.SessionCompleted(None), e.SessionFailed(ERROR))
