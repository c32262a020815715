"""Items that a newer version wrote, or that somebody changed by hand, harm nobody but themselves (I8, I11)."""

import json

from tests.integration.deployment import Deployment, start_message

SECRET = "S3CR3T"


async def test_items_that_this_version_cannot_read_stop_neither_the_node_nor_other_sessions(
    deployment: Deployment,
) -> None:
    """A HEAD with an unknown state, a registration without its fields, an event of an unknown type: others go on."""
    past = "2026-01-01T00:00:00.000Z"
    head = {"session_type": "echo", "tenant": "t", "state": "HIBERNATING", "created_at": past, "updated_at": past}
    due = {"due_shard": "DUE#0", "wake_at": past, "state_key": "BLOCKED#0"}
    await _put(deployment, {"PK": "SESSION#newer", "SK": "HEAD", **head, **due})
    # Its name sorts before all of ours: whoever stumbles over it looks at none of them.
    await _put(deployment, {"PK": "NODES", "SK": "NODE#0", "shape": "new"})
    await deployment.send(start_message("never-returns", session_id="odd"))
    first = await deployment.start()
    await first.logged("session_accepted", session_id="odd")
    await first.logged("rescue_failed", chore="claim")
    first.process.kill()
    await first.ended()
    event = {"status": "TELEPORTED", "at": past, "data": "{}", "node": "n", "event_id": "e"}
    await _put(deployment, {"PK": "SESSION#odd", "SK": "EVENT#0000000002", **event}, epoch="1")

    second = await deployment.start()
    dead = (await first.logged("node_ready"))[0]["node"]
    await second.logged("session_claimed", session_id="odd", dead_owner=dead)
    await second.logged("session_blocked", session_id="odd", code="UNREADABLE_EVENT")
    # Not through the queue, whose next message may still go to the poll of the killed node.
    start = {"session_type": "echo", "input": 1, "session_id": "good"}
    async with deployment.http.post(f"{second.base_url}/sessions", json=start) as answer:
        assert 202 == answer.status
    await second.logged("session_ended", session_id="good", status="COMPLETED")
    async with deployment.http.get(f"{second.base_url}/sessions/odd") as answer:
        view = await answer.json()
        assert (200, "BLOCKED", "UNREADABLE_EVENT") == (answer.status, view["state"], view["error"]["code"])
    async with deployment.http.get(f"{second.base_url}/sessions/odd/events") as answer:
        page = await answer.json()
        assert ([1], "UNREADABLE_EVENT") == ([event["seq"] for event in page["events"]], page["error"]["code"])
    async with deployment.http.get(f"{second.base_url}/sessions/newer") as answer:
        assert (503, "UNREADABLE_HEAD") == (answer.status, (await answer.json())["code"])
    # By share, or at the next look.
    await second.logged("rescue_failed")
    assert 0 == await deployment.stop(second)
    # What cannot be read is stumbled over when it is claimed, and neither in a listing nor among the nodes.
    failed = await first.logged("rescue_failed") + await second.logged("rescue_failed")
    assert {"claim"} == {line["chore"] for line in failed}


async def test_what_a_caller_or_a_handler_says_does_not_reach_the_log(deployment: Deployment) -> None:
    """Inputs, error texts, keys and malformed requests stay out of it, whatever they hold."""
    worker = await deployment.start(ORCHESTRATOR_API_KEYS=SECRET)
    await deployment.send(start_message("raises", SECRET, session_id="r-1"))
    await worker.logged("session_ended", session_id="r-1")
    raised = (await worker.logged("handler_raised"))[0]
    assert ("RuntimeError", True) == (raised["type"], "sample_app.py" in str(raised["frames"]))
    for headers in ({"Authorization": f"Bearer {SECRET}" + "x" * 9_000}, {"Authorization": f"Basic {SECRET}"}):
        async with deployment.http.get(f"{worker.base_url}/sessions/x", headers=headers) as answer:
            assert answer.status in {400, 401}
    await deployment.send(json.dumps({"kind": SECRET}))
    await worker.logged("message_dead_lettered")
    assert [] == [line for line in worker.raw if SECRET in line or "the handler's own reason" in line]
    # That a request is malformed is no error of the node: its server says nothing of it.
    assert [] == [line for line in worker.raw if "aiohttp" in line]


async def _put(deployment: Deployment, texts: dict[str, str], **numbers: str) -> None:
    await deployment.clients.dynamodb.put_item(
        TableName=deployment.settings.table,
        Item={
            **{name: {"S": text} for name, text in texts.items()},
            **{name: {"N": number} for name, number in numbers.items()},
        },
    )
