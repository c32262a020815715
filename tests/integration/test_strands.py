"""A Strands agent in real processes: killed in the middle, it goes on elsewhere from its last recorded call."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from orchestrator.session.values import Json
from tests.integration.deployment import Deployment, start_message
from tests.integration.strands_app import GATE, TRAIL

APP = "tests.integration.strands_app:app"


async def test_a_strands_agent_survives_its_node(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGKILL in a tool, nothing that is recorded is called again, and its usage is counted once."""
    trail, gate = tmp_path / "trail", tmp_path / "gate"
    monkeypatch.setenv(TRAIL, str(trail))
    monkeypatch.setenv(GATE, str(gate))
    first = await deployment.start(APP)
    await deployment.send(start_message("buy", "tea", session_id="b-1"))
    await asyncio.to_thread(_wait_for, trail, "b-1/buyer/order#1")
    first.signal(signal.SIGKILL)
    await first.ended()

    gate.touch()
    second = await deployment.start(APP)
    await second.logged("session_ended", session_id="b-1", status="COMPLETED")
    before = ["model#1", "b-1/buyer/search#1", "model#2", "b-1/buyer/order#1"]
    assert [*before, "b-1/buyer/order#1", "model#3"] == trail.read_text().split()
    status, session = await deployment.ask(second, "GET", "/sessions/b-1")
    assert (200, {"text": "done", "stop_reason": "end_turn"}) == (status, _without(session["result"], "message"))
    used = session["usage"]
    assert isinstance(used, dict)
    assert (30, 15, 45, 1) == tuple(
        used[each] for each in ("input_tokens", "output_tokens", "total_tokens", "agent_calls")
    )


def _wait_for(path: Path, line: str) -> None:
    """Return once the file has that line; bounded, from a thread."""
    for _ in range(2_000):
        if path.exists() and line in path.read_text().split():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not get {line}")


def _without(value: Json, name: str) -> Json:
    assert isinstance(value, dict)
    return {key: part for key, part in value.items() if key != name}
