"""How many sessions this node holds against how many it may, and one thing at a time for each session or tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors import ActorSystem


class NodeCapacity:
    """How many sessions this node holds against how many it may; tells its subscribers when one leaves."""

    def __init__(self, sessions_max: int) -> None:
        self.sessions_max = sessions_max
        self._taken = 0
        self._is_short_of_memory = False
        self._live: ActorSystem | None = None
        self._subscribers: list[Callable[[], None]] = []

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call back whenever a session leaves this node."""
        self._subscribers.append(callback)

    def watch(self, system: ActorSystem) -> None:
        """Count the actors of this system from now on."""
        self._live = system

    def held(self) -> int:
        """Return how many sessions are here or on their way."""
        return self._taken + (0 if self._live is None else len(self._live))

    def free(self) -> int:
        """See `Capacity.free`."""
        # One that holds nothing has nothing to let go of: it goes on, one session at a time.
        sessions_max = 1 if self._is_short_of_memory else self.sessions_max
        return sessions_max - self.held()

    def short_of_memory(self, is_short: bool) -> None:
        """Take no new session while it is so, however many places there are."""
        self._is_short_of_memory = is_short
        self.changed()

    def place(self) -> Place:
        """Hold a place while a `with` block brings a session to life; it gets whether there was one.

        Held from before the claim to after the spawn: what is on its way counts like what is here.
        """
        return Place(self)

    def take(self) -> bool:
        """Take a place and return True, or return False where none is free; pair the former with `give_back`."""
        has_place = self.free() > 0
        self._taken += has_place
        return has_place

    def give_back(self) -> None:
        """Give back what was taken."""
        self._taken -= 1
        self.changed()

    def changed(self) -> None:
        """Tell the subscribers: an actor ended, a place was given back, or memory is there again."""
        for callback in self._subscribers:
            callback()


class Place:
    """See `NodeCapacity.place`. A class, like `Guard`: generators for each session would cost several times as much."""

    __slots__ = ("_capacity", "_has_place")

    def __init__(self, capacity: NodeCapacity) -> None:
        self._capacity = capacity
        self._has_place = False

    def __enter__(self) -> bool:
        self._has_place = self._capacity.take()
        return self._has_place

    def __exit__(self, *_: object) -> None:
        if self._has_place:
            self._capacity.give_back()


class Guards:
    """One lock a key (a session's id, a tenant), for as long as somebody holds or wants it (rule 2)."""

    def __init__(self) -> None:
        self._guards: dict[str, Guard] = {}

    def holding(self, key: str) -> Guard:
        """Let one `async with` block at a time run for that key."""
        guard = self._guards.get(key)
        if guard is None:
            guard = self._guards[key] = Guard(key, self._guards)
        return guard


class Guard:
    """The lock of one key, among those of the others."""

    __slots__ = ("_guards", "_key", "_lock", "_users")

    def __init__(self, key: str, guards: dict[str, Guard]) -> None:
        self._key = key
        self._guards = guards
        self._lock = asyncio.Lock()
        self._users = 0

    async def __aenter__(self) -> None:
        self._users += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._forget()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        self._forget()

    def _forget(self) -> None:
        self._users -= 1
        if not self._users:
            del self._guards[self._key]
