"""`owed` and `notices`: what the world must be doing for a session, when time asks for it, what its end tells."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from session_history import (
    APPROVAL,
    CALLBACK,
    CANCEL,
    CHILD,
    ENDS,
    ERROR,
    FORCED,
    HISTORIES,
    LATER,
    NOON,
    ORDERED,
    PHASES,
    SIGNAL,
    SIGNAL_WAIT,
    STARTED,
    TAKEN,
    TIME_LIMIT,
    TIMER,
    after,
)

from orchestrator.cluster.head_items import outbox_text
from orchestrator.scopes import NAME_LENGTH_MAX
from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.decide import EVENTS_MAX
from orchestrator.session.ending import GRACE, LAST_GRACE
from orchestrator.session.mail import CARRIED_SIGNALS_BYTES_MAX, mail_to_carry
from orchestrator.session.notices import CountUsage, EndChild, StartNext, TellParent, end_of_child, notices
from orchestrator.session.owed import (
    CANCELLING,
    CLOSING,
    GRACE_KEY,
    HANDLER_KEY,
    LAST_GRACE_KEY,
    PUBLISHING,
    RUN_HANDLER,
    STARTING,
    TIME_LIMIT_KEY,
    CancelChild,
    CloseCallback,
    Effect,
    EffectKey,
    Publish,
    Ring,
    RunAgent,
    StartChild,
    next_instant,
    owed,
)
from orchestrator.session.spending import SPENT, carried_from
from orchestrator.session.state import SessionState, evolve
from orchestrator.session.values import ErrorRecord

ITEM_BYTES_MAX = 400 * 1024
"""DynamoDB, "Item size"."""
BESIDE_BYTES = 16 * 1024
"""HEAD's other attributes."""
LIMITED = replace(STARTED, time_limit=3_600.0)
CHILD_OF = replace(STARTED, parent="p", parent_operation="child#2")
SECOND = NOON + timedelta(seconds=1)
"""When the event behind the start was written."""

WAITING: dict[str, tuple[e.Event, dict[EffectKey, Effect]]] = {
    "agent": (ORDERED, {("a", 1): RunAgent("a", 1, ORDERED, SECOND, None)}),
    "timer": (TIMER, {("a", CLOSING): Ring(LATER, m.TimerDue("a"))}),
    "signal": (SIGNAL_WAIT, {("a", CLOSING): Ring(LATER, m.TimerDue("a"))}),
    "callback": (CALLBACK, {("a", CLOSING): CloseCallback("a", "cb-1", LATER)}),
    "callback without a limit": (e.CallbackCreated("a", "cb-1"), {}),
    "approval": (
        APPROVAL,
        {("a", CLOSING): CloseCallback("a", "ap-1", LATER), ("a", PUBLISHING): Publish("a", APPROVAL)},
    ),
    "approval without a limit": (
        replace(APPROVAL, times_out_at=None),
        {("a", PUBLISHING): Publish("a", replace(APPROVAL, times_out_at=None))},
    ),
    "child": (CHILD, {("a", STARTING): StartChild("a", CHILD)}),
}
"""What each operation that was ordered owes, beside the handler."""


def owed_beside_handler(state: SessionState) -> dict[EffectKey, Effect]:
    """Return what is owed but for the handler, which always is."""
    effects = dict(owed(state))
    assert RUN_HANDLER == effects.pop(HANDLER_KEY)
    return effects


@pytest.mark.parametrize("waiting", WAITING)
def test_what_was_ordered_is_owed_until_it_is_settled(waiting: str) -> None:
    """Each kind its own effects, under keys that stay the same."""
    order, effects = WAITING[waiting]
    assert effects == owed_beside_handler(after(order))
    # Time and other events change nothing of it.
    assert effects == owed_beside_handler(after(order, SIGNAL, e.SessionResumed(), e.StepCompleted("b", 1, 1)))


@pytest.mark.parametrize(
    "events",
    [events for phases in PHASES.values() for phase, events in phases.items() if phase not in {"started", "retrying"}],
)
def test_what_is_settled_owes_nothing(events: tuple[e.Event, ...]) -> None:
    """Nor does what was never ordered."""
    assert {} == owed_beside_handler(after(*events))


