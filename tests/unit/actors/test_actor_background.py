"""Background work and the busy signal."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta

import pytest
from actor_stage import NOON, Gate, explode

from actors import ActorStopped, Background, BusySignal, Cancelled, Failed, ManualClock, Outcome, Succeeded, settle
from actors.background import CANCEL_GRACE_SECONDS


async def returns(value: str) -> str:
    """Return `value`."""
    return value


async def raises(error: Exception) -> str:
    """Raise `error`."""
    raise error


async def stubborn(gate: Gate) -> str:
    """Ignore cancellation until `gate` opens."""
    while True:
        try:
            await gate.passing()
            return "at last"
        except asyncio.CancelledError:
            continue


async def outcome_of(work: Coroutine[object, object, str], meddle: Callable[[Background], None]) -> list[Outcome[str]]:
    """Return every outcome that `on_done` was called with."""
    clock, seen = ManualClock(NOON), list[Outcome[str]]()
    async with asyncio.TaskGroup() as group:
        background = Background(group, BusySignal(clock), clock)
        handle = background.start("work", work, seen.append)
        assert ("work", NOON) == (handle.name, handle.started_at)
        meddle(background)
        await background.idle()
    return seen


async def test_a_success_and_a_failure_are_told_exactly_once() -> None:
    """And a failure does not take the task group down."""
    error = ValueError("no")
    assert [Succeeded("yes")] == await outcome_of(returns("yes"), lambda background: None)
    assert [Failed(error)] == await outcome_of(raises(error), lambda background: None)


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancellation_is_told_exactly_once_in_whichever_turn_it_comes(turns: int) -> None:
    """Also before the work has made its first step."""
    clock, seen, gate = ManualClock(NOON), list[Outcome[None]](), Gate()
    async with asyncio.TaskGroup() as group:
        background = Background(group, BusySignal(clock), clock)
        handle = background.start("work", gate.passing(), seen.append)
        for _ in range(turns):
            await settle()
        handle.cancel()
        handle.cancel()
        await background.idle()
    assert [Cancelled()] == seen


async def test_a_second_cancel_does_not_break_off_the_clean_up_of_the_first() -> None:
    """Whoever asks again, the work is left to finish what it began."""
    clock, seen, tidy = ManualClock(NOON), list[str](), Gate()

    async def work() -> None:
        try:
            await Gate().passing()
        finally:
            await tidy.passing()
            seen.append("tidied")

    async with asyncio.TaskGroup() as group:
        background = Background(group, BusySignal(clock), clock)
        handle = background.start("work", work(), lambda outcome: seen.append(type(outcome).__name__))
        await settle()
        endings = [group.create_task(background.cancel_all()) for _ in range(2)]
        await settle()
        handle.cancel()
        await settle()
        assert [] == seen
        tidy.open()
        assert [(), ()] == [await ending for ending in endings]
    assert ["tidied", "Cancelled"] == seen


async def test_busy_from_start_until_after_on_done() -> None:
    """The signal flips only with the first and the last, and the flips carry their time."""
    clock = ManualClock(NOON)
    busy, flips, during, gates = BusySignal(clock), list[bool](), list[int](), [Gate(), Gate()]
    unsubscribe = busy.subscribe(flips.append)
    async with asyncio.TaskGroup() as group:
        background = Background(group, busy, clock)
        for gate in gates:
            clock.advance(1)
            background.start("work", gate.passing(), lambda outcome: during.append(busy.active))
        assert (2, NOON + timedelta(seconds=1)) == (busy.active, busy.changed_at)
        for gate in gates:
            clock.advance(1)
            gate.open()
            await settle()
    assert ([2, 1], [True, False]) == (during, flips)
    assert NOON + timedelta(seconds=4) == busy.changed_at
    unsubscribe()
    with busy.track():
        assert busy.is_busy
    assert [True, False] == flips


async def test_work_that_does_not_count_is_tracked_but_not_busy() -> None:
    """`names`, `idle` and `cancel_all` know it all the same."""
    clock, seen, gate = ManualClock(NOON), list[Outcome[None]](), Gate()
    async with asyncio.TaskGroup() as group:
        busy = BusySignal(clock)
        background = Background(group, busy, clock)
        background.start("poll", gate.passing(), seen.append, counts_as_busy=False)
        assert (("poll",), False) == (background.names(), busy.is_busy)
        assert () == await background.cancel_all()
        assert () == await background.cancel_all()
    assert [Cancelled()] == seen


async def test_a_subscriber_that_raises_harms_neither_the_work_nor_other_subscribers() -> None:
    """Its error is logged."""
    busy, flips = BusySignal(ManualClock(NOON)), list[bool]()
    busy.subscribe(explode)
    busy.subscribe(flips.append)
    with busy.track():
        pass
    assert [True, False] == flips


async def test_an_on_done_that_raises_leaves_the_books_right() -> None:
    """The work is over and the signal is idle."""
    clock = ManualClock(NOON)
    async with asyncio.TaskGroup() as group:
        busy = BusySignal(clock)
        background = Background(group, busy, clock)
        background.start("work", returns("x"), explode)
        await background.idle()
    assert ((), False) == (background.names(), busy.is_busy)


async def test_work_that_ignores_cancellation_is_waited_for_no_longer_than_the_grace() -> None:
    """`cancel_all` names it; its outcome is told when it ends at last."""
    clock, seen, gate = ManualClock(NOON), list[Outcome[str]](), Gate()
    async with asyncio.TaskGroup() as group:
        background = Background(group, BusySignal(clock), clock)
        background.start("mule", stubborn(gate), seen.append)
        await settle()
        ending = group.create_task(background.cancel_all())
        await settle()
        clock.advance(CANCEL_GRACE_SECONDS - 0.1)
        await settle()
        assert not ending.done()
        clock.advance(0.2)
        assert ("mule",) == await ending
        gate.open()
    assert [Succeeded("at last")] == seen


async def test_nothing_starts_after_closing_and_the_refused_work_is_closed() -> None:
    """No "never awaited" warning, no call of on_done."""
    clock, seen = ManualClock(NOON), list[Outcome[str]]()
    async with asyncio.TaskGroup() as group:
        background = Background(group, BusySignal(clock), clock)
        background.close()
        work = returns("x")
        with pytest.raises(ActorStopped):
            background.start("late", work, seen.append)
    assert [] == seen
    with pytest.raises(RuntimeError):
        await work


async def test_a_task_group_that_shuts_down_refuses_work_too() -> None:
    """As ActorStopped, with the books untouched."""
    clock, busy = ManualClock(NOON), BusySignal(ManualClock(NOON))
    group = asyncio.TaskGroup()
    async with group:
        background = Background(group, busy, clock)
    with pytest.raises(ActorStopped):
        background.start("late", returns("x"), lambda outcome: None)
    assert ((), 0) == (background.names(), busy.active)
