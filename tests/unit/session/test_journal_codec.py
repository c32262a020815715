"""Events ↔ the JSON of a journal: what is written today reads for years, and what does not fit is refused."""

import json
from dataclasses import fields

import pytest
from session_history import ERROR, LATER, ORDERED, RETRY, STARTED

from orchestrator.journal import UnreadableEvent, UnwritableEvent
from orchestrator.journal.codec import data_of, decode, encode, operation_of, type_name
from orchestrator.session import events as e
from orchestrator.session.values import RetrySpec, format_instant

EVENTS: tuple[e.Event, ...] = (
    STARTED,
    e.SessionStarted("main", "acme", None, "0" * 64, trace="00-1", task_token="t", parent="p"),
    e.SessionStarted(
        *("main", "acme", None, "0" * 64, None),
        parent="p",
        parent_operation="child#2",
        time_limit=1.5,
        patches=["a", "b"],
        carried={"signals": [{"name": "go", "message_id": "m", "data": None}], "known": {"m": "0"}},
    ),
    e.SessionResumed(),
    e.StepStarted("a", 1),
    e.StepCompleted("a", {"list": [1, 2.5, True, None, "ä\u2028\U0001f600"]}, 3),
    e.StepCompleted("a", None, 1),
    e.StepFailed("a", ERROR, 3),
    e.StepRetrying("a", ERROR, 2, LATER),
    ORDERED,
    e.AgentStarted("a#2", "researcher", None, kwargs={"depth": 3}),
    e.AgentCompleted("a", "r", 2, {"tokens": 1}),
    e.AgentCompleted("a", None, 1),
    e.AgentFailed("a", ERROR, 3),
    e.AgentRetrying("a", ERROR, 2, LATER),
    e.TimerStarted("t", LATER),
    e.TimerStarted("t", LATER, signal="go"),
    e.TimerFired("t"),
    e.CallbackCreated("c", "cb-1"),
    e.CallbackCreated("c", "cb-1", LATER),
    e.ApprovalRequested("c", "cb-1", None),
    e.ApprovalRequested("c", "cb-1", {"url": "x"}, ["ann"], LATER),
    e.CallbackCompleted("c", {"approved": True}),
    e.CallbackCompleted("c", None),
    e.CallbackFailed("c", ERROR),
    e.CallbackTimedOut("c"),
    e.SignalReceived("go", "m-1", {"n": [1]}),
    e.SignalReceived("go", "m-1", None),
    e.ValueRecorded("w", {"signal": "go", "message_id": "m-1"}),
    e.PatchRecorded("change-1"),
    e.ChildStarted("k", "child", "child-1", None),
    e.ChildCompleted("k", [1]),
    e.ChildFailed("k", ERROR),
    e.CancelRequested("enough"),
    e.PauseRequested("wait"),
    e.PauseRequested("wait", "m-1"),
    e.ResumeRequested("go on", "m-2"),
    e.CancelRequested("enough", "time_limit", "m-1"),
    e.ProgressReported("p", "half", 50.0, {"of": 2}),
    e.ProgressReported("p", ""),
    e.SessionCompleted([]),
    e.SessionCompleted(None),
    e.SessionFailed(ERROR),
    e.SessionCancelled("enough"),
    e.SessionContinued({"page": 2}, "s:g2"),
    e.SessionContinued(None, "s:g3"),
)

