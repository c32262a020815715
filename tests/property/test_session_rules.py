"""Laws of the pure rules, for any messages in any order: late, repeated, wrong, of another attempt or kind."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeAlias

from any_messages import (
    NOON,
    agent_messages,
    alarms,
    delivered,
    dismissals,
    draws,
    ends,
    errors,
    instants,
    json_values,
    message_ids,
    messages,
    names,
    progress_messages,
    requests,
    retries,
    starts,
    step_messages,
    waiting_messages,
)
from any_values import FACTOR, examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.journal.codec import decode, encode, operation_of, type_name
from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.decide import CLEAN_UP_EVENTS, EVENTS_MAX, decide, start
from orchestrator.session.notices import EndChild, StartNext, notices
from orchestrator.session.owed import Ring, next_instant, owed, owed_for
from orchestrator.session.spending import is_of_session
from orchestrator.session.state import Operation, SessionState, begin, evolve, replay
from orchestrator.session.transitions import OperationKind, SessionStatus
from orchestrator.session.values import RetrySpec, truncate_to_millis

TERMINAL = (e.SessionCompleted, e.SessionFailed, e.SessionCancelled, e.SessionContinued)
MISSED_MAX = 8
"""Kinds, of some thirty, that so few examples may miss by chance; ten times as many miss none. It is chance even from
one seed, for hypothesis draws constants from whatever modules are loaded."""
STOPS = (m.CancelAsked, m.KillAsked, m.TimeLimitReached, m.GraceOver)
STARTED = start("main", "acme", None, trace=None, task_token=None)
Journal: TypeAlias = list[e.Recorded]


def outcomes(operation: Operation) -> st.SearchStrategy[m.Message]:
    """Return the outcomes that fit such an operation, its attempt and its ids."""
    name, attempt, order = st.just(operation.operation_id), st.just(operation.attempt), operation.order
    match operation.kind:
        case OperationKind.STEP:
            return st.builds(m.StepSucceeded, name, attempt, json_values) | st.builds(
                m.StepAttemptFailed, name, attempt, errors, retries, st.booleans(), draws
            )
        case OperationKind.AGENT:
            return st.builds(m.AgentSucceeded, name, attempt, json_values) | st.builds(
                m.AgentAttemptFailed, name, attempt, errors, st.booleans(), draws
            )
    match order:
        case e.CallbackCreated(callback_id=promised) | e.ApprovalRequested(callback_id=promised):
            late = st.sampled_from([False, False, True])
            return st.builds(m.CallbackAnswered, st.just(promised), name, json_values, st.none() | errors, late)
        case e.ChildStarted(child_id=child):
            return st.builds(m.ChildEnded, message_ids, name, st.just(child), json_values, st.none() | errors)
    return st.builds(m.TimerDue, name)


class Session(RuleBasedStateMachine):
    """One session that is told anything, by owners that come and go."""

    @initialize(first=starts, may_end_from=st.sampled_from([0, 5, 10, 20, 30]))
    def accept(self, first: e.SessionStarted, may_end_from: int) -> None:
        """Begin with event 1."""
        self.may_end_from = may_end_from
        self.journal: Journal = []
        self.settled: dict[str, Operation] = {}
        self.kinds: dict[str, OperationKind] = {}
        self.epoch = 1
        self.now = NOON
        self.session_id = "s"
        self.record(first)
        self.state = begin("s", self.journal[0])

    def record(self, event: e.Event) -> e.Recorded:
        """Write the event as a journal does, and read it back."""
        written = decode(type_name(event), operation_of(event), encode(event))
        recorded = e.Recorded(len(self.journal) + 1, written, self.now, self.epoch, "n", f"e{len(self.journal)}")
        self.journal.append(recorded)
        return recorded

    def tell(self, message: m.Message) -> None:
        """Decide and evolve; not about a stop while the session is to live on, or most would be over at once."""
        if self.lives_on() and isinstance(message, STOPS):
            return
        had_ended = self.state.has_ended
        before = self.state
        decided = decide(self.state, message, self.now)
        assert before is self.state
        assert not (had_ended and decided), "nothing follows the end (I2)"
        for event in decided:
            self.state = evolve(self.state, self.record(event))

    @rule(message=step_messages | agent_messages | waiting_messages)
    def work(self, message: m.Message) -> None:
        """Hear of an operation."""
        self.tell(message)

    @rule(message=requests)
    def ask_for_more(self, message: m.Message) -> None:
        """Hear of an operation of a name that few have: most of the others are settled before long."""
        self.tell(message)

    @precondition(lambda self: self.state.open_operations or self.open_steps())
    @rule(which=st.integers(0, 9), data=st.data())
    def hear_how_it_went(self, which: int, data: st.DataObject) -> None:
        """Hear of something that is open what it waits for: drawn blindly, that would hardly ever be met."""
        found = [*sorted(self.state.open_operations.values(), key=lambda op: op.started_seq), *self.open_steps()]
        operation = found[which % len(found)]
        self.tell(data.draw(outcomes(operation)))

    def open_steps(self) -> list[Operation]:
        """Return the steps that were begun and are not settled."""
        unsettled = (op for op in self.state.operations.values() if op.kind is OperationKind.STEP and not op.is_settled)
        return sorted(unsettled, key=lambda op: op.started_seq)

    @rule(message=delivered)
    def receive(self, message: m.Delivered) -> None:
        """Hear from outside."""
        self.tell(message)

    @rule(
        signals=st.lists(st.builds(m.SignalSent, message_ids, names, json_values), max_size=4), wait=st.integers(1, 9)
    )
    def take_signals(self, signals: list[m.SignalSent], wait: int) -> None:
        """Hear some signals, and wait for one."""
        for signal in signals:
            self.tell(signal)
        self.tell(m.SignalAwaited(f"w{wait}", "go"))

    @rule(message=step_messages | agent_messages | waiting_messages | delivered | alarms)
    def hear_twice(self, message: m.Message) -> None:
        """Hear the same thing twice: the second time changes nothing, but for a start that is then in doubt.

        And for a wait that sets its timer, and finds what came meanwhile when it asks again.
        """
        self.tell(message)
        length = len(self.journal)
        self.tell(message)
        if not isinstance(message, m.StepStarting | m.CallStarting):
            assert length == len(self.journal)

    @rule(which=st.integers(0, 9), millis=st.integers(-1_000, 1_000))
    def ring(self, which: int, millis: int) -> None:
        """Let an alarm that is owed ring, about when it is due: never before it does anything change."""
        alarms_owed = [effect for effect in owed(self.state).values() if isinstance(effect, Ring)]
        if self.lives_on():
            alarms_owed = [alarm for alarm in alarms_owed if isinstance(alarm.message, m.TimerDue)]
        if not alarms_owed:
            return
        alarm = alarms_owed[which % len(alarms_owed)]
        length, self.now = len(self.journal), max(NOON, alarm.at + timedelta(milliseconds=millis))
        self.tell(alarm.message)
        assert (len(self.journal) > length) == (self.now >= alarm.at)

    @rule(message=progress_messages)
    def report(self, message: m.Message) -> None:
        """Hear of progress."""
        self.tell(message)

    @precondition(lambda self: not self.lives_on())
    @rule(message=ends)
    def end(self, message: m.Message) -> None:
        """Hear of an end: not of one at once, or most sessions would be over before anything happened to them."""
        self.tell(message)

    @precondition(lambda self: self.may_end_from == 0 and self.never_ran())
    @rule(message=dismissals)
    def dismiss(self, message: m.Message) -> None:
        """Hear that it was cancelled while it waited for a slot: it ends at once, by two events."""
        length = len(self.journal)
        self.tell(message)
        assert [e.CancelRequested, e.SessionCancelled] == [type(each.event) for each in self.journal[length:]]

    def lives_on(self) -> bool:
        """Return whether its story is too short yet for a stop or an end."""
        return len(self.journal) <= self.may_end_from

    def never_ran(self) -> bool:
        """Return whether it may still wait for a slot: nothing was recorded yet, and no generation was before it."""
        is_first = self.session_id == "s"
        return is_first and all(isinstance(each.event, e.SessionStarted | e.SessionResumed) for each in self.journal)

    @rule(seconds=st.integers(0, 10**6))
    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: not self.lives_on())
    @rule()
    def continue_as_new(self) -> None:
        """Go on in the journal of the next generation, with the mail of this one."""
        self.tell(m.HandlerContinued({"page": 2}))
        if self.state.status is not SessionStatus.CONTINUED:
            return
        before, (notice,) = self.state.mail, [each for each in notices(self.state) if isinstance(each, StartNext)]
        assert notice.session_id == self.state.continued_as
        self.session_id, self.journal, self.settled, self.kinds = notice.session_id, [], {}, {}
        self.record(notice.started)
        self.state = begin(self.session_id, self.journal[0])
        assert (before.waiting, set(before.known)) == (self.state.mail.waiting, set(self.state.mail.known))

    @rule()
    def take_over(self) -> None:
        """Read the journal in another epoch, as a claimer does."""
        self.epoch += 1
        state = replay(self.session_id, self.journal)
        assert state == self.state
        assert state is not None
        self.state = state
        if not state.has_ended:
            self.state = evolve(state, self.record(e.SessionResumed()))

    @invariant()
    def the_fold_of_the_journal_is_the_state(self) -> None:
        """Step by step or all at once."""
        assert replay(self.session_id, self.journal) == self.state

    @invariant()
    def there_is_one_terminal_event_at_most_and_it_is_the_last(self) -> None:
        """I2."""
        positions = [each.seq for each in self.journal if isinstance(each.event, TERMINAL)]
        assert positions == ([len(self.journal)] if self.state.has_ended else [])

    @invariant()
    def an_outcome_is_for_ever(self) -> None:
        """An operation once settled never changes (I5), and none ever changes its kind."""
        for operation_id, operation in self.settled.items():
            assert operation == self.state.operations[operation_id]
        for operation in self.state.operations.values():
            assert self.kinds.setdefault(operation.operation_id, operation.kind) is operation.kind
        self.settled = {known.operation_id: known for known in self.state.operations.values() if known.is_settled}

    @invariant()
    def a_message_is_journaled_once(self) -> None:
        """By its id, in this journal and in those before it (I9); and each signal is taken once, in order."""
        ids = [*carried_ids(self.journal), *(i for each in self.journal for i in ids_in(each.event))]
        assert len(ids) == len(set(ids))
        assert set(ids) == set(self.state.mail.known)
        for name in ("go", "stop"):
            came = carried_signals(self.journal, name)
            came += [
                each.event.message_id
                for each in self.journal
                if isinstance(each.event, e.SignalReceived) and each.event.name == name
            ]
            taken = [taken_by(each.event) for each in self.journal if isinstance(each.event, e.ValueRecorded)]
            of_name = [message_id for signal, message_id in taken if signal == name]
            assert came[: len(of_name)] == of_name
            assert came[len(of_name) :] == [signal.message_id for signal in self.state.mail.waiting.get(name) or ()]

    @invariant()
    def what_falls_due_never_did_before_it_was_asked_for(self) -> None:
        """And does so on a whole millisecond, which is all that a journal keeps."""
        for effect in owed(self.state).values():
            for instant in (getattr(effect, "at", None), getattr(effect, "not_before", None)):
                if instant is not None:
                    assert NOON <= instant == truncate_to_millis(instant)
        due = next_instant(owed(self.state))
        assert due is None or due in {getattr(effect, "at", None) for effect in owed(self.state).values()}

    @invariant()
    def what_is_owed_is_the_handler_the_alarms_and_the_open_operations(self) -> None:
        """And nothing after the end; of what a stop interrupted, only the ends of children."""
        assert owed_by_the_journal(self.state, self.journal) == {key[0] for key in owed(self.state)}

    @invariant()
    def what_is_owed_for_each_operation_makes_up_what_is_owed(self) -> None:
        """So that a shell which looks at what has changed alone does the same as one that looks at everything."""
        parts = [owed_for(operation_id, self.state) for operation_id in self.state.operations]
        together = {key: effect for part in parts for key, effect in part.items()}
        assert together == {key: effect for key, effect in owed(self.state).items() if key[0]}

    @invariant()
    def an_end_is_told_to_the_parent_and_to_open_children(self) -> None:
        """Each under an id of its own, and nothing before the end."""
        told = notices(self.state)
        assert self.state.has_ended or not told
        assert len(told) == len({notice.notice_id for notice in told})
        if self.state.has_ended:
            children = {op.started_seq for op in self.state.open_operations.values() if op.kind is OperationKind.CHILD}
            assert children == {notice.seq for notice in told if isinstance(notice, EndChild)}

    @invariant()
    def sums_and_counts_are_those_of_the_journal(self) -> None:
        """Resumptions, and those in a row at the end without any other event."""
        kinds = [type(each.event) for each in self.journal]
        assert kinds.count(e.SessionResumed) == self.state.resumes
        in_a_row = len(kinds)
        while in_a_row and kinds[in_a_row - 1] is e.SessionResumed:
            in_a_row -= 1
        assert len(kinds) - in_a_row == self.state.fruitless_resumes


OPENING = (e.AgentStarted, e.TimerStarted, e.CallbackCreated, e.ApprovalRequested, e.ChildStarted)
SETTLING = (
    *(e.AgentCompleted, e.AgentFailed, e.TimerFired, e.ValueRecorded, e.CallbackCompleted, e.CallbackFailed),
    *(e.CallbackTimedOut, e.ChildCompleted, e.ChildFailed),
)


def owed_by_the_journal(state: SessionState, journal: Journal) -> set[str]:
    """Return the operations that owe something, found the long way: ordered, not settled, not interrupted by a stop.

    `""` stands for the session as a whole.
    """
    if state.has_ended:
        return set()
    open_orders: dict[str, e.Event] = {}
    for each in journal:
        if isinstance(each.event, OPENING):
            open_orders[each.event.operation] = each.event
        elif isinstance(each.event, SETTLING):
            open_orders.pop(each.event.operation, None)
        elif isinstance(each.event, e.CancelRequested) and each.event == first_stop(journal):
            open_orders = {name: order for name, order in open_orders.items() if isinstance(order, e.ChildStarted)}
    silent = {
        name
        for name, order in open_orders.items()
        if isinstance(order, e.CallbackCreated) and order.times_out_at is None
    }
    return {"", *open_orders} - silent - waiting_for_a_grant(journal, open_orders)


def waiting_for_a_grant(journal: Journal, open_orders: Mapping[str, e.Event]) -> set[str]:
    """Return the agent runs that begin, or begin anew, only once people have said whether the session may go on."""
    asked = next((each for each in journal if each.event in open_orders.values() and is_asking(each.event)), None)
    if asked is None or first_stop(journal) is not None:
        return set()
    taken_over = max((each.seq for each in journal if isinstance(each.event, e.SessionResumed)), default=0)
    waiting = set()
    for name, order in open_orders.items():
        latest = [each for each in journal if getattr(each.event, "operation", None) == name][-1]
        retried = latest.event.next_attempt_at if isinstance(latest.event, e.AgentRetrying) else asked.at
        lost_its_node = asked.seq < taken_over and latest.seq < taken_over
        if isinstance(order, e.AgentStarted) and (lost_its_node or retried > asked.at):
            waiting.add(name)
    return waiting


def is_asking(event: e.Event) -> bool:
    """Return whether people are asked by the session itself, and not by its handler."""
    return isinstance(event, e.ApprovalRequested) and is_of_session(event.operation)


def first_stop(journal: Journal) -> e.Event | None:
    """Return the first request to end; another one is only noted."""
    return next((each.event for each in journal if isinstance(each.event, e.CancelRequested)), None)


def ids_in(event: e.Event) -> list[str]:
    """Return the id of the message that an event records."""
    message_id = (
        event.message_id
        if isinstance(event, e.SignalReceived | e.CancelRequested | e.PauseRequested | e.ResumeRequested)
        else None
    )
    return [] if message_id is None else [message_id]


def carried_ids(journal: Journal) -> list[str]:
    """Return the message ids that the generation before knew."""
    first = journal[0].event
    known = first.carried.get("known") if isinstance(first, e.SessionStarted) and first.carried else None
    return list(known) if isinstance(known, dict) else []


def carried_signals(journal: Journal, name: str) -> list[str]:
    """Return the message ids of the signals that the generation before did not take."""
    first = journal[0].event
    signals = first.carried.get("signals") if isinstance(first, e.SessionStarted) and first.carried else None
    found = [each for each in signals if isinstance(each, dict)] if isinstance(signals, list) else []
    return [str(each["message_id"]) for each in found if each["name"] == name]


def taken_by(event: e.ValueRecorded) -> tuple[str, str]:
    """Return the name and the message id of the signal that a wait took."""
    assert isinstance(event.value, dict)
    return str(event.value["signal"]), str(event.value["message_id"])


Session.TestCase.settings = settings(max_examples=60 * FACTOR, stateful_step_count=50, deadline=None)
TestSession = Session.TestCase


def test_the_session_above_meets_nearly_every_kind_of_event() -> None:
    """Else its laws might hold for want of something that could break them."""

    class Watched(Session):
        def record(self, event: e.Event) -> e.Recorded:
            seen.add(type(event))
            return super().record(event)

        def teardown(self) -> None:
            stop = self.state.stop
            seen.update([] if stop is None else [stop.cause])
            seen.update(["forced"] if stop is not None and stop.forced_seq is not None else [])

    seen: set[object] = set()
    run_state_machine_as_test(
        Watched,
        settings=settings(
            max_examples=100, stateful_step_count=50, deadline=None, database=None, derandomize=True, print_blob=False
        ),
    )
    missed = {*e.TYPE_NAMES, "request", "time_limit", "budget", "forced"} - seen
    assert len(missed) <= MISSED_MAX, missed


@given(
    first=starts,
    told=st.lists(st.tuples(messages | dismissals, st.integers(-(10**7), 10**7)), max_size=40),
    at=instants,
)
@examples(150)
def test_what_is_decided_can_be_written_read_and_folded(
    first: e.SessionStarted, told: list[tuple[m.Message, int]], at: datetime
) -> None:
    """Decide is total, whatever the clock does; its events evolve; what was read back folds to the state in memory."""
    journal = [e.Recorded(1, first, at, 1, "n", "e1")]
    state = begin("s", journal[0])
    for message, millis in told:
        for event in decide(state, message, at + timedelta(milliseconds=millis)):
            recorded = e.Recorded(len(journal) + 1, event, at, 1, "n", f"e{len(journal) + 1}")
            journal.append(recorded)
            state = evolve(state, recorded)
    read = [
        replace(each, event=decode(type_name(each.event), operation_of(each.event), encode(each.event)))
        for each in journal
    ]
    assert state == replay("s", read)


@given(told=st.lists(delivered, max_size=10), tail=messages)
@examples(60)
def test_a_journal_ends_before_it_is_too_long(told: list[m.Delivered], tail: m.Message) -> None:
    """Nothing that is decided goes past the limit, and the last event that fits is an end."""
    longest = EVENTS_MAX + CLEAN_UP_EVENTS
    state = replace(begin("s", e.Recorded(1, STARTED, NOON, 1, "n", "e1")), last_seq=longest - 5)
    for message in (*told, tail):
        for event in decide(state, message, NOON):
            state = evolve(state, e.Recorded(state.last_seq + 1, event, NOON, 1, "n", "e"))
            assert state.last_seq <= longest
    assert state.last_seq < longest or state.has_ended


@given(retry=retries, attempt=st.integers(1, 1_000_000), jitter=draws, now=instants)
@examples(300)
def test_a_pause_is_never_negative_nor_over_its_limit(
    retry: RetrySpec, attempt: int, jitter: float, now: datetime
) -> None:
    """Whatever the policy says, there is a next instant."""
    pause = retry.delay_after(attempt, jitter)
    assert timedelta(0) <= pause <= timedelta(seconds=min(retry.max_delay, 10**9))
    assert now <= now + pause


@given(retry=retries, jitter=draws)
@examples(100)
def test_pauses_never_shrink_as_attempts_go_on(retry: RetrySpec, jitter: float) -> None:
    """With the same draw, that is."""
    pauses = [retry.delay_after(attempt, jitter) for attempt in range(1, 80)]
    assert sorted(pauses) == pauses
