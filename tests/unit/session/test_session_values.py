"""The small values: ids, instants, JSON text, the bounds of a backoff."""

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from orchestrator.session.values import (
    Json,
    RetrySpec,
    canonical_json,
    compact_json,
    derive_session_id,
    format_instant,
    is_valid_id,
    is_valid_session_id,
    json_bytes,
    payload_digest,
    truncate_to_millis,
)


@pytest.mark.parametrize(
    ("attempt", "bound"), [(1, 10.0), (2, 20.0), (3, 40.0), (4, 60.0), (5, 60.0), (1_000_000, 60.0)]
)
def test_a_pause_is_drawn_between_zero_and_a_bound_that_doubles_up_to_its_limit(attempt: int, bound: float) -> None:
    """Full jitter: the draw is a factor; a policy of a million attempts does not overflow."""
    spec = RetrySpec(max_attempts=1_000_000, initial_delay=10.0, max_delay=60.0, multiplier=2.0)
    for jitter in (0.0, 0.25, 0.999):
        assert timedelta(seconds=bound * jitter) == spec.delay_after(attempt, jitter)


def test_the_same_three_give_the_same_session_id_for_ever() -> None:
    """The id is fixed: another one would run an accepted session a second time after a deployment (I4)."""
    digest = hashlib.sha256(b'["acme","research","order-17"]').hexdigest()
    assert f"research-{digest[:32]}" == derive_session_id("acme", "research", "order-17")
    assert is_valid_session_id(derive_session_id("x" * 128, "y" * 64, "ä\u2028" * 500))


def test_no_two_of_the_three_can_be_mistaken_for_another() -> None:
    """Where one part ends and the next begins is part of what is hashed."""
    ids = {
        derive_session_id(*parts)
        for parts in [
            ("a", "b", "c"),
            ("a", "b", "cd"),
            ("ab", "c", "d"),
            ("a,b", "c", "d"),
            ("a", "b,c", "d"),
            ('a"', "b", "c"),
        ]
    }
    assert 6 == len(ids)


def test_a_digest_goes_by_the_value_not_by_its_text() -> None:
    """Keys in another order are the same payload; another type, tenant or number type is not (I4)."""
    digest = payload_digest("main", "acme", {"a": 1, "b": [True, None]})
    assert digest == payload_digest("main", "acme", {"b": [True, None], "a": 1})
    others: list[tuple[str, str, Json]] = [
        ("main", "acme", {"a": 1, "b": [None, True]}),
        ("main", "acme", {"a": "1", "b": [True, None]}),
        ("acme", "main", {"a": 1, "b": [True, None]}),
        ("main", "acme", None),
    ]
    assert 4 == len({payload_digest(*other) for other in others} - {digest})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_json_text_holds_what_json_has_no_word_for(value: float) -> None:
    """Not here, not in a journal."""
    for write in (canonical_json, compact_json):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(value)


def test_json_text_has_no_white_space_and_reads_back() -> None:
    """Compact keeps the order of keys, canonical sorts them."""
    value: Json = {"b": [1, "ä\u2028", None], "a": {"d": 1.5, "c": False}}
    assert '{"b":[1,"ä\u2028",null],"a":{"d":1.5,"c":false}}' == compact_json(value)
    assert '{"a":{"c":false,"d":1.5},"b":[1,"ä\u2028",null]}' == canonical_json(value)
    assert value == json.loads(compact_json(value))


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2026, 1, 31, 12, tzinfo=UTC), "2026-01-31T12:00:00.000Z"),
        (datetime(2026, 1, 31, 12, 0, 0, 999_999, tzinfo=UTC), "2026-01-31T12:00:00.999Z"),
        (datetime(2026, 1, 31, 23, 30, tzinfo=timezone(timedelta(hours=-2))), "2026-02-01T01:30:00.000Z"),
    ],
)
def test_an_instant_is_utc_with_milliseconds(instant: datetime, text: str) -> None:
    """Cut off, never rounded up: a rounded one could lie in the future."""
    assert text == format_instant(instant)
    kept = truncate_to_millis(instant)
    assert (kept, UTC) == (datetime.fromisoformat(text), kept.tzinfo)
    assert timedelta(0) <= instant - kept < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("text", "is_id", "is_session_id"),
    [
        ("order-17", True, True),
        ("A_b.c:d-9", True, True),
        ("x" * 110, True, True),
        ("x" * 111, True, False),
        ("x" * 128, True, False),
        ("x" * 129, False, False),
        ("", False, False),
        ("a b", False, False),
        ("a/b", False, False),
        ("ä", False, False),
        ("a\n", False, False),
        ("x:g2", True, False),
        ("x:g", True, True),
        ("x:g2a", True, True),
        ("x:g²", False, False),
        (":g12", True, False),
    ],
)
def test_an_id_is_made_of_few_characters_and_leaves_room_for_generations(
    text: str, is_id: bool, is_session_id: bool
) -> None:
    """1 to 128 of `A-Z a-z 0-9 _ . : -`; one that a caller chooses at most 110, and no generation of another."""
    assert (is_id, is_session_id) == (is_valid_id(text), is_valid_session_id(text))


@pytest.mark.parametrize(
    "value",
    [
        {"text": 'ä\n\u2028"', "n": [1, 1.5, -0.0, True, None]},
        10**30,
        json.loads("[" * 210 + "]" * 210),
        {"a": {"b": {}}},
        "x" * 5_000,
    ],
)
def test_json_bytes_are_the_values_json_without_white_space(value: Json) -> None:
    assert json.loads(json_bytes(value)) == value
    assert b" " not in json_bytes(value)


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, object(), [object()], json.loads("[" * 500 + "]" * 500)])
def test_json_bytes_refuse_what_has_no_json(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_bytes(value)
