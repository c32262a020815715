"""Plays a recorded journal against today's handler, without side effects, and tells the first difference.

No step, no agent, no I/O of ours runs: the handler gets what the journal holds, and where it asks for more, nothing
answers. What a node does with the session after its deployment begins just like this.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Never

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from actors import ManualClock
from orchestrator.app import Orchestrator, SessionType
from orchestrator.artifacts import ArtifactRef, Artifacts, Content
from orchestrator.artifacts.memory import MemoryArtifacts
from orchestrator.artifacts.payloads import PayloadStore
from orchestrator.artifacts.session_files import SessionFiles
from orchestrator.callbacks.memory import MemoryCallbacks
from orchestrator.errors import NonDeterminismError, OrchestratorError, UnknownChange
from orchestrator.handler import Blocked, Continued, Ended, HandlerRun, Raised, Returned, Verdict
from orchestrator.handler_ports import HandlerPorts
from orchestrator.invocation import current_invocation
from orchestrator.journal import UnreadableEvent
from orchestrator.payloads import BYTES_MAX
from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.state import Operation, SessionState, begin, evolve
from orchestrator.session.transitions import OperationKind, Phase, SessionStatus
from orchestrator.standstill import check_loop, look_again, rest, work_under_way
from orchestrator.telemetry.port import SILENT

PATIENCE_SECONDS: Final = 10.0
"""Real seconds for what a handler awaits between its operations, such as `asyncio.sleep`, and for the bucket."""
JUMPS_MAX: Final = 1_000
CANCELS_MAX: Final = 20

_BY_THE_ENGINE: Final = frozenset({"CRASH_LOOP", "JOURNAL_TOO_LONG"})
"""Codes of ends that no handler brought about: such a session's handler may stand anywhere."""
_KINDS: Final[Mapping[type[m.Message], str]] = {
    m.StepStarting: "step",
    m.AgentRequested: "agent",
    m.TimerRequested: "timer",
    m.CallbackRequested: "callback",
    m.ApprovalAsked: "approval",
    m.SignalAwaited: "signal",
    m.ChildRequested: "child",
}


class ReplayFailed(OrchestratorError):
    """Today's handler does not match a recorded journal; `difference` is the first thing that differs.

    Deployed as it is, sessions like this one would be held back as BLOCKED, or end otherwise than they should.
    """

    code = "REPLAY_FAILED"

    def __init__(self, session_id: str, difference: str) -> None:
        super().__init__(f"{session_id}: {difference}")
        self.session_id = session_id
        self.difference = difference


class PayloadOutOfReach(OrchestratorError):
    """The handler needs a payload that the journal keeps in the bucket, and no bucket was given."""

    code = "PAYLOAD_OUT_OF_REACH"


@dataclass(frozen=True, slots=True)
class Replayed:
    """A journal that today's handler matches: how long it is, and how many operations it records."""

    events: int
    operations: int


async def replay_journal(
    session_id: str, journal: Sequence[e.Recorded], app: Orchestrator, *, artifacts: Artifacts | None = None
) -> Replayed:
    """Return when today's handler got as far as the journal does, and ended as it did where it did.

    An open session's handler may ask for more than the journal holds; nothing answers then. `artifacts` is read where
    the journal holds references, and never written.

    Raises:
        ReplayFailed: the handler does something else. UnreadableEvent: the journal is not one.
        PayloadOutOfReach: a reference must be read and there are no `artifacts`; ArtifactMissing and the like.
    """
    check_loop()
    state = _state_of(session_id, journal)
    session_type = app.session_type(state.started.session_type)
    if session_type is None:
        known = ", ".join(each.name for each in app.session_types) or "none"
        raise ReplayFailed(
            session_id,
            f"the application declares no session type {state.started.session_type!r} any more; it has: {known}",
        )
    lacking = session_type.lacks(state.started.patches)
    if lacking:
        raise ReplayFailed(session_id, str(UnknownChange(session_type.name, lacking)))
    rehearsal = _Rehearsal(state, session_type, _Bucket(artifacts))
    difference = await rehearsal.play(journal[-1].event)
    if difference is not None:
        raise ReplayFailed(session_id, difference)
    awaited = [each for each in state.operations.values() if each.is_handlers]
    return Replayed(len(journal), len(awaited))


