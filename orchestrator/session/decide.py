"""`decide`: what a message changes. All rules of I2, I4, I5 and I9 live here and nowhere else.

Pure and total: every message has an answer in every state, and an unwelcome one (late, repeated, out of place) is
answered with no events; it is no error. Give a new message its arm here and its transitions in `transitions`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, assert_never

from orchestrator.session import budget, ending, holding, waiting
from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.decision import NOTHING, Decision
from orchestrator.session.state import SessionState
from orchestrator.session.transitions import SESSION_TRANSITIONS, OperationKind, Phase
from orchestrator.session.values import ErrorRecord, Json, RetrySpec, next_milli, payload_digest

EVENTS_WARNED_AT: Final = 5_000
EVENTS_MAX: Final = 25_000
"""A journal is read whole whenever its session is activated: a session that lives long continues as a new one."""
CLEAN_UP_EVENTS: Final = 100
"""So many more are left to the handler's clean-up and its undo steps, once it is stopped for the length."""


def decide(state: SessionState, message: m.Message, now: datetime) -> Decision:
    """Return the events that the message causes, in order; `()` where it changes nothing."""
    if state.has_ended or _is_overtaken_by_stop(state, message) or holding.is_held_back(state, message):
        return NOTHING
    events = _answer(state, message, now)
    if not events or type(events[-1]) in SESSION_TRANSITIONS:
        return events
    last_seq = state.last_seq + len(events)
    if last_seq >= EVENTS_MAX + CLEAN_UP_EVENTS:
        return (e.SessionFailed(error=ending.journal_too_long(_too_long())),)
    is_stopped = state.stop is not None or isinstance(events[-1], e.CancelRequested)
    if last_seq >= EVENTS_MAX and not is_stopped:
        return (*events, e.CancelRequested(_too_long(), cause="journal"))
    return events


def _is_overtaken_by_stop(state: SessionState, message: m.Message) -> bool:
    """Return whether the handler asked to begin something before it heard that the session is to end."""
    return state.stop is not None and isinstance(message, m.REQUESTS) and not message.knew_of_stop


def _answer(state: SessionState, message: m.Message, now: datetime) -> Decision:  # noqa: PLR0911, PLR0912 - one arm a message
    match message:
        case m.StepStarting():
            return _step_starting(state, message)
        case m.StepSucceeded():
            return _step_succeeded(state, message)
        case m.StepAttemptFailed():
            return _step_attempt_failed(state, message, now)
        case m.AgentRequested():
            return _agent_requested(state, message, now)
        case m.AgentSucceeded():
            return _agent_succeeded(state, message)
        case m.AgentAttemptFailed():
            return _agent_attempt_failed(state, message, now)
        case m.CallStarting() | m.CallEnded():
            return _call(state, message)
        case m.TimerRequested() | m.TimerDue() | m.SignalAwaited() | m.SignalSent():
            return waiting.decide_waiting(state, message, now)
        case m.CallbackRequested() | m.ApprovalAsked():
            return waiting.decide_callback(state, message, now)
        case m.CallbackAnswered():
            return budget.decide_answer(state, waiting.decide_callback(state, message, now))
        case m.ChildRequested() | m.ChildEnded():
            return waiting.decide_child(state, message)
        case m.PatchReached():
            return NOTHING if message.change_id in state.patches else (e.PatchRecorded(message.change_id),)
        case m.ProgressMade():
            return _progress_made(state, message)
        case m.PauseAsked() | m.ResumeAsked():
            return holding.decide_hold(state, message)
        case m.CancelAsked() | m.KillAsked() | m.Dismissed() | m.TimeLimitReached() | m.GraceOver():
            return ending.decide_stop(state, message, now)
        case m.WallTimeReached() | m.CallAtCap() | m.TenantCapReached():
            return budget.decide_cap(state, message, now)
        case m.HandlerReturned() | m.HandlerRaised() | m.HandlerContinued():
            return ending.decide_end(state, message)
        case m.CrashLoopDetected():
            return (e.SessionFailed(error=_crash_loop(message)),)
        case _:
            assert_never(message)


def same_start(recorded: e.SessionStarted, asked: e.SessionStarted) -> bool:
    """Return whether two starts of one session id ask for the same thing: then it is one session, one run (I4)."""
    return recorded.payload_sha256 == asked.payload_sha256


def start(
    session_type: str, tenant: str, payload: Json, *, trace: str | None, task_token: str | None
) -> e.SessionStarted:
    """Return the event that accepts such a session."""
    return e.SessionStarted(
        session_type=session_type,
        tenant=tenant,
        input=payload,
        payload_sha256=payload_digest(session_type, tenant, payload),
        trace=trace,
        task_token=task_token,
    )


def _step_starting(state: SessionState, message: m.StepStarting) -> Decision:
    operation = state.operations.get(message.operation)
    if operation is not None and (operation.kind, operation.phase) == (OperationKind.STEP, Phase.STARTED):
        # Only one run of the handler lives at a time, so a start that is recorded already is of a run that died
        # before its outcome was: whether the function ran is in doubt, and it must not run again (I5).
        return (e.StepFailed(operation=message.operation, error=_interrupted("step"), attempt=message.attempt),)
    if not state.allows(message.operation, e.StepStarted) or _is_other(state, message.operation, OperationKind.STEP):
        return NOTHING
    return (e.StepStarted(operation=message.operation, attempt=message.attempt),)


