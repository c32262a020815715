"""Reads the locks of this folder: what `make lock` wrote, and pip installs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

FOLDER: Final = Path(__file__).parent
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})(?=\s|$)")


@dataclass(frozen=True)
class Pin:
    """One package of a lock: the only version of it, and the files that may be installed (SHA-256)."""

    requirement: Requirement
    hashes: frozenset[str]

    @property
    def version(self) -> str:
        """The version; the empty text where there is none, or several would do."""
        exact = [each.version for each in self.requirement.specifier if each.operator == "=="]
        return exact[0] if len(exact) == len(self.requirement.specifier) == 1 else ""


def pins(name: str) -> dict[str, Pin]:
    """Return the packages that a lock names (`runtime`, `build`, `dev`), by their names."""
    text = (FOLDER / f"{name}.txt").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            requirement = Requirement(line.partition(" --hash")[0])
            found[requirement.name] = Pin(requirement, frozenset(_HASH.findall(line)))
    return found
