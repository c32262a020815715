"""Runs a user's coroutine from its first line, and says how it ended: returned, raised, continued, or out of step.

What a session that fails or is cancelled has to undo runs here too, after the handler has ended.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from orchestrator import user_code
from orchestrator.app import SessionType
from orchestrator.calls import ContinueAsNew
from orchestrator.context import SessionContext, observe
from orchestrator.driver import Driver
from orchestrator.errors import NonDeterminismError, SessionCancelled, UnknownChange, describe
from orchestrator.handler_ports import HandlerPorts
from orchestrator.passages import Interruption
from orchestrator.payloads import InvalidPayload, to_json
from orchestrator.redaction import Redaction, redaction_of
from orchestrator.session import messages as m
from orchestrator.session.events import SessionStarted
from orchestrator.session.frozen import quick
from orchestrator.session.state import Operation, SessionState
from orchestrator.session.values import ErrorRecord, Json
from orchestrator.telemetry.logs import frames_of, silent_while
from orchestrator.telemetry.redacting import redacting
from orchestrator.user_code import belongs_to_runtime

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


@quick
@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned. `knew_of_stop`: it ended, and was undone, as a session that is to end wants."""

    result: Json
    knew_of_stop: bool = False

    @property
    def message(self) -> m.HandlerReturned:
        """What the session is told of it."""
        return m.HandlerReturned(self.result, self.knew_of_stop)


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler raised."""

    error: ErrorRecord
    knew_of_stop: bool = False

    @property
    def message(self) -> m.HandlerRaised:
        """What the session is told of it."""
        return m.HandlerRaised(self.error, self.knew_of_stop)


@dataclass(frozen=True, slots=True)
class Continued:
    """The handler wants to go on in a fresh journal, with that input."""

    input: Json
    knew_of_stop: bool = False

    @property
    def message(self) -> m.HandlerContinued:
        """What the session is told of it."""
        return m.HandlerContinued(self.input, self.knew_of_stop)


@dataclass(frozen=True, slots=True)
class Blocked:
    """The handler does not match its journal: the session is kept as it is until matching code comes."""

    error: ErrorRecord


Ended: TypeAlias = Returned | Raised | Continued
Verdict: TypeAlias = Ended | Blocked


async def unfit_code(started: SessionStarted, session_type: SessionType | None) -> Verdict:
    """Return the verdict on a session that this node's code cannot run; see `SessionType.lacks`."""
    if session_type is None:
        text = f"no session type {started.session_type!r} is declared by the code of this node"
        return Blocked(ErrorRecord("UnknownSessionType", "UNKNOWN_SESSION_TYPE", text))
    return Blocked(describe(UnknownChange(session_type.name, session_type.lacks(started.patches))))