def _step_succeeded(state: SessionState, message: m.StepSucceeded) -> Decision:
    if not state.allows(message.operation, e.StepCompleted) or _is_stale(state, message):
        return NOTHING
    return (e.StepCompleted(operation=message.operation, result=message.result, attempt=message.attempt),)


def _step_attempt_failed(state: SessionState, message: m.StepAttemptFailed, now: datetime) -> Decision:
    if not state.allows(message.operation, e.StepFailed) or _is_stale(state, message):
        return NOTHING
    if _gives_up(message, message.retry):
        return (e.StepFailed(operation=message.operation, error=message.error, attempt=message.attempt),)
    due = next_milli(now + message.retry.delay_after(message.attempt, message.jitter))
    return (
        e.StepRetrying(operation=message.operation, error=message.error, attempt=message.attempt, next_attempt_at=due),
    )


def _agent_requested(state: SessionState, message: m.AgentRequested, now: datetime) -> Decision:
    if not state.allows(message.operation, e.AgentStarted):
        return NOTHING
    at_cap = budget.reached(state, now)
    if at_cap is not None:
        return budget.decide_refused_run(state, message.operation, at_cap, now)
    return (
        e.AgentStarted(
            operation=message.operation,
            agent=message.agent,
            prompt=message.prompt,
            kwargs=message.kwargs,
            timeout=message.timeout,
            retry=message.retry,
        ),
    )


def _agent_succeeded(state: SessionState, message: m.AgentSucceeded) -> Decision:
    if not state.allows(message.operation, e.AgentCompleted) or _is_stale(state, message):
        return NOTHING
    return (
        e.AgentCompleted(
            operation=message.operation, result=message.result, attempt=message.attempt, usage=message.usage
        ),
    )


def _agent_attempt_failed(state: SessionState, message: m.AgentAttemptFailed, now: datetime) -> Decision:
    operation = state.open_operations.get(message.operation)
    if operation is None or not state.allows(message.operation, e.AgentFailed) or _is_stale(state, message):
        return NOTHING
    retry = (operation.order.retry if isinstance(operation.order, e.AgentStarted) else None) or RetrySpec()
    failed = e.AgentFailed(operation=message.operation, error=message.error, attempt=message.attempt)
    if _gives_up(message, retry):
        return (failed,)
    due = next_milli(now + retry.delay_after(message.attempt, message.jitter, message.retry_after))
    retrying = e.AgentRetrying(
        operation=message.operation, error=message.error, attempt=message.attempt, next_attempt_at=due
    )
    return budget.decide_refused_retry(state, failed, retrying, now)


def _call(state: SessionState, message: m.CallStarting | m.CallEnded) -> Decision:
    """Decide about a call of an agent run, as long as that goes on."""
    operation, agent_run = message.operation, message.agent_run
    if not state.runs(agent_run) or _is_other(state, operation, OperationKind.CALL):
        return NOTHING
    if isinstance(message, m.CallStarting):
        known = state.operations.get(operation)
        if known is not None and (known.kind, known.phase) == (OperationKind.CALL, Phase.STARTED):
            # Of a run that died before the outcome was recorded: it is in doubt, as a step's is.
            return (e.StepFailed(operation, _interrupted("call"), attempt=1, agent_run=agent_run),)
        starts = state.allows(operation, e.StepStarted)
        return (e.StepStarted(operation, attempt=1, agent_run=agent_run),) if starts else NOTHING
    if not state.allows(operation, e.StepCompleted):
        return NOTHING
    if message.error is not None:
        return (e.StepFailed(operation, message.error, attempt=1, agent_run=agent_run),)
    return (e.StepCompleted(operation, message.result, attempt=1, usage=message.usage, agent_run=agent_run),)


def _progress_made(state: SessionState, message: m.ProgressMade) -> Decision:
    if not state.allows(message.operation, e.ProgressReported):
        return NOTHING
    return (
        e.ProgressReported(
            operation=message.operation, message=message.message, percent=message.percent, data=message.data
        ),
    )


def _is_stale(
    state: SessionState, message: m.StepSucceeded | m.StepAttemptFailed | m.AgentSucceeded | m.AgentAttemptFailed
) -> bool:
    """Return whether the outcome is of another attempt than the one under way, or of a call, which has its own."""
    operation = state.operations.get(message.operation)
    if operation is None:
        return message.attempt != 1
    return message.attempt != operation.attempt or operation.kind is OperationKind.CALL


def _is_other(state: SessionState, operation_id: str, kind: OperationKind) -> bool:
    """Return whether the operation is known as one of another kind."""
    operation = state.operations.get(operation_id)
    return operation is not None and operation.kind is not kind


def _gives_up(message: m.StepAttemptFailed | m.AgentAttemptFailed, retry: RetrySpec) -> bool:
    return not message.is_retryable or message.attempt >= retry.max_attempts


def _interrupted(what: str) -> ErrorRecord:
    text = f"the {what}'s node stopped before its outcome was recorded"
    return ErrorRecord("StepInterrupted", "STEP_INTERRUPTED", text)


def _crash_loop(message: m.CrashLoopDetected) -> ErrorRecord:
    text = f"{message.takeovers} nodes in a row died while they ran this session, and none recorded anything new"
    return ErrorRecord("CrashLoop", "CRASH_LOOP", text)


def _too_long() -> str:
    return (
        f"the journal has reached its {EVENTS_MAX} events: let the handler call ctx.continue_as_new(input) before that"
        f" (it was warned at {EVENTS_WARNED_AT})"
    )