@pytest.mark.parametrize("end", ENDS)
def test_an_ended_session_owes_nothing_whatever_was_under_way(end: e.Event) -> None:
    """Neither alarms nor children: what an end owes is told by its outbox."""
    for events in HISTORIES:
        assert {} == owed(after(*events, end, started=LIMITED)), events


@pytest.mark.parametrize("waiting", [waiting for waiting in WAITING if waiting != "child"])
@pytest.mark.parametrize("stop", [(CANCEL,), (TIME_LIMIT,), (CANCEL, FORCED)])
def test_a_stop_takes_away_what_was_under_way(waiting: str, stop: tuple[e.Event, ...]) -> None:
    """Agents are cancelled, nobody waits for timers and answers; only the handler is left, and its grace."""
    order, _ = WAITING[waiting]
    assert {GRACE_KEY, LAST_GRACE_KEY} >= owed_beside_handler(after(order, *stop)).keys()


@pytest.mark.parametrize("stop", [(CANCEL,), (CANCEL, FORCED)])
def test_a_stop_reaches_the_children_that_are_under_way(stop: tuple[e.Event, ...]) -> None:
    """With its reason, until they have ended."""
    effects = owed_beside_handler(after(CHILD, *stop))
    effect = effects.pop(("a", CANCELLING))
    assert isinstance(effect, CancelChild)
    assert "child-1" == effect.order.child_id
    assert {GRACE_KEY, LAST_GRACE_KEY} >= effects.keys()
    ended = after(CHILD, *stop, e.ChildFailed("a", ERROR))
    assert {GRACE_KEY, LAST_GRACE_KEY} >= owed_beside_handler(ended).keys()


@pytest.mark.parametrize("waiting", WAITING)
@pytest.mark.parametrize("before", [(CANCEL,), (TIME_LIMIT,), (CANCEL, FORCED)])
def test_what_a_handler_orders_while_it_cleans_up_is_owed(before: tuple[e.Event, ...], waiting: str) -> None:
    """A stop interrupts what was there before it, and nothing else; an agent's later attempt is part of its order."""
    order, effects = WAITING[waiting]
    behind = owed_beside_handler(after(*before, order))
    for key in (GRACE_KEY, LAST_GRACE_KEY):
        behind.pop(key, None)
    assert effects.keys() == behind.keys()
    assert [type(effect) for effect in effects.values()] == [type(effect) for effect in behind.values()]


def test_an_agent_that_retries_is_interrupted_too() -> None:
    """It was ordered before the stop, whichever attempt is due after it."""
    assert [("", 3)] == list(owed_beside_handler(after(*PHASES["agent"]["retrying"], CANCEL)))


def test_the_alarms_of_the_whole_session_ring_one_after_the_other() -> None:
    """Its time limit; once it is to end, the handler's grace; once that is over, the last one. Each alone."""
    assert {} == owed_beside_handler(after())
    limit = {TIME_LIMIT_KEY: Ring(NOON + timedelta(hours=1), m.TimeLimitReached())}
    assert limit == owed_beside_handler(after(started=LIMITED))
    grace = {GRACE_KEY: Ring(SECOND + GRACE, m.GraceOver())}
    for stop in (CANCEL, TIME_LIMIT):
        assert grace == owed_beside_handler(after(stop, started=LIMITED))
    second = e.CancelRequested("now!", message_id="c2")
    assert grace == owed_beside_handler(after(CANCEL, second))
    last = {LAST_GRACE_KEY: Ring(NOON + timedelta(seconds=2) + LAST_GRACE, m.GraceOver())}
    assert last == owed_beside_handler(after(CANCEL, FORCED))
    assert last == owed_beside_handler(after(CANCEL, FORCED, second))


def test_a_time_limit_falls_due_on_a_whole_millisecond() -> None:
    """An actor's clock knows no finer instant."""
    (ring,) = owed_beside_handler(after(started=replace(STARTED, time_limit=0.0004))).values()
    assert Ring(NOON + timedelta(milliseconds=1), m.TimeLimitReached()) == ring


SOONER = LATER - timedelta(minutes=1)


