"""Message → who owns this session? Creates and claims sessions, and brings their actors to life on this node.

The order of creation is the acceptance (I3): event 1, then HEAD, then the acknowledgement. Whoever inserts HEAD owns
the session, whoever wrote event 1; one claim or creation of a session at a time on a node (rule 2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from actors import ActorContext, ActorSystem, DuplicateActor, Supervisor, SystemDraining
from orchestrator.cluster import Head, NotOwner
from orchestrator.errors import OrchestratorError
from orchestrator.intake import Start
from orchestrator.journal import JournalConflict
from orchestrator.session import decide
from orchestrator.session.events import Recorded, SessionStarted
from orchestrator.session.frozen import quick
from orchestrator.session.state import SessionState, begin
from orchestrator.session.transitions import ENDED, SessionStatus
from orchestrator.session.values import truncate_to_millis
from orchestrator.session_actor import ActorMessage, SessionActor, SessionPorts

FIRST_EPOCH: Final = 1


class IdempotencyConflict(OrchestratorError):
    """The session id was accepted with another payload; the first one is untouched (I4)."""

    code = "IDEMPOTENCY_CONFLICT"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id} was accepted with another payload; use another idempotency key")
        self.session_id = session_id


@quick
@dataclass(frozen=True, slots=True)
class Accepted:
    """The session is durable. `is_new` is false where it was accepted before."""

    session_id: str
    is_new: bool


class NodeCapacity:
    """How many sessions this node holds against how many it may; wakes who waits when one leaves."""

    def __init__(self, sessions_max: int) -> None:
        self.sessions_max = sessions_max
        self._taken = 0
        self._live: ActorSystem | None = None
        self._changed = asyncio.Event()
        self._subscribers: list[Callable[[], None]] = []

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call back whenever a session leaves this node."""
        self._subscribers.append(callback)

    def watch(self, system: ActorSystem) -> None:
        """Count the actors of this system from now on."""
        self._live = system

    def free(self) -> int:
        """See `Capacity.free`."""
        return self.sessions_max - self._taken - (0 if self._live is None else len(self._live))

    def place(self) -> Place:
        """Hold a place while a `with` block brings a session to life; it gets whether there was one.

        Held from before the claim to after the spawn: what is on its way counts like what is here.
        """
        return Place(self)

    def take(self) -> bool:
        """Take a place and return True, or return False where none is free; pair the former with `give_back`."""
        has_place = self.free() > 0
        self._taken += has_place
        return has_place

    def give_back(self) -> None:
        """Give back what was taken."""
        self._taken -= 1
        self.changed()

    def changed(self) -> None:
        """Wake those who wait: an actor ended."""
        self._changed.set()
        for callback in self._subscribers:
            callback()

    async def wait(self) -> None:
        """See `Capacity.wait`."""
        while self.free() <= 0:
            self._changed.clear()
            await self._changed.wait()


class Place:
    """See `NodeCapacity.place`. A class, like `Guard`: generators for each session would cost several times as much."""

    __slots__ = ("_capacity", "_has_place")

    def __init__(self, capacity: NodeCapacity) -> None:
        self._capacity = capacity
        self._has_place = False

    def __enter__(self) -> bool:
        self._has_place = self._capacity.take()
        return self._has_place

    def __exit__(self, *_: object) -> None:
        if self._has_place:
            self._capacity.give_back()


class Guards:
    """One lock a session id, for as long as somebody holds or wants it (rule 2)."""

    def __init__(self) -> None:
        self._guards: dict[str, Guard] = {}

    def holding(self, session_id: str) -> Guard:
        """Let one `async with` block at a time run for a session."""
        guard = self._guards.get(session_id)
        if guard is None:
            guard = self._guards[session_id] = Guard(session_id, self._guards)
        return guard


class Guard:
    """The lock of one session id, among those of the others."""

    __slots__ = ("_guards", "_lock", "_session_id", "_users")

    def __init__(self, session_id: str, guards: dict[str, Guard]) -> None:
        self._session_id = session_id
        self._guards = guards
        self._lock = asyncio.Lock()
        self._users = 0

    async def __aenter__(self) -> None:
        self._users += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._forget()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        self._forget()

    def _forget(self) -> None:
        self._users -= 1
        if not self._users:
            del self._guards[self._session_id]


