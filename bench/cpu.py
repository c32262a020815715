"""Worker CPU per session of three 1 KB steps, 200 in flight, beside what the SDK alone costs in the same run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from bench import answers
from bench.report import Figure, Row
from bench.rig import ENDED, SETTLE_SECONDS, Rig, child_number, rig, size, working

IN_FLIGHT = 200
RESULT_BYTES = 1_024


async def measure() -> Figure:
    sessions, floor_sessions = size("SESSIONS", 5_000), size("FLOOR_SESSIONS", 600)
    async with rig() as bench:
        lone = await child_number("bench.floor", "lone", str(floor_sessions))
        batched = await child_number("bench.floor", "batched", str(floor_sessions * 2))
        cpu_ms, rate = await run(bench, sessions)
        unhindered_ms = await run_unhindered(bench, sessions)
    return Figure(
        "CPU of the worker, three 1 KB steps",
        [
            Row("worker CPU per session", cpu_ms, "ms", target="at most 1.0, aim below 0.48"),
            Row("… where table and queue answer at once, in the process", unhindered_ms, "ms"),
            Row("sessions per second (wall: the emulator's speed)", rate, "1/s"),
            Row("floor: five conditional PutItems, one by one", lone, "ms"),
            Row("floor: the same in batches of 25", batched, "ms"),
            Row("worker CPU / floor of five PutItems", cpu_ms / lone, "x"),
            Row("sessions measured", sessions, ""),
        ],
    )


async def run(bench: Rig, sessions: int) -> tuple[float, float]:
    """Return CPU milliseconds per session and sessions per second, from the first poll to the last end."""
    await bench.fill("three", "cpu", sessions, RESULT_BYTES)
    return await _measured(bench, sessions, {})


async def run_unhindered(bench: Rig, sessions: int) -> float:
    """Return CPU milliseconds per session where the emulator is not waited for; see `answers`."""
    made_up = {answers.SESSIONS: sessions, answers.RESULT_BYTES: RESULT_BYTES}
    cpu_ms, _ = await _measured(bench, sessions, made_up)
    return cpu_ms


async def _measured(bench: Rig, sessions: int, variables: Mapping[str, object]) -> tuple[float, float]:
    async with working(bench, {"ORCHESTRATOR_MAX_SESSIONS": IN_FLIGHT, **variables}) as worker:
        await worker.until(ENDED, sessions)
        wall = time.time() - worker.marked()["at"]
        await asyncio.sleep(SETTLE_SECONDS)
        cpu = worker.cpu_seconds() - worker.marked()["cpu"]
    return cpu / sessions * 1_000, sessions / wall
