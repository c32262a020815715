"""The spans of a session, made from its journal: who folds it has them, with the same ids on every node.

A session is one trace. Its own span is a child of whatever submitted it, and every operation's span a child of that.
None is kept while it is open: a span is made when its end is recorded, from what the state knows of its beginning, so
a session that waits for days holds none.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from orchestrator.session import events as e
from orchestrator.session.ending import previous_generation
from orchestrator.session.frozen import quick
from orchestrator.session.spending import INPUT_TOKENS, OUTPUT_TOKENS, number_of
from orchestrator.session.state import Operation, SessionState
from orchestrator.session.transitions import OperationKind, SessionStatus
from orchestrator.session.values import ErrorRecord, JsonObject

Attribute: TypeAlias = str | int | float | bool
SpanKind: TypeAlias = Literal["consumer", "internal", "client"]
SESSION_ID: Final = "orchestrator.session.id"
OPERATION: Final = "orchestrator.operation"
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
"""Trace id, parent id and flags (W3C Trace Context, "traceparent header"); ids of zeros alone are none."""


@quick
@dataclass(frozen=True, slots=True)
class Span:
    """One span that has ended. Ids are 16 hex digits; `links` are spans of the same trace that came before it.

    `error` is the stable code of what it failed with; its text may be payload, and stays in the journal.
    """

    span_id: str
    parent_id: str | None
    name: str
    kind: SpanKind
    started_at: datetime
    ended_at: datetime
    attributes: dict[str, Attribute]
    error: str | None = None
    links: tuple[str, ...] = ()


@lru_cache(maxsize=4_096)
def root_id(session_id: str) -> str:
    """Return the id of the session's own span."""
    return _id_of(session_id)


def operation_span_id(session_id: str, operation: str) -> str:
    """Return the id of an operation's span."""
    return _id_of(f"{session_id}\n{operation}")


def attempt_span_id(session_id: str, operation: str, attempt: int) -> str:
    """Return the id of the span of one attempt at an agent run."""
    return _id_of(f"{session_id}\n{operation}\n{attempt}")


def activation_span_id(session_id: str, seq: int) -> str:
    """Return the id of the span of a session's stay in one node's memory that began with that event."""
    return _id_of(f"{session_id}\n\n{seq}")


def traceparent_of(trace: str | None, span_id: str) -> str | None:
    """Return the W3C `traceparent` by which others become children of that span; `None` without a trace."""
    parts = trace_parts(trace)
    return None if parts is None else f"00-{parts[0]}-{span_id}-{parts[2]}"


def new_traceparent(session_id: str, at: datetime, *, sampled: bool) -> str:
    """Return the trace of a session that nobody else's trace led to: then it names the session's own span as parent.

    The id begins with the time in seconds, as X-Ray wants it ("Tracing header", "trace ID format").
    """
    digest = hashlib.sha256(f"trace\n{session_id}".encode()).hexdigest()
    return f"00-{int(at.timestamp()):08x}{digest[:24]}-{root_id(session_id)}-{int(sampled):02x}"


def is_sampled(trace: str | None) -> bool:
    """Return whether the trace's spans are to be kept: decided once, when the session was accepted."""
    parts = trace_parts(trace)
    return parts is not None and int(parts[2], 16) % 2 == 1


@lru_cache(maxsize=4_096)
def trace_parts(trace: str | None) -> tuple[str, str, str] | None:
    """Return a trace's id, its parent's id and its flags; `None` of what is no `traceparent`.

    A journal may hold any text there: a session goes on without a trace then, and never fails of it.
    """
    found = None if trace is None else _TRACEPARENT.fullmatch(trace)
    return None if found is None else (found[1], found[2], found[3])


def spans_after(
    before: SessionState | None, state: SessionState, recorded: e.Recorded, *, began_at: datetime | None = None
) -> tuple[Span, ...]:
    """Return the spans that an event has ended.

    `began_at` is when an operation began of which the journal holds its end alone, as of most steps.
    """
    event = recorded.event
    if state.has_ended and isinstance(event, _ENDS):
        last = (activation_span(state, "ended", recorded.at),) if state.activation.previous is not None else ()
        return (*last, _session_span(state))
    operation_id: str | None = getattr(event, "operation", None)
    operation = None if operation_id is None else state.operations.get(operation_id)
    if operation is None:
        return ()
    was = None if before is None else before.operations.get(operation.operation_id)
    attempts = () if was is None or not isinstance(event, _AGENTS) else (_attempt_span(state, was, event, recorded.at),)
    if operation.is_settled and operation.kind is not OperationKind.PROGRESS:
        usage = event.usage if isinstance(event, e.StepCompleted) else None
        return (*attempts, operation_span(state, operation, began_at, usage))
    return attempts


def spans_since(state: SessionState, since: datetime) -> tuple[Span, ...]:
    """Return the spans of operations that ended after that instant: whoever was to tell of them may have died first."""
    settled = (op for op in state.operations.values() if op.is_settled and op.changed_at > since)
    return tuple(operation_span(state, op) for op in settled if op.kind is not OperationKind.PROGRESS)


