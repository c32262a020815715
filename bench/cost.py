"""Requests and write units per session of three 1 KB steps, 200 in flight, as they leave the worker."""

from __future__ import annotations

import json
from pathlib import Path

from bench.cpu import IN_FLIGHT
from bench.meter import DYNAMODB, UNIT_BYTES, Ledger
from bench.report import Figure, Row
from bench.rig import ENDED, Rig, rig, size, working
from bench.worker import METER

RESULT_BYTES_FITTING = 760
"""With a result of this size, a step's event item stays within 1 KB: the item's other attributes need the rest."""


async def measure() -> Figure:
    sessions = size("COST_SESSIONS", 1_000)
    async with rig() as bench:
        fitting = await _run(bench, "fitting", sessions, RESULT_BYTES_FITTING)
    async with rig() as bench:
        over = await _run(bench, "over", sessions, UNIT_BYTES)
    return Figure(
        "Cost of a session of three steps", [*_rows(fitting, over, sessions)], _notes(fitting, over, sessions)
    )


def _rows(fitting: Ledger, over: Ledger, sessions: int) -> list[Row]:
    def each(count: int) -> float:
        return count / sessions

    return [
        Row("AWS requests of any kind", each(fitting.requests.total()), "/session", "at most 1.5"),
        Row("… with results of exactly 1,024 bytes", each(over.requests.total()), "/session", "at most 1.5"),
        Row("table write units, event items within 1 KB", each(_table_units(fitting)), "/session", "at most 8"),
        *(Row(f"  of these for {kind}", each(n), "/session") for kind, n in sorted(fitting.units.items())),
        Row("… with results of exactly 1,024 bytes", each(_table_units(over)), "/session"),
        Row("index write units (besides)", each(fitting.index_units.total()), "/session"),
        *(Row(f"  of these for {name}", each(n), "/session") for name, n in fitting.index_units.items()),
        Row("largest event item, fitting", fitting.largest["EVENT"], "bytes", f"at most {UNIT_BYTES}"),
        Row("largest event item, result of 1,024 bytes", over.largest["EVENT"], "bytes"),
        Row("largest HEAD", fitting.largest["HEAD"], "bytes", f"at most {UNIT_BYTES}"),
        Row("writes per DynamoDB request", _writes_per_request(fitting), ""),
        Row("bytes sent per session", each(fitting.request_bytes.total()), "bytes"),
    ]


def _notes(fitting: Ledger, over: Ledger, sessions: int) -> list[str]:
    lines = ["requests per session:"]
    for name in sorted(fitting.requests | over.requests):
        lines.append(f"  {name:<36} {fitting.requests[name] / sessions:7.3f}   {over.requests[name] / sessions:7.3f}")
    return [*lines, "NODE is the node's own heartbeat: by the clock, not by session."]


def _table_units(ledger: Ledger) -> int:
    return ledger.units.total()


def _writes_per_request(ledger: Ledger) -> float:
    writing = ("BatchExecuteStatement", "PutItem", "UpdateItem", "TransactWriteItems")
    return ledger.writes.total() / sum(ledger.requests[f"{DYNAMODB}{name}"] for name in writing)


async def _run(bench: Rig, prefix: str, sessions: int, result_bytes: int) -> Ledger:
    await bench.fill("three", prefix, sessions, result_bytes)
    dump = bench.folder / f"{prefix}.requests"
    async with working(bench, {"ORCHESTRATOR_MAX_SESSIONS": IN_FLIGHT, METER: dump}) as worker:
        await worker.until(ENDED, sessions)
        await worker.dump()
    return _read(dump)


def _read(dump: Path) -> Ledger:
    ledger = Ledger()
    for operation, body in json.loads(dump.read_text()):
        ledger.take(operation, body)
    return ledger
