"""The shell around the pure rules, one actor a session: decide → append → evolve → perform.

The append is the only commit point. There is no recovery code: activation folds the journal and performs what the state
owes, and that is the same line that starts things the first time.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from functools import partial

from actors import ActorContext, ActorStopped, BackgroundTask, Cancelled, Failed, Outcome, Succeeded
from orchestrator.errors import Stale, Unavailable, describe
from orchestrator.handler import Blocked, Continued, HandlerRun, Raised, Returned, Verdict, unfit_code
from orchestrator.in_flight import InFlight
from orchestrator.inbox import MessageConflict, SessionEnded, UnreadableMessage
from orchestrator.inbox.codec import decode_message, dismissal_by
from orchestrator.journal import JournalConflict, UnreadableEvent
from orchestrator.journal.folding import read_state
from orchestrator.owned_head import OwnedHead, Rest
from orchestrator.passages import interruptions
from orchestrator.resting import RestAlarm
from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.decide import EVENTS_WARNED_AT, decide
from orchestrator.session.notices import notices, owed_of
from orchestrator.session.spending import is_of_session
from orchestrator.session.state import SessionState, evolve
from orchestrator.session.transitions import ENDED, SessionStatus
from orchestrator.session.values import ErrorRecord, format_instant, truncate_to_millis
from orchestrator.session_ports import (
    ActorMessage,
    BlockedFound,
    Deliver,
    InboxChanged,
    LeaveSoon,
    Record,
    SessionPorts,
    Settle,
)
from orchestrator.sight import Sight, showing_signals, sight_of
from orchestrator.telemetry.context import trace_ids


class SessionActor:
    """One session in this node's memory; it leaves silently as soon as another epoch shows."""

    def __init__(
        self, context: ActorContext[ActorMessage], ports: SessionPorts, head: OwnedHead, state: SessionState | None
    ) -> None:
        """Start from HEAD as claimed; `state` is known for a session just created, `None` for one to be read."""
        self._context = context
        self._ports = ports
        self._head = head
        self._session_id = head.current.session_id
        self._known_state = state
        self._run: HandlerRun | None = None
        self._in_flight = InFlight(context, ports.performer, self._start_handler, self._head)
        self._inbox_read, self._is_released = 0, False
        self._rest = RestAlarm(ports.clock, ports.passivate_after, partial(_ring, context))
        self._log = self._in_flight.log = ports.log.bind(session_id=self._session_id, epoch=head.current.epoch)

    @property
    def _state(self) -> SessionState:
        assert self._known_state is not None, f"{self._session_id} is used before it was read"
        return self._known_state

    async def activate(self) -> None:
        """Fold the journal, mark the new epoch in it, start what is owed, and take what waits in the inbox."""
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
        self._rest.disarm()
        # What refers back to this actor would keep its memory until the cyclic collector comes by.
        self._run = None
        self._in_flight.let_go()
        if self._known_state is not None and not self._is_released and not self._state.has_ended:
            try:
                await self._release(Rest(SessionStatus.RUNNING, self._now()), "handed_over")
                self._log.info("session_handed_over", last_seq=self._state.last_seq)
            except Stale:
                self._leave()

    def sight(self) -> Sight | None:
        """Return what is under way for the session; `None` while nothing of its own is, or nothing any more."""
        return None if self._is_released else sight_of(self._known_state, self._run, self._in_flight)

    def _leave(self) -> None:
        """Leave, silently and without touching HEAD: another epoch showed (I7)."""
        self._is_released = True
        self._rest.disarm()
        self._ports.telemetry.forget(self._session_id)
        self._context.stop()

    async def _activate(self) -> None:
        if self._known_state is None:
            try:
                self._known_state = await self._read()
            except (UnreadableEvent, Unavailable) as error:
                await self._block(describe(error))
                return
            self._bind_trace()
            await self._resume()
        else:
            self._bind_trace()
        self._ports.telemetry.entered(self._state)
        if self._head.is_dismissed and not self._state.has_ended:
            await self._take(dismissal_by(await self._ports.inbox.read(self._session_id)))
            return
        self._rest.hurry(is_hurried=self._state.is_held)
        if self._head.current.inbox_version:
            # First: one that is to pause, or to end, begins nothing before it has heard of that.
            await self._in_flight.begin_after(self._read_inbox())
        if not self._is_released:
            await self._carry_on()

    async def _receive(self, message: ActorMessage) -> None:
        if self._is_released:
            if isinstance(message, Deliver):
                message.reply.fail(self._why_left())
            return
        match message:
            case BlockedFound():
                await self._found_blocked(message)
            case InboxChanged():
                await self._look_into_inbox()
            case Deliver():
                await self._delivered(message)
            case Record():
                await self._take(message.message)
                if not message.done.done():
                    message.done.set_result(None)
            case LeaveSoon():
                self._rest.hurry()
                self._rest.disarm()
                self._arm()
            case Settle():
                await self._settle(message)
            case _:
                await self._take(message)

    # --- the four verbs ------------------------------------------------------------------------------------------

    async def _take(self, message: m.Message) -> None:
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
        else:
            self._in_flight.repeat(message, self._state)
        if isinstance(message, m.REQUESTS) and self._run is not None:
            self._run.considered(message, self._state)

    async def _commit(self, events: tuple[e.Event, ...], now: datetime) -> None:
        """Append the events and fold them; a conflict means that another epoch writes here now."""
        recorded = self._stamp(events, now)
        try:
            await self._ports.journal.append(self._session_id, recorded, started_at=self._state.started_at)
        except JournalConflict as conflict:
            self._ports.telemetry.conflict()
            self._log.info("session_fenced", found_epoch=conflict.existing.epoch, found_node=conflict.existing.node)
            raise Stale(str(conflict)) from None
        for each in recorded:
            self._fold(each)

    def _stamp(self, events: tuple[e.Event, ...], now: datetime) -> tuple[e.Recorded, ...]:
        epoch, ports = self._head.current.epoch, self._ports
        return e.stamped(events, self._state.last_seq + 1, now, epoch, ports.node_id, ports.new_id)

    def _fold(self, recorded: e.Recorded) -> None:
        before = self._state
        state = self._known_state = evolve(before, recorded)
        event = recorded.event
        operation_id = getattr(event, "operation", None)
        operation = None if operation_id is None else state.operations[operation_id]
        self._ports.telemetry.recorded(before, state, recorded, operation)
        if operation is not None:
            self._in_flight.changed(operation)
            status, name = e.TYPE_NAMES[type(event)], operation.operation_id
            self._log.debug("event_recorded", status=status, operation=name, attempt=operation.attempt)
            if self._run is not None and not is_of_session(name):
                self._run.changed(operation)
        elif self._run is not None and isinstance(event, e.SignalReceived):
            self._run.signal_arrived(event.name)
        elif self._run is not None and isinstance(event, e.CancelRequested):
            for interruption in interruptions(state.stop)[len(interruptions(before.stop)) :]:
                self._run.stop(interruption)
        if state.is_held is not before.is_held:
            self._hold_changed(is_held=state.is_held)
        if state.last_seq == EVENTS_WARNED_AT:
            self._log.warning("journal_long", last_seq=state.last_seq, advice="ctx.continue_as_new(input)")

    def _hold_changed(self, *, is_held: bool) -> None:
        """Let the handler know; a session that begins nothing new need not stay in memory."""
        held = "session_paused" if self._state.is_paused else "session_held"
        self._log.info(held if is_held else "session_let_go")
        self._rest.hurry(is_hurried=is_held)
        self._rest.disarm()
        self._arm()
        if self._run is not None:
            self._run.hold(is_held=is_held)

    async def _carry_on(self) -> None:
        """Do what the state asks for after a change: start and cancel effects, or record the end."""
        state = self._state
        self._in_flight.perform(state)
        if state.has_ended:
            await self._finish()

    # --- the handler ---------------------------------------------------------------------------------------------

    def _start_handler(self) -> BackgroundTask:
        session_type = self._ports.app.session_type(self._state.started.session_type)
        if session_type is None or session_type.lacks(self._state.started.patches):
            unfit = unfit_code(self._state.started, session_type)
            return self._context.background.start("handler", unfit, self._handler_ended)
        ports = self._ports.for_handler(self._context.tell_self, self._waiting_changed, self._log)
        run = self._run = HandlerRun(self._state, session_type, ports)
        return self._context.background.start("handler", run.run(), self._handler_ended, on_cancel=run.leave)

    def _waiting_changed(self) -> None:
        """Show the handler as busy or not: one that only waits costs no compute, and may leave memory some day."""
        if self._run is None or self._is_released:
            return
        self._in_flight.count_handler(as_busy=not self._run.only_waits)
        if not self._rest.is_set:
            self._arm()

    def _handler_ended(self, outcome: Outcome[Verdict]) -> None:
        match outcome:
            case Succeeded(value=Blocked() as blocked):
                self._context.tell_self(BlockedFound(blocked.error))
            case Succeeded(value=Returned() | Raised() | Continued() as ended):
                self._context.tell_self(ended.message)
            case Failed(error=error):
                self._context.tell_self(m.HandlerRaised(describe(error)))
            case Cancelled():
                pass

    # --- messages from outside -----------------------------------------------------------------------------------

    def _why_left(self) -> SessionEnded | Stale:
        state = self._known_state
        # One that continues takes no message here, and all of them in its next generation.
        is_over = state is not None and state.has_ended and state.continued_as is None
        return SessionEnded(self._session_id) if is_over else Stale(f"{self._session_id} has left this node")

    async def _delivered(self, delivery: Deliver) -> None:
        """Take a message that came straight to the owner, behind those that came by the inbox before it."""
        try:
            await self._look_into_inbox()
            if self._is_released:
                raise self._why_left()
            if self._state.mail.contradicts(delivery.message):
                raise MessageConflict(self._session_id, m.message_id_of(delivery.message))
            await self._take(delivery.message)
            if not self._is_durable():
                raise self._why_left()
        except (SessionEnded, MessageConflict) as refused:
            delivery.reply.fail(refused)
        except BaseException as error:
            delivery.reply.fail(error if isinstance(error, Exception) else Stale("the node is stopping"))
            raise
        else:
            delivery.reply.set(None)

    def _is_durable(self) -> bool:
        """Return whether what was just taken is journaled: unless the session had to be left before it was."""
        return not self._is_released or self._state.has_ended

    async def _look_into_inbox(self) -> None:
        head = await self._head.refresh()
        if head.inbox_version != self._inbox_read:
            await self._read_inbox()

    async def _read_inbox(self) -> None:
        """Journal what waits. HEAD was read before: what comes in between is seen by its later version (rule 5)."""
        version = self._head.current.inbox_version
        try:
            items = await self._ports.inbox.read(self._session_id)
            waiting = [(item.message_id, decode_message(item)) for item in items]
        except (UnreadableMessage, Unavailable) as error:
            # It was acknowledged: it is kept until code comes that can read it, or the key to what it says.
            await self._block(describe(error))
            return
        for message_id, message in waiting:
            if self._is_released or self._state.has_ended:
                return
            if self._state.mail.contradicts(message):
                self._log.warning("message_dropped", message_id=message_id, reason="MESSAGE_CONFLICT")
            else:
                await self._take(message)
        if not self._is_released:
            await self._ports.inbox.delete(self._session_id, [item.message_id for item in items])
            self._inbox_read = version

    # --- leaving memory ------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        self._rest.arm(self._state.updated_at)

    async def _settle(self, message: Settle) -> None:
        """Leave memory if the session has done nothing but wait for as long as that takes, and look again if not."""
        if self._rest.is_set:
            return
        is_at_rest = self._rest.is_over(self._state.updated_at) and not self._in_flight.is_at_work
        if self._run is None or not is_at_rest or not self._run.is_parked:
            self._arm()
            return
        if message.said != self._run.said:
            # What the handler says last of all may still wait in the mailbox, and would be lost: look again behind it.
            self._context.tell_self(Settle(self._run.said))
            return
        rest = showing_signals(self._in_flight.telling.suspended(self._state), self.sight(), self._head)
        if rest.wake_at is not None and rest.wake_at <= self._now():
            # Its time has come: it would only be fetched back.
            self._arm()
            return
        if await self._head.released(rest, last_seq=self._state.last_seq, at=self._now()):
            self._is_released = True
            due = None if rest.wake_at is None else format_instant(rest.wake_at)
            self._log.info("session_suspended", last_seq=self._state.last_seq, wake_at=due)
            self._ports.telemetry.left(self._state, "suspended", self._now())
            self._context.stop()
            return
        await self._look_into_inbox()
        if not self._is_released:
            self._arm()

    # --- HEAD ----------------------------------------------------------------------------------------------------

    async def _read(self) -> SessionState:
        state = await read_state(self._ports.journal, self._session_id)
        if state is None:
            raise UnreadableEvent(f"HEAD of {self._session_id} stands over an empty journal")
        return state

    async def _resume(self) -> None:
        """Fence whoever was here before: from this event on, only this epoch commits (I7)."""
        while not self._state.has_ended:
            head = self._head.current
            if self._state.epoch > head.epoch:
                raise Stale(f"the journal of {self._session_id} holds epoch {self._state.epoch}")
            await self._head.settle_takeovers(self._state)
            before, event = self._state, self._crash_loop_end() or e.SessionResumed()
            recorded = self._stamp((event,), self._now())
            try:
                await self._ports.journal.append(self._session_id, recorded, started_at=before.started_at)
            except JournalConflict:
                # We own HEAD, and the former owner won this one race: go on from behind its event.
                self._known_state = await self._read()
                continue
            self._fold(recorded[0])
            self._log.info("session_resumed", last_seq=self._state.last_seq, takeovers=head.takeovers)
            if self._head.was_owned:
                self._ports.telemetry.took_over(before)
            return

    def _crash_loop_end(self) -> e.Event | None:
        """Return the end of a session that has taken down too many nodes in a row; `None` while it may try again."""
        takeovers = self._head.current.takeovers
        if takeovers <= self._ports.fruitless_resumes_max:
            return None
        return decide(self._state, m.CrashLoopDetected(takeovers), self._now())[0]

    async def _finish(self) -> None:
        """Bring HEAD to the recorded end, tell of it, then leave. A crash before this leaves it to a rescuer."""
        if self._is_released:
            return
        if self._head.current.status in ENDED:
            # It was brought to this end before; what was told of it is not in the outbox any more.
            told = owed_of(self._state, self._head.current.outbox, has_slot=self._head.has_slot)
        else:
            channels = self._ports.performer.notifications.of_end(self._state)
            told = notices(self._state, has_slot=self._head.has_slot, channels=channels)
            await self._head.end(self._state, tuple(notice.notice_id for notice in told))
            code = None if self._state.error is None else self._state.error.code
            self._log.info("session_ended", status=self._state.status, last_seq=self._state.last_seq, code=code)
        self._is_released = True
        self._rest.disarm()
        if told or self._head.current.owner is not None:
            # In the background: a child and its parent that end at once must not wait for each other. One that was
            # claimed to be told of, and was told of meanwhile, is still to be given up.
            self._in_flight.tell(told)
        else:
            self._context.stop()

    async def _found_blocked(self, found: BlockedFound) -> None:
        for alarm in (m.TimeLimitReached(), m.WallTimeReached()):
            if decide(self._state, alarm, self._now()):
                # Found before its alarm rang: at each try, so that it would never be heard.
                await self._take(alarm)
        if self._state.stop is not None and not found.is_refusal:
            # What does not match any code cannot clean up after itself, and must not be kept from its end by that.
            await self._take(m.HandlerRaised(found.error, knew_of_stop=True))
        else:
            await self._block(found.error)

    async def _block(self, error: ErrorRecord) -> None:
        """Keep the session as it is, out of memory, until matching code comes; look again after a growing delay."""
        now = self._now()
        rest = self._head.blocked(error, self._known_state, now)
        delay = 0.0 if rest.wake_at is None else (rest.wake_at - now).total_seconds()
        self._log.warning("session_blocked", code=error.code, reason=error.message, next_try_seconds=delay)
        await self._release(rest, "blocked")
        self._context.stop()

    async def _release(self, rest: Rest, how: str) -> None:
        if self._is_released:
            return
        now = self._now()
        last_seq = self._head.current.last_seq if self._known_state is None else self._state.last_seq
        kept = self._in_flight.telling.kept(rest, self._known_state)
        await self._head.release(kept, last_seq=last_seq, at=now)
        self._is_released = True
        self._rest.disarm()
        if self._known_state is not None:
            self._ports.telemetry.left(self._known_state, how, now)

    def _bind_trace(self) -> None:
        started = self._state.started
        self._log = self._in_flight.log = self._log.bind(session_type=started.session_type, **trace_ids(started.trace))

    def _now(self) -> datetime:
        return truncate_to_millis(self._ports.clock.now())


def _ring(context: ActorContext[ActorMessage]) -> None:
    # Not a method: that would refer back to its actor. An actor that failed leaves its alarm behind.
    with suppress(ActorStopped):
        context.tell_self(Settle())
