"""What people and systems outside are told of sessions: the notices, and `Notifications`, the protocol that tells them.

A notice has one id however often it is told, on whichever channel and by whichever node, so that its receivers can tell
a repetition (I6). To add a channel: a file of its own here, a name below, and an arm in `channels`; what a name means
stays, for it stands in outboxes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol, TypeAlias

from orchestrator.artifacts import disclosed
from orchestrator.errors import OrchestratorError
from orchestrator.session import events as e
from orchestrator.session.state import SessionState
from orchestrator.session.tracing import root_id, span_id, traceparent_of
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import ErrorRecord, Json

EVENTS: Final = "events"
"""The event bus."""
WEBHOOK: Final = "webhook"
TASK_TOKEN: Final = "task-token"
"""The Step Functions task that waits for the session's end."""
TOPIC: Final = "topic"
"""The SNS topic of those who approve."""
LOG: Final = "log"

SEND_SECONDS_MAX: Final = 10.0
"""A target that has not answered by then is tried again later. Under `OUTBOX_GRACE`, or another node would try too."""

KIND_OF_END: Final = {
    SessionStatus.COMPLETED: "Session Completed",
    SessionStatus.FAILED: "Session Failed",
    SessionStatus.CANCELLED: "Session Cancelled",
    SessionStatus.CONTINUED: "Session Continued",
}
APPROVAL_REQUESTED: Final = "Approval Requested"


class NotDelivered(OrchestratorError):
    """A channel did not take a notice; `reason` is a code. `is_final`: it never will, and is not to be asked again."""

    code = "NOT_DELIVERED"

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class EndNotice:
    """A session has ended, as `state` says; `result` is what it came to, or the reference to that in the bucket.

    `task_token` is to be answered, and told to nobody else.
    """

    notification_id: str
    session_id: str
    session_type: str
    tenant: str
    state: SessionStatus
    started_at: datetime
    ended_at: datetime
    result: Json
    error: ErrorRecord | None
    continued_as: str | None
    parent: str | None
    trace: str | None
    task_token: str | None = field(repr=False)

    @property
    def kind(self) -> str:
        """What it is called on every channel."""
        return KIND_OF_END[self.state]

    @property
    def at(self) -> datetime:
        """When what it tells of happened."""
        return self.ended_at


@dataclass(frozen=True, slots=True)
class ApprovalNotice:
    """A person is asked for an approval: `POST url` with the token answers it, and so does the command line.

    Each notice of one approval has the same id, and a token of its own; all of them work.
    """

    notification_id: str
    session_id: str
    session_type: str
    tenant: str
    name: str
    subject: Json
    approvers: Json
    requested_at: datetime
    times_out_at: datetime | None
    callback_id: str
    url: str
    trace: str | None
    token: str = field(repr=False)

    @property
    def kind(self) -> str:
        """What it is called on every channel."""
        return APPROVAL_REQUESTED

    @property
    def at(self) -> datetime:
        """When what it tells of happened."""
        return self.requested_at


WorldNotice: TypeAlias = EndNotice | ApprovalNotice


class Notifications(Protocol):
    """Tells the world, one channel at a time: what one of them cannot take holds up no other."""

    def of_end(self, ended: SessionState) -> tuple[str, ...]:
        """Return the channels on which that end is to be told; `()` for none."""
        ...

    def of_approval(self) -> tuple[str, ...]:
        """Return the channels on which people are asked for approvals."""
        ...

    async def tell(self, notice: WorldNotice, channel: str) -> None:
        """Return when the channel has taken the notice, or needs to hear it no more; within `SEND_SECONDS_MAX`.

        Raises:
            NotDelivered: it has not, or nobody knows.
        """
        ...

    async def keep_task(self, task_token: str) -> None:
        """Let Step Functions know now and then that the task goes on, until cancelled or it wants to hear no more.

        Returns at once where no interval is set.
        """
        ...


def end_notice(state: SessionState) -> EndNotice:
    """Return what the world is told of that end: always the same."""
    started = state.started
    return EndNotice(
        notification_id=notification_id(state.session_id),
        session_id=state.session_id,
        session_type=started.session_type,
        tenant=started.tenant,
        state=state.status,
        started_at=state.started_at,
        ended_at=state.updated_at,
        result=disclosed(state.result),
        error=state.error,
        continued_as=state.continued_as,
        parent=started.parent,
        trace=traceparent_of(started.trace, root_id(state.session_id)),
        task_token=started.task_token,
    )


def owes_task(ended: SessionState) -> bool:
    """Return whether a task waits for that end; a session that continues hands its task to the next generation."""
    return ended.started.task_token is not None and ended.status is not SessionStatus.CONTINUED


def approval_notice(state: SessionState, order: e.ApprovalRequested, *, url: str, token: str) -> ApprovalNotice:
    """Return what people are asked, with that link and that token."""
    return ApprovalNotice(
        notification_id=notification_id(state.session_id, order.operation),
        session_id=state.session_id,
        session_type=state.started.session_type,
        tenant=state.started.tenant,
        name=order.operation,
        subject=disclosed(order.subject),
        approvers=order.approvers,
        requested_at=state.operations[order.operation].changed_at,
        times_out_at=order.times_out_at,
        callback_id=order.callback_id,
        url=url,
        trace=traceparent_of(state.started.trace, span_id(state.session_id, order.operation)),
        token=token,
    )


def notification_id(session_id: str, operation: str | None = None) -> str:
    """Return the id of the notice of a session's end, or of what an operation of it asks: always the same one.

    Without a full stop, which parts an id from what follows in the signature of a webhook.
    """
    about = session_id if operation is None else f"{session_id}/{operation}"
    return f"ntf_{hashlib.sha256(about.encode()).hexdigest()[:32]}"
