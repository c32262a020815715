"""Message → who owns this session? Creates and claims sessions, brings their actors to life, and delivers to them.

The order of creation is the acceptance (I3): event 1, then HEAD, then the acknowledgement. Whoever inserts HEAD owns
the session, whoever wrote event 1; one claim or creation of a session at a time on a node (rule 2).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from actors import ActorContext, ActorStopped, ActorSystem, DuplicateActor, Reply, Supervisor, SystemDraining
from orchestrator.artifacts import enclosed
from orchestrator.artifacts.payloads import payload_key
from orchestrator.capacity import Guards, NodeCapacity
from orchestrator.cluster import ENDS_NOW, Head, NotOwner
from orchestrator.cluster.generations import latest_of
from orchestrator.errors import OrchestratorError, Stale
from orchestrator.inbox import InboxItem, MessageConflict, SessionEnded, UnknownSession, WakeUps
from orchestrator.inbox.codec import decode_message, encode_message
from orchestrator.intake import Start
from orchestrator.journal import JournalConflict, UnreadableEvent
from orchestrator.journal.folding import first_event, read_state
from orchestrator.owned_head import OwnedHead, Rest
from orchestrator.session import decide
from orchestrator.session import messages as m
from orchestrator.session.ending import first_generation, previous_generation
from orchestrator.session.events import Recorded, SessionStarted
from orchestrator.session.frozen import quick, replace
from orchestrator.session.notices import NEXT, StartNext, notices
from orchestrator.session.state import SessionState, begin
from orchestrator.session.transitions import ENDED, SessionStatus
from orchestrator.session.values import Json, truncate_to_millis
from orchestrator.session_actor import SessionActor
from orchestrator.session_ports import ActorMessage, Deliver, InboxChanged, LeaveSoon, SessionPorts
from orchestrator.slots import Slots
from orchestrator.tenants import DISMISSED

FIRST_EPOCH: Final = 1


class IdempotencyConflict(OrchestratorError):
    """The session id was accepted with another payload; the first one is untouched (I4)."""

    code = "IDEMPOTENCY_CONFLICT"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id} was accepted with another payload; use another idempotency key")
        self.session_id = session_id


class NotYetThere(OrchestratorError):
    """The session goes on in a journal that is about to be begun: try again in a moment."""

    code = "NOT_YET_THERE"


@quick
@dataclass(frozen=True, slots=True)
class Accepted:
    """The session is durable. `is_new` is false where it was accepted before.

    `is_begun` is true where this very request began its journal, and not one that was broken off, or came first.
    """

    session_id: str
    is_new: bool
    is_begun: bool = False


class Router:
    """Creates, claims and hands out sessions on this node."""

    def __init__(
        self,
        system: ActorSystem,
        ports: SessionPorts,
        wake_ups: WakeUps,
        capacity: NodeCapacity,
        supervisor: Supervisor,
    ) -> None:
        self._supervisor = supervisor
        self._wake_ups = wake_ups
        self._system = system
        self.ports = ports
        self._capacity = capacity
        self._guards = Guards()
        self.is_draining = False
        self.slots = Slots(ports, self._guards, capacity, takes=lambda: not self.is_draining, bring_up=self._bring_up)

    async def start(self, request: Start, *, is_dismissed: bool = False) -> Accepted:
        """Accept the session: returning means that event 1 and HEAD are durable (I3). `is_dismissed`: to end unrun.

        Raises:
            IdempotencyConflict: the id is taken by another payload. The session that has it goes on (or begins).
        """
        event = await self._start_event(request)
        return await self.begin(request.session_id, event, marks=(DISMISSED,) if is_dismissed else ())

    async def begin(self, session_id: str, event: SessionStarted, *, marks: Sequence[str] = ()) -> Accepted:
        """Accept a session that begins with this event; see `start`. `marks`: what HEAD says of it from its first."""
        async with self._guards.holding(session_id):
            if await self._inserted_first(session_id, event, marks):
                return Accepted(session_id, is_new=True, is_begun=True)
            return await self._accepted_before(session_id, event, marks)

    async def deliver(self, session_id: str, message: m.Delivered, *, has_new_id: bool = False) -> None:
        """Tell the session; returning means that the message is durable (I9). `has_new_id`: made for it just now.

        Raises:
            UnknownSession: nobody was accepted under that id. SessionEnded: it takes no message any more.
            MessageConflict: the message's id was used for another.
        """
        head = await self.open_head(session_id)
        await self._catch_up(head.session_id)
        await self._tell(head, message, has_new_id=has_new_id)

    async def hand_over(self, notice: StartNext) -> None:
        """Tell the next generation what the one before was told and did not take, in order. Safe to repeat."""
        await self._catch_up(notice.previous)
        for signal in notice.signals:
            await self._pass_on(notice.session_id, m.SignalSent(signal.message_id, signal.name, signal.data))
        for item in await self.ports.inbox.read(notice.previous):
            await self._pass_on(notice.session_id, decode_message(item))
            await self.ports.inbox.delete(notice.previous, [item.message_id])

    async def open_head(self, session_id: str) -> Head:
        """Return HEAD of the latest generation of a session that takes messages.

        Raises:
            UnknownSession, SessionEnded: it takes none; see `deliver`.
        """
        head = await self._latest_begun(session_id)
        if head.status in ENDED and head.status is not SessionStatus.CONTINUED:
            raise SessionEnded(session_id)
        return head

    async def latest(self, session_id: str) -> Head:
        """Return HEAD of the session's latest generation. Raises `UnknownSession` and `NotYetThere`."""
        head = await self._latest_begun(session_id)
        if head.status is SessionStatus.CONTINUED:
            raise NotYetThere(f"{head.continued_as} is about to begin")
        return head

    async def wake(self, session_id: str) -> None:
        """See to the inbox of a session that this node owns, or owned when the note was written."""
        # One that is being brought to life has HEAD as it was before its inbox moved on: it must hear of that.
        async with self._guards.holding(session_id):
            ref = self._system.get(session_id)
        if ref is None:
            await self.claim(session_id, owners=(self.ports.node_id,))
            return
        # One that stops just now left memory: whoever takes its place reads the inbox first of all.
        with suppress(ActorStopped):
            await ref.tell(InboxChanged())

    def drain(self) -> None:
        """Take no session from now on, and let those leave that only wait."""
        self.is_draining = True
        for ref in self._system.refs():
            with suppress(ActorStopped):
                # One whose mailbox is full is at work.
                ref.offer(LeaveSoon())

    async def claim(
        self,
        session_id: str,
        *,
        owners: Collection[str] = (),
        due_before: datetime | None = None,
    ) -> Head | None:
        """Take the session over if nobody owns it, or one of `owners` does; return HEAD as we met it, if we did.

        Those are dead nodes, and this one, whose sessions are taken where they have no actor. With `due_before`, it is
        taken only if it is due by then.
        """
        if self.ports.node_id in owners and self._system.get(session_id) is not None:
            # An audit of our own list: whatever HEAD says, an actor that lives here needs no claim.
            return None
        async with self._guards.holding(session_id):
            head = await self.ports.heads.get(session_id)
            if head is None or not self._may_claim(head, owners):
                return None
            # The index lags: what was due may have been claimed, and blocked anew, since.
            if due_before is not None and (head.wake_at is None or head.wake_at > due_before):
                return None
            if head.status in ENDED and not head.outbox:
                return None
            if head.status is not SessionStatus.QUEUED:
                return head if await self._claim_if_there_is_room(head) else None
        # Without its guard: others of its tenant may have to run before it.
        return head if await self.slots.look_at(head) else None

    def _may_claim(self, head: Head, owners: Collection[str]) -> bool:
        if head.owner == self.ports.node_id and self._system.get(head.session_id) is not None:
            return False
        return head.owner is None or head.owner in owners

    async def _claim_if_there_is_room(self, head: Head) -> bool:
        with self._capacity.place() as has_place:
            return (has_place or head.wake_at == ENDS_NOW) and await self._take_over(head)

    async def _take_over(self, head: Head) -> bool:
        """Claim HEAD and bring the session to life here; return whether HEAD was still as it was read."""
        try:
            claimed = await self.ports.heads.claim(
                head,
                node_id=self.ports.node_id,
                nonce=self.ports.new_id(),
                at=truncate_to_millis(self.ports.clock.now()),
                # One that its owner handed over before it died was not taken from the dead (rule 12).
                from_dead_owner=head.owner not in {None, self.ports.node_id},
            )
        except NotOwner:
            return False
        await self._bring_up(claimed, None, was_owned=head.owner is not None)
        return True

    async def _inserted_first(self, session_id: str, event: SessionStarted, marks: Sequence[str]) -> bool:
        """Return whether the session is new, and then accepted and begun."""
        now = truncate_to_millis(self.ports.clock.now())
        first = Recorded(1, event, now, FIRST_EPOCH, self.ports.node_id, self.ports.new_id())
        try:
            await self.ports.journal.append(session_id, (first,), started_at=now)
        except JournalConflict:
            return False
        return await self._complete_creation(session_id, first, marks)

    async def _accepted_before(self, session_id: str, event: SessionStarted, marks: Sequence[str]) -> Accepted:
        """Answer a start whose event 1 stands already; completes a creation that died half-way (rule 14)."""
        first = await first_event(self.ports.journal, session_id)
        assert isinstance(first.event, SessionStarted), f"event 1 of {session_id} is {type(first.event).__name__}"
        is_new = False
        if await self.ports.heads.get(session_id) is None:
            is_new = await self._complete_creation(session_id, first, marks)
        if not decide.same_start(first.event, event):
            raise IdempotencyConflict(session_id)
        return Accepted(session_id, is_new=is_new)

    async def _complete_creation(self, session_id: str, first: Recorded, marks: Sequence[str]) -> bool:
        """Insert HEAD over a durable event 1; return whether this node's insert made the session's HEAD."""
        state = begin(session_id, first)
        with self._capacity.place() as has_place:
            # A full or draining node accepts all the same, and leaves the session due at once for one that has room.
            head = self._new_head(state, has_place and not self.is_draining and DISMISSED not in marks, marks)
            if self._needs_slot(state):
                standing = await self.slots.seat(head)
            else:
                standing = await self.ports.heads.create(head)
            if standing.claim_nonce != head.claim_nonce:
                return False
            self.ports.telemetry.recorded(None, state, first, None)
            if standing.owner is not None:
                await self._bring_up(standing, state)
            return True

    def _needs_slot(self, state: SessionState) -> bool:
        """Return whether it has to take a slot: a child runs in its root's, a next generation in the first one's."""
        is_root = state.started.parent is None and first_generation(state.session_id) == state.session_id
        return is_root and self.slots.limits(state.started.tenant)

    def _new_head(self, state: SessionState, takes_it: bool, marks: Sequence[str]) -> Head:
        return Head(
            session_id=state.session_id,
            session_type=state.started.session_type,
            tenant=state.started.tenant,
            status=SessionStatus.RUNNING,
            owner=self.ports.node_id if takes_it else None,
            epoch=FIRST_EPOCH,
            last_seq=1,
            inbox_version=0,
            claim_nonce=self.ports.new_id(),
            takeovers=0,
            created_at=state.started_at,
            updated_at=state.started_at,
            wake_at=None if takes_it else state.started_at,
            attributes=dict.fromkeys(marks, True),
        )

    async def _start_event(self, request: Start) -> SessionStarted:
        session_type = self.ports.app.session_type(request.session_type)
        patches: list[Json] = [] if session_type is None else [*sorted(session_type.patches)]
        payload = enclosed(request.input)
        if request.input_bytes > self.ports.payloads.inline_bytes_max:
            payload = await self.ports.payloads.seal(payload_key(request.session_id, "1"), request.input)
        trace = self.ports.telemetry.trace_for(request.session_id, request.trace, self.ports.clock.now())
        asked = decide.start(
            request.session_type, request.tenant, request.input, trace=trace, task_token=request.task_token
        )
        time_limit = None if session_type is None else session_type.time_limit
        budget = self.ports.budget_of(session_type)
        is_plain = time_limit is None and budget is None and not patches
        if payload is request.input and request.parent is None and is_plain:
            return asked
        return replace(
            asked,
            input=payload,
            parent=request.parent,
            parent_operation=request.parent_operation,
            time_limit=time_limit,
            patches=patches or None,
            budget=budget,
        )

    def renewed(self, event: SessionStarted) -> SessionStarted:
        """Return the start of a next generation as the code of this node begins it."""
        declared = self.ports.app.session_type(event.session_type)
        patches: list[Json] = [] if declared is None else [*sorted(declared.patches)]
        return replace(event, patches=patches or None)

    async def _latest_begun(self, session_id: str) -> Head:
        """Return HEAD of the latest generation that has begun, ended or not. Raises `UnknownSession`."""
        head = await self.ports.heads.get(session_id)
        if head is None:
            raise UnknownSession(session_id)
        return await latest_of(self.ports.heads, head)

    async def _catch_up(self, session_id: str) -> None:
        """Let nothing overtake what was acknowledged before: whoever was to hand it over may have died meanwhile."""
        previous = previous_generation(session_id)
        head = None if previous is None else await self.ports.heads.get(previous)
        if head is None or NEXT not in head.outbox:
            return
        try:
            state = await read_state(self.ports.journal, head.session_id)
        except UnreadableEvent as error:
            raise NotYetThere(f"{session_id} is about to begin: {error}") from None
        for notice in () if state is None else notices(state):
            if isinstance(notice, StartNext):
                await self.hand_over(notice)

    async def _pass_on(self, session_id: str, message: m.Delivered) -> None:
        # Nobody waits for it any more, or has it already.
        with suppress(SessionEnded, UnknownSession, MessageConflict):
            await self._tell(await self.open_head(session_id), message, has_new_id=False)

    async def _tell(self, head: Head, message: m.Delivered, *, has_new_id: bool) -> None:
        if head.owner != self.ports.node_id or not await self._told_directly(head.session_id, message):
            await self._leave_in_inbox(head, message, has_new_id=has_new_id)

    async def _told_directly(self, session_id: str, message: m.Delivered) -> bool:
        """Return whether the session's actor on this node took the message."""
        ref = self._system.get(session_id)
        if ref is None:
            return False

        def deliver(reply: Reply[None]) -> Deliver:
            return Deliver(message, reply)

        try:
            await ref.ask(deliver, timeout=None)
        except (ActorStopped, Stale):
            return False
        return True

    async def _leave_in_inbox(self, head: Head, message: m.Delivered, *, has_new_id: bool) -> None:
        session_id, message_id = head.session_id, m.message_id_of(message)
        item = InboxItem(message_id, head.inbox_version + 1, encode_message(message))
        await self.ports.inbox.put(session_id, item)
        bumped = await self.ports.heads.bump_inbox(session_id)
        if bumped is None:
            raise UnknownSession(session_id)
        while bumped.status is SessionStatus.QUEUED and isinstance(message, m.CancelAsked | m.KillAsked):
            # It ends without ever having had a slot.
            if await self.slots.dismiss(bumped):
                return
            bumped = await self.latest(session_id)
        if bumped.status is SessionStatus.CONTINUED:
            following = None if bumped.continued_as is None else await self.ports.heads.get(bumped.continued_as)
            # None: who begins the next generation looks into this inbox after that, and so finds what is there before.
            if following is not None:
                try:
                    await self._leave_in_inbox(following, message, has_new_id=has_new_id)
                except (SessionEnded, MessageConflict):
                    await self.ports.inbox.delete(session_id, [message_id])
                    raise
                # Not before: it may repeat one that was acknowledged here, and whoever repeats it may die (I9).
                await self.ports.inbox.delete(session_id, [message_id])
        elif bumped.status in ENDED:
            await self.ports.inbox.delete(session_id, [message_id])
            raise SessionEnded(session_id)
        elif not has_new_id and await self._contradicts_journal(session_id, message):
            await self.ports.inbox.delete(session_id, [message_id])
            raise MessageConflict(session_id, message_id)
        else:
            await self._wake_whoever_has_it(bumped, ends_now=isinstance(message, m.KillAsked))

    async def _contradicts_journal(self, session_id: str, message: m.Delivered) -> bool:
        """Return whether the session took another message under that id, while nobody here holds it in memory.

        Asked when the message stands in the inbox: another one that waited there would have been met (rule 11), and one
        that did not has been journaled by now.
        """
        if not isinstance(message, m.WITH_MESSAGE_ID):
            return False
        try:
            state = await read_state(self.ports.journal, session_id)
        except UnreadableEvent:
            # It is kept until code comes that can read the journal, and judged by that.
            return False
        return state is not None and state.mail.contradicts(message)

    async def _wake_whoever_has_it(self, head: Head, *, ends_now: bool) -> None:
        """Let its owner read the inbox, or the next one."""
        if head.status is SessionStatus.QUEUED:
            # It takes what waits in its inbox when its turn comes.
            return
        # Somebody may have claimed it since, and reads the inbox.
        with suppress(NotOwner):
            if ends_now:
                # Should its owner be dead, or die now, any other node may end it, however full.
                head = await self.ports.heads.make_due(head, at=ENDS_NOW)
            if head.owner is None:
                await self._wake_unowned(head)
                return
        if head.owner == self.ports.node_id:
            await self.wake(head.session_id)
        elif head.owner is not None:
            await self._wake_ups.put(head.owner, head.session_id)

    async def _wake_unowned(self, head: Head) -> None:
        """Claim it here, whatever actor of it this node still holds (rule 7); or leave it to a node that has room."""
        if not self.is_draining and await self.claim(head.session_id):
            return
        # One that somebody killed before is due before all others, and stays so.
        if head.wake_at != ENDS_NOW:
            await self.ports.heads.make_due(head, at=truncate_to_millis(self.ports.clock.now()))

    async def _bring_up(self, head: Head, state: SessionState | None, *, was_owned: bool = False) -> None:
        owned = OwnedHead(self.ports.heads, head, self.ports.node_id, was_owned=was_owned)

        def factory(context: ActorContext[ActorMessage]) -> SessionActor:
            return SessionActor(context, self.ports, owned, state)

        while True:
            try:
                await self._system.spawn(head.session_id, factory, supervisor=self._supervisor)
                return
            except DuplicateActor:
                # The one that lives here lost its claim: HEAD says so. It is replaced.
                await self._system.stop(head.session_id)
            except SystemDraining:
                # Whoever has it by now needs nobody to give it up.
                with suppress(Stale):
                    due_at = head.wake_at or truncate_to_millis(self.ports.clock.now())
                    await owned.release(Rest(head.status, wake_at=due_at), last_seq=head.last_seq, at=head.updated_at)
                return
