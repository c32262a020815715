"""The simulated world: one time, one source of chance, one agenda. Everything that happens, happens at an entry of it.

To change it: no services, no nodes, no checks here. Whatever draws a number draws it from `chance`, and whatever takes
time stands in the agenda: so a seed is a whole history, the same each time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import Any

from tests.simulation.loops import SimLoop

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
THREAD_SECONDS = (0.0, 0.0, 0.002, 0.05)


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of the timeline. `about` is a session's id, or empty."""

    at: float
    who: str
    what: str
    about: str = ""

    def __str__(self) -> str:
        return f"{self.at:10.4f}  {self.who:<10} {self.what}"


class World:
    """Time, chance and the agenda."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = Random(seed)
        self.time = 0.0
        self.timeline: list[Moment] = []
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._loops: list[tuple[str, SimLoop]] = []
        self.turning = "world"
        """Who runs right now: log lines and deeds are theirs."""

    def now(self) -> float:
        """Return the seconds since the start."""
        return self.time

    def wall(self, offset: float = 0.0) -> datetime:
        """Return the wall time of somebody whose clock is wrong by so many seconds."""
        return NOON + timedelta(seconds=self.time + offset)

    def at(self, when: float, callback: Callable[[], None]) -> None:
        """Call back at that time; what is past happens now."""
        heapq.heappush(self._agenda, (max(when, self.time), next(self._numbers), callback))

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back after so many seconds."""
        self.at(self.time + seconds, callback)

    def loop(self, who: str) -> SimLoop:
        """Return a new loop, which is turned from now on."""

        def failed(context: dict[str, Any]) -> None:
            self.note(who, f"unhandled: {context.get('message')}: {context.get('exception')!r}")

        def thread(run: Callable[[], None]) -> None:
            self.after(self.chance.choice(THREAD_SECONDS), run)

        loop = SimLoop(now=self.now, at=self.at, thread=thread, failed=failed)
        self._loops.append((who, loop))
        return loop

    def note(self, who: str, what: str, about: str = "") -> None:
        """Write a line of the timeline."""
        self.timeline.append(Moment(self.time, who, what, about))

    def run(self, until: Callable[[], bool], seconds_max: float) -> bool:
        """Let time pass until the condition holds, which is looked at after each entry; False if it never does."""
        end = self.time + seconds_max
        self._turn_all()
        while not until():
            if not self._agenda or self._agenda[0][0] > end:
                return False
            self.time, _, callback = heapq.heappop(self._agenda)
            callback()
            self._turn_all()
        return True

    def _turn_all(self) -> None:
        is_at_rest = False
        while not is_at_rest:
            is_at_rest = True
            for who, loop in tuple(self._loops):
                if loop.is_ready:
                    is_at_rest = False
                    self.turning = who
                    loop.turn()
        self.turning = "world"
