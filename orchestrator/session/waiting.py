"""The part of `decide` for what a session waits for: timers, signals, callbacks, approvals, children.

As everywhere in `decide`: pure, total, and an unwelcome message decides nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_never

from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.decision import NOTHING, Decision
from orchestrator.session.state import Operation, SessionState
from orchestrator.session.values import next_milli


def decide_waiting(
    state: SessionState, message: m.TimerRequested | m.TimerDue | m.SignalAwaited | m.SignalSent, now: datetime
) -> Decision:
    """Decide about time and signals."""
    match message:
        case m.TimerRequested():
            if not state.allows(message.operation, e.TimerStarted):
                return NOTHING
            return (e.TimerStarted(message.operation, _later(now, message.seconds)),)
        case m.TimerDue():
            return _timer_due(state, message, now)
        case m.SignalSent():
            if state.mail.is_known(message):
                return NOTHING
            return (e.SignalReceived(message.name, message.message_id, message.data),)
        case m.SignalAwaited():
            return _signal_awaited(state, message, now)
        case _:
            assert_never(message)


def decide_callback(
    state: SessionState, message: m.CallbackRequested | m.ApprovalAsked | m.CallbackAnswered, now: datetime
) -> Decision:
    """Decide about answers from outside. Which answer counts was decided at the callback's item (rule 10)."""
    match message:
        case m.CallbackRequested():
            if not state.allows(message.operation, e.CallbackCreated) or not state.runs(message.agent_run):
                return NOTHING
            due = _due(now, message.timeout)
            return (e.CallbackCreated(message.operation, message.callback_id, due, message.agent_run),)
        case m.ApprovalAsked():
            if not state.allows(message.operation, e.ApprovalRequested) or not state.runs(message.agent_run):
                return NOTHING
            return (
                e.ApprovalRequested(
                    operation=message.operation,
                    callback_id=message.callback_id,
                    subject=message.subject,
                    approvers=message.approvers,
                    times_out_at=_due(now, message.timeout),
                    agent_run=message.agent_run,
                ),
            )
        case m.CallbackAnswered():
            return _callback_answered(state, message)
        case _:
            assert_never(message)


def decide_child(state: SessionState, message: m.ChildRequested | m.ChildEnded) -> Decision:
    """Decide about sessions that this one started."""
    match message:
        case m.ChildRequested():
            if not state.allows(message.operation, e.ChildStarted):
                return NOTHING
            return (e.ChildStarted(message.operation, message.session_type, message.child_id, message.input),)
        case m.ChildEnded():
            operation = state.operations.get(message.operation)
            if not _is_waiting(operation) or _child_of(operation) != message.child_id:
                return NOTHING
            if message.error is not None:
                return (e.ChildFailed(message.operation, message.error),)
            return (e.ChildCompleted(message.operation, message.result),)
        case _:
            assert_never(message)


def _timer_due(state: SessionState, message: m.TimerDue, now: datetime) -> Decision:
    operation = state.operations.get(message.operation)
    order = None if operation is None else operation.order
    if not isinstance(order, e.TimerStarted) or not state.allows(message.operation, e.TimerFired):
        return NOTHING
    # A clock that was set back since the timer was armed: it is armed again, for the instant that the journal holds.
    return (e.TimerFired(message.operation),) if now >= order.fire_at else NOTHING


def _signal_awaited(state: SessionState, message: m.SignalAwaited, now: datetime) -> Decision:
    if not state.allows(message.operation, e.ValueRecorded):
        return NOTHING
    signal = state.mail.next_signal(message.name)
    if signal is not None:
        return (e.ValueRecorded(message.operation, {"signal": signal.name, "message_id": signal.message_id}),)
    if message.timeout is None or not state.allows(message.operation, e.TimerStarted):
        return NOTHING
    return (e.TimerStarted(message.operation, _later(now, message.timeout), signal=message.name),)


def _callback_answered(state: SessionState, message: m.CallbackAnswered) -> Decision:
    # What an agent run asked is open no more once that has ended.
    operation = state.open_operations.get(message.operation)
    order = None if operation is None else operation.order
    if not isinstance(order, e.CallbackCreated | e.ApprovalRequested):
        return NOTHING
    if order.callback_id != message.callback_id:
        return NOTHING
    if message.timed_out:
        return (e.CallbackTimedOut(message.operation),)
    if message.error is not None:
        return (e.CallbackFailed(message.operation, message.error),)
    return (e.CallbackCompleted(message.operation, message.result),)


def _is_waiting(operation: Operation | None) -> bool:
    return operation is not None and not operation.is_settled


def _child_of(operation: Operation | None) -> str | None:
    order = None if operation is None else operation.order
    return order.child_id if isinstance(order, e.ChildStarted) else None


def _due(now: datetime, timeout: float | None) -> datetime | None:
    return None if timeout is None else _later(now, timeout)


def _later(now: datetime, seconds: float) -> datetime:
    return next_milli(now + timedelta(seconds=seconds))
