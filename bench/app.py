"""The sessions that are measured: three durable steps each, of a size and a duration that the input says."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TypedDict

from bench import waits
from orchestrator import Orchestrator, SessionContext, current_invocation

STEPS = ("first", "second", "third")
EXECUTIONS = "BENCH_EXECUTIONS"
"""The variable that names the file to which each execution of a `pausing` step appends its idempotency key."""
FOREVER = 86_400.0

app = Orchestrator()
waits.declare(app)


class Spec(TypedDict):
    """`bytes`: the length of each step's result as JSON text."""

    bytes: int


def result_of(size: int, **fields: float) -> dict[str, float | str]:
    """Return a result whose compact JSON is about `size` bytes (exactly, without fields)."""
    room = size - len('{"text":""}') - sum(len(f'"{name}":{value!r},') for name, value in fields.items())
    return {**fields, "text": "x" * max(0, room)}


async def produce(size: int) -> dict[str, float | str]:
    return result_of(size)


async def produce_with_time(size: int) -> dict[str, float | str]:
    return result_of(size, started_at=time.time())


async def pausing(size: int, seconds: float) -> dict[str, float | str]:
    file = os.open(os.environ[EXECUTIONS], os.O_APPEND | os.O_WRONLY | os.O_CREAT)
    os.write(file, f"{current_invocation().idempotency_key}\n".encode())
    os.close(file)
    await asyncio.sleep(seconds)
    return result_of(size)


@app.session("three")
async def three(ctx: SessionContext, spec: Spec) -> int:
    """Three steps that return at once."""
    for name in STEPS:
        await ctx.step(name, produce, spec["bytes"])
    return len(STEPS)


@app.session("timed")
async def timed(ctx: SessionContext, spec: Spec) -> int:
    """Three steps that say when they began."""
    for name in STEPS:
        await ctx.step(name, produce_with_time, spec["bytes"])
    return len(STEPS)


@app.session("pausing")
async def three_pausing(ctx: SessionContext, spec: Spec) -> int:
    """Three steps; the second and the third take a second."""
    for name, seconds in zip(STEPS, (0.0, 1.0, 1.0), strict=True):
        await ctx.step(name, pausing, spec["bytes"], seconds)
    return len(STEPS)


@app.agent("tireless")
async def tireless(prompt: object, **_: object) -> object:
    """Work on for longer than any bench takes."""
    await asyncio.sleep(FOREVER)
    return prompt


@app.session("agent-at-work")
async def agent_at_work(ctx: SessionContext, spec: Spec) -> int:
    """One agent that never ends."""
    await ctx.invoke_agent("tireless", spec["bytes"])
    return 0


@app.session("waiting")
async def waiting(ctx: SessionContext, spec: Spec) -> int:
    """One step that never ends."""
    await ctx.step("wait", asyncio.sleep, FOREVER)
    return 0
