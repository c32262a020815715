"""Waking up: from the POST of a callback's answer to the handler's next line, in memory and suspended."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp

from bench.in_memory import NEVER_SECONDS
from bench.report import Figure, Row, median, quantile
from bench.rig import ACCEPTED, ENDED, Rig, Worker, rig, size, working
from bench.waits import TOKENS

PASSIVATE_SECONDS = 0.2
SUSPENDED = "session_suspended"
LOOK_SECONDS = 0.01

Handed = dict[str, tuple[str, str]]
"""Session → its callback's id and token."""


async def measure() -> Figure:
    samples = size("WAKE_SAMPLES", 100)
    async with rig() as bench:
        live = await _latencies(bench, "live", samples, NEVER_SECONDS)
        suspended = await _latencies(bench, "suspended", samples, PASSIVATE_SECONDS)
    return Figure(
        "From the POST of a callback's answer to the handler's next line, one at a time",
        [
            Row("session in memory, p50", median(live), "ms"),
            Row("session in memory, p99", quantile(live, 0.99), "ms"),
            Row("session suspended, p50", median(suspended), "ms"),
            Row("session suspended, p99", quantile(suspended, 0.99), "ms"),
            Row("samples of each", samples, ""),
        ],
        [
            "The handler's next line is a step that notes the time.",
            "In memory two writes come before it, suspended seven.",
        ],
    )


async def _latencies(bench: Rig, prefix: str, samples: int, passivate_seconds: float) -> list[float]:
    tokens = bench.folder / f"{prefix}.tokens"
    variables = {"ORCHESTRATOR_PASSIVATE_AFTER_SECONDS": passivate_seconds, TOKENS: tokens}
    async with working(bench, variables, name=prefix) as worker, aiohttp.ClientSession() as http:
        await bench.fill("awaited", prefix, samples, 0)
        await worker.until(ACCEPTED, samples)
        if passivate_seconds < NEVER_SECONDS:
            await worker.until(SUSPENDED, samples)
        handed = await handed_out(tokens, samples)
        return [await _latency(worker, http, session_id, handed) for session_id in sorted(handed)]


async def handed_out(tokens: Path, count: int) -> Handed:
    """Return the callbacks that sessions handed out, once there are so many."""
    while len(handed := _handed_in(tokens)) < count:  # noqa: ASYNC110 - another process writes the file
        await asyncio.sleep(LOOK_SECONDS)
    return handed


def _handed_in(tokens: Path) -> Handed:
    """Return the callbacks that the file names; none where no handler has written it yet."""
    lines = tokens.read_text().splitlines() if tokens.exists() else []
    return {session: (callback, token) for session, callback, token in (line.split() for line in lines)}


async def answer(worker: Worker, http: aiohttp.ClientSession, callback_id: str, token: str) -> None:
    """Answer a callback."""
    url = f"http://127.0.0.1:{worker.port}/callbacks/{callback_id}"
    async with http.post(url, json={"token": token, "status": "SUCCESS", "result": "ok"}) as reply:
        assert reply.status == 200, await reply.text()


async def _latency(worker: Worker, http: aiohttp.ClientSession, session_id: str, handed: Handed) -> float:
    begun, ended = time.time(), worker.counts[ENDED]
    await answer(worker, http, *handed[session_id])
    await worker.until(ENDED, ended + 1, every=LOOK_SECONDS)
    async with http.get(f"http://127.0.0.1:{worker.port}/sessions/{session_id}/events") as reply:
        page: dict[str, Any] = await reply.json()
    step = next(event for event in page["events"] if event["operation"] == "next")
    return (float(step["data"]["result"]) - begun) * 1_000
