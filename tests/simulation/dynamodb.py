"""DynamoDB, as the product sees it: items, conditions, batches that fail in part, transactions, indexes that lag.

To change it: what the service does with a request that arrived, and what it remembers; whether a request arrives, and
what becomes of its answer, is the network's affair. It watches over what nothing else could see afterwards: that an
event never changes, and that the counts of a tenant are right after each transaction.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from botocore.exceptions import ClientError

from orchestrator.aws.items import Item, from_wire, to_wire
from orchestrator.aws.provision import table_definition
from orchestrator.session.transitions import ENDED
from tests.simulation.expressions import Wire, changed, condition, insert_names, update_parts
from tests.simulation.world import World

Request: TypeAlias = Mapping[str, Any]
Place: TypeAlias = tuple[str, str]

ITEM_BYTES_MAX = 400 * 1024
"""DynamoDB, quotas: the largest item, names and values together."""
TOKEN_SECONDS = 600.0
"""DynamoDB, `TransactWriteItems`: how long a client request token is remembered."""
TABLE = "table"


def refused(code: str, operation: str, message: str = "simulated", **more: Any) -> ClientError:
    """Return the error answer of that code."""
    status = 500 if code.startswith("Internal") else 400
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
        **more,
    }
    return ClientError(response, operation)


class TransactionCanceledException(ClientError):
    """As the SDK's client raises it."""


class _Exceptions:
    TransactionCanceledException = TransactionCanceledException


