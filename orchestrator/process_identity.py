"""Which operating system process this is, so that its successor on the same host can prove it gone without waiting.

A beat that stands still needs the node timeout to mean death. One of the same kernel and process namespace needs no
timeout: if its id is free, or names a process that began at another time, it is gone (ADR 0002).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_START_TIME_FIELD: Final = 19
"""Of `/proc/<pid>/stat`, counted after the command's closing bracket (proc_pid_stat(5), field 22)."""
_PARTS: Final = 4


def own_process() -> str | None:
    """Return `<boot>/<namespace>/<pid>/<start>` of this process; `None` where the system does not tell (not Linux)."""
    return identity_of(os.getpid())


def identity_of(pid: int) -> str | None:
    """Return the identity of a living process of this namespace; `None` where it cannot be told."""
    place, started = _place(), _started(pid)
    return None if place is None or started is None else f"{place}/{pid}/{started}"


def is_gone(process: str | None) -> bool:
    """Return whether that process is certainly dead; false wherever it cannot be told from here."""
    parts = (process or "").split("/")
    if len(parts) != _PARTS or "/".join(parts[:2]) != _place() or not parts[2].isdecimal():
        return False
    return _started(int(parts[2])) != parts[3]


def _place() -> str | None:
    """Return what two processes share exactly when they see the same process ids."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat(_PROC / 'self/ns/pid').st_ino}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    # A zombie has run its last instruction; only its parent has not noticed.
    return None if fields[0] in {"Z", "X"} else fields[_START_TIME_FIELD]
