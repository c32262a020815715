"""Is this node well? One answer, for ECS, AgentCore and people: HEALTHY, HEALTHY_BUSY or UNHEALTHY, and why.

HEALTHY_BUSY exactly while a background task runs. A check reports what is, never what is hoped for.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from actors import ActorSystem, BusySignal, Clock

UNREACHABLE_SECONDS_MAX: Final = 60.0
"""How long the table or the queue may be out of reach before the node calls itself unhealthy."""
STALL_SECONDS_MAX: Final = 5.0
STALL_MEMORY_SECONDS: Final = 30.0
TICK_SECONDS: Final = 0.5


class HealthStatus(StrEnum):
    """What a node says of itself."""

    HEALTHY = "HEALTHY"
    HEALTHY_BUSY = "HEALTHY_BUSY"
    UNHEALTHY = "UNHEALTHY"


@dataclass(frozen=True, slots=True)
class Report:
    """A node's health now. `checks` names what is wrong, and is empty while nothing is. `since`: the last flip.

    `stuck` sessions make no node unhealthy: another one would hang as they do.
    """

    status: HealthStatus
    active_tasks: int
    sessions: int
    is_draining: bool
    since: datetime
    checks: Mapping[str, str]
    stuck: int = 0


class LoopWatch:
    """Measures how late the event loop runs, and ends the process when it stands still past a limit.

    The limit is watched from a thread: a loop that stands still cannot end itself.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        stall_seconds_max: float,
        on_stalled: Callable[[str], None],
        guard: Callable[[Callable[[], None]], None],
        on_late: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Watch from `run` on; `guard` runs a function beside the loop, where `on_stalled(reason)` ends the process.

        `on_late` is told at every tick by how many seconds the loop is late.
        """
        self._on_late = on_late
        self._clock = clock
        self._limit = stall_seconds_max
        self._on_stalled = on_stalled
        self._start_guard = guard
        self._ticked_at = clock.monotonic()
        self._worst = 0.0
        self._worst_at = float("-inf")
        self._ended = threading.Event()

    async def run(self) -> None:
        """Tick until cancelled."""
        self._ticked_at = self._clock.monotonic()
        self._start_guard(self._guard)
        try:
            while True:
                await self._clock.sleep(TICK_SECONDS)
                now = self._clock.monotonic()
                late = now - self._ticked_at - TICK_SECONDS
                self._note(late, now)
                self._on_late(late)
                self._ticked_at = now
        finally:
            self._ended.set()

    def recent_stall(self) -> float:
        """Return the longest stall in seconds that a health check should still know of; 0 for none."""
        age = self._clock.monotonic() - self._worst_at
        return self._worst if age < STALL_MEMORY_SECONDS and self._worst > STALL_SECONDS_MAX else 0.0

    def _note(self, late: float, now: float) -> None:
        if late > STALL_SECONDS_MAX or now - self._worst_at >= STALL_MEMORY_SECONDS:
            self._worst, self._worst_at = late, now

    def _guard(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            late = self._clock.monotonic() - self._ticked_at
            if late > self._limit:
                # Whoever reads this at night wants to know which line holds the loop.
                _print_stacks()
                self._on_stalled(
                    f"the loop stood still for {late:.1f} s: frozen, or blocked by code (see the traceback)"
                )
                return


def _print_stacks() -> None:
    # Not by `faulthandler`, which writes past the stream to its descriptor, and would wait there for whoever reads it.
    for thread, frame in sys._current_frames().items():
        sys.stderr.write(f"thread {thread:#x}:\n{''.join(traceback.format_stack(frame))}\n")


class Health:
    """Gathers the checks of one node."""

    def __init__(
        self,
        *,
        busy: BusySignal,
        system: ActorSystem,
        loop: LoopWatch,
        reachability: Mapping[str, Callable[[], float]],
        stuck: Callable[[], int] = lambda: 0,
    ) -> None:
        """`reachability` maps a dependency's name to the seconds for which it has not answered.

        `stuck` tells how many sessions hang.
        """
        self._stuck = stuck
        self._busy = busy
        self._system = system
        self._loop = loop
        self._reachability = reachability
        self.is_ready = False
        self.is_draining = False

    def report(self) -> Report:
        """Return the node's health as of now."""
        checks = dict(self._failing())
        busy = HealthStatus.HEALTHY_BUSY if self._busy.is_busy else HealthStatus.HEALTHY
        return Report(
            status=HealthStatus.UNHEALTHY if checks else busy,
            active_tasks=self._busy.active,
            sessions=len(self._system),
            is_draining=self.is_draining,
            since=self._busy.changed_at,
            checks=checks,
            stuck=self._stuck(),
        )

    def _failing(self) -> dict[str, str]:
        failing = {
            name: f"out of reach for {seconds():.0f} s"
            for name, seconds in self._reachability.items()
            if seconds() > UNREACHABLE_SECONDS_MAX
        }
        stall = self._loop.recent_stall()
        if stall:
            failing["event_loop"] = f"stood still for {stall:.1f} s within the last {STALL_MEMORY_SECONDS:.0f} s"
        if self._system.gave_up is not None:
            failure = self._system.gave_up
            failing["supervisor"] = f"gave up over {failure.actor_id}: {type(failure.error).__name__}"
        return failing
