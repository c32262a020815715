"""Where the worker's CPU time goes: samples by room and function, or (BENCH_PROFILER=calls) a profile of every call."""

from __future__ import annotations

import json
import os
import pstats
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from bench.cpu import IN_FLIGHT, RESULT_BYTES
from bench.report import Figure, Row
from bench.rig import ENDED, rig, size, working
from bench.worker import CALLS, SAMPLES

TOP = 25
ROOMS = (
    ("/actors/", "actors"),
    ("/orchestrator/", "orchestrator"),
    ("/aiobotocore/", "aiobotocore + botocore"),
    ("/botocore/", "aiobotocore + botocore"),
    ("/aiohttp/", "aiohttp"),
    ("/yarl/", "aiohttp"),
    ("/multidict/", "aiohttp"),
    ("/structlog/", "structlog"),
    ("/pydantic", "pydantic"),
    ("/uvloop/", "asyncio + uvloop"),
    ("/asyncio/", "asyncio + uvloop"),
    ("/json/", "json"),
    ("/opentelemetry/", "opentelemetry"),
    ("/bench/", "bench"),
)

Stack = list[tuple[str, str]]


async def measure() -> Figure:
    return await (by_calls() if os.environ.get("BENCH_PROFILER") == "calls" else by_samples())


async def by_samples() -> Figure:
    """Return the shares of rooms and functions in the worker's CPU time."""
    sessions = size("PROFILE_SESSIONS", 4_000)
    profile = json.loads((await _profiled(SAMPLES, sessions)).read_text())
    stacks: list[tuple[int, Stack]] = [(count, [(f[0], f[1]) for f in stack]) for count, stack in profile["stacks"]]
    total, per_session = sum(count for count, _ in stacks), profile["cpu"] / sessions * 1_000
    own_rooms, own_functions, within = _tally(stacks)
    scale = per_session / total
    rows = [Row("worker CPU per session while sampled", per_session, "ms"), Row("samples", total, "")]
    rows += [Row(f"own time in {room}", count * scale, "ms") for room, count in own_rooms.most_common()]
    notes = ["", f"Top {TOP} functions by own time (C that they call included), ms per session:"]
    notes += [f"{count * scale:7.3f}  {name}" for name, count in own_functions.most_common(TOP)]
    notes += ["", "Product functions by time within (callees included), ms per session:"]
    notes += [f"{count * scale:7.3f}  {name}" for name, count in within.most_common(2 * TOP)]
    return Figure("Where the worker's CPU time goes", rows, notes)


async def by_calls() -> Figure:
    """Return the functions with the most time of their own, with how often each session calls them."""
    sessions = size("PROFILE_SESSIONS", 4_000)
    stats = pstats.Stats(str(await _profiled(CALLS, sessions)))
    entries: dict[Any, Any] = stats.stats  # type: ignore[attr-defined]
    rooms: Counter[str] = Counter()
    lines = []
    for (file, _, function), (_, calls, own, within, _) in entries.items():
        rooms[_room(file, function)] += own
        lines.append(
            (
                own,
                f"{own / sessions * 1_000:7.3f}  {within / sessions * 1_000:7.3f}  {calls / sessions:7.1f}  "
                f"{_name(file, function)}",
            )
        )
    notes = ["", f"Top {TOP} by own time: ms per session, the same with callees, calls per session"]
    notes += [line for _, line in sorted(lines, reverse=True)[:TOP]]
    rows = [Row(f"own time in {room}", own / sessions * 1_000, "ms") for room, own in rooms.most_common()]
    return Figure("Where the worker's CPU time goes (every call, so all of it inflated)", rows, notes)


async def _profiled(variable: str, sessions: int) -> Path:
    """Run the sessions and return where the profile is, for whoever wants to look closer with other tools."""
    target = Path(tempfile.gettempdir()) / f"{variable.lower().replace('_', '-')}.profile"
    async with rig() as bench:
        await bench.fill("three", "profile", sessions, RESULT_BYTES)
        async with working(bench, {"ORCHESTRATOR_MAX_SESSIONS": IN_FLIGHT, variable: target}) as worker:
            await worker.until(ENDED, sessions)
            await worker.dump()
    return target


def _tally(stacks: list[tuple[int, Stack]]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    rooms: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for count, stack in stacks:
        rooms[_room(*stack[0])] += count
        functions[_name(*stack[0])] += count
        for name in {_name(*frame) for frame in stack if _room(*frame) in {"orchestrator", "actors"}}:
            within[name] += count
    return rooms, functions, within


def _room(file: str, function: str) -> str:
    if function == "Runner.run":
        return "the loop itself (uvloop, sockets)"
    return next((room for part, room in ROOMS if part in file), "other standard library")


def _name(file: str, function: str) -> str:
    return f"{'/'.join(Path(file).parts[-3:])}:{function}"
