"""DynamoDB's expressions, as far as the product uses them: conditions, updates and the two statements of PartiQL.

To change it: an expression that is not understood is an assertion, never a guess; `tests/contract/conftest.py` holds
this table, as `simulated`, to the contract suites of the real ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeAlias

Wire: TypeAlias = dict[str, dict[str, Any]]
"""An item in DynamoDB's typed form: {"PK": {"S": "…"}}."""
Names: TypeAlias = Mapping[str, str]
Condition: TypeAlias = Callable[[Wire, Names, Wire], bool]
Change: TypeAlias = Callable[[Wire, Names, Wire], None]

_TOKEN = re.compile(r"\s*([#:]?[A-Za-z_][A-Za-z0-9_]*|<=|>=|<>|[=<>(),+])")
_INSERT = re.compile(r'INSERT INTO "[^"]+" VALUE \{(.*)\}$')
_UPDATE = re.compile(r'UPDATE "[^"]+" (.*) WHERE (.*)$')
_QUOTED = re.compile(r"""['"]([^'"]+)['"]""")
_CHANGES = re.compile(r'(SET|REMOVE) "([^"]+)"')


def comparable(value: dict[str, Any]) -> Any:
    """Return a value that compares as DynamoDB compares it."""
    ((kind, raw),) = value.items()
    return (kind, Decimal(raw) if kind == "N" else frozenset(raw) if kind == "SS" else raw)


@lru_cache(maxsize=4_096)
def condition(text: str) -> Condition:
    """Return the test that a condition expression is."""
    parser = _Parser(_tokens(text))
    parsed = parser.either()
    assert not parser.rest, f"not understood: {parser.rest} of {text!r}"
    return parsed


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        assert found is not None, f"not understood: {text[position:]!r}"
        tokens.append(found.group(1))
        position = found.end()
    return tokens


class _Parser:
    """Conditions by recursive descent: OR over AND over NOT over comparisons."""

    def __init__(self, tokens: list[str]) -> None:
        self.rest = tokens

    def _take(self, *wanted: str) -> str:
        token = self.rest.pop(0)
        assert not wanted or token in wanted, f"{token!r} instead of {wanted}"
        return token

    def _ahead(self, token: str) -> bool:
        return bool(self.rest) and self.rest[0] == token

    def either(self) -> Condition:
        parts = [self._both()]
        while self._ahead("OR"):
            self._take()
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else lambda item, n, v: any(part(item, n, v) for part in parts)

    def _both(self) -> Condition:
        parts = [self._one()]
        while self._ahead("AND"):
            self._take()
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else lambda item, n, v: all(part(item, n, v) for part in parts)

    def _one(self) -> Condition:
        if self._ahead("NOT"):
            self._take()
            denied = self._one()
            return lambda item, n, v: not denied(item, n, v)
        if self._ahead("("):
            self._take()
            inner = self.either()
            self._take(")")
            return inner
        first = self._take()
        if first in {"attribute_exists", "attribute_not_exists"}:
            self._take("(")
            name = self._take()
            self._take(")")
            wanted = first == "attribute_exists"
            return lambda item, n, v: (n.get(name, name) in item) is wanted
        if self._ahead("BETWEEN"):
            self._take()
            low = self._take()
            self._take("AND")
            return _between(first, low, self._take())
        return _comparison(first, self._take("=", "<", "<=", ">", ">=", "<>"), self._take())


def _operand(text: str, item: Wire, names: Names, values: Wire) -> Any:
    if text.startswith(":"):
        return comparable(values[text])
    name = names.get(text, text)
    return comparable(item[name]) if name in item else None


def _comparison(left: str, sign: str, right: str) -> Condition:
    def holds(item: Wire, names: Names, values: Wire) -> bool:
        a, b = _operand(left, item, names, values), _operand(right, item, names, values)
        if a is None or b is None:
            return False
        if sign in {"=", "<>"}:
            return bool(a == b) is (sign == "=")
        if a[0] != b[0]:
            return False
        return bool({"<": a[1] < b[1], "<=": a[1] <= b[1], ">": a[1] > b[1], ">=": a[1] >= b[1]}[sign])

    return holds


def _between(name: str, low: str, high: str) -> Condition:
    def holds(item: Wire, names: Names, values: Wire) -> bool:
        found = _operand(name, item, names, values)
        bounds = comparable(values[low]), comparable(values[high])
        return found is not None and bool(bounds[0] <= found <= bounds[1])

    return holds


def changed(text: str, item: Wire, names: Names, values: Wire) -> Wire:
    """Return the item as an update expression changes it; what it reads is the item before."""
    after = dict(item)
    for change in _changes(text):
        change(after, names, values)
    return after


@lru_cache(maxsize=4_096)
def _changes(text: str) -> tuple[Change, ...]:
    found: list[Change] = []
    clauses = re.split(r"\b(SET|REMOVE|ADD)\b", text)
    assert not clauses[0].strip(), f"not understood: {text!r}"
    for kind, body in zip(clauses[1::2], clauses[2::2], strict=True):
        for part in body.split(","):
            tokens = _tokens(part.strip())
            match kind, tokens:
                case "SET", [name, "=", value]:
                    found.append(_set(name, value))
                case "SET", [name, "=", same, "+", value] if same == name:
                    found.append(_add(name, value, makes=False))
                case "REMOVE", [name]:
                    found.append(_remove(name))
                case "ADD", [name, value]:
                    found.append(_add(name, value, makes=True))
                case _:
                    raise AssertionError(f"not understood: {part!r} of {text!r}")
    return tuple(found)


def _set(name: str, value: str) -> Change:
    def change(item: Wire, names: Names, values: Wire) -> None:
        item[names[name]] = values[value]

    return change


def _remove(name: str) -> Change:
    def change(item: Wire, names: Names, values: Wire) -> None:
        item.pop(names[name], None)

    return change


def _add(name: str, value: str, *, makes: bool) -> Change:
    def change(item: Wire, names: Names, values: Wire) -> None:
        standing, added = item.get(names[name]), values[value]
        if "SS" in added:
            joined = {*(standing or {"SS": []})["SS"], *added["SS"]}
            item[names[name]] = {"SS": sorted(joined)}
            return
        assert makes or standing is not None, f"{name}: there is no number to add to"
        total = Decimal(standing["N"] if standing else 0) + Decimal(added["N"])
        item[names[name]] = {"N": str(total)}

    return change


@lru_cache(maxsize=4_096)
def insert_names(statement: str) -> tuple[str, ...] | None:
    """Return the attributes that an `INSERT` sets, in order; `None` for another statement."""
    found = _INSERT.match(statement)
    return None if found is None else tuple(_QUOTED.findall(found.group(1)))


@lru_cache(maxsize=4_096)
def update_parts(statement: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return what an `UPDATE` sets, what it removes, and what it compares, in the order of its parameters."""
    found = _UPDATE.match(statement)
    assert found is not None, f"not understood: {statement!r}"
    changes = _CHANGES.findall(found.group(1))
    sets = tuple(name for kind, name in changes if kind == "SET")
    removes = tuple(name for kind, name in changes if kind == "REMOVE")
    return sets, removes, tuple(_QUOTED.findall(found.group(2)))