class SimTable:
    """One table with its indexes. `lag()` returns by how many seconds an index is behind with the next change."""

    exceptions = _Exceptions

    def __init__(self, world: World, lag: Callable[[], float], told: Callable[[str], None]) -> None:
        self._world = world
        self._lag = lag
        self._told = told
        self._items: dict[Place, Wire] = {}
        self._heads: dict[str, Wire] = {}
        self._places: defaultdict[str, list[str]] = defaultdict(list)
        self._tokens: dict[str, float] = {}
        self._indexes = {
            index["IndexName"]: _Index(index["KeySchema"][0]["AttributeName"], index["KeySchema"][1]["AttributeName"])
            for index in table_definition(TABLE)["GlobalSecondaryIndexes"]
        }
        self.on_event: Callable[[str, Item], None] = lambda session_id, item: None

    # --- for those who look on -----------------------------------------------------------------------------------

    def items(self) -> list[Item]:
        """Return every item, plain."""
        return [from_wire(wire) for wire in self._items.values()]  # type: ignore[arg-type]

    @property
    def is_quiet(self) -> bool:
        """Whether every session has ended, and nobody owes or owns anything of it."""
        return all(
            head["state"]["S"] in ENDED and "outbox" not in head and "owner" not in head
            for head in self._heads.values()
        )

    def item(self, pk: str, sk: str) -> Item | None:
        """Return one item, plain."""
        wire = self._items.get((pk, sk))
        return None if wire is None else from_wire(wire)  # type: ignore[arg-type]

    def change(self, item: Item) -> None:
        """Put an item in its own place, as somebody does who may write to the table and is none of us."""
        self._items[str(item["PK"]), str(item["SK"])] = to_wire(item)  # type: ignore[assignment]

    def partition(self, pk: str, prefix: str) -> list[Item]:
        """Return the items of a partition whose sort keys begin so, in order."""
        return [from_wire(self._items[pk, sk]) for sk in self._places[pk] if sk.startswith(prefix)]  # type: ignore[arg-type]

    # --- operations ----------------------------------------------------------------------------------------------

    def perform(self, operation: str, request: Request) -> dict[str, Any]:
        """Return the answer to a request. Raises `ClientError` for an error answer."""
        match operation:
            case "DescribeTable":
                return {"Table": {"TableStatus": "ACTIVE", **table_definition(request["TableName"])}}
            case "GetItem":
                item = self._items.get(_place(request["Key"]))
                return {} if item is None else {"Item": dict(item)}
            case "PutItem":
                return self._put_item(request)
            case "UpdateItem":
                return self._update_item(request)
            case "DeleteItem":
                self._store(_place(request["Key"]), None)
                return {}
            case "TransactWriteItems":
                return self._transact(request)
            case "BatchExecuteStatement":
                return {"Responses": [self._statement(each) for each in request["Statements"]]}
            case "Query":
                return self._query(request)
            case _:
                raise AssertionError(f"{operation} is not simulated")

    def _put_item(self, request: Request) -> dict[str, Any]:
        place = _place(request["Item"])
        self._check_condition(request, place, "PutItem")
        self._store(place, dict(request["Item"]))
        return {}

    def _update_item(self, request: Request) -> dict[str, Any]:
        place = _place(request["Key"])
        self._check_condition(request, place, "UpdateItem")
        after = self._updated(request, place)
        self._store(place, after)
        return {"Attributes": dict(after)}

    def _updated(self, request: Request, place: Place) -> Wire:
        standing = self._items.get(place, dict(request["Key"]))
        names, values = request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {})
        return changed(request["UpdateExpression"], standing, names, values)

    def _meets(self, request: Request, place: Place) -> bool:
        names, values = request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {})
        text = request.get("ConditionExpression")
        return text is None or condition(text)(self._items.get(place, {}), names, values)

    def _check_condition(self, request: Request, place: Place, operation: str) -> None:
        if not self._meets(request, place):
            standing = self._items.get(place)
            more: dict[str, Any] = {} if standing is None else {"Item": dict(standing)}
            raise refused("ConditionalCheckFailedException", operation, **more)

    def _transact(self, request: Request) -> dict[str, Any]:
        token = request.get("ClientRequestToken")
        if token is not None and self._tokens.get(token, float("-inf")) > self._world.time:
            return {}
        actions = [next(iter(action.items())) for action in request["TransactItems"]]
        places = [_place(body.get("Item") or body["Key"]) for _, body in actions]
        assert len(set(places)) == len(places), "a transaction touches an item twice"
        reasons = [
            {"Code": "None" if self._meets(body, place) else "ConditionalCheckFailed"}
            for (_, body), place in zip(actions, places, strict=True)
        ]
        if any(reason["Code"] != "None" for reason in reasons):
            raise canceled(reasons)
        after = [
            None if kind == "Delete" else dict(body["Item"]) if kind == "Put" else self._updated(body, place)
            for (kind, body), place in zip(actions, places, strict=True)
        ]
        if any(item is not None and self._is_too_large(place, item) for place, item in zip(places, after, strict=True)):
            raise refused(
                "ValidationException", "TransactWriteItems", "Item size has exceeded the maximum allowed size"
            )
        for place, item in zip(places, after, strict=True):
            self._store(place, item)
        if token is not None:
            self._tokens[token] = self._world.time + TOKEN_SECONDS
        for tenant in {pk for pk, _ in places if pk.startswith("TENANT#")}:
            self._audit(tenant)
        return {}

    def _statement(self, statement: Request) -> dict[str, Any]:
        text, parameters = statement["Statement"], statement["Parameters"]
        names = insert_names(text)
        if names is not None:
            item = dict(zip(names, parameters, strict=True))
            place = _place(item)
            if place in self._items:
                return _error("DuplicateItem")
            if self._is_too_large(place, item):
                return _error("ValidationError")
            self._store(place, item)
            return {}
        sets, removes, compared = update_parts(text)
        assert compared[:2] == ("PK", "SK")
        keys = parameters[len(sets) :]
        place = keys[0]["S"], keys[1]["S"]
        standing = self._items.get(place)
        expected = dict(zip(compared, keys, strict=True))
        if standing is None or any(standing.get(name) != value for name, value in expected.items()):
            return _error("ConditionalCheckFailed")
        after = {**standing, **dict(zip(sets, parameters, strict=False))}
        self._store(place, {name: value for name, value in after.items() if name not in removes})
        return {}

    def _query(self, request: Request) -> dict[str, Any]:
        values, sort = request["ExpressionAttributeValues"], "SK"
        if "IndexName" in request:
            sort = self._indexes[request["IndexName"]].sort
            items = self._indexes[request["IndexName"]].partition(values[":p"]["S"])
            if ":until" in values:
                items = [item for item in items if item[sort]["S"] <= values[":until"]["S"]]
        else:
            assert request["ConsistentRead"], "a read of the table that may be late"
            pk, low, high = values[":pk"]["S"], values[":low"]["S"], values[":high"]["S"]
            keys = self._places[pk]
            found = keys[bisect.bisect_left(keys, low) : bisect.bisect_right(keys, high)]
            items = [dict(self._items[pk, sk]) for sk in found]
        if not request.get("ScanIndexForward", True):
            items.reverse()
        return self._page(items, request, sort)

    def _page(self, items: list[Wire], request: Request, sort: str) -> dict[str, Any]:
        """Return one page. Pages are short now and then."""
        start = request.get("ExclusiveStartKey")
        if start is not None:
            last, is_forward = _order(start, sort), request.get("ScanIndexForward", True)
            items = [item for item in items if (_order(item, sort) > last) is is_forward and _order(item, sort) != last]
        length = self._world.chance.choice((1, 3, 1_000, 1_000, 1_000))
        page: dict[str, Any] = {"Items": items[:length]}
        if length < len(items):
            page["LastEvaluatedKey"] = {name: items[length - 1][name] for name in {"PK", "SK", sort}}
        return page

    # --- storing -------------------------------------------------------------------------------------------------

    def _store(self, place: Place, item: Wire | None) -> None:
        pk, sk = place
        standing = self._items.get(place)
        if item is not None and self._is_too_large(place, item):
            raise refused("ValidationException", "PutItem", "Item size has exceeded the maximum allowed size")
        if standing is not None and sk.startswith("EVENT#") and standing != item:
            self._told(f"I1: {pk} {sk} was changed after it was written")
        if standing is None and item is not None:
            bisect.insort(self._places[pk], sk)
        elif standing is not None and item is None:
            self._places[pk].remove(sk)
        if item is None:
            self._items.pop(place, None)
        else:
            self._items[place] = item
            if sk == "HEAD":
                self._heads[pk] = item
        self._project(place, standing, item)
        if sk.startswith("EVENT#") and standing is None and item is not None:
            self.on_event(pk.removeprefix("SESSION#"), from_wire(item))  # type: ignore[arg-type]

    def _is_too_large(self, place: Place, item: Wire) -> bool:
        is_too_large = _size(item) > ITEM_BYTES_MAX
        if is_too_large:
            self._told(f"I12: {place} was to have {_size(item)} bytes")
        return is_too_large

    def _project(self, place: Place, before: Wire | None, after: Wire | None) -> None:
        for index in self._indexes.values():
            if index.holds(before) or index.holds(after):
                seen = None if after is None or not index.holds(after) else dict(after)
                show, lag = partial(index.put, place, seen, index.next_version(place)), self._lag()
                if lag:
                    self._world.after(lag, show)
                else:
                    show()

    def _audit(self, tenant: str) -> None:
        quota = self.item(tenant, "QUOTA") or {}
        slots, queued = len(self.partition(tenant, "SLOT#")), len(self.partition(tenant, "QUEUED#"))
        if (quota.get("used", 0), quota.get("queued", 0)) != (slots, queued):
            self._told(f"I10: {tenant} counts {quota}, with {slots} slots and {queued} queued beside it")


