"""Two nodes on one real table bring about the same end at once: one terminal event, one HEAD, one slot released.

Each node has adapters, a group commit and connections of its own; the table alone decides between them (I2, I6, I10).
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from orchestrator.cluster import Head, NotOwner
from orchestrator.cluster.dynamodb import DynamoDBHeads
from orchestrator.journal import JournalConflict
from orchestrator.session.events import SessionFailed
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import ErrorRecord
from orchestrator.tenants import SLOT
from tests.contract.stage import OpenTable, append, events_of, head, open_table, recorded, resumed, table_beside
from tests.contract.waiting import START
from tests.emulators import Emulator

ROUNDS = 20
FAILED = SessionFailed(ErrorRecord("ValueError", "UNHANDLED", "no"))


@pytest.fixture
async def nodes(ministack: Emulator) -> AsyncIterator[tuple[OpenTable, OpenTable]]:
    """Two nodes' ways to one table."""
    async with open_table(ministack) as first, table_beside(first) as second:
        yield first, second


async def ended(heads: DynamoDBHeads, seen: Head) -> bool:
    """Bring HEAD to the end; return whether this write did."""
    try:
        await heads.end(seen, SessionStatus.FAILED, last_seq=3, at=START, outbox=("slot",), wake_at=START)
    except NotOwner:
        return False
    return True


async def written(node: OpenTable, session_id: str, name: str) -> bool:
    """Append the end behind event 2; return whether this one counts."""
    try:
        await append(node.journal(), recorded(3, FAILED, epoch=2, node=name), session_id=session_id)
    except JournalConflict:
        return False
    return True


async def test_an_end_that_two_nodes_write_at_once_is_written_by_one(nodes: tuple[OpenTable, OpenTable]) -> None:
    """A zombie and its successor, over and over: the first of the two events stays, and its writer knows."""
    for number in range(ROUNDS):
        session_id = f"s-{number}"
        await append(nodes[0].journal(), recorded(1), resumed(2, epoch=2, node="b"), session_id=session_id)
        wins = await asyncio.gather(
            *(written(node, session_id, name) for node, name in zip(nodes, "ab", strict=True) for _ in range(3))
        )
        assert 1 == sum(wins)
        kept = await events_of(nodes[1].journal(), session_id)
        assert [SessionFailed] == [type(each.event) for each in kept[2:]]


async def test_a_slot_that_two_nodes_give_back_at_once_is_given_back_once(nodes: tuple[OpenTable, OpenTable]) -> None:
    """Both tell of the same end, each more than once; the count falls by one, and by none below nothing."""
    quotas = [node.quotas() for node in nodes]
    assert await quotas[0].admit(head("stays", attributes={SLOT: True}, nonce="stays")) is not None
    for number in range(ROUNDS):
        session_id = f"s-{number}"
        assert await quotas[number % 2].admit(head(session_id, attributes={SLOT: True}, nonce=session_id)) is not None
        assert 2 == (await quotas[0].get("acme")).used
        await asyncio.gather(*(each.free("acme", session_id) for each in quotas * 3))
        assert 1 == (await quotas[1].get("acme")).used
    await asyncio.gather(*(each.free("acme", "stays") for each in quotas * 3))
    assert 0 == (await quotas[0].get("acme")).used
    assert await nodes[0].wire_item("TENANT#acme", "SLOT#stays") is None


async def test_who_waits_is_let_in_once_by_two_nodes_that_both_free_a_slot(nodes: tuple[OpenTable, OpenTable]) -> None:
    """Each sees the same session at the head of the queue; one claims it, and one slot is taken."""
    quotas = [node.quotas() for node in nodes]
    for number in range(ROUNDS):
        names = [f"a-{number}", f"b-{number}", f"c-{number}"]
        for name in names[:2]:
            assert await quotas[0].admit(head(name, attributes={SLOT: True}, nonce=name)) is not None
        waits = head(names[2], status=SessionStatus.QUEUED, owner=None, nonce=names[2], wake_at=START)
        assert waits == await quotas[1].enqueue(waits)

        async def pass_on(place: int, name: str, waits: Head = waits) -> bool:
            await quotas[place].free("acme", name)
            try:
                promoted = await quotas[place].promote(waits, node_id=f"node-{place}", nonce=name, at=START)
            except NotOwner:
                return False
            return promoted is not None

        assert 1 == sum(await asyncio.gather(*(pass_on(place, names[place]) for place in (0, 1))))
        quota = await quotas[0].get("acme")
        assert (1, 0) == (quota.used, quota.queued)
        await asyncio.gather(*(each.free("acme", names[2]) for each in quotas))
        assert 0 == (await quotas[1].get("acme")).used


async def test_heads_end_that_two_epochs_write_at_once_is_the_later_ones(nodes: tuple[OpenTable, OpenTable]) -> None:
    """The outbox is one node's to tell: that of the epoch which owns HEAD."""
    heads = [node.heads() for node in nodes]
    for number in range(ROUNDS):
        first = await heads[0].create(head(f"s-{number}", nonce="first"))
        claimed = await heads[1].claim(first, node_id="node-b", nonce="second", at=START, from_dead_owner=True)
        wins = await asyncio.gather(ended(heads[0], first), ended(heads[1], claimed), ended(heads[0], first))
        assert [False, True, False] == [*wins]
        standing = await heads[0].get(f"s-{number}")
        assert standing is not None
        assert (2, ("slot",), SessionStatus.FAILED) == (standing.epoch, standing.outbox, standing.status)
