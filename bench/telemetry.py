"""What traces and metrics add to the CPU of a session of three steps: every span kept, all exported to a collector.

Two workers side by side, on one core and from one queue, one with an endpoint and one without: whatever slows one of
them slows the other one alike. Rounds still differ by several percent: the median is the figure.
What a process does only once, at its first sessions and its first export, is over before they are measured.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import sys
from asyncio.subprocess import PIPE

from bench.cpu import IN_FLIGHT, RESULT_BYTES
from bench.report import Figure, Row
from bench.rig import ENDED, LOOK_SECONDS, ROOT, SETTLE_SECONDS, Rig, Worker, rig, size, working

ROUNDS = 5
FIRST_SESSIONS = 1_000
"""Meanwhile caches fill and the first export is made."""
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


async def measure() -> Figure:
    """Return the figure."""
    sessions = size("SESSIONS", 5_000)
    silent, telling, added = list[float](), list[float](), list[float]()
    async with rig() as bench:
        sink = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.otlp_sink", cwd=ROOT, stdout=PIPE)
        assert sink.stdout is not None
        address = (await sink.stdout.readline()).decode().strip()
        for round_ in range(size("ROUNDS", ROUNDS)):
            # Each is the first to start as often as the other.
            endpoints = ("", address) if round_ % 2 else (address, "")
            cpu = await _side_by_side(bench, f"round{round_}", sessions, endpoints)
            silent.append(cpu[""])
            telling.append(cpu[address])
            added.append((cpu[address] / cpu[""] - 1) * 100)
        sink.send_signal(signal.SIGTERM)
        requests = int((await sink.stdout.readline()).split()[0])
        await sink.wait()
    return Figure(
        "Telemetry, three 1 KB steps, every span kept",
        [
            Row("worker CPU per session, nothing exported", statistics.median(silent), "ms"),
            Row("worker CPU per session, traces and metrics over OTLP", statistics.median(telling), "ms"),
            Row("telemetry / session without it", statistics.median(added), "%", target="at most 10"),
            Row("… in the round where it was least", min(added), "%"),
            Row("… in the round where it was most", max(added), "%"),
            Row("requests to the collector, all rounds", requests, ""),
            Row("sessions a round", sessions, ""),
        ],
    )


async def _side_by_side(bench: Rig, prefix: str, sessions: int, endpoints: tuple[str, str]) -> dict[str, float]:
    """Return the CPU milliseconds per session of the worker with each endpoint; they share the sessions."""
    first, second = (
        working(bench, {"ORCHESTRATOR_MAX_SESSIONS": IN_FLIGHT, ENDPOINT: endpoint}, name=f"{prefix}-{number}")
        for number, endpoint in enumerate(endpoints)
    )
    async with first as one, second as other:
        workers = dict(zip(endpoints, (one, other), strict=True))
        await _run(bench, f"{prefix}-first", FIRST_SESSIONS, (one, other))
        begun = {endpoint: (worker.cpu_seconds(), worker.counts[ENDED]) for endpoint, worker in workers.items()}
        await _run(bench, prefix, sessions, (one, other))
        return {
            endpoint: (worker.cpu_seconds() - begun[endpoint][0]) / (worker.counts[ENDED] - begun[endpoint][1]) * 1_000
            for endpoint, worker in workers.items()
        }


async def _run(bench: Rig, prefix: str, sessions: int, workers: tuple[Worker, Worker]) -> None:
    """Return when so many more sessions have ended, and what their ends leave to do is done."""
    ended = sum(worker.counts[ENDED] for worker in workers)
    await bench.fill("three", prefix, sessions, RESULT_BYTES)
    async with asyncio.timeout(180):
        while sum(worker.counts[ENDED] for worker in workers) < ended + sessions:
            await asyncio.sleep(LOOK_SECONDS)
            for worker in workers:
                worker.look()
    await asyncio.sleep(SETTLE_SECONDS)
