"""`decide`, as tables: every message in every phase. What is not in a table's right column decides nothing."""

from dataclasses import replace
from datetime import timedelta

import pytest
from session_history import (
    AGENT_PHASES,
    ENDS,
    ERROR,
    HISTORIES,
    LATER,
    NOON,
    ORDERED,
    PHASES,
    RETRY,
    STARTED,
    STEP_PHASES,
    after,
)

from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.decide import decide, same_start, start
from orchestrator.session.state import SessionState
from orchestrator.session.transitions import (
    ENDED,
    OPERATION_TRANSITIONS,
    SESSION_TRANSITIONS,
    SETTLED,
    OperationKind,
    Phase,
    kind_of,
    may_follow,
)
from orchestrator.session.values import ErrorRecord, RetrySpec

INTERRUPTED = "STEP_INTERRUPTED"
NOTHING = ()
MUCH_LATER = NOON + timedelta(days=1)
WITHOUT_STATUS = {
    *(e.SessionResumed, e.SignalReceived, e.CancelRequested),
    *(e.PauseRequested, e.ResumeRequested, e.PatchRecorded),
}
"""Events of the session as a whole that leave its status as it is."""


def step_failed_message(attempt: int, *, retry: RetrySpec = RETRY, is_retryable: bool = True) -> m.StepAttemptFailed:
    """Return the news that an attempt failed, with a draw of a half."""
    return m.StepAttemptFailed("a", attempt, ERROR, retry, is_retryable, 0.5)


def agent_failed_message(attempt: int, *, is_retryable: bool = True) -> m.AgentAttemptFailed:
    """Return the news that an attempt failed, with a draw of a half."""
    return m.AgentAttemptFailed("a", attempt, ERROR, is_retryable, 0.5)


MESSAGES: tuple[m.Message, ...] = (
    m.StepStarting("a", 1),
    m.StepSucceeded("a", 1, "r"),
    step_failed_message(1),
    m.AgentRequested("a", "researcher", "tea"),
    m.AgentSucceeded("a", 1, "r", {"tokens": 1}),
    agent_failed_message(1),
    m.CallStarting("a/c", "a"),
    m.CallEnded("a/c", "a", "r", {"tokens": 1}),
    m.CallEnded("a/c", "a", error=ERROR),
    m.TimerRequested("a", 60.0),
    m.TimerDue("a"),
    m.CallbackRequested("a", "cb-1", 60.0),
    m.ApprovalAsked("a", "ap-1", "publish?", ["ann"], 60.0),
    m.CallbackAnswered("cb-1", "a", result="r"),
    m.CallbackAnswered("ap-1", "a", error=ERROR),
    m.CallbackAnswered("cb-1", "a", timed_out=True),
    m.SignalSent("m1", "go", 1),
    m.SignalSent("m2", "go", 2),
    m.SignalAwaited("a", "go"),
    m.SignalAwaited("a", "go", 60.0),
    m.CancelAsked("c1", "no more"),
    m.CancelAsked("c2", "no more"),
    m.PauseAsked("p1", "wait"),
    m.ResumeAsked("r1", "go on"),
    m.KillAsked("k1", "now"),
    m.Dismissed("c1", "no more"),
    m.Dismissed("c3", "no more"),
    m.TimeLimitReached(),
    m.WallTimeReached(),
    m.CallAtCap("a"),
    m.TenantCapReached("a", 1, "tokens", 100.0, 120.0, "2026-01"),
    m.GraceOver(),
    m.PatchReached("change-1"),
    m.ChildRequested("a", "child", "child-1", None),
    m.ChildEnded("child:child-1", "a", "child-1", result="r"),
    m.ChildEnded("child:child-1", "a", "child-1", error=ERROR),
    m.ProgressMade("p", "half", 50.0),
    m.HandlerReturned("r"),
    m.HandlerRaised(ERROR),
    m.HandlerContinued("next"),
    m.HandlerReturned("r", knew_of_stop=True),
    m.HandlerRaised(ERROR, knew_of_stop=True),
    m.HandlerContinued("next", knew_of_stop=True),
    m.CrashLoopDetected(6),
)

