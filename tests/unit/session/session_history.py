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


def after(*events: e.Event, started: e.SessionStarted = STARTED, session_id: str = "s") -> SessionState:
    """Return the state after SessionStarted and these events."""
    state = replay(session_id, recorded(started, *events))
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

TIMER = e.TimerStarted("a", LATER)
SIGNAL_WAIT = e.TimerStarted("a", LATER, signal="go")
CALLBACK = e.CallbackCreated("a", "cb-1", LATER)
APPROVAL = e.ApprovalRequested("a", "ap-1", "publish?", ["ann", "bob"], LATER)
CHILD = e.ChildStarted("a", "child", "child-1", {"b": 2})
SIGNAL = e.SignalReceived("go", "m1", 1)
TAKEN = e.ValueRecorded("a", {"signal": "go", "message_id": "m1"})
CANCEL = e.CancelRequested("no more", message_id="c1")
TIME_LIMIT = e.CancelRequested("too long", cause="time_limit")
FORCED = e.CancelRequested("no more", cause="grace")

TIMER_PHASES: dict[str, tuple[e.Event, ...]] = {
    "new": (),
    "started": (TIMER,),
    "fired": (TIMER, e.TimerFired("a")),
}
SIGNAL_PHASES: dict[str, tuple[e.Event, ...]] = {
    "new": (),
    "started": (SIGNAL_WAIT,),
    "taken at once": (SIGNAL, TAKEN),
    "taken": (SIGNAL_WAIT, SIGNAL, TAKEN),
    "timed out": (SIGNAL_WAIT, e.TimerFired("a")),
}
CALLBACK_PHASES: dict[str, tuple[e.Event, ...]] = {
    "new": (),
    "started": (CALLBACK,),
    "completed": (CALLBACK, e.CallbackCompleted("a", "done")),
    "failed": (CALLBACK, e.CallbackFailed("a", ERROR)),
    "timed out": (CALLBACK, e.CallbackTimedOut("a")),
}
APPROVAL_PHASES: dict[str, tuple[e.Event, ...]] = {
    "new": (),
    "started": (APPROVAL,),
    "completed": (APPROVAL, e.CallbackCompleted("a", {"approved": True, "by": "ann", "comment": None})),
    "failed": (APPROVAL, e.CallbackFailed("a", ERROR)),
    "timed out": (APPROVAL, e.CallbackTimedOut("a")),
}
CHILD_PHASES: dict[str, tuple[e.Event, ...]] = {
    "new": (),
    "started": (CHILD,),
    "completed": (CHILD, e.ChildCompleted("a", "done")),
    "failed": (CHILD, e.ChildFailed("a", ERROR)),
}
CALL_PHASES: dict[str, tuple[e.Event, ...]] = {
    "new": (),
    "started": (ORDERED, e.StepStarted("a/c", 1, "a")),
    "completed": (ORDERED, e.StepCompleted("a/c", "done", 1, {"tokens": 1}, "a")),
    "failed": (ORDERED, e.StepFailed("a/c", ERROR, 1, "a")),
}
"""A call `a/c` of an agent run `a`."""
PHASES: dict[str, dict[str, tuple[e.Event, ...]]] = {
    "step": STEP_PHASES,
    "agent": AGENT_PHASES,
    "timer": TIMER_PHASES,
    "signal": SIGNAL_PHASES,
    "callback": CALLBACK_PHASES,
    "approval": APPROVAL_PHASES,
    "child": CHILD_PHASES,
}
"""An operation `a` of each kind in each phase."""

HISTORIES: tuple[tuple[e.Event, ...], ...] = tuple(
    (*events, *stop)
    for phases in (*PHASES.values(), CALL_PHASES)
    for events in phases.values()
    for stop in ((), (CANCEL,), (CANCEL, FORCED), (TIME_LIMIT,))
)
"""Every phase of every kind, before and after each kind of stop."""

ENDS: tuple[e.Event, ...] = (
    e.SessionCompleted(None),
    e.SessionFailed(ERROR),
    e.SessionCancelled("no more"),
    e.SessionContinued({"a": 2}, "s:g2"),
)
