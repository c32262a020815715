"""From exec to the first 200 of /ready."""

from __future__ import annotations

import asyncio
import http.client
import signal
import time

from bench.report import Figure, Row, median
from bench.rig import Rig, Worker, launch, rig, size

LOOK_SECONDS = 0.005
SECONDS_MAX = 30.0


async def measure() -> Figure:
    samples = size("STARTS", 5)
    async with rig() as bench:
        runs = [await _start(bench) for _ in range(samples)]
    return Figure(
        "Start-up, from exec to /ready",
        [
            Row("time, median", median([seconds for seconds, _ in runs]) * 1_000, "ms"),
            Row("CPU of it, median", median([cpu for _, cpu in runs]) * 1_000, "ms"),
            Row("starts", samples, ""),
        ],
    )


async def _start(bench: Rig) -> tuple[float, float]:
    begun = time.perf_counter()
    worker = launch(bench)
    try:
        while not await asyncio.to_thread(_is_ready, worker):
            assert time.perf_counter() - begun < SECONDS_MAX, worker.log.read_text()
            await asyncio.sleep(LOOK_SECONDS)
        return time.perf_counter() - begun, worker.cpu_seconds()
    finally:
        await worker.end(signal.SIGTERM)


def _is_ready(worker: Worker) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=1)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()
