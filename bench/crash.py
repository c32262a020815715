"""SIGKILL with 500 sessions in flight: how long until all have ended, and what was lost or done twice."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.app import EXECUTIONS, STEPS
from bench.cpu import RESULT_BYTES
from bench.report import Figure, Row
from bench.rig import ACCEPTED, ENDED, WAIT_SECONDS_MAX, rig, size, working
from orchestrator.session.events import EVENT_TYPES

TERMINAL = {name for name in EVENT_TYPES if name.startswith("AGENT_BACKGROUND_TASK_")}
COMPLETED = "AGENT_BACKGROUND_TASK_COMPLETED"
LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Journals:
    """What the table says: recorded steps (`session/step`), and each session's ends."""

    steps: frozenset[str]
    ends: dict[str, list[str]]
    open: int


async def measure() -> Figure:
    sessions = size("CRASH_SESSIONS", 500)
    async with rig() as bench:
        executions = bench.folder / "executions"
        executions.touch()
        await bench.fill("pausing", "crash", sessions, RESULT_BYTES)
        async with working(bench, {EXECUTIONS: executions}, name="first") as worker:
            await worker.until(ACCEPTED, sessions)
            await _until_second_steps(executions, sessions)
            await worker.end(signal.SIGKILL)
        before, executed = _journals(await bench.rows()), _lines(executions)
        begun = time.perf_counter()
        async with working(bench, {EXECUTIONS: executions}, name="second") as worker:
            await worker.until(ENDED, before.open)
            took = time.perf_counter() - begun
        after = _journals(await bench.rows())
        return _figure(sessions, took, before, after, executed, _lines(executions))


def _figure(
    sessions: int, took: float, before: Journals, after: Journals, executed: list[str], all_executed: list[str]
) -> Figure:
    again = Counter(all_executed[len(executed) :])
    completed = [session for session, ends in after.ends.items() if COMPLETED in ends]
    return Figure(
        "SIGKILL in full flight, three steps, the second and third take 1 s",
        [
            Row("sessions in flight at the kill", before.open, ""),
            Row("from restart to all ended (2.0 s is the floor)", took, "s"),
            Row("sessions lost", sessions - len(completed), "", "0"),
            Row("recorded steps executed again", sum(again[step] for step in before.steps), "", "0"),
            Row("steps under way executed again", sum(again[s] for s in set(executed) - before.steps), ""),
            Row("recorded steps at the kill", len(before.steps), ""),
            Row("most terminal events of a session", max(map(len, after.ends.values()), default=0), "", "1"),
            Row("steps recorded at the end", len(after.steps), "", str(sessions * len(STEPS))),
        ],
    )


async def _until_second_steps(executions: Path, sessions: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while sum(line.endswith(f"/{STEPS[1]}") for line in _lines(executions)) < sessions:
        assert time.monotonic() < deadline, "not all sessions reach their second step"
        await asyncio.sleep(LOOK_SECONDS)


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


def _journals(rows: list[dict[str, Any]]) -> Journals:
    steps: set[str] = set()
    ends: dict[str, list[str]] = {}
    sessions: set[str] = set()
    for row in rows:
        session = row["PK"]["S"].removeprefix("SESSION#")
        if not row["SK"]["S"].startswith("EVENT#"):
            continue
        sessions.add(session)
        status = row["status"]["S"]
        if status == "STEP_COMPLETED":
            steps.add(f"{session}/{row['operation']['S']}")
        elif status in TERMINAL:
            ends.setdefault(session, []).append(status)
    return Journals(frozenset(steps), ends, len(sessions) - len(ends))
