"""What the table does when the wire fails: lost answers, throttles, resets, refusals, and two nodes at once.

An emulator has none of these; the proxy in front of it makes them. Backoff is drawn as zero, so nothing waits.
"""

import asyncio

import pytest

from orchestrator.aws.faults import Refused
from orchestrator.aws.items import Insert, Key, Update
from orchestrator.aws.table import ConditionUnmet
from orchestrator.cluster import NotOwner
from orchestrator.journal import JournalConflict
from orchestrator.session.events import StepCompleted
from orchestrator.session.transitions import SessionStatus
from tests.contract.fault_proxy import (
    BATCH,
    Fault,
    FaultProxy,
    fault_proxy,
    garbled,
    half_an_answer,
    html_page,
    lost_answer,
    refusal,
    reset,
    rewritten,
)
from tests.contract.stage import (
    SESSION,
    OpenTable,
    append,
    end_tasks,
    events_of,
    head,
    ids,
    node,
    open_table,
    patience_of,
    recorded,
    started,
    table_beside,
)
from tests.contract.waiting import START, WatchedClock
from tests.emulators import Emulator

TRANSACTION = "TransactWriteItems"
GARBLED_SECONDS_MAX = 3.0
WRITES = ("PutItem", BATCH, TRANSACTION)

FAULTS: dict[str, Fault] = {
    "reset": reset,
    "lost answer": lost_answer,
    "half an answer": half_an_answer,
    "html page": html_page,
    "500": refusal("InternalServerError", status=500),
    "503": refusal("ServiceUnavailable", status=503),
    "unknown 5xx": refusal("SomethingNew", status=502),
    "throughput": refusal("ProvisionedThroughputExceededException"),
    "throttling": refusal("ThrottlingException"),
    "request limit": refusal("RequestLimitExceeded"),
    "expired token": refusal("ExpiredTokenException"),
}

every_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
every_write = pytest.mark.parametrize("operation", WRITES)


async def write_by(opened: OpenTable, operation: str) -> dict[str, int]:
    """Append to as many sessions as make it go that way; return the sessions and how many events each must hold."""
    journal = opened.journal()
    match operation:
        case "PutItem":
            await append(journal, recorded(1), session_id="alone")
            return {"alone": 1}
        case "BatchExecuteStatement":
            names = [f"session-{n}" for n in range(5)]
            await asyncio.gather(*(append(journal, recorded(1), session_id=name) for name in names))
            return dict.fromkeys(names, 1)
        case _:
            await append(journal, recorded(1), recorded(2), recorded(3), session_id="several")
            return {"several": 3}


async def lengths(opened: OpenTable, sessions: dict[str, int]) -> dict[str, int]:
    return {name: len(await events_of(opened.journal(), name)) for name in sessions}


@every_write
@every_fault
async def test_an_append_gets_through_whatever_the_wire_does(
    opened: OpenTable, proxy: FaultProxy, operation: str, fault: Fault
) -> None:
    """Retried until DynamoDB decides; where the lost answer was a success, our event id tells so (rule 2)."""
    proxy.arm(operation, fault)
    sessions = await write_by(opened, operation)
    assert proxy.is_disarmed
    assert sessions == await lengths(opened, sessions)


@every_write
async def test_an_append_outlasts_a_long_outage(opened: OpenTable, proxy: FaultProxy, operation: str) -> None:
    """Thirty failures of every kind in a row change nothing but the time it takes."""
    proxy.arm("*", *(fault for fault in FAULTS.values() if fault is not lost_answer), times=3)
    sessions = await write_by(opened, operation)
    assert proxy.is_disarmed
    assert sessions == await lengths(opened, sessions)
    assert 0.0 == opened.patience.reachability.unreachable_for()


@every_fault
async def test_reads_get_through_whatever_the_wire_does(opened: OpenTable, proxy: FaultProxy, fault: Fault) -> None:
    """Journal, HEAD and indexes are read again until they answer."""
    written = recorded(1)
    await append(opened.journal(), written)
    await opened.heads().create(head())
    proxy.arm("Query", fault)
    assert [written] == await events_of(opened.journal())
    proxy.arm("GetItem", fault)
    assert head() == await opened.heads().get(SESSION)
    proxy.arm("Query", fault)
    assert [SESSION] == await ids(opened.heads().owned_by("node-a"))
    assert proxy.is_disarmed


