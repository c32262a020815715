"""What the command line prints: JSON on standard output, people's words on standard error, and the exit codes."""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from typing import Final, NoReturn

from rich.console import Console
from rich.table import Table

from orchestrator.session.values import Json, JsonObject


class Exit(IntEnum):
    """The exit codes of the contract."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4


PIPE_WIDTH: Final = 400

people = Console(stderr=True, highlight=False)


def print_json(value: Json) -> None:
    """Print one JSON document, on one line, to standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def fail(message: str, code: Exit) -> NoReturn:
    """Tell people what is wrong, on one line, and end with the code."""
    people.print(f"[bold red]error[/] {_plain(message)}", soft_wrap=True)
    raise SystemExit(int(code))


def print_rows(rows: list[JsonObject], columns: tuple[str, ...]) -> None:
    """Print a table of the named keys of each row to standard output."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    # Whatever reads a pipe wants a row a line, however wide.
    Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def print_fields(fields: JsonObject) -> None:
    """Print one value a line, its name before it, to standard output."""
    width = max(len(name) for name in fields)
    for name, value in fields.items():
        sys.stdout.write(f"{name.replace('_', ' '):<{width}}  {_cell_text(value)}\n")
    sys.stdout.flush()


def _cell(value: Json) -> str:
    return _plain(_cell_text(value))


def _cell_text(value: Json) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(text: str) -> str:
    """Return the text with rich's markup switched off: it may come from anywhere."""
    return text.replace("[", r"\[")
