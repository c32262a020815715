"""`evolve` and `owed`: the state is the fold of its journal, and says what the world must be doing."""

from dataclasses import replace
from datetime import timedelta

import pytest
from session_history import AGENT_PHASES, ENDS, ERROR, LATER, NOON, ORDERED, STARTED, STEP_PHASES, after, recorded

from orchestrator.session import events as e
from orchestrator.session.owed import RUN_HANDLER, EffectKey, RunAgent, owed
from orchestrator.session.state import begin, evolve, replay
from orchestrator.session.transitions import OperationKind, Phase, SessionStatus
from orchestrator.session.values import ErrorRecord, JsonObject

HANDLER: EffectKey = ("", 1)


def test_an_empty_journal_has_no_state() -> None:
    """The session was never accepted."""
    assert replay("s", []) is None


def test_event_one_begins_the_state() -> None:
    """Running, nothing done yet, of the epoch that wrote it."""
    state = after()
    assert ("s", SessionStatus.RUNNING, 1, 1) == (state.session_id, state.status, state.last_seq, state.epoch)
    assert (STARTED, NOON, NOON) == (state.started, state.started_at, state.updated_at)
    assert not state.operations
    assert not state.has_ended


@pytest.mark.parametrize(
    "journal",
    [
        recorded(e.SessionCompleted(None)),
        [replace(recorded(STARTED)[0], seq=2)],
        recorded(STARTED, STARTED),
        [*recorded(STARTED), replace(recorded(STARTED)[0], seq=3, event=e.SessionResumed())],
    ],
    ids=["no start", "not from 1", "two starts", "a gap"],
)
def test_a_journal_that_none_of_ours_can_be_is_a_bug(journal: list[e.Recorded]) -> None:
    """Seq 1..n without gap, one start, the first (I1): anything else is an assert."""
    with pytest.raises(AssertionError):
        replay("s", journal)


@pytest.mark.parametrize(
    ("events", "kind", "phase", "attempt", "result"),
    [
        (STEP_PHASES["started"], OperationKind.STEP, Phase.STARTED, 1, None),
        (STEP_PHASES["retrying"], OperationKind.STEP, Phase.RETRYING, 2, None),
        (STEP_PHASES["completed"], OperationKind.STEP, Phase.COMPLETED, 1, "done"),
        (STEP_PHASES["failed"], OperationKind.STEP, Phase.FAILED, 1, None),
        (AGENT_PHASES["started"], OperationKind.AGENT, Phase.STARTED, 1, None),
        (AGENT_PHASES["retrying"], OperationKind.AGENT, Phase.RETRYING, 2, None),
        (AGENT_PHASES["completed"], OperationKind.AGENT, Phase.COMPLETED, 1, "done"),
        (AGENT_PHASES["failed"], OperationKind.AGENT, Phase.FAILED, 1, None),
        ((e.ProgressReported("a", "half"),), OperationKind.PROGRESS, Phase.COMPLETED, 1, None),
    ],
)
def test_an_operation_is_what_its_latest_event_says(
    events: tuple[e.Event, ...], kind: OperationKind, phase: Phase, attempt: int, result: object
) -> None:
    """Kind, phase, the attempt under way or due, the result; when and as which event that was."""
    state = after(*events)
    operation = state.operations["a"]
    assert (kind, phase, attempt, result) == (operation.kind, operation.phase, operation.attempt, operation.result)
    assert (len(events) + 1, state.updated_at) == (operation.changed_seq, operation.changed_at)
    assert (phase in {Phase.COMPLETED, Phase.FAILED}) == operation.is_settled
    assert (ERROR if phase in {Phase.FAILED, Phase.RETRYING} else None) == operation.error
    assert (LATER if phase is Phase.RETRYING else None) == operation.next_attempt_at
    assert (ORDERED if kind is OperationKind.AGENT else None) == operation.order


def test_resumptions_are_counted_and_those_without_progress_in_a_row() -> None:
    """Any other event, even progress for people, begins the row anew."""
    resumed = e.SessionResumed()
    assert (0, 0) == counts()
    assert (2, 2) == counts(resumed, resumed)
    assert (2, 0) == counts(resumed, resumed, e.ProgressReported("p", "half"))
    assert (3, 1) == counts(resumed, resumed, e.StepCompleted("a", None, 1), resumed)


