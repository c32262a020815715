"""One actor's life, in one task: activate, receive one message at a time, wind down, be reported dead.

To change it: `_serve` and `_receive` are the hot path. Whatever happens, `_terminate` runs exactly once and accounts
for every message that was accepted. Every raise of actor code passes through `_supervise`.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from dataclasses import replace
from typing import Any, Generic, TypeVar, assert_never

from actors.actor import Actor
from actors.background import Background
from actors.children import Children
from actors.clock import Clock
from actors.deathwatch import Watch
from actors.delivery import Callers, Delivery, unwrap
from actors.errors import StrayCancellation, SystemDraining
from actors.home import Home, Limits, Maker
from actors.idleness import Idleness
from actors.mailbox import Mailbox
from actors.signals import Signal, next_turn
from actors.supervision import Directive, Failure, Phase, StopReason, Supervisor, Terminated, judge

M = TypeVar("M")

STREAK_MAX = 64
"""Messages that one actor may handle before the others get a turn, if its `receive` never waits."""


class Cell(Generic[M]):
    """An actor's mailbox, task, children and work in flight. Outlives the actor object across restarts."""

    # Much state, but each bit of it private; not worth a page.
    # fmt: off
    __slots__ = (
        "_actor", "_callers", "_changed", "_children", "_draining", "_ending", "_error", "_escalated", "_failures",
        "_home", "_idleness", "_in_hand", "_interrupted", "_maker", "_parent", "_parked", "_restarts", "_supervisor",
        "_task", "_winding_down", "actor_id", "background", "mailbox", "terminated", "watches",
    )
    # fmt: on

    def __init__(
        self, actor_id: str, home: Home, limits: Limits, supervisor: Supervisor, parent: "AnyCell | None"
    ) -> None:
        self.actor_id = actor_id
        self.mailbox: Mailbox[M | Delivery[M]] = Mailbox(limits.mailbox_max, actor_id)
        self.background = Background(home.task_group, home.busy, home.clock, owner=self)
        self.terminated: Terminated | None = None
        self.watches: dict[Watch[Any], None] = {}
        self._home = home
        self._supervisor = supervisor
        self._parent = parent
        self._children = Children()
        self._callers: Callers[M] = Callers()
        self._maker: Maker[M] | None = None
        self._actor: Actor[M] | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = Signal()
        self._idleness: Idleness | None = None
        if limits.idle_after is not None:
            self._idleness = Idleness(home.clock, limits.idle_after, self)
        self._ending: StopReason | None = None
        self._error: BaseException | None = None
        self._escalated: Failure | None = None
        self._failures: tuple[Failure, ...] = ()
        self._in_hand: tuple[M, ...] = ()
        self._restarts = 0
        # True whenever there is something else to do than to receive: the one flag that the hot path looks at.
        self._interrupted = False
        self._parked = False
        self._draining = False
        self._winding_down = False

    # What others do to it. Nothing here waits, but `deliver` and `ended`.

    @property
    def clock(self) -> Clock:
        """The system's clock."""
        return self._home.clock

    @property
    def actor(self) -> Actor[M] | None:
        """The actor itself, once it is activated; `None` before, and while it is made anew."""
        return self._actor

    @property
    def is_winding_down(self) -> bool:
        """Whether it starts nothing more: its last message is behind it."""
        return self._winding_down

    def begin(self, maker: Maker[M], context: Context) -> None:
        """Start living. Called once. Raises SystemDraining when the task group takes no more."""
        self._maker = maker
        life = self._live()
        try:
            self._task = self._home.task_group.create_task(life, name=self.actor_id, context=context)
        except RuntimeError as error:
            life.close()
            raise SystemDraining(f"no actor {self.actor_id!r}: the system does not run") from error
        # A done callback, because a task that is cancelled before its first step runs nothing, not even a `finally`.
        self._task.add_done_callback(self._terminate, context=context)
        if self._parent is not None:
            self._parent._children.add(self)

    def stop(self) -> None:
        """End after the current message."""
        self._end(StopReason.STOPPED)

    def drain(self) -> None:
        """End as soon as there is nothing left to do."""
        self._draining = True
        self._rest()

    def cut(self) -> bool:
        """End at once, and return whether that cuts anything off: False when it had nothing to do or was ending."""
        if self.terminated is not None or self._winding_down:
            return False
        if not self._parked:
            self.abort()
            return True
        had_work = self._ending is None and bool(self.mailbox or self.background or self._children)
        self._end(StopReason.DRAINED if self._draining else StopReason.STOPPED)
        return had_work

    def abort(self) -> None:
        """Cancel the task, whatever it does."""
        if self.terminated is None and self._task is not None:
            self._winding_down = True
            self._end(StopReason.CANCELLED)
            self._task.cancel()

    def encloses(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether `task` is this actor's, or that of an actor below it."""
        return task is self._task or self._children.enclose(task)

    def watch(self, target: "AnyCell", make_message: Callable[[Terminated], M]) -> None:
        """Have `target`'s end told to this actor, at once if it lies behind."""
        Watch(self, self.mailbox, make_message, self.background_failed).begin(target)

    async def deliver(self, delivery: Delivery[M], turn: asyncio.Future[None] | None) -> None:
        """Put `delivery` into the mailbox (see `Mailbox.put`); its caller is told if it is never handled."""
        self._callers.add(delivery)
        await self.mailbox.put(delivery, turn)

    def forget_caller(self, delivery: Delivery[M]) -> None:
        """Keep no caller waiting who has its answer, or does not wait any more."""
        self._callers.discard(delivery)

    async def ended(self) -> Terminated:
        """Return how it ended, once it has."""
        await self._changed.until(lambda: self.terminated is not None)
        assert self.terminated is not None
        return self.terminated

    def background_idle(self) -> None:
        """Hear that the last of its work in flight ended."""
        self._rest()

    def background_failed(self, error: BaseException) -> None:
        """Hear that code which it left with the runtime raised."""
        self._post(Failure(self.actor_id, error, "background", self._restarts))

    def is_quiet(self) -> bool:
        """Whether it waits for messages and has none, nor children or work in flight."""
        is_waiting = self._parked and not self._interrupted and self.mailbox.is_deserted
        return is_waiting and not self.background and not self._children

    def passivate(self) -> None:
        """End for want of anything to do."""
        self._end(StopReason.PASSIVATED)

    # Its life, all in its own task.

    async def _live(self) -> None:
        try:
            while self._ending is None:
                await self._activate()
                await self._serve()
                await self._renew()
            await self._wind_down()
        except asyncio.CancelledError:
            self._winding_down = True
            if self._error is None:
                self._ending = StopReason.CANCELLED
            self._stop_taking()
            await self._shed(at_once=True)
            raise

    async def _activate(self) -> None:
        assert self._maker is not None
        try:
            actor = self._maker.make()
            await actor.activate()
        except asyncio.CancelledError as error:
            if self._is_cancelled():
                raise
            self._fail("activate", self._stray(error))
        except Exception as error:
            self._fail("activate", error)
        else:
            self._actor = actor

    async def _serve(self) -> None:
        """Receive until the actor failed or is to end."""
        while self._actor is not None and self._ending is None:
            self._interrupted = bool(self._failures)
            await self._receive_all(self._actor)
            self._judge_posted()

    async def _receive_all(self, actor: Actor[M]) -> None:
        mailbox = self.mailbox
        streak = 0
        while not self._interrupted:
            if not mailbox:
                streak = 0
                await self._park()
                self._parked = False
                continue
            await self._receive(actor, mailbox.pop())
            streak += 1
            if streak == STREAK_MAX:
                streak = 0
                await next_turn()

    def _park(self) -> asyncio.Future[None]:
        arrival = self.mailbox.arrival()
        self._parked = True
        self._rest()
        return arrival

    async def _receive(self, actor: Actor[M], item: M | Delivery[M]) -> None:
        delivery, message = (item, item.message) if isinstance(item, Delivery) else (None, item)
        try:
            await actor.receive(message)
        except asyncio.CancelledError as error:
            if self._is_cancelled():
                self._in_hand = (message,)
                raise
            self._fail("receive", self._stray(error), delivery)
        except Exception as error:
            self._fail("receive", error, delivery)
        else:
            if delivery is not None and delivery.handled is not None:
                delivery.handled()

    async def _renew(self) -> None:
        """Clear away what the failed actor left, before a new one is built."""
        if self._ending is None:
            await self._shed(at_once=True)
            self._failures = ()
            # An `activate` that raises without ever waiting, restarted without limit, must not freeze the loop.
            await next_turn()

    async def _wind_down(self) -> None:
        self._winding_down = True
        self._stop_taking()
        await self._shed(at_once=self._actor is None)
        if self._actor is not None and self._ending is not StopReason.CANCELLED:
            await self._deactivate(self._actor)

    async def _deactivate(self, actor: Actor[M]) -> None:
        try:
            await actor.deactivate()
        except asyncio.CancelledError as error:
            if self._is_cancelled():
                raise
            self._fail("deactivate", self._stray(error))
        except Exception as error:
            self._fail("deactivate", error)

    def _stop_taking(self) -> None:
        self.mailbox.close()
        self.background.close()
        # Before children are waited for: a child may be waiting, in its own `receive`, for an answer from here.
        self._callers.refuse(self.actor_id)

    async def _shed(self, at_once: bool) -> None:
        """End the children, then the work in flight. Not `at_once` means that children finish their message."""
        if at_once:
            await self._children.cut(self.clock)
        else:
            await self._children.stop()
        await self.background.cancel_all()

    # Failure.

    def _is_cancelled(self) -> bool:
        return self._task is not None and self._task.cancelling() > 0

    def _stray(self, error: asyncio.CancelledError) -> StrayCancellation:
        stray = StrayCancellation(f"actor {self.actor_id!r} raised CancelledError, but was not cancelled")
        stray.__cause__ = error
        return stray

    def _fail(self, phase: Phase, error: Exception, delivery: Delivery[M] | None = None) -> None:
        if delivery is not None:
            delivery.fail(error)
        self._supervise(Failure(self.actor_id, error, phase, self._restarts))

    def _post(self, failure: Failure) -> None:
        """Have `failure` supervised between two messages."""
        if self._ending is None:
            self._failures += (failure,)
            self._interrupted = True
            self.mailbox.wake()

    def _judge_posted(self) -> None:
        while self._failures and self._actor is not None:
            failure, *others = self._failures
            self._failures = tuple(others)
            self._supervise(failure)

    def _supervise(self, failure: Failure) -> None:
        self._actor = None
        self._interrupted = True
        directive = judge(self._supervisor, failure)
        match directive:
            case Directive.RESTART:
                self._restarts += 1
            case Directive.STOP:
                self._end(StopReason.FAILED, failure.error)
            case Directive.ESCALATE:
                self._escalated = failure
                self._end(StopReason.ESCALATED, failure.error)
            case _:
                assert_never(directive)

    # The end.

    def _end(self, reason: StopReason, error: BaseException | None = None) -> None:
        if self._ending is None or error is not None:
            self._ending, self._error = reason, error
        self._interrupted = True
        # First of all: from here on nothing is accepted, so nothing can be lost between deciding and ending.
        self.mailbox.close()

    def _rest(self) -> None:
        """End, or start to count idle time, if there is nothing left to do."""
        if not self.is_quiet():
            return
        if self._draining:
            self._end(StopReason.DRAINED)
        elif self._idleness is not None:
            self._idleness.restart()

    def _terminate(self, task: asyncio.Task[None]) -> None:
        unhandled = self._in_hand + tuple(unwrap(item) for item in self.mailbox.seal())
        reason = self._ending or StopReason.CANCELLED
        self.terminated = Terminated(self.actor_id, reason, self._error, unhandled)
        self._stop_taking()
        self._let_go()
        self._home.bury(self)
        self._tell_watchers(self.terminated)
        self._tell_parent()
        self._changed.fire()

    def _let_go(self) -> None:
        # Refs may be kept for long after the end, and this with them. Nothing that it holds refers back to it, so that
        # its memory is free as soon as nobody knows it, and not when the cyclic collector comes by.
        self._actor, self._maker = None, None
        self.background.disown()
        if self._idleness is not None:
            self._idleness.cancel()
            self._idleness = None

    def _tell_watchers(self, terminated: Terminated) -> None:
        for watch in tuple(self.watches):
            watch.end(self, terminated)

    def _tell_parent(self) -> None:
        parent, failure = self._parent, self._escalated
        if parent is not None:
            parent._child_ended(self)
        if failure is None:
            return
        if parent is None:
            self._home.give_up(failure)
        else:
            parent._post(replace(failure, actor_id=parent.actor_id, restarts=parent._restarts, cause=failure))

    def _child_ended(self, child: "AnyCell") -> None:
        self._children.remove(child)
        self._rest()


# Cells of all message types live side by side; nothing but the caller knows which type an id stands for.
AnyCell = Cell[Any]
