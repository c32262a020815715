"""An event loop for one simulated process: it runs only when it is turned, and its time is the simulation's.

To change it: what asyncio, the product and its tests' code ask of a loop, and nothing more. A process that is frozen is
a loop that nobody turns; one that is killed is a loop that nobody turns any more.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import Context
from itertools import count
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

HANDLES_A_TURN_MAX = 2_000_000
"""More callbacks than that without time passing are a loop that never rests: a bug, told as one."""


class NeverAtRest(AssertionError):
    """Some process runs on and on without waiting for anything."""


class SimLoop(asyncio.BaseEventLoop):
    """A loop whose time, threads and errors belong to the simulation.

    `now` returns the time in seconds; `at(when, callback)` has the simulation call back then; `thread(run)` has it run
    a function some moments later, as a thread would.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        at: Callable[[float, Callable[[], None]], None],
        thread: Callable[[Callable[[], None]], None],
        failed: Callable[[dict[str, Any]], None],
    ) -> None:
        self._due_now: deque[asyncio.Handle] = deque()
        super().__init__()
        self._due_now.clear()
        self._now = now
        self._at = at
        self._thread = thread
        self._failed = failed
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = count()
        self._factory: Any = None
        self.is_stopped = False
        self.after: Callable[[], None] | None = None
        self.countdown = 0
        """With `after`: so many more callbacks run before that is called, between two of them."""

    # --- turning -------------------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether something would run now."""
        return not self.is_stopped and bool(self._due_now)

    def turn(self) -> None:
        """Run what is ready, and what becomes ready by that, until the process is at rest or stopped."""
        with self._running():
            for _ in range(HANDLES_A_TURN_MAX):
                if self.is_stopped or not self._due_now:
                    return
                handle = self._due_now.popleft()
                if not handle.cancelled():
                    handle._run()
                if self.after is not None:
                    self._count_down()
        raise NeverAtRest("a process never comes to rest")

    def _count_down(self) -> None:
        self.countdown -= 1
        if self.countdown <= 0:
            after, self.after = self.after, None
            assert after is not None
            after()

    @contextmanager
    def _running(self) -> Iterator[None]:
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            yield
        finally:
            events._set_running_loop(before)

    def _ring(self) -> None:
        """Move the timers that are due to what is ready."""
        now = self._now()
        while self._timers and self._timers[0][0] <= now:
            _, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled():
                self._due_now.append(timer)

    def thaw(self) -> None:
        """Go on after a stop: what fell due meanwhile is late."""
        self.is_stopped = False
        self._ring()

    def unwind(self) -> None:
        """Cancel every task that is left and let it go, so that nothing of a dead process is left to the collector."""
        self.is_stopped, self.after = False, None
        tasks = asyncio.all_tasks(self)
        for _ in range(100):
            for task in sorted(tasks, key=lambda task: task.get_name()):
                task.cancel()
            self.turn()
            tasks = asyncio.all_tasks(self)
            if not tasks:
                return
            self._due_now.extend(timer for _, _, timer in self._timers)
            self._timers.clear()

    # --- asyncio's side ------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the simulation's time."""
        return self._now()

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Run the callback in this or the next turn."""
        handle = asyncio.Handle(callback, args, self, context)
        self._due_now.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Run the callback in this or the next turn: no thread of this process is another one."""
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run the callback after so many seconds."""
        return self.call_at(self._now() + max(0.0, delay), callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run the callback at that time."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        self._at(when, self._due)
        return timer

    def _due(self) -> None:
        if not self.is_stopped:
            self._ring()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: a cancelled timer is passed over when it falls due."""

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """Return a task of this loop, by its factory where one is set."""
        if self._factory is None:
            named = None if name is None else str(name)
            return asyncio.Task(coro, loop=self, name=named, context=context)
        task: asyncio.Task[T] = self._factory(self, coro, context=context)
        if name is not None:
            task.set_name(str(name))
        return task

    def set_task_factory(self, factory: Any) -> None:
        """Use the factory from now on."""
        self._factory = factory

    def get_task_factory(self) -> Any:
        """Return the factory, or `None`."""
        return self._factory

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run the function as a thread would: beside the loop, and some moments later."""
        done: asyncio.Future[T] = self.create_future()

        def run() -> None:
            if self.is_stopped or done.cancelled():
                return
            try:
                result = func(*args)
            except Exception as error:
                self.call_soon(settle, done, None, error)
            else:
                self.call_soon(settle, done, result, None)

        self._thread(run)
        return done

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Tell the simulation of an error that nobody handled."""
        self._failed(context)

    def get_debug(self) -> bool:
        """Return False."""
        return False

    def is_running(self) -> bool:
        """Return True: who asks runs on it."""
        return True

    def is_closed(self) -> bool:
        """Return False."""
        return False

    def __del__(self) -> None:
        """Nothing of the machine's was opened: there is nothing to close."""

    async def shutdown_asyncgens(self) -> None:
        """Do nothing: generators are closed where they are used."""


def settle(done: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    """Give the future its result, or its error where there is one; one that is done stays as it is."""
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