@pytest.mark.parametrize("operation", [BATCH, "Query"])
async def test_an_answer_that_is_no_json_is_asked_for_again(
    opened: OpenTable, proxy: FaultProxy, operation: str
) -> None:
    """What an intermediary made of an answer is no answer; it ends neither the node nor its callers' wait."""
    proxy.arm(operation, garbled)
    async with asyncio.timeout(GARBLED_SECONDS_MAX):
        sessions = await write_by(opened, BATCH)
        assert sessions == await lengths(opened, sessions)
    assert proxy.is_disarmed


async def test_an_item_is_not_gone_because_an_answer_is_no_json(opened: OpenTable, proxy: FaultProxy) -> None:
    """A session that seemed unknown for a moment lost what its child had to tell it."""
    await opened.heads().create(head())
    proxy.arm("GetItem", garbled)
    assert head() == await opened.heads().get(SESSION)
    assert proxy.is_disarmed


async def test_a_conflict_behind_a_lost_answer_is_still_a_conflict(opened: OpenTable, proxy: FaultProxy) -> None:
    """Another's event at our place is no success, however often we had to ask."""
    theirs = recorded(1, node="node-b")
    await append(opened.journal(), theirs)
    for operation, events in (("PutItem", [recorded(1)]), (TRANSACTION, [recorded(1), recorded(2)])):
        proxy.arm(operation, lost_answer)
        with pytest.raises(JournalConflict) as conflict:
            await append(opened.journal(), *events)
        assert theirs == conflict.value.existing
    assert proxy.is_disarmed
    assert [theirs] == await events_of(opened.journal())


async def test_a_transaction_repeated_after_its_token_expired_knows_its_own_events(
    opened: OpenTable, proxy: FaultProxy
) -> None:
    """After ten minutes the same token is a new transaction: the event ids tell that it was ours."""

    def with_new_token(body: dict[str, object]) -> dict[str, object]:
        return {**body, "ClientRequestToken": "another-token"}

    proxy.arm(TRANSACTION, lost_answer, rewritten(with_new_token))
    written = [recorded(1), recorded(2)]
    await append(opened.journal(), *written)
    assert proxy.is_disarmed
    assert written == await events_of(opened.journal())


