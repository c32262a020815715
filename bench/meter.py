"""Write units by AWS's rules, from the very requests that a worker sent: every statement is replayed on a model table.

The rules: a write costs one unit a started KB of the larger of the item before and after; in a transaction, twice that.
An index entry costs a write of its own where it appears, disappears or changes, two where its key changes (DynamoDB
Developer Guide, "Capacity consumption for write operations" and "Global secondary indexes"). Reads cost none of these.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from orchestrator.aws.provision import table_definition

Wire = dict[str, dict[str, Any]]

UNIT_BYTES = 1_024
DYNAMODB = "DynamoDB_20120810."
_SECTION = re.compile(r"\b(SET|REMOVE|ADD|DELETE)\b")
_INSERT = re.compile(r"'([^']+)': \?")
_SET = re.compile(r'"([^"]+)"\s*=\s*\?')
_REMOVE = re.compile(r'REMOVE "([^"]+)"')


def item_bytes(item: Wire) -> int:
    """Return an item's size as DynamoDB counts it ("Item sizes and formats")."""
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def _value_bytes(value: dict[str, Any]) -> int:
    ((kind, held),) = value.items()
    match kind:
        case "S":
            return len(held.encode())
        case "N":
            return ceil(len(held.strip("-").replace(".", "").strip("0")) / 2) + 1
        case "SS":
            return sum(len(text.encode()) for text in held)
        case _:
            return 1


def units(size: int) -> int:
    """Return the write units of an item of that size."""
    return max(1, ceil(size / UNIT_BYTES))


@dataclass(frozen=True, slots=True)
class Index:
    """One index: which attributes make its key, and which it holds (`None`: all)."""

    name: str
    keys: tuple[str, ...]
    held: frozenset[str] | None

    def entry(self, item: Wire | None) -> Wire | None:
        """Return the index's entry of an item; `None` where the index does not list it."""
        if item is None or not all(key in item for key in self.keys):
            return None
        return item if self.held is None else {name: item[name] for name in item if name in self.held}

    def cost(self, before: Wire | None, after: Wire | None) -> int:
        """Return the write units that the change of an item costs here."""
        old, new = self.entry(before), self.entry(after)
        if old == new:
            return 0
        sizes = [units(item_bytes(entry)) for entry in (old, new) if entry is not None]
        is_moved = old is not None and new is not None and any(old[key] != new[key] for key in self.keys)
        return sum(sizes) if is_moved else max(sizes)


def indexes_of_the_product() -> list[Index]:
    """Return the indexes that `orchestrator provision` creates."""
    definition: Any = table_definition("bench")
    table_keys = {part["AttributeName"] for part in definition["KeySchema"]}
    found = []
    for index in definition["GlobalSecondaryIndexes"]:
        keys = tuple(part["AttributeName"] for part in index["KeySchema"])
        projection = index["Projection"]
        held = table_keys | set(keys) | set(projection.get("NonKeyAttributes", ()))
        whole = projection["ProjectionType"] == "ALL"
        found.append(Index(index["IndexName"], keys, None if whole else frozenset(held)))
    return found


