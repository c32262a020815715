"""What hypothesis draws for whatever reads what outsiders send. To change it: no test logic here."""

import copy
import os
from collections.abc import Iterator
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from pydantic import BaseModel

anything = st.text(st.characters())
"""Every character that a text of Python can hold, lone surrogates too."""
leaves = st.none() | st.booleans() | st.integers() | st.floats() | anything
json_like = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(anything, inner, max_size=4),
    max_leaves=8,
)
FACTOR: Final = int(os.environ.get("PROPERTY_FACTOR", "1"))
"""How many times as many examples as usual: `PROPERTY_FACTOR=100 pytest --timeout=0 tests/property` takes a while."""
relaxed = settings(
    max_examples=100 * FACTOR,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def examples(count: int) -> settings:
    """Return the settings of a test that looks at so many examples."""
    return settings(relaxed, max_examples=count * FACTOR)


class Order(BaseModel):
    """An input that can be wrong."""

    item: str
    count: int = 1


def nested(levels: int) -> object:
    """Return a list of one list of one list …, so many levels deep."""
    value: object = None
    for _ in range(levels):
        value = [value]
    return value


odd_numbers = st.sampled_from([10**400, -(10**400), 10**20, float("nan"), float("inf"), -float("inf"), 1e300, -0.0, 0])
"""Numbers that JSON texts can hold, and that some arithmetic cannot."""
odd_texts = st.sampled_from(
    ["", "9" * 5_000, "\ud800", "\x00", "9999-12-31T23:59:59.999Z", "0001-01-01T00:00:00+14:00", "2026-01-01T00:00:00"]
)
"""Texts that are no instant, or one that no arithmetic survives, or without its zone."""
odd = json_like | odd_numbers | odd_texts | st.sampled_from([250, 800]).map(nested)


def paths(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the way to every part of a JSON value."""
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from paths(part, (*path, key))
    elif isinstance(value, list):
        for position, part in enumerate(value):
            yield from paths(part, (*path, position))


@st.composite
def spoiled(
    draw: st.DrawFn, values: st.SearchStrategy[Any], *, parts: st.SearchStrategy[Any] = odd, times_max: int = 3
) -> Any:
    """Return a valid value of which up to so many parts were replaced, dropped or doubled."""
    body = copy.deepcopy(draw(values))
    for _ in range(draw(st.integers(0, times_max))):
        way = draw(st.sampled_from(sorted((way for way in paths(body) if len(way) < 20), key=repr)))
        if not way:
            continue
        parent = body
        for step in way[:-1]:
            parent = parent[step]
        match draw(st.sampled_from(["replace", "drop", "double", "wrap"])):
            case "replace":
                parent[way[-1]] = draw(parts)
            case "drop":
                del parent[way[-1]]
            case "double":
                parent[way[-1]] = [parent[way[-1]], parent[way[-1]]]
            case _:
                parent[way[-1]] = {"Records": parent[way[-1]]}
    return body


@st.composite
def spoiled_text(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """Return a text of which up to three stretches were cut out, doubled or overwritten."""
    text = draw(texts)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 20)))
        new = draw(st.sampled_from(["", text[start:end] * 2]) | anything | odd_texts)
        text = text[:start] + new + text[end:]
    return text
