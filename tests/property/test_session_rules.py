"""Laws of the pure rules, for any messages in any order: late, repeated, wrong, of another attempt or kind."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.journal.codec import decode, encode, operation_of, type_name
from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.decide import decide, start
from orchestrator.session.owed import RUN_HANDLER, RunAgent, owed
from orchestrator.session.state import Operation, SessionState, begin, evolve, replay
from orchestrator.session.transitions import OperationKind
from orchestrator.session.values import ErrorRecord, Json, RetrySpec

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TERMINAL = (e.SessionCompleted, e.SessionFailed)
Journal: TypeAlias = list[e.Recorded]

texts = st.text(max_size=8)
leaves: st.SearchStrategy[Json] = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
)
json_values: st.SearchStrategy[Json] = (
    leaves | st.lists(leaves, max_size=2) | st.dictionaries(texts, leaves, max_size=2)
)
json_objects = st.dictionaries(texts, json_values, max_size=2)
operations = st.sampled_from(["a", "b", "a#2"])
attempts = st.integers(1, 4)
errors = st.builds(ErrorRecord, texts, texts, texts)
draws = st.floats(0, 1, exclude_max=True)
positive = st.floats(0, 1e300, allow_nan=False)
retries = st.builds(
    RetrySpec,
    max_attempts=st.integers(1, 1_000_000),
    initial_delay=positive,
    max_delay=positive,
    multiplier=st.floats(1, 1e300),
)

step_messages: st.SearchStrategy[m.Message] = st.one_of(
    st.builds(m.StepStarting, operations, attempts),
    st.builds(m.StepSucceeded, operations, attempts, json_values),
    st.builds(m.StepAttemptFailed, operations, attempts, errors, retries, st.booleans(), draws),
)
agent_messages: st.SearchStrategy[m.Message] = st.one_of(
    st.builds(
        m.AgentRequested,
        operations,
        texts,
        json_values,
        kwargs=st.none() | json_objects,
        timeout=st.none() | positive,
        retry=st.none() | retries,
    ),
    st.builds(m.AgentSucceeded, operations, attempts, json_values, st.none() | json_objects),
    st.builds(m.AgentAttemptFailed, operations, attempts, errors, st.booleans(), draws),
)
progress_messages: st.SearchStrategy[m.Message] = st.builds(
    m.ProgressMade, operations, texts, st.none() | st.floats(0, 100), json_values
)
ends: st.SearchStrategy[m.Message] = st.one_of(
    st.builds(m.HandlerReturned, json_values),
    st.builds(m.HandlerRaised, errors),
    st.builds(m.CrashLoopDetected, st.integers(1, 10)),
)
messages = st.one_of(step_messages, agent_messages, progress_messages, ends)
instants = st.integers(0, 10**12).map(lambda millis: NOON + timedelta(milliseconds=millis))


class Session(RuleBasedStateMachine):
    """One session that is told anything, by owners that come and go."""

    @initialize(payload=json_values)
    def accept(self, payload: Json) -> None:
        """Begin with event 1."""
        self.journal: Journal = []
        self.settled: dict[str, Operation] = {}
        self.kinds: dict[str, OperationKind] = {}
        self.epoch = 1
        self.now = NOON
        self.record(start("main", "acme", payload, trace=None, task_token=None))
        self.state = begin("s", self.journal[0])

    def record(self, event: e.Event) -> e.Recorded:
        """Write the event as a journal does, and read it back."""
        written = decode(type_name(event), operation_of(event), encode(event))
        recorded = e.Recorded(len(self.journal) + 1, written, self.now, self.epoch, "n", f"e{len(self.journal)}")
        self.journal.append(recorded)
        return recorded

    def tell(self, message: m.Message) -> None:
        """Decide and evolve."""
        had_ended = self.state.has_ended
        before = self.state
        decided = decide(self.state, message, self.now)
        assert before is self.state
        assert not (had_ended and decided), "nothing follows the end (I2)"
        for event in decided:
            self.state = evolve(self.state, self.record(event))

    @rule(message=step_messages | agent_messages)
    def work(self, message: m.Message) -> None:
        """Hear of an operation."""
        self.tell(message)

    @rule(message=step_messages | agent_messages)
    def work_twice(self, message: m.Message) -> None:
        """Hear the same thing twice: the second time changes nothing, but for a start that is then in doubt."""
        self.tell(message)
        length = len(self.journal)
        self.tell(message)
        if not isinstance(message, m.StepStarting):
            assert length == len(self.journal)

    @rule(message=progress_messages)
    def report(self, message: m.Message) -> None:
        """Hear of progress."""
        self.tell(message)

    @rule(message=ends)
    def end(self, message: m.Message) -> None:
        """Hear of an end."""
        self.tell(message)

    @rule(seconds=st.integers(0, 10**6))
    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    @rule()
    def take_over(self) -> None:
        """Read the journal in another epoch, as a claimer does."""
        self.epoch += 1
        state = replay("s", self.journal)
        assert state == self.state
        assert state is not None
        self.state = state
        if not state.has_ended:
            self.state = evolve(state, self.record(e.SessionResumed("n")))

    @invariant()
    def the_fold_of_the_journal_is_the_state(self) -> None:
        """Step by step or all at once."""
        assert replay("s", self.journal) == self.state

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
    def what_is_owed_is_the_handler_and_the_open_agents(self) -> None:
        """And nothing after the end."""
        assert owed_by_the_journal(self.state, self.journal) == {
            key: effect.order if isinstance(effect, RunAgent) else effect for key, effect in owed(self.state).items()
        }

    @invariant()
    def sums_and_counts_are_those_of_the_journal(self) -> None:
        """Resumptions, and those in a row at the end without any other event."""
        kinds = [type(each.event) for each in self.journal]
        assert kinds.count(e.SessionResumed) == self.state.resumes
        in_a_row = len(kinds)
        while in_a_row and kinds[in_a_row - 1] is e.SessionResumed:
            in_a_row -= 1
        assert len(kinds) - in_a_row == self.state.fruitless_resumes


def owed_by_the_journal(state: SessionState, journal: Journal) -> dict[tuple[str, int], object]:
    """Return what is owed, found the long way: agents ordered and without an outcome, by the attempt due."""
    if state.has_ended:
        return {}
    orders: dict[str, tuple[int, e.AgentStarted]] = {}
    for each in journal:
        if isinstance(each.event, e.AgentStarted):
            orders[each.event.operation] = (1, each.event)
        elif isinstance(each.event, e.AgentRetrying):
            orders[each.event.operation] = (each.event.attempt + 1, orders[each.event.operation][1])
        elif isinstance(each.event, e.AgentCompleted | e.AgentFailed):
            del orders[each.event.operation]
    agents: dict[tuple[str, int], object] = {(name, attempt): order for name, (attempt, order) in orders.items()}
    return {("", 1): RUN_HANDLER, **agents}


Session.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestSession = Session.TestCase


@given(payload=json_values, told=st.lists(messages, max_size=30), at=instants)
@settings(max_examples=100, deadline=None)
def test_what_is_decided_can_be_written_read_and_folded(payload: Json, told: list[m.Message], at: datetime) -> None:
    """Decide is total, its events evolve, and a state from what was read back equals the one in memory."""
    first = e.Recorded(1, start("main", "acme", payload, trace=None, task_token=None), at, 1, "n", "e1")
    state, journal = begin("s", first), [first]
    for message in told:
        for event in decide(state, message, at):
            recorded = e.Recorded(len(journal) + 1, event, at, 1, "n", f"e{len(journal) + 1}")
            journal.append(recorded)
            state = evolve(state, recorded)
    read = [
        replace(each, event=decode(type_name(each.event), operation_of(each.event), encode(each.event)))
        for each in journal
    ]
    # Instants are kept to the millisecond; everything else is kept as it is.
    assert without_instants(state) == without_instants(replay("s", read))


def without_instants(state: SessionState | None) -> object:
    """Return what of a state is no instant of a next attempt."""
    assert state is not None
    return (
        replace(state, operations=state.operations.__class__(), open_agents=state.open_agents.__class__()),
        {key: replace(operation, next_attempt_at=None) for key, operation in state.operations.items()},
        set(state.open_agents),
    )


@given(retry=retries, attempt=st.integers(1, 1_000_000), jitter=draws, now=instants)
@settings(max_examples=300, deadline=None)
def test_a_pause_is_never_negative_nor_over_its_limit(
    retry: RetrySpec, attempt: int, jitter: float, now: datetime
) -> None:
    """Whatever the policy says, there is a next instant."""
    pause = retry.delay_after(attempt, jitter)
    assert timedelta(0) <= pause <= timedelta(seconds=min(retry.max_delay, 10**9))
    assert now <= now + pause


@given(retry=retries, jitter=draws)
@settings(max_examples=100, deadline=None)
def test_pauses_never_shrink_as_attempts_go_on(retry: RetrySpec, jitter: float) -> None:
    """With the same draw, that is."""
    pauses = [retry.delay_after(attempt, jitter) for attempt in range(1, 80)]
    assert sorted(pauses) == pauses