@dataclass(slots=True)
class Ledger:
    """What the requests of one run cost. `units` counts by kind of item, `index_units` by index."""

    indexes: list[Index] = field(default_factory=indexes_of_the_product)
    requests: Counter[str] = field(default_factory=Counter)
    request_bytes: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)
    index_units: Counter[str] = field(default_factory=Counter)
    largest: dict[str, int] = field(default_factory=dict)
    _table: dict[tuple[str, str], Wire] = field(default_factory=dict)

    def take(self, operation: str, body: str) -> None:
        """Count one request."""
        self.requests[operation] += 1
        self.request_bytes[operation] += len(body.encode())
        if not operation.startswith(DYNAMODB):
            return
        request: dict[str, Any] = json.loads(body)
        match operation.removeprefix(DYNAMODB):
            case "PutItem":
                self._write(request["Item"])
            case "UpdateItem":
                self._update_item(request)
            case "DeleteItem":
                self._change(_key(request["Key"]), None)
            case "BatchExecuteStatement":
                for statement in request["Statements"]:
                    self._statement(statement["Statement"], statement["Parameters"])
            case "ExecuteStatement":
                self._statement(request["Statement"], request["Parameters"])
            case "TransactWriteItems":
                for action in request["TransactItems"]:
                    ((kind, part),) = action.items()
                    self._action(kind, part)
            case "GetItem" | "Query" | "DescribeTable":
                pass
            case other:
                raise AssertionError(f"a request that the meter cannot price: {other}")

    def _action(self, kind: str, request: dict[str, Any]) -> None:
        """Count one action of a transaction."""
        match kind:
            case "Put":
                self._write(request["Item"], times=2)
            case "Update":
                self._update_item(request, times=2)
            case "Delete":
                self._change(_key(request["Key"]), None, times=2)
            case "ConditionCheck":
                # It changes nothing, and costs what writing the item would.
                key = _key(request["Key"])
                self._change(key, self._table.get(key), times=2)
            case other:
                raise AssertionError(f"an action that the meter cannot price: {other}")

    def _write(self, item: Wire, *, times: int = 1) -> None:
        self._change(_key(item), item, times=times)

    def _statement(self, text: str, parameters: list[dict[str, Any]]) -> None:
        if text.startswith("INSERT"):
            names = _INSERT.findall(text)
            assert len(names) == len(parameters), text
            self._write(dict(zip(names, parameters, strict=True)))
            return
        if text.startswith("DELETE"):
            names = _SET.findall(text.split(" WHERE ")[1])
            self._change(_key(dict(zip(names, parameters, strict=True))), None)
            return
        assert text.startswith("UPDATE"), f"a statement that the meter cannot price: {text}"
        assignments, where = text.split(" WHERE ")
        names = _SET.findall(assignments)
        conditions = dict(zip(_SET.findall(where), parameters[len(names) :], strict=True))
        key = _key(conditions)
        self._change(key, self._after(key, dict(zip(names, parameters, strict=False)), _REMOVE.findall(assignments)))

    def _update_item(self, request: dict[str, Any], *, times: int = 1) -> None:
        names, values = request["ExpressionAttributeNames"], request.get("ExpressionAttributeValues", {})
        _, *parts = _SECTION.split(request["UpdateExpression"])
        sections = dict(zip(parts[::2], parts[1::2], strict=True))
        assert "DELETE" not in sections, "an update that the meter cannot price: DELETE of a set's parts"
        key = _key(request["Key"])
        before = self._table.get(key, {})
        sets = {
            names[name]: _sum(before.get(names[name]), values[value]) if added else values[value]
            for name, added, value in re.findall(r"(#\w+) = (#\w+ \+ )?(:\w+)", sections.get("SET", ""))
        }
        for name, value in re.findall(r"(#\w+) (:\w+)", sections.get("ADD", "")):
            sets[names[name]] = _sum(before.get(names[name]), values[value])
        removes = [names[name] for name in re.findall(r"#\w+", sections.get("REMOVE", ""))]
        self._change(key, self._after(key, sets, removes), times=times)

    def _after(self, key: tuple[str, str], sets: Wire, removes: list[str]) -> Wire:
        before = self._table.get(key, {"PK": {"S": key[0]}, "SK": {"S": key[1]}})
        return {name: value for name, value in {**before, **sets}.items() if name not in removes}

    def _change(self, key: tuple[str, str], after: Wire | None, *, times: int = 1) -> None:
        before = self._table.get(key)
        sizes = [item_bytes(item) for item in (before, after) if item is not None]
        kind = key[1].partition("#")[0] if key[0] != "NODES" else "NODE"
        self.writes[kind] += 1
        self.units[kind] += times * units(max(sizes, default=0))
        self.largest[kind] = max(self.largest.get(kind, 0), *sizes, 0)
        for index in self.indexes:
            self.index_units[index.name] += times * index.cost(before, after)
        if after is None:
            self._table.pop(key, None)
        else:
            self._table[key] = after


def _sum(held: dict[str, Any] | None, more: dict[str, Any]) -> dict[str, Any]:
    """Return what an attribute holds after `ADD`: the sum of numbers, the union of sets."""
    if "SS" in more:
        return {"SS": sorted({*(held or {"SS": []})["SS"], *more["SS"]})}
    return {"N": repr(int((held or {"N": "0"})["N"]) + int(more["N"]))}


def _key(item: Wire) -> tuple[str, str]:
    return item["PK"]["S"], item["SK"]["S"]