def counts(*events: e.Event) -> tuple[int, int]:
    """Return how often the session was resumed, and how often in a row without progress."""
    state = after(*events)
    return state.resumes, state.fruitless_resumes


def test_the_state_has_the_epoch_of_its_latest_event() -> None:
    """A claimer compares it with its own (rule 4)."""
    journal = recorded(STARTED, e.SessionResumed())
    state = replay("s", [journal[0], replace(journal[1], epoch=7)])
    assert state is not None
    assert (7, 2) == (state.epoch, state.last_seq)


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ([], None),
        ([None, None], None),
        ([{}], None),
        ([{"in": 1, "out": 2}, {"in": 3}, None], {"in": 4, "out": 2}),
        ([{"in": 1}, {"in": 0.5}], {"in": 1.5}),
        ([{"in": 1, "model": "x", "cached": True, "detail": {"in": 9}}], {"in": 1}),
        ([{"in": "x"}, {"in": 2}], {"in": 2}),
    ],
)
def test_usage_is_the_sum_of_what_agents_reported(
    reported: list[JsonObject | None], expected: JsonObject | None
) -> None:
    """Key by key; what is no number is left out, and a truth value is none."""
    events = list[e.Event]()
    for number, usage in enumerate(reported):
        events += [
            e.AgentStarted(f"a{number}", "researcher", None),
            e.AgentCompleted(f"a{number}", None, 1, usage),
        ]
    assert expected == after(*events).usage


@pytest.mark.parametrize("end", ENDS)
def test_the_end_stands_in_the_state(end: e.Event) -> None:
    """Completed with a result, failed or cancelled with an error, continued with where and with what."""
    state = after(end)
    assert state.has_ended
    found = (state.status, state.result, state.error, state.continued_as, state.next_input)
    match end:
        case e.SessionCompleted(result=result):
            assert (SessionStatus.COMPLETED, result, None, None, None) == found
        case e.SessionFailed(error=error):
            assert (SessionStatus.FAILED, None, error, None, None) == found
        case e.SessionCancelled(reason=reason):
            error = ErrorRecord("SessionCancelled", "SESSION_CANCELLED", reason)
            assert (SessionStatus.CANCELLED, None, error, None, None) == found
        case _:
            assert (SessionStatus.CONTINUED, None, None, "s:g2", {"a": 2}) == found


def test_states_of_the_same_journal_are_equal_and_earlier_ones_stay_as_they_were() -> None:
    """State is replaced, never changed."""
    journal = recorded(STARTED, ORDERED, e.AgentCompleted("a", "done", 1))
    states = [begin("s", journal[0])]
    for each in journal[1:]:
        states.append(evolve(states[-1], each))
    assert states == [replay("s", journal[:n]) for n in (1, 2, 3)]
    assert [0, 1, 0] == [len(state.open_operations) for state in states]


@pytest.mark.parametrize("phase", STEP_PHASES)
def test_an_open_session_owes_its_handler_and_no_step(phase: str) -> None:
    """A step's function runs inside the handler's task."""
    assert {HANDLER: RUN_HANDLER} == owed(after(*STEP_PHASES[phase]))


@pytest.mark.parametrize(
    ("phase", "key", "started_at", "not_before"),
    [
        ("started", ("a", 1), NOON + timedelta(seconds=1), None),
        ("retrying", ("a", 2), LATER, LATER),
        ("completed", None, None, None),
        ("failed", None, None, None),
    ],
)
def test_an_ordered_agent_is_owed_until_it_is_settled(
    phase: str, key: EffectKey | None, started_at: object, not_before: object
) -> None:
    """The attempt under way, by its order; a retry not before its time, and its own time runs from there."""
    effects = dict(owed(after(*AGENT_PHASES[phase])))
    assert RUN_HANDLER == effects.pop(HANDLER)
    if key is None:
        assert {} == effects
        return
    effect = effects.pop(key)
    assert {} == effects
    assert isinstance(effect, RunAgent)
    assert (*key, ORDERED) == (effect.operation, effect.attempt, effect.order)
    assert (started_at, not_before) == (effect.started_at, effect.not_before)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("phase", AGENT_PHASES)
def test_an_ended_session_owes_nothing(phase: str, end: e.Event) -> None:
    """What was under way is no longer owed, so it is cancelled."""
    assert {} == owed(after(*AGENT_PHASES[phase], end))
