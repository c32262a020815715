"""DynamoDB items and the conditional writes on them, as values; and how each is put on the wire, alone or in a batch.

A write knows nothing of sessions. Every write names its whole key, so a batch can carry it as a PartiQL statement.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, assert_never

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb.type_defs import (
        AttributeValueTypeDef,
        BatchStatementRequestTypeDef,
        PutItemInputTypeDef,
        TransactWriteItemTypeDef,
        UpdateItemInputTypeDef,
        UpdateTypeDef,
    )

Value: TypeAlias = str | int | float | bool | bytes | frozenset[str] | None
Item: TypeAlias = dict[str, Value]
Wire: TypeAlias = "dict[str, AttributeValueTypeDef]"

PARTITION_KEY: Final = "PK"
SORT_KEY: Final = "SK"
NUMBER_DIGITS_MAX: Final = 126
"""Digits before the point (DynamoDB, "Data types"): a longer one would take for ever to be written out."""
EXPIRES_AT: Final = "expires_at"
"""Epoch seconds; DynamoDB deletes late, so an item whose instant has passed counts as absent."""


@dataclass(frozen=True, slots=True)
class Key:
    """The whole primary key of an item."""

    pk: str
    sk: str


@dataclass(frozen=True, slots=True)
class Insert:
    """Put an item where none stands. Leave an absent attribute out: `None` is no value of an item."""

    item: Item

    @property
    def key(self) -> Key:
        """The item's key."""
        return Key(self.partition, str(self.item[SORT_KEY]))

    @property
    def partition(self) -> str:
        """The item's partition key, for those who need no more of its key."""
        return str(self.item[PARTITION_KEY])

    is_batchable: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Update:
    """Change an item that exists, if its attributes are as expected (`None`: absent).

    `adds` adds to numbers that exist, `joins` to sets of strings; `alive_at` (epoch seconds) asks besides that the item
    has not expired by then. All three keep the write out of batches.
    """

    key: Key
    sets: Item
    removes: tuple[str, ...] = ()
    adds: Mapping[str, int] = field(default_factory=dict)
    expected: Item = field(default_factory=dict)
    joins: Mapping[str, frozenset[str]] = field(default_factory=dict)
    alive_at: int | None = None

    @property
    def partition(self) -> str:
        """The item's partition key."""
        return self.key.pk

    @property
    def is_batchable(self) -> bool:
        """Whether a PartiQL statement can say it: settings and equalities only."""
        has_more = self.adds or self.joins or self.alive_at is not None
        return not has_more and bool(self.sets) and None not in self.expected.values()


Write: TypeAlias = Insert | Update


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove an item that exists. Travels in transactions only."""

    key: Key


@dataclass(frozen=True, slots=True)
class Tally:
    """Add to numbers of an item, each made where it is absent, if a condition holds. Travels in transactions only.

    `condition` is DynamoDB's, over `#name` for each of `names` and `:value` for each of `values`.
    """

    key: Key
    adds: Mapping[str, int]
    condition: str
    names: tuple[str, ...] = ()
    values: Item = field(default_factory=dict)


TransactWrite: TypeAlias = Insert | Update | Delete | Tally


def to_wire(item: Mapping[str, Value]) -> Wire:
    """Return the item in DynamoDB's typed form, without its `None`s."""
    return {name: wire_value(value) for name, value in item.items() if value is not None}


def wire_value(value: Value) -> AttributeValueTypeDef:
    """Return one value in DynamoDB's typed form. Raises `ValueError` for a text that has no UTF-8."""
    if isinstance(value, str):
        # The SDK would escape a lone surrogate, and leave it to the service what to make of that.
        value.encode()
        return {"S": value}
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, int | float):
        return {"N": repr(value)}
    if isinstance(value, bytes):
        return {"B": value}
    if isinstance(value, frozenset):
        return {"SS": sorted(value)}
    raise AssertionError("an absent attribute has no wire form")


