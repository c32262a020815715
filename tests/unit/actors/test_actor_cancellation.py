"""Cancellation at every await: whichever turn it comes in, nothing leaks, hangs, or is lost.

To change it: each scenario is cancelled after k turns of the loop for k = 0, 1, ... past its end.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from actor_stage import NOON, Scripted, ending, running, scripted

from actors import ActorContext, ActorSystem, ManualClock, StopReason, settle
from actors.signals import next_turn

TURNS = range(24)


class Dawdler(Scripted):
    """Takes some turns over everything."""

    async def activate(self) -> None:
        """Dawdle, and have a child and some work."""
        await dawdle()
        await super().activate()
        if self.context.actor_id == "a":
            await ending(self.context.spawn("child", dawdler(self.diary)))
            self.context.background.start("w", dawdle(), lambda outcome: None)

    async def receive(self, message: str) -> None:
        """Dawdle before and after."""
        await dawdle()
        await super().receive(message)
        await dawdle()

    async def deactivate(self) -> None:
        """Dawdle."""
        await dawdle()
        await super().deactivate()


async def dawdle() -> None:
    """Take two turns."""
    await next_turn()
    await next_turn()


async def quietly(actor: Scripted, message: str) -> None:
    """Do nothing more."""


def dawdler(diary: list[str]) -> Callable[[ActorContext[str]], Dawdler]:
    """Return a factory."""
    return lambda context: Dawdler(context, diary, quietly)


async def cancelled_after(turns: int, call: Callable[[], Awaitable[object]]) -> bool:
    """Cancel a task that makes `call` after so many turns; return whether that was before its end."""

    async def work() -> None:
        await ending(call())

    async with asyncio.TaskGroup() as group:
        task = group.create_task(work())
        for _ in range(turns):
            await next_turn()
        task.cancel()
    return task.cancelled()


@pytest.mark.parametrize("turns", TURNS)
async def test_a_system_cancelled_in_any_turn_ends_all_its_actors(turns: int) -> None:
    """Accepted messages are either handled or reported, and no task is left."""
    before, diary, refs = asyncio.all_tasks(), list[str](), []

    async def live() -> None:
        async with ActorSystem(clock=ManualClock(NOON)) as system:
            refs.append(await system.spawn("a", dawdler(diary)))
            for message in "123":
                await refs[0].tell(message)
            await refs[0].handled("4")

    await cancelled_after(turns, live)
    assert before == asyncio.all_tasks()
    for ref in refs:
        unhandled = (await ref.stopped()).unhandled
        accepted = [each for each in "1234" if each in diary or each in unhandled]
        handled = [each for each in diary if each in accepted]
        # A message cut in the middle of its receive is both begun and unhandled.
        assert sorted(accepted) == sorted({*handled, *map(str, unhandled)})
        assert list("123") == accepted[:3] or turns == 0


@pytest.mark.parametrize("turns", TURNS)
async def test_a_system_cancelled_twice_leaves_no_task(turns: int) -> None:
    """The second cancellation comes while the first is being carried out."""
    before = asyncio.all_tasks()

    async def live() -> None:
        async with ActorSystem(clock=ManualClock(NOON)) as system:
            await (await system.spawn("a", dawdler([]))).tell("1")
            await settle()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(live())
        for _ in range(6):
            await next_turn()
        task.cancel()
        for _ in range(turns):
            await next_turn()
        task.cancel()
    assert before == asyncio.all_tasks()


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("call", ["tell", "handled", "ask", "stop", "drain", "stopped", "spawn"])
async def test_a_caller_cancelled_in_any_turn_leaves_the_actor_well(call: str, turns: int) -> None:
    """The mailbox keeps its order and its room, and the actor still ends as it should."""
    diary, clock = list[str](), ManualClock(NOON)
    async with running(clock) as system:
        ref = await system.spawn("a", dawdler(diary), mailbox_max=1)
        await ref.tell("1")
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "tell": lambda: ref.tell("2"),
            "handled": lambda: ref.handled("2"),
            "ask": lambda: ref.ask(lambda reply: "2", timeout=9),
            "stop": lambda: system.stop("a"),
            "drain": lambda: system.drain(9),
            "stopped": ref.stopped,
            "spawn": lambda: system.spawn("b", dawdler([])),
        }
        await cancelled_after(turns, calls[call])
        outcome = await ending(ref.handled("3"))
        await settle()
        await system.stop("a")
        terminated = await ref.stopped()
    assert call in ("stop", "drain") or outcome is None
    assert terminated.reason in (StopReason.STOPPED, StopReason.DRAINED)
    begun = [each for each in diary if each in "123"]
    assert sorted(begun) == begun
    assert len(set(begun)) == len(begun)


@pytest.mark.parametrize("turns", TURNS)
async def test_an_actor_task_cancelled_in_any_turn_is_reported_and_takes_its_children_with_it(turns: int) -> None:
    """However it came about: the id is free again, callers are told, nothing accepted goes missing."""
    diary = list[str]()
    async with running() as system:
        before = asyncio.all_tasks()
        ref = await system.spawn("a", dawdler(diary))
        (task,) = asyncio.all_tasks() - before
        for message in "12":
            await ref.tell(message)
        for _ in range(turns):
            await next_turn()
        was_idle = len(ref._cell.mailbox) == 0 and ref._cell.is_quiet()
        task.cancel()
        terminated = await ref.stopped()
        assert StopReason.CANCELLED == terminated.reason
        assert was_idle or {"1", "2"} == {*map(str, terminated.unhandled), *diary} & {"1", "2"}
        assert 0 == len(system)
        assert before == asyncio.all_tasks()
        await (await system.spawn("a", scripted([]))).handled("again")


@pytest.mark.parametrize("turns", TURNS)
async def test_a_stop_in_any_turn_handles_or_reports_every_message(turns: int) -> None:
    """Each exactly once."""
    diary = list[str]()
    async with running() as system:
        ref = await system.spawn("a", dawdler(diary))
        for message in "123":
            await ref.tell(message)
        for _ in range(turns):
            await next_turn()
        await system.stop("a")
        unhandled = (await ref.stopped()).unhandled
    assert ["1", "2", "3"] == [each for each in diary if each in "123" and each] + list(unhandled)


@pytest.mark.parametrize("turns", TURNS)
async def test_a_drain_in_any_turn_cuts_or_finishes_without_a_leak(turns: int) -> None:
    """With no time to finish, whatever stage the actors are in."""
    diary = list[str]()
    async with running() as system:
        ref = await system.spawn("a", dawdler(diary))
        for message in "123":
            await ref.tell(message)
        for _ in range(turns):
            await next_turn()
        report = await system.drain(0)
        assert "a" in report.finished + report.cut
        assert (0, ()) == (len(system), report.stuck)
        unhandled = (await ref.stopped()).unhandled
    handled = [each for each in diary if each in ("1", "2", "3")]
    assert ["1", "2", "3"] == sorted({*handled, *map(str, unhandled)})
