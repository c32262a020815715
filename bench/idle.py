"""What a node asks of AWS that has nothing to do, in requests per hour; and what sessions add that only wait."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

from bench.report import Figure, Row
from bench.rig import Rig, Worker, rig, size, working
from bench.wake import SUSPENDED
from bench.worker import METER
from orchestrator.cluster import DUE_SHARDS

HOUR = 3_600
PASSIVATE_SECONDS = 0.2
LOOK = DUE_SHARDS + 2
"""The queries of a look: what is due, by shard; wake-ups; limits."""
SIGNALLED, ASLEEP = "signal", "due"


async def measure() -> Figure:
    seconds, sessions = size("IDLE_SECONDS", 60), size("IDLE_SUSPENDED", 1_000)
    async with rig() as bench:
        dump = bench.folder / "requests"
        variables = {"ORCHESTRATOR_PASSIVATE_AFTER_SECONDS": PASSIVATE_SECONDS, METER: dump}
        async with working(bench, variables) as worker:
            idle = await _hourly(worker, dump, seconds)
            await _suspend(bench, worker, sessions)
            holding = await _hourly(worker, dump, seconds)
    names = sorted(idle | holding)
    return Figure(
        "Requests of a node that has nothing to do",
        [
            Row("of any kind", idle.total(), "/hour"),
            *(Row(f"  {name}", idle[name], "/hour") for name in names),
            Row(f"more of them with {sessions:,} sessions suspended", holding.total() - idle.total(), "/hour", "0"),
            *(Row(f"  {name}", holding[name] - idle[name], "/hour") for name in names if holding[name] != idle[name]),
        ],
        [f"Counted over {seconds} s, twice. One look at what is due, at the edge: {LOOK * HOUR // seconds} an hour."],
    )


async def _suspend(bench: Rig, worker: Worker, sessions: int) -> None:
    """Have half of them wait for a signal, half for tomorrow."""
    tomorrow = int(time.time()) + 24 * HOUR
    await bench.fill(SIGNALLED, "signalled", sessions // 2, 0)
    await bench.fill(ASLEEP, "asleep", sessions - sessions // 2, tomorrow)
    await worker.until(SUSPENDED, sessions)


async def _hourly(worker: Worker, dump: Path, seconds: int) -> Counter[str]:
    """Return the requests of each kind that an hour would take, from those of so many seconds."""
    # What came before has its last deletions and looks behind it then.
    await asyncio.sleep(2.0)
    before, begun = await _requests(worker, dump), time.monotonic()
    await asyncio.sleep(seconds)
    found, took = await _requests(worker, dump), time.monotonic() - begun
    found.subtract(before)
    return Counter({name: round(count * HOUR / took) for name, count in found.items() if count})


async def _requests(worker: Worker, dump: Path) -> Counter[str]:
    await worker.dump()
    return _read(dump)


def _read(dump: Path) -> Counter[str]:
    return Counter(operation.rpartition(".")[2] for operation, _ in json.loads(dump.read_text()))
