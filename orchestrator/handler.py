"""Drives a user's coroutine: hands back what is recorded, runs what is new, tells its actor how that went.

Nothing here appends or decides. A step's function runs inside the handler's own task; an agent is an effect of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from actors import Clock
from orchestrator import user_code
from orchestrator.app import SessionType
from orchestrator.context import AgentCall, InvocationScope, SessionContext, StepCall, invocation_for, observe
from orchestrator.errors import (
    MESSAGE_LENGTH_MAX,
    NonDeterminismError,
    NonRetryable,
    NotSerializable,
    OperationTimedOut,
    describe,
    revive,
)
from orchestrator.payloads import InvalidPayload, PayloadTooLarge, PayloadType, copied, result_type_of, to_json
from orchestrator.replay import Turnstile
from orchestrator.session import messages as m
from orchestrator.session.frozen import quick
from orchestrator.session.state import Operation, SessionState
from orchestrator.session.transitions import OperationKind, Phase
from orchestrator.session.values import ErrorRecord, Json
from orchestrator.telemetry import frames_of, silent_while
from orchestrator.user_code import TimeLimit, belongs_to_runtime

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from structlog.typing import FilteringBoundLogger


HELD_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned."""

    result: Json


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler raised."""

    error: ErrorRecord


@dataclass(frozen=True, slots=True)
class Blocked:
    """The handler does not match its journal: the session is kept as it is until matching code comes."""

    error: ErrorRecord


Verdict: TypeAlias = Returned | Raised | Blocked


@quick
@dataclass(frozen=True, slots=True)
class HandlerPorts:
    """What a run needs of its surroundings. `tell` reaches its actor, `draw` returns a float from [0, 1)."""

    tell: Callable[[m.Message], None]
    block: Callable[[ErrorRecord], None]
    clock: Clock
    draw: Callable[[], float]
    threads: Executor
    payload_bytes_max: int
    log: FilteringBoundLogger


class HandlerRun:
    """One run of one session's handler, from its first line. The `Operations` of its context."""

    def __init__(self, state: SessionState, session_type: SessionType, ports: HandlerPorts) -> None:
        """Prepare to replay what `state` holds and to go on from there."""
        self._state = state
        self._session_type = session_type
        self._ports = ports
        self._turnstile = Turnstile(state.operations.values(), ports.clock, self._stalled)
        self._task: asyncio.Task[object] | None = None
        self._mismatch: NonDeterminismError | None = None

    @property
    def epoch(self) -> int:
        """See `Operations.epoch`."""
        return self._state.epoch

    @property
    def is_replaying(self) -> bool:
        """See `Operations.is_replaying`."""
        return self._turnstile.is_replaying

    def changed(self, operation: Operation) -> None:
        """Take an operation as the journal has it after a new event."""
        self._turnstile.changed(operation)

    async def run(self) -> Verdict:
        """Run the handler to its end and say how that was; raises nothing but cancellation."""
        self._task = asyncio.current_task()
        self._turnstile.begin(self._task, user_code.enter())
        observe(self._state.started_at)
        try:
            value = self._input()
            result = await self._session_type.start(self._context(), value)
            verdict: Verdict = Returned(
                self._session_type.result_type.dump(result, bytes_max=self._ports.payload_bytes_max)
            )
        except BaseException as error:
            # User code: whatever it raises is the session's end, recorded with its type.
            if belongs_to_runtime(error):
                raise
            record = describe(error)
            # The text stands in the journal; a log must hold no payload.
            self._ports.log.info("handler_raised", type=record.type, code=record.code, frames=frames_of(error))
            verdict = Raised(record)
        return self._corrected(verdict)

    def _input(self) -> object:
        try:
            return self._session_type.input_type.load(copied(self._state.started.input))
        except InvalidPayload as error:
            # It was checked when the session was accepted: the code has changed since.
            self._refuse(NonDeterminismError("an accepted input", f"another type of it ({error})"))
            raise

    def _corrected(self, verdict: Verdict) -> Verdict:
        """Return the verdict, unless the handler ran past a mismatch by catching our error or our cancellation."""
        unclaimed = self._turnstile.unclaimed()
        if self._mismatch is None and unclaimed is not None:
            self._mismatch = NonDeterminismError(_name(unclaimed), "nothing more: it ended")
        return verdict if self._mismatch is None else Blocked(describe(self._mismatch))

    def _context(self) -> SessionContext:
        return SessionContext(
            session_id=self._state.session_id,
            session_type=self._session_type.name,
            tenant=self._state.started.tenant,
            started_at=self._state.started_at,
            operations=self,
            make_logger=lambda: silent_while(self._ports.log, lambda: self.is_replaying),
        )

    async def step(self, operation: str, call: StepCall) -> object:
        """See `Operations.step`."""
        result_type = result_type_of(call.fn)
        known = await self._reach(operation, OperationKind.STEP)
        while known is None or not known.is_settled:
            attempt = 1 if known is None else known.attempt
            await self._wait_until(None if known is None else known.next_attempt_at)
            if call.semantics == "at_most_once":
                known = await self._report(operation, m.StepStarting(operation, attempt))
                if known.is_settled:
                    break
            known = await self._report(operation, await self._attempt(operation, attempt, call, result_type))
        outcome = self._outcome(known)
        try:
            return result_type.load(outcome, operation)
        except InvalidPayload as error:
            # What is recorded fitted when it was: the code has changed, and the session waits for code that fits.
            self._refuse(NonDeterminismError(f"a result of {_name(known)}", f"another type of it ({error})"))
            await self._hold_after_mismatch()
            raise

    async def invoke_agent(self, operation: str, call: AgentCall) -> Json:
        """See `Operations.invoke_agent`."""
        known = await self._reach(operation, OperationKind.AGENT)
        if known is None:
            known = await self._report(operation, self._agent_request(operation, call))
        while not known.is_settled:
            known = await self._turnstile.next_change(operation, after_seq=known.changed_seq)
        return self._outcome(known)

    async def progress(self, operation: str, message: str, percent: float | None, data: object) -> None:
        """See `Operations.progress`."""
        # Nothing hangs on people's events: one that is not recorded is not worth holding up a replay for.
        if self._turnstile.known(operation) is None and not self.is_replaying:
            await self._report(operation, self._progress(operation, message, percent, data))

    def _progress(self, operation: str, message: str, percent: float | None, data: object) -> m.ProgressMade:
        limit = self._ports.payload_bytes_max
        return m.ProgressMade(operation, message[:MESSAGE_LENGTH_MAX], percent, to_json(data, "data", bytes_max=limit))

    async def _reach(self, operation: str, kind: OperationKind) -> Operation | None:
        known = self._turnstile.known(operation)
        if known is not None and known.kind is not kind:
            self._refuse(NonDeterminismError(_name(known), f"{kind} {operation!r}"))
        await self._hold_after_mismatch()
        reached = await self._turnstile.reach(operation)
        await self._hold_after_mismatch()
        return reached

    async def _hold_after_mismatch(self) -> None:
        """Never return once the handler has left its journal: nothing that it does from there on may be recorded."""
        if self._mismatch is None:
            return
        assert self._task is not None, "an operation before the handler ran"
        if self._task.cancelling():
            # It swallowed its cancellation. Not at once, or a handler that swallows them all would spin.
            await self._ports.clock.sleep(HELD_SECONDS)
            raise asyncio.CancelledError
        await asyncio.get_running_loop().create_future()

    async def _report(self, operation: str, message: m.Message) -> Operation:
        """Tell the actor, and return the operation as the journal has it then."""
        await self._hold_after_mismatch()
        seen = self._turnstile.known(operation)
        self._ports.tell(message)
        return await self._turnstile.next_change(operation, after_seq=0 if seen is None else seen.changed_seq)

    async def _wait_until(self, instant: datetime | None) -> None:
        if instant is not None:
            await self._ports.clock.sleep(max(0.0, (instant - self._ports.clock.now()).total_seconds()))

    def _outcome(self, known: Operation) -> Json:
        observe(known.changed_at)
        if known.phase is Phase.FAILED:
            assert known.error is not None, f"{known.operation_id} failed without an error"
            raise revive(known.operation_id, known.kind, known.error)
        # The handler may change what it is given; what the state holds must stay as the journal has it.
        return copied(known.result)

    async def _attempt(
        self, operation: str, attempt: int, call: StepCall, result_type: PayloadType
    ) -> m.StepSucceeded | m.StepAttemptFailed:
        """Run the step's function once and say how it went."""

        def failed(error: ErrorRecord, *, is_retryable: bool) -> m.StepAttemptFailed:
            return m.StepAttemptFailed(operation, attempt, error, call.retry.spec, is_retryable, self._ports.draw())

        seconds = None if call.timeout is None else call.timeout.total_seconds()
        invocation = invocation_for(self._state.session_id, operation, attempt, self._ports.tell)
        limit = TimeLimit(self._ports.clock, seconds)
        try:
            async with limit:
                with InvocationScope(invocation):
                    result = await user_code.call(call.fn, call.args, call.kwargs, threads=self._ports.threads)
            return m.StepSucceeded(
                operation, attempt, result_type.dump(result, bytes_max=self._ports.payload_bytes_max)
            )
        except (NotSerializable, InvalidPayload, PayloadTooLarge, NonRetryable) as error:
            return failed(describe(error), is_retryable=False)
        except BaseException as error:
            # User code: what it raises is the attempt's outcome.
            if belongs_to_runtime(error):
                raise
            if limit.has_expired(error):
                return failed(timed_out(call.timeout), is_retryable=True)
            return failed(describe(error), is_retryable=True)

    def _agent_request(self, operation: str, call: AgentCall) -> m.AgentRequested:
        limit = self._ports.payload_bytes_max
        kwargs = to_json(dict(call.kwargs), "kwargs", bytes_max=limit // 2) if call.kwargs else None
        return m.AgentRequested(
            operation=operation,
            agent=call.agent,
            prompt=to_json(call.prompt, "prompt", bytes_max=limit),
            kwargs=kwargs if isinstance(kwargs, dict) else None,
            timeout=None if call.timeout is None else call.timeout.total_seconds(),
            retry=call.retry.spec,
        )

    def _stalled(self, recorded: Operation, asked: str) -> None:
        self._refuse(NonDeterminismError(_name(recorded), f"operation {asked!r}"))

    def _refuse(self, mismatch: NonDeterminismError) -> None:
        """Block the session: told to the actor, not raised, because the handler's own `except` must not hide it."""
        if self._mismatch is None:
            self._mismatch = mismatch
            self._ports.block(describe(mismatch))


def timed_out(timeout: object) -> ErrorRecord:
    """Return what the journal keeps of an attempt that was cut off at its timeout."""
    return ErrorRecord("OperationTimedOut", OperationTimedOut.code, f"no result within {timeout}")


def _name(operation: Operation) -> str:
    return f"{operation.kind} {operation.operation_id!r}"