def from_wire(wire: Mapping[str, AttributeValueTypeDef]) -> Item:
    """Return the item of a typed form; an attribute of a type that we never write counts as absent.

    Somebody may tag an item of ours with a list, and must not make it unreadable to us by that.
    """
    plain = ((name, _plain(value)) for name, value in wire.items())
    return {name: value for name, value in plain if value is not None}


def _plain(value: AttributeValueTypeDef) -> Value:
    if "S" in value:
        return value["S"]
    if "N" in value:
        return _number(value["N"])
    if "BOOL" in value:
        return value["BOOL"]
    if "SS" in value:
        return frozenset(value["SS"])
    if "B" in value:
        raw: object = value["B"]
        # The SDK has decoded it; JSON holds it encoded.
        return b64decode(raw) if isinstance(raw, str) else bytes(value["B"])
    return None


def _number(text: str) -> int | float:
    """Return the number of a text. Raises `ValueError` for what DynamoDB would not take for one."""
    if text.isdecimal():
        return int(text)
    number = Decimal(text)
    if not number.is_finite() or number.adjusted() > NUMBER_DIGITS_MAX:
        raise ValueError("a number beyond all that are stored")
    return int(number) if number == number.to_integral_value() else float(number)


def lone_put(table: str, write: Insert) -> PutItemInputTypeDef:
    """Return the insert as a `PutItem` request that hands back what stands in its way."""
    return {
        "TableName": table,
        "Item": to_wire(write.item),
        "ConditionExpression": f"attribute_not_exists({SORT_KEY})",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


class _Placeholders:
    """The names and values of one expression: attributes such as `owner` and `state` are reserved words."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.values: Wire = {}

    def name(self, attribute: str) -> str:
        placeholder = f"#{attribute}"
        self.names[placeholder] = attribute
        return placeholder

    def value(self, of: Value) -> str:
        placeholder = f":v{len(self.values)}"
        self.values[placeholder] = wire_value(of)
        return placeholder

    def condition(self, attribute: str, expected: Value) -> str:
        if expected is None:
            return f"attribute_not_exists({self.name(attribute)})"
        return f"{self.name(attribute)} = {self.value(expected)}"


def lone_update(table: str, write: Update) -> UpdateItemInputTypeDef:
    """Return the update as an `UpdateItem` request that hands back what does not match."""
    p = _Placeholders()
    sets = [f"{p.name(a)} = {p.value(v)}" for a, v in write.sets.items() if v is not None]
    sets += [f"{p.name(a)} = {p.name(a)} + {p.value(v)}" for a, v in write.adds.items()]
    expression = f"SET {', '.join(sets)}" if sets else ""
    if write.removes:
        expression += f" REMOVE {', '.join(p.name(a) for a in write.removes)}"
    if write.joins:
        expression += f" ADD {', '.join(f'{p.name(a)} {p.value(v)}' for a, v in write.joins.items())}"
    conditions = [p.condition(a, expected) for a, expected in write.expected.items()]
    if write.alive_at is not None:
        conditions.append(f"{p.name(EXPIRES_AT)} > {p.value(write.alive_at)}")
    request: UpdateItemInputTypeDef = {
        "TableName": table,
        "Key": to_wire({PARTITION_KEY: write.key.pk, SORT_KEY: write.key.sk}),
        "UpdateExpression": expression.strip(),
        "ConditionExpression": " AND ".join([f"attribute_exists({SORT_KEY})", *conditions]),
        "ExpressionAttributeNames": p.names,
        "ReturnValues": "ALL_NEW",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    if p.values:
        request["ExpressionAttributeValues"] = p.values
    return request


def transact_action(table: str, write: TransactWrite) -> TransactWriteItemTypeDef:
    """Return the write as one action of a transaction."""
    match write:
        case Insert():
            put = lone_put(table, write)
            return {
                "Put": {
                    "TableName": table,
                    "Item": put["Item"],
                    "ConditionExpression": f"attribute_not_exists({SORT_KEY})",
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                }
            }
        case Update():
            return {"Update": _transact_update(lone_update(table, write))}
        case Delete():
            return {
                "Delete": {
                    "TableName": table,
                    "Key": to_wire({PARTITION_KEY: write.key.pk, SORT_KEY: write.key.sk}),
                    "ConditionExpression": f"attribute_exists({SORT_KEY})",
                }
            }
        case Tally():
            return {"Update": _tally(table, write)}
        case _:
            assert_never(write)


def _transact_update(request: UpdateItemInputTypeDef) -> UpdateTypeDef:
    action: UpdateTypeDef = {
        "TableName": request["TableName"],
        "Key": request["Key"],
        "UpdateExpression": request["UpdateExpression"],
        "ConditionExpression": request["ConditionExpression"],
        "ExpressionAttributeNames": request["ExpressionAttributeNames"],
    }
    if "ExpressionAttributeValues" in request:
        action["ExpressionAttributeValues"] = request["ExpressionAttributeValues"]
    return action


def _tally(table: str, write: Tally) -> UpdateTypeDef:
    additions = ", ".join(f"#{name} :add_{name}" for name in write.adds)
    return {
        "TableName": table,
        "Key": to_wire({PARTITION_KEY: write.key.pk, SORT_KEY: write.key.sk}),
        "UpdateExpression": f"ADD {additions}",
        "ConditionExpression": write.condition,
        "ExpressionAttributeNames": {f"#{name}": name for name in (*write.adds, *write.names)},
        "ExpressionAttributeValues": to_wire(
            {**{f":add_{name}": n for name, n in write.adds.items()}, **{f":{n}": v for n, v in write.values.items()}}
        ),
    }


def batch_statement(table: str, write: Write) -> BatchStatementRequestTypeDef:
    """Return the write as one PartiQL statement of a batch."""
    if isinstance(write, Insert):
        item = write.item
        if None in item.values():
            item = {name: value for name, value in item.items() if value is not None}
        return {"Statement": _insert_text(table, tuple(item)), "Parameters": _parameters(item.values())}
    sets = {name: value for name, value in write.sets.items() if value is not None}
    return {
        "Statement": _update_text(table, tuple(sets), write.removes, tuple(write.expected)),
        "Parameters": _parameters((*sets.values(), write.key.pk, write.key.sk, *write.expected.values())),
    }


def _parameters(values: Iterable[Value]) -> list[AttributeValueTypeDef]:
    # Texts are most of what is written, numbers the rest, and this runs for every attribute of every event.
    return [
        {"S": value} if type(value) is str else {"N": repr(value)} if type(value) is int else _json_value(value)
        for value in values
    ]


def _json_value(value: Value) -> AttributeValueTypeDef:
    """Return the typed form as it stands in JSON, where no SDK comes after us that would encode bytes."""
    if isinstance(value, bytes):
        encoded: Any = b64encode(value).decode()
        return {"B": encoded}
    return wire_value(value)


@lru_cache(maxsize=256)
def _insert_text(table: str, names: tuple[str, ...]) -> str:
    pairs = ", ".join(f"'{name}': ?" for name in names)
    return f'INSERT INTO "{table}" VALUE {{{pairs}}}'


@lru_cache(maxsize=256)
def _update_text(table: str, sets: tuple[str, ...], removes: tuple[str, ...], expected: tuple[str, ...]) -> str:
    assignments = " ".join(f'SET "{name}"=?' for name in sets)
    removals = " ".join(f'REMOVE "{name}"' for name in removes)
    conditions = "".join(f' AND "{name}"=?' for name in expected)
    return f'UPDATE "{table}" {assignments} {removals} WHERE "{PARTITION_KEY}"=? AND "{SORT_KEY}"=?{conditions}'
