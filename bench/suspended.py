"""Sessions that wait: what one takes of a node's memory, suspended or not, and how long it takes to wake many at once.

Through a real worker as far as an emulator carries; and, by `python -m bench.suspended SESSIONS WAKING`, in one process
over the adapters in memory, for numbers that it would not.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import logging
import sys
import time
from collections.abc import Awaitable
from datetime import timedelta
from http import HTTPStatus

import aiohttp
import uvloop

from bench.in_memory import NEVER_SECONDS, Node, Table, node
from bench.memory import own_pss
from bench.report import Figure, Row
from bench.rig import ACCEPTED, ENDED, Rig, Worker, child_numbers, rig, size, working
from bench.waits import TOKENS
from bench.wake import PASSIVATE_SECONDS, SUSPENDED
from orchestrator import Orchestrator, SessionContext
from orchestrator.telemetry.logs import configure_logging

WARM_UP = 300
SESSIONS_MAX = 1_000_000
LEAD_SECONDS = 30
"""Enough for a thousand sessions to be accepted and suspended before the instant that they share."""
SIGNALS_AT_ONCE = 20
HOUR = 3_600.0

app = Orchestrator()


class Roll:
    """Who has woken; `all_there` is set when as many have as are waited for."""

    def __init__(self) -> None:
        self.all_there = asyncio.Event()
        self._missing = 0

    def expect(self, count: int) -> None:
        """Wait for so many from now on."""
        self._missing = count
        self.all_there.clear()

    def add(self) -> None:
        """Note one more."""
        self._missing -= 1
        if not self._missing:
            self.all_there.set()


woken = Roll()


@app.session("nudged")
async def nudged(ctx: SessionContext, payload: int) -> int:
    """Waits for a signal."""
    await ctx.wait_for_signal("op")
    woken.add()
    return payload


@app.session("asleep")
async def asleep(ctx: SessionContext, payload: int) -> int:
    """Waits for an hour to pass."""
    await ctx.sleep(HOUR)
    woken.add()
    return payload


async def measure() -> Figure:
    on_worker, in_process = size("SUSPENDED_ON_WORKER", 10_000), size("SUSPENDED_SESSIONS", 100_000)
    waking, waiting = size("WAKING_SESSIONS", 1_000), size("WAITING_IN_MEMORY", 3_000)
    rows = []
    for kind, session_type in (("a sleep", "due"), ("a callback", "callback")):
        each = await _in_memory(session_type, waiting)
        rows.append(Row(f"worker: a session that waits in memory for {kind}, of {waiting:,}", each, "KB"))
    rows += await _on_worker(on_worker, waking)
    numbers = await child_numbers("bench.suspended", str(in_process), str(waking))
    rows += [
        Row(f"in one process: actors left with {in_process:,} suspended", numbers["actors"], "", "0"),
        Row("… tasks more than before the first", numbers["tasks"], "", "0"),
        Row("… memory left for each once the table in memory is emptied", numbers["left"], "KB", "about 0"),
        Row(f"… {waking:,} timers due together, until the last handler goes on", numbers["timers"], "s"),
        Row(f"… {waking:,} signals sent at once, until the last handler goes on", numbers["signals"], "s"),
    ]
    return Figure(
        "Sessions that wait",
        rows,
        ["In one process there are only the adapters in memory; the times of the worker are the emulator's, mostly."],
    )


# --- a real worker -------------------------------------------------------------------------------------------------


async def _in_memory(session_type: str, waiting: int) -> float:
    """Return the KB of a worker's memory that a session adds which waits there."""
    async with rig() as bench, working(bench, _variables(bench, NEVER_SECONDS)) as worker:
        await bench.fill("three", "warm", WARM_UP, 100)
        await worker.until(ENDED, WARM_UP)
        at_first = await _waiting(bench, worker, session_type, "few", waiting // 10, WARM_UP)
        at_last = await _waiting(bench, worker, session_type, "many", waiting, WARM_UP + waiting // 10)
        return (at_last - at_first) / waiting


async def _waiting(bench: Rig, worker: Worker, session_type: str, prefix: str, count: int, before: int) -> int:
    await bench.fill(session_type, prefix, count, int(time.time() + HOUR))
    await worker.until(ACCEPTED, before + count)
    # What was accepted waits within a few turns of the loop and one write.
    await asyncio.sleep(2.0)
    return worker.memory()["Pss"]


async def _on_worker(sessions: int, waking: int) -> list[Row]:
    async with (
        rig() as bench,
        working(bench, _variables(bench, PASSIVATE_SECONDS)) as worker,
        aiohttp.ClientSession() as http,
    ):
        # As many as are measured have come and gone before: what is left then is the suspended ones' alone.
        await _suspend(bench, worker, "signal", "warm", sessions // 2, 0)
        before = worker.memory()["Pss"]
        await _suspend(bench, worker, "signal", "many", sessions // 2, 0)
        after, actors = worker.memory()["Pss"], await _actors(worker, http)
        by_signals = await _signalled(worker, http, "many", waking)
        instant = int(time.time()) + LEAD_SECONDS
        await _suspend(bench, worker, "due", "due", waking, instant)
        was_in_time = time.time() < instant
        ended = worker.counts[ENDED]
        await worker.until(ENDED, ended + waking)
        by_timers = time.time() - instant
    return [
        Row(f"worker: PSS with {sessions // 2:,} suspended", before / 1_024, "MB"),
        Row(f"… with {sessions // 2:,} more", after / 1_024, "MB"),
        Row("… for each of these", (after - before) / (sessions // 2), "KB", "about 0"),
        Row("… actors left", actors, "", "0"),
        Row(
            f"… {waking:,} signals by HTTP, {SIGNALS_AT_ONCE} at a time, until the last session's end", by_signals, "s"
        ),
        Row(f"… {waking:,} timers due together, until the last session's end", by_timers, "s"),
        *([] if was_in_time else [Row("… of them suspended only after they were due: a longer lead is needed", 1, "")]),
    ]


def _variables(bench: Rig, passivate_seconds: float) -> dict[str, object]:
    return {
        "ORCHESTRATOR_PASSIVATE_AFTER_SECONDS": passivate_seconds,
        "ORCHESTRATOR_MAX_SESSIONS": SESSIONS_MAX,
        TOKENS: bench.folder / "tokens",
    }


async def _suspend(bench: Rig, worker: Worker, session_type: str, prefix: str, count: int, number: int) -> None:
    suspended = worker.counts[SUSPENDED]
    await bench.fill(session_type, prefix, count, number)
    await worker.until(SUSPENDED, suspended + count)
    await asyncio.sleep(2.0)


async def _actors(worker: Worker, http: aiohttp.ClientSession) -> int:
    async with http.get(f"http://127.0.0.1:{worker.port}/health") as answer:
        return int((await answer.json())["sessions"])


async def _signalled(worker: Worker, http: aiohttp.ClientSession, prefix: str, waking: int) -> float:
    """Send so many sessions a signal each, and return the seconds until the last one has ended."""
    ended, begun, numbers = worker.counts[ENDED], time.time(), iter(range(waking))

    async def one_sender() -> None:
        for number in numbers:
            url = f"http://127.0.0.1:{worker.port}/sessions/{prefix}-{number}/signals/op"
            # The emulator may take longer than the node gives a request: the same message again is the same signal.
            while not await _is_taken(http, url, f"{prefix}-{number}"):
                pass

    async with asyncio.TaskGroup() as senders:
        for _ in range(SIGNALS_AT_ONCE):
            senders.create_task(one_sender())
    await worker.until(ENDED, ended + waking)
    return time.time() - begun


async def _is_taken(http: aiohttp.ClientSession, url: str, message_id: str) -> bool:
    async with http.post(url, json="x", headers={"Idempotency-Key": message_id}) as answer:
        # One that ended had its signal, of which the answer was lost.
        taken = answer.ok or answer.status == HTTPStatus.CONFLICT
        assert taken or answer.status == HTTPStatus.SERVICE_UNAVAILABLE, await answer.text()
        return taken


# --- one process ---------------------------------------------------------------------------------------------------


async def in_process(sessions: int, waking: int) -> dict[str, float]:
    """Return what is left of so many suspended sessions, and how long some take to wake."""
    table = Table()
    async with node(app, table, passivate_after=0.0, with_rescuer=True) as here:
        await _all_suspended(here, "nudged", "warm", waking)
        before, tasks = _settled_pss(), len(asyncio.all_tasks())
        await _all_suspended(here, "nudged", "one", sessions - waking)
        await _all_suspended(here, "asleep", "timer", waking)
        left = {"actors": float(len(here.system)), "tasks": float(len(asyncio.all_tasks()) - tasks)}
        by_signals = await _woken(_signal_all(here, waking), waking)
        by_timers = await _woken(_pass_an_hour(table), waking)
        await here.until_empty()
        for store in (table.journal._sessions, table.heads._heads, table.inbox._waiting):
            store.clear()
        return {**left, "signals": by_signals, "timers": by_timers, "left": (_settled_pss() - before) / sessions}


async def _all_suspended(here: Node, session_type: str, prefix: str, count: int) -> None:
    for number in range(count):
        await here.start(session_type, f"{prefix}-{number}", number)
    await here.until_empty()


async def _signal_all(here: Node, count: int) -> None:
    async with asyncio.TaskGroup() as senders:
        for number in range(count):
            senders.create_task(here.deliveries.signal(f"one-{number}", "op", None, None))


async def _pass_an_hour(table: Table) -> None:
    table.clock.ahead += timedelta(seconds=HOUR)


async def _woken(waking_up: Awaitable[None], count: int) -> float:
    woken.expect(count)
    begun = time.perf_counter()
    await waking_up
    await woken.all_there.wait()
    return time.perf_counter() - begun


def _settled_pss() -> int:
    gc.collect()
    # What is free goes back to the system: else the table's memory would be taken for the sessions'.
    ctypes.CDLL(None).malloc_trim(0)
    return own_pss()


async def main() -> None:
    configure_logging("json", level=logging.ERROR)
    sessions, waking = sys.argv[1:]
    print(json.dumps(await in_process(int(sessions), int(waking))))


if __name__ == "__main__":
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())