def _state_of(session_id: str, journal: Sequence[e.Recorded]) -> SessionState:
    if not journal:
        raise UnreadableEvent(f"the journal of {session_id} is empty")
    state: SessionState | None = None
    for place, recorded in enumerate(journal, start=1):
        if recorded.seq != place or isinstance(recorded.event, e.SessionStarted) != (state is None):
            raise UnreadableEvent(f"event {recorded.seq} of {session_id} stands at place {place}: events are missing")
        state = begin(session_id, recorded) if state is None else evolve(state, recorded)
    assert state is not None, "a journal that is not empty has a state"
    return state


class _Bucket:
    """`Artifacts` that read from the real ones and keep to themselves what is put."""

    def __init__(self, real: Artifacts | None) -> None:
        self._real = real
        self._put = MemoryArtifacts()
        self._own: set[ArtifactRef] = set()
        self.failure: OrchestratorError | None = None

    async def put(self, key: str, data: Content, *, compressed: bool, content_type: str) -> ArtifactRef:
        """See `Artifacts.put`."""
        ref = await self._put.put(key, data, compressed=compressed, content_type=content_type)
        self._own.add(ref)
        return ref

    async def get(self, ref: ArtifactRef) -> bytes:
        """See `Artifacts.get`."""
        store = self._store_of(ref)
        try:
            return await store.get(ref)
        except OrchestratorError as error:
            self.failure = error
            raise

    async def stream(self, ref: ArtifactRef) -> AsyncIterator[bytes]:
        """See `Artifacts.stream`."""
        yield await self.get(ref)

    async def presigned_url(self, ref: ArtifactRef, *, expires: timedelta) -> str:
        """See `Artifacts.presigned_url`; an address that serves nothing."""
        del expires
        return f"replayed://{ref.key}"

    def _store_of(self, ref: ArtifactRef) -> Artifacts:
        if ref in self._own:
            return self._put
        if self._real is None:
            self.failure = PayloadOutOfReach(
                f"the journal keeps a payload in the bucket ({ref.artifact}): hand in `artifacts=`, the store that"
                " holds it, or record a session with smaller payloads"
            )
            raise self.failure
        return self._real