OLDEST: dict[type[e.Event], str] = {
    e.SessionStarted: '{"session_type":"main","tenant":"acme","input":null,"payload_sha256":"0","trace":null}',
    e.SessionResumed: "{}",
    e.StepStarted: '{"attempt":1}',
    e.StepCompleted: '{"result":1,"attempt":1}',
    e.StepFailed: '{"error":{"type":"T","code":"C","message":"m"},"attempt":1}',
    e.StepRetrying: '{"error":{"type":"T","code":"C","message":"m"},"attempt":1,'
    '"next_attempt_at":"2026-01-31T12:00:00.000Z"}',
    e.AgentStarted: '{"agent":"researcher","prompt":null}',
    e.AgentCompleted: '{"result":1,"attempt":1}',
    e.AgentFailed: '{"error":{"type":"T","code":"C","message":"m"},"attempt":1}',
    e.AgentRetrying: '{"error":{"type":"T","code":"C","message":"m"},"attempt":1,'
    '"next_attempt_at":"2026-01-31T12:00:00.000Z"}',
    e.TimerStarted: '{"fire_at":"2026-01-31T12:00:00.000Z"}',
    e.TimerFired: "{}",
    e.CallbackCreated: '{"callback_id":"cb-1"}',
    e.ApprovalRequested: '{"callback_id":"cb-1","subject":null}',
    e.CallbackCompleted: '{"result":null}',
    e.CallbackFailed: '{"error":{"type":"T","code":"C","message":"m"}}',
    e.CallbackTimedOut: "{}",
    e.SignalReceived: '{"name":"go","message_id":"m-1","data":null}',
    e.ValueRecorded: '{"value":{"signal":"go","message_id":"m-1"}}',
    e.PatchRecorded: '{"change_id":"change-1"}',
    e.ChildStarted: '{"session_type":"child","child_id":"child-1","input":null}',
    e.ChildCompleted: '{"result":null}',
    e.ChildFailed: '{"error":{"type":"T","code":"C","message":"m"}}',
    e.CancelRequested: '{"reason":"enough"}',
    e.PauseRequested: '{"reason":"wait"}',
    e.ResumeRequested: '{"reason":"go on"}',
    e.ProgressReported: '{"message":"half"}',
    e.SessionCompleted: '{"result":null}',
    e.SessionFailed: '{"error":{"type":"T","code":"C","message":"m"}}',
    e.SessionCancelled: '{"reason":"enough"}',
    e.SessionContinued: '{"input":null,"continued_as":"s:g2"}',
}
"""The least that a journal holds of each event: never add a field here, for old journals do not have it."""


def operation_for(kind: type[e.Event]) -> str | None:
    """Return an operation id for those events that belong to one."""
    return "a" if "operation" in {field.name for field in fields(kind)} else None


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_reads_back_as_it_was_written(event: e.Event) -> None:
    """Its text is JSON without the operation id, which stands beside it."""
    text = encode(event)
    assert event == decode(type_name(event), operation_of(event), text)
    assert "operation" not in json.loads(text)


