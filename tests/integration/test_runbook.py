"""The commands of the runbook, run on a real node and an emulator: each shows why, or mends what it is there for."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from orchestrator.aws.provision import BY_DUE, table_definition
from orchestrator.session.values import Json
from tests.integration.deployment import APP, WAIT_SECONDS_MAX, Deployment, Worker, start_message

PAGE = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()
NO_NAMES: Final[Mapping[str, str]] = {}


async def run(
    deployment: Deployment,
    line: str,
    names: Mapping[str, str] = NO_NAMES,
    *,
    code: int = 0,
    stdin: str | None = None,
) -> str:
    """Run a line of the page, with its capital names replaced; return what it printed."""
    assert f"orchestrator {line}" in PAGE, line
    words = [names.get(word, word) for word in line.replace("'", "").split()]
    exit_code, out, err = await deployment.cli(*words, stdin=stdin)
    assert code == exit_code, f"{words}: {out}{err}"
    return out + err


async def what(deployment: Deployment, worker: Worker, session_id: str) -> list[Json]:
    """Return what a session waits for, each in a word."""
    status, found = await deployment.ask(worker, "GET", f"/sessions/{session_id}/why")
    assert 200 == status
    waits = found["waits_for"]
    assert isinstance(waits, list)
    return [wait["what"] for wait in waits if isinstance(wait, dict)]


async def test_each_state_is_explained_and_left_by_the_command_that_the_page_shows(
    deployment: Deployment, tmp_path: Path
) -> None:
    """Who hangs is named by its node, who waits is answered, who is paused goes on, and who is blocked says by what."""
    gate, promise, trail = tmp_path / "gate", tmp_path / "promise", str(tmp_path / "trail")
    worker = await deployment.start(
        ORCHESTRATOR_PASSIVATE_AFTER_SECONDS="0.2",
        ORCHESTRATOR_STUCK_AFTER_SECONDS="1",
        ORCHESTRATOR_STUCK_AFTER_FACTOR="1",
    )
    waiting: list[tuple[str, str, Json]] = [
        ("signal", "takes-signals", 1),
        ("approval", "asks", None),
        ("callback", "promises", {"handed_to": str(promise)}),
        ("timer", "naps", {"seconds": 3_600, "trail": trail}),
        ("resume", "naps", {"seconds": 3_600, "trail": trail}),
    ]
    for name, session_type, value in waiting:
        await deployment.send(start_message(session_type, value, session_id=name))
    await deployment.send(start_message("order", {"item": "tea", "amount": 1, "gate": str(gate)}, session_id="step"))
    await deployment.send(start_message("never-returns", session_id="code"))
    for name, _, _ in waiting:
        await worker.logged("session_suspended", session_id=name)
    await deployment.ask(worker, "POST", "/sessions/resume/pause", {"reason": "look at this first"})
    await worker.logged("session_paused", session_id="resume")

    # What hangs is found by its node, and named.
    (stuck,) = await worker.logged("session_stuck", session_id="step")
    assert ["gate"] == stuck["operations"]
    (stuck,) = await worker.logged("session_stuck", session_id="code")
    assert "handler code" == stuck["operations"]
    told = await run(deployment, "why SESSION_ID", {"SESSION_ID": "step"})
    assert "It runs step `gate` on node" in told
    assert "takes it for stuck" in told
    assert 2 == (await deployment.ask(worker, "GET", "/health"))[1]["stuck"]
    status, over_http = await deployment.ask(worker, "GET", "/sessions/step/why")
    assert (200, {"operations": ["gate"], "signals": [], "is_stuck": True}) == (status, over_http["under_way"])

    # What waits is told, and answered by the command that is told with it.
    for name, _, _ in waiting[:4]:
        assert [name] == await what(deployment, worker, name)
    assert ["resume", "timer"] == await what(deployment, worker, "resume")
    assert "look at this first" in await run(deployment, "why SESSION_ID", {"SESSION_ID": "resume"})
    await run(deployment, "signal SESSION_ID NAME --data 'null'", {"SESSION_ID": "signal", "NAME": "nudge"})
    await run(
        deployment, "approve SESSION_ID NAME --by WHO", {"SESSION_ID": "approval", "NAME": "publish", "WHO": "ann"}
    )
    handed = json.loads(promise.read_text())
    line = "callback CALLBACK_ID --token - --success 'null'"
    await run(deployment, line, {"CALLBACK_ID": handed["id"]}, stdin=handed["token"])
    await run(deployment, "resume SESSION_ID", {"SESSION_ID": "resume"})
    await run(deployment, "cancel SESSION_ID", {"SESSION_ID": "timer"})
    await run(deployment, "kill SESSION_ID", {"SESSION_ID": "code"})
    gate.touch()
    ends = {"signal": "COMPLETED", "approval": "COMPLETED", "callback": "COMPLETED", "step": "COMPLETED"}
    for name, end in {**ends, "timer": "CANCELLED", "code": "CANCELLED"}.items():
        await worker.logged("session_ended", session_id=name, status=end)
    await worker.logged("session_unstuck", times=2)
    await worker.logged("session_let_go", session_id="resume")
    assert ["timer"] == await what(deployment, worker, "resume")

    # Code that does not know its type comes: it is kept, and says what it waits for.
    await deployment.stop(worker)
    other = await deployment.start("tests.integration.events_app:app")
    assert 0 == (await deployment.cli("signal", "resume", "nudge"))[0]
    await other.logged("session_blocked", session_id="resume")
    # It is said before it is written.
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while "BLOCKED" != (await deployment.head("resume"))["state"]:
            pass
    assert ["code", "timer"] == await what(deployment, other, "resume")
    assert "resume" in await run(deployment, "list --state BLOCKED")
    matching = {"SESSION_ID": "resume", "MODULE:APP": APP}
    # Within a second, and not when the half minute is over.
    await run(deployment, "resume SESSION_ID", {"SESSION_ID": "resume"})
    await other.logged("session_blocked", session_id="resume", times=2)
    assert "matches" in await run(deployment, "replay SESSION_ID MODULE:APP", matching)


async def test_a_dead_letter_is_shown_explained_put_back_and_thrown_away(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the session that it would have started, too; the doctor says meanwhile that the deployment is well."""
    monkeypatch.setenv("ORCHESTRATOR_HEARTBEAT_SECONDS", "0.3")
    worker = await deployment.start()
    await deployment.send(start_message("no-such-type", session_id="lost"), group="acme")
    await worker.logged("message_dead_lettered", code="UNKNOWN_SESSION_TYPE")
    told = await run(deployment, "why SESSION_ID", {"SESSION_ID": "lost"}, code=3)
    assert "No session lost was ever accepted." in told
    assert "Its start lies in the dead-letter queue: UNKNOWN_SESSION_TYPE: session_type: 'no-such-type'" in told
    _, shown, _ = await deployment.cli("redrive", "--dry-run", "--json")
    letter = json.loads(shown)
    assert ("UNKNOWN_SESSION_TYPE", "acme", "redriven", True) == tuple(
        letter[name] for name in ("code", "tenant", "outcome", "dry_run")
    )
    await run(deployment, "redrive --message-id MESSAGE_ID", {"MESSAGE_ID": letter["message_id"]})
    # The code is as it was: it comes back, as a letter of its own.
    await worker.logged("message_dead_lettered", code="UNKNOWN_SESSION_TYPE", times=2)
    discarded = await deployment.cli("redrive", "--discard", "--all", "--json")
    assert ["discarded"] == [json.loads(line)["outcome"] for line in discarded[1].splitlines()]
    assert "errors: 0," in await run(deployment, "doctor MODULE:APP", {"MODULE:APP": APP})
    bad = json.loads((await deployment.cli("doctor", "no_such_module:app", "--json"))[1])
    assert ("application", "error") == tuple(bad["findings"][-1][name] for name in ("check", "level"))
    denied = await deployment.cli("redrive", "--discard")
    assert (2, True) == (denied[0], "name what to throw away" in denied[2])


async def test_a_node_does_not_start_on_a_table_without_an_index_and_the_doctor_says_why(
    deployment: Deployment,
) -> None:
    """It would run, and no session that sleeps would ever wake."""
    definition: Any = table_definition("without-by-due")
    for name, without in (("GlobalSecondaryIndexes", {BY_DUE}), ("AttributeDefinitions", {"due_shard", "wake_at"})):
        kept = (each for each in definition[name] if not without & {each.get("IndexName"), each.get("AttributeName")})
        definition[name] = [*kept]
    await deployment.clients.dynamodb.create_table(**definition)
    worker = await deployment.start(wait=False, ORCHESTRATOR_TABLE="without-by-due")
    assert 4 == await worker.ended()
    assert any("it has no index by-due; `orchestrator doctor` says what to mend" in line for line in worker.raw)
    code, out, _ = await deployment.cli("doctor", ORCHESTRATOR_TABLE="without-by-due")
    assert 1 == code
    assert "error    index by-due: it has no index by-due: sessions that wait for an instant never wake" in out
