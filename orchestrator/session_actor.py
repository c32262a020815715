"""The shell around the pure rules, one actor a session: decide → append → evolve → perform.

The append is the only commit point. There is no recovery code: activation folds the journal and performs what the state
owes, and that is the same line that starts things the first time.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, assert_never

from actors import ActorContext, BackgroundTask, Cancelled, Clock, Directive, Failed, Failure, Outcome, Succeeded
from orchestrator.app import Orchestrator
from orchestrator.cluster import Head, Heads, NotOwner
from orchestrator.errors import Stale, Unavailable, describe
from orchestrator.handler import Blocked, HandlerPorts, HandlerRun, Raised, Returned, Verdict
from orchestrator.journal import Journal, JournalConflict, UnreadableEvent
from orchestrator.journal.folding import read_state
from orchestrator.performer import Performer
from orchestrator.session import messages as m
from orchestrator.session.decide import decide
from orchestrator.session.events import TYPE_NAMES, Event, Recorded, SessionResumed
from orchestrator.session.owed import Effect, EffectKey, RunAgent, RunHandler, owed
from orchestrator.session.state import SessionState, evolve
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import ErrorRecord, Json, truncate_to_millis
from orchestrator.telemetry import trace_ids

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

BLOCKED_DELAY_BASE: Final = timedelta(seconds=30)
BLOCKED_DELAY_MAX: Final = timedelta(hours=1)
FAILURES_MAX: Final = 50
RETRY_SECONDS: Final = 5.0
HELD_BACK_MAX: Final = 10_000
HELD_BACK_QUIET_SECONDS: Final = 3_600.0
FAILURES_WITHIN_SECONDS: Final = 60.0
BLOCKED_TIMES: Final = "blocked_times"
BLOCKED_SEQ: Final = "blocked_seq"
BLOCKED_ERROR: Final = "blocked_error"


@dataclass(frozen=True, slots=True)
class BlockedFound:
    """The handler and its journal do not match."""

    error: ErrorRecord


ActorMessage = m.Message | BlockedFound


@dataclass(frozen=True, slots=True)
class SessionPorts:
    """What every session actor of a node shares. `draw` returns a float from [0, 1), `new_id` a unique id."""

    node_id: str
    app: Orchestrator
    journal: Journal
    heads: Heads
    performer: Performer
    clock: Clock
    threads: Executor
    draw: Callable[[], float]
    new_id: Callable[[], str]
    fruitless_resumes_max: int
    payload_bytes_max: int
    log: FilteringBoundLogger


class SessionSupervisor:
    """Stops every session actor that failed: HEAD stays, so the node's own audit takes the session up again.

    A node on which session after session fails is sick itself: past the limit the failure escalates, and the node shows
    UNHEALTHY.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=FAILURES_MAX)
        self._held_back: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def may_retry(self, session_id: str) -> bool:
        """Return whether the audit may take the session up again: not at once where its actor failed before.

        Each try leaves a SESSION_RESUMED, so a session that fails here each time is tried less and less often.
        """
        _, not_before = self._held_back.get(session_id, (0, 0.0))
        return self._clock.monotonic() >= not_before

    def __call__(self, failure: Failure) -> Directive:
        """Return STOP, or ESCALATE after too many failures within a minute."""
        now = self._clock.monotonic()
        self._hold_back(failure.actor_id, now)
        self._recent.append(now)
        is_sick = len(self._recent) == FAILURES_MAX and now - self._recent[0] < FAILURES_WITHIN_SECONDS
        return Directive.ESCALATE if is_sick else Directive.STOP

    def _hold_back(self, session_id: str, now: float) -> None:
        failures, since = self._held_back.pop(session_id, (0, 0.0))
        if now - since > HELD_BACK_QUIET_SECONDS:
            failures = 0
        delay = min(BLOCKED_DELAY_MAX.total_seconds(), RETRY_SECONDS * 2.0 ** min(failures, 16))
        self._held_back[session_id] = (failures + 1, now + delay)
        if len(self._held_back) > HELD_BACK_MAX:
            self._held_back.popitem(last=False)