@pytest.mark.parametrize(
    "event",
    [
        e.CallbackCreated("c", "callback-1", LATER),
        e.ApprovalRequested("a", "approval-1", {"draft": "…"}, None, LATER),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_instant_that_may_be_missing_is_written_as_every_other(event: e.Event) -> None:
    """What people are shown of an event is JSON, and its instants have the contract's format."""
    assert format_instant(LATER) == data_of(event)["times_out_at"]
    assert event == decode(type_name(event), operation_of(event), json.dumps(data_of(event)))


@pytest.mark.parametrize("event", [e.TimerStarted("t", LATER), e.CallbackCreated("c", "id", LATER)])
def test_an_instant_is_written_with_milliseconds_and_a_zone(event: e.Event) -> None:
    """As everywhere in the contract, whether the field may be absent or not."""
    assert f'"{format_instant(LATER)}"' in encode(event)


def test_every_event_is_in_the_tables_above() -> None:
    """A new event needs its place in these tests."""
    assert set(e.TYPE_NAMES) == {type(event) for event in EVENTS} == set(OLDEST)


@pytest.mark.parametrize("kind", OLDEST)
def test_an_old_journal_without_the_optional_fields_reads(kind: type[e.Event]) -> None:
    """A field that came later has its default."""
    event = decode(e.TYPE_NAMES[kind], operation_for(kind), OLDEST[kind])
    assert kind is type(event)
    assert event == decode(type_name(event), operation_of(event), encode(event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_fields_that_this_version_does_not_know_are_passed_over(event: e.Event) -> None:
    """Older code reads what newer code wrote, inside of records too."""
    data = json.loads(encode(event))
    for part in (data.get("error"), data.get("retry")):
        if part is not None:
            part["colour"] = "red"
    data["colour"] = {"deep": [1]}
    assert event == decode(type_name(event), operation_of(event), json.dumps(data))


@pytest.mark.parametrize("status", ["", "STEP_SKIPPED", "step_completed", "StepCompleted", "STEP_COMPLETED "])
def test_a_type_that_this_version_does_not_know_is_unreadable(status: str) -> None:
    """Newer code wrote it, or somebody by hand; guessing would be worse than stopping."""
    with pytest.raises(UnreadableEvent):
        decode(status, "a", '{"result":1,"attempt":1}')


@pytest.mark.parametrize("kind", OLDEST)
def test_an_event_without_a_field_it_needs_is_unreadable(kind: type[e.Event]) -> None:
    """Each one in turn."""
    data = json.loads(OLDEST[kind])
    for name in data:
        with pytest.raises(UnreadableEvent):
            decode(e.TYPE_NAMES[kind], operation_for(kind), json.dumps({k: v for k, v in data.items() if k != name}))


@pytest.mark.parametrize("kind", OLDEST)
def test_an_operation_too_many_or_too_few_is_unreadable(kind: type[e.Event]) -> None:
    """Whether an event belongs to an operation is a matter of its type."""
    with pytest.raises(UnreadableEvent):
        decode(e.TYPE_NAMES[kind], "a" if operation_for(kind) is None else None, OLDEST[kind])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "5",
        '"result attempt"',
        "[]",
        '["result","attempt"]',
        "\x00",
        "{" * 100_000,
        "[" * 100_000,
        "9" * 10_000,
    ],
    ids=lambda text: text[:20],
)
def test_data_that_are_no_object_are_unreadable(text: str) -> None:
    """Whatever stands there."""
    with pytest.raises(UnreadableEvent):
        decode("STEP_COMPLETED", "a", text)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (e.SessionStarted, "session_type", 5),
        (e.SessionStarted, "tenant", None),
        (e.SessionStarted, "payload_sha256", ["x"]),
        (e.SessionStarted, "trace", 5),
        (e.SessionStarted, "task_token", {}),
        (e.StepStarted, "attempt", "1"),
        (e.StepCompleted, "attempt", True),
        (e.StepCompleted, "attempt", 1.0),
        (e.StepFailed, "error", "no"),
        (e.StepFailed, "error", {"type": "T", "code": "C"}),
        (e.StepFailed, "error", {"type": "T", "code": 404, "message": "m"}),
        (e.StepRetrying, "next_attempt_at", 5),
        (e.StepRetrying, "next_attempt_at", "soon"),
        (e.StepRetrying, "next_attempt_at", "2026-01-31T12:00:00.000"),
        (e.AgentStarted, "agent", 5),
        (e.AgentStarted, "kwargs", [1]),
        (e.AgentStarted, "timeout", "60"),
        (e.AgentStarted, "retry", "often"),
        (e.AgentStarted, "retry", {"max_attempts": "3"}),
        (e.AgentStarted, "retry", {"initial_delay": None}),
        (e.AgentCompleted, "usage", [1]),
        (e.AgentCompleted, "usage", "much"),
        (e.ProgressReported, "message", 5),
        (e.ProgressReported, "percent", "50"),
        (e.SessionFailed, "error", None),
        (e.SessionStarted, "parent_operation", 5),
        (e.SessionStarted, "time_limit", "60"),
        (e.SessionStarted, "time_limit", float("nan")),
        (e.SessionStarted, "carried", []),
        (e.TimerStarted, "fire_at", None),
        (e.TimerStarted, "fire_at", "2026-13-31T12:00:00.000Z"),
        (e.TimerStarted, "signal", 5),
        (e.CallbackCreated, "callback_id", None),
        (e.CallbackCreated, "times_out_at", 5),
        (e.ApprovalRequested, "times_out_at", "soon"),
        (e.CallbackFailed, "error", None),
        (e.SignalReceived, "name", 5),
        (e.SignalReceived, "message_id", None),
        (e.PatchRecorded, "change_id", ["x"]),
        (e.ChildStarted, "child_id", 5),
        (e.ChildFailed, "error", "no"),
        (e.CancelRequested, "reason", None),
        (e.CancelRequested, "cause", None),
        (e.CancelRequested, "message_id", 5),
        (e.SessionCancelled, "reason", 5),
        (e.SessionContinued, "continued_as", None),
    ],
)
def test_a_field_of_another_kind_than_the_code_needs_is_unreadable(
    kind: type[e.Event], field: str, value: object
) -> None:
    """Reading is strict about what the code needs: later it would be an actor that fails, again and again."""
    data = {**json.loads(OLDEST[kind]), field: value}
    with pytest.raises(UnreadableEvent):
        decode(e.TYPE_NAMES[kind], operation_for(kind), json.dumps(data))


