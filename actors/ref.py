"""How others reach an actor: by a handle that stays valid, and says so when the actor does not live any more.

To change it: every call is safe to cancel; nothing here waits for the actor except where its name says so.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from actors.cell import Cell
from actors.clock import Cancellable
from actors.delivery import Delivery
from actors.errors import AskTimeout
from actors.signals import fail
from actors.supervision import Terminated

M_contra = TypeVar("M_contra", contravariant=True)
T = TypeVar("T")


class Reply(Generic[T]):
    """Where the answer to one `ask` goes. The first answer counts, later ones are ignored."""

    __slots__ = ("_answer",)

    def __init__(self) -> None:
        self._answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def set(self, value: T) -> None:
        """Answer with `value`; nothing if there is an answer already or nobody waits any more."""
        if not self._answer.done():
            self._answer.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Let the asker raise `error`; nothing if there is an answer already or nobody waits any more."""
        fail(self._answer, error)

    async def answer(self) -> T:
        """Return what was set, or raise what it was failed with."""
        return await self._answer


class ActorRef(Generic[M_contra]):
    """A handle on one life of an actor: an actor that is spawned anew under the same id has another one."""

    __slots__ = ("_cell",)

    def __init__(self, cell: Cell[M_contra]) -> None:
        self._cell = cell

    def __repr__(self) -> str:
        """Name the actor."""
        return f"ActorRef({self.actor_id!r})"

    @property
    def actor_id(self) -> str:
        """The id that it was spawned under."""
        return self._cell.actor_id

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet; it may be stopping, and take no messages any more."""
        return self._cell.terminated is None

    async def tell(self, message: M_contra) -> None:
        """Return when `message` is accepted; waits while the mailbox is full. Raises ActorStopped.

        Cancelled while waiting, it was not accepted.
        """
        mailbox = self._cell.mailbox
        if not mailbox.offer(message):
            await mailbox.put(message)

    def offer(self, message: M_contra) -> bool:
        """Accept `message` and return True, or return False when the mailbox is full. Raises ActorStopped."""
        return self._cell.mailbox.offer(message)

    # `asyncio.timeout` goes by the machine's time, this by the system's clock.
    async def ask(self, make: Callable[[Reply[T]], M_contra], timeout: float | None) -> T:
        """Send `make(reply)` and return what is set on `reply`; `timeout` in seconds covers a full mailbox too.

        Raises AskTimeout, ActorStopped if the actor stops before it replies, and what its `receive` raised if it
        failed on this message.
        """
        reply: Reply[T] = Reply()
        delivery = Delivery(make(reply), reply.fail)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._arm(timeout, turn, reply)
        try:
            await self._cell.deliver(delivery, turn)
            return await reply.answer()
        finally:
            self._cell.forget_caller(delivery)
            if timer is not None:
                timer.cancel()

    async def handled(self, message: M_contra) -> None:
        """Return when `receive(message)` has returned, or raise what it raised. Raises ActorStopped if it never was.

        Being told comes before supervision: when this raises, the actor may be about to be restarted or stopped.
        """
        reply: Reply[None] = Reply()
        delivery = Delivery(message, reply.fail, lambda: reply.set(None))
        try:
            await self._cell.deliver(delivery, None)
            await reply.answer()
        finally:
            self._cell.forget_caller(delivery)

    async def stopped(self) -> Terminated:
        """Return how it ended, once it has: nothing of it runs any more then."""
        return await self._cell.ended()

    def _arm(self, timeout: float | None, turn: asyncio.Future[None], reply: Reply[T]) -> Cancellable | None:
        if timeout is None:
            return None

        def expire() -> None:
            error = AskTimeout(f"actor {self.actor_id!r} did not answer within {timeout} s")
            fail(turn, error)
            reply.fail(error)

        return self._cell.clock.call_later(timeout, expire)
