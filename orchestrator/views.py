"""What people see of sessions and events: the same JSON over HTTP and on the command line.

A view reads the journal, which is the truth; HEAD says only whether the session was accepted, and who has it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import assert_never

from orchestrator.artifacts import disclosed
from orchestrator.cluster import BLOCKED_ERROR, Head, Heads
from orchestrator.cluster.generations import latest_of
from orchestrator.errors import OrchestratorError
from orchestrator.inbox import UnknownSession
from orchestrator.journal import Journal, UnreadableEvent
from orchestrator.journal.codec import data_of, operation_of, type_name
from orchestrator.journal.folding import read_state
from orchestrator.notifications.tries import APPROVAL, tries_in, tries_view
from orchestrator.session import events as e
from orchestrator.session.budget import asks, limits, used, wall_time_over_at
from orchestrator.session.state import Operation, SessionState
from orchestrator.session.transitions import ENDED, SessionStatus
from orchestrator.session.values import Json, JsonObject, format_instant


async def session_view(
    heads: Heads, journal: Journal, session_id: str, *, opened: Callable[[Json], Awaitable[Json]] | None = None
) -> JsonObject:
    """Return one session with its current operations, result, error and usage: those of its latest generation.

    A result that stands in the bucket is shown as its reference, or as `opened` reads it (see `PayloadStore.open`).

    Raises:
        UnknownSession: it was never accepted.
    """
    head = await latest_head(heads, session_id)
    view = head_view(head) | {"undelivered": undelivered_view(head)}
    try:
        state = await read_state(journal, head.session_id)
    except UnreadableEvent as error:
        # The one case in which somebody surely looks: HEAD, and why there is no more.
        view["error"] = error_view(error)
    else:
        if state is not None:
            result = disclosed(state.result) if opened is None else await opened(state.result)
            view |= {**_state_view(head, state), "result": result}
    if head.session_id != session_id:
        # Whoever asks for a session by the id it was started under knows it by no other.
        view |= {"session_id": session_id, "continued_as": head.session_id}
    return view


async def latest_head(heads: Heads, session_id: str) -> Head:
    """Return HEAD of the session's latest generation that has begun. Raises `UnknownSession`."""
    head = await heads.get(session_id)
    if head is None:
        raise UnknownSession(session_id)
    return await latest_of(heads, head)


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


def undelivered_view(head: Head) -> list[Json]:
    """Return what a session still has to tell, or has given up (`next_try_at` is `None`): an entry a notification."""
    tries = tries_in(head.attributes)
    if head.status in ENDED:
        # What it asked people for is nobody's business any more.
        tries = {name: each for name, each in tries.items() if name in head.outbox or not name.startswith(APPROVAL)}
    due = None if head.wake_at is None else format_instant(head.wake_at)
    untried: JsonObject = {"attempts": 0, "since": None, "next_try_at": due, "last_error": None}
    entries = dict.fromkeys(head.outbox, untried) | {name: tries_view(each) for name, each in tries.items()}
    return [{"notification": name, **entry} for name, entry in entries.items()]


def event_view(session_id: str, recorded: e.Recorded) -> JsonObject:
    """Return an event with its place in the journal; `operation` is `None` for those of the whole session.

    Each names its session: lines of several sessions, or of the generations of one, stand in one file or stream.
    """
    return {
        "session_id": session_id,
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
    if state.is_paused and status in {SessionStatus.RUNNING, SessionStatus.SUSPENDED}:
        # HEAD shows it once what had begun has come to its end.
        status = SessionStatus.PAUSED
    error: JsonObject | None = None
    if state.error is not None:
        error = {"type": state.error.type, "code": state.error.code, "message": state.error.message}
    elif status is SessionStatus.BLOCKED:
        error = {"type": "Blocked", "code": "BLOCKED", "message": str(head.attributes.get(BLOCKED_ERROR, ""))}
    # As they were asked for: a hash map keeps no order. What an end left open waits for nothing any more.
    still_open = () if state.has_ended else (op for op in state.operations.values() if not op.is_settled)
    current = sorted(still_open, key=lambda op: op.started_seq)
    return {
        "state": status.value,
        "updated_at": format_instant(state.updated_at),
        "current_operations": [_operation_view(op) for op in current],
        "error": error,
        "usage": _usage_view(state),
        "budget": _budget_view(state),
        "continued_as": state.continued_as,
        "stop_requested": _stop_view(state),
        "pause_requested": _pause_view(state),
        "epoch": head.epoch,
        "owner": head.owner,
        "resumes": state.resumes,
    }


def _usage_view(state: SessionState) -> JsonObject | None:
    """Return what the session has spent, over all its generations; `None` for one that asked no agent."""
    if not state.usage and not state.spent.agent_calls:
        return None
    counts: JsonObject = {"agent_calls": state.spent.agent_calls, "agent_seconds": state.spent.agent_seconds}
    return {**(state.usage or {}), **counts}


def _budget_view(state: SessionState) -> JsonObject | None:
    """Return what the session may spend and what is left of it; `None` where nothing limits it."""
    if state.started.budget is None:
        return None
    spent, until = used(state), wall_time_over_at(state)
    caps: JsonObject = {
        cap: {"limit": limit, "used": spent[cap], "left": max(0, limit - spent[cap])}
        for cap, limit in limits(state).items()
    }
    return {
        "on_reached": "ask" if asks(state) else "fail",
        "caps": caps,
        "wall_time_until": None if until is None else format_instant(until),
        "grants": state.spent.grants,
    }


def _stop_view(state: SessionState) -> JsonObject | None:
    """Return since when and why a session that goes on is to end; `None` where it is not, and once it has."""
    stop = state.stop
    if stop is None or state.has_ended:
        return None
    return {"at": format_instant(stop.at), "cause": stop.cause, "reason": stop.reason}


def _pause_view(state: SessionState) -> JsonObject | None:
    """Return since when and why a session begins nothing new; `None` where it does."""
    if state.pause is None or not state.is_paused or state.has_ended:
        return None
    return {"at": format_instant(state.pause.at), "reason": state.pause.reason}


def _operation_view(operation: Operation) -> JsonObject:
    due = operation.next_attempt_at
    waits_for, until = _wait_view(operation)
    return {
        "operation": operation.operation_id,
        "kind": operation.kind.value,
        "phase": operation.phase.value,
        "attempt": operation.attempt,
        "since": format_instant(operation.changed_at),
        "next_attempt_at": None if due is None else format_instant(due),
        "waits_for": waits_for,
        "until": None if until is None else format_instant(until),
    }


def _wait_view(operation: Operation) -> tuple[JsonObject | None, datetime | None]:
    """Return what from outside the operation waits for, and until when; `None` for what runs, and for no end."""
    match operation.order:
        case e.TimerStarted(signal=None, fire_at=fire_at):
            return {"time": format_instant(fire_at)}, fire_at
        case e.TimerStarted(signal=name, fire_at=fire_at):
            return {"signal": name}, fire_at
        case e.CallbackCreated(callback_id=callback_id, times_out_at=until):
            return {"callback_id": callback_id}, until
        case e.ApprovalRequested(callback_id=callback_id, times_out_at=until) as asked:
            subject = disclosed(asked.subject)
            return {"callback_id": callback_id, "subject": subject, "approvers": asked.approvers}, until
        case e.ChildStarted(session_type=session_type, child_id=child_id):
            return {"session_id": child_id, "session_type": session_type, "link": f"/sessions/{child_id}"}, None
        case e.AgentStarted() | None:
            return None, operation.next_attempt_at
        case _:
            assert_never(operation.order)
