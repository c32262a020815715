"""`decide` about how a session ends: by its handler, by a cancel, by its time limit, by the length of its journal."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from session_history import AGENT_PHASES, CANCEL, ERROR, FORCED, NOON, STARTED, TIME_LIMIT, after

from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.decide import CLEAN_UP_EVENTS, EVENTS_MAX, decide
from orchestrator.session.ending import (
    GRACE,
    LAST_GRACE,
    first_generation,
    grace_over_at,
    next_generation,
    previous_generation,
)
from orchestrator.session.state import SessionState, Stop

NOTHING = ()
MILLI = timedelta(milliseconds=1)
LIMITED = replace(STARTED, time_limit=3_600.0)
LIMIT_AT = NOON + timedelta(hours=1)
LONGEST = EVENTS_MAX + CLEAN_UP_EVENTS
TOO_LONG = e.CancelRequested("too long", cause="journal")

Verdict = m.HandlerReturned | m.HandlerRaised | m.HandlerContinued
VERDICTS: tuple[Verdict, ...] = (m.HandlerReturned("r"), m.HandlerRaised(ERROR), m.HandlerContinued("next"))


def stop_of(state: SessionState) -> Stop:
    """Return why and since when the session is to end."""
    assert state.stop is not None
    return state.stop


# --- requests to end ---------------------------------------------------------------------------------------------


def test_a_cancel_asks_the_session_to_end_and_does_not_end_it() -> None:
    """The handler cleans up first. The request is known by its id, and when it came is when the grace begins."""
    assert (CANCEL,) == decide(after(), m.CancelAsked("c1", "no more"), NOON)
    state = after(CANCEL)
    assert not state.has_ended
    assert Stop(2, NOON + timedelta(seconds=1), "request", "no more") == stop_of(state)


@pytest.mark.parametrize("told_again", [m.CancelAsked("c1", "no more"), m.CancelAsked("c1", "another reason")])
@pytest.mark.parametrize("events", [(CANCEL,), (CANCEL, FORCED), (e.StepCompleted("a", 1, 1), CANCEL)])
def test_a_cancel_told_again_decides_nothing(events: tuple[e.Event, ...], told_again: m.CancelAsked) -> None:
    """However late, whatever it says now."""
    assert NOTHING == decide(after(*events), told_again, NOON + timedelta(days=1))


@pytest.mark.parametrize("events", [(), (e.SessionResumed(),)])
def test_a_session_that_never_ran_is_dismissed_at_once(events: tuple[e.Event, ...]) -> None:
    """No handler has to hear of it first: the request and the end stand in the journal together."""
    decided = decide(after(*events), m.Dismissed("c1", "no more"), NOON)
    assert (CANCEL, e.SessionCancelled("no more")) == decided
    state = after(*events, *decided)
    assert state.has_ended
    assert state.mail.is_known(m.CancelAsked("c1", "no more"))
    assert NOTHING == decide(state, m.Dismissed("c1", "no more"), NOON)


@pytest.mark.parametrize("first", [CANCEL, TIME_LIMIT])
def test_a_second_cancel_is_recorded_and_changes_nothing_of_the_first(first: e.CancelRequested) -> None:
    """Its sender is told that it was taken; the grace goes on from the first one, and its reason stands."""
    (second,) = decide(after(first), m.CancelAsked("c2", "now!"), NOON)
    assert e.CancelRequested("now!", message_id="c2") == second
    assert stop_of(after(first)) == stop_of(after(first, second))
    assert NOTHING == decide(after(first, second), m.CancelAsked("c2", "now!"), NOON)
    forced = (first, FORCED)
    assert stop_of(after(*forced)) == stop_of(after(*forced, second))


@pytest.mark.parametrize(
    ("events", "now", "is_over"),
    [
        ((), LIMIT_AT, True),
        ((), LIMIT_AT + timedelta(days=1), True),
        ((), LIMIT_AT - MILLI, False),
        ((CANCEL,), LIMIT_AT, False),
        ((TIME_LIMIT,), LIMIT_AT, False),
    ],
)
def test_a_session_that_lived_its_time_is_asked_to_end(
    events: tuple[e.Event, ...], now: datetime, is_over: bool
) -> None:
    """Once, not before its time, and not when it is to end already."""
    reason = "the session did not end within 1:00:00"
    expected = (e.CancelRequested(reason, cause="time_limit"),) if is_over else NOTHING
    assert expected == decide(after(*events, started=LIMITED), m.TimeLimitReached(), now)


def test_a_session_without_a_time_limit_never_reaches_it() -> None:
    """A message that is wrong decides nothing."""
    assert NOTHING == decide(after(), m.TimeLimitReached(), NOON + timedelta(days=400))


# --- the graces --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [CANCEL, TIME_LIMIT])
def test_a_handler_that_takes_too_long_to_end_is_stopped_and_then_left_behind(stop: e.CancelRequested) -> None:
    """First the handler's own grace, then that of its undo steps, each from its own beginning; then the end."""
    asked = after(stop)
    assert stop_of(asked).at + GRACE == grace_over_at(stop_of(asked))
    assert NOTHING == decide(asked, m.GraceOver(), grace_over_at(stop_of(asked)) - MILLI)
    (forced,) = decide(asked, m.GraceOver(), grace_over_at(stop_of(asked)))
    assert e.CancelRequested(stop.reason, cause="grace") == forced

    state = after(stop, forced)
    assert (2, 3) == (stop_of(state).seq, stop_of(state).forced_seq)
    assert (stop.cause, stop.reason) == (stop_of(state).cause, stop_of(state).reason)
    assert NOON + timedelta(seconds=2) + LAST_GRACE == grace_over_at(stop_of(state))
    assert NOTHING == decide(state, m.GraceOver(), grace_over_at(stop_of(state)) - MILLI)
    (end,) = decide(state, m.GraceOver(), grace_over_at(stop_of(state)))
    assert (e.SessionFailed if stop is TIME_LIMIT else e.SessionCancelled) is type(end)


