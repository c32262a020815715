"""Checks a deployment, and says of each thing whether it is right, what is wrong with it and what mends it.

Nothing is changed but a probe object in the bucket, which is deleted again. A check that a part of the deployment needs
is a function that yields findings; `examination` runs them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from orchestrator.session.values import JsonObject


class Level(StrEnum):
    """How bad it is: `error` keeps sessions from running or waking, `warning` costs, or hurts some day."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `mend` is what to do: a command, or the property of the template."""

    check: str
    level: Level
    says: str
    mend: str | None = None

    @property
    def view(self) -> JsonObject:
        """As JSON."""
        return {"check": self.check, "level": self.level.value, "says": self.says, "mend": self.mend}


def well(check: str, says: str) -> Finding:
    """Return that all is well."""
    return Finding(check, Level.OK, says)


def warning(check: str, says: str, mend: str) -> Finding:
    """Return what should be mended."""
    return Finding(check, Level.WARNING, says, mend)


def error(check: str, says: str, mend: str) -> Finding:
    """Return what must be mended."""
    return Finding(check, Level.ERROR, says, mend)
