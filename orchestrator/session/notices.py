"""What the world is told of a session's end: derived from the state, kept in HEAD's outbox until it is acknowledged.

Other sessions and the tenant's slot come first; what people and systems outside hear (`Announce`) waits for none of it.
Only who wrote the end's HEAD under its own epoch tells it; each notice goes out under an id that its receiver can
recognise it by, so that telling it twice changes nothing (I6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.ending import first_generation
from orchestrator.session.mail import mail_to_carry
from orchestrator.session.spending import SPENT, carried_from
from orchestrator.session.state import PAUSED, SessionState
from orchestrator.session.transitions import OperationKind, SessionStatus
from orchestrator.session.values import ID_LENGTH_MAX, JsonObject

NEXT: Final = "next"
"""Stands in the outbox of a journal that goes on in another one until that has begun, and was told what is left."""


@dataclass(frozen=True, slots=True)
class TellParent:
    """The parent session waits for this end."""

    parent: str
    message: m.ChildEnded

    @property
    def notice_id(self) -> str:
        """What stands in the outbox."""
        return "parent"


@dataclass(frozen=True, slots=True)
class EndChild:
    """A child session that nobody waits for any more is to end; `seq` is that of the event which ordered it.

    `started` is the start of its parent.
    """

    parent: str
    started: e.SessionStarted
    seq: int
    order: e.ChildStarted
    message: m.Ending

    @property
    def notice_id(self) -> str:
        """What stands in the outbox."""
        # A parent may leave thousands of children, and the outbox stands in one item (I12): no name is short enough.
        return f"child:{self.seq}"


@dataclass(frozen=True, slots=True)
class StartNext:
    """The next generation is to start, with what the previous one leaves: its tenant's slot too, if it `has_slot`.

    `signals` are told to it after that.
    """

    previous: str
    session_id: str
    started: e.SessionStarted
    signals: tuple[e.SignalReceived, ...] = ()
    has_slot: bool = False

    @property
    def notice_id(self) -> str:
        """What stands in the outbox."""
        return NEXT


@dataclass(frozen=True, slots=True)
class FreeSlot:
    """The session's slot is to be given back; it is kept under the id that the session was accepted under."""

    tenant: str
    session_id: str

    @property
    def notice_id(self) -> str:
        """What stands in the outbox."""
        return "slot"


@dataclass(frozen=True, slots=True)
class Announce:
    """The world outside is to hear of the end, by the channel of that name."""

    channel: str
    ended: SessionState = field(repr=False)

    @property
    def notice_id(self) -> str:
        """What stands in the outbox."""
        return self.channel


@dataclass(frozen=True, slots=True)
class CountUsage:
    """What the session has spent is to be counted for its tenant."""

    ended: SessionState = field(repr=False)

    @property
    def notice_id(self) -> str:
        """What stands in the outbox."""
        return "usage"


Internal: TypeAlias = TellParent | EndChild | FreeSlot | StartNext | CountUsage
Notice: TypeAlias = Internal | Announce


def owed_of(state: SessionState, outbox: Sequence[str], *, has_slot: bool = False) -> tuple[Notice, ...]:
    """Return what an outbox still owes of that end, in order. What no other session is told is for a channel."""
    told = notices(state, has_slot=has_slot)
    left = tuple(notice for notice in told if notice.notice_id in outbox)
    known = {notice.notice_id for notice in told}
    return left + tuple(Announce(name, state) for name in outbox if name not in known)


def notices(state: SessionState, *, has_slot: bool = False, channels: Sequence[str] = ()) -> tuple[Notice, ...]:
    """Return what is to be told of this end, in order; `()` for nothing, or before it.

    `has_slot`: HEAD says that the session runs in a slot of its tenant. It goes after the children (rule 9).
    `channels`: by which the world outside is to hear of it.
    """
    if not state.has_ended:
        return ()
    return (*_internal(state, has_slot=has_slot), *(Announce(channel, state) for channel in channels))


def _internal(state: SessionState, *, has_slot: bool) -> tuple[Internal, ...]:
    told: list[Internal] = [
        EndChild(
            parent=state.session_id,
            started=state.started,
            seq=op.started_seq,
            order=op.order,
            message=end_of_child(state),
        )
        for op in state.open_operations.values()
        if op.kind is OperationKind.CHILD and isinstance(op.order, e.ChildStarted)
    ]
    if state.status is SessionStatus.CONTINUED:
        assert state.continued_as is not None, f"{state.session_id} continues as nothing"
        mail, left = mail_to_carry(state.mail)
        carried: JsonObject = {**(mail or {}), SPENT: carried_from(state.spent, state.usage)}
        if state.pause is not None:
            carried[PAUSED] = state.pause.reason
        told.append(StartNext(state.session_id, state.continued_as, _next_start(state, carried), left, has_slot))
        return (*told, *_spending(state))
    if has_slot:
        told.append(FreeSlot(state.started.tenant, first_generation(state.session_id)))
    if state.started.parent is not None and state.started.parent_operation is not None:
        told.append(TellParent(state.started.parent, child_ended(state, state.started.parent_operation)))
    return (*told, *_spending(state))


def _spending(state: SessionState) -> tuple[CountUsage, ...]:
    return (CountUsage(state),) if state.usage or state.spent.agent_calls else ()


def end_of_child(parent: SessionState) -> m.Ending:
    """Return the message by which a parent ends its child; the same one whenever it is sent, at its stop or its end.

    A parent that was killed kills: whoever did it wants all of it to end now.
    """
    message_id = f"parent:{parent.session_id}"[:ID_LENGTH_MAX]
    if parent.stop is None:
        return m.CancelAsked(message_id, "its parent session ended")
    if parent.stop.is_kill:
        return m.KillAsked(f"kill:{parent.session_id}"[:ID_LENGTH_MAX], parent.stop.reason)
    return m.CancelAsked(message_id, parent.stop.reason)


def child_ended(child: SessionState, operation: str) -> m.ChildEnded:
    """Return how a child's last generation ended, for the operation by which a parent waits for it."""
    return m.ChildEnded(
        message_id=f"child:{child.session_id}"[:ID_LENGTH_MAX],
        operation=operation,
        child_id=first_generation(child.session_id),
        result=child.result,
        error=child.error,
    )


def _next_start(state: SessionState, carried: JsonObject) -> e.SessionStarted:
    started = state.started
    return e.SessionStarted(
        session_type=started.session_type,
        tenant=started.tenant,
        input=state.next_input,
        payload_sha256=started.payload_sha256,
        trace=started.trace,
        task_token=started.task_token,
        parent=started.parent,
        parent_operation=started.parent_operation,
        time_limit=started.time_limit,
        patches=started.patches,
        carried=carried,
        budget=started.budget,
    )