class HandlerRun:
    """One run of one session's handler. `ended` is how the handler itself did; what it has to undo follows that."""

    def __init__(self, state: SessionState, session_type: SessionType, ports: HandlerPorts) -> None:
        """Prepare to replay what `state` holds and to go on from there."""
        self._state = state
        self._session_type = session_type
        self._ports = ports
        self._driver = Driver(state, session_type, ports)
        self._redaction: Redaction | None = None
        self.ended: Ended | None = None

    @property
    def only_waits(self) -> bool:
        """Whether the handler only waits, for operations that do not run in its own tasks."""
        return self._driver.only_waits

    @property
    def is_parked(self) -> bool:
        """Whether nothing but what comes from outside can make the handler go on: it may leave memory."""
        return self._driver.is_parked

    def under_way(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the operations that run inside the handler's own tasks, and those that it awaits."""
        return self._driver.under_way()

    @property
    def signals_awaited(self) -> tuple[str, ...]:
        """The operation ids of its open waits for signals."""
        return self._driver.signal_waits.operations

    @property
    def said(self) -> int:
        """How many messages the handler has sent to its actor."""
        return self._driver.said

    @property
    def unclaimed(self) -> Operation | None:
        """The first recorded operation that the handler has not asked for; `None` when it has for all."""
        return self._driver.unclaimed()

    def changed(self, operation: Operation) -> None:
        """Take an operation as the journal has it after a new event."""
        self._driver.changed(operation)

    def signal_arrived(self, name: str) -> None:
        """Let those who wait for a signal of that name ask again."""
        self._driver.signal_arrived(name)

    def considered(self, request: m.Request, state: SessionState) -> None:
        """Note that the actor has taken the request, which led to that state."""
        self._driver.considered(request, state)

    def stop(self, interruption: Interruption) -> None:
        """Let the handler hear, in its turn, that the session is to end."""
        self._driver.stop(interruption)

    def hold(self, *, is_held: bool) -> None:
        """Let the handler begin nothing new, or let it go on."""
        self._driver.hold(is_held=is_held)

    def leave(self) -> None:
        """Begin nothing any more: this run is about to be cut off, and its clean-up is not the session's."""
        self._driver.leave()

    async def run(self) -> Verdict:
        """Run the handler to its end and say how that was; raises nothing but cancellation.

        No operation outlives it: a branch that still awaits one is cancelled there, for two runs must not live at once.
        """
        try:
            return await self._verdict()
        finally:
            self._driver.close()

    async def _verdict(self) -> Verdict:
        self._driver.begin(asyncio.current_task(), user_code.enter())
        observe(self._state.started_at)
        ended = self.ended = await self._handled()
        if self._driver.is_forced:
            _take_back_cancellation()
        if self._driver.obstacle is None and (isinstance(ended, Raised) or self._driver.is_stopped):
            await self._driver.compensate()
        unclaimed = self._driver.unclaimed()
        if self._driver.obstacle is None and unclaimed is not None and not self._driver.is_forced:
            missed = f"{unclaimed.kind} {unclaimed.operation_id!r}"
            self._driver.refuse(NonDeterminismError(missed, "nothing more: it ended"))
        if self._driver.obstacle is not None:
            # It may have run past the obstacle by catching our cancellation: what it made of that counts for nothing.
            return Blocked(describe(self._driver.obstacle))
        return self._knowing(ended)

    def _knowing(self, ended: Ended) -> Ended:
        if not self._driver.is_stopped:
            return ended
        match ended:
            case Returned(result=result):
                return Returned(result, knew_of_stop=True)
            case Raised(error=error):
                return Raised(error, knew_of_stop=True)
            case Continued(input=payload):
                return Continued(payload, knew_of_stop=True)

    async def _handled(self) -> Ended:
        try:
            value = await self._input()
            result = await self._session_type.start(self._context(), value)
            dump = self._session_type.result_type.dump
            return Returned(await self._driver.sealed("result", lambda most: dump(result, bytes_max=most)))
        except BaseException as error:
            # User code: whatever it raises is the session's end, recorded with its type.
            if self._was_forced(error):
                return Raised(describe(SessionCancelled("the handler took too long to end")))
            if belongs_to_runtime(error):
                raise
            return await self._left(error)

    async def _left(self, error: BaseException) -> Ended:
        leaving = _leaving(error)
        if leaving is None:
            return self._raised(error)

        def dump(bytes_max: int) -> Json:
            payload = to_json(leaving.payload, "input", bytes_max=bytes_max)
            self._session_type.input_type.load(payload)
            return payload

        try:
            return Continued(await self._driver.sealed("continued", dump))
        except Exception as misfit:
            # The input is user code's: one that does not fit is its failure.
            return self._raised(misfit)

    def _raised(self, error: BaseException) -> Raised:
        record = self._driver.tokens.described(error)
        # The text stands in the journal; a log must hold no payload.
        self._ports.log.info("handler_raised", type=record.type, code=record.code, frames=frames_of(error))
        return Raised(record)

    def _was_forced(self, error: BaseException) -> bool:
        """Return whether the error is the cancellation by which the handler was ended, and take it back if so."""
        task = asyncio.current_task()
        if not self._driver.is_forced or task is None or not isinstance(error, asyncio.CancelledError):
            return False
        return task.uncancel() == 0

    async def _input(self) -> object:
        payload = await self._driver.opened(self._state.started.input)
        self._redaction = redaction_of(self._session_type.redact, payload)
        try:
            return self._session_type.input_type.load(payload)
        except InvalidPayload as error:
            # It was checked when the session was accepted: the code has changed since.
            self._driver.refuse(NonDeterminismError("an accepted input", f"another type of it ({error})"))
            raise

    def _context(self) -> SessionContext:
        return SessionContext(
            session_id=self._state.session_id,
            session_type=self._session_type.name,
            tenant=self._state.started.tenant,
            started_at=self._state.started_at,
            operations=self._driver,
            make_logger=self._logger,
        )

    def _logger(self) -> FilteringBoundLogger:
        log = self._ports.log if self._redaction is None else redacting(self._ports.log, self._redaction)
        return silent_while(log, lambda: self._driver.is_replaying)


def _take_back_cancellation() -> None:
    """Undo the cancellation by which the handler was ended, where it made something else of that."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        # The undo steps are not meant.
        task.uncancel()


def _leaving(error: BaseException) -> ContinueAsNew | None:
    """Return the request to continue that left the handler, maybe through its task groups; `None` for anything else."""
    if isinstance(error, ContinueAsNew):
        return error
    if isinstance(error, BaseExceptionGroup):
        found, _ = error.split(ContinueAsNew)
        if found is not None:
            first = found.exceptions[0]
            return _leaving(first)
    return None
