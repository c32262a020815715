"""`SessionContext`: what a handler may await. Its names and arguments are the contract's.

Each operation takes its id when it is called, in call order, so that asyncio's own `gather` and `TaskGroup` number them
as they stand in the code. What an operation does lies behind `Operations`, which the handler's driver implements.
"""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from datetime import datetime, timedelta
from functools import cached_property
from random import Random
from typing import Any, Never, TypeVar, overload

from structlog.typing import FilteringBoundLogger

from orchestrator.calls import (
    NO_RETRY,
    AgentCall,
    Approval,
    ApprovalCall,
    Callback,
    ChildCall,
    Content,
    ContinueAsNew,
    Duration,
    Operation,
    Operations,
    RetryPolicy,
    Semantics,
    StepCall,
    Undo,
    optional_seconds_of,
    seconds_of,
)
from orchestrator.invocation import check_progress
from orchestrator.passages import SUBMIT_SUFFIX
from orchestrator.scopes import NAME_LENGTH_MAX, Scope, current_scope, inside, parameters_wanted, reaches
from orchestrator.session.values import ID_SAYS, SESSION_TYPE_PATTERN, Json, is_valid_agent_name, is_valid_id

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - an item

UNDO_RETRY = RetryPolicy(max_attempts=5)
"""An undo step is tried more than once by itself: nobody is there any more to try it again."""

FILE_PREFIX = "artifact:"
FILE_NAME_LENGTH_MAX = NAME_LENGTH_MAX - len(FILE_PREFIX)

_observed_at: ContextVar[datetime | None] = ContextVar("orchestrator_observed_at", default=None)


def observe(instant: datetime) -> None:
    """Note that the running task of a handler has seen an outcome of that instant; `ctx.now()` returns the latest.

    Kept per task and its children, because which of two branches goes on first may differ on replay.
    """
    seen = _observed_at.get()
    if seen is None or instant > seen:
        _observed_at.set(instant)


