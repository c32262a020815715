"""A real node at its limits: too many sessions, a tenant's flood, a blocked loop. It stays well, and catches up."""

from collections import Counter
from pathlib import Path

from orchestrator.session.values import JsonObject
from tests.integration.deployment import Deployment, Worker, start_message

PLACES = 5
SESSIONS = 40


async def test_what_a_node_has_no_room_for_waits_in_the_queue(deployment: Deployment, tmp_path: Path) -> None:
    """It holds as many sessions as it may, is well meanwhile, and runs each of the others once when its turn comes."""
    gate = tmp_path / "gate"
    worker = await deployment.start(ORCHESTRATOR_MAX_SESSIONS=str(PLACES))
    for number in range(SESSIONS):
        order: JsonObject = {"item": "tea", "amount": 1, "gate": str(gate)}
        await deployment.send(start_message("order", order, session_id=f"f-{number}"))
    await worker.logged("session_accepted", times=PLACES)
    status, health = await deployment.ask(worker, "GET", "/health")
    assert (200, "HEALTHY_BUSY", PLACES) == (status, health["status"], health["sessions"])
    assert SESSIONS - PLACES <= await deployment.queue_depth()

    gate.touch()
    ended = await worker.logged("session_ended", times=SESSIONS, status="COMPLETED")
    assert {f"f-{number}": 1 for number in range(SESSIONS)} == Counter(str(line["session_id"]) for line in ended)
    assert "HEALTHY" == await deployment.idle(worker)


async def test_a_tenants_flood_leaves_room_for_the_others(deployment: Deployment, tmp_path: Path) -> None:
    """With a limit for a tenant what it sends beyond waits outside the node's memory, and others pass it."""
    gate = tmp_path / "gate"
    worker = await deployment.start(ORCHESTRATOR_MAX_SESSIONS=str(PLACES), ORCHESTRATOR_TENANT_LIMIT=str(PLACES - 1))
    for number in range(SESSIONS):
        order: JsonObject = {"item": "tea", "amount": 1, "gate": str(gate)}
        await deployment.send(start_message("order", order, session_id=f"l-{number}", tenant="loud"))
    await deployment.send(start_message("echo", "heard", session_id="quiet", tenant="quiet"))
    await worker.logged("session_ended", session_id="quiet", status="COMPLETED")
    assert "HEALTHY_BUSY" == await status_of(deployment, worker)

    gate.touch()
    await worker.logged("session_ended", times=SESSIONS + 1, status="COMPLETED")


async def test_a_submitted_start_goes_in_its_tenants_turn(deployment: Deployment) -> None:
    """The message group makes the queue a fair one; without a tenant it is the default one's."""
    for arguments in (("--tenant", "acme"), ()):
        code, _, error = await deployment.cli("submit", "echo", *arguments)
        assert 0 == code, error
    groups: list[str] = []
    while len(groups) < 2:
        answer = await deployment.clients.sqs.receive_message(
            QueueUrl=deployment.queue_url, MessageSystemAttributeNames=["MessageGroupId"], WaitTimeSeconds=5
        )
        groups += [message["Attributes"]["MessageGroupId"] for message in answer["Messages"]]
    assert ["acme", "default"] == sorted(groups)


async def test_messages_of_one_group_run_side_by_side(deployment: Deployment, tmp_path: Path) -> None:
    """A group on a standard queue keeps no order: one that waits holds up none behind it."""
    worker = await deployment.start()
    order: JsonObject = {"item": "tea", "amount": 1, "gate": str(tmp_path / "gate")}
    await deployment.send(start_message("order", order, session_id="g-1", tenant="acme"), group="acme")
    await worker.logged("session_accepted", session_id="g-1")
    await deployment.send(start_message("echo", 1, session_id="g-2", tenant="acme"), group="acme")
    await worker.logged("session_ended", session_id="g-2", status="COMPLETED")
    (tmp_path / "gate").touch()
    await worker.logged("session_ended", session_id="g-1", status="COMPLETED")


async def test_a_handler_that_blocks_the_loop_delays_the_others_and_no_more(deployment: Deployment) -> None:
    """For a few seconds nothing moves; then everything does, and the node was well."""
    worker = await deployment.start()
    await deployment.send(start_message("blocks-the-loop", 3.0, session_id="b-0"))
    for number in range(1, 10):
        await deployment.send(start_message("echo", number, session_id=f"b-{number}"))
    await worker.logged("session_ended", times=10, status="COMPLETED")
    assert "HEALTHY" == await deployment.idle(worker)


async def status_of(deployment: Deployment, worker: Worker) -> str:
    """Return what the node says of its health. It says nothing else while it is not well."""
    status, health = await deployment.ask(worker, "GET", "/health")
    assert 200 == status, health
    return str(health["status"])
