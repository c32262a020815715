"""The endpoints and the commands, against a real node."""

import asyncio
import json
import signal
from pathlib import Path

from orchestrator import testing
from orchestrator.session.values import JsonObject
from tests.integration import sample_app
from tests.integration.deployment import APP, Deployment, Worker, start_message

KEY = "correct-horse"


async def test_a_session_over_http_is_accepted_once(deployment: Deployment) -> None:
    """202 with Location for a new one, 200 for the same again, 409 for another payload under the same key."""
    worker = await deployment.start()
    url, headers = f"{worker.base_url}/sessions", {"Idempotency-Key": "k"}
    async with deployment.http.post(url, json={"session_type": "echo", "input": 1}, headers=headers) as first:
        assert 202 == first.status
        body = await first.json()
        assert f"/sessions/{body['session_id']}" == first.headers["Location"]
        assert "ACCEPTED" == body["status"]
    await worker.logged("session_ended", session_id=body["session_id"])
    async with deployment.http.post(url, json={"session_type": "echo", "input": 1}, headers=headers) as again:
        assert (200, body["session_id"]) == (again.status, (await again.json())["session_id"])
    for told in ("session_accepted", "duplicate_absorbed"):
        await worker.logged(told, session_id=body["session_id"])
    async with deployment.http.post(url, json={"session_type": "echo", "input": 2}, headers=headers) as other:
        problem = await other.json(content_type="application/problem+json")
        assert (409, "IDEMPOTENCY_CONFLICT") == (other.status, problem["code"])


async def test_a_session_and_its_events_can_be_read(deployment: Deployment) -> None:
    """The view has the contract's fields; events come in pages; an unknown id is a 404 problem."""
    worker = await deployment.start()
    await deployment.send(start_message("order", {"item": "tea", "amount": 2}, session_id="v-1"))
    await worker.logged("session_ended", session_id="v-1")
    view = await _get(deployment, worker, "/sessions/v-1", 200)
    assert {
        "session_id": "v-1",
        "session_type": "order",
        "tenant": "default",
        "state": "COMPLETED",
        "result": {"number": "v-1/tea", "total": 4},
        "error": None,
        "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "agent_calls": 1},
        "current_operations": [],
    } == {name: view[name] for name in sorted(view) if name in VIEW} | {"usage": without_time(view["usage"])}
    page = await _get(deployment, worker, "/sessions/v-1/events?after=2&limit=3", 200)
    assert [3, 4, 5] == [event["seq"] for event in page["events"]]
    assert 5 == page["next_after"]
    rest = await _get(deployment, worker, "/sessions/v-1/events?after=5", 200)
    assert [6, 7, 8] == [event["seq"] for event in rest["events"]]
    for path in ("/sessions/nobody", "/sessions/nobody/events"):
        assert "UNKNOWN_SESSION" == (await _get(deployment, worker, path, 404))["code"]
    assert "INVALID_QUERY" == (await _get(deployment, worker, "/sessions/v-1/events?after=x", 422))["code"]


def without_time(usage: dict[str, object]) -> dict[str, object]:
    """Return the counts, without how long the agents took."""
    return {name: count for name, count in usage.items() if name != "agent_seconds"}


VIEW = {"session_id", "session_type", "tenant", "state", "result", "error", "usage", "current_operations"}


async def test_health_is_busy_exactly_while_work_runs(deployment: Deployment, tmp_path: Path) -> None:
    """HEALTHY, HEALTHY_BUSY while a session is worked on, HEALTHY again; ping's time moves with the status only."""
    gate = tmp_path / "gate"
    worker = await deployment.start()
    idle = await _get(deployment, worker, "/ping", 200)
    assert "Healthy" == idle["status"]
    assert {"status", "time_of_last_update"} == set(idle)
    assert idle == await _get(deployment, worker, "/ping", 200)
    assert 200 == (await deployment.http.get(f"{worker.base_url}/ready")).status

    await deployment.send(start_message("order", {"item": "tea", "amount": 2, "gate": str(gate)}, session_id="h-1"))
    await worker.logged("session_accepted", session_id="h-1")
    busy = await _get(deployment, worker, "/health", 200)
    assert ("HEALTHY_BUSY", 1, 1, False) == tuple(busy[n] for n in ("status", "active_tasks", "sessions", "draining"))
    assert "HealthyBusy" == (await _get(deployment, worker, "/ping", 200))["status"]
    gate.touch()
    await worker.logged("session_ended", session_id="h-1")
    assert "HEALTHY" == await deployment.idle(worker)
    code, out, _ = await deployment.cli("health", "--url", worker.base_url, "--json")
    assert (0, "HEALTHY") == (code, json.loads(out)["status"])


