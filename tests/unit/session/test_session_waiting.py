"""`decide` about what a session waits for: timers, signals, callbacks, approvals and children, as tables."""

from datetime import datetime, timedelta

import pytest
from session_history import (
    APPROVAL,
    APPROVAL_PHASES,
    CALLBACK,
    CALLBACK_PHASES,
    CANCEL,
    CHILD,
    CHILD_PHASES,
    ERROR,
    LATER,
    NOON,
    SIGNAL,
    SIGNAL_PHASES,
    SIGNAL_WAIT,
    TAKEN,
    TIMER,
    TIMER_PHASES,
    after,
)

from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.decide import decide
from orchestrator.session.transitions import Phase
from orchestrator.session.values import DELAY_SECONDS_MAX, Json

NOTHING = ()
MILLI = timedelta(milliseconds=1)


# --- timers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", TIMER_PHASES)
def test_a_timer_is_set_once(phase: str) -> None:
    """Asked for again, as a handler that runs anew does not, it keeps its instant."""
    decided = decide(after(*TIMER_PHASES[phase]), m.TimerRequested("a", 60.0), LATER)
    assert ((e.TimerStarted("a", LATER + timedelta(seconds=60)),) if phase == "new" else NOTHING) == decided


@pytest.mark.parametrize(
    ("seconds", "pause"),
    [
        (0.0, timedelta(0)),
        (0.0004, MILLI),
        (0.001, MILLI),
        (1.0001, timedelta(seconds=1) + MILLI),
        (DELAY_SECONDS_MAX, timedelta(days=400)),
    ],
)
def test_what_falls_due_does_so_on_a_whole_millisecond_and_never_early(seconds: float, pause: timedelta) -> None:
    """The journal keeps no finer instant, and an actor's clock knows none: it would wait for one without end."""
    due = NOON + pause
    assert (e.TimerStarted("t", due),) == decide(after(), m.TimerRequested("t", seconds), NOON)
    assert (e.TimerStarted("t", due, signal="go"),) == decide(after(), m.SignalAwaited("t", "go", seconds), NOON)
    assert (e.CallbackCreated("t", "cb", due),) == decide(after(), m.CallbackRequested("t", "cb", seconds), NOON)
    assert (e.ApprovalRequested("t", "ap", None, None, due),) == decide(
        after(), m.ApprovalAsked("t", "ap", None, timeout=seconds), NOON
    )


@pytest.mark.parametrize(
    ("now", "fires"),
    [
        (LATER, True),
        (LATER + timedelta(days=300), True),
        (LATER - MILLI, False),
        (NOON - timedelta(days=1), False),
    ],
)
@pytest.mark.parametrize("order", [TIMER, SIGNAL_WAIT])
def test_a_timer_fires_at_its_instant_and_not_before(order: e.TimerStarted, now: datetime, fires: bool) -> None:
    """A clock that was set back makes none early; one that fell due while nobody lived fires then."""
    assert ((e.TimerFired("a"),) if fires else NOTHING) == decide(after(order), m.TimerDue("a"), now)


@pytest.mark.parametrize(
    "events",
    [
        (),
        TIMER_PHASES["fired"],
        SIGNAL_PHASES["taken"],
        SIGNAL_PHASES["taken at once"],
        SIGNAL_PHASES["timed out"],
        CALLBACK_PHASES["started"],
        (e.StepCompleted("a", None, 1),),
    ],
)
def test_no_timer_fires_that_is_not_set(events: tuple[e.Event, ...]) -> None:
    """Nor twice, nor for another operation."""
    assert NOTHING == decide(after(*events), m.TimerDue("a"), LATER)


# --- signals -----------------------------------------------------------------------------------------------------


def test_a_signal_is_kept_whether_anybody_waits_or_not() -> None:
    """Also after a request to end: what cleans up may wait for it."""
    for events in ((), (SIGNAL_WAIT,), (CANCEL,)):
        assert (e.SignalReceived("go", "m1", 1),) == decide(after(*events), m.SignalSent("m1", "go", 1), NOON)


def test_signals_of_a_name_are_taken_in_the_order_they_came() -> None:
    """Each once, and none of another name."""
    came = [e.SignalReceived(name, f"m{n}", n) for n, name in enumerate(["go", "stop", "go", "go"], 1)]
    taken = list[e.Event]()
    for number, (name, message_id) in enumerate([("go", "m1"), ("go", "m3"), ("stop", "m2"), ("go", "m4")]):
        wait = m.SignalAwaited(f"w{number}", name)
        decided = decide(after(*came, *taken), wait, NOON)
        assert (e.ValueRecorded(wait.operation, {"signal": name, "message_id": message_id}),) == decided
        taken += decided
    state = after(*came, *taken)
    assert [1, 3, 2, 4] == [state.operations[f"w{number}"].result for number in range(4)]
    for name in ("go", "stop", "other"):
        assert NOTHING == decide(state, m.SignalAwaited("w9", name), NOON)


