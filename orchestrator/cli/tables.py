"""Rows for people, on standard output."""

from __future__ import annotations

import sys
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output import text_of
from orchestrator.session.values import JsonObject

PIPE_WIDTH: Final = 400


def print_rows(rows: list[JsonObject], columns: tuple[str, ...]) -> None:
    """Print a table of the named keys of each row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(text_of(row.get(column))) for column in columns))
    # Whatever reads a pipe wants a row a line, however wide.
    Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)