async def test_a_draining_node_says_so_and_takes_nothing(deployment: Deployment, tmp_path: Path) -> None:
    """/ready and POST /sessions answer 503, the latter with Retry-After; /health says draining."""
    worker = await deployment.start(ORCHESTRATOR_DRAIN_SECONDS="30")
    gate = tmp_path / "gate"
    await deployment.send(start_message("order", {"item": "tea", "amount": 2, "gate": str(gate)}, session_id="q-1"))
    await worker.logged("session_accepted", session_id="q-1")
    worker.signal(signal.SIGTERM)
    await worker.logged("node_draining")
    assert "draining" == (await _get(deployment, worker, "/ready", 503))["reason"]
    assert (await _get(deployment, worker, "/health", 200))["draining"] is True
    async with deployment.http.post(f"{worker.base_url}/sessions", json={"session_type": "echo"}) as answer:
        assert (503, "5") == (answer.status, answer.headers["Retry-After"])
    gate.touch()
    await worker.logged("session_ended", session_id="q-1", status="COMPLETED")
    assert 0 == await worker.ended()
    (drained,) = await worker.logged("node_drained")
    assert (1, 0) == (drained["finished"], drained["handed_over"])


async def test_keys_guard_everything_but_health(deployment: Deployment) -> None:
    """With keys set a request needs one of them; probes and callbacks do not."""
    worker = await deployment.start(ORCHESTRATOR_API_KEYS=f"other,{KEY}")
    url = f"{worker.base_url}/sessions/nobody"
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}):
        async with deployment.http.get(url, headers=header) as answer:
            assert 401 == answer.status
    async with deployment.http.get(url, headers={"Authorization": f"Bearer {KEY}"}) as answer:
        assert 404 == answer.status
    for path in ("/ping", "/health", "/ready"):
        await _get(deployment, worker, path, 200)
    assert [] == [line for line in worker.raw if KEY in line]


