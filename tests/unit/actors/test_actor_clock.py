"""Manual time and settle: what the other tests stand on."""

import asyncio
from datetime import timedelta

import pytest
from actor_stage import NOON

from actors import ManualClock, SystemClock, settle
from actors.signals import next_turn


def test_timers_fire_in_due_order_each_at_its_moment() -> None:
    """Also those that a callback adds within the advance."""
    clock, seen = ManualClock(NOON), list[tuple[str, float]]()

    def add() -> None:
        clock.call_later(0.5, lambda: seen.append(("added", clock.monotonic())))

    clock.call_later(2, lambda: seen.append(("two", clock.monotonic())))
    clock.call_later(1, add)
    clock.call_later(2, lambda: seen.append(("two again", clock.monotonic())))
    clock.advance(3)
    assert [("added", 1.5), ("two", 2.0), ("two again", 2.0)] == seen
    assert NOON + timedelta(seconds=3) == clock.now()


def test_a_cancelled_timer_does_not_fire() -> None:
    """Nor does one that is not due."""
    clock, seen = ManualClock(NOON), []
    clock.call_later(1, lambda: seen.append("cancelled")).cancel()
    clock.call_later(1.001, lambda: seen.append("early"))
    clock.advance(1)
    assert [] == seen


def test_stepping_the_wall_fires_nothing_and_leaves_monotonic_time_alone() -> None:
    """An operator's correction is no passage of time."""
    clock, seen = ManualClock(NOON), []
    clock.call_later(1, lambda: seen.append("fired"))
    clock.advance(0.5)
    clock.set_wall(NOON - timedelta(days=1))
    assert ([], 0.5, NOON - timedelta(days=1)) == (seen, clock.monotonic(), clock.now())
    clock.advance(0.5)
    assert (["fired"], NOON - timedelta(days=1) + timedelta(seconds=0.5)) == (seen, clock.now())


async def test_a_sleeper_wakes_when_its_time_has_passed_and_can_be_cancelled() -> None:
    """And a cancelled one leaves nothing that fires."""
    clock = ManualClock(NOON)
    async with asyncio.TaskGroup() as group:
        sleeper, cancelled = group.create_task(clock.sleep(5)), group.create_task(clock.sleep(5))
        group.create_task(clock.sleep(0))
        await settle()
        cancelled.cancel()
        clock.advance(4.9)
        await settle()
        assert not sleeper.done()
        clock.advance(0.2)


async def test_settle_returns_when_everybody_waits() -> None:
    """However many turns that takes."""
    seen = []

    async def busy() -> None:
        for turn in range(500):
            await next_turn()
            seen.append(turn)

    async with asyncio.TaskGroup() as group:
        group.create_task(busy())
        await settle()
        assert 500 == len(seen)


def test_a_manual_clock_knows_when_something_falls_due_next() -> None:
    """What was cancelled does not count; None when nobody waits."""
    clock = ManualClock(NOON)
    assert clock.next_due() is None
    first = clock.call_later(1, lambda: None)
    clock.call_later(3, lambda: None)
    clock.advance(0.5)
    assert 0.5 == clock.next_due()
    first.cancel()
    assert 2.5 == clock.next_due()
    clock.advance(2.5)
    assert clock.next_due() is None


async def test_those_who_settle_at_the_same_time_do_not_keep_each_other_awake() -> None:
    """All return once only they are left, and one that is cancelled is not waited for."""
    async with asyncio.TaskGroup() as group:
        cancelled = group.create_task(settle())
        group.create_task(settle())
        cancelled.cancel()
        await settle(turns_max=20)
    await settle(turns_max=2)


async def test_settle_complains_when_something_spins() -> None:
    """Rather than hanging the test run."""

    async def spin() -> None:
        while True:
            await next_turn()

    async with asyncio.TaskGroup() as group:
        spinner = group.create_task(spin())
        with pytest.raises(AssertionError):
            await settle(turns_max=100)
        spinner.cancel()


async def test_the_system_clock_tells_aware_time_and_calls_back() -> None:
    """A timer of no length fires in the next turns."""
    clock, fired = SystemClock(), asyncio.Event()
    before = clock.monotonic()
    clock.call_later(0, fired.set)
    await fired.wait()
    await clock.sleep(0)
    assert timedelta(0) == clock.now().utcoffset()
    assert before <= clock.monotonic()