@pytest.mark.parametrize(
    "told_again", [m.SignalSent("m1", "go", 1), m.SignalSent("m1", "go", 2), m.SignalSent("m1", "stop", 1)]
)
@pytest.mark.parametrize("events", [(SIGNAL,), (SIGNAL, TAKEN), (SIGNAL, TAKEN, CANCEL)])
def test_a_message_id_is_taken_once_whatever_comes_under_it(
    events: tuple[e.Event, ...], told_again: m.SignalSent
) -> None:
    """However late, consumed or not, the same or another: a redelivery decides nothing."""
    assert NOTHING == decide(after(*events), told_again, LATER)


def test_the_id_of_a_cancel_is_no_new_signals_and_the_reverse() -> None:
    """Message ids are of one kind."""
    assert NOTHING == decide(after(CANCEL), m.SignalSent("c1", "go", 1), NOON)
    assert NOTHING == decide(after(SIGNAL), m.CancelAsked("m1", "no more"), NOON)


@pytest.mark.parametrize(
    ("message", "contradicts"),
    [
        (m.SignalSent("m1", "go", 1), False),
        (m.SignalSent("m1", "go", 2), True),
        (m.SignalSent("m1", "go", True), True),
        (m.SignalSent("m1", "stop", 1), True),
        (m.SignalSent("m2", "go", 2), False),
        (m.CancelAsked("m1", "go"), True),
        (m.CancelAsked("c1", "no more"), False),
        (m.CancelAsked("c1", "another"), True),
        (m.SignalSent("c1", "no more", None), True),
        (m.CallbackAnswered("m1", "a"), False),
        (m.ChildEnded("m1", "a", "child-1"), False),
    ],
)
def test_another_message_under_a_known_id_is_a_contradiction(message: m.Delivered, contradicts: bool) -> None:
    """Its sender is told so; the same one again is welcome, and decides nothing. So it is once the signal is taken."""
    for taken in ((), (e.ValueRecorded("w", {"signal": "go", "message_id": "m1"}),)):
        assert contradicts == after(SIGNAL, CANCEL, *taken).mail.contradicts(message)


@pytest.mark.parametrize(
    ("events", "timeout", "expected"),
    [
        ((), None, NOTHING),
        ((), 300.0, (SIGNAL_WAIT,)),
        ((SIGNAL,), None, (TAKEN,)),
        ((SIGNAL,), 300.0, (TAKEN,)),
        ((SIGNAL_WAIT,), 300.0, NOTHING),
        ((SIGNAL_WAIT, SIGNAL), 300.0, (TAKEN,)),
        ((SIGNAL_WAIT, e.TimerFired("a")), 300.0, NOTHING),
        ((SIGNAL_WAIT, e.TimerFired("a"), SIGNAL), 300.0, NOTHING),
        ((SIGNAL_WAIT, SIGNAL, e.TimerFired("a")), 300.0, NOTHING),
        ((SIGNAL, TAKEN, e.SignalReceived("go", "m2", 2)), 300.0, NOTHING),
    ],
)
def test_who_waits_for_a_signal_gets_it_or_the_end_of_the_time_and_never_both(
    events: tuple[e.Event, ...], timeout: float | None, expected: tuple[e.Event, ...]
) -> None:
    """Which was first stands in the journal; a wait without a limit that finds nothing leaves no trace."""
    assert expected == decide(after(*events), m.SignalAwaited("a", "go", timeout), NOON)


def test_a_signal_that_came_too_late_is_kept_for_the_next_wait() -> None:
    """The wait that timed out has failed for good; the signal is not lost with it."""
    for events in ((SIGNAL_WAIT, e.TimerFired("a"), SIGNAL), (SIGNAL_WAIT, SIGNAL, e.TimerFired("a"))):
        state = after(*events)
        failed = state.operations["a"]
        assert failed.error is not None
        assert (Phase.FAILED, "OPERATION_TIMED_OUT") == (failed.phase, failed.error.code)
        (taken,) = decide(state, m.SignalAwaited("b", "go"), NOON)
        assert e.ValueRecorded("b", {"signal": "go", "message_id": "m1"}) == taken


# --- callbacks and approvals -------------------------------------------------------------------------------------


def test_a_callback_is_created_once() -> None:
    """With its own id, which no other run of the handler changes, and until when it may be answered."""
    for phase, events in CALLBACK_PHASES.items():
        asked = m.CallbackRequested("a", "cb-1", 300.0)
        assert ((CALLBACK,) if phase == "new" else NOTHING) == decide(after(*events), asked, NOON)
    assert (e.CallbackCreated("a", "cb-1", None),) == decide(after(), m.CallbackRequested("a", "cb-1"), NOON)


