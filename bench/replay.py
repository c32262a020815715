"""Replay: how many events a second a node takes up when a long session comes to life in it.

In one process over the journal in memory, which decodes each event as the table's does: what a table adds is its pages.
`python -m bench.replay SHAPE EVENTS` prints what one replay takes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time

import uvloop

from bench.app import result_of
from bench.in_memory import Node, Table, node
from bench.report import Figure, Row
from bench.rig import child_numbers, size
from orchestrator import Orchestrator, SessionContext
from orchestrator.journal.folding import read_state
from orchestrator.telemetry.logs import configure_logging

RESULT_BYTES = 200
BRANCHES = 1_000
SHAPES = ("sequence", "branches")

app = Orchestrator()
reached: dict[str, float] = {}
"""When the handler of a session was through with what its journal holds: on `time.perf_counter`, and on the CPU."""


async def produce(_: int) -> dict[str, float | str]:
    return result_of(RESULT_BYTES)


@app.session("sequence")
async def sequence(ctx: SessionContext, events: int) -> int:
    """Steps one after another, then a signal."""
    for number in range(events):
        await ctx.step("step", produce, number)
    return await _stay(ctx)


@app.session("branches")
async def branches(ctx: SessionContext, events: int) -> int:
    """Steps in rounds of many branches, then a signal."""
    for _ in range(events // BRANCHES):
        await ctx.map("step", produce, range(BRANCHES))
    return await _stay(ctx)


async def _stay(ctx: SessionContext) -> int:
    reached.update(wall=time.perf_counter(), cpu=time.process_time())
    _has_reached.set()
    await ctx.wait_for_signal("go")
    return 0


_has_reached = asyncio.Event()


async def measure() -> Figure:
    events = size("REPLAY_EVENTS", 10_000)
    rows = []
    for shape in SHAPES:
        one = await child_numbers("bench.replay", shape, str(events))
        rows += [
            Row(f"{shape}: events in the journal", one["events"], ""),
            Row("… from the claim to the handler's first new line", one["wall"] * 1_000, "ms"),
            Row("… events per second", one["events"] / one["wall"], "1/s"),
            Row("… of this, reading and folding the journal", one["folding"] * 1_000, "ms"),
            Row("… CPU per event", one["cpu"] / one["events"] * 1e6, "µs"),
        ]
    return Figure(
        "Replay of a long journal",
        rows,
        [
            f"Results of {RESULT_BYTES} bytes; `branches` are rounds of {BRANCHES:,} steps at once.",
            "In one process over the journal in memory: a table adds a query for each MB.",
        ],
    )


async def run(shape: str, events: int) -> dict[str, float]:
    """Return what it takes to bring such a session to life on a node that never saw it."""
    table = Table()
    async with node(app, table, passivate_after=0.0) as first:
        await _suspended(first, table, shape, "warm", min(events, 2 * BRANCHES))
        await _suspended(first, table, shape, "long", events)
    async with node(app, table) as second:
        await _resumed(second, "warm")
        wall, cpu = time.perf_counter(), time.process_time()
        await _resumed(second, "long")
        taken = {"wall": reached["wall"] - wall, "cpu": reached["cpu"] - cpu}
        begun = time.perf_counter()
        state = await read_state(table.journal, "long")
        assert state is not None, "the journal is empty"
        return {**taken, "events": state.last_seq, "folding": time.perf_counter() - begun}


async def _suspended(here: Node, table: Table, shape: str, session_id: str, events: int) -> None:
    await here.start(shape, session_id, events)
    await here.until_empty()


async def _resumed(here: Node, session_id: str) -> None:
    _has_reached.clear()
    assert await here.router.claim(session_id), f"{session_id} cannot be claimed"
    await _has_reached.wait()


async def main() -> None:
    configure_logging("json", level=logging.ERROR)
    shape, events = sys.argv[1:]
    print(json.dumps(await run(shape, int(events))))


if __name__ == "__main__":
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())
