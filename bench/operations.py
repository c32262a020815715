"""What each operation costs: write units by AWS's rules, of the very requests that a worker sent for it.

One session type an operation, which uses it once; an empty session's cost is taken off. Nothing here is timed, so the
figures are the same on any machine.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.in_memory import NEVER_SECONDS
from bench.meter import Ledger
from bench.report import Figure, Row
from bench.rig import ACCEPTED, ENDED, Rig, Worker, rig, size, working
from bench.waits import TOKENS
from bench.wake import PASSIVATE_SECONDS, SUSPENDED, answer, handed_out
from bench.worker import METER

BY_THE_CLOCK = frozenset({"NODE"})
"""Items that a node writes by the clock, whatever its sessions do."""


@dataclass(frozen=True, slots=True)
class Site:
    """A worker whose requests are counted, the one that sessions are told things through, and where tokens appear."""

    worker: Worker
    told: Worker
    http: aiohttp.ClientSession
    tokens: Path


Telling = Callable[[Site, list[str]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table. `ends` are the sessions that end for each one started."""

    what: str
    session_type: str
    tell: Telling | None = None
    ends: int = 1
    number: int = 0


async def _answered(site: Site, ids: list[str]) -> None:
    handed = await handed_out(site.tokens, len(ids))
    for session_id in ids:
        await answer(site.told, site.http, *handed[session_id])
    site.tokens.unlink()


async def _approved(site: Site, ids: list[str]) -> None:
    await _post(site, ids, "approvals/op", {"approved": True, "by": "ann"})


async def _signalled(site: Site, ids: list[str]) -> None:
    await _post(site, ids, "signals/op", "x" * 100)


async def _cancelled(site: Site, ids: list[str]) -> None:
    await _post(site, ids, "cancel", {"reason": "enough"})


async def _post(site: Site, ids: list[str], path: str, body: object) -> None:
    for session_id in ids:
        url = f"http://127.0.0.1:{site.told.port}/sessions/{session_id}/{path}"
        async with site.http.post(url, json=body) as reply:
            assert reply.ok, await reply.text()