BELONGING: dict[str, tuple[m.Message, ...]] = {
    "step": (m.StepStarting("a", 1), m.StepSucceeded("a", 1, "r"), step_failed_message(1), step_failed_message(2)),
    "agent": (
        m.AgentRequested("a", "researcher", "tea"),
        *(m.AgentSucceeded("a", attempt, "r") for attempt in (1, 2)),
        *(agent_failed_message(attempt) for attempt in (1, 2)),
    ),
    "timer": (m.TimerRequested("a", 60.0),),
    "signal": (m.SignalAwaited("a", "go"), m.SignalAwaited("a", "go", 60.0)),
    "callback": (m.CallbackRequested("a", "cb-1", 60.0), m.CallbackAnswered("cb-1", "a", "r")),
    "approval": (m.ApprovalAsked("a", "ap-1", "publish?"), m.CallbackAnswered("ap-1", "a", "r")),
    "child": (m.ChildRequested("a", "child", "child-1", None), m.ChildEnded("child:child-1", "a", "child-1")),
}
"""What is said of an operation `a` of each kind, and of no other."""


def code_of(event: e.Event) -> str:
    """Return the code of a failure event."""
    assert isinstance(event, e.StepFailed | e.SessionFailed)
    return event.error.code


@pytest.mark.parametrize(
    ("phase", "attempt", "expected"),
    [
        ("new", 1, (e.StepStarted("a", 1),)),
        ("retrying", 2, (e.StepStarted("a", 2),)),
        ("completed", 1, NOTHING),
        ("failed", 1, NOTHING),
    ],
)
def test_a_step_starts_unless_it_is_settled(phase: str, attempt: int, expected: tuple[e.Event, ...]) -> None:
    """A start is recorded before an `at_most_once` step runs."""
    assert expected == decide(after(*STEP_PHASES[phase]), m.StepStarting("a", attempt), NOON)


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_step_that_was_started_before_is_interrupted_not_run_again(attempt: int) -> None:
    """Whether its function ran is in doubt (I5): the second start is of a run after a crash."""
    before = (e.StepStarted("a", 1),) if attempt == 1 else (*STEP_PHASES["retrying"], e.StepStarted("a", 2))
    (event,) = decide(after(*before), m.StepStarting("a", attempt), NOON)
    assert isinstance(event, e.StepFailed)
    assert ("a", attempt, INTERRUPTED) == (event.operation, event.attempt, event.error.code)


@pytest.mark.parametrize(
    ("phase", "attempt", "is_taken"),
    [
        ("new", 1, True),
        ("new", 2, False),
        ("started", 1, True),
        ("started", 2, False),
        ("retrying", 1, False),
        ("retrying", 2, True),
        ("retrying", 3, False),
        ("completed", 1, False),
        ("failed", 1, False),
    ],
)
def test_a_steps_outcome_counts_once_and_for_the_attempt_under_way(phase: str, attempt: int, is_taken: bool) -> None:
    """A settled step never changes (I5), and a stale attempt is not this one's outcome; success and failure alike."""
    state = after(*STEP_PHASES[phase])
    completed = (e.StepCompleted("a", "r", attempt),)
    assert (completed if is_taken else NOTHING) == decide(state, m.StepSucceeded("a", attempt, "r"), NOON)
    failure = decide(state, step_failed_message(attempt, is_retryable=False), NOON)
    assert ((e.StepFailed("a", ERROR, attempt),) if is_taken else NOTHING) == failure


@pytest.mark.parametrize(
    ("phase", "attempt", "is_taken"),
    [
        ("new", 1, False),
        ("started", 1, True),
        ("started", 2, False),
        ("retrying", 1, False),
        ("retrying", 2, True),
        ("completed", 1, False),
        ("failed", 1, False),
    ],
)
def test_an_agents_outcome_counts_once_and_for_the_attempt_under_way(phase: str, attempt: int, is_taken: bool) -> None:
    """An agent that was not ordered has no outcome either."""
    state = after(*AGENT_PHASES[phase])
    completed = (e.AgentCompleted("a", "r", attempt, {"tokens": 1}),)
    assert (completed if is_taken else NOTHING) == decide(
        state, m.AgentSucceeded("a", attempt, "r", {"tokens": 1}), NOON
    )
    failure = decide(state, agent_failed_message(attempt, is_retryable=False), NOON)
    assert ((e.AgentFailed("a", ERROR, attempt),) if is_taken else NOTHING) == failure


@pytest.mark.parametrize("phase", AGENT_PHASES)
def test_an_agent_is_ordered_once(phase: str) -> None:
    """The order holds all that running it needs."""
    request = m.AgentRequested("a", "researcher", "tea", timeout=60.0, retry=RETRY)
    assert ((ORDERED,) if phase == "new" else NOTHING) == decide(after(*AGENT_PHASES[phase]), request, NOON)


