"""Drain: stop taking, then stop working, and say what became of whom."""

import asyncio

import pytest
from actor_stage import NOON, Gate, Scripted, do_nothing, ending, running, scripted

from actors import ActorContext, DrainReport, ManualClock, StopReason, SystemDraining, settle
from actors.background import CANCEL_GRACE_SECONDS
from actors.signals import next_turn
from actors.system import CUT_GRACE_SECONDS


async def test_a_drain_of_idle_actors_ends_at_once_and_refuses_new_ones() -> None:
    """Each is deactivated; even with no time at all."""
    for timeout in (0, 10):
        diary = list[str]()
        async with running() as system:
            ref = await system.spawn("a", scripted(diary))
            await settle()
            assert DrainReport(("a",), ()) == await system.drain(timeout)
            with pytest.raises(SystemDraining):
                await system.spawn("b", scripted([]))
            assert StopReason.DRAINED == (await ref.stopped()).reason
        assert ["activate", "deactivate"] == diary


async def test_a_drain_lets_mailboxes_empty_and_work_end() -> None:
    """Messages and outcomes go on being handled meanwhile."""
    diary, gate = list[str](), Gate()

    async def script(actor: Scripted, message: str) -> None:
        context = actor.context
        if message == "work":
            context.background.start("w", gate.passing(), lambda out: context.tell_self(type(out).__name__))

    async with running() as system, asyncio.TaskGroup() as group:
        ref = await system.spawn("a", scripted(diary, script))
        for message in ("work", "1"):
            await ref.tell(message)
        draining = group.create_task(system.drain(10))
        await settle()
        await ref.tell("2")
        await settle()
        assert not draining.done()
        gate.open()
        assert DrainReport(("a",), ()) == await draining
    assert ["activate", "work", "1", "2", "Succeeded", "deactivate"] == diary


async def test_a_drain_cuts_what_is_left_when_time_is_up() -> None:
    """Who is in the middle of a message is cancelled; whose work is cut is deactivated; who was done, finished."""
    clock, reasons = ManualClock(NOON), dict[str, tuple[StopReason, tuple[object, ...]]]()

    async def start_work(actor: Scripted, message: str) -> None:
        actor.context.background.start("w", Gate().passing(), lambda outcome: None)

    async with running(clock) as system, asyncio.TaskGroup() as group:
        diary = list[str]()
        refs = [
            await system.spawn("receiving", scripted([], Gate().passing)),
            await system.spawn("working", scripted(diary, start_work)),
            await system.spawn("idle", scripted([])),
        ]
        for message in "12":
            await refs[0].tell(message)
        await refs[1].tell("1")
        draining = group.create_task(system.drain(10))
        await settle()
        clock.advance(9.9)
        await settle()
        assert not draining.done()
        clock.advance(0.2)
        report = await draining
        for ref in refs:
            terminated = await ref.stopped()
            reasons[ref.actor_id] = (terminated.reason, terminated.unhandled)
    assert (("idle",), {"receiving", "working"}, ()) == (report.finished, set(report.cut), report.stuck)
    assert ["activate", "1", "deactivate"] == diary
    assert {
        "receiving": (StopReason.CANCELLED, ("1", "2")),
        "working": (StopReason.DRAINED, ()),
        "idle": (StopReason.DRAINED, ()),
    } == reasons


async def test_work_that_ignores_cancellation_does_not_hang_the_drain() -> None:
    """It is reported as stuck; its actor is deactivated and ends without it."""
    clock, gate, diary = ManualClock(NOON), Gate(), list[str]()

    async def mule() -> None:
        while True:
            try:
                return await gate.passing()
            except asyncio.CancelledError:
                continue

    async def start_work(actor: Scripted, message: str) -> None:
        actor.context.background.start("mule", mule(), lambda out: actor.context.tell_self("done"))

    async with running(clock) as system, asyncio.TaskGroup() as group:
        ref = await system.spawn("a", scripted(diary, start_work))
        await ref.handled("go")
        draining = group.create_task(system.drain(0))
        await settle()
        clock.advance(CANCEL_GRACE_SECONDS)
        assert DrainReport((), ("a",), ("a",)) == await draining
        assert system.busy.is_busy
        gate.open()
    assert ["activate", "go", "deactivate"] == diary


