"""`python -m bench.bill`: what a deployment costs in a month, from counted requests and list prices.

The counts are those of `docs/performance.md` (`make bench`). The prices are assumptions that stand here to be checked;
the table that comes of them stands in `deploy/ecs/README.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

HOURS: Final = 730
MILLION: Final = 1e6
REGION: Final = "us-east-1"
AS_OF: Final = "2025"
PRICES: Final = {
    "table and index writes (a million units)": 0.625,
    "table reads (a million units)": 0.125,
    "table, kept (a GB)": 0.25,
    "recovery to a point in time (a GB)": 0.20,
    "queue (a million requests)": 0.40,
    "Fargate, a vCPU (an hour)": 0.04048,
    "Fargate, a GB (an hour)": 0.004445,
    "load balancer (an hour)": 0.0225,
    "alarm": 0.10,
    "metric": 0.30,
    "log, taken in (a GB)": 0.50,
    "secret": 0.40,
}
"""On demand, in US dollars, without the free tier; Spot, savings plans and arm64 (a fifth less) not counted."""

# Counted for a session of three steps with results of about 1 KB: `python -m bench cost`.
WRITE_UNITS: Final = 7 + 5
"""Of the table, and of its indexes."""
QUEUE_REQUESTS: Final = 3.0
"""Sent, received, deleted, each alone; with 200 in flight the last two go in tens."""
SESSION_BYTES: Final = 6_000
"""Its events, HEAD, and what the indexes hold of it."""
KEPT_MONTHS: Final = (400 + 90) / 30.4
"""A session's longest life and ORCHESTRATOR_RETENTION_DAYS: its events expire together, so long after its start."""
LOG_BYTES: Final = 1_500
"""Three or four lines a session."""

# Counted for a node that has nothing to do, an hour: `python -m bench idle`.
POLLS: Final = 715
BEATS: Final = 715
CONSISTENT_QUERIES: Final = 2 * 3_600 + 715
"""Wake-ups and limits each second, the nodes each heartbeat; a unit each, for they are empty or short."""
INDEX_QUERIES: Final = 4 * 3_600
"""What is due, by shard; half a unit each."""

ALARMS: Final = 12
METRICS: Final = 60
"""Some 27 for the service as a whole, and those by session type, state, agent and the like that a small fleet has."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """What runs for a month: so many sessions, on so many tasks of that size."""

    sessions: int
    tasks: int
    vcpus: float = 0.5
    gigabytes: float = 1.0


FLEETS: Final = (Fleet(10_000, 2), Fleet(1_000_000, 2), Fleet(30_000_000, 6))


def bill(fleet: Fleet) -> dict[str, float]:
    """Return what a month costs, in dollars, by what it is for."""
    price = PRICES
    nodes = fleet.tasks * HOURS
    kept = fleet.sessions * SESSION_BYTES * KEPT_MONTHS / 1e9
    sessions = {
        "writes": fleet.sessions * WRITE_UNITS / MILLION * price["table and index writes (a million units)"],
        "queue": fleet.sessions * QUEUE_REQUESTS / MILLION * price["queue (a million requests)"],
        "kept in the table": kept * (price["table, kept (a GB)"] + price["recovery to a point in time (a GB)"]),
        "log": fleet.sessions * LOG_BYTES / 1e9 * price["log, taken in (a GB)"],
    }
    size = fleet.vcpus * price["Fargate, a vCPU (an hour)"] + fleet.gigabytes * price["Fargate, a GB (an hour)"]
    reads = CONSISTENT_QUERIES + INDEX_QUERIES / 2
    looking = (
        reads * price["table reads (a million units)"]
        + BEATS * price["table and index writes (a million units)"]
        + POLLS * price["queue (a million requests)"]
    ) / MILLION
    return sessions | {
        "tasks": nodes * size,
        "beats, looks and polls": nodes * looking,
        "load balancer": HOURS * price["load balancer (an hour)"],
        "alarms and metrics": ALARMS * price["alarm"] + METRICS * price["metric"],
        "secret": price["secret"],
    }


def table() -> str:
    """Return the bills as a table in Markdown."""
    heads = [f"{fleet.sessions:,} sessions, {fleet.tasks} tasks" for fleet in FLEETS]
    bills = [bill(fleet) for fleet in FLEETS]
    rows = [[name, *(_dollars(each[name]) for each in bills)] for name in bills[0]]
    rows.append(["**a month**", *(f"**{_dollars(sum(each.values()))}**" for each in bills)])
    per_million = [sum(each.values()) / fleet.sessions * MILLION for each, fleet in zip(bills, FLEETS, strict=True)]
    rows.append(["a million sessions", *map(_dollars, per_million)])
    lines = [["", *heads], ["---"] + ["---:"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _dollars(amount: float) -> str:
    return f"{amount:,.2f}" if amount < 100 else f"{amount:,.0f}"


if __name__ == "__main__":
    print(table())
