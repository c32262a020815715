"""For tests of anything that runs on actors: let the loop come to rest without waiting for time.

To change it: shipped, so public; never sleeps, never reads a clock.
"""

import asyncio
from collections.abc import Sized
from weakref import WeakKeyDictionary

from actors.signals import next_turn

TURNS_MAX = 10_000
BLIND_TURNS = 200

# Those who settle at the same time must not keep each other awake, and only the loop is common to them.
_settlers: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()


async def settle(turns_max: int = TURNS_MAX) -> None:
    """Return when nothing is ready to run any more: everybody else waits for time, I/O, or an event.

    How: a turn of asyncio's loop runs what was ready at its start. If the ready queue holds nobody but others who
    settle when this coroutine gets its turn, the rest of that turn has run and made nothing new ready. Threads and
    sockets are not waited for. A loop that hides its ready queue gets a fixed number of turns. Raises AssertionError
    after `turns_max` turns: then something spins.
    """
    loop = asyncio.get_running_loop()
    _settlers[loop] = _settlers.get(loop, 0) + 1
    try:
        await _settle(loop, turns_max)
    finally:
        _settlers[loop] -= 1


async def _settle(loop: asyncio.AbstractEventLoop, turns_max: int) -> None:
    ready = getattr(loop, "_ready", None)
    assert ready is None or isinstance(ready, Sized), "the ready queue of asyncio's loop"
    for _ in range(turns_max if ready is not None else BLIND_TURNS):
        await next_turn()
        # Every other settler stands in the ready queue exactly once, waiting for its own next turn.
        if ready is not None and len(ready) < _settlers[loop]:
            return
    assert ready is None, f"the loop did not settle within {turns_max} turns"
