"""Draws the state diagrams from the tables in code; `make docs` writes them, and a test holds the page to it."""

from pathlib import Path

from orchestrator.session.events import TYPE_NAMES
from orchestrator.session.transitions import ENDED, OPERATION_TRANSITIONS, SESSION_TRANSITIONS, OperationKind, Phase

PAGE = Path(__file__).with_name("state-diagrams.md")


def page() -> str:
    """Return the whole page."""
    parts = ["# State diagrams\n", "Drawn from `orchestrator/session/transitions.py` by `make docs`; do not edit.\n"]
    parts += ["## A session\n", _session()]
    for kind in OperationKind:
        parts += [f"## An operation: {kind}\n", _operation(kind)]
    return "\n".join(parts)


def _session() -> str:
    lines = []
    for event, status in SESSION_TRANSITIONS.items():
        before = "RUNNING" if status in ENDED else "[*]"
        lines.append(f"    {before} --> {status}: {TYPE_NAMES[event]}")
        if status in ENDED:
            lines.append(f"    {status} --> [*]")
    quiet = TYPE_NAMES.keys() - SESSION_TRANSITIONS.keys() - OPERATION_TRANSITIONS.keys()
    names = ", ".join(f"`{name}`" for kind, name in TYPE_NAMES.items() if kind in quiet)
    return f"{_mermaid(lines)}\nA session stays as it is at: {names}.\n"


def _operation(kind: OperationKind) -> str:
    return _mermaid(
        [
            f"    {'[*]' if before is Phase.NEW else before} --> {after}: {TYPE_NAMES[event]}"
            for event, changes in OPERATION_TRANSITIONS.items()
            if kind in changes
            for phases, after in (changes[kind],)
            for before in sorted(phases, key=list(Phase).index)
        ]
    )


def _mermaid(lines: list[str]) -> str:
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```", ""])


if __name__ == "__main__":
    PAGE.write_text(page())