def test_an_alarm_that_rings_twice_takes_no_grace_away() -> None:
    """The second one comes before the last grace is over."""
    rung = grace_over_at(stop_of(after(CANCEL)))
    assert NOTHING == decide(after(CANCEL, FORCED), m.GraceOver(), rung)


def test_no_grace_is_over_that_has_not_begun() -> None:
    """Of a session that nobody asked to end."""
    assert NOTHING == decide(after(), m.GraceOver(), NOON + timedelta(days=1))


def test_a_grace_is_over_once() -> None:
    """A second record of it would let the last grace begin anew."""
    once = after(CANCEL, FORCED)
    assert stop_of(once) == stop_of(after(CANCEL, FORCED, FORCED))


# --- the handler's end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("knew", [False, True])
def test_a_handlers_end_is_the_sessions_while_nothing_else_ends_it(knew: bool) -> None:
    """Returned: completed. Raised: failed. Continued: a next generation. Whatever it believed to know."""
    returned, raised, continued = (replace(verdict, knew_of_stop=knew) for verdict in VERDICTS)
    assert (e.SessionCompleted("r"),) == decide(after(), returned, NOON)
    assert (e.SessionFailed(ERROR),) == decide(after(), raised, NOON)
    assert (e.SessionContinued("next", "s:g2"),) == decide(after(), continued, NOON)


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: type(verdict).__name__)
@pytest.mark.parametrize("forced", [(), (FORCED,)])
def test_a_session_that_is_to_end_ends_when_its_handler_has_ended_knowing_of_it(
    verdict: Verdict, forced: tuple[e.Event, ...]
) -> None:
    """Cancelled, or failed at its time limit, however the handler ended; one that did not know runs once more."""
    knowing = replace(verdict, knew_of_stop=True)
    for stop in (CANCEL, TIME_LIMIT):
        assert NOTHING == decide(after(stop, *forced), verdict, NOON)
    assert (e.SessionCancelled("no more"),) == decide(after(CANCEL, *forced), knowing, NOON)
    (end,) = decide(after(TIME_LIMIT, *forced), knowing, NOON)
    assert isinstance(end, e.SessionFailed)
    assert ("SESSION_TIMED_OUT", "too long") == (end.error.code, end.error.message)


@pytest.mark.parametrize("stop", [(), (CANCEL,), (TIME_LIMIT,), (CANCEL, FORCED)])
def test_a_crash_loop_ends_a_session_whatever_else_was_to_end_it(stop: tuple[e.Event, ...]) -> None:
    """It would take down node after node while it cleans up."""
    (end,) = decide(after(*stop), m.CrashLoopDetected(6), NOON)
    assert isinstance(end, e.SessionFailed)
    assert "CRASH_LOOP" == end.error.code


# --- continuing as a new one -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("session_id", "following", "first"),
    [
        ("s", "s:g2", "s"),
        ("s:g2", "s:g3", "s"),
        ("s:g9", "s:g10", "s"),
        ("s:g99", "s:g100", "s"),
        ("a:b", "a:b:g2", "a:b"),
        ("a:gb", "a:gb:g2", "a:gb"),
        ("g2", "g2:g2", "g2"),
        ("x" * 110, "x" * 110 + ":g2", "x" * 110),
    ],
)
def test_generations_are_numbered_under_the_first_id(session_id: str, following: str, first: str) -> None:
    """`<id>:g2`, `<id>:g3`: never a suffix on a suffix."""
    assert (following, first) == (next_generation(session_id), first_generation(session_id))
    assert first == first_generation(following)
    assert session_id == previous_generation(following)
    (end,) = decide(after(session_id=session_id), m.HandlerContinued(None), NOON)
    assert e.SessionContinued(None, following) == end


