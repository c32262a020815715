"""The checker on tables that were tampered with: it names each invariant that is broken, and none that is not."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.simulation.checker import Record, violations

Items = list[dict[str, Any]]


def event(
    seq: int, status: str, *, session_id: str = "s", epoch: int = 1, node: str = "a", **more: Any
) -> dict[str, Any]:
    """Return an event as an item."""
    operation = {"operation": more.pop("operation")} if "operation" in more else {}
    return {
        "PK": f"SESSION#{session_id}",
        "SK": f"EVENT#{seq:010d}",
        "status": status,
        "epoch": epoch,
        "node": node,
        "data": json.dumps(more),
        **operation,
    }


def a_run() -> Items:
    """Return a session that waited for a signal, ran a step, was taken over, asked people and completed."""
    return [
        {"PK": "SESSION#s", "SK": "HEAD", "state": "COMPLETED", "last_seq": 7, "epoch": 2},
        event(1, "AGENT_INVOCATION_STARTED", payload_sha256="digest", task_token="t"),
        event(2, "SIGNAL_RECEIVED", message_id="m-1"),
        event(3, "STEP_COMPLETED", operation="step", result="step|1"),
        event(4, "SESSION_RESUMED", epoch=2, node="b"),
        event(5, "APPROVAL_REQUESTED", epoch=2, node="b", operation="approval", callback_id="c"),
        event(6, "CALLBACK_COMPLETED", epoch=2, node="b", operation="approval"),
        event(7, "AGENT_BACKGROUND_TASK_COMPLETED", epoch=2, node="b", result={"seen": ["step|1"]}),
        {"PK": "TENANT#acme", "SK": "QUOTA", "used": 0, "queued": 0},
    ]


RECORDS = [
    Record("accepted", "s", value="digest"),
    Record("told", "s", message_id="m-1", detail="signal"),
    Record("ran", "s", "step", 1, 1, "step|1"),
    Record("notified", "s", "approval", message_id="c"),
    Record("announced", "s", "approval", message_id="ntf-1"),
    Record("announced", "s", value="COMPLETED", message_id="ntf-2"),
    Record("answered", "s", value="COMPLETED"),
    Record("bad", value="m-2"),
    Record("dead-lettered", value="m-2", detail="INVALID_JSON"),
]


def without(seq: int) -> Callable[[Items], object]:
    """Return what takes an event away."""
    return lambda items: items.remove(next(i for i in items if i["SK"].endswith(f"{seq:010d}")))


def changed(sk: str, **values: Any) -> Callable[[Items], object]:
    """Return what changes an item."""
    return lambda items: next(i for i in items if i["SK"].endswith(sk)).update(values)


def added(item: dict[str, Any]) -> Callable[[Items], object]:
    """Return what adds an item."""
    return lambda items: items.append(item)


TAMPERED: dict[str, tuple[str, Callable[[Items], object], list[Record]]] = {
    "an event is missing": ("I1", without(3), []),
    "it goes on after its end": ("I2", added(event(8, "STEP_COMPLETED", epoch=2, node="b", operation="x")), []),
    "its HEAD says otherwise": ("I2", changed("HEAD", state="FAILED"), []),
    "it was accepted and is not there": ("I3", lambda _: None, [Record("accepted", "nobody")]),
    "it was accepted too early": ("I3", lambda _: None, [Record("accepted", "s", detail="not durable")]),
    "it runs with another payload": ("I4", lambda _: None, [Record("accepted", "s", value="other")]),
    "it refused its own payload": ("I4", lambda _: None, [Record("conflict", "s", value="digest")]),
    "an outcome is recorded twice": ("I5", changed("0002", status="STEP_FAILED", operation="step"), []),
    "a result was never computed": ("I5", changed("0003", data='{"result": "step|9"}'), []),
    "a step ran again": ("I5", lambda _: None, [Record("ran", "s", "step", 1, 2, "step|2")]),
    "a step ran again, known": ("I5", lambda _: None, [Record("ran", "s", "step", 1, 0, "step|2", detail="read")]),
    "once was twice": ("I5", lambda _: None, [Record("ran", "s", "o", 1, 0, v, detail="once") for v in ("1", "2")]),
    "it saw what is not recorded": ("I5", changed("0007", data='{"result": {"seen": ["step|8"]}}'), []),
    "it ran too early": ("I6", lambda _: None, [Record("ran", "s", "agent", 1, 0, "agent|1", detail="early")]),
    "people were asked for nothing": ("I6", lambda _: None, [Record("notified", "s", "other", message_id="c")]),
    "people were asked by two ids": ("I6", lambda _: None, [Record("notified", "s", "approval", message_id="d")]),
    "an end was announced too early": (
        "I6",
        lambda _: None,
        [Record("announced", "s", value="COMPLETED", message_id="ntf-2", detail="early")],
    ),
    "an end was announced as another": ("I6", lambda _: None, [Record("announced", "s", value="FAILED")]),
    "an end was announced by two ids": ("I6", lambda _: None, [Record("announced", "s", value="COMPLETED")]),
    "an end was never recorded": ("I6", lambda _: None, [Record("announced", "t", value="COMPLETED")]),
    "a task heard another end": ("I6", lambda _: None, [Record("answered", "s", value="STEP_FAILED")]),
    "it owes something": ("I6", changed("HEAD", outbox='["x"]'), []),
    "an epoch falls": ("I7", changed("0006", epoch=1), []),
    "an epoch has two writers": ("I7", changed("0006", node="c"), []),
    "an epoch is not resumed": ("I7", changed("0004", status="VALUE_RECORDED"), []),
    "it never ended": ("I8", without(7), []),
    "a message is journaled twice": (
        "I9",
        changed("0006", status="SIGNAL_RECEIVED", data='{"message_id": "m-1"}'),
        [],
    ),
    "a message is lost": ("I9", without(7), [Record("told", "s", message_id="m-9", detail="signal")]),
    "a count drifted": ("I10", changed("QUOTA", used=1), []),
    "a slot is kept": ("I10", added({"PK": "TENANT#acme", "SK": "SLOT#s"}), []),
    "rubbish is gone": ("I11", lambda _: None, [Record("bad", value="m-3")]),
    "a good message is dead": ("I11", lambda _: None, [Record("dead-lettered", value="m-4", detail="X")]),
    "an item is too large": ("I12", changed("0003", filler="x" * 500_000), []),
    "a reference points at nothing": ("I12", changed("0005", data='{"subject": {"artifact": "s3://b/gone"}}'), []),
}


def test_a_run_in_order_breaks_nothing() -> None:
    """And what is in the bucket may be referred to."""
    items = a_run()
    items[3]["data"] = '{"result": {"artifact": "s3://bucket/key"}}'
    items[7]["data"] = '{"result": {}}'
    assert [] == violations(a_run(), RECORDS, has_bus=True)
    assert [] == violations(items, RECORDS, objects={"key"})


@pytest.mark.parametrize("flaw", TAMPERED)
def test_a_flaw_is_named_by_its_invariant(flaw: str) -> None:
    """Whatever else it breaks besides."""
    invariant, tamper, records = TAMPERED[flaw]
    items = a_run()
    tamper(items)
    found = violations(items, [*RECORDS, *records])
    assert invariant in {each.partition(":")[0] for each in found}, found


@pytest.mark.parametrize("kind", ["announced", "answered"])
def test_an_end_that_nobody_heard_of_is_named(kind: str) -> None:
    """Where there is a bus; and a task that waits for it is answered anywhere."""
    records = [record for record in RECORDS if record.kind != kind]
    (found,) = violations(a_run(), records, has_bus=True)
    assert found.startswith("I6:")