SECRET = "S3CR3T"


@pytest.mark.parametrize("kind", OLDEST)
def test_what_is_wrong_with_an_event_is_told_without_its_values(kind: type[e.Event]) -> None:
    """A payload may stand in any field, and the text of an error ends in a log; so does what it was raised from."""
    whole = json.loads(OLDEST[kind])
    strange: list[object] = [SECRET, [SECRET], {SECRET: SECRET}, {"type": [SECRET]}, {"max_attempts": SECRET}]
    for name in {field.name for field in fields(kind)} - {"operation"}:
        for value in strange:
            assert SECRET not in complaint_about(kind, json.dumps({**whole, name: value})), name
    for text in (SECRET, f'"{SECRET}"', f'["{SECRET}"]', f'{{"{SECRET}'):
        assert SECRET not in complaint_about(kind, text)


def complaint_about(kind: type[e.Event], text: str) -> str:
    """Return all that an error says, with what it came from; nothing where such data can be read."""
    try:
        decode(e.TYPE_NAMES[kind], operation_for(kind), text)
    except UnreadableEvent as refused:
        return f"{refused} {refused.__cause__} {refused.__context__}"
    return ""


def test_a_start_of_an_old_journal_begins_a_session_without_what_came_later() -> None:
    """No parent, no time limit, no patches that it knew, no mail."""
    text = '{"session_type":"main","tenant":"acme","input":null,"payload_sha256":"0","trace":null,"task_token":"t"}'
    assert e.SessionStarted("main", "acme", None, "0", None, "t") == decode("AGENT_INVOCATION_STARTED", None, text)


def test_a_policy_of_an_old_journal_gets_the_defaults_it_lacks() -> None:
    """As any value does that grew."""
    event = decode("AGENT_STARTED", "a", '{"agent":"r","prompt":1,"retry":{"max_attempts":3}}')
    assert isinstance(event, e.AgentStarted)
    assert RetrySpec(max_attempts=3) == event.retry
    assert RETRY == decode_retry(RETRY)


def decode_retry(spec: RetrySpec) -> RetrySpec | None:
    """Return the policy after a way through a journal."""
    event = decode("AGENT_STARTED", "a", encode(e.AgentStarted("a", "r", None, retry=spec)))
    assert isinstance(event, e.AgentStarted)
    return event.retry


@pytest.mark.parametrize("value", ["\ud800", object()], ids=["surrogate", "object"])
def test_what_no_journal_can_hold_is_told_before_it_leaves(value: object) -> None:
    """In words that quote nothing of it; further on it would spoil the writes of others."""
    event = e.StepCompleted("a", {"found": [value]}, 1)  # type: ignore[list-item]
    with pytest.raises(UnwritableEvent, match=r"^a StepCompleted event holds what is not JSON: [A-Za-z]+$"):
        encode(event)
