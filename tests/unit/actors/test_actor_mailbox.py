"""The mailbox: bound, order, back-pressure, and cancellation of whoever waits on either side."""

import asyncio

import pytest
from actor_stage import ending

from actors import ActorStopped, Mailbox, settle


async def waiting_puts(group: asyncio.TaskGroup, mailbox: Mailbox[int], *messages: int) -> list[asyncio.Task[None]]:
    """Return tasks that wait for room, in order."""
    tasks = [group.create_task(mailbox.put(message)) for message in messages]
    await settle()
    return tasks


async def test_messages_leave_in_the_order_in_which_they_came() -> None:
    """First in, first out."""
    mailbox = Mailbox[int](3)
    assert [True, True, True] == [mailbox.offer(message) for message in (1, 2, 3)]
    assert [1, 2, 3] == [await mailbox.take() for _ in range(3)]


async def test_an_offer_to_a_full_mailbox_is_refused_and_changes_nothing() -> None:
    """Full means False, not an exception and not a drop."""
    mailbox = Mailbox[int](1)
    mailbox.offer(1)
    assert not mailbox.offer(2)
    assert 1 == len(mailbox)


async def test_a_put_into_a_full_mailbox_waits_until_there_is_room() -> None:
    """Back-pressure."""
    mailbox = Mailbox[int](1)
    mailbox.offer(1)
    async with asyncio.TaskGroup() as group:
        (put,) = await waiting_puts(group, mailbox, 2)
        assert not put.done()
        assert [1, 2] == [await mailbox.take(), await mailbox.take()]


async def test_waiting_putters_are_served_in_order_and_no_newcomer_overtakes_them() -> None:
    """FIFO among putters; an offer and a put that come in the very turn in which room appears go behind them."""
    mailbox = Mailbox[int](1)
    mailbox.offer(0)
    async with asyncio.TaskGroup() as group:
        await waiting_puts(group, mailbox, 1, 2)
        taken = [await mailbox.take()]
        assert not mailbox.offer(99)
        group.create_task(mailbox.put(3))
        taken += [await mailbox.take() for _ in range(3)]
    assert [0, 1, 2, 3] == taken


async def test_a_cancelled_put_was_not_accepted_and_leaves_the_line() -> None:
    """Those behind it keep their order."""
    mailbox = Mailbox[int](1)
    mailbox.offer(0)
    async with asyncio.TaskGroup() as group:
        _, second, _ = await waiting_puts(group, mailbox, 1, 2, 3)
        second.cancel()
        assert [0, 1, 3] == [await mailbox.take() for _ in range(3)]
    assert second.cancelled()


async def test_a_put_cancelled_after_room_was_granted_wakes_the_next() -> None:
    """The room it was given is not lost: without that the last put would wait for ever."""
    mailbox = Mailbox[int](1)
    mailbox.offer(0)
    async with asyncio.TaskGroup() as group:
        first, second = await waiting_puts(group, mailbox, 1, 2)
        mailbox.pop()
        first.cancel()
        await settle()
        assert (True, True) == (first.cancelled(), second.done())
        assert 2 == await mailbox.take()
    assert mailbox.offer(4)


async def test_one_room_is_granted_to_one_putter() -> None:
    """The bound holds while the one it was granted to has yet to come."""
    mailbox = Mailbox[int](1)
    mailbox.offer(0)
    async with asyncio.TaskGroup() as group:
        first, second = await waiting_puts(group, mailbox, 1, 2)
        mailbox.pop()
        await settle()
        assert (True, False, 1) == (first.done(), second.done(), len(mailbox))
        mailbox.pop()


async def test_a_cancelled_take_loses_no_message() -> None:
    """A message that comes in the turn of the cancellation is there for the next take."""
    mailbox = Mailbox[int](1)
    async with asyncio.TaskGroup() as group:
        taker = group.create_task(mailbox.take())
        await settle()
        mailbox.offer(1)
        taker.cancel()
        await settle()
        assert taker.cancelled()
        assert 1 == await mailbox.take()


async def test_a_push_goes_beyond_the_bound_and_gives_no_room_away() -> None:
    """Putters wait until the length is below the bound again."""
    mailbox = Mailbox[int](1)
    mailbox.offer(0)
    mailbox.push(1)
    async with asyncio.TaskGroup() as group:
        (put,) = await waiting_puts(group, mailbox, 2)
        mailbox.pop()
        await settle()
        assert not put.done()
        assert [1, 2] == [await mailbox.take(), await mailbox.take()]


async def test_closing_refuses_everybody_outside_and_keeps_what_was_accepted() -> None:
    """Waiting, granted and new senders get ActorStopped; accepted messages are still to be taken."""
    mailbox = Mailbox[int](1, "a")
    mailbox.offer(0)
    async with asyncio.TaskGroup() as group:
        granted, waiting = [group.create_task(ending(mailbox.put(message))) for message in (1, 2)]
        await settle()
        mailbox.pop()
        mailbox.push(7)
        mailbox.close()
    assert [ActorStopped, ActorStopped] == [granted.result(), waiting.result()]
    with pytest.raises(ActorStopped):
        mailbox.offer(3)
    with pytest.raises(ActorStopped):
        await mailbox.put(3)
    assert 7 == await mailbox.take()
    with pytest.raises(ActorStopped):
        await mailbox.take()


async def test_closing_wakes_a_waiting_take() -> None:
    """It gets ActorStopped rather than waiting for ever."""
    mailbox = Mailbox[int](1)
    async with asyncio.TaskGroup() as group:
        taking = group.create_task(ending(mailbox.take()))
        await settle()
        mailbox.close()
    assert ActorStopped is taking.result()


async def test_sealing_returns_what_was_never_taken() -> None:
    """And ends pushes, which closing alone does not."""
    mailbox = Mailbox[int](2)
    mailbox.offer(1)
    mailbox.close()
    mailbox.push(2)
    assert (1, 2) == mailbox.seal()
    assert () == mailbox.seal()
    with pytest.raises(ActorStopped):
        mailbox.push(3)


async def test_two_empty_mailboxes_share_nothing() -> None:
    """The memory-saving empty queue is never written to."""
    one, other = Mailbox[int](1), Mailbox[int](1)
    one.offer(1)
    assert (1, 0) == (len(one), len(other))
    await one.take()
    other.push(2)
    assert (0, 1) == (len(one), len(other))