@pytest.mark.parametrize("reason", ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"])
async def test_a_transaction_cancelled_by_the_weather_is_repeated(
    opened: OpenTable, proxy: FaultProxy, reason: str
) -> None:
    """Only `ConditionalCheckFailed` among the reasons means that somebody stands there."""
    cancelled = refusal("TransactionCanceledException", CancellationReasons=[{"Code": "None"}, {"Code": reason}])
    proxy.arm(TRANSACTION, cancelled, times=3)
    written = [recorded(1), recorded(2)]
    await append(opened.journal(), *written)
    assert proxy.is_disarmed
    assert written == await events_of(opened.journal())


@every_write
@pytest.mark.parametrize("code", ["AccessDeniedException", "ValidationException", "UnrecognizedClientException"])
async def test_a_write_that_aws_refuses_is_refused(
    opened: OpenTable, proxy: FaultProxy, operation: str, code: str
) -> None:
    """What would fail again is raised, not retried for ever; nothing was written."""
    proxy.arm("*", refusal(code), times=100)
    with pytest.raises(Refused, match=code):
        await write_by(opened, operation)
    proxy.disarm()
    assert 0 == await opened.items_count()


async def test_a_transaction_that_can_never_succeed_is_refused(opened: OpenTable, proxy: FaultProxy) -> None:
    """A reason that is neither a condition nor the weather ends it."""
    reasons = [{"Code": "None"}, {"Code": "ValidationError"}]
    proxy.arm(TRANSACTION, refusal("TransactionCanceledException", CancellationReasons=reasons), times=100)
    with pytest.raises(Refused):
        await append(opened.journal(), recorded(1), recorded(2))


@pytest.mark.parametrize("code", ["AccessDeniedException", "ResourceNotFoundException"])
async def test_a_read_that_aws_refuses_is_refused(opened: OpenTable, proxy: FaultProxy, code: str) -> None:
    """No error of the SDK leaves the room: the rest of the product knows `Refused` only."""
    proxy.arm("*", refusal(code), times=100)
    with pytest.raises(Refused, match=code):
        await events_of(opened.journal())
    with pytest.raises(Refused, match=code):
        await opened.heads().get(SESSION)
    with pytest.raises(Refused, match=code):
        await ids(opened.heads().owned_by("node-a"))
    with pytest.raises(Refused, match=code):
        await opened.table.delete(Key("a", "b"))


async def test_a_conflict_is_read_consistently(opened: OpenTable, proxy: FaultProxy) -> None:
    """What stands in the way of a batched insert is read by a consistent `GetItem` of its own."""
    await opened.table.write(Insert({"PK": "a", "SK": "x", "who": "first"}))
    outcomes = await asyncio.gather(
        *(opened.table.write(Insert({"PK": pk, "SK": "x"})) for pk in ("a", "b")), return_exceptions=True
    )
    assert isinstance(outcomes[0], ConditionUnmet)
    assert [True] == [request.body["ConsistentRead"] for request in proxy.of("GetItem")]


async def test_the_journal_and_head_are_read_consistently(opened: OpenTable, proxy: FaultProxy) -> None:
    """Only the indexes may lag."""
    await events_of(opened.journal())
    await opened.heads().get(SESSION)
    assert [True, True] == [request.body["ConsistentRead"] for request in proxy.of("Query", "GetItem")]


# --- HEAD and nodes behind lost answers (rule 2) ---------------------------------------------------------------------


async def test_a_claim_whose_answer_was_lost_is_ours_by_its_nonce(opened: OpenTable, proxy: FaultProxy) -> None:
    """The repeated claim fails its condition against its own write; owner and nonce say that it won."""
    heads = opened.heads()
    seen = await heads.create(head())
    proxy.arm("UpdateItem", lost_answer)
    claimed = await heads.claim(seen, node_id="node-b", nonce="mine", at=START, from_dead_owner=True)
    assert proxy.is_disarmed
    assert (2, "node-b", "mine", 1) == (claimed.epoch, claimed.owner, claimed.claim_nonce, claimed.takeovers)
    assert claimed == await heads.get(SESSION)


async def test_a_claim_that_lost_the_race_behind_a_reset_is_refused(opened: OpenTable, proxy: FaultProxy) -> None:
    """The same owner id under another nonce is another claim."""
    heads = opened.heads()
    seen = await heads.create(head())
    await heads.claim(seen, node_id="node-b", nonce="another", at=START, from_dead_owner=True)
    proxy.arm("UpdateItem", reset)
    with pytest.raises(NotOwner):
        await heads.claim(seen, node_id="node-b", nonce="mine", at=START, from_dead_owner=True)
    assert proxy.is_disarmed


@pytest.mark.parametrize("operation", ["PutItem", BATCH])
async def test_a_creation_whose_answer_was_lost_is_ours_by_its_nonce(
    opened: OpenTable, proxy: FaultProxy, operation: str
) -> None:
    """Whoever finds its own nonce in HEAD owns the session."""
    proxy.arm(operation, lost_answer)
    wanted = [head(f"session-{n}", nonce=f"mine-{n}") for n in range(1 if operation == "PutItem" else 3)]
    assert wanted == await asyncio.gather(*(opened.heads().create(each) for each in wanted))
    assert proxy.is_disarmed


@pytest.mark.parametrize("operation", ["PutItem", BATCH])
async def test_a_release_and_an_end_whose_answers_were_lost_succeed(
    opened: OpenTable, proxy: FaultProxy, operation: str
) -> None:
    """HEAD as we wished it to be, under our nonce, is success."""
    heads = opened.heads()
    seen = [await heads.create(head(f"session-{n}")) for n in range(1 if operation == "PutItem" else 3)]
    operation = "UpdateItem" if operation == "PutItem" else BATCH
    proxy.arm(operation, lost_answer)
    released = await asyncio.gather(
        *(heads.release(h, SessionStatus.SUSPENDED, last_seq=4, at=START, wake_at=START) for h in seen)
    )
    proxy.arm(operation, lost_answer)
    ended = await asyncio.gather(*(heads.end(h, SessionStatus.FAILED, last_seq=5, at=START) for h in released))
    assert proxy.is_disarmed
    assert ended == [await heads.get(each.session_id) for each in seen]


async def test_a_registration_and_a_tombstone_whose_answers_were_lost_succeed(
    opened: OpenTable, proxy: FaultProxy
) -> None:
    """Both are read back as our own."""
    nodes = opened.nodes()
    proxy.arm("PutItem", lost_answer)
    await nodes.register(node())
    proxy.arm("UpdateItem", lost_answer)
    assert await nodes.declare_dead("node-a", at=START, beat=0)
    assert proxy.is_disarmed


# --- several nodes, large journals, patience -------------------------------------------------------------------------


async def test_of_two_nodes_exactly_one_wins_each_place(opened: OpenTable, ministack: Emulator) -> None:
    """Two tables race for twenty places of one session; the loser learns what stands there, and the journal has all."""
    async with table_beside(opened) as other:
        journals = [opened.journal(), other.journal()]
        winners = []
        for seq in range(1, 21):
            rivals = [recorded(seq, StepCompleted("s", n, 1), node=f"node-{n}") for n in (0, 1)]
            outcomes = await asyncio.gather(
                *(append(journal, event) for journal, event in zip(journals, rivals, strict=True)),
                return_exceptions=True,
            )
            assert 1 == outcomes.count(None)
            winner = rivals[outcomes.index(None)]
            (loss,) = (outcome for outcome in outcomes if outcome is not None)
            assert isinstance(loss, JournalConflict)
            assert winner == loss.existing
            winners.append(winner)
        assert winners == await events_of(journals[0]) == await events_of(journals[1])


async def test_a_journal_of_five_thousand_events_is_read_to_its_end(opened: OpenTable, proxy: FaultProxy) -> None:
    """Two megabytes take several pages, one of them asked for again; no event is missing or doubled."""
    journal = opened.journal()
    for start in range(1, 5_001, 100):
        events = [recorded(seq, StepCompleted(f"step-{seq}", "x" * 200, 1)) for seq in range(start, start + 100)]
        await append(journal, *events)
    proxy.requests.entries.clear()
    proxy.arm("Query", reset)
    assert list(range(1, 5_001)) == [event.seq for event in await events_of(journal)]
    assert proxy.is_disarmed
    assert len(proxy.of("Query")) > 2
    assert [4_999, 5_000] == [event.seq for event in await events_of(journal, after=4_998)]


async def test_unreachability_is_measured_from_the_first_failure_to_the_next_answer(ministack: Emulator) -> None:
    """The health check reads it; a success, or even a refused condition, ends it."""
    clock = WatchedClock()
    patience = patience_of(clock=clock, draw=1.0)
    async with (
        fault_proxy(ministack.endpoint_url) as proxy,
        open_table(ministack, through=proxy.endpoint_url, patience=patience) as opened,
    ):
        assert 0.0 == patience.reachability.unreachable_for()
        proxy.arm("PutItem", refusal("InternalServerError", status=500), times=4)
        writing = asyncio.create_task(append(opened.journal(), recorded(1, started())))
        for attempt in range(1, 5):
            await clock.sleeps.count(attempt)
            assert sum(clock.sleeps.entries[:-1]) == patience.reachability.unreachable_for()
            clock.advance(clock.sleeps.entries[-1])
        await writing
        assert [0.1, 0.2, 0.4, 0.8] == clock.sleeps.entries
        assert 0.0 == patience.reachability.unreachable_for()


async def test_a_write_that_nobody_waits_for_any_more_is_not_repeated(opened: OpenTable, proxy: FaultProxy) -> None:
    """A caller that left during a backoff takes its write along."""
    clock = WatchedClock()
    async with table_beside(opened, patience=patience_of(clock=clock, draw=1.0)) as impatient:
        proxy.arm("PutItem", reset)
        writing = asyncio.create_task(append(impatient.journal(), recorded(1)))
        await clock.sleeps.count(1)
        await end_tasks(writing)
        clock.advance(10)
        await append(impatient.journal(), recorded(1), session_id="next")
    assert [] == await events_of(opened.journal())


async def test_an_update_of_nothing_creates_nothing(opened: OpenTable) -> None:
    """Rule 1 on the wire, alone and in a batch."""
    updates = [Update(Key(f"session-{n}", "HEAD"), sets={"n": 1}) for n in range(3)]
    outcomes = await asyncio.gather(*(opened.table.write(update) for update in updates), return_exceptions=True)
    with pytest.raises(ConditionUnmet):
        await opened.table.write(updates[0])
    assert [ConditionUnmet] * 3 == [type(outcome) for outcome in outcomes]
    assert 0 == await opened.items_count()
