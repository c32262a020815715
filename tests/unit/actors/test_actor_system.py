"""The life of actors in a system: spawning, stopping, passivation, leaving."""

import asyncio
from contextvars import ContextVar

import pytest
from actor_stage import NOON, Gate, Scripted, do_nothing, ending, running, scripted

from actors import ActorStopped, ActorSystem, DuplicateActor, ManualClock, StopReason, SystemDraining, settle
from actors.system import CUT_GRACE_SECONDS


async def test_an_id_has_one_live_actor() -> None:
    """It is free again once its actor has ended, and the old ref stays dead."""
    async with running() as system:
        first = await system.spawn("a", scripted([]))
        with pytest.raises(DuplicateActor):
            await system.spawn("a", scripted([]))
        await system.stop("a")
        second = await system.spawn("a", scripted([]))
        assert (False, True, 1) == (first.is_alive, second.is_alive, len(system))


async def test_an_id_is_taken_until_its_actor_has_ended() -> None:
    """A stopping actor takes no messages, but is still the one."""
    gate = Gate()
    async with running() as system, asyncio.TaskGroup() as group:
        ref = await system.spawn("a", scripted([], gate.passing))
        await ref.tell("1")
        await settle()
        stopping = group.create_task(system.stop("a"))
        await settle()
        with pytest.raises(DuplicateActor):
            await system.spawn("a", scripted([]))
        with pytest.raises(ActorStopped):
            await ref.tell("2")
        assert not stopping.done()
        gate.open()


async def test_spawning_needs_a_system_that_runs() -> None:
    """Before and after its block it refuses, and starts nothing."""
    system = ActorSystem(clock=ManualClock(NOON))
    with pytest.raises(SystemDraining):
        await system.spawn("a", scripted([]))
    async with system:
        pass
    with pytest.raises(SystemDraining):
        await system.spawn("a", scripted([]))
    assert 0 == len(system)


async def test_an_actor_that_stops_itself_reports_what_it_left() -> None:
    """Either way of stopping: the context's, and the system's, which does not wait for itself."""

    async def by_context(actor: Scripted, message: str) -> None:
        actor.context.stop()

    async def by_system(actor: Scripted, message: str) -> None:
        await systems[0].stop("a")

    for script in (by_context, by_system):
        diary = list[str]()
        async with running() as system:
            systems = [system]
            ref = await system.spawn("a", scripted(diary, script))
            for message in "123":
                await ref.tell(message)
            terminated = await ref.stopped()
        assert ["activate", "1", "deactivate"] == diary
        assert (StopReason.STOPPED, ("2", "3")) == (terminated.reason, terminated.unhandled)


async def test_a_stop_cancels_and_awaits_the_actors_background_work() -> None:
    """Before `deactivate`; what on_done tells the actor then is reported as unhandled."""
    diary = list[str]()

    async def work(actor: Scripted) -> None:
        try:
            await Gate().passing()
        finally:
            diary.append("cleaned up")

    async def start_work(actor: Scripted, message: str) -> None:
        actor.context.background.start("w", work(actor), lambda out: actor.context.tell_self(type(out).__name__))

    async with running() as system:
        ref = await system.spawn("a", scripted(diary, start_work))
        await ref.handled("go")
        await settle()
        assert 1 == system.busy.active
        await system.stop("a")
        assert 0 == system.busy.active
        assert ("Cancelled",) == (await ref.stopped()).unhandled
    assert ["activate", "go", "cleaned up", "deactivate"] == diary


async def test_a_stop_from_an_actors_own_background_work_does_not_deadlock() -> None:
    """The work is cancelled while it waits for the stop that it asked for."""

    async def stop_in_background(actor: Scripted, message: str) -> None:
        actor.context.background.start("w", system.stop("a"), lambda outcome: None)

    async with running() as system:
        ref = await system.spawn("a", scripted([], stop_in_background))
        await ref.tell("go")
        assert StopReason.STOPPED == (await ref.stopped()).reason


async def test_an_idle_actor_passivates_with_deactivate() -> None:
    """Idle time counts from the last message, not from the first."""
    clock, diary = ManualClock(NOON), list[str]()
    async with running(clock) as system:
        ref = await system.spawn("a", scripted(diary), idle_after=10)
        await settle()
        clock.advance(9)
        await ref.handled("1")
        await settle()
        clock.advance(9)
        await settle()
        assert ref.is_alive
        clock.advance(1)
        terminated = await ref.stopped()
    assert ["activate", "1", "deactivate"] == diary
    assert (StopReason.PASSIVATED, ()) == (terminated.reason, terminated.unhandled)


