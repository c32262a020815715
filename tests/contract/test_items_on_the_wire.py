"""The items in the table as others see them: the contract's names, keys and types, read by a raw client.

A state machine, a console and the checks of the contract read these; a name here changes only by an issue.
"""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from orchestrator.callbacks import Callback
from orchestrator.inbox import InboxItem
from orchestrator.session.events import AgentCompleted, SessionCompleted, StepFailed
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import ErrorRecord
from tests.contract.fault_proxy import BATCH, FaultProxy
from tests.contract.stage import SESSION, OpenTable, append, head, ids, node, recorded, started
from tests.contract.waiting import START

LATER = START + timedelta(minutes=5)

EXPIRES_AT = str(int((datetime(2026, 1, 31, 12, 0, tzinfo=UTC) + timedelta(days=400 + 90)).timestamp()))
"""The session's start, its longest life, the retention (rule 15)."""


async def test_event_1_is_on_the_wire_what_the_contract_says(opened: OpenTable) -> None:
    """Names, types, ten digits, the form of the instant; no attribute more, none less."""
    event = replace(recorded(1, started({"topic": "tea"})), at=START, event_id="id-1")
    await append(opened.journal(), event)
    item = await opened.wire_item("SESSION#session-1", "EVENT#0000000001")
    assert item is not None
    data = {
        "session_type": "research",
        "tenant": "acme",
        "input": {"topic": "tea"},
        "payload_sha256": "0" * 64,
        "trace": None,
    }
    assert data == json.loads(item.pop("data")["S"])
    assert {
        "PK": {"S": "SESSION#session-1"},
        "SK": {"S": "EVENT#0000000001"},
        "status": {"S": "AGENT_INVOCATION_STARTED"},
        "at": {"S": "2026-01-31T12:00:00.123Z"},
        "epoch": {"N": "1"},
        "node": {"S": "node-a"},
        "event_id": {"S": "id-1"},
        "expires_at": {"N": EXPIRES_AT},
    } == item


async def test_an_operations_event_names_its_operation_beside_the_data(opened: OpenTable) -> None:
    """`operation` is an attribute of its own; the data are the result, the usage and the attempt."""
    event = replace(recorded(12, AgentCompleted("writer#2", "läuft", 3, {"input_tokens": 7})), at=START, event_id="i")
    await append(opened.journal(), event)
    item = await opened.wire_item("SESSION#session-1", "EVENT#0000000012")
    assert item is not None
    assert {"result": "läuft", "attempt": 3, "usage": {"input_tokens": 7}} == json.loads(item["data"]["S"])
    assert ("AGENT_COMPLETED", "writer#2") == (item["status"]["S"], item["operation"]["S"])


async def test_an_error_is_type_code_and_message(opened: OpenTable) -> None:
    """What others read of a failure."""
    await append(opened.journal(), recorded(1, StepFailed("fetch", ErrorRecord("ValueError", "UNHANDLED", "no"), 2)))
    item = await opened.wire_item("SESSION#session-1", "EVENT#0000000001")
    assert item is not None
    error = {"type": "ValueError", "code": "UNHANDLED", "message": "no"}
    assert {"error": error, "attempt": 2} == json.loads(item["data"]["S"])


async def test_an_event_is_the_same_item_whichever_way_it_went(opened: OpenTable, proxy: FaultProxy) -> None:
    """Alone, in a batch or in a transaction: only the keys and the event id differ."""
    names = ["alone", "batch-1", "batch-2", "transaction"]
    event = recorded(1, started({"topic": "tea"}))
    journal = opened.journal()
    await append(journal, event, session_id="alone")
    await asyncio.gather(*(append(journal, event, session_id=name) for name in names[1:3]))
    await append(journal, event, recorded(2), session_id="transaction")
    assert ["PutItem", BATCH, "TransactWriteItems"] == [request.operation for request in proxy.requests.entries]
    items = [await opened.wire_item(f"SESSION#{name}", "EVENT#0000000001") for name in names]
    assert [f"SESSION#{name}" for name in names] == [item.pop("PK")["S"] for item in items if item]
    assert [items[0]] * 4 == items


