"""Standard output and standard error that never hold up or end a node, whoever reads them or has ceased to.

A pipe whose reader is gone, a disk that is full and a log driver that stands still are no reason to end a session. What
cannot be written is dropped and counted; the count is the first line that gets through again.
"""

from __future__ import annotations

import io
import json
import os
import select
import sys
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

WAIT_SECONDS_MAX: Final = 0.1
"""How long a line waits for a reader that is behind: a burst is not lost, and the event loop hardly stands still."""
WAIT_AGAIN_AFTER_SECONDS: Final = 10.0
"""One such wait in so long, for a reader that crawls would slow down everything else."""
NOT_READ: Final = "not read in time"


def keep_streams_from_stopping_us() -> None:
    """Let what this process prints from now on be lost rather than raise or wait."""
    sys.stdout, sys.stderr = _lossy(sys.stdout), _lossy(sys.stderr)


def _lossy(stream: TextIO | None) -> io.TextIOWrapper:
    # A stream that was closed when the process started is `None`, and its number may be that of a socket by now.
    descriptor = os.open(os.devnull, os.O_WRONLY) if stream is None else stream.fileno()
    return io.TextIOWrapper(
        LossyFile(descriptor), encoding="utf-8", errors="backslashreplace", newline="\n", line_buffering=True
    )


class LossyFile(io.RawIOBase):
    """A file to be written to, which drops what it does not take; it never raises and seldom waits. Any thread's."""

    def __init__(self, descriptor: int) -> None:
        """Write to a descriptor that somebody else closes."""
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._waits_again_at = float("-inf")
        self._lost = 0
        self._reason = ""
        self._is_torn = False

    @property
    def name(self) -> str:
        """Return what it is called in messages about it."""
        return f"<descriptor {self._descriptor}>"

    @property
    def lost(self) -> tuple[int, str]:
        """Return how many writes are lost that nobody was told of, and why the last one is."""
        return self._lost, self._reason

    def writable(self) -> bool:
        """Return that it is."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether a person reads along."""
        return os.isatty(self._descriptor)

    def write(self, text: ReadableBuffer, /) -> int:
        """Write it whole if that can be; return its length in any case."""
        data = bytes(text)
        with self._lock:
            if self._lost and self._is_put(self._notice()):
                self._lost, self._is_torn = 0, False
            if self._lost or not self._is_put(data):
                self._lost += 1
        return len(data)

    def _notice(self) -> bytes:
        told = {
            "event": "output_lost",
            "level": "warning",
            "writes": self._lost,
            "reason": self._reason,
            "at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        }
        # What was torn off in the middle ends here.
        return b"\n" * self._is_torn + json.dumps(told).encode() + b"\n"

    def _is_put(self, data: bytes) -> bool:
        rest = memoryview(data)
        try:
            while rest:
                if not self._has_room():
                    self._reason = NOT_READ
                    return False
                # So much fits into a pipe that has room at all (pipe(7)).
                rest = rest[os.write(self._descriptor, rest[: select.PIPE_BUF]) :]
                self._is_torn = bool(rest)
        except OSError as error:
            self._reason = os.strerror(error.errno) if error.errno else type(error).__name__
            return False
        return True

    def _has_room(self) -> bool:
        if self._is_writable(0):
            return True
        now = time.monotonic()
        if now < self._waits_again_at:
            return False
        self._waits_again_at = now + WAIT_AGAIN_AFTER_SECONDS
        return self._is_writable(WAIT_SECONDS_MAX)

    def _is_writable(self, seconds: float) -> bool:
        return bool(select.select([], [self._descriptor], [], seconds)[1])