async def test_passivation_waits_for_background_work_and_children() -> None:
    """And counts from the end of the last of them."""
    clock, works, child_idle = ManualClock(NOON), [Gate()], 30

    async def script(actor: Scripted, message: str) -> None:
        actor.context.background.start("w", works[0].passing(), lambda outcome: None, counts_as_busy=False)
        await actor.context.spawn("child", scripted([]), idle_after=child_idle)

    async with running(clock) as system:
        ref = await system.spawn("a", scripted([], script), idle_after=10)
        await ref.handled("go")
        await settle()
        clock.advance(20)
        await settle()
        works[0].open()
        await settle()
        clock.advance(10)
        await settle()
        assert (True, True) == (ref.is_alive, system.get("child") is None)
        clock.advance(10)
        assert StopReason.PASSIVATED == (await ref.stopped()).reason


async def test_a_message_before_passivation_prevents_it_and_one_after_raises() -> None:
    """The race has two outcomes, and no message is accepted and dropped."""
    for told_first in (True, False):
        clock, diary = ManualClock(NOON), list[str]()
        async with running(clock) as system:
            ref = await system.spawn("a", scripted(diary), idle_after=10)
            await settle()
            if told_first:
                assert ref.offer("1")
                clock.advance(10)
                await settle()
                assert (True, ["activate", "1"]) == (ref.is_alive, diary)
            else:
                clock.advance(10)
                with pytest.raises(ActorStopped):
                    ref.offer("1")
                assert () == (await ref.stopped()).unhandled


async def test_the_mailbox_is_closed_while_a_passivating_actor_deactivates() -> None:
    """Who tells it then is refused, and its id is not free yet."""
    clock, gate = ManualClock(NOON), Gate()

    class Slow(Scripted):
        async def deactivate(self) -> None:
            await gate.passing()

    async with running(clock) as system:
        ref = await system.spawn("a", lambda context: Slow(context, [], do_nothing), idle_after=10)
        await settle()
        clock.advance(10)
        await settle()
        assert (True, ActorStopped) == (ref.is_alive, await ending(ref.tell("1")))
        assert DuplicateActor is await ending(system.spawn("a", scripted([])))
        gate.open()
        assert StopReason.PASSIVATED == (await ref.stopped()).reason


async def test_leaving_the_block_ends_everything_in_hand_or_at_rest() -> None:
    """What receives is cancelled and its message reported, what waits is deactivated."""
    busy_diary, idle_diary = list[str](), list[str]()
    async with running() as system:
        busy = await system.spawn("busy", scripted(busy_diary, Gate().passing))
        idle = await system.spawn("idle", scripted(idle_diary))
        for message in "12":
            await busy.tell(message)
        await settle()
    assert (["activate", "1"], ["activate", "deactivate"]) == (busy_diary, idle_diary)
    terminated = await busy.stopped()
    assert (StopReason.CANCELLED, ("1", "2")) == (terminated.reason, terminated.unhandled)
    assert StopReason.STOPPED == (await idle.stopped()).reason


async def test_an_error_in_the_block_passes_as_it_was_raised() -> None:
    """Not wrapped in a group, and the actors are ended."""
    refs = []

    async def live() -> None:
        async with running() as system:
            refs.append(await system.spawn("a", scripted([])))
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await live()
    assert not refs[0].is_alive


async def test_leaving_gives_up_on_a_deactivation_that_hangs() -> None:
    """After the grace, by the clock."""
    clock = ManualClock(NOON)

    class Slow(Scripted):
        async def deactivate(self) -> None:
            await Gate().passing()

    async def live() -> StopReason:
        async with ActorSystem(clock=clock) as system:
            ref = await system.spawn("a", lambda context: Slow(context, [], do_nothing))
            await settle()
        return (await ref.stopped()).reason

    async with asyncio.TaskGroup() as group:
        living = group.create_task(live())
        await settle()
        clock.advance(CUT_GRACE_SECONDS - 1)
        await settle()
        assert not living.done()
        clock.advance(1)
        assert StopReason.CANCELLED == await living


async def test_an_actor_does_not_inherit_the_context_of_whoever_spawned_it() -> None:
    """A request's trace must not stick to an actor that lives for days."""
    request, seen = ContextVar("request", default="none"), list[str]()

    async def look(actor: Scripted, message: str) -> None:
        seen.append(request.get())

    async with running() as system:
        request.set("r-1")
        await (await system.spawn("a", scripted([], look))).handled("1")
    assert ["none"] == seen
