"""Events a second of one session with many branches at once: in memory, so that it is the engine that is measured.

`python -m bench.branches KIND BRANCHES` prints what one such session takes; `… PROFILE_FILE` profiles every call.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import logging
import sys
import time

import uvloop

from bench.in_memory import Table, node
from bench.report import Figure, Row
from bench.rig import child_numbers, size
from orchestrator import Orchestrator, SessionContext
from orchestrator.telemetry.logs import configure_logging

KINDS = ("steps", "sleeps", "agents", "scopes")
GROWTH = 10
"""The many branches are compared with a tenth of them: an engine with a cost of its own for each pair would show it."""

app = Orchestrator()


@app.agent("echo")
async def echo(prompt: str) -> str:
    return prompt


async def same(number: int) -> int:
    return number


@app.session("steps")
async def steps(ctx: SessionContext, branches: int) -> int:
    """Steps, all at once."""
    return len(await ctx.map("step", same, range(branches)))


@app.session("sleeps")
async def sleeps(ctx: SessionContext, branches: int) -> int:
    """Short timers, all at once."""
    return len(await ctx.gather(*(ctx.sleep(0.001) for _ in range(branches))))


@app.session("agents")
async def agents(ctx: SessionContext, branches: int) -> int:
    """Agents, all at once."""
    return len(await ctx.gather(*(ctx.invoke_agent("echo", "x") for _ in range(branches))))


@app.session("scopes")
async def scopes(ctx: SessionContext, branches: int) -> int:
    """Branches of a step, a timer and a step."""

    async def branch(number: int) -> int:
        await ctx.step("before", same, number)
        await ctx.sleep(0.001)
        return await ctx.step("after", same, number)

    return len(await ctx.map("branch", branch, range(branches)))


async def measure() -> Figure:
    branches = size("BRANCHES", 1_000)
    rows = []
    for kind in KINDS:
        few = await child_numbers("bench.branches", kind, str(branches // GROWTH))
        many = await child_numbers("bench.branches", kind, str(branches))
        per_event = [numbers["cpu"] / numbers["events"] for numbers in (few, many)]
        rows += [
            Row(f"{branches:,} {kind}: events", many["events"], ""),
            Row("… events per second", many["events"] / many["wall"], "1/s"),
            Row("… CPU per event", per_event[1] * 1e6, "µs"),
            Row(f"… against {branches // GROWTH:,} branches, CPU per event", per_event[1] / per_event[0], "x"),
        ]
    return Figure(
        f"One session with {branches:,} parallel branches",
        rows,
        ["In one process over the adapters in memory: on a table, each event of a session waits for the one before."],
    )


async def run(kind: str, branches: int, profile: cProfile.Profile | None) -> dict[str, float]:
    """Return the events of one session, and the wall and CPU seconds that it took."""
    table = Table()
    async with node(app, table) as here:
        await here.start(kind, "warm", 10)
        await here.until_empty()
        wall, cpu = time.perf_counter(), time.process_time()
        if profile is not None:
            profile.enable()
        await here.start(kind, "many", branches)
        await here.until_empty()
        if profile is not None:
            profile.disable()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        events = [recorded async for recorded in table.journal.read("many")]
    return {"events": len(events), "wall": wall, "cpu": cpu}


async def main() -> None:
    configure_logging("json", level=logging.ERROR)
    kind, branches, *target = sys.argv[1:]
    profile = cProfile.Profile() if target else None
    print(json.dumps(await run(kind, int(branches), profile)))
    if profile is not None:
        profile.dump_stats(target[0])


if __name__ == "__main__":
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())
