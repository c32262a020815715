"""Texts to JSON, and values of user code to JSON and back: a value, or the one error that is promised (I11)."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import pytest
from any_values import Order, anything, json_like, leaves, relaxed
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.errors import NotSerializable
from orchestrator.payloads import DEPTH_MAX, InvalidPayload, PayloadTooLarge, PayloadType, parse_json, to_json
from orchestrator.session.values import compact_json

PAYLOAD_BYTES_MAX: Final = 10_000


@given(text=anything)
@example("[" * 100_000 + "]" * 100_000)
@example('{"a":' * 100_000)
@example("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1))
@example('"' + "[" * 100_000 + '"')
@example("9" * 10_000)
@example("-" + "9" * 10_000)
@example("1e999")
@example("-1e999")
@example("NaN")
@example("[Infinity]")
@example('"\\ud800"')
@example('"\\uDFFF"')
@example('{"\\ud800": 1}')
@example('"\ud800"')
@example('{"a": 1, "a": 2}')
@relaxed
def test_a_text_parses_to_what_a_journal_can_hold_or_raises_value_error(text: str) -> None:
    """No NaN, no infinity, no lone surrogate, no nesting without end: what parses can be written again."""
    try:
        value = parse_json(text)
    except ValueError:
        return
    written = compact_json(value)
    written.encode()
    assert value == parse_json(written)


@given(value=json_like)
@relaxed
def test_any_json_value_parses_as_it_was_written_or_raises_value_error(value: object) -> None:
    """As long as it is a finite one."""
    try:
        parsed = parse_json(json.dumps(value))
    except ValueError:
        return
    assert value == parsed


def test_json_is_as_deep_as_it_may_be_and_no_deeper() -> None:
    """Brackets inside texts are no nesting."""
    assert parse_json("[" * DEPTH_MAX + "]" * DEPTH_MAX)
    with pytest.raises(ValueError, match="levels"):
        parse_json("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1))
    assert "[" * 100_000 == parse_json('"' + "[" * 100_000 + '"')
    assert '"[' * 1_000 == parse_json(json.dumps('"[' * 1_000))


class Colour(Enum):
    """A kind of value that pydantic knows."""

    RED = "red"


@dataclass
class Knot:
    """A value that can hold itself."""

    inner: object = None


def cycle() -> object:
    """Return a list that holds itself."""
    value: list[object] = []
    value.append({"again": value})
    return value


def knotted() -> object:
    """Return a dataclass that holds itself."""
    knot = Knot()
    knot.inner = [knot]
    return knot


def deep(wrap: Callable[[object], object], levels: int = 100_000) -> object:
    """Return a value so many levels deep."""
    value: object = None
    for _ in range(levels):
        value = wrap(value)
    return value


AWKWARD: Final = [
    cycle,
    knotted,
    lambda: deep(lambda inner: [inner]),
    lambda: deep(lambda inner: {"a": inner}),
    lambda: deep(Knot, 5_000),
    lambda: float("nan"),
    lambda: {"a": [float("inf")]},
    lambda: Knot(float("nan")),
    lambda: "\ud800",
    lambda: {"\ud800": 1},
    lambda: b"\xff\xfe",
    lambda: {b"a": 1},
    lambda: {(1, 2): 3},
    lambda: {0: 2, 1.5: 3, None: 4, True: 5},
    lambda: 10**10_000,
    lambda: {"a": 10**10_000},
    object,
    lambda: Colour.RED,
    lambda: Knot,
    lambda: (each for each in (1, 2)),
    lambda: lambda: None,
    lambda: {1, 2, "x"},
    lambda: 1j,
    lambda: "x" * (PAYLOAD_BYTES_MAX + 1),
    lambda: ValueError("an error"),
    lambda: range(3),
    lambda: memoryview(b"x"),
    asyncio.Event,
]


def assert_json(value: object) -> None:
    """Check that a journal can hold it, and gives it back as it is."""
    text = compact_json(value)  # type: ignore[arg-type]
    assert len(text.encode()) <= PAYLOAD_BYTES_MAX
    assert value == parse_json(text)


@pytest.mark.parametrize("make", AWKWARD)
@pytest.mark.parametrize("annotation", [object, int, str, Order, list[Order], dict[str, int], Order | None])
def test_awkward_values_become_json_or_are_refused(make: Callable[[], object], annotation: object) -> None:
    """Nothing but NotSerializable, InvalidPayload and PayloadTooLarge, for any annotation."""
    try:
        assert_json(PayloadType(annotation).dump(make(), bytes_max=PAYLOAD_BYTES_MAX))
    except (NotSerializable, InvalidPayload, PayloadTooLarge) as error:
        str(error).encode()


python_values = st.recursive(
    leaves | st.binary() | st.datetimes() | st.decimals() | st.uuids() | st.complex_numbers() | st.timedeltas(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.builds(Knot, inner)
        | st.dictionaries(leaves | st.binary() | st.tuples(leaves), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(value=python_values)
@relaxed
def test_any_value_becomes_json_or_is_refused(value: object) -> None:
    """Nothing but NotSerializable and PayloadTooLarge; what comes out is what a journal gives back."""
    try:
        assert_json(to_json(value, "value", bytes_max=PAYLOAD_BYTES_MAX))
    except (NotSerializable, PayloadTooLarge) as error:
        str(error).encode()


@given(value=python_values)
@relaxed
def test_plain_values_are_copied_as_encoding_and_parsing_would(value: object) -> None:
    """A value far under the limit takes a short way, one that just fits the long way: to the same end, type by type."""
    try:
        short = to_json(value, "value", bytes_max=2**20)
    except NotSerializable:
        return
    just_enough = len(compact_json(short).encode())
    assert repr(short) == repr(to_json(value, "value", bytes_max=just_enough))


@given(
    value=json_like,
    annotation=st.sampled_from([object, int, str, Order, list[Order], dict[str, int], Order | None, Knot]),
)
@relaxed
def test_any_json_loads_as_annotated_or_is_refused_by_field(value: Any, annotation: object) -> None:
    """InvalidPayload, whose text begins with the name it was given."""
    refusal = "input"
    try:
        PayloadType(annotation).load(value, "input")
    except InvalidPayload as error:
        refusal = str(error)
    assert refusal.startswith("input")
