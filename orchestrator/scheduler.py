"""Starts the sessions of schedules when their time has come: every node does, and each occurrence is one session.

No node leads. The session's id is derived from the schedule and the instant, so whoever comes second finds it accepted
(I4); what was due while no node ran shows by the mark, which moves on after the start and never before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from actors import Clock
from orchestrator.cron import Schedule
from orchestrator.intake import Start
from orchestrator.payloads import size_of
from orchestrator.router import Accepted, IdempotencyConflict
from orchestrator.schedules import ScheduleName, Schedules
from orchestrator.session.values import format_instant, truncate_to_millis
from orchestrator.telemetry.logs import frames_of

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

T = TypeVar("T")

LATE: Final = timedelta(minutes=5)
"""What is no later than that is not missed: a deployment, or a crash, takes a moment."""
MISSED_MAX: Final = 100
"""So many missed occurrences are made up for at most, the latest ones."""
FORGOTTEN_AFTER: Final = timedelta(days=30)
"""A schedule that nobody saw to for so long after it was due is a new one, when somebody declares it again."""
LOOK_SECONDS_MAX: Final = 30.0
"""The clock on the wall may be set; a wait of hours would not notice."""
RETRY_SECONDS: Final = 5.0
COUNTED_AT_ONCE: Final = 1_000
"""So many occurrences are counted before others have a turn (about 10 ms)."""


class Scheduler:
    """One node's part in starting what is due."""

    def __init__(
        self,
        schedules: Sequence[Schedule],
        marks: Schedules,
        start: Callable[[Start], Awaitable[Accepted]],
        clock: Clock,
        log: FilteringBoundLogger,
    ) -> None:
        """`start` accepts a session, durably, as `Router.start` does."""
        self._schedules = schedules
        self._marks = marks
        self._start = start
        self._clock = clock
        self._log = log

    async def run(self) -> None:
        """Start what falls due, until cancelled; returns at once where nothing is scheduled."""
        async with asyncio.TaskGroup() as tasks:
            for schedule in self._schedules:
                tasks.create_task(self._follow(schedule), name=f"{schedule.session_type} {schedule.name}")

    async def _follow(self, schedule: Schedule) -> None:
        looked_to = await self._insist(schedule, partial(self._begin, schedule))
        while True:
            now = truncate_to_millis(self._clock.now())
            for at in await self._due(schedule, looked_to, now):
                # However long the table does not answer: only what nobody saw come is missed.
                await self._insist(schedule, partial(self._start_one, schedule, at))
            looked_to = max(looked_to, now)
            left = (schedule.next_after(looked_to) - self._clock.now()).total_seconds()
            await self._clock.sleep(min(LOOK_SECONDS_MAX, max(0.0, left)))

    async def _begin(self, schedule: Schedule) -> datetime:
        """Return how far the schedule has been seen to; a new one is, to now."""
        now = truncate_to_millis(self._clock.now())
        forgotten_at = schedule.next_after(now) + FORGOTTEN_AFTER
        return await self._marks.begin(_named(schedule), now=now, expires_at=forgotten_at)

    async def _due(self, schedule: Schedule, after: datetime, until: datetime) -> Sequence[datetime]:
        """Return what came due in between and is to be started: all that is hardly late, and of the rest what it says.

        What it passes over is logged.
        """
        # What lies further back was forgotten with its mark; a clock that was wrong by decades costs no hours of work.
        after = max(after, until - FORGOTTEN_AFTER)
        missed, late, count = deque[datetime](maxlen=MISSED_MAX), list[datetime](), 0
        for at in schedule.occurrences(after):
            if at > until:
                break
            if at + LATE >= until:
                late.append(at)
                continue
            missed.append(at)
            count += 1
            if count % COUNTED_AT_ONCE == 0:
                await self._clock.sleep(0)
        made_up = {"skip": 0, "latest": 1, "all": MISSED_MAX}[schedule.missed]
        kept = list(missed)[-made_up:] if made_up else []
        if count:
            self._log.warning("occurrences_missed", missed=count, made_up=len(kept), **_known(schedule))
            if not kept:
                # Else whoever starts next would count them again.
                await self._insist(schedule, partial(self._mark, schedule, missed[-1]))
        return [*kept, *late]

    async def _start_one(self, schedule: Schedule, at: datetime) -> None:
        payload = schedule.payload(at)
        session_id = schedule.session_id(at)
        start = Start(schedule.session_type, session_id, schedule.tenant, payload, input_bytes=size_of(payload))
        try:
            accepted = await self._start(start)
        except IdempotencyConflict:
            # Nodes of another deployment give the same occurrence another input; it has its session.
            accepted = Accepted(session_id, is_new=False)
        await self._mark(schedule, at)
        if accepted.is_new:
            known = {"session_id": session_id, "scheduled_at": format_instant(at), **_known(schedule)}
            self._log.info("occurrence_started", **known)

    async def _mark(self, schedule: Schedule, at: datetime) -> None:
        await self._marks.seen_to(_named(schedule), at, expires_at=schedule.next_after(at) + FORGOTTEN_AFTER)

    async def _insist(self, schedule: Schedule, call: Callable[[], Awaitable[T]]) -> T:
        """Return what the call returns; whatever goes wrong is logged, and it is made again."""
        while True:
            try:
                return await call()
            except Exception as error:
                # Supervision: one refusal of the table must not end the schedules.
                said = f"{type(error).__name__}: {error}"[:300]
                self._log.error("schedule_failed", error=said, frames=frames_of(error), **_known(schedule))
            await self._clock.sleep(RETRY_SECONDS)


def _named(schedule: Schedule) -> ScheduleName:
    return ScheduleName(schedule.session_type, schedule.name)


def _known(schedule: Schedule) -> dict[str, str]:
    return {"session_type": schedule.session_type, "cron": schedule.cron, "timezone": schedule.timezone}
