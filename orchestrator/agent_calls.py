"""The calls of one agent run: recorded as they end, found again by a later run, and parked while somebody must answer.

The session's actor records; nothing here appends or decides. A call whose recording is refused never returns: its run
is being cancelled, because the session is to end or the run has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol, TypeAlias

from actors import Clock
from actors.signals import Signal
from orchestrator.agents.usage import counts_in
from orchestrator.answers import approval_of
from orchestrator.artifacts import ARTIFACT_BYTES_MAX
from orchestrator.artifacts.payloads import PayloadStore, payload_key
from orchestrator.budgets import Price, priced
from orchestrator.callbacks import Callbacks, approval_id_of, callback_id_of, expiry_of, issued_with
from orchestrator.calls import Approval
from orchestrator.errors import StepInterrupted, describe, revive
from orchestrator.invocation import CallFunction, CallInDoubt, Ticket
from orchestrator.payloads import copied, to_json
from orchestrator.scopes import NAME_LENGTH_MAX
from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.budget import reached
from orchestrator.session.owed import EffectKey
from orchestrator.session.state import Operation, SessionState
from orchestrator.session.transitions import Phase
from orchestrator.session.values import Json
from orchestrator.user_code import belongs_to_runtime

_NAME_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:#-")

_NONE: Final[frozenset[str]] = frozenset()
_enclosing: ContextVar[frozenset[str]] = ContextVar("orchestrator_enclosing_calls", default=_NONE)
"""The calls that this code is made within: an agent that is the tool of another makes calls inside a call."""

_Recordable: TypeAlias = m.CallStarting | m.CallEnded | m.ApprovalAsked | m.CallbackRequested


class AgentHost(Protocol):
    """The session's actor, as one agent run of it sees it."""

    def state(self) -> SessionState:
        """Return the session as it is now."""
        ...

    def tell(self, message: m.Message) -> None:
        """Tell the session something, without waiting."""
        ...

    async def record(self, message: m.Message) -> None:
        """Return when the session has taken the message, and what it changed is durable."""
        ...

    def begun(self) -> Collection[EffectKey]:
        """Return the session's agent runs that were let begin on this node and have no outcome yet."""
        ...

    def begin(self) -> None:
        """Note that the run was let begin."""
        ...

    def is_owed(self) -> bool:
        """Return whether the session still waits for this run's outcome."""
        ...

    def park(self) -> None:
        """Cancel the run; it starts anew when one of its questions is answered."""
        ...


@dataclass(frozen=True, slots=True)
class CallStores:
    """What recorded calls are kept in besides the journal. `callback_url` returns the address of a callback."""

    payloads: PayloadStore
    callbacks: Callbacks
    clock: Clock
    new_token: Callable[[], str]
    callback_url: Callable[[str], str]


