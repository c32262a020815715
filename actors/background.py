"""Work that an actor started and does not wait for: its outcome comes back, and a signal says whether there is any.

To change it: `on_done` is called exactly once per start, whatever happens to the work; the busy signal covers all of
it, `on_done` included.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Generic, Protocol, TypeVar

import structlog
from structlog.typing import FilteringBoundLogger

from actors.clock import Clock
from actors.errors import ActorStopped
from actors.signals import Signal

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

CANCEL_GRACE_SECONDS = 5.0
NAME_CHARS_MAX = 1024

log: FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Succeeded(Generic[T_co]):
    """The work returned `value`."""

    value: T_co


@dataclass(frozen=True, slots=True)
class Failed:
    """The work raised `error`."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The work was cancelled, perhaps before it began."""


Outcome = Succeeded[T] | Failed | Cancelled


class BusySignal:
    """Counts work in flight and tells when that goes from none to some and back."""

    __slots__ = ("_active", "_changed_at", "_clock", "_subscribers")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._active = 0
        self._changed_at = clock.now()
        self._subscribers: dict[object, Callable[[bool], None]] = {}

    @property
    def active(self) -> int:
        """How much work is in flight."""
        return self._active

    @property
    def is_busy(self) -> bool:
        """Whether any work is in flight."""
        return self._active > 0

    @property
    def changed_at(self) -> datetime:
        """When `is_busy` last flipped (aware, UTC); at first, when this was made."""
        return self._changed_at

    def subscribe(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call `callback(is_busy)` on every flip from now on. Return what ends that (idempotent)."""
        key = object()
        self._subscribers[key] = callback
        return lambda: self._subscribers.pop(key, None) and None

    @contextmanager
    def track(self) -> Iterator[None]:
        """Count as busy while the block runs."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        """Count one more; pair it with `end`."""
        self._active += 1
        if self._active == 1:
            self._flip()

    def end(self) -> None:
        """Count one less."""
        assert self._active > 0, "end without begin"
        self._active -= 1
        if self._active == 0:
            self._flip()

    def _flip(self) -> None:
        self._changed_at = self._clock.now()
        is_busy = self.is_busy
        for callback in tuple(self._subscribers.values()):
            try:
                callback(is_busy)
            except Exception as error:
                # A listener's bug is not the worker's: the work goes on, and so do the other listeners.
                log.error("busy_subscriber_failed", exc_info=error)


class BackgroundTask:
    """A handle on work in flight."""

    __slots__ = ("_cancel", "counts_as_busy", "name", "started_at")

    def __init__(self, name: str, started_at: datetime, cancel: Callable[[], object], counts_as_busy: bool) -> None:
        self.name = name
        self.started_at = started_at
        self.counts_as_busy = counts_as_busy
        self._cancel: Callable[[], object] | None = cancel

    def cancel(self) -> None:
        """Cancel the work; nothing if that was asked before or it has ended.

        Only once, because a second cancel would break off the clean-up that the first one set off.
        """
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            cancel()


class BackgroundOwner(Protocol):
    """Who is told about a `Background`."""

    def background_idle(self) -> None:
        """Hear that the last work in flight ended."""

    def background_failed(self, error: BaseException) -> None:
        """Hear that an `on_done` raised `error`."""


class Background:
    """The work in flight of one owner. Its tasks belong to `task_group`, so none outlives that."""

    __slots__ = ("_busy", "_clock", "_closed", "_ended", "_owner", "_task_group", "_tasks")

    def __init__(
        self, task_group: asyncio.TaskGroup, busy: BusySignal, clock: Clock, *, owner: BackgroundOwner | None = None
    ) -> None:
        self._task_group = task_group
        self._busy = busy
        self._clock = clock
        self._owner = owner
        self._tasks: dict[BackgroundTask, None] = {}
        self._ended = Signal()
        self._closed = False

    def __len__(self) -> int:
        """Return how much work is in flight."""
        return len(self._tasks)

    def names(self) -> tuple[str, ...]:
        """Return the names of the work in flight, oldest first."""
        return tuple(task.name for task in self._tasks)

    def start(
        self,
        name: str,
        work: Coroutine[object, object, T],
        on_done: Callable[[Outcome[T]], None],
        *,
        counts_as_busy: bool = True,
        on_cancel: Callable[[], None] | None = None,
    ) -> BackgroundTask:
        """Run `work`, and call `on_done` with its outcome exactly once, in the loop, also when it is cancelled.

        Work that does not count as busy is tracked and awaited all the same. `on_cancel` is called before the work is
        cancelled: its own clean-up, which comes first of all, cannot tell why it is. Raises ActorStopped when the owner
        has stopped, or the task group takes no more; `work` is closed then.
        """
        assert 0 < len(name) <= NAME_CHARS_MAX, "a name is 1 to NAME_CHARS_MAX characters"
        task = self._create(name, work)
        cancel = task.cancel if on_cancel is None else partial(_cancel, task, on_cancel)
        handle = BackgroundTask(name, self._clock.now(), cancel, counts_as_busy)
        self._tasks[handle] = None
        if counts_as_busy:
            self._busy.begin()
        task.add_done_callback(partial(self._finish, handle, work, on_done))
        return handle

    def count(self, handle: BackgroundTask, *, as_busy: bool) -> None:
        """Let work in flight count as busy from now on, or not: nothing changes for work that has ended."""
        if handle not in self._tasks or handle.counts_as_busy == as_busy:
            return
        handle.counts_as_busy = as_busy
        if as_busy:
            self._busy.begin()
        else:
            self._busy.end()

    async def cancel_all(self) -> tuple[str, ...]:
        """Cancel what is in flight, wait for it, and return the names of what would not end: () if all did.

        Idempotent. Work that ignores its cancellation is waited for CANCEL_GRACE_SECONDS and logged.
        """
        if not self._tasks:
            return ()
        cancelled = tuple(self._tasks)
        for handle in cancelled:
            handle.cancel()
        in_time = await self._ended.until(
            lambda: self._tasks.keys().isdisjoint(cancelled), self._clock, CANCEL_GRACE_SECONDS
        )
        if in_time:
            return ()
        stuck = tuple(handle.name for handle in cancelled if handle in self._tasks)
        log.error("background_ignored_cancellation", names=stuck, waited_seconds=CANCEL_GRACE_SECONDS)
        return stuck

    async def idle(self) -> None:
        """Return when nothing is in flight."""
        await self._ended.until(lambda: not self._tasks)

    def close(self) -> None:
        """Start nothing any more; what is in flight goes on."""
        self._closed = True

    def disown(self) -> None:
        """Tell the owner nothing any more: it has ended, and what still is in flight ignored its cancellation."""
        self._owner = None

    def _create(self, name: str, work: Coroutine[object, object, T]) -> asyncio.Task[Outcome[T]]:
        if self._closed:
            work.close()
            raise ActorStopped(f"no background work {name!r}: its actor is stopping")
        guarded = _outcome_of(work)
        try:
            return self._task_group.create_task(guarded, name=name)
        except RuntimeError as error:
            guarded.close()
            work.close()
            raise ActorStopped(f"no background work {name!r}: the task group is shutting down") from error

    def _finish(
        self,
        handle: BackgroundTask,
        work: Coroutine[object, object, T],
        on_done: Callable[[Outcome[T]], None],
        task: asyncio.Task[Outcome[T]],
    ) -> None:
        # A done callback, not a `finally` in the task: a task that is cancelled before its first step never runs.
        work.close()
        try:
            on_done(_outcome(task))
        except Exception as error:
            self._report(handle, error)
        finally:
            del self._tasks[handle]
            if handle.counts_as_busy:
                self._busy.end()
            self._ended.fire()
            if not self._tasks and self._owner is not None:
                self._owner.background_idle()

    def _report(self, handle: BackgroundTask, error: Exception) -> None:
        log.error("background_on_done_failed", name=handle.name, exc_info=error)
        if self._owner is not None:
            self._owner.background_failed(error)


def _cancel(task: asyncio.Task[Outcome[T]], on_cancel: Callable[[], None]) -> None:
    on_cancel()
    task.cancel()


async def _outcome_of(work: Coroutine[object, object, T]) -> Outcome[T]:
    try:
        return Succeeded(await work)
    except (Exception, GeneratorExit) as error:
        # A GeneratorExit that reaches the top of a running task was raised by the work itself.
        return Failed(error)


def _outcome(task: asyncio.Task[Outcome[T]]) -> Outcome[T]:
    if task.cancelled():
        return Cancelled()
    error = task.exception()
    return Failed(error) if error is not None else task.result()