# --- a journal that grows too long -------------------------------------------------------------------------------


def long(last_seq: int, *events: e.Event) -> SessionState:
    """Return the state of a journal of that length; what stands in it between does not matter."""
    return replace(after(*events), last_seq=last_seq)


@pytest.mark.parametrize(
    ("last_seq", "is_over"),
    [(LONGEST - 2, False), (LONGEST - 1, True), (LONGEST, True), (LONGEST + 7, True)],
)
@pytest.mark.parametrize(
    "message",
    [
        m.StepSucceeded("b", 1, "r"),
        m.AgentSucceeded("a", 1, "r"),
        m.TimerRequested("b", 1.0, knew_of_stop=True),
        m.SignalSent("m1", "go", 1),
        m.CancelAsked("c1", "no more"),
        m.ProgressMade("p", "half"),
        m.PatchReached("change-1"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_journal_ends_with_a_clear_error_before_it_is_too_long(
    message: m.Message, last_seq: int, is_over: bool
) -> None:
    """The last event that fits is the end, and says what the handler should have done."""
    (event,) = decide(long(last_seq, *AGENT_PHASES["started"], TOO_LONG), message, NOON)
    assert is_over == isinstance(event, e.SessionFailed)
    if isinstance(event, e.SessionFailed):
        assert "JOURNAL_TOO_LONG" == event.error.code
        assert "continue_as_new" in event.error.message


@pytest.mark.parametrize("message", [m.StepSucceeded("b", 1, "r"), m.SignalSent("m1", "go", 1)])
def test_a_handler_is_stopped_while_its_journal_has_room_for_the_clean_up(message: m.Message) -> None:
    """What the message says is recorded, and behind it that the session is to end; once, and it fails for that."""
    stopped_at = EVENTS_MAX - 1
    (alone,) = decide(long(stopped_at - 1), message, NOON)
    assert not isinstance(alone, e.CancelRequested)
    for last_seq in (stopped_at, stopped_at + 1, LONGEST - 3):
        event, stop = decide(long(last_seq), message, NOON)
        assert isinstance(stop, e.CancelRequested)
        assert (alone, "journal") == (event, stop.cause)
        assert "continue_as_new" in stop.reason
    assert (alone,) == decide(long(stopped_at, CANCEL), message, NOON)
    cancel = m.CancelAsked("c1", "no more")
    assert (CANCEL,) == decide(long(stopped_at), cancel, NOON)
    (end,) = decide(long(stopped_at + 2, TOO_LONG), m.HandlerRaised(ERROR, knew_of_stop=True), NOON)
    assert isinstance(end, e.SessionFailed)
    assert ("JOURNAL_TOO_LONG", "too long") == (end.error.code, end.error.message)


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: type(verdict).__name__)
def test_an_end_that_still_fits_is_the_end(verdict: Verdict) -> None:
    """A handler that returns with its last event has done nothing wrong."""
    assert decide(after(), verdict, NOON) == decide(long(LONGEST - 1), verdict, NOON)
    knowing = replace(verdict, knew_of_stop=True)
    assert (e.SessionCancelled("no more"),) == decide(long(LONGEST - 1, CANCEL), knowing, NOON)


def test_what_decides_nothing_ends_no_long_journal_either() -> None:
    """A late repetition is no reason to fail."""
    for last_seq in (LONGEST - 1, LONGEST, LONGEST + 7):
        assert NOTHING == decide(long(last_seq), m.TimerDue("a"), NOON)


@pytest.mark.parametrize(
    "request_",
    [
        m.StepStarting("b", 1),
        m.AgentRequested("b", "researcher", "tea"),
        m.TimerRequested("b", 1.0),
        m.CallbackRequested("b", "cb-1"),
        m.ApprovalAsked("b", "ap-1", None),
        m.SignalAwaited("b", "go", 1.0),
        m.ChildRequested("b", "child", "child-1", None),
    ],
    ids=lambda request: type(request).__name__,
)
def test_a_stopped_session_begins_what_was_asked_for_knowing_of_the_stop_and_nothing_else(request_: m.Request) -> None:
    """What was still on its way when the stop was recorded comes too late; what a clean-up asks for is begun."""
    state = after(e.CancelRequested("no more", message_id="c1"))
    assert NOTHING == decide(state, request_, NOON)
    (begun,) = decide(state, replace(request_, knew_of_stop=True), NOON)
    assert (begun,) == decide(after(), request_, NOON)