class SessionContext:
    """A handler's only way to the world. Every awaited operation is journaled under its id and runs once."""

    def __init__(
        self,
        *,
        session_id: str,
        session_type: str,
        tenant: str,
        started_at: datetime,
        operations: Operations,
        make_logger: Callable[[], FilteringBoundLogger],
    ) -> None:
        """Made by the product, never by a handler."""
        self.session_id = session_id
        self.session_type = session_type
        self.tenant = tenant
        self._make_logger = make_logger
        self._started_at = started_at
        self._operations = operations
        self._names = Scope()
        self._draws: dict[str, Random] = {}

    @cached_property
    def logger(self) -> FilteringBoundLogger:
        """A logger bound to the session; it says nothing while the handler is replaying."""
        return self._make_logger()

    @property
    def epoch(self) -> int:
        """How often the session has changed hands: 1 for its first owner."""
        return self._operations.epoch

    @property
    def is_replaying(self) -> bool:
        """Whether the handler is going again through what the journal already holds."""
        return self._operations.is_replaying

    @overload
    def step(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]],
        *args: object,
        retry: RetryPolicy | None = None,
        timeout: Duration | None = None,
        semantics: Semantics = "at_least_once",
        **kwargs: object,
    ) -> Operation[T]: ...

    @overload
    def step(
        self,
        name: str,
        fn: Callable[..., T],
        *args: object,
        retry: RetryPolicy | None = None,
        timeout: Duration | None = None,
        semantics: Semantics = "at_least_once",
        **kwargs: object,
    ) -> Operation[T]: ...

    def step(
        self,
        name: str,
        fn: Callable[..., object],
        *args: object,
        retry: RetryPolicy | None = None,
        timeout: Duration | None = None,
        semantics: Semantics = "at_least_once",
        **kwargs: object,
    ) -> Operation[object]:
        """Run `fn(*args, **kwargs)` once and record its result; a sync function runs in a thread.

        Without a crash it runs once; a crash before its result is recorded runs it again, unless `semantics` is
        `at_most_once`: then it ends as `StepInterrupted`. Without `retry` it is tried once. `timeout` bounds each
        attempt (a thread cannot be stopped: a sync function that is late goes on, its result is dropped).
        The result is JSON, a dataclass or a pydantic model; models come back as such by `fn`'s return annotation.

        Raises:
            StepFailed: the last attempt raised. OperationTimedOut: it took too long.
            StepInterrupted: an `at_most_once` step's node died while it ran.
        """
        if semantics not in {"at_least_once", "at_most_once"}:
            raise ValueError(f"semantics: {semantics!r} is neither 'at_least_once' nor 'at_most_once'")
        call = StepCall(fn, args, kwargs, retry or NO_RETRY, optional_seconds_of(timeout, "timeout"), semantics)
        return self._operations.step(self._operation_id(name), call)

    def invoke_agent(
        self,
        agent: str,
        prompt: object,
        *,
        name: str | None = None,
        timeout: Duration | None = None,
        retry: RetryPolicy | None = None,
        **kwargs: object,
    ) -> Operation[Json]:
        """Run a registered agent in a background task; its start, result and token usage are recorded.

        The operation's name is the agent's unless `name` is given. `prompt` and `kwargs` must be JSON (or models):
        they are journaled, so that any node can run the agent. `timeout` bounds each attempt, across restarts.

        Raises:
            AgentFailed: the last attempt raised, or no such agent is registered. OperationTimedOut: it took too long.
        """
        if not is_valid_agent_name(agent):
            raise ValueError(f"agent: {agent!r:.100} is no name of an agent (1 to 128 printable characters)")
        call = AgentCall(agent, prompt, kwargs, retry or NO_RETRY, optional_seconds_of(timeout, "timeout"))
        return self._operations.invoke_agent(self._operation_id(name or agent), call)

    def sleep(self, duration: Duration, *, name: str = "sleep") -> Operation[None]:
        """Wait that long; milliseconds or months, and across restarts. Raises `ValueError` for no duration."""
        seconds = seconds_of(duration, "duration", allow_zero=True)
        return self._operations.sleep(self._operation_id(name), seconds)

    def create_callback(self, name: str, *, timeout: Duration | None = None) -> Operation[Callback]:
        """Create a promise that is completed from outside: hand out its `url` and `token`, then await `result()`."""
        return self._operations.create_callback(self._operation_id(name), optional_seconds_of(timeout, "timeout"))

    def wait_for_callback(
        self, name: str, submit: Callable[[Callback], object], *, timeout: Duration | None = None
    ) -> Operation[Json]:
        """Create a callback, run `submit(callback)` as a step, and wait for the answer.

        Raises:
            StepFailed: `submit` raised. CallbackFailed: the answer is a failure. OperationTimedOut: none came in time.
        """
        operation, seconds = self._operation_id(name), optional_seconds_of(timeout, "timeout")
        return self._submit_and_wait(operation, submit, seconds)

    def request_approval(
        self,
        name: str,
        subject: object = None,
        *,
        timeout: Duration | None = None,
        approvers: Sequence[str] | None = None,
    ) -> Operation[Approval]:
        """Ask a person to say yes or no to `subject`: one of `approvers`, or anybody.

        Raises:
            ApprovalTimedOut: nobody answered in time.
        """
        if approvers is not None and (isinstance(approvers, str) or not approvers):
            raise ValueError(f"approvers: {approvers!r:.100} is not a list of names")
        names = None if approvers is None else tuple(approvers)
        call = ApprovalCall(subject, names, optional_seconds_of(timeout, "timeout"))
        return self._operations.request_approval(self._operation_id(name), call)

    def wait_for_signal(self, name: str, timeout: Duration | None = None) -> Operation[Json]:
        """Return the data of the next signal of that name that nobody took yet, in the order of their arrival.

        Raises:
            OperationTimedOut: none came in time.
        """
        seconds = optional_seconds_of(timeout, "timeout")
        return self._operations.wait_for_signal(self._operation_id(name), name, seconds)

    def run_session(
        self,
        session_type: str,
        input: object = None,  # noqa: A002 - as the contract names it
        *,
        name: str | None = None,
        key: str | None = None,
    ) -> Operation[Json]:
        """Start a session with a journal of its own, and wait for its result; it is cancelled with this one.

        The operation's name is the session type unless `name` is given. `key` is an idempotency key: the same one
        gives the same child session.

        Raises:
            ChildSessionFailed: it ended without a result.
        """
        if SESSION_TYPE_PATTERN.fullmatch(session_type) is None:
            raise ValueError(f"session_type: {session_type!r:.100} is no session type (1 to 64 of A-Z a-z 0-9 _ . -)")
        call = ChildCall(session_type, input, key)
        return self._operations.run_session(self._operation_id(name or session_type), call)

    async def gather(self, *operations: Awaitable[T]) -> list[T]:
        """Await all at once; return their results in the order given. The first to fail cancels the others."""

        async def result_of(operation: Awaitable[T]) -> T:
            return await operation

        try:
            async with asyncio.TaskGroup() as branches:
                tasks = [branches.create_task(result_of(operation)) for operation in operations]
        except BaseExceptionGroup as failures:
            raise _first_of(failures) from None
        return [task.result() for task in tasks]

    @overload
    def map(
        self, name: str, fn: Callable[..., Awaitable[T]], items: Iterable[I], max_concurrency: int | None = None
    ) -> Operation[list[T]]: ...

    @overload
    def map(
        self, name: str, fn: Callable[..., T], items: Iterable[I], max_concurrency: int | None = None
    ) -> Operation[list[T]]: ...

    def map(
        self, name: str, fn: Callable[..., object], items: Iterable[I], max_concurrency: int | None = None
    ) -> Operation[object]:
        """Do the same for each item at once, at most `max_concurrency` at a time; return the results in order.

        `fn(item)` runs as a step. If it uses this context, or is `fn(ctx, item)`, it composes operations instead: each
        item's have a scope of names of their own. The first to fail cancels the others.
        """
        if max_concurrency is not None and max_concurrency < 1:
            raise ValueError(f"max_concurrency: {max_concurrency} is not at least 1")
        branches = [(self._operation_id(name), item) for item in items]
        return self._mapped(fn, branches, max_concurrency)

    @overload
    def scope(self, name: str, fn: Callable[..., Awaitable[T]]) -> Operation[T]: ...

    @overload
    def scope(self, name: str, fn: Callable[..., T]) -> Operation[T]: ...

    def scope(self, name: str, fn: Callable[..., Any]) -> Operation[Any]:
        """Call `fn()`, or `fn(ctx)`, with a scope of operation names of its own: `name/…`."""
        return self._scoped(self._operation_id(name), fn, ())

    def on_failure(self, name: str, fn: Callable[..., object], *args: object) -> None:
        """Register an undo step: if the session fails or is cancelled, those registered run in reverse order."""
        self._operations.on_failure(Undo(self._operation_id(name), fn, args))

    def continue_as_new(self, input: object = None) -> Never:  # noqa: A002 - as the contract names it
        """End this journal; the session goes on from the start of its handler, with that input and its own id."""
        raise ContinueAsNew(input)

    def patched(self, change_id: str) -> bool:
        """Return whether this session takes the new side of a change in its handler's code.

        True for sessions that started after the change shipped, false for those before, on every replay alike.
        """
        if not is_valid_id(change_id):
            raise ValueError(f"change_id: {change_id!r:.150} is not {ID_SAYS}")
        return self._operations.patched(change_id)

    @cached_property
    def artifacts(self) -> ContextArtifacts:
        """The session's own files in the bucket."""
        return ContextArtifacts(self)

    def progress(self, message: str, percent: float | None = None, data: object = None) -> Operation[None]:
        """Tell people how far the session is (`percent` 0..100); recorded once, nothing depends on it."""
        check_progress(message, percent)
        return self._operations.progress(self._operation_id("progress"), message, percent, data)

    def now(self) -> datetime:
        """Return the time (UTC) of the latest outcome this branch has seen: the same on replay, as no clock is."""
        return _observed_at.get() or self._started_at

    def uuid4(self) -> uuid.UUID:
        """Return a random-looking UUID that is the same on replay; unique, but no secret."""
        return uuid.UUID(int=self._draw("uuid").getrandbits(128), version=4)

    def random(self) -> float:
        """Return a float from [0, 1) that is the same on replay; no secret."""
        return self._draw("random").random()

    def _draw(self, purpose: str) -> Random:
        """Return the session's generator for a purpose, seeded by the session id: repeatable, and no secret."""
        generator = self._draws.get(purpose)
        if generator is None:
            generator = self._draws[purpose] = Random(f"{purpose}:{self.session_id}")
        return generator

    def _operation_id(self, name: str) -> str:
        """Return `name`, or `name#2`, `name#3` … for its later uses in the scope, in call order."""
        return (current_scope() or self._names).next_id(name)

    async def _submit_and_wait(
        self, operation: str, submit: Callable[[Callback], object], timeout: float | None
    ) -> Json:
        callback = await self._operations.create_callback(operation, timeout)
        call = StepCall(submit, (callback,), {}, NO_RETRY, None, "at_least_once")
        await self._operations.step(operation + SUBMIT_SUFFIX, call)
        return await callback.result()

    async def _mapped(
        self, fn: Callable[..., object], branches: Sequence[tuple[str, I]], max_concurrency: int | None
    ) -> list[object]:
        limit = nullcontext() if max_concurrency is None else asyncio.Semaphore(max_concurrency)
        composes = parameters_wanted(fn) > 1 or reaches(fn, self)

        async def branch(operation: str, item: I) -> object:
            async with limit:
                if composes:
                    return await self._scoped(operation, fn, (item,))
                call = StepCall(fn, (item,), {}, NO_RETRY, None, "at_least_once")
                return await self._operations.step(operation, call)

        return await self.gather(*(branch(operation, item) for operation, item in branches))

    async def _scoped(self, operation: str, fn: Callable[..., object], args: tuple[object, ...]) -> object:
        given = (self, *args) if parameters_wanted(fn) > len(args) else args
        with inside(Scope(f"{operation}/")):
            result = fn(*given)
            if inspect.isawaitable(result):
                return await result
            return result