def operation_span(
    state: SessionState, operation: Operation, began_at: datetime | None = None, usage: JsonObject | None = None
) -> Span:
    """Return the span of an operation that has ended; `usage` is what a model call within an agent run used."""
    name, kind = _named(operation)
    started_at = operation.started_at if began_at is None else min(began_at, operation.started_at)
    attributes: dict[str, Attribute] = {
        SESSION_ID: state.session_id,
        OPERATION: operation.operation_id,
        "orchestrator.operation.kind": operation.kind.value,
        "orchestrator.epoch": state.epoch,
    }
    if operation.attempt > 1:
        attributes["orchestrator.operation.attempts"] = operation.attempt
    attributes |= _usage_attributes(usage)
    return Span(
        span_id=operation_span_id(state.session_id, operation.operation_id),
        parent_id=_parent_of(state, operation),
        name=name,
        kind=kind,
        started_at=started_at,
        # The clock of a node that came later may be behind: no span ends before it began.
        ended_at=max(operation.changed_at, started_at),
        attributes=attributes,
        error=_code(operation.error),
    )


def activation_span(state: SessionState, how: str, at: datetime) -> Span:
    """Return the span of the session's latest stay in a node's memory, which ended `how`; it follows the one before."""
    activation = state.activation
    links = () if activation.previous is None else (activation_span_id(state.session_id, activation.previous),)
    return Span(
        span_id=activation_span_id(state.session_id, activation.seq),
        parent_id=root_id(state.session_id),
        name="activation",
        kind="internal",
        started_at=activation.at,
        ended_at=max(at, activation.at),
        attributes={
            SESSION_ID: state.session_id,
            "orchestrator.activation.ended": how,
            "orchestrator.node": activation.node,
            "orchestrator.epoch": activation.epoch,
        },
        links=links,
    )


def _session_span(state: SessionState) -> Span:
    started = state.started
    parts = trace_parts(started.trace)
    parent = "" if parts is None else parts[1]
    own, previous = root_id(state.session_id), previous_generation(state.session_id)
    attributes: dict[str, Attribute] = {
        SESSION_ID: state.session_id,
        "orchestrator.session.type": started.session_type,
        "orchestrator.tenant": started.tenant,
        "orchestrator.session.status": state.status.value,
        "orchestrator.session.resumes": state.resumes,
        "gen_ai.conversation.id": state.session_id,
        **_usage_attributes(state.usage),
    }
    # What a session was cancelled with is no fault of its own.
    error = _code(state.error) if state.status is SessionStatus.FAILED else None
    return Span(
        span_id=own,
        parent_id=None if parent in {own, ""} else parent,
        name=f"session {started.session_type}",
        kind="consumer",
        started_at=state.started_at,
        ended_at=max(state.updated_at, state.started_at),
        attributes=attributes,
        error=error,
        links=() if previous is None else (root_id(previous),),
    )


def _attempt_span(state: SessionState, was: Operation, event: _AgentEvent, at: datetime) -> Span:
    """Return the span of one attempt at an agent run, which may have begun on a node before this one."""
    agent = was.order.agent if isinstance(was.order, e.AgentStarted) else ""
    attributes: dict[str, Attribute] = {
        SESSION_ID: state.session_id,
        OPERATION: was.operation_id,
        "orchestrator.operation.attempt": was.attempt,
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": agent,
        "gen_ai.conversation.id": state.session_id,
    }
    error: ErrorRecord | None = None
    if isinstance(event, e.AgentCompleted):
        attributes |= _usage_attributes(event.usage)
    else:
        error = event.error
    return Span(
        span_id=attempt_span_id(state.session_id, was.operation_id, was.attempt),
        parent_id=operation_span_id(state.session_id, was.operation_id),
        name=f"invoke_agent {agent}",
        kind="client",
        started_at=min(at, was.next_attempt_at or was.changed_at),
        ended_at=at,
        attributes=attributes,
        error=_code(error),
    )


_AgentEvent: TypeAlias = e.AgentCompleted | e.AgentFailed | e.AgentRetrying
_AGENTS: Final = (e.AgentCompleted, e.AgentFailed, e.AgentRetrying)
_ENDS: Final = (e.SessionCompleted, e.SessionFailed, e.SessionCancelled, e.SessionContinued)


def _named(operation: Operation) -> tuple[str, SpanKind]:
    """Return the name of an operation's span: of few values, so that spans of all sessions can be compared."""
    name = operation.operation_id.rpartition("/")[2].partition("#")[0]
    match operation.order:
        case e.AgentStarted(agent=agent):
            return f"agent {agent}", "internal"
        case e.ChildStarted(session_type=session_type):
            return f"run_session {session_type}", "client"
        case _:
            return f"{operation.kind.value} {name}", "internal"


def _parent_of(state: SessionState, operation: Operation) -> str:
    if operation.agent_run is None:
        return root_id(state.session_id)
    run = state.operations[operation.agent_run]
    return attempt_span_id(state.session_id, run.operation_id, run.attempt)


def _usage_attributes(usage: JsonObject | None) -> dict[str, Attribute]:
    """Return the tokens by their names in OpenTelemetry's semantic conventions ("Generative AI", spans)."""
    # Bounded as sums are: a number that has no room on the wire would cost all spans of its export.
    return {
        name: number_of(usage, key)
        for name, key in (("gen_ai.usage.input_tokens", INPUT_TOKENS), ("gen_ai.usage.output_tokens", OUTPUT_TOKENS))
        if isinstance((usage or {}).get(key), int | float)
    }


def _code(error: ErrorRecord | None) -> str | None:
    return None if error is None else error.code


def _id_of(text: str) -> str:
    # All zeros is no span id; no text is known to come to that.
    return hashlib.sha256(text.encode()).hexdigest()[:16]
