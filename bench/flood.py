"""Ten thousand messages at once, most of them one tenant's, for one small node: is it well meanwhile, and how long?

They lie in the queue as the node starts. The emulator hands messages out in order, so the small tenants, whose messages
lie behind, wait here for the whole flood; a fair queue on AWS hands theirs out first.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import aiohttp

from bench.report import Figure, Row, quantile
from bench.rig import ACCEPTED, ENDED, Rig, Worker, rig, size, working

PLACES = 200
LOUD_SHARE = 0.9
QUIET_TENANTS = 10
RESULT_BYTES = 100
LOOK_SECONDS = 0.1
FLOOD_SECONDS_MAX = 900.0
REPEATED = ("duplicate_absorbed", "message_deferred", "message_failed")


@dataclass(slots=True)
class Watch:
    """What the node said of itself, asked ten times a second."""

    said: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    actors_most: int = 0

    async def look(self, worker: Worker, http: aiohttp.ClientSession) -> None:
        """Ask once."""
        begun = time.perf_counter()
        async with http.get(f"http://127.0.0.1:{worker.port}/health") as answer:
            health = await answer.json()
        self.seconds.append(time.perf_counter() - begun)
        self.said[health["status"]] += 1
        self.actors_most = max(self.actors_most, health.get("sessions", 0))


async def measure() -> Figure:
    messages = size("FLOOD_MESSAGES", 10_000)
    async with rig() as bench:
        quiet = await _fill(bench, messages)
        async with (
            working(bench, {"ORCHESTRATOR_MAX_SESSIONS": PLACES}) as worker,
            aiohttp.ClientSession() as http,
        ):
            begun, watch = time.time(), Watch()
            await _watch_until_all_ended(worker, http, watch, messages)
            return _figure(worker, watch, messages, begun, quiet)


async def _fill(bench: Rig, messages: int) -> tuple[str, ...]:
    """Put the loud tenant's messages on the queue and the others' behind them; return how the others' ids begin."""
    loud = int(messages * LOUD_SHARE)
    await bench.fill("three", "loud", loud, RESULT_BYTES, tenant="loud")
    quiet = tuple(f"quiet-{n}" for n in range(QUIET_TENANTS))
    for tenant in quiet:
        await bench.fill("three", tenant, (messages - loud) // QUIET_TENANTS, RESULT_BYTES, tenant=tenant)
    return quiet


async def _watch_until_all_ended(worker: Worker, http: aiohttp.ClientSession, watch: Watch, messages: int) -> None:
    deadline = time.monotonic() + FLOOD_SECONDS_MAX
    while worker.counts[ENDED] < messages:
        assert time.monotonic() < deadline, f"{worker.counts[ENDED]} of {messages} have ended"
        await watch.look(worker, http)
        await asyncio.sleep(LOOK_SECONDS)
        worker.look()


def _figure(worker: Worker, watch: Watch, messages: int, begun: float, quiet: tuple[str, ...]) -> Figure:
    ends = {session_id: datetime.fromisoformat(at).timestamp() - begun for session_id, at in worker.ends.items()}
    took, first_quiet = max(ends.values()), min(at for session_id, at in ends.items() if session_id.startswith(quiet))
    unwell = watch.said.total() - watch.said["HEALTHY"] - watch.said["HEALTHY_BUSY"]
    return Figure(
        f"{messages:,} messages at once on one node of {PLACES} places, {LOUD_SHARE:.0%} of them one tenant's",
        [
            Row("until all have ended", took, "s"),
            Row("sessions per second (the emulator's speed)", messages / took, "1/s"),
            Row("sessions that have not ended", messages - len(ends), "", "0"),
            Row("sessions that ended more than once", worker.counts[ENDED] - len(ends), "", "0"),
            Row("most actors at a time", watch.actors_most, "", f"at most {PLACES}"),
            Row("peak RSS", _peak_rss_kb(worker) / 1_024, "MB"),
            Row("looks at /health", watch.said.total(), ""),
            Row("… of them neither HEALTHY nor HEALTHY_BUSY", unwell, "", "0"),
            Row("/health answers within, p99", quantile(watch.seconds, 0.99) * 1_000, "ms"),
            Row("/health answers within, worst", max(watch.seconds) * 1_000, "ms"),
            Row("messages accepted", worker.counts[ACCEPTED], "", str(messages)),
            Row("messages received more than once", sum(worker.counts[event] for event in REPEATED), "", "0"),
            Row("until the first session of a small tenant has ended", first_quiet, "s"),
        ],
        ["The emulator keeps the queue's order. A fair queue would hand out the small tenants' messages first."],
    )


def _peak_rss_kb(worker: Worker) -> int:
    lines = Path(f"/proc/{worker.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