class _Index:
    """One index, as its readers see it."""

    def __init__(self, partition: str, sort: str) -> None:
        self._partition = partition
        self.sort = sort
        self._items: dict[Place, Wire] = {}
        self._versions: defaultdict[Place, int] = defaultdict(int)
        self._shown: defaultdict[Place, int] = defaultdict(int)

    def holds(self, item: Wire | None) -> bool:
        return item is not None and self._partition in item and self.sort in item

    def next_version(self, place: Place) -> int:
        self._versions[place] += 1
        return self._versions[place]

    def put(self, place: Place, item: Wire | None, version: int) -> None:
        """Show a change, unless a later one is shown already."""
        if version < self._shown[place]:
            return
        self._shown[place] = version
        if item is None:
            self._items.pop(place, None)
        else:
            self._items[place] = item

    def partition(self, value: str) -> list[Wire]:
        found = [item for item in self._items.values() if item[self._partition]["S"] == value]
        return sorted(found, key=lambda item: _order(item, self.sort))


def canceled(reasons: Sequence[Mapping[str, str]]) -> ClientError:
    """Return the error of a cancelled transaction."""
    response: Any = {
        "Error": {"Code": "TransactionCanceledException", "Message": "simulated"},
        "CancellationReasons": list(reasons),
        "ResponseMetadata": {"HTTPStatusCode": 400},
    }
    return TransactionCanceledException(response, "TransactWriteItems")


def _order(item: Wire, sort: str) -> tuple[str, str, str]:
    return item[sort]["S"], item["PK"]["S"], item["SK"]["S"]


def _place(item: Wire) -> Place:
    return item["PK"]["S"], item["SK"]["S"]


def _error(code: str) -> dict[str, Any]:
    return {"Error": {"Code": code, "Message": "simulated"}}


def _size(item: Wire) -> int:
    """Return the size of an item (DynamoDB Developer Guide, "Item sizes and formats"), ASCII counted as bytes."""
    return sum(len(name) + sum(len(str(raw)) for raw in value.values()) for name, value in item.items())
