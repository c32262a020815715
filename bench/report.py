"""Figures as a table for people and as JSON for comparisons."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

TABLE_WIDTH = 116
RESULTS = Path(__file__).parent / "results" / "latest.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One number. `target` says in words what it should be."""

    what: str
    value: float
    unit: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """Numbers that belong together; `notes` are lines below them."""

    title: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def show(figure: Figure, seconds: float) -> None:
    """Print a figure."""
    table = Table(title=f"{figure.title}  [dim]({seconds:.0f} s)[/]", title_justify="left", expand=False)
    table.add_column("what", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("target", overflow="fold")
    for row in figure.rows:
        table.add_row(row.what, _number(row.value), row.unit, row.target)
    Console(width=TABLE_WIDTH).print(table)
    print("\n".join([*figure.notes, ""]))


def keep(figures: dict[str, Figure]) -> None:
    """Write the figures, and on what they were measured, to `bench/results/latest.json`; those not run stay."""
    RESULTS.parent.mkdir(exist_ok=True)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]}
    for name, figure in figures.items():
        known[name] = {"at": time.strftime("%FT%TZ", time.gmtime()), "machine": machine, **asdict(figure)}
    RESULTS.write_text(json.dumps(known, indent=2) + "\n")


def median(values: list[float]) -> float:
    """Return the middle one of some values."""
    return quantile(values, 0.5)


def quantile(values: list[float], share: float) -> float:
    """Return the value below which that share lies; the nearest one there is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _number(value: float) -> str:
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