class RecordedCalls:
    """The `Calls` of one agent run. `seconds_left` returns what the attempt has by then, `None` for no limit."""

    def __init__(
        self,
        agent_run: str,
        host: AgentHost,
        stores: CallStores,
        seconds_left: Callable[[], float | None],
        price: Price | None = None,
    ) -> None:
        self._price = price
        self._made_now: set[str] = set()
        self._waiting: list[frozenset[str]] = []
        self._call_ended = Signal()
        self._agent_run = agent_run
        self._host = host
        self._stores = stores
        self._seconds_left = seconds_left

    async def run(self, name: str, fn: CallFunction, *, at_most_once: bool = False) -> Json:
        """See `Calls.run`."""
        operation = self._operation_id(name)
        known = self._known(operation)
        if known is None or not known.is_settled:
            await self._may_spend()
            with self._making(operation):
                if at_most_once:
                    known = await self._recorded(m.CallStarting(operation, self._agent_run))
                if known is None or not known.is_settled:
                    return await self._made(operation, fn, at_most_once=at_most_once)
        if known.phase is Phase.FAILED:
            assert known.error is not None, f"{operation} failed without an error"
            if known.error.code == StepInterrupted.code:
                raise CallInDoubt(f"{operation}: {known.error.message}")
            raise revive(operation, known.kind, known.error)
        return copied(await self._stores.payloads.open(known.result))

    async def ask(
        self, name: str, subject: Json, *, approvers: tuple[str, ...] | None = None, timeout: float | None = None
    ) -> Approval:
        """See `Calls.ask`."""
        operation = self._operation_id(name)
        if self._known(operation) is None:
            await self._recorded(
                m.ApprovalAsked(
                    operation=operation,
                    callback_id=approval_id_of(self._session_id, operation),
                    subject=await self._sealed(operation, subject, "subject"),
                    approvers=None if approvers is None else [*approvers],
                    timeout=self._within(timeout),
                    agent_run=self._agent_run,
                )
            )
        return approval_of(await self._answered(operation))

    async def callback(self, name: str, *, timeout: float | None = None) -> Ticket:
        """See `Calls.callback`."""
        operation = self._operation_id(name)
        callback_id = callback_id_of(self._session_id, operation)
        known = self._known(operation)
        if known is None:
            within = self._within(timeout)
            known = await self._recorded(m.CallbackRequested(operation, callback_id, within, agent_run=self._agent_run))
        order = known.order
        assert isinstance(order, e.CallbackCreated), f"{operation} is a callback without its order"
        token = self._stores.new_token()
        issued = issued_with(token, callback_id, self._session_id, operation, order.times_out_at)
        await self._stores.callbacks.issue(issued, expires_at=expiry_of(self._stores.clock.now()))
        return Ticket(callback_id, self._stores.callback_url(callback_id), token)

    async def answer(self, name: str) -> Json:
        """See `Calls.answer`."""
        operation = self._operation_id(name)
        assert self._known(operation) is not None, f"{operation} is awaited before it was created"
        return await self._answered(operation)

    @property
    def _session_id(self) -> str:
        return self._host.state().session_id

    def _operation_id(self, name: str) -> str:
        if not 1 <= len(name) <= NAME_LENGTH_MAX or not _NAME_CHARACTERS.issuperset(name):
            raise ValueError(f"call name {name!r:.150}: use 1 to {NAME_LENGTH_MAX} of A-Z a-z 0-9 _ . : # -")
        return f"{self._agent_run}/{name}"

    def _known(self, operation: str) -> Operation | None:
        return self._host.state().operations.get(operation)

    async def _may_spend(self) -> None:
        """Return if the session may spend more. Else it is stopped, or the run is parked while people are asked."""
        while self._is_at_cap():
            await self._host.record(m.CallAtCap(self._agent_run))
            if self._is_at_cap():
                if self._host.state().spent.asking is None:
                    await _never()
                await self._until(lambda: self._host.state().spent.asking is None)

    def _is_at_cap(self) -> bool:
        state = self._host.state()
        return state.spent.asking is not None or reached(state, self._stores.clock.now()) is not None

    async def _made(self, operation: str, fn: CallFunction, *, at_most_once: bool) -> Json:
        try:
            made = await fn()
            result = to_json(made.result, "result", bytes_max=ARTIFACT_BYTES_MAX)
        except BaseException as error:
            # User code: a call that must not be made twice is in doubt no more when it is known to have failed.
            if at_most_once and not belongs_to_runtime(error):
                await self._recorded(m.CallEnded(operation, self._agent_run, error=describe(error)))
            raise
        sealed = await self._sealed(operation, result, "result")
        await self._recorded(
            m.CallEnded(operation, self._agent_run, sealed, priced(counts_in(made.usage), self._price))
        )
        return copied(result)

    async def _sealed(self, operation: str, value: Json, what: str) -> Json:
        checked = to_json(value, what, bytes_max=ARTIFACT_BYTES_MAX)
        return await self._stores.payloads.seal(payload_key(self._session_id, operation), checked)

    async def _recorded(
        self, message: m.CallStarting | m.CallEnded | m.ApprovalAsked | m.CallbackRequested
    ) -> Operation:
        """Return the call as the journal has it after that message."""
        await self._host.record(message)
        known = self._known(message.operation)
        return await _never() if known is None else known

    async def _answered(self, operation: str) -> Json:
        await self._until(lambda: self._is_settled(operation))
        known = self._known(operation)
        assert known is not None, f"{operation} is settled and unknown"
        if known.phase is Phase.FAILED:
            assert known.error is not None, f"{operation} failed without an error"
            raise revive(operation, known.kind, known.error)
        return copied(await self._stores.payloads.open(known.result))

    def _is_settled(self, operation: str) -> bool:
        known = self._known(operation)
        return known is not None and known.is_settled

    async def _until(self, met: Callable[[], bool]) -> None:
        """Return if the condition holds once no call is being made: what is paid for must not be broken off.

        Else the run is parked. A call within which somebody waits here is not being made.
        """
        if met():
            return
        self._waiting.append(_enclosing.get())
        # Those that wait outside it may be waiting for this one alone.
        self._call_ended.fire()
        try:
            await self._call_ended.until(lambda: self._made_now <= _NONE.union(*self._waiting))
            if not met():
                self._host.park()
                await _never()
        finally:
            self._waiting.remove(_enclosing.get())

    @contextmanager
    def _making(self, operation: str) -> Iterator[None]:
        enclosing = _enclosing.get()
        token = _enclosing.set(enclosing | {operation})
        self._made_now.add(operation)
        try:
            yield
        finally:
            self._made_now.discard(operation)
            _enclosing.reset(token)
            self._call_ended.fire()

    def _within(self, timeout: float | None) -> float | None:
        """Return the shorter of a timeout and what the run has left: nothing else ends a run that is parked."""
        limits = [seconds for seconds in (timeout, self._seconds_left()) if seconds is not None]
        return min(limits, default=None)


async def _never() -> NoReturn:
    """Wait for the cancellation that is on its way."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody resolves that future")
