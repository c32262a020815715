"""The border to user code: what comes out of it is an outcome, whatever it is; what belongs to the runtime passes.

Called around handlers, steps and agents, and nowhere else. This is one of the two places of a broad `except`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import partial
from types import FunctionType, TracebackType
from typing import Protocol, Self, TypeAlias, TypeVar

from actors import Cancellable, Clock
from orchestrator.errors import OrchestratorError

T = TypeVar("T")


def belongs_to_runtime(error: BaseException) -> bool:
    """Return whether the error is our own cancellation of the running task, or its coroutine being closed.

    A `CancelledError` that nobody asked of this task is user code's own: a library's cancelled task was awaited, say.
    """
    if isinstance(error, GeneratorExit):
        return True
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling() > 0)


class UserCodeExit(OrchestratorError):
    """User code asked the process to end (`sys.exit()`, `KeyboardInterrupt`) in a task of its own."""

    code = "USER_CODE_EXIT"


Branches: TypeAlias = "set[asyncio.Task[object]]"
"""The living tasks that one piece of user code started."""

_branches: ContextVar[Branches | None] = ContextVar("orchestrator_user_code", default=None)


def enter() -> Branches:
    """Note that what the running task does from here on, and the tasks that it starts, is user code; return those."""
    loop = asyncio.get_running_loop()
    if loop.get_task_factory() is None:
        contain_exits(loop)
    branches: Branches = set()
    _branches.set(branches)
    return branches


def contain_exits(loop: asyncio.AbstractEventLoop) -> None:
    """Let no task of user code end the process: asyncio passes `SystemExit` of any task on through the loop."""

    def make_task(
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[object, object, T] | Generator[object, None, T],
        *,
        context: Context | None = None,
        **options: str | None,
    ) -> asyncio.Task[T]:
        branches = _branches.get() if context is None else context.get(_branches)
        if branches is None:
            return asyncio.Task(work, loop=loop, context=context, **options)  # type: ignore[arg-type]
        contained = _contained(work) if asyncio.iscoroutine(work) else work
        task = asyncio.Task(contained, loop=loop, context=context, **options)  # type: ignore[arg-type]
        branches.add(task)
        task.add_done_callback(branches.discard)
        if asyncio.iscoroutine(work):
            # Cancelled before its first turn, the task never gets to what it contains.
            task.add_done_callback(lambda _: work.close())
        return task

    loop.set_task_factory(make_task)


async def _contained(work: Coroutine[object, object, T]) -> T:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise UserCodeExit(f"{type(error).__name__}: {error}") from error


class TimeLimit:
    """An `async with` block that is cancelled after so many seconds of a `Clock`, and raises `TimeoutError` then.

    `asyncio.timeout` counts by the loop; this counts by the clock that everything else waits by.
    """

    def __init__(self, clock: Clock, seconds: float | None) -> None:
        """Limit the block to `seconds`; `None` for no limit."""
        self._clock = clock
        self._seconds = seconds
        self._limit = None if seconds is None else asyncio.timeout(None)
        self._timer: Cancellable | None = None
        self.has_rung = False
        """Whether the time is up: what the block is cancelled by, if it is being cancelled."""

    async def __aenter__(self) -> Self:
        """Start the time."""
        if self._limit is not None and self._seconds is not None:
            await self._limit.__aenter__()
            self._timer = self._clock.call_later(self._seconds, self._expire)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the time; turns the cancellation that it set off into `TimeoutError`."""
        if self._timer is not None:
            self._timer.cancel()
        if self._limit is not None:
            await self._limit.__aexit__(kind, error, trace)

    def lift(self) -> None:
        """Let the block take as long as it likes from now on."""
        if self._timer is not None:
            self._timer.cancel()

    def has_expired(self, error: BaseException) -> bool:
        """Return whether that error is this limit's own."""
        return self._limit is not None and isinstance(error, TimeoutError) and self._limit.expired()

    def _expire(self) -> None:
        assert self._limit is not None, "a limit that was never set expired"
        self.has_rung = True
        self._limit.reschedule(asyncio.get_running_loop().time())


def is_async(fn: Callable[..., object]) -> bool:
    """Return whether calling it gives a coroutine: async functions, partials of them, objects with an async call."""
    if type(fn) is FunctionType and fn.__code__.co_flags & inspect.CO_COROUTINE:
        # Most steps, and a tenth of the price of asking.
        return True
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


class Caller(Protocol):
    """What runs a step's function: `call`, or something that stands in for it."""

    def __call__(
        self, fn: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object], *, threads: Executor
    ) -> Coroutine[object, object, object]:
        """Return what `fn` returns."""
        ...


async def call(
    fn: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object], *, threads: Executor
) -> object:
    """Return what `fn` returns; a sync function runs in a thread, with the caller's context variables."""
    if is_async(fn):
        result = fn(*args, **kwargs)
    else:
        bound = partial(copy_context().run, _in_thread, fn, args, kwargs)
        result = await asyncio.get_running_loop().run_in_executor(threads, bound)
    return await result if inspect.isawaitable(result) else result


@contextmanager
def step_threads(threads_max: int) -> Iterator[ThreadPoolExecutor]:
    """Yield the threads of sync steps and agents; one that never returns is left behind, not waited for."""
    threads = ThreadPoolExecutor(threads_max, thread_name_prefix="step")
    try:
        yield threads
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _in_thread(fn: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    try:
        return fn(*args, **kwargs)
    except StopIteration as error:
        # No future can hold a StopIteration (PEP 479): unchanged, it would leave the caller waiting for ever.
        raise RuntimeError(f"{fn!r} raised StopIteration") from error
