"""A tenant with a limit on real processes: set by command, kept by the nodes, exact after a kill."""

import json
import signal
from pathlib import Path

from orchestrator.session.values import JsonObject
from tests.integration.deployment import Deployment, start_message


async def test_sessions_past_a_tenants_limit_wait_their_turn_across_a_kill(
    deployment: Deployment, tmp_path: Path
) -> None:
    """One runs at a time, in order; its node is killed; the next node goes on, and no slot is left in use."""
    trail = tmp_path / "trail"
    first = await deployment.start(ORCHESTRATOR_HEARTBEAT_SECONDS="0.2", ORCHESTRATOR_NODE_TIMEOUT_SECONDS="2")
    assert 0 == (await deployment.cli("tenants", "set", "acme", "--limit", "1"))[0]
    for number in "123":
        order: JsonObject = {"item": "tea", "amount": 1, "gate": str(tmp_path / number), "trail": str(trail)}
        await deployment.send(start_message("order", order, session_id=f"q-{number}", tenant="acme"))
        await first.logged("session_accepted", session_id=f"q-{number}")
    await first.logged("session_queued", times=2)
    assert {"limit": 1, "used": 1, "queued": 2} == await quota(deployment)
    assert ["QUEUED", "QUEUED", "RUNNING"] == await states(deployment)

    (tmp_path / "1").touch()
    await first.logged("session_queued", session_id="q-2", epoch=1)
    await first.logged("session_promoted", session_id="q-2", epoch=2)
    first.signal(signal.SIGKILL)
    await first.ended()
    assert {"limit": 1, "used": 1, "queued": 1} == await quota(deployment)

    second = await deployment.start(ORCHESTRATOR_HEARTBEAT_SECONDS="0.2", ORCHESTRATOR_NODE_TIMEOUT_SECONDS="2")
    await second.logged("session_claimed", session_id="q-2", epoch=3)
    await second.logged("session_resumed", session_id="q-2", epoch=3)
    assert "QUEUED" in await states(deployment)
    (tmp_path / "2").touch()
    await second.logged("session_promoted", session_id="q-3")
    (tmp_path / "3").touch()
    await second.logged("session_ended", session_id="q-3")
    await deployment.stop(second)
    assert {"limit": 1, "used": 0, "queued": 0} == await quota(deployment)
    begun = [line.split("/")[0] for line in trail.read_text().splitlines()]
    assert ["q-1", "q-2", "q-3"] == list(dict.fromkeys(begun))


async def test_a_raised_limit_lets_in_who_waits(deployment: Deployment, tmp_path: Path) -> None:
    """At once, and not only when the next one ends; and a queued session is cancelled without having run."""
    worker = await deployment.start(ORCHESTRATOR_TENANT_LIMIT="1")
    for number in "1234":
        order: JsonObject = {"item": "tea", "amount": 1, "gate": str(tmp_path / "gate")}
        await deployment.send(start_message("order", order, session_id=f"r-{number}", tenant="acme"))
        await worker.logged("session_accepted", session_id=f"r-{number}")
    url = f"{worker.base_url}/sessions/r-2/cancel"
    async with deployment.http.post(url, json={"reason": "not needed"}) as answer:
        assert 202 == answer.status
    await worker.logged("session_ended", session_id="r-2", status="CANCELLED")
    assert 0 == (await deployment.cli("tenants", "set", "acme", "--limit", "5"))[0]
    await worker.logged("session_promoted", session_id="r-3")
    await worker.logged("session_promoted", session_id="r-4")
    assert {"limit": 5, "used": 3, "queued": 0} == await quota(deployment)
    (tmp_path / "gate").touch()
    await worker.logged("session_ended", times=4)