class Router:
    """Creates, claims and hands out sessions on this node."""

    def __init__(
        self, system: ActorSystem, ports: SessionPorts, capacity: NodeCapacity, supervisor: Supervisor
    ) -> None:
        self._supervisor = supervisor
        self._system = system
        self.ports = ports
        self._capacity = capacity
        self._guards = Guards()
        self.is_draining = False

    async def start(self, request: Start) -> Accepted:
        """Accept the session: returning means that event 1 and HEAD are durable (I3).

        Raises:
            IdempotencyConflict: the id is taken by another payload. The session that has it goes on (or begins).
        """
        event = decide.start(
            request.session_type, request.tenant, request.input, trace=request.trace, task_token=request.task_token
        )
        async with self._guards.holding(request.session_id):
            if await self._inserted_first(request.session_id, event):
                return Accepted(request.session_id, is_new=True)
            return await self._accepted_before(request.session_id, event)

    async def claim(
        self,
        session_id: str,
        *,
        dead_owner: str | None = None,
        only_unowned: bool = False,
        due_before: datetime | None = None,
    ) -> bool:
        """Take the session over if its owner is dead, this node without an actor, or nobody; return whether we did.

        With `due_before`, an unowned session is taken only if it is due by then.
        """
        if dead_owner is None and not only_unowned and self._system.get(session_id) is not None:
            # An audit of our own list: whatever HEAD says, an actor that lives here needs no claim.
            return False
        async with self._guards.holding(session_id):
            head = await self.ports.heads.get(session_id)
            if head is None or not self._may_claim(head, dead_owner, only_unowned=only_unowned, due_before=due_before):
                return False
            if head.status in ENDED:
                return False
            with self._capacity.place() as has_place:
                # One that its owner handed over before it died was not taken from the dead (rule 12).
                from_dead_owner = dead_owner is not None and head.owner == dead_owner
                return has_place and await self._take_over(head, from_dead_owner=from_dead_owner)

    async def _take_over(self, head: Head, *, from_dead_owner: bool) -> bool:
        """Claim HEAD and bring the session to life here; return whether HEAD was still as it was read."""
        try:
            claimed = await self.ports.heads.claim(
                head,
                node_id=self.ports.node_id,
                nonce=self.ports.new_id(),
                at=truncate_to_millis(self.ports.clock.now()),
                from_dead_owner=from_dead_owner,
            )
        except NotOwner:
            return False
        await self._bring_up(claimed, None)
        return True

    def _may_claim(
        self, head: Head, dead_owner: str | None, *, only_unowned: bool, due_before: datetime | None
    ) -> bool:
        if head.owner is None:
            # The index lags: what was due may have been claimed, and blocked anew, since.
            return due_before is None or (head.wake_at is not None and head.wake_at <= due_before)
        if only_unowned:
            return False
        return head.owner == dead_owner or (
            head.owner == self.ports.node_id and self._system.get(head.session_id) is None
        )

    async def _inserted_first(self, session_id: str, event: SessionStarted) -> bool:
        """Return whether the session is new, and then accepted and begun."""
        now = truncate_to_millis(self.ports.clock.now())
        first = Recorded(1, event, now, FIRST_EPOCH, self.ports.node_id, self.ports.new_id())
        try:
            await self.ports.journal.append(session_id, (first,), started_at=now)
        except JournalConflict:
            return False
        return await self._complete_creation(session_id, first)

    async def _accepted_before(self, session_id: str, event: SessionStarted) -> Accepted:
        """Answer a start whose event 1 stands already; completes a creation that died half-way (rule 14)."""
        first = await self._first_event(session_id)
        assert isinstance(first.event, SessionStarted), f"event 1 of {session_id} is {type(first.event).__name__}"
        is_new = False
        if await self.ports.heads.get(session_id) is None:
            is_new = await self._complete_creation(session_id, first)
        if not decide.same_start(first.event, event):
            raise IdempotencyConflict(session_id)
        return Accepted(session_id, is_new=is_new)

    async def _first_event(self, session_id: str) -> Recorded:
        async for first in self.ports.journal.read(session_id):
            return first
        raise AssertionError(f"event 1 of {session_id} vanished: events are never deleted early")

    async def _complete_creation(self, session_id: str, first: Recorded) -> bool:
        """Insert HEAD over a durable event 1; return whether this node's insert made the session's HEAD."""
        state = begin(session_id, first)
        with self._capacity.place() as has_place:
            # A full or draining node accepts all the same, and leaves the session due at once for one that has room.
            head = self._new_head(state, takes_it=has_place and not self.is_draining)
            standing = await self.ports.heads.create(head)
            if standing.claim_nonce != head.claim_nonce:
                return False
            if head.owner is not None:
                await self._bring_up(head, state)
            return True

    def _new_head(self, state: SessionState, *, takes_it: bool) -> Head:
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
        )

    async def _bring_up(self, head: Head, state: SessionState | None) -> None:
        def factory(context: ActorContext[ActorMessage]) -> SessionActor:
            return SessionActor(context, self.ports, head, state)

        while True:
            try:
                await self._system.spawn(head.session_id, factory, supervisor=self._supervisor)
                return
            except DuplicateActor:
                # The one that lives here lost its claim: HEAD says so. It is replaced.
                await self._system.stop(head.session_id)
            except SystemDraining:
                await self.ports.heads.release(
                    head,
                    SessionStatus.RUNNING,
                    last_seq=head.last_seq,
                    at=head.updated_at,
                    wake_at=truncate_to_millis(self.ports.clock.now()),
                )
                return
