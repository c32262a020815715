"""What people see of sessions and events: the same JSON over HTTP and on the command line.

A view reads the journal, which is the truth; HEAD says only whether the session was accepted, and who has it.
"""

from __future__ import annotations

from orchestrator.cluster import Head, Heads
from orchestrator.errors import OrchestratorError
from orchestrator.journal import Journal, UnreadableEvent
from orchestrator.journal.codec import data_of, operation_of, type_name
from orchestrator.journal.folding import read_state
from orchestrator.session.events import Recorded
from orchestrator.session.state import Operation, SessionState
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import JsonObject, format_instant


class UnknownSession(OrchestratorError):
    """No session of that id was accepted."""

    code = "UNKNOWN_SESSION"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"no session {session_id!r:.150} was accepted")


async def session_view(heads: Heads, journal: Journal, session_id: str) -> JsonObject:
    """Return one session with its current operations, result, error and usage.

    Raises:
        UnknownSession: it was never accepted.
    """
    head = await heads.get(session_id)
    if head is None:
        raise UnknownSession(session_id)
    try:
        state = await read_state(journal, session_id)
    except UnreadableEvent as error:
        # The one case in which somebody surely looks: HEAD, and why there is no more.
        return {**head_view(head), "error": error_view(error)}
    return {**head_view(head), **({} if state is None else _state_view(head, state))}


def error_view(error: OrchestratorError) -> JsonObject:
    """Return an error as type, code and text."""
    return {"type": type(error).__name__, "code": error.code, "message": str(error)}


def head_view(head: Head) -> JsonObject:
    """Return a session as a listing shows it."""
    return {
        "session_id": head.session_id,
        "session_type": head.session_type,
        "tenant": head.tenant,
        "state": head.status.value,
        "created_at": format_instant(head.created_at),
        "updated_at": format_instant(head.updated_at),
    }


def event_view(recorded: Recorded) -> JsonObject:
    """Return an event with its place in the journal; `operation` is `None` for those of the whole session."""
    return {
        "seq": recorded.seq,
        "status": type_name(recorded.event),
        "at": format_instant(recorded.at),
        "operation": operation_of(recorded.event),
        "epoch": recorded.epoch,
        "node": recorded.node,
        "event_id": recorded.event_id,
        "data": data_of(recorded.event),
    }


def _state_view(head: Head, state: SessionState) -> JsonObject:
    # A terminal event that HEAD does not show yet is the end all the same: the journal leads.
    status = state.status if state.has_ended else head.status
    error: JsonObject | None = None
    if state.error is not None:
        error = {"type": state.error.type, "code": state.error.code, "message": state.error.message}
    elif status is SessionStatus.BLOCKED:
        error = {"type": "Blocked", "code": "BLOCKED", "message": str(head.attributes.get("blocked_error", ""))}
    return {
        "state": status.value,
        "updated_at": format_instant(state.updated_at),
        "current_operations": [_operation_view(op) for op in state.operations.values() if not op.is_settled],
        "result": state.result,
        "error": error,
        "usage": state.usage,
        "epoch": head.epoch,
        "owner": head.owner,
        "resumes": state.resumes,
    }


def _operation_view(operation: Operation) -> JsonObject:
    due = operation.next_attempt_at
    return {
        "operation": operation.operation_id,
        "kind": operation.kind.value,
        "phase": operation.phase.value,
        "attempt": operation.attempt,
        "since": format_instant(operation.changed_at),
        "next_attempt_at": None if due is None else format_instant(due),
    }
