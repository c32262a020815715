"""Whether a handler's tasks do nothing but wait for operations, so that its session may leave memory.

A session that leaves runs its handler anew when it is woken. What a handler awaits besides operations would be cut off
by that, and a timer of asyncio's would never ring: a session with either stays where it is.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Collection, Generator, Iterator, Set
from pathlib import PurePath
from types import CellType, CodeType, MethodType
from typing import Final

_WAITING_FOR_OTHERS: Final = frozenset({"taskgroups.py", "tasks.py", "locks.py", "queues.py"})
"""The modules of asyncio in which a task waits for what other tasks do."""
_BY_TIME: Final = frozenset({"sleep", "wait_for"})


def all_wait(tasks: Collection[asyncio.Task[object]], waiting: Collection[asyncio.Task[object]]) -> bool:
    """Return whether each task is one of those `waiting` for operations, or waits for the others, and none for time.

    A task that the handler did not start counts as open work: it would go on without who waits for it.
    """
    living = {task for task in tasks if not task.done()}
    return all(_waits_only(task, living, is_waiting=task in waiting) for task in living)


def _waits_only(task: asyncio.Task[object], living: Set[object], *, is_waiting: bool) -> bool:
    chain = tuple(chain_of(task.get_coro()))
    if any(holds_timer(link) for link in chain):
        return False
    return is_waiting or _joins(chain, living)


def any_about_to_run(tasks: Collection[asyncio.Task[object]]) -> bool:
    """Return whether the loop lets one of the tasks go on, or tells of its end, with nothing else happening before."""
    # To look into their frames, of a thousand branches maybe, would take 100 times as long.
    awaited = [task._fut_waiter for task in tasks]  # type: ignore[attr-defined]
    return None in awaited or any(future.done() for future in awaited)


def chain_of(link: object) -> Iterator[object]:
    """Yield a coroutine, what it awaits, what that awaits, down to the innermost."""
    while link is not None:
        yield link
        link = getattr(link, "cr_await", None) or getattr(link, "gi_yieldfrom", None) or getattr(link, "ag_await", None)


def _joins(chain: tuple[object, ...], living: Set[object]) -> bool:
    """Return whether the innermost thing that a task awaits is what the handler's other tasks do."""
    awaited = [each for each in gc.get_referents(chain[-1]) if asyncio.isfuture(each)]
    if any(_is_of(each, living) for each in awaited):
        return True
    # The innermost coroutine, or the future that it awaits.
    waits = [link for link in chain[-2:] if _is_asyncio_wait(getattr(link, "cr_code", None))]
    return any(waits) and all(_is_of(each, living) for link in waits for each in _waited_for(link))


def _is_of(future: object, living: Set[object]) -> bool:
    """Return whether it is one of the handler's own tasks, or a gathering of such. Any other future is open work."""
    if isinstance(future, asyncio.Task):
        return future in living or future.done()
    children: Collection[object] = getattr(future, "_children", None) or ()
    return bool(children) and all(_is_of(child, living) for child in children)


def _waited_for(link: object) -> Iterator[object]:
    """Yield the futures that an `asyncio.wait` was given."""
    for held in gc.get_referents(link):
        if isinstance(held, set | frozenset):
            yield from (each for each in held if asyncio.isfuture(each))


def _is_asyncio_wait(code: CodeType | None) -> bool:
    if code is None or code.co_name in _BY_TIME:
        return False
    path = PurePath(code.co_filename)
    return path.parent.name == "asyncio" and path.name in _WAITING_FOR_OTHERS


def holds_timer(link: object) -> bool:
    """Return whether a suspended frame is inside an `asyncio.timeout`, or holds a timer of the loop."""
    # What a suspended frame holds, its stack included, is what the garbage collector sees of it.
    for held in _held_by(link):
        owner = held.__self__ if isinstance(held, MethodType) else held
        if isinstance(owner, asyncio.Timeout) and owner.when() is not None:
            return True
        inner = _held_by(held) if isinstance(held, Generator) else (held,)
        if any(type(each).__name__ == "TimerHandle" for each in inner):
            return True
    return False


def _held_by(frame_owner: object) -> tuple[object, ...]:
    """Return what a coroutine or generator holds, the variables that it shares with inner functions included."""
    held = gc.get_referents(frame_owner)
    shared = (each for cell in held if isinstance(cell, CellType) for each in gc.get_referents(cell))
    return (*held, *shared)
