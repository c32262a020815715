"""SIGTERM with 500 sessions whose agents run on: how long until the node has left, and until another has them all."""

from __future__ import annotations

import json
import time
from datetime import datetime

from bench.report import Figure, Row, quantile
from bench.rig import Rig, Worker, rig, size, working

DRAIN_SECONDS = 2.0
HANDED_OVER = "session_handed_over"
RESUMED = "session_resumed"
AT_WORK = "agent_started"


async def measure() -> Figure:
    sessions = size("DRAIN_SESSIONS", 500)
    async with rig() as bench:
        return await _run(bench, sessions)


async def _run(bench: Rig, sessions: int) -> Figure:
    variables = {"ORCHESTRATOR_DRAIN_SECONDS": DRAIN_SECONDS}
    async with working(bench, variables, name="first") as first:
        await bench.fill("agent-at-work", "drain", sessions, 0)
        await first.until(AT_WORK, sessions)
        async with working(bench, variables, name="second") as second:
            begun = time.time()
            code = await first.end()
            exited = time.time()
            await second.until(AT_WORK, sessions)
            handed_over = _instants(first, HANDED_OVER)
            cut = min(handed_over)
            taken = [at - cut for at in _instants(second, RESUMED)]
            at_work = [at - cut for at in _instants(second, AT_WORK)]
    return Figure(
        f"SIGTERM with {sessions} sessions whose agents run on, drain time {DRAIN_SECONDS:g} s",
        [
            Row("from SIGTERM to exit", exited - begun, "s"),
            Row("… of it until no poll of the queue is under way, and the drain time", cut - begun, "s", "at most 7"),
            Row("… of it until all are handed over", max(handed_over) - cut, "s"),
            Row("exit code", code, "", "0"),
            Row("handed over", len(handed_over), "", str(sessions)),
            Row("from the first hand-over until another node has the first", min(taken), "s"),
            Row("… half of them", quantile(taken, 0.5), "s"),
            Row("… all of them", max(taken), "s"),
            Row("… and runs all their agents again", max(at_work), "s"),
        ],
        ["Both nodes share a core, and the emulator the other: taking over is its time, mostly."],
    )


def _instants(worker: Worker, event: str) -> list[float]:
    """Return when the worker logged the event, each time (unix seconds)."""
    entries = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]
    return [datetime.fromisoformat(entry["at"]).timestamp() for entry in entries if entry["event"] == event]
