"""Keeps a node from taking more than its memory holds: above a mark it takes no new sessions, below a lower one again.

A container that passes its memory limit is killed, with all its sessions; one that leaves the queue alone for a while
loses nothing. What is full is not unhealthy: a restart would only move the sessions.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from actors import Clock

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

HIGH_SHARE: Final = 0.85
LOW_SHARE: Final = 0.75
LOOK_EVERY_SECONDS: Final = 1.0
RELIEVE_EVERY_SECONDS: Final = 30.0
"""Looking for garbage stops the loop for a moment: not more often than this."""


class MemoryPressure:
    """Tells whether this node is short of memory, whenever that changes."""

    def __init__(
        self,
        used_share: Callable[[], float | None],
        *,
        on_change: Callable[[bool], None],
        relieve: Callable[[], None],
        clock: Clock,
        log: FilteringBoundLogger,
    ) -> None:
        """`used_share` returns how much of the memory is used, from 0 to 1, or `None` where that cannot be told."""
        self._used_share = used_share
        self._on_change = on_change
        self._relieve = relieve
        self._clock = clock
        self._log = log
        self._is_high = False
        self._relieved_at = float("-inf")

    async def run(self) -> None:
        """Look every second, until cancelled; return where nothing can be told."""
        while (share := self._used_share()) is not None:
            self._note(share)
            await self._clock.sleep(LOOK_EVERY_SECONDS)

    def _note(self, share: float) -> None:
        was_high = self._is_high
        self._is_high = share >= HIGH_SHARE or (was_high and share > LOW_SHARE)
        if self._is_high and self._clock.monotonic() - self._relieved_at >= RELIEVE_EVERY_SECONDS:
            self._relieved_at = self._clock.monotonic()
            self._relieve()
        if self._is_high == was_high:
            return
        if self._is_high:
            self._log.warning("memory_short", used_share=round(share, 3), takes_again_below=LOW_SHARE)
        else:
            self._log.info("memory_sufficient", used_share=round(share, 3))
        self._on_change(self._is_high)


def hand_back() -> None:
    """Free what nobody refers to any more, and give free memory back to the system where it can be told to."""
    # What sessions leave is seldom looked through (`service`), and what was freed stays with the process otherwise.
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


# --- how much there is -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Files:
    """Where one version of control groups keeps what it limits (Linux, `cgroup-v2.rst` and `cgroup-v1/memory.rst`)."""

    controllers: str
    mount: str
    limit: str
    usage: str
    reclaimable: str


_VERSIONS: Final = (
    _Files("", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    _Files("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def used_share(root: Path = Path("/")) -> float | None:
    """Return how much of its memory this container uses; where none is limited, what this process has of the machine's.

    `None` where the system does not tell (not Linux).
    """
    try:
        physical = _field(root / "proc/meminfo", "MemTotal:") * 1_024
        shares = [share for files in _VERSIONS for share in _shares(root, files, physical)]
        if shares:
            return max(shares)
        resident = int((root / "proc/self/statm").read_text().split()[1])
        return resident * os.sysconf("SC_PAGE_SIZE") / physical
    except (OSError, ValueError, LookupError):
        return None


def _shares(root: Path, files: _Files, physical: int) -> Iterator[float]:
    """Yield the used share of each group that this process is in and that is limited below the machine's memory."""
    mount = root / files.mount
    own = mount / _own_path(root, files.controllers).lstrip("/")
    # A container sees its own group as the mount, by whatever path the host knows it.
    group = own if own.is_dir() else mount
    while True:
        limit = _number(group / files.limit)
        if limit is not None and 0 < limit < physical:
            used = _number(group / files.usage) or 0
            # The page cache counts as used, and goes when it is needed.
            yield max(0, used - _field(group / "memory.stat", files.reclaimable)) / limit
        if group == mount:
            return
        group = group.parent


def _own_path(root: Path, controllers: str) -> str:
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, named, path = line.split(":", 2)
        if controllers in named.split(","):
            return path
    return "/"


def _number(file: Path) -> int | None:
    """Return the number that stands in a file; `None` where there is no such file, or it says `max`."""
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _field(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        fields = line.split()
        if fields[0] == name:
            return int(fields[1])
    raise LookupError(f"{file} has no {name}")
