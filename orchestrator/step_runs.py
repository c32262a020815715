"""Runs the functions of a handler's steps, inside the handler's own tasks, and says how each attempt went.

Nothing here reports or records: that is the driver's. A stop of the session breaks off what runs here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from orchestrator.calls import RetryPolicy, StepCall
from orchestrator.errors import NonRetryable, NotSerializable, SessionCancelled, timed_out
from orchestrator.handler_ports import HandlerPorts
from orchestrator.invocation import InvocationScope, invocation_for
from orchestrator.payloads import InvalidPayload, PayloadTooLarge, PayloadType
from orchestrator.replay import Turnstile
from orchestrator.requests import Seal
from orchestrator.session import messages as m
from orchestrator.session.state import SessionState
from orchestrator.session.values import ErrorRecord
from orchestrator.user_code import TimeLimit, belongs_to_runtime

T = TypeVar("T")


class StepRuns:
    """The attempts at the steps of one run."""

    def __init__(
        self,
        state: SessionState,
        ports: HandlerPorts,
        turnstile: Turnstile,
        seal: Seal,
        described: Callable[[BaseException], ErrorRecord],
        show_work: Callable[[], None],
    ) -> None:
        """`described` tells what is kept of an error; `show_work` is called whenever a step begins or ends to run."""
        self._session_id = state.session_id
        self._trace = state.started.trace
        self._ports = ports
        self._turnstile = turnstile
        self._seal = seal
        self._described = described
        self._show_work = show_work

    async def pause(self, operation: str, until: datetime, retry: RetryPolicy) -> None:
        """Wait until the next attempt is due. Raises `SessionCancelled` when the session is to end meanwhile."""
        clock = self._ports.clock
        try:
            await self._breakably(operation, clock.sleep(retry.spec.left_until(until, clock.now())))
        except _BrokenOff:
            raise _cancelled() from None

    async def attempt(
        self, operation: str, attempt: int, call: StepCall, result_type: PayloadType
    ) -> m.StepSucceeded | m.StepAttemptFailed:
        """Run the step's function once and say how it went."""

        def failed(error: ErrorRecord, *, is_retryable: bool) -> m.StepAttemptFailed:
            return m.StepAttemptFailed(operation, attempt, error, call.retry.spec, is_retryable, self._ports.draw())

        self._ports.began(self._session_id, operation)
        tell, trace = self._ports.tell, self._trace
        invocation = invocation_for(self._session_id, operation, attempt, tell, session_trace=trace)
        # Most steps have no limit, and pay for none.
        limit = None if call.timeout is None else TimeLimit(self._ports.clock, call.timeout)

        async def unlimited() -> object:
            with InvocationScope(invocation):
                return await self._ports.call(call.fn, call.args, call.kwargs, threads=self._ports.threads)

        async def within(limit: TimeLimit) -> object:
            async with limit:
                return await unlimited()

        try:
            # The limit inside: one that runs out while the function winds up after a stop must not hide the stop.
            result = await self._breakably(operation, unlimited() if limit is None else within(limit))
            sealed = await self._seal(operation, lambda most: result_type.dump(result, bytes_max=most))
            return m.StepSucceeded(operation, attempt, sealed)
        except _BrokenOff:
            raise _cancelled() from None
        except (NotSerializable, InvalidPayload, PayloadTooLarge, NonRetryable) as error:
            return failed(self._described(error), is_retryable=False)
        except BaseException as error:
            # User code: what it raises is the attempt's outcome.
            if belongs_to_runtime(error):
                raise
            if limit is not None and limit.has_expired(error):
                return failed(timed_out(call.timeout or 0), is_retryable=True)
            return failed(self._described(error), is_retryable=True)

    async def _breakably(self, operation: str, work: Awaitable[T]) -> T:
        """Await what runs inside the handler's own tasks; a stop of the session breaks it off."""
        task = asyncio.current_task(self._turnstile.loop)
        assert task is not None, "an operation outside of any task"

        self._turnstile.breakable(operation, task)
        self._show_work()
        try:
            return await work
        finally:
            was_broken_off = self._turnstile.unbreakable(operation)
            self._show_work()
            # However the work took it, returning and raising included: the cancellation was not for the handler.
            if was_broken_off and task.uncancel() == 0:
                raise _BrokenOff from None


class _BrokenOff(Exception):
    """A stop of the session broke it off. Not `SessionCancelled`, which a step's function may raise by itself."""


def _cancelled() -> SessionCancelled:
    return SessionCancelled("the session is to end")