async def test_a_polling_state_machine_finds_the_end(opened: OpenTable) -> None:
    """The query of the contract: begins_with EVENT#, filtered by the two terminal types."""
    journal = opened.journal()
    await opened.heads().create(head())
    for seq in (1, 2):
        await append(journal, recorded(seq))
    query = {
        "TableName": opened.name,
        "KeyConditionExpression": "PK = :pk AND begins_with(SK, :prefix)",
        "FilterExpression": "#status IN (:completed, :failed)",
        "ExpressionAttributeNames": {"#status": "status"},
        "ExpressionAttributeValues": {
            ":pk": {"S": f"SESSION#{SESSION}"},
            ":prefix": {"S": "EVENT#"},
            ":completed": {"S": "AGENT_BACKGROUND_TASK_COMPLETED"},
            ":failed": {"S": "AGENT_BACKGROUND_TASK_FAILED"},
        },
    }
    before = await opened.clients.dynamodb.query(**query)  # type: ignore[arg-type]
    await append(journal, recorded(3, StepFailed("fetch", ErrorRecord("E", "C", "m"), 1)))
    await append(journal, recorded(4, SessionCompleted({"url": "x"})))
    after = await opened.clients.dynamodb.query(**query)  # type: ignore[arg-type]
    assert (0, 1) == (before["Count"], after["Count"])
    assert {"result": {"url": "x"}} == json.loads(after["Items"][0]["data"]["S"])


async def test_head_is_on_the_wire_what_the_contract_says(opened: OpenTable) -> None:
    """Names and types of the one mutable item; what is not set is not there, so the indexes stay sparse."""
    heads = opened.heads()
    seen = await heads.create(head())
    item = await opened.wire_item("SESSION#session-1", "HEAD")
    assert item is not None
    assert item.pop("state_key")["S"].startswith("RUNNING#")
    common = {
        "PK": {"S": "SESSION#session-1"},
        "SK": {"S": "HEAD"},
        "session_type": {"S": "research"},
        "tenant": {"S": "acme"},
        "epoch": {"N": "1"},
        "inbox_version": {"N": "0"},
        "claim_nonce": {"S": "nonce-1"},
        "takeovers": {"N": "0"},
        "created_at": {"S": "2026-01-31T12:00:00.123Z"},
    }
    running = {
        "state": {"S": "RUNNING"},
        "owner": {"S": "node-a"},
        "last_seq": {"N": "1"},
        "updated_at": {"S": "2026-01-31T12:00:00.123Z"},
    }
    assert common | running == item
    await heads.release(seen, SessionStatus.SUSPENDED, last_seq=7, at=LATER, wake_at=LATER + timedelta(hours=1))
    item = await opened.wire_item("SESSION#session-1", "HEAD")
    assert item is not None
    assert item.pop("state_key")["S"].startswith("SUSPENDED#")
    assert item.pop("due_shard")["S"]
    suspended = {
        "state": {"S": "SUSPENDED"},
        "last_seq": {"N": "7"},
        "wake_at": {"S": "2026-01-31T13:05:00.123Z"},
        "updated_at": {"S": "2026-01-31T12:05:00.123Z"},
    }
    assert common | suspended == item


async def test_the_outbox_of_an_end_is_on_the_wire_what_the_contract_says(opened: OpenTable) -> None:
    """A JSON list while something is owed, no attribute when nothing is; so are the wake-up and the owner."""
    heads = opened.heads()
    seen = await heads.create(head())
    ended = await heads.end(
        seen,
        SessionStatus.CONTINUED,
        last_seq=9,
        at=LATER,
        outbox=("a", "日本"),
        wake_at=LATER,
        continued_as="session-1:g2",
    )
    item = await opened.wire_item("SESSION#session-1", "HEAD")
    assert item is not None
    shown = {name: item.get(name) for name in ("outbox", "wake_at", "owner", "continued_as")}
    expected = {
        "outbox": {"S": '["a","日本"]'},
        "wake_at": {"S": "2026-01-31T12:05:00.123Z"},
        "owner": None,
        "continued_as": {"S": "session-1:g2"},
    }
    assert expected == shown
    await heads.settle_outbox(ended, ())
    item = await opened.wire_item("SESSION#session-1", "HEAD")
    assert item is not None
    assert set() == {"outbox", "wake_at", "due_shard", "owner"} & item.keys()


