"""Deliveries, callbacks and outboxes when the wire fails: what a lost answer hid, and what travels together."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from actors import ManualClock
from orchestrator.aws.faults import Refused
from orchestrator.callbacks import Callback
from orchestrator.callbacks.dynamodb import DynamoDBCallbacks
from orchestrator.cluster import Head
from orchestrator.inbox import InboxItem, MessageConflict
from orchestrator.session.transitions import SessionStatus
from tests.contract.fault_proxy import (
    BATCH,
    Answer,
    Fault,
    FaultProxy,
    Forward,
    Request,
    garbled,
    half_an_answer,
    lost_answer,
    refusal,
    reset,
)
from tests.contract.stage import SESSION, OpenTable, head, ids
from tests.contract.waiting import START

LATER = START + timedelta(minutes=5)
MESSAGE = InboxItem("message-1", 1, "{}")
CALLBACK = Callback("cb-1", SESSION, "approve", frozenset({"aa"}))

FAULTS: dict[str, Fault] = {
    "reset": reset,
    "lost answer": lost_answer,
    "half an answer": half_an_answer,
    "garbled": garbled,
    "500": refusal("InternalServerError", status=500),
    "throttling": refusal("ThrottlingException"),
}

every_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)


async def ended(opened: OpenTable, *outbox: str) -> Head:
    """Return the HEAD of a session that ended and owes these."""
    seen = await opened.heads().create(head())
    return await opened.heads().end(
        seen, SessionStatus.COMPLETED, last_seq=9, at=START, outbox=outbox, wake_at=LATER if outbox else None
    )


# --- HEAD ------------------------------------------------------------------------------------------------------------


async def test_ends_that_come_together_leave_together(opened: OpenTable, proxy: FaultProxy) -> None:
    """With and without an outbox they share one request, and each is what it should be."""
    heads = opened.heads()
    seen = await asyncio.gather(*(heads.create(head(f"session-{n}")) for n in range(20)))
    proxy.requests.entries.clear()
    done = await asyncio.gather(
        *(
            heads.end(each, SessionStatus.FAILED, last_seq=5, at=LATER, outbox=owed, wake_at=LATER if owed else None)
            for each, owed in zip(seen, [(), ("note-1",)] * 10, strict=True)
        )
    )
    assert [(BATCH, 20)] == [(r.operation, len(r.statements)) for r in proxy.requests.entries]
    assert done == [await heads.get(each.session_id) for each in seen]


async def test_an_end_that_owes_nothing_says_nothing_of_an_outbox(opened: OpenTable, proxy: FaultProxy) -> None:
    """The hot path: no attribute more than what changes."""
    seen = [await opened.heads().create(head(f"session-{n}")) for n in range(2)]
    proxy.requests.entries.clear()
    ends = (opened.heads().end(each, SessionStatus.COMPLETED, last_seq=5, at=LATER) for each in seen)
    await asyncio.gather(*ends)
    (request,) = proxy.requests.entries
    for statement in request.statements:
        assert not {"outbox", "wake_at", "continued_as"} & set(statement["Statement"].split(chr(34)))


async def test_an_end_that_owes_whose_answer_was_lost_succeeds(opened: OpenTable, proxy: FaultProxy) -> None:
    """Also where a delivery moved the inbox on in between: HEAD as we wished it to be is success."""
    heads = opened.heads()
    seen = await heads.create(head())

    async def delivered(request: Request, raw: bytes, forward: Forward) -> Answer:
        answer = await lost_answer(request, raw, forward)
        await heads.bump_inbox(SESSION)
        return answer

    # The delivery is an UpdateItem as well, so it must find nothing armed: only the first one is met.
    proxy.arm("UpdateItem", delivered)
    done = await heads.end(seen, SessionStatus.FAILED, last_seq=5, at=LATER, outbox=("note-1",), wake_at=LATER)
    assert proxy.is_disarmed
    assert (SessionStatus.FAILED, ("note-1",), 1) == (done.status, done.outbox, done.inbox_version)
    assert done == await heads.get(SESSION)


@every_fault
async def test_a_settlement_gets_through_whatever_the_wire_does(
    opened: OpenTable, proxy: FaultProxy, fault: Fault
) -> None:
    """Repeated, it finds itself done."""
    before = await ended(opened, "note-1", "note-2")
    proxy.arm("UpdateItem", fault)
    half = await opened.heads().settle_outbox(before, ("note-2",), wake_at=LATER)
    proxy.arm("UpdateItem", fault)
    settled = await opened.heads().settle_outbox(half, ())
    assert proxy.is_disarmed
    assert replace(before, outbox=(), wake_at=None) == settled == await opened.heads().get(SESSION)


@every_fault
async def test_a_delivery_is_counted_whatever_the_wire_does(opened: OpenTable, proxy: FaultProxy, fault: Fault) -> None:
    """Once at least: a version that moved on twice tells the same as one that moved on once."""
    seen = await opened.heads().create(head())
    proxy.arm("UpdateItem", fault)
    bumped = await opened.heads().bump_inbox(SESSION)
    assert proxy.is_disarmed
    assert bumped == await opened.heads().get(SESSION)
    assert bumped is not None
    assert bumped.inbox_version in {1, 2}
    assert replace(seen, inbox_version=bumped.inbox_version) == bumped


@every_fault
async def test_a_session_is_made_due_whatever_the_wire_does(opened: OpenTable, proxy: FaultProxy, fault: Fault) -> None:
    """The same instant again changes nothing."""
    seen = await opened.heads().create(head(owner=None))
    proxy.arm("UpdateItem", fault)
    assert replace(seen, wake_at=LATER) == await opened.heads().make_due(seen, at=LATER)
    assert proxy.is_disarmed


# --- the inbox -------------------------------------------------------------------------------------------------------


@every_fault
async def test_a_message_waits_once_whatever_the_wire_does(opened: OpenTable, proxy: FaultProxy, fault: Fault) -> None:
    """A put whose answer was lost finds its own body there, and that is no conflict."""
    proxy.arm("PutItem", fault)
    await opened.inbox().put(SESSION, MESSAGE)
    proxy.arm("Query", fault)
    assert (MESSAGE,) == await opened.inbox().read(SESSION)
    proxy.arm("DeleteItem", fault)
    await opened.inbox().delete(SESSION, [MESSAGE.message_id])
    assert proxy.is_disarmed
    assert () == await opened.inbox().read(SESSION)


async def test_messages_of_many_sessions_leave_together(opened: OpenTable, proxy: FaultProxy) -> None:
    """Deliveries share requests like events; one that conflicts fails alone."""
    await opened.inbox().put("session-3", MESSAGE)
    proxy.requests.entries.clear()
    other = replace(MESSAGE, body="other")
    outcomes = await asyncio.gather(
        *(opened.inbox().put(f"session-{n}", other) for n in range(20)), return_exceptions=True
    )
    assert [(BATCH, 20)] == [(r.operation, len(r.statements)) for r in proxy.of(BATCH)]
    assert [None if n != 3 else MessageConflict for n in range(20)] == [o and type(o) for o in outcomes]


async def test_a_message_that_was_consumed_meanwhile_is_no_conflict(opened: OpenTable, proxy: FaultProxy) -> None:
    """It stood in the way when it was put and was gone when it was looked at: its session knows that id."""
    inbox = opened.inbox()
    await inbox.put(SESSION, MESSAGE)

    async def consumed(_request: Request, raw: bytes, forward: Forward) -> Answer:
        await inbox.delete(SESSION, [MESSAGE.message_id])
        return await forward(raw)

    proxy.arm("GetItem", consumed)
    # Two at once, so that they travel as a batch, whose answer does not say what stands there.
    await asyncio.gather(inbox.put(SESSION, MESSAGE), inbox.put("session-2", MESSAGE))
    assert proxy.is_disarmed
    assert () == await inbox.read(SESSION)


async def test_the_inbox_is_read_consistently(opened: OpenTable, proxy: FaultProxy) -> None:
    """What was delivered before HEAD was read is seen (rule 5); so are the notes and the callbacks."""
    await opened.inbox().read(SESSION)
    await ids(opened.wake_ups().take("node-a"))
    await opened.callbacks().get("cb-1")
    assert [True, True, True] == [request.body["ConsistentRead"] for request in proxy.of("Query", "GetItem")]


async def test_a_long_inbox_is_read_to_its_end(opened: OpenTable, proxy: FaultProxy) -> None:
    """Over a megabyte takes several pages."""
    for n in range(6):
        await opened.inbox().put(SESSION, InboxItem(f"message-{n}", n, "x" * 300_000))
    assert list(range(6)) == [item.position for item in await opened.inbox().read(SESSION)]
    assert len(proxy.of("Query")) > 1


@pytest.mark.parametrize("code", ["AccessDeniedException", "ResourceNotFoundException"])
async def test_what_aws_refuses_is_refused(opened: OpenTable, proxy: FaultProxy, code: str) -> None:
    """By the one name that the rest of the product knows, not by a group of them."""
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: opened.inbox().put(SESSION, MESSAGE),
        lambda: opened.inbox().read(SESSION),
        lambda: opened.inbox().delete(SESSION, ["a", "b"]),
        lambda: opened.wake_ups().put("node-a", SESSION),
        lambda: ids(opened.wake_ups().take("node-a")),
        lambda: opened.callbacks().issue(CALLBACK, expires_at=LATER),
        lambda: opened.callbacks().decide("cb-1", "1"),
        lambda: opened.heads().bump_inbox(SESSION),
    ]
    proxy.arm("*", refusal(code), times=100)
    for call in calls:
        with pytest.raises(Refused, match=code):
            await call()


# --- wake-ups --------------------------------------------------------------------------------------------------------


@every_fault
async def test_a_note_is_taken_whatever_the_wire_does(opened: OpenTable, proxy: FaultProxy, fault: Fault) -> None:
    """Left once, taken once."""
    proxy.arm("PutItem", fault)
    await opened.wake_ups().put("node-a", SESSION)
    proxy.arm("Query", fault)
    proxy.arm("DeleteItem", fault)
    assert [SESSION] == await ids(opened.wake_ups().take("node-a"))
    assert proxy.is_disarmed
    assert 0 == await opened.items_count()


# --- callbacks -------------------------------------------------------------------------------------------------------


@every_fault
async def test_a_callback_is_issued_whatever_the_wire_does(opened: OpenTable, proxy: FaultProxy, fault: Fault) -> None:
    """First, again, and afresh over an expired one: what stands then is what was asked for."""
    callbacks, both = opened.callbacks(), replace(CALLBACK, token_sha256=frozenset({"aa", "bb"}))
    proxy.arm("PutItem", fault)
    assert CALLBACK == await callbacks.issue(CALLBACK, expires_at=LATER)
    proxy.arm("UpdateItem", fault)
    assert both == await callbacks.issue(replace(CALLBACK, token_sha256=frozenset({"bb"})), expires_at=LATER)
    opened.clock.set_wall(LATER)
    proxy.arm("UpdateItem", fault)
    assert CALLBACK == await callbacks.issue(CALLBACK, expires_at=LATER + timedelta(days=1))
    assert proxy.is_disarmed
    assert CALLBACK == await callbacks.get("cb-1")


@every_fault
async def test_an_answer_wins_whatever_the_wire_does(opened: OpenTable, proxy: FaultProxy, fault: Fault) -> None:
    """One whose confirmation was lost finds itself there."""
    await opened.callbacks().issue(CALLBACK, expires_at=LATER)
    proxy.arm("UpdateItem", fault)
    assert replace(CALLBACK, answer='"mine"') == await opened.callbacks().decide("cb-1", '"mine"')
    assert proxy.is_disarmed


async def test_a_fresh_callback_has_no_answer_of_an_expired_one(opened: OpenTable, proxy: FaultProxy) -> None:
    """Not even of one that a node with a slow clock decided while it was being replaced."""
    callbacks = opened.callbacks()
    await callbacks.issue(CALLBACK, expires_at=LATER)
    slow = DynamoDBCallbacks(opened.table, clock=ManualClock(START))
    opened.clock.set_wall(LATER)

    async def decided(_request: Request, raw: bytes, forward: Forward) -> Answer:
        assert replace(CALLBACK, answer='"late"') == await slow.decide("cb-1", '"late"')
        return await forward(raw)

    proxy.arm("UpdateItem", decided)
    assert CALLBACK == await callbacks.issue(CALLBACK, expires_at=LATER + timedelta(days=1))
    assert proxy.is_disarmed
    assert CALLBACK == await callbacks.get("cb-1")


async def test_an_answer_that_lost_behind_a_reset_is_told_the_one_that_won(
    opened: OpenTable, proxy: FaultProxy
) -> None:
    """Between the first try and the second somebody else answered."""
    callbacks = opened.callbacks()
    await callbacks.issue(CALLBACK, expires_at=LATER)

    async def overtaken(request: Request, raw: bytes, forward: Forward) -> Answer:
        await callbacks.decide("cb-1", '"theirs"')
        return await reset(request, raw, forward)

    proxy.arm("UpdateItem", overtaken)
    told = await callbacks.decide("cb-1", '"mine"')
    assert proxy.is_disarmed
    assert replace(CALLBACK, answer='"theirs"') == told == await callbacks.get("cb-1")