async def test_the_commands_start_and_show_sessions(deployment: Deployment) -> None:
    """submit, status, events --follow and list, with JSON on standard output and the contract's exit codes."""
    worker = await deployment.start()
    order = '{"item": "tea", "amount": 4}'
    code, out, err = await deployment.cli("submit", "order", "--input", order, "--key", "c1", "--wait")
    assert (0, 8) == (code, json.loads(out)["total"]), err
    code, out, _ = await deployment.cli("submit", "order", "--input", "-", "--key", "c1", "--json", stdin=order)
    session_id = json.loads(out)["session_id"]
    await worker.logged("duplicate_absorbed", session_id=session_id)
    code, out, _ = await deployment.cli("status", session_id, "--json")
    assert (0, "COMPLETED") == (code, json.loads(out)["state"])
    code, out, _ = await deployment.cli("events", session_id, "--follow", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert (0, list(range(1, 9))) == (code, [event["seq"] for event in events])
    code, out, _ = await deployment.cli("list", "--state", "completed", "--type", "order", "--json")
    assert [session_id] == [json.loads(line)["session_id"] for line in out.splitlines()]
    code, out, _ = await deployment.cli("submit", "raises", "--wait", "--json")
    assert (1, "FAILED") == (code, json.loads(out)["state"])
    code, out, err = await deployment.cli("submit", "order", "--input", "{}", "--wait")
    assert (1, "", True) == (code, out, "INVALID_INPUT: input.item: Field required" in err), err


async def test_waiting_for_a_start_whose_key_is_taken_tells_of_the_conflict(deployment: Deployment) -> None:
    """The first one's result is none of this payload's: exit 1 with the code, whether the first has ended or not."""
    worker = await deployment.start()
    for session_type, first in (("echo", '"tea"'), ("takes-signals", "1")):
        code, out, err = await deployment.cli("submit", session_type, "--input", first, "--key", "taken", "--json")
        assert 0 == code, err
        await worker.logged("session_accepted", session_id=json.loads(out)["session_id"])
        code, out, err = await deployment.cli("submit", session_type, "--input", "2", "--key", "taken", "--wait")
        assert (1, "", True) == (code, out, "IDEMPOTENCY_CONFLICT" in err), err


async def test_a_live_journal_is_replayed_against_the_code_of_today(deployment: Deployment, tmp_path: Path) -> None:
    """`replay` says that it matches, or the first difference; nothing runs, and a recording replays in a test."""
    worker = await deployment.start()
    trail, module = tmp_path / "trail", tmp_path / "changed_app.py"
    order: JsonObject = {"item": "tea", "amount": 2, "trail": str(trail)}
    await deployment.send(start_message("order", order, session_id="r-1"))
    await worker.logged("session_ended", session_id="r-1")
    before = trail.read_text()
    code, out, err = await deployment.cli("replay", "r-1", APP)
    assert (0, "", "matches (8 events, 4 operations)") == (code, out, err.strip())
    code, out, _ = await deployment.cli("replay", "r-1", APP, "--json")
    assert (0, {"session_id": "r-1", "matches": True, "events": 8, "operations": 4, "difference": None}) == (
        code,
        json.loads(out),
    )
    await deployment.send(start_message("echo", "x" * 210_000, session_id="r-2"))
    await worker.logged("session_ended", session_id="r-2")
    code, out, err = await deployment.cli("replay", "r-2", APP)
    assert (0, "matches (2 events, 0 operations)") == (code, err.strip())
    module.write_text(CHANGED_APP)
    environment = {"PYTHONPATH": str(tmp_path)}
    code, out, err = await deployment.cli("replay", "r-1", "changed_app:app", **environment)
    assert (1, "") == (code, out)
    assert "r-1: the journal records step 'price' next, the handler asked for operation 'costs'" in err, err
    code, out, _ = await deployment.cli("replay", "r-1", "changed_app:app", "--json", **environment)
    assert (1, False) == (code, json.loads(out)["matches"])
    code, out, err = await deployment.cli("replay", "nobody", APP)
    assert (3, "") == (code, out), err
    assert before == trail.read_text()
    code, out, _ = await deployment.cli("events", "r-1", "--json")
    (tmp_path / "r-1.jsonl").write_text(out)
    for journal in testing.recorded_journals(tmp_path):
        testing.replay(journal, sample_app.app)


CHANGED_APP = """
from orchestrator import Orchestrator, SessionContext

app = Orchestrator()

@app.session("order")
async def order(ctx: SessionContext, order: dict) -> None:
    await ctx.step("costs", print, "never")
"""


async def test_commands_that_cannot_succeed_say_why_in_one_line(deployment: Deployment) -> None:
    """Exit codes: 2 usage, 3 not found, 4 unreachable; the reason stands on standard error."""
    cases: list[tuple[tuple[str, ...], dict[str, str], int, str]] = [
        (("status", "nobody"), {}, 3, "nobody"),
        (("events", "nobody"), {}, 3, "nobody"),
        (("submit", "echo", "--input", "{"), {}, 2, "--input"),
        (("serve", "no_such_module:app"), {}, 2, "no_such_module"),
        (("serve", "tests.integration.sample_app"), {}, 2, "MODULE:APP"),
        (("serve", "tests.integration.sample_app:Order"), {}, 2, "Orchestrator"),
        (("status", "x"), {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 4, "127.0.0.1:9"),
        (("status", "x"), {"ORCHESTRATOR_TABLE": "missing"}, 4, "missing"),
        (("serve", "tests.integration.sample_app:app"), {"ORCHESTRATOR_QUEUE": "missing"}, 4, "provision"),
        (("health", "--url", "http://127.0.0.1:9"), {}, 4, "127.0.0.1:9"),
        (("list",), {"AWS_ENDPOINT_URL": "nonsense"}, 2, "AWS_ENDPOINT_URL: 'nonsense'"),
        (("list",), {"AWS_ENDPOINT_URL": "http://a:many"}, 2, "AWS_ENDPOINT_URL"),
        (("submit", "echo", "--wait", "--timeout", "nan"), {}, 2, "--timeout"),
        (("list",), {"ORCHESTRATOR_PORT": "many"}, 2, "ORCHESTRATOR_PORT"),
        (("list",), {"ORCHESTRATOR_NODE_TIMEOUT_SECONDS": "6"}, 2, "ORCHESTRATOR_NODE_TIMEOUT_SECONDS"),
    ]
    results = await asyncio.gather(*(deployment.cli(*arguments, **env) for arguments, env, _, _ in cases))
    for (arguments, _, code, text), (actual, out, err) in zip(cases, results, strict=True):
        assert (code, "") == (actual, out), (arguments, err)
        assert text in err, (arguments, err)
        assert 1 == len(err.strip().splitlines()), (arguments, err)


async def test_completion_scripts_are_printed(deployment: Deployment) -> None:
    """Each shell gets a script that names the command."""
    for shell in ("bash", "zsh", "fish"):
        code, out, _ = await deployment.cli("completion", shell)
        assert (0, True) == (code, "orchestrator" in out)


async def test_provisioning_again_creates_nothing(deployment: Deployment) -> None:
    """It is safe to repeat."""
    code, out, _ = await deployment.cli("provision", "--json")
    assert (0, {"created": []}) == (code, json.loads(out))


async def _get(deployment: Deployment, worker: Worker, path: str, status: int) -> dict:  # type: ignore[type-arg]
    async with deployment.http.get(f"{worker.base_url}{path}") as answer:
        assert status == answer.status, await answer.text()
        body = await answer.json(content_type=None)
        assert isinstance(body, dict)
        return body
