"""The bounded first-in-first-out queue in front of one actor; full means back-pressure.

To change it: this is the hot path. One deque, at most one waiting taker, no task, no log. Nothing that was accepted
leaves but by `pop` or `seal`.
"""

import asyncio
from collections import deque
from typing import Any, Generic, TypeVar

from actors.errors import ActorStopped
from actors.signals import fail

M = TypeVar("M")

# A deque costs 760 bytes even when empty, and most mailboxes are: those share this one, which nobody appends to.
_NOTHING: deque[Any] = deque(maxlen=0)


class Mailbox(Generic[M]):
    """Messages in order of acceptance, and the senders that wait for room in order of arrival."""

    __slots__ = ("_closed", "_granted", "_items", "_items_max", "_loop", "_owner", "_putters", "_sealed", "_taker")

    def __init__(self, items_max: int, owner: str = "") -> None:
        assert items_max > 0, "a mailbox holds at least one message"
        self._items: deque[M] = _NOTHING
        self._items_max = items_max
        self._owner = owner
        self._loop: asyncio.AbstractEventLoop | None = None
        self._taker: asyncio.Future[None] | None = None
        self._putters: deque[asyncio.Future[None]] | None = None
        self._granted = 0
        self._closed = False
        self._sealed = False

    def __len__(self) -> int:
        """Return how many messages wait; may exceed the bound by what was pushed."""
        return len(self._items)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for a message and none has come yet."""
        return self._taker is not None and not self._taker.done()

    @property
    def is_deserted(self) -> bool:
        """Whether no message waits, and no sender either."""
        return not self._items and not self._putters and not self._granted

    def offer(self, message: M) -> bool:
        """Accept `message` if there is room and nobody waits for it, else return False. Raises ActorStopped."""
        if self._closed:
            raise self._stopped()
        if self._putters or self._granted or len(self._items) >= self._items_max:
            return False
        self._append(message)
        return True

    async def put(self, message: M, turn: asyncio.Future[None] | None = None) -> None:
        """Accept `message`, waiting while full, behind those who came before. Raises ActorStopped when closed.

        A put that raises, also CancelledError, was not accepted, and leaves its room to the next in line. A caller
        that hands in `turn` may fail it in order to give up waiting.
        """
        if self.offer(message):
            return
        if turn is None:
            turn = asyncio.get_running_loop().create_future()
        await self._stand_in_line(turn)
        if self._closed:
            raise self._stopped()
        self.push(message)

    def push(self, message: M) -> None:
        """Accept `message` beyond the bound, also while closed. Raises ActorStopped when sealed."""
        if self._sealed:
            raise self._stopped()
        self._append(message)

    async def take(self) -> M:
        """Return the oldest message, waiting for one. Raises ActorStopped when closed and empty.

        Cancelling it loses nothing: a message leaves only as it is returned.
        """
        while not self._items:
            if self._closed:
                raise self._stopped()
            await self.arrival()
        return self.pop()

    def arrival(self) -> asyncio.Future[None]:
        """Return what is done when a message comes, the mailbox closes, or somebody calls `wake`. One at a time."""
        assert not self.is_awaited, "a mailbox has one taker"
        if self._loop is None:
            # Asked for once: to ask takes a system call each time.
            self._loop = asyncio.get_running_loop()
        taker: asyncio.Future[None] = self._loop.create_future()
        self._taker = taker
        if self._items or self._closed:
            self.wake()
        else:
            self._items = _NOTHING
        return taker

    def pop(self) -> M:
        """Return the oldest message, and give its room to whoever waits longest. Raises IndexError when empty."""
        message = self._items.popleft()
        if self._putters:
            self._grant()
        return message

    def wake(self) -> None:
        """Let the taker look around though no message may have come."""
        taker, self._taker = self._taker, None
        if taker is not None and not taker.done():
            taker.set_result(None)

    def close(self) -> None:
        """Accept no more messages; whoever waits for room gets ActorStopped. What was accepted stays. Idempotent."""
        self._closed = True
        putters, self._putters = self._putters, None
        for turn in putters or ():
            fail(turn, self._stopped())
        self.wake()

    def seal(self) -> tuple[M, ...]:
        """Close for pushes too, and return what was never taken, oldest first."""
        self.close()
        self._sealed = True
        left, self._items = tuple(self._items), _NOTHING
        return left

    def _append(self, message: M) -> None:
        if self._items is _NOTHING:
            self._items = deque()
        self._items.append(message)
        if self._taker is not None:
            self.wake()

    async def _stand_in_line(self, turn: asyncio.Future[None]) -> None:
        if self._putters is None:
            self._putters = deque()
        self._putters.append(turn)
        try:
            await turn
        except BaseException:
            self._withdraw(turn)
            raise
        self._granted -= 1

    def _withdraw(self, turn: asyncio.Future[None]) -> None:
        if self._putters and turn in self._putters:
            self._putters.remove(turn)
        elif not turn.cancelled() and turn.exception() is None:
            # Cancelled between the grant and the next turn of the loop: without this the room would be lost for good.
            self._granted -= 1
        self._grant()

    def _grant(self) -> None:
        while self._putters and len(self._items) + self._granted < self._items_max:
            turn = self._putters.popleft()
            if not turn.done():
                self._granted += 1
                turn.set_result(None)

    def _stopped(self) -> ActorStopped:
        return ActorStopped(f"actor {self._owner!r} takes no more messages")
