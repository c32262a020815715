"""Memory: a session that waits inside a step, at several numbers of them; and an idle actor of the bare runtime."""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

import uvloop

from actors import ActorContext, ActorSystem
from bench.cpu import RESULT_BYTES
from bench.report import Figure, Row
from bench.rig import ACCEPTED, ENDED, Rig, Worker, child_number, rig, size, working

WARM_UP = 300
ALONE = "alone"
SESSIONS_MAX = 1_000_000


async def measure() -> Figure:
    counts = [1, 1_000, size("WAITING_SESSIONS", 10_000)]
    async with rig() as bench, working(bench, {"ORCHESTRATOR_MAX_SESSIONS": SESSIONS_MAX}) as worker:
        rows = await _waiting(bench, worker, counts)
    actors = size("IDLE_ACTORS", 10_000)
    rows.append(
        Row(f"an idle actor of {actors:,}, runtime alone", await child_number("bench.memory", str(actors)), "KB")
    )
    return Figure("Memory", rows)


async def _waiting(bench: Rig, worker: Worker, counts: list[int]) -> list[Row]:
    await bench.fill("three", "warm", WARM_UP, RESULT_BYTES)
    await worker.until(ENDED, WARM_UP)
    empty = await _memory(worker)
    rows = [Row(f"PSS of the worker after {WARM_UP} sessions, none waiting", empty["Pss"] / 1_024, "MB")]
    known = {0: empty["Pss"]}
    for waiting in counts:
        await bench.fill("waiting", f"wait{waiting}", waiting - max(known), RESULT_BYTES)
        await worker.until(ACCEPTED, WARM_UP + waiting)
        known[waiting] = (await _memory(worker))["Pss"]
        rows.append(Row(f"PSS with {waiting:,} waiting in a step", known[waiting] / 1_024, "MB"))
    fewest, most = counts[-2:]
    each = (known[most] - known[fewest]) / (most - fewest)
    return [*rows, Row(f"a waiting session, from {fewest:,} to {most:,}", each, "KB")]


async def _memory(worker: Worker) -> dict[str, int]:
    # What was accepted has begun its step within a turn of the loop; the pause is for the reading's own sake.
    await asyncio.sleep(1.0)
    return worker.memory()


class Idle:
    """An actor that does nothing."""

    def __init__(self, context: ActorContext[str]) -> None:
        self._context = context

    async def activate(self) -> None:
        """Be there."""

    async def receive(self, message: str) -> None:
        """Ignore it."""

    async def deactivate(self) -> None:
        """Leave."""


async def idle_actors(count: int) -> float:
    """Return the KB of this process's memory that an idle actor adds."""
    async with ActorSystem() as system:
        for number in range(count // 100):
            await system.spawn(f"warm-{number}", Idle)
        await asyncio.sleep(0.1)
        before = own_pss()
        for number in range(count):
            await system.spawn(f"idle-{number}", Idle)
        await asyncio.sleep(0.5)
        gc.collect()
        return (own_pss() - before) / count


def own_pss() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    print(uvloop.run(idle_actors(int(sys.argv[1]))))
