"""Latencies on an idle node: HTTP acceptance, queue to first step, and a whole session at one in flight."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from itertools import count
from typing import Any

import aiohttp

from bench.cpu import RESULT_BYTES
from bench.report import Figure, Row, median, quantile
from bench.rig import ENDED, Rig, Worker, rig, size, working
from bench.sender import body_of

LOOK_SECONDS = 0.002


async def measure() -> Figure:
    samples = size("LATENCY_SAMPLES", 200)
    async with rig() as bench, working(bench) as worker, aiohttp.ClientSession() as http:
        await _by_http(worker, http, 20, "warm")
        posts, whole_http = await _by_http(worker, http, samples, "http")
        first_steps, whole_queue = await _by_queue(bench, worker, http, samples)
        hops = await _hops(bench, samples)
    return Figure(
        "Latency, one session in flight",
        [
            Row("POST /sessions to 202, p50", median(posts), "ms"),
            Row("POST /sessions to 202, p99", quantile(posts, 0.99), "ms"),
            Row("POST to the session's end, p50", median(whole_http), "ms"),
            Row("SendMessage to the first step's start, p50", median(first_steps), "ms"),
            Row("SendMessage to the session's end, p50", median(whole_queue), "ms"),
            Row("the emulator alone: SendMessage to a waiting receiver, p50", median(hops), "ms"),
            Row("samples of each", samples, ""),
        ],
        ["Every session is seven writes one after another; at one in flight that is the emulator's latency, mostly."],
    )


async def _by_http(
    worker: Worker, http: aiohttp.ClientSession, samples: int, prefix: str
) -> tuple[list[float], list[float]]:
    accepted, ended = [], []
    for number in range(samples):
        session_id = f"{prefix}-{number}"
        body = {"session_type": "three", "session_id": session_id, "input": {"bytes": RESULT_BYTES}}
        begun, begun_at = time.perf_counter(), time.time()
        async with http.post(f"http://127.0.0.1:{worker.port}/sessions", json=body) as answer:
            assert answer.status == 202, await answer.text()
            await answer.read()
        accepted.append((time.perf_counter() - begun) * 1_000)
        ended.append(await _end(worker, session_id) - begun_at * 1_000)
    return accepted, ended


async def _by_queue(
    bench: Rig, worker: Worker, http: aiohttp.ClientSession, samples: int
) -> tuple[list[float], list[float]]:
    sent, ended = [], []
    for number in range(samples):
        body = body_of("timed", f"queue-{number}", RESULT_BYTES)
        sent.append(time.time() * 1_000)
        await bench.clients.sqs.send_message(QueueUrl=bench.queue_url, MessageBody=body)
        ended.append(await _end(worker, f"queue-{number}") - sent[-1])
    started = [await _first_step(worker, http, f"queue-{number}") for number in range(samples)]
    return [step - send for step, send in zip(started, sent, strict=True)], ended


async def _end(worker: Worker, session_id: str) -> float:
    """Return when the session ended by the worker's log, in milliseconds; waits for it."""
    while session_id not in worker.ends:
        await worker.until(ENDED, worker.counts[ENDED] + 1, every=LOOK_SECONDS)
    return datetime.fromisoformat(worker.ends[session_id]).timestamp() * 1_000


async def _first_step(worker: Worker, http: aiohttp.ClientSession, session_id: str) -> float:
    async with http.get(f"http://127.0.0.1:{worker.port}/sessions/{session_id}/events") as answer:
        page: dict[str, Any] = await answer.json()
    step = next(event for event in page["events"] if event["operation"] == "first")
    return float(step["data"]["result"]["started_at"]) * 1_000


async def _hops(bench: Rig, samples: int) -> list[float]:
    """Return what the queue itself takes: milliseconds from a send to the answer of a poll that waited."""
    sqs = bench.clients.sqs
    queue = (await sqs.create_queue(QueueName="bench-hops"))["QueueUrl"]
    arrivals: asyncio.Queue[float] = asyncio.Queue()

    async def receive() -> None:
        for _ in count():
            if (await sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5)).get("Messages"):
                arrivals.put_nowait(time.perf_counter())

    receiver = asyncio.ensure_future(receive())
    hops = []
    for _ in range(samples):
        await asyncio.sleep(0.01)
        begun = time.perf_counter()
        await sqs.send_message(QueueUrl=queue, MessageBody="hop")
        hops.append((await arrivals.get() - begun) * 1_000)
    receiver.cancel()
    return hops
