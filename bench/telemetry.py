"""What traces and metrics add to the CPU of a session of three steps: every span kept, all exported to a collector.

Worker after worker, with and without an endpoint in turn, so that a machine that grows slower slows both alike.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import sys
from asyncio.subprocess import PIPE

from bench.cpu import IN_FLIGHT, RESULT_BYTES
from bench.report import Figure, Row
from bench.rig import ENDED, ROOT, SETTLE_SECONDS, Rig, rig, size, working

ROUNDS = 3


async def measure() -> Figure:
    """Return the figure."""
    sessions = size("SESSIONS", 3_000)
    silent, telling, requests = list[float](), list[float](), 0
    async with rig() as bench:
        for round_ in range(size("ROUNDS", ROUNDS)):
            silent.append(await _run(bench, f"silent{round_}", sessions, {}))
            sink = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.otlp_sink", cwd=ROOT, stdout=PIPE)
            assert sink.stdout is not None
            address = (await sink.stdout.readline()).decode().strip()
            telling.append(await _run(bench, f"telling{round_}", sessions, {"OTEL_EXPORTER_OTLP_ENDPOINT": address}))
            sink.send_signal(signal.SIGTERM)
            requests = int((await sink.stdout.readline()).split()[0])
            await sink.wait()
    before, after = statistics.median(silent), statistics.median(telling)
    return Figure(
        "Telemetry, three 1 KB steps, every span kept",
        [
            Row("worker CPU per session, nothing exported", before, "ms"),
            Row("worker CPU per session, traces and metrics over OTLP", after, "ms"),
            Row("telemetry / session without it", (after / before - 1) * 100, "%", target="at most 10"),
            Row("requests to the collector in the last round", requests, ""),
            Row("sessions a round", sessions, ""),
        ],
    )


async def _run(bench: Rig, prefix: str, sessions: int, variables: dict[str, str]) -> float:
    await bench.fill("three", prefix, sessions, RESULT_BYTES)
    settings = {"ORCHESTRATOR_MAX_SESSIONS": IN_FLIGHT, **variables}
    async with working(bench, settings, name=prefix) as worker:
        await worker.until(ENDED, sessions)
        await asyncio.sleep(SETTLE_SECONDS)
        cpu = worker.cpu_seconds() - worker.marked()["cpu"]
    return cpu / sessions * 1_000