async def test_an_actor_that_ignores_cancellation_does_not_hang_the_drain() -> None:
    """Nor does one whose deactivation hangs: that one is cancelled after the grace."""
    clock, gate = ManualClock(NOON), Gate()

    async def mule(actor: Scripted, message: str) -> None:
        while True:
            try:
                return await gate.passing()
            except asyncio.CancelledError:
                continue

    class Slow(Scripted):
        async def deactivate(self) -> None:
            await Gate().passing()

    async with running(clock) as system, asyncio.TaskGroup() as group:
        ref = await system.spawn("mule", scripted([], mule))
        slow = await system.spawn("slow", lambda context: Slow(context, [], do_nothing))
        await ref.tell("go")
        await settle()
        draining = group.create_task(system.drain(0))
        for _ in range(2):
            await settle()
            assert not draining.done()
            clock.advance(CUT_GRACE_SECONDS)
        assert DrainReport((), ("slow", "mule"), ("mule",)) == await draining
        assert StopReason.CANCELLED == (await slow.stopped()).reason
        gate.open()
        assert StopReason.CANCELLED == (await ref.stopped()).reason


async def test_a_drain_does_not_turn_away_a_sender_that_was_given_room() -> None:
    """The actor has nothing to do for a moment, between making room and the sender's turn; it is not done yet."""
    diary, gate = list[str](), Gate()
    async with running() as system, asyncio.TaskGroup() as group:
        ref = await system.spawn("a", scripted(diary, gate.passing), mailbox_max=1)
        await ref.tell("1")
        await settle()
        await ref.tell("2")
        told = group.create_task(ref.tell("3"))
        await settle()
        draining = group.create_task(system.drain(10))
        await settle()
        gate.open()
        await told
        assert DrainReport(("a",), ()) == await draining
    assert ["activate", "1", "2", "3", "deactivate"] == diary


async def test_actors_that_are_cut_may_clean_up_undisturbed_children_first() -> None:
    """The drain cuts a child, and so does its parent some turns later: the second cut must not break off the first."""
    diary, tidy = list[str](), Gate()

    async def work(context: ActorContext[str]) -> None:
        try:
            await Gate().passing()
        finally:
            await tidy.passing()
            diary.append(f"{context.actor_id}'s work")

    async def script(actor: Scripted, message: str) -> None:
        context = actor.context
        context.background.start("w", work(context), lambda outcome: None)
        if context.actor_id == "parent":
            child = await context.spawn("child", scripted([], script))
            await child.tell("go")
        try:
            await Gate().passing()
        finally:
            for _ in range(9 if context.actor_id == "child" else 3):
                await next_turn()
            diary.append(context.actor_id)

    async with running() as system, asyncio.TaskGroup() as group:
        ref = await system.spawn("parent", scripted([], script))
        await ref.tell("go")
        await settle()
        draining = group.create_task(system.drain(0))
        await settle()
        assert (False, 2) == (draining.done(), len(system))
        tidy.open()
        assert DrainReport((), ("child", "parent")) == await draining
    assert ["parent", "child", "child's work", "parent's work"] == diary


async def test_a_drain_ends_an_actor_whose_last_work_tells_it_nothing() -> None:
    """The end of the work is enough."""
    gate = Gate()

    async def start_work(actor: Scripted, message: str) -> None:
        actor.context.background.start("w", gate.passing(), lambda outcome: None)

    async with running() as system, asyncio.TaskGroup() as group:
        await (await system.spawn("a", scripted([], start_work))).handled("go")
        draining = group.create_task(system.drain(10))
        await settle()
        gate.open()
        await settle()
        assert draining.done()
        assert DrainReport(("a",), ()) == await draining


async def test_a_drain_asked_for_by_an_actor_cuts_that_actor() -> None:
    """It waits for itself, so it is the one that is not done in time."""
    clock = ManualClock(NOON)

    async def drain(actor: Scripted, message: str) -> None:
        await system.drain(10)

    async with running(clock) as system:
        ref = await system.spawn("a", scripted([], drain))
        await ref.tell("go")
        await settle()
        clock.advance(10)
        assert StopReason.CANCELLED == (await ref.stopped()).reason


async def test_a_cancelled_drain_leaves_the_system_draining() -> None:
    """The actors end as they run out of work; a second drain reports them."""
    gate = Gate()
    async with running() as system, asyncio.TaskGroup() as group:
        ref = await system.spawn("a", scripted([], gate.passing))
        await ref.tell("1")
        draining = group.create_task(system.drain(10))
        await settle()
        draining.cancel()
        await settle()
        assert SystemDraining is await ending(system.spawn("b", scripted([])))
        again = group.create_task(system.drain(10))
        await settle()
        gate.open()
        assert DrainReport(("a",), ()) == await again
