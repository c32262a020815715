"""A handler may leave memory only while its tasks wait for operations and each other, on whichever loop."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from actors import settle
from orchestrator.parking import all_wait

Opened = Callable[[], Awaitable[None]]
"""An operation: somebody outside ends it."""
Shape = Callable[[Opened], Coroutine[Any, Any, object]]


async def plainly(operation: Opened) -> None:
    """Wait for one operation."""
    await operation()


async def by_gather(operation: Opened) -> None:
    """Wait for two of them."""
    await asyncio.gather(operation(), operation())


async def by_nested_gather(operation: Opened) -> None:
    """Gather what is gathered."""
    await asyncio.gather(by_gather(operation), operation())


async def by_task_group(operation: Opened) -> None:
    """Wait at the end of a task group."""
    async with asyncio.TaskGroup() as group:
        group.create_task(own(operation))


async def by_task(operation: Opened) -> None:
    """Await a task that was begun before."""
    await asyncio.create_task(own(operation))


async def by_wait(operation: Opened) -> None:
    """Wait for whoever is first."""
    await asyncio.wait({asyncio.create_task(own(operation))})


async def by_as_completed(operation: Opened) -> None:
    """Go by the order of ends."""
    for each in asyncio.as_completed([own(operation), own(operation)]):
        await each


async def by_semaphore(operation: Opened) -> None:
    """Stand in line for one place."""
    limit = asyncio.Semaphore(1)

    async def one() -> None:
        async with limit:
            await operation()

    await asyncio.gather(one(), one())


async def by_queue(operation: Opened) -> None:
    """Wait for what another branch puts into a queue, and sets."""
    queue: asyncio.Queue[None] = asyncio.Queue()
    told = asyncio.Event()

    async def one() -> None:
        await operation()
        told.set()
        await queue.put(None)

    await asyncio.gather(one(), queue.get(), told.wait())


async def in_a_past_timeout(operation: Opened) -> None:
    """Wait inside a timeout without a time."""
    async with asyncio.timeout(None):
        await operation()


async def own(operation: Opened) -> None:
    """Be a coroutine of the handler's."""
    await operation()


async def with_sleep(operation: Opened) -> None:
    """Sleep by the loop, beside an operation."""
    await asyncio.gather(operation(), asyncio.sleep(60))


async def in_a_timeout(operation: Opened) -> None:
    """Bound an operation by the loop's time."""
    async with asyncio.timeout(60):
        await operation()


async def in_an_outer_timeout(operation: Opened) -> None:
    """Bound what branches do."""
    async with asyncio.timeout(60):
        await by_gather(operation)


async def in_wait_for(operation: Opened) -> None:
    """Bound an operation as people did it before."""
    await asyncio.wait_for(operation(), 60)


async def in_timed_wait(operation: Opened) -> None:
    """Wait for whoever is first, not too long."""
    await asyncio.wait({asyncio.create_task(own(operation))}, timeout=60)


async def in_timed_as_completed(operation: Opened) -> None:
    """Go by the order of ends, not too long."""
    for each in asyncio.as_completed([own(operation)], timeout=60):
        await each


async def on_a_future(operation: Opened) -> None:
    """Wait for what a callback sets: open I/O looks like this."""
    await asyncio.gather(operation(), a_future())


async def a_future() -> None:
    """Be open I/O."""
    await asyncio.get_running_loop().create_future()


async def on_a_gathered_future(operation: Opened) -> None:
    """Gather open I/O itself."""
    await asyncio.gather(operation(), asyncio.get_running_loop().create_future())


async def on_a_waited_future(operation: Opened) -> None:
    """Wait for open I/O or an operation."""
    await asyncio.wait({asyncio.create_task(own(operation)), asyncio.get_running_loop().create_future()})


async def on_a_thread(operation: Opened) -> None:
    """Wait for a thread."""
    release = threading.Event()
    try:
        await asyncio.gather(operation(), asyncio.to_thread(release.wait, 5))
    finally:
        release.set()


async def on_a_stream(operation: Opened) -> None:
    """Read from a stream that says nothing."""
    await asyncio.gather(operation(), asyncio.StreamReader().read())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("shape", "may_leave"),
    [
        (plainly, True),
        (by_gather, True),
        (by_nested_gather, True),
        (by_task_group, True),
        (by_task, True),
        (by_wait, True),
        (by_as_completed, True),
        (by_semaphore, True),
        (by_queue, True),
        (in_a_past_timeout, True),
        (with_sleep, False),
        (in_a_timeout, False),
        (in_an_outer_timeout, False),
        (in_wait_for, False),
        (in_timed_wait, False),
        (in_timed_as_completed, False),
        (on_a_future, False),
        (on_a_gathered_future, False),
        (on_a_waited_future, False),
        (on_a_thread, False),
        (on_a_stream, False),
    ],
)
def test_only_a_handler_that_waits_for_nothing_else_may_leave(
    run: Callable[[Coroutine[Any, Any, bool]], bool], shape: Shape, may_leave: bool
) -> None:
    """Joining each other is waiting; time of the loop, threads and open I/O are not."""

    async def main() -> bool:
        before = asyncio.all_tasks()
        waiting = list[asyncio.Task[object]]()

        async def operation() -> None:
            task = asyncio.current_task()
            assert task is not None
            waiting.append(task)
            await asyncio.get_running_loop().create_future()

        handler: asyncio.Task[object] = asyncio.create_task(shape(operation))
        await settle()
        living = asyncio.all_tasks() - before
        answer = all_wait(living, waiting)
        for task in living:
            task.cancel()
        await asyncio.wait({handler})
        return answer

    assert may_leave == run(main())


async def test_a_task_of_somebody_else_is_open_work_until_it_is_done() -> None:
    """It goes on without who joins it."""
    others: asyncio.Task[object] = asyncio.create_task(a_future())

    async def join() -> None:
        await others

    joining: asyncio.Task[object] = asyncio.create_task(join())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not all_wait([joining], [])
    assert all_wait([joining, others], [others])
    others.cancel()
    await asyncio.wait({others, joining})
    assert all_wait([joining, others], [])
