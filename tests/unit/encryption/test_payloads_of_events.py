"""Which fields of an event are payloads, and what stands in their place for whoever has no key."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.journal import UnreadableEvent
from orchestrator.journal.codec import decode, encode, encode_apart, operation_of, type_name
from orchestrator.session import events as e
from orchestrator.session.values import ErrorRecord, RetrySpec

MARKER = "the secret"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
STRUCTURE = {
    *("operation", "session_type", "tenant", "trace", "parent", "parent_operation", "time_limit", "patches", "budget"),
    *("attempt", "agent", "agent_run", "timeout", "retry", "next_attempt_at", "fire_at", "signal", "usage"),
    *("callback_id", "times_out_at", "name", "message_id", "change_id", "child_id", "cause", "percent", "continued_as"),
    "value",
}
"""What people on call and systems that poll read: ids, names, counts and times."""

SAMPLES: dict[str, Any] = {
    "str": MARKER,
    "str | None": MARKER,
    "Json": {"deep": [MARKER]},
    "JsonObject | None": {MARKER: 1},
    "ErrorRecord": ErrorRecord("ValueError", "UNHANDLED", MARKER),
    "int": 1,
    "float | None": 1.5,
    "datetime": NOON,
    "datetime | None": NOON,
    "RetrySpec | None": RetrySpec(),
}
PLAIN: dict[str, Any] = {"str": "plain", "str | None": "plain", "Json": ["plain"], "JsonObject | None": {"plain": 1}}


def full(kind: type[e.Event]) -> e.Event:
    """Return an event of that kind whose every payload holds the secret."""
    values: dict[str, Any] = {}
    for field in fields(kind):
        annotation = str(field.type)
        values[field.name] = (
            PLAIN.get(annotation, SAMPLES[annotation]) if field.name in STRUCTURE else SAMPLES[annotation]
        )
    make: Callable[..., e.Event] = kind
    return make(**values)


@pytest.mark.parametrize("kind", e.TYPE_NAMES)
def test_no_payload_of_any_event_stands_in_its_clear_part(kind: type[e.Event]) -> None:
    """The rest is as ever; with the payloads the event is whole again, and without them it is refused."""
    event = full(kind)
    clear, payloads = encode_apart(event)
    assert MARKER not in clear
    assert (MARKER in encode(event)) == (payloads is not None)
    assert event == decode(type_name(event), operation_of(event), clear, payloads)
    if payloads is not None:
        with pytest.raises(UnreadableEvent):
            decode(type_name(event), operation_of(event), clear)
        shown = decode(type_name(event), operation_of(event), clear, shows_marks=True)
        assert {name: getattr(event, name) for name in STRUCTURE if hasattr(event, name)} == {
            name: getattr(shown, name) for name in STRUCTURE if hasattr(shown, name)
        }


@pytest.mark.parametrize("kind", e.TYPE_NAMES)
def test_what_is_not_there_gets_no_mark(kind: type[e.Event]) -> None:
    """An optional field that is absent stays so: older code reads what newer code leaves out."""
    needed = [f for f in fields(kind) if f.default is MISSING]
    make: Callable[..., e.Event] = kind
    event = make(**{f.name: SAMPLES[str(f.type)] for f in needed})
    clear, payloads = encode_apart(event)
    assert event == decode(type_name(event), operation_of(event), clear, payloads)


def test_of_an_error_type_and_code_stay_in_clear() -> None:
    """A state machine branches on them; the text quotes what was wrong, which may be payload."""
    clear, _ = encode_apart(e.SessionFailed(ErrorRecord("ValueError", "UNHANDLED", MARKER)))
    expected = '{"error":{"type":"ValueError","code":"UNHANDLED","message":"[encrypted]"},"encrypted":true}'
    assert expected == clear


def test_usage_that_is_no_counts_is_a_payload() -> None:
    """An agent may say anything under that name."""
    counts, _ = encode_apart(e.AgentCompleted("a", None, 1, {"total_tokens": 3, "cost": 0.5}))
    said, payloads = encode_apart(e.AgentCompleted("a", None, 1, {"note": MARKER}))
    assert '"usage":{"total_tokens":3,"cost":0.5}' in counts
    assert MARKER not in said
    assert payloads is not None
