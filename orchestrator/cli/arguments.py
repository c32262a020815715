"""What several commands take in the same form: JSON, ids, secrets, texts. A wrong one ends the command (exit 2)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from orchestrator.cli.output import Exit, fail
from orchestrator.payloads import parse_json
from orchestrator.session.budget import TENANT_CAPS, cap_of
from orchestrator.session.values import ID_SAYS, Json, is_valid_id

STDIN: Final = "-"
DEFAULT: Final = "default"
"""Given as a cap, it stands for the one that the setting says."""


def json_argument(text: str, option: str) -> Json:
    """Return the JSON that the text is, or that `@file` or `-` (standard input) holds."""
    try:
        if text == STDIN:
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text()
        return parse_json(text)
    except (OSError, ValueError, RecursionError) as error:
        fail(f"{option}: {error}", Exit.USAGE)


def secret_argument(text: str, option: str) -> str:
    """Return the secret: the text, or for `-` the first line of standard input."""
    if text == STDIN:
        text = sys.stdin.readline().rstrip("\r\n")
    if not text:
        fail(f"{option}: it is empty", Exit.USAGE)
    return text


def id_argument(text: str, option: str) -> str:
    """Return the text, which is an id."""
    if not is_valid_id(text):
        fail(f"{option}: {text!r:.150} is not {ID_SAYS}", Exit.USAGE)
    return text


def text_argument(text: str, option: str, *, length_max: int, is_required: bool = False) -> str:
    """Return the text, which is not too long."""
    if len(text) > length_max or (is_required and not text):
        fail(f"{option}: {len(text)} characters; {int(is_required)} to {length_max} are possible", Exit.USAGE)
    return text


def cap_argument(name: str, text: str) -> float | None:
    """Return a cap on what a tenant may spend, by its name in `TENANT_CAPS`; 0 is none, `None` the setting's."""
    if text == DEFAULT:
        return None
    most, is_whole = TENANT_CAPS[name]
    try:
        number = int(text) if is_whole else float(text)
        return 0 if number == 0 else cap_of(name, number, most=most, is_whole=is_whole)
    except ValueError:
        kind = "a whole number" if is_whole else "a number"
        fail(f"--{name.replace('_', '-')}: {text!r:.100} is not {kind} from 0 to {most:,.0f}, or {DEFAULT}", Exit.USAGE)