@pytest.mark.parametrize("kind", PHASES)
def test_what_belongs_to_another_kind_of_operation_decides_nothing(kind: str) -> None:
    """One operation is one thing, in every phase; a message of another kind is out of place."""
    for phase, events in PHASES[kind].items():
        if phase == "new":
            continue
        state = after(*events, e.SignalReceived("go", "m9", None))
        for other in PHASES.keys() - {kind}:
            for message in BELONGING[other]:
                assert NOTHING == decide(state, message, LATER), (phase, message)


def test_a_failed_attempt_is_followed_by_another_until_the_policy_is_spent() -> None:
    """The event names the attempt that failed and when the next one is due."""
    state = after()
    for attempt, seconds in ((1, 5), (2, 10)):
        (event,) = decide(state, step_failed_message(attempt), NOON)
        assert e.StepRetrying("a", ERROR, attempt, NOON + timedelta(seconds=seconds)) == event
        state = after(*(e.StepRetrying("a", ERROR, n, NOON) for n in range(1, attempt + 1)))
    assert (e.StepFailed("a", ERROR, 3),) == decide(state, step_failed_message(3), NOON)


def test_an_agents_attempts_follow_the_policy_of_its_order() -> None:
    """Whatever the code says by now; without a policy it is tried once."""
    assert (e.AgentRetrying("a", ERROR, 1, NOON + timedelta(seconds=5)),) == decide(
        after(ORDERED), agent_failed_message(1), NOON
    )
    spent = after(ORDERED, *(e.AgentRetrying("a", ERROR, n, NOON) for n in (1, 2)))
    assert (e.AgentFailed("a", ERROR, 3),) == decide(spent, agent_failed_message(3), NOON)
    once = after(replace(ORDERED, retry=None))
    assert (e.AgentFailed("a", ERROR, 1),) == decide(once, agent_failed_message(1), NOON)


@pytest.mark.parametrize(("delay", "pause"), [(0.0, 0), (0.0002, 1), (0.002, 1), (0.0022, 2), (3.0, 1_500)], ids=str)
def test_the_next_attempt_is_due_on_a_whole_millisecond_and_never_early(delay: float, pause: int) -> None:
    """The journal keeps no finer instant: the state in memory and the one that is read back are the same."""
    retry = RetrySpec(max_attempts=3, initial_delay=delay)
    due = NOON + timedelta(milliseconds=pause)
    assert (e.StepRetrying("a", ERROR, 1, due),) == decide(after(), step_failed_message(1, retry=retry), NOON)
    ordered = after(replace(ORDERED, retry=retry))
    assert (e.AgentRetrying("a", ERROR, 1, due),) == decide(ordered, agent_failed_message(1), NOON)


def test_an_error_that_is_not_retryable_ends_an_operation_at_once() -> None:
    """Whatever the policy says."""
    assert (e.StepFailed("a", ERROR, 1),) == decide(after(), step_failed_message(1, is_retryable=False), NOON)
    assert (e.AgentFailed("a", ERROR, 1),) == decide(after(ORDERED), agent_failed_message(1, is_retryable=False), NOON)


def test_progress_is_recorded_once() -> None:
    """A repeated report decides nothing."""
    message = m.ProgressMade("p", "half", 50.0, {"of": 2})
    event = e.ProgressReported("p", "half", 50.0, {"of": 2})
    assert (event,) == decide(after(), message, NOON)
    assert NOTHING == decide(after(event), message, NOON)


def test_a_handlers_end_is_the_sessions() -> None:
    """Returned: completed. Raised: failed. Too many dead nodes: failed, with how many."""
    assert (e.SessionCompleted("r"),) == decide(after(), m.HandlerReturned("r"), NOON)
    assert (e.SessionFailed(ERROR),) == decide(after(), m.HandlerRaised(ERROR), NOON)
    (end,) = decide(after(), m.CrashLoopDetected(6), NOON)
    assert "CRASH_LOOP" == code_of(end)
    assert isinstance(end, e.SessionFailed)
    assert "6 nodes" in end.error.message


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_nothing_is_decided_after_the_end(message: m.Message, end: e.Event) -> None:
    """Exactly one terminal event, the last one (I2), whatever still arrives, whatever was under way."""
    for events in HISTORIES:
        assert NOTHING == decide(after(*events, end), message, MUCH_LATER), events