async def test_the_commands_about_tenants_say_what_is_set(deployment: Deployment) -> None:
    """Whether a node runs or not; a bad id or limit is a usage error."""
    assert {"limit": 0, "used": 0, "queued": 0} == await quota(deployment)
    code, out, _ = await deployment.cli("tenants", "set", "acme", "--limit", "7", "--json")
    assert (0, 7, False) == (code, json.loads(out)["limit"], json.loads(out)["is_default"])
    await deployment.cli("tenants", "set", "free", "--limit", "0")
    code, out, _ = await deployment.cli("tenants", "list", "--json")
    assert [("acme", 7), ("free", 0)] == [(row["tenant"], row["limit"]) for row in map(json.loads, out.splitlines())]
    for arguments in (("a b", "--limit", "1"), ("acme", "--limit", "-1"), ("acme",), ("acme", "--tokens", "1.5")):
        assert 2 == (await deployment.cli("tenants", "set", *arguments))[0]


async def test_a_tenants_budget_is_set_spent_and_shown(deployment: Deployment) -> None:
    """By the commands, on a node that runs; what is shown is what its sessions spent."""
    worker = await deployment.start(ORCHESTRATOR_TENANT_BUDGET='{"agent_calls": 100, "cost": 9}')
    code, out, _ = await deployment.cli("tenants", "set", "acme", "--agent-calls", "1", "--cost", "0", "--json")
    caps = {"tokens": None, "cost": None, "agent_calls": 1, "agent_seconds": None}
    assert (0, caps) == (code, json.loads(out)["caps"])
    for session_id, status in (("b-1", "COMPLETED"), ("b-2", "FAILED")):
        order: JsonObject = {"item": "tea", "amount": 1}
        await deployment.send(start_message("order", order, session_id=session_id, tenant="acme"))
        await worker.logged("session_ended", session_id=session_id, status=status)
    async with deployment.http.get(f"{worker.base_url}/sessions/b-2") as answer:
        assert "TENANT_BUDGET_EXCEEDED" == (await answer.json())["error"]["code"]
    async with deployment.http.get(f"{worker.base_url}/usage?tenant=acme") as answer:
        (shown,) = (await answer.json())["usage"]
    code, out, _ = await deployment.cli("usage", "--json")
    assert (0, [shown]) == (code, [json.loads(line) for line in out.splitlines()])
    assert ("acme", 7, caps) == (shown["tenant"], shown["total_tokens"], shown["caps"])


async def test_a_session_at_its_cap_goes_on_when_somebody_says_so(deployment: Deployment) -> None:
    """By the command, under the name `budget`; who asked for another name is told which there is."""
    worker = await deployment.start()
    await deployment.send(start_message("frugal", None, session_id="f-1"))
    await worker.logged("session_held", session_id="f-1")
    async with deployment.http.get(f"{worker.base_url}/sessions/f-1") as answer:
        view = await answer.json()
    (waiting,) = [each for each in view["current_operations"] if each["kind"] == "approval"]
    assert {"cap": "agent_calls", "limit": 1, "used": 1} == waiting["waits_for"]["subject"]
    assert {"agent_calls": {"limit": 1, "used": 1, "left": 0}} == view["budget"]["caps"]
    assert 0 == (await deployment.cli("approve", "f-1", "budget", "--by", "ann"))[0]
    await worker.logged("session_ended", session_id="f-1", status="COMPLETED")


async def quota(deployment: Deployment) -> dict[str, object]:
    """Return the tenant's limit and counts, as the command shows them."""
    code, out, _ = await deployment.cli("tenants", "get", "acme", "--json")
    assert 0 == code
    return {name: value for name, value in json.loads(out).items() if name in {"limit", "used", "queued"}}


async def states(deployment: Deployment) -> list[str]:
    """Return the states of the tenant's sessions, in order of the alphabet, but for those that have ended."""
    _, out, _ = await deployment.cli("list", "--tenant", "acme", "--json")
    found = sorted(json.loads(line)["state"] for line in out.splitlines())
    return [state for state in found if state != "COMPLETED"]