class ContextArtifacts:
    """A session's own files. What `put` returns is a small JSON reference: keep that in results, not the content."""

    def __init__(self, context: SessionContext) -> None:
        """Made by the context."""
        self._context = context

    def put(self, name: str, data: Content) -> Operation[Json]:
        """Store `data` under `name` and return its reference, once. Raises `ValueError` for no name."""
        if not is_valid_id(name) or len(name) > FILE_NAME_LENGTH_MAX or not name.strip("."):
            says = f"1 to {FILE_NAME_LENGTH_MAX} of A-Z a-z 0-9 _ . : -"
            raise ValueError(f"name: {name!r:.150} is no name of a file ({says})")
        artifacts, session_id = self._context._operations.artifacts, self._context.session_id

        async def store() -> Json:
            return await artifacts.put(session_id, name, data)

        return self._context.step(f"{FILE_PREFIX}{name}", store)

    async def get(self, reference: Json) -> bytes:
        """Return the content.

        Raises:
            ArtifactMissing: it is gone. ArtifactAltered: it is not what was put.
        """
        return await self._context._operations.artifacts.get(reference)

    async def presigned_url(self, reference: Json, *, expires: Duration) -> str:
        """Return an address that anybody may read it at for that long (1 second to 7 days); a new one at each call."""
        lasts = timedelta(seconds=seconds_of(expires, "expires"))
        return await self._context._operations.artifacts.presigned_url(reference, expires=lasts)


def _first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
