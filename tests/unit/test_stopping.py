"""How a process is told to stop."""

import asyncio
import os
import signal

import pytest

from orchestrator.stopping import Stop, stop_signals


async def test_what_starts_is_left_at_once_and_what_has_started_is_not() -> None:
    """The first word cuts a start-up short; once that is over, it is for whoever waits for it."""
    stop, reached = Stop(), list[str]()
    async with stop.before_start():
        asyncio.get_running_loop().call_soon(stop.tell)
        await asyncio.Event().wait()
        reached.append("after the wait")
    async with stop.before_start():
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        reached.append("after it was asked to stop")
    assert [] == reached
    stop = Stop()
    async with stop.before_start():
        stop.started()
        asyncio.get_running_loop().call_soon(stop.tell)
        await stop.asked.wait()
        reached.append("in order")
    assert ["in order"] == reached


async def test_the_second_word_leaves_what_the_first_one_let_end() -> None:
    """Whether it comes while the block runs or came before."""
    stop, left = Stop(), list[bool]()
    stop.tell()
    for _ in range(2):
        left.append(True)
        async with stop.unless_insisted():
            stop.tell()
            await asyncio.Event().wait()
            left.pop()
    assert [True, True] == left


async def test_a_block_with_a_grace_may_end_by_itself() -> None:
    """To take leave takes a moment, which even who insists can spare; but no longer."""
    stop, reached = Stop(), list[str]()
    stop.tell()
    stop.tell()
    async with stop.unless_insisted(grace=60.0):
        await asyncio.sleep(0)
        reached.append("took its leave")
    async with stop.unless_insisted(grace=0.01):
        await asyncio.Event().wait()
        reached.append("never")
    assert ["took its leave"] == reached


async def test_who_insists_again_and_again_neither_puts_the_end_off_nor_breaks_it() -> None:
    """The grace counts from the first time; while a block winds up, more of it changes nothing."""
    stop, reached = Stop(), list[str]()
    stop.tell()
    stop.tell()
    async with asyncio.timeout(5):
        async with stop.unless_insisted(grace=0.02):
            while True:
                stop.tell()
                await asyncio.sleep(0)
        async with stop.unless_insisted():
            try:
                await asyncio.Event().wait()
            finally:
                stop.tell()
                reached.append("wound up")
    assert ["wound up"] == reached


async def test_a_block_lets_through_what_ends_it_otherwise() -> None:
    """A timeout of its own, an error, a cancellation of the task."""
    stop = Stop()
    with pytest.raises(TimeoutError):
        async with stop.unless_insisted(), asyncio.timeout(0):
            await asyncio.Event().wait()
    with pytest.raises(ValueError, match="its own"):
        async with stop.unless_insisted():
            raise ValueError("its own")

    async def waits() -> None:
        async with stop.unless_insisted():
            await asyncio.Event().wait()

    task = asyncio.ensure_future(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_signal_before_the_start_is_over_ends_the_block() -> None:
    """As SIGTERM does while a node waits for its table."""
    is_over = False
    async with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
        is_over = True
    assert (False, True) == (is_over, stop.asked.is_set())