EMPTY = Case("(an empty session)", "empty")
LIVE = (
    EMPTY,
    Case("`step`", "step"),
    Case("`invoke_agent`", "agent"),
    Case("`sleep`, in memory", "nap"),
    Case("`create_callback` and its answer, in memory", "callback", _answered),
    Case("`request_approval` and its answer, in memory", "approval", _approved),
    Case("`wait_for_signal` and the signal, in memory", "signal", _signalled),
    Case("`run_session`, its child (an empty session) included", "child", ends=2),
    Case("cancel of a session that waits for a signal", "signal", _cancelled),
    Case("`progress`", "progress"),
    Case("`patched`, the first time", "patched"),
    Case("`continue_as_new`, the next generation (an empty session) included", "continued", ends=2, number=1),
    Case("`artifacts.put`", "artifact"),
)
SUSPENDING = (
    Case("`sleep`, suspended and woken", "long_nap"),
    Case("`create_callback` and its answer, suspended and woken", "callback", _answered),
    Case("`request_approval` and its answer, suspended and woken", "approval", _approved),
    Case("`wait_for_signal` and the signal, suspended and woken", "signal", _signalled),
)
ELSEWHERE = (Case("`wait_for_signal` and the signal, which comes to another node", "signal", _signalled),)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one session costs, on average."""

    units: dict[str, float]
    index_units: float
    objects: float


async def measure() -> Figure:
    sessions = size("OPERATION_SESSIONS", 10)
    costs: dict[str, Cost] = {}
    async with rig() as bench:
        async with _site(bench, "live", NEVER_SECONDS) as site:
            for case in LIVE:
                costs[case.what] = await _cost(bench, site, case, sessions, suspends=False)
        async with _site(bench, "suspending", PASSIVATE_SECONDS) as site:
            for case in SUSPENDING:
                costs[case.what] = await _cost(bench, site, case, sessions, suspends=True)
        async with _site(bench, "owner", NEVER_SECONDS, with_other=True) as site:
            for case in ELSEWHERE:
                costs[case.what] = await _cost(bench, site, case, sessions, suspends=False)
    return Figure("What each operation costs", _rows(costs), _table(costs))


@asynccontextmanager
async def _site(bench: Rig, name: str, passivate_seconds: float, *, with_other: bool = False) -> AsyncIterator[Site]:
    tokens = bench.folder / f"{name}.tokens"
    variables = {
        "ORCHESTRATOR_PASSIVATE_AFTER_SECONDS": passivate_seconds,
        TOKENS: tokens,
        METER: bench.folder / f"{name}.requests",
    }
    async with working(bench, variables, name=name) as worker, aiohttp.ClientSession() as http:
        if not with_other:
            yield Site(worker, worker, http, tokens)
            return
        # A node without room: it takes what others are told, and starts nothing itself.
        full = {**variables, METER: bench.folder / "other.requests", "ORCHESTRATOR_QUEUE": await _idle_queue(bench)}
        async with working(bench, full, name="other") as other:
            yield Site(worker, other, http, tokens)


async def _idle_queue(bench: Rig) -> str:
    for name in ("bench-idle", "bench-idle-dlq"):
        await bench.clients.sqs.create_queue(QueueName=name)
    return "bench-idle"


async def _cost(bench: Rig, site: Site, case: Case, sessions: int, *, suspends: bool) -> Cost:
    """Run so many sessions and return what one of them costs."""
    worker, seen = site.worker, Ledgers(bench, site)
    prefix = f"{case.session_type}-{worker.log.stem}-{'told' if case.tell is None else case.tell.__name__.strip('_')}"
    accepted, ended, suspended = worker.counts[ACCEPTED], worker.counts[ENDED], worker.counts[SUSPENDED]
    await seen.skip()
    await bench.fill(case.session_type, prefix, sessions, case.number)
    await worker.until(ACCEPTED, accepted + sessions)
    if suspends:
        await worker.until(SUSPENDED, suspended + sessions)
    await seen.take(worker)
    if case.tell is not None:
        await case.tell(site, [f"{prefix}-{i}" for i in range(sessions)])
        if site.told is not worker:
            await seen.take(site.told)
    await worker.until(ENDED, ended + sessions * case.ends)
    await seen.take(worker)
    return seen.cost(sessions)


class Ledgers:
    """Counts the requests of one or two workers from some moment on, in the order in which they are taken."""

    def __init__(self, bench: Rig, site: Site) -> None:
        self._folder = bench.folder
        self._site = site
        self._ledger = Ledger()
        self._read: dict[str, int] = {}

    async def skip(self) -> None:
        """Leave out what was sent so far."""
        for worker in {id(each): each for each in (self._site.worker, self._site.told)}.values():
            self._read[worker.log.stem] = len(await self._requests(worker))

    async def take(self, worker: Worker) -> None:
        """Count what the worker has sent since."""
        requests = await self._requests(worker)
        for operation, body in requests[self._read[worker.log.stem] :]:
            self._ledger.take(operation, body)
        self._read[worker.log.stem] = len(requests)

    def cost(self, sessions: int) -> Cost:
        """Return what was counted, by session."""
        units = {kind: n / sessions for kind, n in self._ledger.units.items() if kind not in BY_THE_CLOCK}
        index_units = self._ledger.index_units.total() / sessions
        return Cost(units, index_units, self._ledger.requests["S3"] / sessions)

    async def _requests(self, worker: Worker) -> list[tuple[str, str]]:
        await worker.dump()
        found: list[tuple[str, str]] = json.loads((self._folder / f"{worker.log.stem}.requests").read_text())
        return found


def _rows(costs: dict[str, Cost]) -> list[Row]:
    return [Row(what, sum(units.values()), "units") for what, units in _above_empty(costs).items()]


def _above_empty(costs: dict[str, Cost]) -> dict[str, Counter[str]]:
    """Return the write units by kind of item; those of an empty session are taken off."""
    empty = costs[EMPTY.what]
    found: dict[str, Counter[str]] = {}
    for what, cost in costs.items():
        off = {} if what == EMPTY.what else empty.units
        index_off = 0.0 if what == EMPTY.what else empty.index_units
        kinds: Counter[str] = Counter()
        for kind in cost.units:
            kinds[kind] = cost.units[kind] - off.get(kind, 0)  # type: ignore[assignment]
        kinds["index"] = cost.index_units - index_off  # type: ignore[assignment]
        found[what] = kinds
    return found


def _table(costs: dict[str, Cost]) -> list[str]:
    """Return the table as `docs/operations.md` has it."""
    lines = ["| operation | table | of these | indexes | S3 |", "| --- | --- | --- | --- | --- |"]
    for what, kinds in _above_empty(costs).items():
        parts = ", ".join(f"{kind} {n:g}" for kind, n in sorted(kinds.items()) if n and kind != "index")
        table = sum(n for kind, n in kinds.items() if kind != "index")
        lines.append(f"| {what} | {table:g} | {parts} | {kinds['index']:g} | {costs[what].objects:g} |")
    return lines
