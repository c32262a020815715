"""Real nodes poke each other: an owner hears at once of what came to another node."""

import asyncio

from orchestrator.session.values import Json
from tests.integration.deployment import Deployment

SIGNALS = 20
KEY = "a-key-for-clients"


async def test_an_owner_is_poked_when_a_signal_comes_to_another_node(deployment: Deployment) -> None:
    """Clients need a key here, nodes sign; no log line holds what a poke is signed with."""
    owner, other = [await deployment.start(ORCHESTRATOR_API_KEYS=KEY) for _ in range(2)]
    asked: Json = {"session_type": "takes-signals", "input": SIGNALS, "session_id": "s"}
    assert 202 == (await deployment.ask(owner, "POST", "/sessions", asked, Authorization=f"Bearer {KEY}"))[0]
    poke_keys = [item["poke_key"]["S"] for item in await registrations(deployment)]
    assert 2 == len({key for key in poke_keys if len(key) >= 32})
    # A note may come right before its owner looks by itself: not every one needs the poke.
    for number in range(SIGNALS):
        path = "/sessions/s/signals/nudge"
        assert 202 == (await deployment.ask(other, "POST", path, number, Authorization=f"Bearer {KEY}"))[0]
        await owner.logged("wake_ups_taken", times=number + 1)
    await owner.logged("wake_ups_taken", poked=True)
    await owner.logged("session_ended", session_id="s", status="COMPLETED")
    assert [*range(SIGNALS)] == await deployment.result("s")
    assert [] == [line for worker in (owner, other) for line in worker.lines if line["event"] == "node_not_reached"]
    assert not any(key in "\n".join(owner.raw + other.raw) for key in poke_keys)


async def test_a_node_is_registered_where_it_can_be_reached(deployment: Deployment) -> None:
    """At the port that it got where 0 was asked for; bound to all addresses, at one of this machine."""
    for host in ("127.0.0.1", "0.0.0.0"):
        worker = await deployment.start(ORCHESTRATOR_HOST=host)
        node_id = (await worker.logged("node_ready"))[0]["node"]
        addresses = {item["SK"]["S"]: item["address"]["S"] for item in await registrations(deployment)}
        address = addresses[f"NODE#{node_id}"]
        assert not address.startswith("0.0.0.0")
        async with asyncio.timeout(10), deployment.http.get(f"http://{address}/health") as answer:
            assert node_id == (await answer.json())["node"]


async def registrations(deployment: Deployment) -> list[dict[str, dict[str, str]]]:
    """Return the nodes' items."""
    answer = await deployment.clients.dynamodb.query(
        TableName=deployment.settings.table,
        KeyConditionExpression="PK = :pk",
        ExpressionAttributeValues={":pk": {"S": "NODES"}},
        ConsistentRead=True,
    )
    return [
        {name: {kind: str(text) for kind, text in value.items()} for name, value in item.items()}
        for item in answer["Items"]
    ]