def test_every_message_is_in_the_tables_above() -> None:
    """A new message needs its place in these tests."""
    assert set(m.Message.__args__) == {type(message) for message in MESSAGES}
    assert set(PHASES) == set(BELONGING) == {str(kind) for kind in OperationKind} - {"progress", "call"}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_has_an_answer_in_every_phase(message: m.Message) -> None:
    """`decide` is total; what it decides may follow by the table, and evolves; told again, it decides nothing more.

    But for the start of a step or call, which is in doubt if it is told again, and a grace that may be over twice.
    """
    for events in HISTORIES:
        state = after(*events)
        decided = decide(state, message, MUCH_LATER)
        for event in decided:
            assert_may_follow(state, event)
        if decided and not isinstance(message, m.StepStarting | m.CallStarting | m.SignalAwaited | m.GraceOver):
            assert NOTHING == decide(after(*events, *decided), message, MUCH_LATER), events


def assert_may_follow(state: SessionState, event: e.Event) -> None:
    """Check the event against the state diagram."""
    operation = getattr(event, "operation", None)
    if operation is None:
        assert type(event) in {*SESSION_TRANSITIONS, *WITHOUT_STATUS}
    else:
        assert state.allows(operation, type(event))


def test_two_starts_are_the_same_if_type_tenant_and_input_are() -> None:
    """Trace and token may differ: a redelivery has another trace (I4)."""
    same = start("main", "acme", {"a": 1}, trace="00-1", task_token="t")
    assert same_start(STARTED, same)
    for other in (
        start("other", "acme", {"a": 1}, trace=None, task_token=None),
        start("main", "other", {"a": 1}, trace=None, task_token=None),
        start("main", "acme", {"a": 2}, trace=None, task_token=None),
        start("main", "acme", {"a": 1.5}, trace=None, task_token=None),
        start("main", "acme", {"a": True}, trace=None, task_token=None),
        start("main", "acme", None, trace=None, task_token=None),
    ):
        assert not same_start(STARTED, other), other


def test_the_diagram_lets_nothing_out_of_a_settled_phase() -> None:
    """Settled is for ever (I5), whatever the event and whatever the kind."""
    for event in OPERATION_TRANSITIONS:
        for kind in OperationKind:
            for phase in SETTLED:
                assert not may_follow(kind, phase, event), (event, kind)


def test_the_diagram_lets_no_event_change_an_operation_of_another_kind() -> None:
    """One operation is one thing, in every phase."""
    for event, changes in OPERATION_TRANSITIONS.items():
        for other in set(OperationKind) - set(changes):
            assert not any(may_follow(other, phase, event) for phase in Phase), (event, other)


def test_the_diagram_lets_every_operation_settle() -> None:
    """None hangs for want of an event: from every phase that a kind can be in, some way leads out."""
    for kind in OperationKind:
        changes = [changes[kind] for changes in OPERATION_TRANSITIONS.values() if kind in changes]
        reached = {Phase.NEW, *(phase for _, phase in changes)}
        for phase in reached - SETTLED:
            assert any(phase in before and phase is not leads_to for before, leads_to in changes), (kind, phase)
        assert Phase.COMPLETED in reached


def test_the_diagrams_name_every_event_but_those_of_the_session_as_a_whole() -> None:
    """A new event needs its transition, unless it changes no status."""
    assert set(e.TYPE_NAMES) == {*OPERATION_TRANSITIONS, *SESSION_TRANSITIONS, *WITHOUT_STATUS}
    assert len(e.TYPE_NAMES) == len(e.EVENT_TYPES)
    assert ENDED == {SESSION_TRANSITIONS[type(end)] for end in ENDS}


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        (PHASES["timer"]["started"], OperationKind.TIMER),
        (PHASES["signal"]["started"], OperationKind.SIGNAL),
        (PHASES["signal"]["taken at once"], OperationKind.SIGNAL),
        (PHASES["callback"]["started"], OperationKind.CALLBACK),
        (PHASES["approval"]["started"], OperationKind.APPROVAL),
        (PHASES["child"]["started"], OperationKind.CHILD),
    ],
)
def test_an_operation_is_of_the_kind_that_its_first_event_says(
    events: tuple[e.Event, ...], kind: OperationKind
) -> None:
    """A timer with the name of a signal is a wait for that signal."""
    assert kind is kind_of(events[-1]) is after(*events).operations["a"].kind


def test_the_crash_loops_error_is_a_record() -> None:
    """Its type and code are what people look for."""
    (end,) = decide(after(), m.CrashLoopDetected(6), NOON)
    assert isinstance(end, e.SessionFailed)
    assert ErrorRecord("CrashLoop", "CRASH_LOOP", end.error.message) == end.error