async def test_a_message_is_on_the_wire_what_the_contract_says(opened: OpenTable) -> None:
    """One item of the session's partition; it goes when the events go."""
    await opened.inbox().put(SESSION, InboxItem("message-1", 3, '{"type":"signal"}'))
    assert {
        "PK": {"S": "SESSION#session-1"},
        "SK": {"S": "INBOX#message-1"},
        "position": {"N": "3"},
        "body": {"S": '{"type":"signal"}'},
        "expires_at": {"N": EXPIRES_AT},
    } == await opened.wire_item("SESSION#session-1", "INBOX#message-1")
    await opened.inbox().delete(SESSION, ["message-1"])
    assert 0 == await opened.items_count()


async def test_a_wake_up_is_on_the_wire_what_the_contract_says(opened: OpenTable) -> None:
    """A key and the day that it may stand."""
    await opened.wake_ups().put("node-a", SESSION)
    assert {
        "PK": {"S": "NODE#node-a"},
        "SK": {"S": "WAKE#session-1"},
        "expires_at": {"N": str(int((START + timedelta(days=1)).timestamp()))},
    } == await opened.wire_item("NODE#node-a", "WAKE#session-1")
    assert [SESSION] == await ids(opened.wake_ups().take("node-a"))
    assert 0 == await opened.items_count()


async def test_a_callback_is_on_the_wire_what_the_contract_says(opened: OpenTable) -> None:
    """Hashes as a set of strings; no answer until there is one; it outlives its timeout."""
    callback = Callback("cb-1", SESSION, "approve", frozenset({"bb", "aa"}), times_out_at=LATER)
    await opened.callbacks().issue(callback, expires_at=LATER + timedelta(days=1))
    promised = {
        "PK": {"S": "CALLBACK#cb-1"},
        "SK": {"S": "CALLBACK"},
        "session_id": {"S": "session-1"},
        "operation": {"S": "approve"},
        "token_sha256": {"SS": ["aa", "bb"]},
        "times_out_at": {"S": "2026-01-31T12:05:00.123Z"},
        "expires_at": {"N": str(int((LATER + timedelta(days=1)).timestamp()))},
    }
    assert promised == await opened.wire_item("CALLBACK#cb-1", "CALLBACK")
    await opened.callbacks().decide("cb-1", '"yes"')
    assert promised | {"answer": {"S": '"yes"'}} == await opened.wire_item("CALLBACK#cb-1", "CALLBACK")


async def test_a_callback_is_the_same_item_in_a_batch(opened: OpenTable, proxy: FaultProxy) -> None:
    """What it lacks is absent there, too; and it does not take down what travels with it."""
    names = ["cb-1", "cb-2", "cb-3"]
    without_timeout = [Callback(name, SESSION, "approve", frozenset({"aa"})) for name in names]
    await opened.callbacks().issue(without_timeout[0], expires_at=LATER)
    await asyncio.gather(*(opened.callbacks().issue(each, expires_at=LATER) for each in without_timeout[1:]))
    assert ["PutItem", BATCH] == [request.operation for request in proxy.requests.entries]
    items = [await opened.wire_item(f"CALLBACK#{name}", "CALLBACK") for name in names]
    assert [f"CALLBACK#{name}" for name in names] == [item.pop("PK")["S"] for item in items if item]
    assert [items[0]] * 3 == items


async def test_a_node_is_on_the_wire_what_the_contract_says(opened: OpenTable) -> None:
    """The registration, its beats, and the tombstone that DynamoDB takes away after a day."""
    nodes = opened.nodes()
    await nodes.register(node())
    await nodes.beat("node-a", sessions=3)
    item = await opened.wire_item("NODES", "NODE#node-a")
    alive = {
        "PK": {"S": "NODES"},
        "SK": {"S": "NODE#node-a"},
        "beat": {"N": "1"},
        "address": {"S": "10.0.0.1:8080"},
        "started_at": {"S": "2026-01-31T12:00:00.123Z"},
        "version": {"S": "0.1.0"},
        "sessions": {"N": "3"},
        "process": {"S": "1:2:3"},
        "poke_key": {"S": "the key of node-a"},
    }
    assert alive == item
    await nodes.declare_dead("node-a", at=LATER, beat=1)
    tombstone = {
        "declared_dead_at": {"S": "2026-01-31T12:05:00.123Z"},
        "expires_at": {"N": str(int((LATER + timedelta(days=1)).timestamp()))},
    }
    assert alive | tombstone == await opened.wire_item("NODES", "NODE#node-a")
