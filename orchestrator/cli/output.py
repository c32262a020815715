"""What the command line prints: JSON on standard output, people's words on standard error, and the exit codes.

Every command imports this; what takes long to import stands elsewhere (`tables.py`).
"""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from typing import NoReturn

import click

from orchestrator.session.values import Json, JsonObject


class Exit(IntEnum):
    """The exit codes of the contract."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4


as_json = click.option("--json", "json_output", is_flag=True, help="Print JSON instead of text.")


def tell(text: str, *, dim: bool = False) -> None:
    """Tell people something, on standard error."""
    click.secho(text, err=True, dim=dim or None)


def fail(message: str, code: Exit) -> NoReturn:
    """Tell people what is wrong, on one line, and end with the code."""
    line = " ".join(message.splitlines())
    click.echo(f"{click.style('error', fg='red', bold=True)} {line}", err=True)
    raise SystemExit(int(code))


def print_json(value: Json) -> None:
    """Print one JSON document, on one line, to standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_fields(fields: JsonObject) -> None:
    """Print one value a line, its name before it, to standard output."""
    width = max(len(name) for name in fields)
    for name, value in fields.items():
        sys.stdout.write(f"{name.replace('_', ' '):<{width}}  {text_of(value)}\n")
    sys.stdout.flush()


def text_of(value: Json) -> str:
    """Return a value as people read it."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
