"""The border to user code: what comes out of it is an outcome, whatever it is; what belongs to the runtime passes.

Called around handlers, steps and agents, and nowhere else. This is one of the two places of a broad `except`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextvars import copy_context
from functools import partial


def belongs_to_runtime(error: BaseException) -> bool:
    """Return whether the error is our own cancellation of the running task, or its coroutine being closed.

    A `CancelledError` that nobody asked of this task is user code's own: a library's cancelled task was awaited, say.
    """
    if isinstance(error, GeneratorExit):
        return True
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling() > 0)


def is_async(fn: Callable[..., object]) -> bool:
    """Return whether calling it gives a coroutine: async functions, partials of them, objects with an async call."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


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


def _in_thread(fn: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    try:
        return fn(*args, **kwargs)
    except StopIteration as error:
        # No future can hold a StopIteration (PEP 479): unchanged, it would leave the caller waiting for ever.
        raise RuntimeError(f"{fn!r} raised StopIteration") from error
