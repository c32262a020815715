"""What a sender is promised: tell, offer, ask, handled, stopped."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from actor_stage import NOON, Gate, Scripted, ending, running, scripted

from actors import ActorContext, ActorRef, ActorStopped, AskTimeout, ManualClock, Reply, StopReason, settle


class Answering:
    """An actor whose messages are what it is to do."""

    def __init__(self, context: ActorContext["Order"]) -> None:
        self.context = context

    async def activate(self) -> None:
        """Nothing to get ready."""

    async def receive(self, message: "Order") -> None:
        """Do as told."""
        await message(self)

    async def deactivate(self) -> None:
        """Nothing to tidy up."""


Order = Callable[[Answering], Awaitable[None]]


def answer(value: str) -> Callable[[Reply[str]], Order]:
    """Return what makes an order to answer `value`, twice."""

    def make(reply: Reply[str]) -> Order:
        async def order(actor: Answering) -> None:
            reply.set(value)
            reply.set("too late")
            reply.fail(ValueError("too late"))

        return order

    return make


def ignore(reply: Reply[str]) -> Order:
    """Make an order that is never answered."""

    async def order(actor: Answering) -> None:
        return

    return order


def stop(reply: Reply[str]) -> Order:
    """Make an order to stop, without an answer."""

    async def order(actor: Answering) -> None:
        actor.context.stop()

    return order


def explode(reply: Reply[str]) -> Order:
    """Make an order that fails."""

    async def order(actor: Answering) -> None:
        raise ValueError("no")

    return order


def asking(ref: ActorRef[Order], make: Callable[[Reply[str]], Order], timeout: float | None) -> Awaitable[str]:
    """Return an ask whose answer is text, whatever surrounds it."""
    return ref.ask(make, timeout)


async def test_messages_are_received_one_at_a_time_and_in_order_after_activation() -> None:
    """Messages told before activation ran wait for it."""
    diary = list[str]()
    async with running() as system:
        ref = await system.spawn("a", scripted(diary))
        for message in "123":
            await ref.tell(message)
        assert [] == diary
        await ref.handled("4")
    assert ["activate", "1", "2", "3", "4", "deactivate"] == diary


async def test_tell_waits_and_offer_refuses_while_the_mailbox_is_full() -> None:
    """Back-pressure reaches the sender."""
    diary, gate = list[str](), Gate()
    async with running() as system, asyncio.TaskGroup() as group:
        ref = await system.spawn("a", scripted(diary, gate.passing), mailbox_max=1)
        await ref.tell("1")
        await settle()
        assert ref.offer("2")
        told = group.create_task(ref.tell("3"))
        await settle()
        assert (False, False) == (ref.offer("4"), told.done())
        gate.open()
        await told
        await ref.handled("5")
        assert ["activate", "1", "2", "3", "5"] == diary


async def test_ask_returns_the_first_answer() -> None:
    """Later ones are ignored."""
    async with running() as system:
        ref = await system.spawn("a", Answering)
        assert "yes" == await ref.ask(answer("yes"), timeout=None)


async def test_ask_raises_what_the_actor_failed_it_with_or_failed_with() -> None:
    """A receive that raises without answering has failed its asker."""
    async with running() as system:
        ref = await system.spawn("a", Answering)
        with pytest.raises(ValueError, match="no"):
            await ref.ask(explode, timeout=None)
        with pytest.raises(ActorStopped):
            await ref.ask(answer("yes"), timeout=None)


async def test_ask_times_out_by_the_clock_and_forgets_its_question() -> None:
    """A late answer goes nowhere, and no timer is left."""
    clock = ManualClock(NOON)
    async with running(clock) as system, asyncio.TaskGroup() as group:
        ref = await system.spawn("a", Answering)
        asked = group.create_task(ending(asking(ref, ignore, 10)))
        await settle()
        clock.advance(10)
        assert AskTimeout is await asked
        assert "yes" == await ref.ask(answer("yes"), timeout=10)


async def test_the_timeout_of_an_ask_covers_the_wait_for_room() -> None:
    """And the question that timed out was not accepted."""
    clock, diary, gate = ManualClock(NOON), list[str](), Gate()
    async with running(clock) as system, asyncio.TaskGroup() as group:
        ref = await system.spawn("a", scripted(diary, gate.passing), mailbox_max=1)
        await ref.tell("1")
        await settle()
        await ref.tell("2")
        asked = group.create_task(ending(ref.ask(lambda reply: "question", timeout=10)))
        await settle()
        clock.advance(10)
        assert AskTimeout is await asked
        gate.open()
        await ref.handled("3")
        assert ["activate", "1", "2", "3"] == diary


async def test_a_stop_fails_open_asks_both_received_and_waiting() -> None:
    """The message that waits is reported as unhandled."""
    async with running() as system, asyncio.TaskGroup() as group:
        ref = await system.spawn("a", Answering)
        asks = [group.create_task(ending(asking(ref, make, None))) for make in (ignore, stop, answer("never"))]
        await settle()
        assert [ActorStopped] * 3 == [task.result() for task in asks]
        terminated = await ref.stopped()
    assert (StopReason.STOPPED, 1) == (terminated.reason, len(terminated.unhandled))


async def test_handled_raises_what_receive_raised() -> None:
    """The caller learns it as well as the supervisor."""

    async def fail(actor: Scripted, message: str) -> None:
        raise ValueError(message)

    async with running() as system:
        ref = await system.spawn("a", scripted([], fail))
        with pytest.raises(ValueError, match="boom"):
            await ref.handled("boom")
        assert StopReason.FAILED == (await ref.stopped()).reason


async def test_handled_raises_actor_stopped_when_its_message_is_never_received() -> None:
    """The first stops the actor, and is handled; the second waits in vain."""

    async def stop_self(actor: Scripted, message: str) -> None:
        actor.context.stop()

    async with running() as system, asyncio.TaskGroup() as group:
        ref = await system.spawn("a", scripted([], stop_self))
        first = group.create_task(ref.handled("1"))
        await settle()
        await first
        with pytest.raises(ActorStopped):
            await ref.handled("2")
        assert () == (await ref.stopped()).unhandled


async def test_a_stopped_actor_takes_nothing_and_says_so() -> None:
    """tell, offer, ask and handled all raise; the ref is known to be dead; stopping again is nothing."""
    async with running() as system:
        ref = await system.spawn("a", Answering)
        await system.stop("a")
        await system.stop("a")
        with pytest.raises(ActorStopped):
            ref.offer(ignore(Reply()))
        with pytest.raises(ActorStopped):
            await ref.tell(ignore(Reply()))
        with pytest.raises(ActorStopped):
            await ref.handled(ignore(Reply()))
        with pytest.raises(ActorStopped):
            await ref.ask(ignore, timeout=None)
        assert (False, "a", None, 0) == (ref.is_alive, ref.actor_id, system.get("a"), len(system))


async def test_an_actor_that_tells_itself_never_deadlocks_on_its_own_full_mailbox() -> None:
    """Its own messages go over the bound, behind those that wait."""
    diary = list[str]()

    async def spread(actor: Scripted, message: str) -> None:
        if message == "start":
            for n in "123":
                actor.context.tell_self(n)

    async with running() as system:
        ref = await system.spawn("a", scripted(diary, spread), mailbox_max=1)
        await ref.tell("start")
        await settle()
    assert ["activate", "start", "1", "2", "3", "deactivate"] == diary


async def test_an_actor_that_never_waits_lets_the_others_have_their_turn() -> None:
    """A loop of own messages does not freeze the loop."""

    async def for_ever(actor: Scripted, message: str) -> None:
        actor.context.tell_self("again")

    async with running() as system:
        ref = await system.spawn("spinner", scripted([], for_ever))
        await ref.tell("go")
        other = await system.spawn("other", Answering)
        assert "yes" == await other.ask(answer("yes"), timeout=None)
        await system.stop("spinner")
