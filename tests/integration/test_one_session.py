"""The main job: a message in, one durable session, one recorded end; and what an operator sees of it."""

import asyncio
import json
import re
import signal
import time
from pathlib import Path

from orchestrator.session.values import JsonObject
from tests.integration.deployment import Deployment, start_message

ORDER_EVENTS = [
    "AGENT_INVOCATION_STARTED",
    "STEP_COMPLETED",
    "STEP_COMPLETED",
    "STEP_COMPLETED",
    "AGENT_STARTED",
    "PROGRESS_REPORTED",
    "AGENT_COMPLETED",
    "AGENT_BACKGROUND_TASK_COMPLETED",
]


async def test_a_message_becomes_one_session_with_one_recorded_end(deployment: Deployment) -> None:
    """The journal holds each operation once and one terminal event; HEAD follows; the message is gone."""
    worker = await deployment.start()
    await deployment.send(start_message("order", {"item": "tea", "amount": 21}, session_id="o-1", tenant="acme"))
    await worker.logged("session_ended", session_id="o-1")

    assert ORDER_EVENTS == await deployment.statuses("o-1")
    head = await deployment.head("o-1")
    assert ("COMPLETED", "acme", "order", "8") == (
        head["state"],
        head["tenant"],
        head["session_type"],
        head["last_seq"],
    )
    assert "owner" not in head
    worker.signal(signal.SIGTERM)
    assert 0 == await worker.ended()
    assert 0 == await deployment.queue_depth()


async def test_the_items_of_a_session_are_those_of_the_contract(deployment: Deployment) -> None:
    """Keys, attribute names and formats are what a state machine and a console query rely on."""
    worker = await deployment.start()
    await deployment.send(start_message("echo", {"a": 1}, session_id="e-1"))
    await worker.logged("session_ended", session_id="e-1")

    first, last, head = await deployment.items("e-1")
    assert ("SESSION#e-1", "EVENT#0000000001", "1") == (first["PK"], first["SK"], first["epoch"])
    assert {"PK", "SK", "status", "at", "data", "epoch", "node", "event_id", "expires_at"} == set(first)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["at"])
    assert {"session_type", "tenant", "input", "payload_sha256"} <= set(json.loads(first["data"]))
    assert {"result": {"a": 1}} == json.loads(last["data"])
    assert "HEAD" == head["SK"]


async def test_a_restarted_node_goes_on_where_the_killed_one_was(deployment: Deployment, tmp_path: Path) -> None:
    """After SIGKILL the session is claimed with a new epoch; recorded steps do not run again, the one in hand does."""
    trail, gate = tmp_path / "trail", tmp_path / "gate"
    order: JsonObject = {"item": "tea", "amount": 1, "trail": str(trail), "gate": str(gate)}
    first = await deployment.start()
    await deployment.send(start_message("order", order, session_id="k-1"))
    await asyncio.to_thread(_wait_for_lines, trail, 2)
    first.signal(signal.SIGKILL)
    await first.ended()

    second = await deployment.start(ORCHESTRATOR_HEARTBEAT_SECONDS="0.5")
    await second.logged("session_resumed", session_id="k-1")
    gate.touch()
    await second.logged("session_ended", session_id="k-1", status="COMPLETED")

    assert ["k-1/price", "k-1/gate", "k-1/gate", "k-1/stamp"] == trail.read_text().split()
    statuses = await deployment.statuses("k-1")
    assert 1 == statuses.count("SESSION_RESUMED")
    assert 1 == statuses.count("AGENT_BACKGROUND_TASK_COMPLETED")
    epochs = [int(item["epoch"]) for item in await deployment.items("k-1") if item["SK"].startswith("EVENT#")]
    assert sorted(epochs) == epochs
    assert 2 == epochs[-1]