class SessionActor:
    """One session in this node's memory; it leaves silently as soon as another epoch shows."""

    def __init__(
        self, context: ActorContext[ActorMessage], ports: SessionPorts, head: Head, state: SessionState | None
    ) -> None:
        """Start from HEAD as claimed; `state` is known for a session just created, `None` for one to be read."""
        self._context = context
        self._ports = ports
        self._head = head
        self._known_state = state
        self._run: HandlerRun | None = None
        self._in_flight: dict[EffectKey, BackgroundTask] = {}
        self._performed: Mapping[EffectKey, Effect] | None = None
        self._is_released = False
        self._log = ports.log.bind(session_id=head.session_id, epoch=head.epoch)

    @property
    def _state(self) -> SessionState:
        assert self._known_state is not None, f"{self._head.session_id} is used before it was read"
        return self._known_state

    async def activate(self) -> None:
        """Fold the journal, mark the new epoch in it, and start what is owed."""
        try:
            await self._activate()
        except Stale:
            self._leave()

    async def receive(self, message: ActorMessage) -> None:
        """Handle one message. Returning means that what it changed is durable."""
        try:
            await self._receive(message)
        except Stale:
            self._leave()

    async def deactivate(self) -> None:
        """Hand the session over: unowned and due now, so that another node goes on with it in about a second."""
        if self._known_state is not None and not self._is_released and not self._state.has_ended:
            try:
                await self._release(SessionStatus.RUNNING, wake_at=self._now())
                self._log.info("session_handed_over", last_seq=self._state.last_seq)
            except Stale:
                self._leave()

    def _leave(self) -> None:
        """Leave, silently and without touching HEAD: another epoch showed (I7)."""
        self._is_released = True
        self._context.stop()

    async def _activate(self) -> None:
        if self._known_state is None:
            try:
                self._known_state = await self._read()
            except UnreadableEvent as error:
                await self._block(describe(error))
                return
            self._bind_trace()
            await self._resume()
        else:
            self._bind_trace()
        await self._carry_on()

    async def _receive(self, message: ActorMessage) -> None:
        if self._is_released:
            return
        if isinstance(message, BlockedFound):
            await self._block(message.error)
            return
        now = self._now()
        events = decide(self._state, message, now)
        if events:
            try:
                await self._commit(events, now)
            except Unavailable as error:
                # Refused, and it would be again: better kept and looked at again later than failing over and over.
                await self._block(describe(error))
                return
            await self._carry_on()

    # --- the four verbs ------------------------------------------------------------------------------------------

    async def _commit(self, events: tuple[Event, ...], now: datetime) -> None:
        """Append the events and fold them; a conflict means that another epoch writes here now."""
        state = self._state
        recorded = self._stamp(state, events, now)
        try:
            await self._ports.journal.append(state.session_id, recorded, started_at=state.started_at)
        except JournalConflict as conflict:
            self._log.info("session_fenced", found_epoch=conflict.existing.epoch, found_node=conflict.existing.node)
            raise Stale(str(conflict)) from None
        for each in recorded:
            self._fold(each)

    def _stamp(self, state: SessionState, events: tuple[Event, ...], now: datetime) -> tuple[Recorded, ...]:
        epoch, node_id, new_id = self._head.epoch, self._ports.node_id, self._ports.new_id
        places = enumerate(events, state.last_seq + 1)
        return tuple([Recorded(seq, event, now, epoch, node_id, new_id()) for seq, event in places])

    def _fold(self, recorded: Recorded) -> None:
        state = self._known_state = evolve(self._state, recorded)
        operation_id = getattr(recorded.event, "operation", None)
        if operation_id is None:
            return
        operation = state.operations[operation_id]
        self._log.debug(
            "event_recorded", status=TYPE_NAMES[type(recorded.event)], operation=operation_id, attempt=operation.attempt
        )
        if self._run is not None:
            self._run.changed(operation)

    async def _carry_on(self) -> None:
        """Do what the state asks for after a change: start and cancel effects, or record the end."""
        state = self._state
        self._perform(state)
        if state.has_ended:
            await self._finish()

    def _perform(self, state: SessionState) -> None:
        wanted = owed(state)
        if wanted is self._performed:
            return
        for key in self._in_flight.keys() - wanted.keys():
            self._in_flight.pop(key).cancel()
        for key, effect in wanted.items():
            if key not in self._in_flight:
                self._in_flight[key] = self._start(effect)
        self._performed = wanted

    # --- effects -------------------------------------------------------------------------------------------------

    def _start(self, effect: Effect) -> BackgroundTask:
        match effect:
            case RunHandler():
                return self._start_handler()
            case RunAgent():
                work = self._ports.performer.run_agent(
                    self._head.session_id, effect, self._context.tell_self, self._log
                )
                return self._context.background.start(f"agent {effect.operation}", work, self._agent_ended)
            case _:
                assert_never(effect)

    def _start_handler(self) -> BackgroundTask:
        session_type = self._ports.app.session_type(self._state.started.session_type)
        if session_type is None:
            error = ErrorRecord(
                "UnknownSessionType",
                "UNKNOWN_SESSION_TYPE",
                f"no session type {self._state.started.session_type!r} is declared by the code of this node",
            )
            return self._context.background.start("handler", _blocked(error), self._handler_ended)
        ports = HandlerPorts(
            tell=self._context.tell_self,
            block=lambda error: self._context.tell_self(BlockedFound(error)),
            clock=self._ports.clock,
            draw=self._ports.draw,
            threads=self._ports.threads,
            payload_bytes_max=self._ports.payload_bytes_max,
            log=self._log,
        )
        self._run = HandlerRun(self._state, session_type, ports)
        return self._context.background.start("handler", self._run.run(), self._handler_ended)

    def _handler_ended(self, outcome: Outcome[Verdict]) -> None:
        match outcome:
            case Succeeded(value=Returned(result=result)):
                self._context.tell_self(m.HandlerReturned(result))
            case Succeeded(value=Raised(error=error)):
                self._context.tell_self(m.HandlerRaised(error))
            case Succeeded(value=Blocked(error=error)):
                self._context.tell_self(BlockedFound(error))
            case Failed(error=error):
                self._context.tell_self(m.HandlerRaised(describe(error)))
            case Cancelled():
                pass

    def _agent_ended(self, outcome: Outcome[m.AgentSucceeded | m.AgentAttemptFailed]) -> None:
        match outcome:
            case Succeeded(value=message):
                self._context.tell_self(message)
            case Failed(error=error):
                raise error
            case Cancelled():
                pass

    # --- HEAD ----------------------------------------------------------------------------------------------------

    async def _read(self) -> SessionState:
        state = await read_state(self._ports.journal, self._head.session_id)
        if state is None:
            raise UnreadableEvent(f"HEAD of {self._head.session_id} stands over an empty journal")
        return state

    async def _resume(self) -> None:
        """Fence whoever was here before: from this event on, only this epoch commits (I7)."""
        while not self._state.has_ended:
            if self._state.epoch > self._head.epoch:
                raise Stale(f"the journal of {self._head.session_id} holds epoch {self._state.epoch}")
            await self._settle_takeovers()
            event = self._crash_loop_end() or SessionResumed()
            try:
                await self._append_resumption(event)
            except JournalConflict:
                # We own HEAD, and the former owner won this one race: go on from behind its event.
                self._known_state = await self._read()
                continue
            self._log.info("session_resumed", last_seq=self._state.last_seq, takeovers=self._head.takeovers)
            return

    async def _settle_takeovers(self) -> None:
        """Count takeovers from one again if the owner before us left more than its arrival in the journal (rule 12)."""
        # An epoch that the journal does not show died before its SESSION_RESUMED: it made nothing of its turn.
        made_progress = self._state.epoch == self._head.epoch - 1 and self._state.fruitless_resumes == 0
        if made_progress and self._head.takeovers > 1:
            try:
                self._head = await self._ports.heads.settle_takeovers(self._head)
            except NotOwner as error:
                raise Stale(str(error)) from None

    async def _append_resumption(self, event: Event) -> None:
        state = self._state
        recorded = self._stamp(state, (event,), self._now())
        await self._ports.journal.append(state.session_id, recorded, started_at=state.started_at)
        self._fold(recorded[0])

    def _crash_loop_end(self) -> Event | None:
        """Return the end of a session that has taken down too many nodes in a row; `None` while it may try again."""
        if self._head.takeovers <= self._ports.fruitless_resumes_max:
            return None
        return decide(self._state, m.CrashLoopDetected(self._head.takeovers), self._now())[0]

    async def _finish(self) -> None:
        """Bring HEAD to the recorded end, then leave. A crash before this leaves it to a rescuer."""
        while not self._is_released:
            try:
                self._head = await self._ports.heads.end(
                    self._head, self._state.status, last_seq=self._state.last_seq, at=self._state.updated_at
                )
                self._is_released = True
            except NotOwner:
                await self._refresh_head()
        error = self._state.error
        self._log.info(
            "session_ended",
            status=self._state.status,
            last_seq=self._state.last_seq,
            code=error.code if error else None,
        )
        self._context.stop()

    async def _block(self, error: ErrorRecord) -> None:
        """Keep the session as it is, out of memory, until matching code comes; look again after a growing delay."""
        times, last_seq = self._times_blocked() + 1, 0 if self._known_state is None else self._state.last_seq
        delay = min(BLOCKED_DELAY_MAX, BLOCKED_DELAY_BASE * 2 ** min(times - 1, 16))
        attributes = {
            **self._head.attributes,
            BLOCKED_TIMES: times,
            BLOCKED_SEQ: last_seq,
            BLOCKED_ERROR: f"{error.code}: {error.message}",
        }
        self._log.warning(
            "session_blocked", code=error.code, reason=error.message, next_try_seconds=delay.total_seconds()
        )
        await self._release(SessionStatus.BLOCKED, wake_at=self._now() + delay, attributes=attributes)
        self._context.stop()

    def _times_blocked(self) -> int:
        """Return how often in a row the session was blocked: a new event other than its resumption begins anew."""
        times, seq = self._head.attributes.get(BLOCKED_TIMES), self._head.attributes.get(BLOCKED_SEQ)
        if not isinstance(times, int) or not isinstance(seq, int):
            return 0
        has_gone_on = self._known_state is not None and self._state.last_seq > seq + 1
        return 0 if has_gone_on else times

    async def _release(
        self, status: SessionStatus, *, wake_at: datetime, attributes: dict[str, Json] | None = None
    ) -> None:
        last_seq = self._head.last_seq if self._known_state is None else self._state.last_seq
        while not self._is_released:
            try:
                self._head = await self._ports.heads.release(
                    self._head, status, last_seq=last_seq, at=self._now(), wake_at=wake_at, attributes=attributes
                )
                self._is_released = True
            except NotOwner:
                await self._refresh_head()

    async def _refresh_head(self) -> None:
        """Take up a HEAD that a delivery moved on under us; raises `Stale` when it is ours no longer."""
        head = await self._ports.heads.get(self._head.session_id)
        if head is None or head.epoch != self._head.epoch or head.owner != self._ports.node_id:
            raise Stale(f"HEAD of {self._head.session_id} is no longer ours: {head}")
        self._head = head

    def _bind_trace(self) -> None:
        self._log = self._log.bind(
            session_type=self._state.started.session_type, **trace_ids(self._state.started.trace)
        )

    def _now(self) -> datetime:
        return truncate_to_millis(self._ports.clock.now())


async def _blocked(error: ErrorRecord) -> Verdict:
    return Blocked(error)