def test_an_approval_is_asked_for_once() -> None:
    """With what it is about and whose answer counts."""
    for phase, events in APPROVAL_PHASES.items():
        asked = m.ApprovalAsked("a", "ap-1", "publish?", ["ann", "bob"], 300.0)
        assert ((APPROVAL,) if phase == "new" else NOTHING) == decide(after(*events), asked, NOON)
    assert (e.ApprovalRequested("a", "ap-1", None),) == decide(after(), m.ApprovalAsked("a", "ap-1", None), NOON)


@pytest.mark.parametrize(("phases", "callback_id"), [(CALLBACK_PHASES, "cb-1"), (APPROVAL_PHASES, "ap-1")])
def test_an_answer_counts_once_and_only_for_its_own_callback(
    phases: dict[str, tuple[e.Event, ...]], callback_id: str
) -> None:
    """Success, failure and the end of the time alike, whatever time it is; a second one decides nothing."""
    answers: list[tuple[m.CallbackAnswered, e.Event]] = [
        (m.CallbackAnswered(callback_id, "a", result={"n": 1}), e.CallbackCompleted("a", {"n": 1})),
        (m.CallbackAnswered(callback_id, "a", error=ERROR), e.CallbackFailed("a", ERROR)),
        (m.CallbackAnswered(callback_id, "a", timed_out=True), e.CallbackTimedOut("a")),
    ]
    for phase, events in phases.items():
        state = after(*events)
        for answer, event in answers:
            for now in (NOON, LATER, LATER + timedelta(days=1)):
                assert ((event,) if phase == "started" else NOTHING) == decide(state, answer, now), (phase, answer)
            for other in (m.CallbackAnswered("cb-2", "a", "r"), m.CallbackAnswered(callback_id, "b", "r")):
                assert NOTHING == decide(state, other, NOON), (phase, other)


@pytest.mark.parametrize(
    ("phases", "code"), [(CALLBACK_PHASES, "OPERATION_TIMED_OUT"), (APPROVAL_PHASES, "APPROVAL_TIMED_OUT")]
)
def test_what_nobody_answered_in_time_has_failed_with_a_name(phases: dict[str, tuple[e.Event, ...]], code: str) -> None:
    """What an answer says stands in the operation: the result, or the error it failed with."""
    late = after(*phases["timed out"]).operations["a"].error
    assert late is not None
    assert code == late.code
    assert ERROR == after(*phases["failed"]).operations["a"].error
    completed = after(*phases["completed"]).operations["a"]
    assert (None, Phase.COMPLETED) == (completed.error, completed.phase)
    assert isinstance(phases["completed"][-1], e.CallbackCompleted)
    assert phases["completed"][-1].result == completed.result


# --- children ----------------------------------------------------------------------------------------------------


def test_a_child_is_ordered_once() -> None:
    """Under the id that the handler derived, with its input."""
    for phase, events in CHILD_PHASES.items():
        asked = m.ChildRequested("a", "child", "child-1", {"b": 2})
        assert ((CHILD,) if phase == "new" else NOTHING) == decide(after(*events), asked, NOON)


def test_a_childs_end_counts_once_and_only_for_who_waits_for_it() -> None:
    """Under whatever message id it comes; another child's, or another operation's, decides nothing."""
    for phase, events in CHILD_PHASES.items():
        state = after(*events)
        for message_id in ("child:child-1", "again"):
            completed = decide(state, m.ChildEnded(message_id, "a", "child-1", result="r"), NOON)
            assert ((e.ChildCompleted("a", "r"),) if phase == "started" else NOTHING) == completed
            failed = decide(state, m.ChildEnded(message_id, "a", "child-1", error=ERROR), NOON)
            assert ((e.ChildFailed("a", ERROR),) if phase == "started" else NOTHING) == failed
        assert NOTHING == decide(state, m.ChildEnded("x", "a", "child-2"), NOON), phase
        assert NOTHING == decide(state, m.ChildEnded("x", "b", "child-1"), NOON), phase


@pytest.mark.parametrize(
    ("phase", "result", "error"), [("completed", "done", None), ("failed", None, ERROR), ("started", None, None)]
)
def test_a_childs_end_stands_in_its_operation(phase: str, result: Json, error: object) -> None:
    """And so does the order, from which it can be started anywhere."""
    operation = after(*CHILD_PHASES[phase]).operations["a"]
    assert (result, error, CHILD) == (operation.result, operation.error, operation.order)


# --- changes in the code -----------------------------------------------------------------------------------------


def test_a_change_in_the_code_is_passed_once() -> None:
    """Each by its own id; the state remembers it."""
    (passed,) = decide(after(), m.PatchReached("change-1"), NOON)
    assert e.PatchRecorded("change-1") == passed
    state = after(passed)
    assert ["change-1"] == list(state.patches)
    assert NOTHING == decide(state, m.PatchReached("change-1"), NOON)
    assert (e.PatchRecorded("change-2"),) == decide(state, m.PatchReached("change-2"), NOON)