@pytest.mark.parametrize(
    ("events", "started", "instant"),
    [
        ((), STARTED, None),
        ((), LIMITED, NOON + timedelta(hours=1)),
        ((TIMER,), STARTED, LATER),
        ((TIMER, e.TimerFired("a")), LIMITED, NOON + timedelta(hours=1)),
        ((TIMER, e.TimerStarted("b", SOONER, signal="go")), LIMITED, SOONER),
        ((TIMER, e.CallbackCreated("b", "cb", SOONER)), LIMITED, SOONER),
        ((e.CallbackCreated("b", "cb"),), STARTED, None),
        ((TIMER, replace(APPROVAL, operation="b")), STARTED, LATER),
        ((CHILD, replace(ORDERED, operation="b")), STARTED, None),
        ((TIMER, CANCEL), LIMITED, NOON + timedelta(seconds=2) + GRACE),
    ],
)
def test_a_session_is_woken_when_time_first_asks_something_of_it(
    events: tuple[e.Event, ...], started: e.SessionStarted, instant: datetime | None
) -> None:
    """The earliest of its timers, limits and graces; never for what comes from outside."""
    assert instant == next_instant(owed(after(*events, started=started)))


# --- what an end tells -------------------------------------------------------------------------------------------


def test_nothing_is_told_before_the_end() -> None:
    """Whatever is under way, whatever is to come."""
    for events in HISTORIES:
        assert () == notices(after(*events, started=CHILD_OF)), events


@pytest.mark.parametrize("end", [end for end in ENDS if not isinstance(end, e.SessionContinued)])
def test_an_end_that_nobody_waits_for_is_told_to_nobody(end: e.Event) -> None:
    """There is no parent, and no open child. What agents spent is counted."""
    for events in HISTORIES:
        state = after(*events, end)
        if after(*events).open_operations.get("a") is None or CHILD not in events:
            spending = (CountUsage(state),) if ORDERED in events else ()
            assert spending == notices(state), events


@pytest.mark.parametrize(
    ("end", "result", "error"),
    [
        (e.SessionCompleted({"n": 1}), {"n": 1}, None),
        (e.SessionFailed(ERROR), None, ERROR),
        (
            e.SessionCancelled("no more"),
            None,
            ErrorRecord("SessionCancelled", "SESSION_CANCELLED", "no more"),
        ),
    ],
)
@pytest.mark.parametrize("session_id", ["child-1", "child-1:g2", "child-1:g17"])
def test_a_parent_is_told_how_its_child_ended(
    session_id: str, end: e.Event, result: object, error: ErrorRecord | None
) -> None:
    """Under the id that it knows, whichever generation ended, and under a message id that never changes."""
    (notice,) = notices(after(end, started=CHILD_OF, session_id=session_id))
    assert isinstance(notice, TellParent)
    assert ("p", "parent") == (notice.parent, notice.notice_id)
    assert m.ChildEnded(f"child:{session_id}", "child#2", "child-1", result, error) == notice.message  # type: ignore[arg-type]


def test_a_child_is_ended_by_the_same_message_at_the_stop_of_its_parent_and_at_its_end() -> None:
    """Told twice, by an errand that may be cut off and by the outbox: another text would be a conflict."""
    story = (e.ChildStarted("k", "child", "child-0", None), e.CancelRequested("no more"))
    stopped = after(*story)
    (notice,) = notices(after(*story, e.SessionCancelled("no more")))
    assert isinstance(notice, EndChild)
    assert m.CancelAsked("parent:s", "no more") == end_of_child(stopped) == notice.message


@pytest.mark.parametrize("end", ENDS)
def test_an_end_ends_the_children_that_nobody_waits_for_any_more(end: e.Event) -> None:
    """Those still open, each by a message of its own place in the outbox; those that ended are left in peace."""
    children = [e.ChildStarted(f"k{n}", "child", f"child-{n}", None) for n in range(3)]
    told = notices(after(*children, TIMER, e.ChildCompleted("k1", None), end, started=CHILD_OF))
    ended = [notice for notice in told if isinstance(notice, EndChild)]
    assert {"child-0": "child:2", "child-2": "child:4"} == {n.order.child_id: n.notice_id for n in ended}
    assert {m.CancelAsked("parent:s", "its parent session ended")} == {notice.message for notice in ended}
    others = [notice for notice in told if not isinstance(notice, EndChild)]
    assert [StartNext if isinstance(end, e.SessionContinued) else TellParent] == [type(notice) for notice in others]
    assert len(told) == len({notice.notice_id for notice in told})