class _Rehearsal:
    """One run of a handler whose surroundings answer nothing that the journal does not hold."""

    def __init__(self, state: SessionState, session_type: SessionType, bucket: _Bucket) -> None:
        self._state = state
        self._bucket = bucket
        self._clock = ManualClock(state.updated_at)
        self._blocked: OrchestratorError | None = None
        self._asked: str | None = None
        self._seq = state.last_seq
        ports = HandlerPorts(
            tell=self._told,
            block=self._block,
            clock=self._clock,
            draw=lambda: 0.5,
            # Nothing is ever submitted to it, so that it starts no thread.
            threads=ThreadPoolExecutor(1),
            payloads=PayloadStore(bucket, inline_bytes_max=BYTES_MAX),
            artifacts=SessionFiles(bucket, lambda: "replayed"),
            callbacks=MemoryCallbacks(clock=self._clock),
            new_token=lambda: "replayed",
            callback_url=lambda callback_id: f"replayed://callbacks/{callback_id}",
            on_waiting=lambda: None,
            began=SILENT.began,
            log=_silent_log(),
            call=self._not_called,
        )
        self._run = HandlerRun(state, session_type, ports)

    async def play(self, last: e.Event) -> str | None:
        """Return the first difference from a journal that ends with that event; `None` for no difference."""
        # No task group: code that swallows its cancellation must not hold the verdict back.
        task = asyncio.get_running_loop().create_task(self._run.run(), name="handler")
        try:
            await self._until_standstill(task)
            if self._bucket.failure is not None:
                raise self._bucket.failure
            return self._difference(task.result() if task.done() else None, last)
        finally:
            await self._abandon(task)

    async def _until_standstill(self, task: asyncio.Task[Verdict]) -> None:
        """Return when the handler has ended, differs, or waits for what will never come."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_SECONDS
        for _ in range(JUMPS_MAX):
            await rest()
            while work_under_way() and not task.done() and loop.time() < deadline:
                await look_again()
                await rest()
            due = self._clock.next_due()
            if task.done() or self._blocked is not None or self._bucket.failure is not None or due is None:
                return
            # The turnstile waits some time for branches that may still ask, before it calls a handler out of step.
            self._clock.advance(due)

    async def _abandon(self, task: asyncio.Task[Verdict]) -> None:
        for _ in range(CANCELS_MAX):
            if task.done():
                break
            task.cancel()
            await rest()
            self._clock.advance(self._clock.next_due() or 0.0)
            await rest()
        if task.done():
            with suppress(asyncio.CancelledError):
                task.exception()

    # --- what the handler meets ----------------------------------------------------------------------------------

    def _told(self, message: m.Message) -> None:
        match message:
            case m.ProgressMade():
                # Nothing hangs on it: a handler that reports more than it did is none that differs.
                self._seq += 1
                self._run.changed(_reported(message.operation, self._state, self._seq))
            case m.PatchReached():
                pass
            case _:
                self._ask(_KINDS.get(type(message), "operation"), str(getattr(message, "operation", "")))

    def _block(self, error: OrchestratorError) -> None:
        self._blocked = self._blocked or error

    def _ask(self, kind: str, operation: str) -> None:
        self._asked = self._asked or f"{kind} {operation!r}"

    async def _not_called(
        self, fn: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object], *, threads: Executor
    ) -> Never:
        """Stand in for `user_code.call`: the step is new, and nothing of the user's runs."""
        del fn, args, kwargs, threads
        self._ask("step", current_invocation().operation)
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody answers a new step")

    # --- the verdict ---------------------------------------------------------------------------------------------

    def _difference(self, verdict: Verdict | None, last: e.Event) -> str | None:
        if isinstance(verdict, Blocked):
            return verdict.error.message
        if self._blocked is not None:
            return str(self._blocked)
        unclaimed = self._run.unclaimed
        if verdict is None and unclaimed is not None:
            return _text(f"{unclaimed.kind} {unclaimed.operation_id!r}", self._asked or "nothing: it waits")
        if self._state.stop is not None:
            # Asked to end, a handler may have been stopped anywhere.
            return None
        ended = verdict if verdict is not None else self._run.ended
        if not self._state.has_ended or _is_by_the_engine(last):
            return self._early_failure(ended)
        if verdict is None:
            return _text(_end_of(self._state), self._asked or "nothing: it waits")
        return None if _matches(verdict, self._state.status) else _text(_end_of(self._state), _how(verdict))

    def _early_failure(self, ended: Ended | None) -> str | None:
        """Return what an open session's handler failed of, where nothing in the journal accounts for it."""
        has_failure = any(operation.phase is Phase.FAILED for operation in self._state.operations.values())
        if not isinstance(ended, Raised) or has_failure:
            return None
        return f"the journal is open after event {self._state.last_seq}, the handler ended: {_how(ended)}"


def _matches(verdict: Verdict, status: SessionStatus) -> bool:
    match status:
        case SessionStatus.COMPLETED:
            return isinstance(verdict, Returned)
        case SessionStatus.FAILED:
            return isinstance(verdict, Raised)
        case SessionStatus.CONTINUED:
            return isinstance(verdict, Continued)
        case _:
            return True


def _is_by_the_engine(last: e.Event) -> bool:
    return isinstance(last, e.SessionFailed) and last.error.code in _BY_THE_ENGINE


def _end_of(state: SessionState) -> str:
    why = "" if state.error is None else f" ({state.error.type}: {state.error.message})"
    return f"the session's end, {state.status}{why},"


def _how(ended: Verdict) -> str:
    match ended:
        case Returned():
            return "nothing more: it returned"
        case Continued():
            return "nothing more: it continued as new"
        case Raised(error=error) | Blocked(error=error):
            return f"nothing more: it raised {error.type}: {error.message}"


def _text(recorded: str, asked: str) -> str:
    return str(NonDeterminismError(recorded, asked))


def _reported(operation: str, state: SessionState, seq: int) -> Operation:
    return Operation(
        operation_id=operation,
        kind=OperationKind.PROGRESS,
        phase=Phase.COMPLETED,
        attempt=1,
        changed_at=state.updated_at,
        changed_seq=seq,
        started_at=state.updated_at,
        started_seq=seq,
    )


def _silent_log() -> FilteringBoundLogger:
    def drop(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        raise structlog.DropEvent

    silent: FilteringBoundLogger = structlog.wrap_logger(
        None, processors=[drop], wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    return silent