async def test_a_drained_node_hands_over_what_it_cannot_finish(deployment: Deployment, tmp_path: Path) -> None:
    """SIGTERM ends the process in order; another node goes on within seconds, without counting a takeover."""
    gate = tmp_path / "gate"
    first = await deployment.start(ORCHESTRATOR_DRAIN_SECONDS="0.2")
    await deployment.send(start_message("order", {"item": "tea", "amount": 1, "gate": str(gate)}, session_id="d-1"))
    await first.logged("session_accepted", session_id="d-1")
    assert 0 == await deployment.stop(first)
    await first.logged("session_handed_over", session_id="d-1")
    head = await deployment.head("d-1")
    assert "owner" not in head
    assert "wake_at" in head

    second = await deployment.start()
    gate.touch()
    await second.logged("session_ended", session_id="d-1", status="COMPLETED")
    assert "0" == (await deployment.head("d-1"))["takeovers"]


async def test_the_same_message_fifty_times_at_once_is_one_session(deployment: Deployment) -> None:
    """Same key, same payload: one run, its result; forty-nine duplicates are absorbed (I4)."""
    body = start_message("echo", {"n": 1}, idempotency_key="once")
    await asyncio.gather(*(deployment.send(body) for _ in range(50)))
    worker = await deployment.start()
    absorbed = await worker.logged("duplicate_absorbed", times=49)
    accepted = await worker.logged("session_accepted")
    assert 1 == len(accepted)
    session_id = str(accepted[0]["session_id"])
    assert {session_id} == {line["session_id"] for line in absorbed}
    await worker.logged("session_ended", session_id=session_id)
    assert ["AGENT_INVOCATION_STARTED", "AGENT_BACKGROUND_TASK_COMPLETED"] == await deployment.statuses(session_id)


async def test_two_payloads_under_one_key_at_once_give_one_session_and_one_conflict(deployment: Deployment) -> None:
    """Same key, other payload: the first one that is accepted runs untouched, the other is dead-lettered (I4)."""
    await deployment.send(start_message("echo", {"n": 1}, idempotency_key="clash"))
    await deployment.send(start_message("echo", {"n": 2}, idempotency_key="clash"))
    worker = await deployment.start()
    await worker.logged("session_ended")
    letters = await deployment.dead_letters(1)
    assert "IDEMPOTENCY_CONFLICT" == letters[0][1]["ErrorCode"]
    assert 1 == len(await worker.logged("session_accepted"))


async def test_a_failing_step_is_tried_again_as_its_policy_says(deployment: Deployment, tmp_path: Path) -> None:
    """Attempts are journaled, and the result is that of the attempt that succeeded."""
    worker = await deployment.start()
    trail = tmp_path / "trail"
    await deployment.send(start_message("flaky", str(trail), session_id="f-1"))
    await worker.logged("session_ended", session_id="f-1", status="COMPLETED")
    assert 3 == len(trail.read_text().split())
    assert [
        "AGENT_INVOCATION_STARTED",
        "STEP_RETRYING",
        "STEP_RETRYING",
        "STEP_COMPLETED",
        "AGENT_BACKGROUND_TASK_COMPLETED",
    ] == await deployment.statuses("f-1")


async def test_every_line_of_a_session_says_which_session_and_no_line_holds_a_payload(deployment: Deployment) -> None:
    """Lines carry session id, epoch and trace id; inputs and results stay out of the log."""
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    worker = await deployment.start()
    await deployment.send(
        start_message("order", {"item": "oolong-secret", "amount": 1}, session_id="l-1"),
        traceparent=f"00-{trace_id}-b7ad6b7169203331-01",
    )
    await worker.logged("session_ended", session_id="l-1")
    lines = [line for line in worker.lines if line.get("session_id") == "l-1" and "epoch" in line]
    assert {"session_accepted", "agent_started", "receipt_written", "session_ended"} == {
        line["event"] for line in lines
    }
    assert {trace_id} == {line["trace_id"] for line in lines}
    assert "clerk" == next(line for line in lines if line["event"] == "agent_started")["operation"]
    assert [] == [line for line in worker.raw if "oolong-secret" in line]


def _wait_for_lines(path: Path, count: int) -> None:
    """Return once the file has so many lines; bounded, from a thread."""
    for _ in range(2_000):
        if path.exists() and len(path.read_text().split()) >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not get {count} lines")