def test_what_an_end_has_to_tell_fits_into_head_however_many_children_are_open() -> None:
    """As many as a journal can hold, under names as long as they may be (I12)."""
    state = after()
    for seq in range(state.last_seq + 1, EVENTS_MAX):
        order = e.ChildStarted(f"{'n' * (NAME_LENGTH_MAX - 6)}#{seq}", "child", f"child-{seq}", None)
        state = evolve(state, e.Recorded(seq, order, NOON, 1, "n", f"e{seq}"))
    end = e.Recorded(EVENTS_MAX, e.SessionCancelled("no more"), NOON, 1, "n", "end")
    outbox = outbox_text(tuple(notice.notice_id for notice in notices(evolve(state, end), has_slot=True)))
    assert outbox is not None
    assert len(outbox) <= ITEM_BYTES_MAX - BESIDE_BYTES


def test_a_session_that_continues_leaves_all_that_its_next_generation_needs() -> None:
    """Who waits for it, its limits, its token, mail and spending; and the new input. Its parent is told nothing yet."""
    started = replace(
        CHILD_OF,
        trace="00-1",
        task_token="t",
        time_limit=60.0,
        patches=["old"],
        carried={"known": {"m0": "0"}},
        budget={"tokens": 100},
    )
    events = (SIGNAL, e.SignalReceived("go", "m2", 2), TAKEN, e.SessionContinued({"page": 2}, "s:g2"))
    state = after(*events, started=started)
    (notice,) = notices(state)
    assert isinstance(notice, StartNext)
    assert ("s", "s:g2", "next") == (notice.previous, notice.session_id, notice.notice_id)
    carried, left = mail_to_carry(state.mail)
    assert carried is not None
    carried |= {SPENT: carried_from(state.spent, state.usage)}
    assert replace(started, input={"page": 2}, carried=carried) == notice.started
    assert () == left == notice.signals


def test_signals_that_do_not_fit_beside_the_input_are_told_to_the_next_generation() -> None:
    """After its start, in order; it has not heard of them before, so it takes them."""
    came = [e.SignalReceived("go", f"m{n}", "x" * (CARRIED_SIGNALS_BYTES_MAX // 4)) for n in range(5)]
    (notice,) = notices(after(*came, e.SessionContinued(None, "s:g2")))
    assert isinstance(notice, StartNext)
    assert tuple(came[3:]) == notice.signals
    following = after(*notice.signals, started=notice.started, session_id="s:g2")
    assert after(*came).mail.waiting == following.mail.waiting


def test_a_next_generation_begins_with_the_mail_of_the_one_before() -> None:
    """Signals that nobody took, in order; every message id that was known, of those that came before as well."""
    events = (
        SIGNAL,
        e.SignalReceived("stop", "m2", 2),
        e.SignalReceived("go", "m3", 3),
        TAKEN,
        e.SignalReceived("go", "m4", 4),
        e.CancelRequested("late", message_id="c1"),
    )
    state = after(*events)
    (notice,) = notices(after(*events, e.SessionContinued(None, "s:g2")))
    assert isinstance(notice, StartNext)
    following = after(started=notice.started, session_id="s:g2")
    assert state.mail.waiting == following.mail.waiting
    for known in (m.SignalSent("m1", "go", 1), m.SignalSent("m3", "go", 3), m.CancelAsked("c1", "late")):
        assert following.mail.is_known(known)
        assert not following.mail.contradicts(known)
    assert following.mail.contradicts(m.SignalSent("m1", "go", 2))
    assert following.stop is None
    (third,) = notices(after(e.SessionContinued(None, "s:g3"), started=notice.started, session_id="s:g2"))
    assert isinstance(third, StartNext)
    assert ("s:g3", notice.started.carried) == (third.session_id, third.started.carried)
