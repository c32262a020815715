"""What a node says of its health: busy, unreachable, stalled, given up; each for as long as it is so, and no longer."""

import asyncio
import io
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from actors import ActorContext, ActorSystem, BusySignal, Directive, Failure, ManualClock, settle
from orchestrator.health import STALL_MEMORY_SECONDS, STALL_SECONDS_MAX, TICK_SECONDS, Health, HealthStatus, LoopWatch
from orchestrator.machine import in_a_thread


class Ward:
    """One node's health on a clock that stands still."""

    def __init__(self) -> None:
        self.clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.busy = BusySignal(self.clock)
        self.system = ActorSystem(clock=self.clock, busy=self.busy)
        self.loop = LoopWatch(self.clock, stall_seconds_max=3_600, on_stalled=lambda _: None, guard=in_a_thread)
        self.seconds = {"table": 0.0, "queue": 0.0}
        reachability = {"table": lambda: self.seconds["table"], "queue": lambda: self.seconds["queue"]}
        self.health = Health(busy=self.busy, system=self.system, loop=self.loop, reachability=reachability)

    def status(self) -> HealthStatus:
        return self.health.report().status


class Failing:
    """An actor that fails on its first message."""

    async def activate(self) -> None: ...

    async def receive(self, message: str) -> None:
        raise ValueError("payload that must not show")

    async def deactivate(self) -> None: ...


def test_a_node_is_busy_exactly_while_work_is_tracked() -> None:
    """HEALTHY_BUSY from the first task to the last; `since` moves on flips only."""
    ward = Ward()
    assert HealthStatus.HEALTHY is ward.status()
    ward.clock.advance(5)
    with ward.busy.track():
        begun = ward.health.report()
        assert (HealthStatus.HEALTHY_BUSY, 1) == (begun.status, begun.active_tasks)
        ward.clock.advance(5)
        with ward.busy.track():
            assert begun.since == ward.health.report().since
    assert HealthStatus.HEALTHY is ward.status()


def test_a_dependency_out_of_reach_for_a_minute_is_unhealthy_and_named() -> None:
    """Table and queue alike; a shorter outage is ridden out, and an answer ends it."""
    for name in ("table", "queue"):
        ward = Ward()
        ward.seconds[name] = 60.0
        assert HealthStatus.HEALTHY is ward.status()
        ward.seconds[name] = 61.0
        assert HealthStatus.UNHEALTHY is ward.status()
        assert {name: "out of reach for 61 s"} == dict(ward.health.report().checks)
        ward.seconds[name] = 0.0
        assert HealthStatus.HEALTHY is ward.status()


async def test_a_stalled_loop_is_unhealthy_for_a_while_after() -> None:
    """Nobody can answer during the stall; what is asked soon after still hears of it, but not of a short delay."""
    ward = Ward()
    async with _running(ward.loop):
        await settle()
        ward.clock.advance(TICK_SECONDS + STALL_SECONDS_MAX)
        await settle()
        assert HealthStatus.HEALTHY is ward.status()
        # The second tick is in time again.
        for seconds in (TICK_SECONDS + STALL_SECONDS_MAX + 2, TICK_SECONDS):
            ward.clock.advance(seconds)
            await settle()
            assert {"event_loop": "stood still for 7.0 s within the last 30 s"} == dict(ward.health.report().checks)
        ward.clock.advance(STALL_MEMORY_SECONDS)
        assert HealthStatus.HEALTHY is ward.status()


async def test_a_supervisor_that_gave_up_is_unhealthy_for_good() -> None:
    """Its actor and the kind of error are named, the error's text is not."""
    ward = Ward()

    def escalate(_: Failure) -> Directive:
        return Directive.ESCALATE

    def factory(_: ActorContext[str]) -> Failing:
        return Failing()

    async with ward.system:
        ref = await ward.system.spawn("s-1", factory, supervisor=escalate)
        await ref.tell("now")
        await ref.stopped()
        assert {"supervisor": "gave up over s-1: ValueError"} == dict(ward.health.report().checks)


@asynccontextmanager
async def _running(watch: LoopWatch) -> AsyncIterator[None]:
    async with ActorSystem() as system:
        task = system.task_group.create_task(watch.run())
        try:
            yield
        finally:
            task.cancel()


def test_a_loop_that_stands_still_is_told_where_as_the_process_prints_everything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Past the stream, to its descriptor, it would wait for a reader, and the node with it."""
    printed, reasons, clock = io.StringIO(), list[str](), ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    monkeypatch.setattr(sys, "stderr", printed)
    guards = list[Callable[[], None]]()
    watch = LoopWatch(clock, stall_seconds_max=1.0, on_stalled=reasons.append, guard=guards.append)

    async def blocked() -> None:
        ticking = asyncio.ensure_future(watch.run())
        await settle()
        clock.advance(2.0)
        # The loop gets no turn meanwhile.
        guards[0]()
        ticking.cancel()

    asyncio.run(blocked())
    assert ["the loop stood still for 2.0 s: frozen, or blocked by code (see the traceback)"] == reasons
    assert "in blocked\n    guards[0]()" in printed.getvalue()
