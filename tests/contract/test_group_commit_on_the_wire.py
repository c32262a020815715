"""Group commit, seen on the wire: what travels together, what never does, and who fails alone."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from actors import settle
from orchestrator.aws.faults import Refused
from orchestrator.aws.items import Insert, Item, Key, Update
from orchestrator.aws.table import ConditionUnmet
from tests.contract.fault_proxy import BATCH, FaultProxy, batch_sizes, refusal, statements_fail
from tests.contract.stage import OpenTable, append, end_tasks, events_of, recorded

FLIGHTS = 3
"""Requests that may be out at once; held at the proxy, they make everything after them wait and gather."""

STATEMENTS_MAX = 25


def insert(pk: str, sk: str = "ITEM", **attributes: str | int) -> Insert:
    item: Item = {"PK": pk, "SK": sk, **attributes}
    return Insert(item)


@asynccontextmanager
async def held_flights(opened: OpenTable, proxy: FaultProxy) -> AsyncIterator[None]:
    """Keep every seat taken while the block runs, then let all go."""
    proxy.hold()
    fillers = []
    for n in range(FLIGHTS):
        fillers.append(asyncio.create_task(opened.table.write(insert(f"filler-{n}"))))
        await proxy.requests.count(n + 1)
    proxy.requests.entries.clear()
    yield
    await settle()
    assert [] == proxy.requests.entries, "more requests are out than may be"
    proxy.release()
    await asyncio.gather(*fillers)


async def test_a_lone_write_is_a_plain_put(opened: OpenTable, proxy: FaultProxy) -> None:
    """Nothing to gather, nothing to wait for."""
    await opened.table.write(insert("alone"))
    assert ["PutItem"] == [request.operation for request in proxy.requests.entries]


async def test_writes_that_arrive_together_leave_together(opened: OpenTable, proxy: FaultProxy) -> None:
    """Sixty writes of one moment are three requests of at most 25."""
    await asyncio.gather(*(opened.table.write(insert(f"item-{n}")) for n in range(60)))
    assert [10, 25, 25] == sorted(batch_sizes(proxy.requests.entries))
    assert 60 == await opened.items_count()


async def test_writes_that_arrive_while_requests_are_out_share_the_next_one(
    opened: OpenTable, proxy: FaultProxy
) -> None:
    """Three requests are out; 25 writes that come one by one meanwhile cost one more."""
    async with held_flights(opened, proxy):
        writes = []
        for n in range(STATEMENTS_MAX):
            writes.append(asyncio.create_task(opened.table.write(insert(f"item-{n}"))))
            await asyncio.sleep(0)
    await asyncio.gather(*writes)
    assert [(BATCH, 25)] == [(r.operation, len(r.statements)) for r in proxy.requests.entries]


async def test_two_writes_of_one_partition_never_share_a_batch(opened: OpenTable, proxy: FaultProxy) -> None:
    """The statements of a batch fail each alone and in no order, so each holds one of a session."""
    async with held_flights(opened, proxy):
        writes = [
            asyncio.create_task(opened.table.write(insert(f"session-{n % 10}", f"EVENT#{n // 10}"))) for n in range(40)
        ]
    await asyncio.gather(*writes)
    for request in proxy.of(BATCH):
        partitions = [parameters[0] for parameters in request.parameters()]
        assert sorted(set(partitions)) == sorted(partitions)
    assert FLIGHTS + 40 == await opened.items_count()


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp, of any body over 1 MiB
@pytest.mark.parametrize("attribute", ["data", "body"])
async def test_writes_that_are_too_large_together_leave_apart(
    opened: OpenTable, proxy: FaultProxy, attribute: str
) -> None:
    """Twenty events or messages of 300 KB do not fit one request; all of them arrive."""
    large = {attribute: "x" * 300_000}
    await asyncio.gather(*(opened.table.write(insert(f"item-{n}", **large)) for n in range(20)))
    assert len(proxy.requests.entries) > 1
    assert all(size * 300_000 <= 4_000_000 for size in batch_sizes(proxy.requests.entries))
    assert 20 == await opened.items_count()


async def test_an_unmet_condition_fails_alone_and_shows_what_stands_there(opened: OpenTable) -> None:
    """Its neighbours in the batch are durable, the standing item is read back consistently."""
    await opened.table.write(insert("item-3", who="first"))
    outcomes = await asyncio.gather(
        *(opened.table.write(insert(f"item-{n}", who="second")) for n in range(10)), return_exceptions=True
    )
    assert [None if n != 3 else ConditionUnmet for n in range(10)] == [o and type(o) for o in outcomes]
    unmet = outcomes[3]
    assert isinstance(unmet, ConditionUnmet)
    assert (Key("item-3", "ITEM"), {"PK": "item-3", "SK": "ITEM", "who": "first"}) == (unmet.key, unmet.item)


async def test_an_update_among_inserts_fails_alone(opened: OpenTable, proxy: FaultProxy) -> None:
    """Updates share batches with inserts; the one whose item is not as expected, or not there, changes nothing."""
    await opened.table.write(insert("known", n=1))
    proxy.requests.entries.clear()
    outcomes = await asyncio.gather(
        opened.table.write(insert("new")),
        opened.table.write(Update(Key("known", "ITEM"), sets={"n": 2}, expected={"n": 1})),
        opened.table.write(Update(Key("unknown", "ITEM"), sets={"n": 2})),
        opened.table.write(insert("newer")),
        return_exceptions=True,
    )
    assert [(BATCH, 4)] == [(r.operation, len(r.statements)) for r in proxy.of(BATCH)]
    assert [False, False, True, False] == [isinstance(o, ConditionUnmet) for o in outcomes]
    assert [{"N": "2"}, None] == [(await opened.wire_item(pk, "ITEM") or {}).get("n") for pk in ("known", "unknown")]


async def test_what_no_statement_can_say_travels_alone(opened: OpenTable, proxy: FaultProxy) -> None:
    """Sums, sets, absent attributes and lives: a batch would leave them out without a word."""
    for pk in "abcd":
        await opened.table.write(Insert({"PK": pk, "SK": "ITEM", "n": 1, "tags": frozenset("x"), "expires_at": 10}))
    proxy.requests.entries.clear()
    outcomes = await asyncio.gather(
        opened.table.write(Update(Key("a", "ITEM"), sets={"m": 1}, adds={"n": 1})),
        opened.table.write(Update(Key("b", "ITEM"), sets={"m": 1}, joins={"tags": frozenset("yx")})),
        opened.table.write(Update(Key("c", "ITEM"), sets={"m": 1}, alive_at=10)),
        opened.table.write(Update(Key("d", "ITEM"), sets={"m": 1}, expected={"n": None})),
        opened.table.write(insert("e")),
        opened.table.write(insert("f")),
        return_exceptions=True,
    )
    assert ["UpdateItem"] * 4 == [request.operation for request in proxy.of("UpdateItem")]
    assert [2] == batch_sizes(proxy.of(BATCH))
    assert [False, False, True, True, False, False] == [isinstance(o, ConditionUnmet) for o in outcomes]
    items = [await opened.table.get(Key(pk, "ITEM")) for pk in "abcd"]
    shown = [(item["n"], item["tags"], item.get("m")) for item in items if item]
    one, both = frozenset("x"), frozenset("xy")
    assert [(2, one, 1), (1, both, 1), (1, one, None), (1, one, None)] == shown


async def test_a_malformed_write_in_a_batch_is_refused_alone(opened: OpenTable) -> None:
    """An item over 400 KB fails by itself; what travelled with it is durable."""
    writes = [insert("a"), insert("huge", data="x" * 410_000), insert("b")]
    outcomes = await asyncio.gather(*(opened.table.write(write) for write in writes), return_exceptions=True)
    assert [False, True, False] == [isinstance(outcome, Refused) for outcome in outcomes]
    assert 2 == await opened.items_count()


async def test_a_write_that_cannot_be_put_on_the_wire_is_refused_alone(opened: OpenTable) -> None:
    """A lone surrogate has no UTF-8: what was to travel with it is durable."""
    writes = [insert("a"), insert("odd", name="\ud800"), insert("b")]
    outcomes = await asyncio.gather(*(opened.table.write(write) for write in writes), return_exceptions=True)
    assert [False, True, False] == [isinstance(outcome, Refused) for outcome in outcomes]
    assert 2 == await opened.items_count()


async def test_a_batch_that_is_refused_as_a_whole_is_sent_apart(opened: OpenTable, proxy: FaultProxy) -> None:
    """DynamoDB refuses a whole batch for one malformed statement: only that one is refused in the end."""
    proxy.arm(BATCH, refusal("ValidationException"))
    writes = [insert("a"), insert("huge", data="x" * 410_000), insert("b")]
    outcomes = await asyncio.gather(*(opened.table.write(write) for write in writes), return_exceptions=True)
    assert [False, True, False] == [isinstance(outcome, Refused) for outcome in outcomes]
    assert [BATCH, "PutItem", "PutItem", "PutItem"] == [r.operation for r in proxy.requests.entries]
    assert 2 == await opened.items_count()


@pytest.mark.parametrize(
    "code", ["ProvisionedThroughputExceeded", "ThrottlingError", "RequestLimitExceeded", "InternalServerError"]
)
async def test_a_statement_that_is_throttled_is_repeated_alone(opened: OpenTable, proxy: FaultProxy, code: str) -> None:
    """The answer is 200 and hides it: the others are done, this one goes again as it was."""
    proxy.arm(BATCH, statements_fail(code, lambda s: s["Parameters"][0]["S"] == "item-4"))
    await asyncio.gather(*(opened.table.write(insert(f"item-{n}")) for n in range(8)))
    assert proxy.is_disarmed
    first, second = proxy.requests.entries
    assert (8, "PutItem") == (len(first.statements), second.operation)
    assert {"PK": {"S": "item-4"}, "SK": {"S": "ITEM"}} == second.body["Item"]
    assert 8 == await opened.items_count()


async def test_a_conflicting_transaction_never_reads_as_a_lost_race(opened: OpenTable, proxy: FaultProxy) -> None:
    """`TransactionConflict` of one statement is repeated, not taken for fencing."""
    proxy.arm(BATCH, statements_fail("TransactionConflict", lambda s: s["Parameters"][0]["S"] == "item-1"))
    await asyncio.gather(*(opened.table.write(insert(f"item-{n}")) for n in range(3)))
    assert proxy.is_disarmed
    assert 3 == await opened.items_count()


async def test_throttling_reorders_no_journal(opened: OpenTable, proxy: FaultProxy) -> None:
    """Twelve sessions of five events each, a third of all statements throttled: every journal is complete, in order."""
    dice = random.Random(7)
    hit: list[Any] = []

    def is_hit(statement: dict[str, Any]) -> bool:
        if statement in hit:
            return True
        if dice.random() < 1 / 3:
            hit.append(statement)
        return statement in hit

    proxy.arm(BATCH, statements_fail("ThrottlingError", is_hit), times=4)
    journal = opened.journal()

    async def live(session_id: str) -> Sequence[str]:
        written = [recorded(seq) for seq in range(1, 6)]
        for event in written:
            await append(journal, event, session_id=session_id)
        return [event.event_id for event in written]

    names = [f"session-{n}" for n in range(12)]
    written = await asyncio.gather(*(live(name) for name in names))
    assert hit
    assert written == [[event.event_id for event in await events_of(journal, name)] for name in names]


async def test_when_the_table_stops_its_callers_are_cancelled(opened: OpenTable, proxy: FaultProxy) -> None:
    """Nobody waits for ever on a write that nobody carries any more."""
    proxy.hold()
    writes = [asyncio.create_task(opened.table.write(insert(f"item-{n}"))) for n in range(40)]
    await proxy.requests.count(2)
    await end_tasks(opened.carrier)
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [asyncio.CancelledError] * 40 == [type(outcome) for outcome in outcomes]


async def test_a_caller_that_leaves_takes_nobody_with_it(opened: OpenTable, proxy: FaultProxy) -> None:
    """A cancelled write is decided by a later reader; the others of its batch are answered."""
    proxy.hold()
    writes = [asyncio.create_task(opened.table.write(insert(f"item-{n}"))) for n in range(5)]
    await proxy.requests.count(1)
    writes[2].cancel()
    proxy.release()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [None, None, asyncio.CancelledError, None, None] == [o and type(o) for o in outcomes]
    assert 5 == await opened.items_count()
