"""Samples where a process spends its CPU time: a timer of CPU time interrupts it, and the stack is counted.

Unlike a profile of every call it costs next to nothing, so cheap calls are not made to look dear. Time inside C counts
for the Python line that called it; time of the loop itself (uvloop, reading sockets) for `Runner.run`.
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path
from types import FrameType

INTERVAL_SECONDS = 0.001
DEPTH_MAX = 60


class Sampler:
    """Counts stacks, innermost frame first."""

    def __init__(self) -> None:
        self._stacks: Counter[tuple[tuple[str, str], ...]] = Counter()
        self._cpu = 0.0

    def start(self) -> None:
        """Interrupt this process after each millisecond of its CPU time."""
        signal.signal(signal.SIGPROF, self._sample)
        self._cpu = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)

    def stop(self) -> None:
        """Sample no more."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._cpu = time.process_time() - self._cpu

    def write(self, target: Path) -> None:
        """Write the stacks with their counts, and the CPU seconds that they stand for."""
        stacks = [[count, [list(frame) for frame in stack]] for stack, count in self._stacks.items()]
        target.write_text(json.dumps({"cpu": self._cpu, "stacks": stacks}))

    def _sample(self, _: int, frame: FrameType | None) -> None:
        stack: list[tuple[str, str]] = []
        while frame is not None and len(stack) < DEPTH_MAX:
            code = frame.f_code
            stack.append((code.co_filename, code.co_qualname))
            frame = frame.f_back
        self._stacks[tuple(stack)] += 1
