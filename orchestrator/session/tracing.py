"""The spans of a session, made from its journal: who folds it has them, with the same ids on every node.

A session is one trace. Its own span is a child of whatever submitted it, and every operation's span a child of that.
None is kept while it is open: a span is made when its end is recorded, from what the state knows of its beginning, so
a session that waits for days holds none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Literal, NamedTuple, TypeAlias

from orchestrator.session import events as e
from orchestrator.session.ending import previous_generation
from orchestrator.session.spending import INPUT_TOKENS, OUTPUT_TOKENS, number_of
from orchestrator.session.state import Operation, SessionState
from orchestrator.session.transitions import OperationKind, SessionStatus
from orchestrator.session.values import ErrorRecord, JsonObject

Attribute: TypeAlias = str | int | float | bool
SpanKind: TypeAlias = Literal["consumer", "internal", "client"]
SESSION_ID: Final = "orchestrator.session.id"
OPERATION: Final = "orchestrator.operation"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
_ODD: Final = frozenset("13579bdf")
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
"""Trace id, parent id and flags (W3C Trace Context, "traceparent header"); ids of zeros alone are none."""


Attributes: TypeAlias = tuple[tuple[str, Attribute], ...]


@dataclass(frozen=True, slots=True, eq=False)
class SpanType:
    """What spans of many sessions have in common: made once for them all, so that it is encoded once, too."""

    name: str
    kind: SpanKind
    attributes: Attributes


ROOT: Final = "\n"
"""Names a session's own span. That of an operation is named by the operation's id, in which no line feed is."""


class Span(NamedTuple):
    """One span that has ended, of a session that was accepted under the trace `trace`, a `traceparent`.

    `which` of the session's spans it is, and which one is its parent, are names that `span_id` makes ids of: an id is a
    hash, and is made where the span is exported, not between two events of the session. `parent` is `None` for whatever
    the trace names. `links` are ids, of spans that came before it.

    `attributes` are what it has besides those of its type and its session's id. `error` is the stable code of what it
    failed with; its text may be payload, and stays in the journal.
    """

    type: SpanType
    session_id: str
    trace: str | None
    which: str
    parent: str | None
    started_at: datetime
    ended_at: datetime
    attributes: Attributes = ()
    error: str | None = None
    links: tuple[bytes, ...] = ()


def root_id(session_id: str) -> bytes:
    """Return the id of the session's own span."""
    return _digest_of(session_id)[:8]


def span_id(session_id: str, which: str) -> bytes:
    """Return the id (8 bytes) of one of the session's spans, the same on every node; `which` may be an operation."""
    # All zeros is no span id; no text is known to come to that.
    return blake2b(f"{session_id}\n{which}".encode(), digest_size=8).digest() if which != ROOT else root_id(session_id)


def attempt_span_id(session_id: str, operation: str, attempt: int) -> bytes:
    """Return the id of the span of one attempt at an agent run."""
    return span_id(session_id, _name_of_attempt(operation, attempt))


def traceparent_of(trace: str | None, parent_id: bytes) -> str | None:
    """Return the W3C `traceparent` by which others become children of that span; `None` without a trace."""
    parts = trace_parts(trace)
    return None if parts is None else f"00-{parts[0]}-{parent_id.hex()}-{parts[2]}"


def new_traceparent(session_id: str, at: datetime, *, sampled: bool) -> str:
    """Return the trace of a session that nobody else's trace led to: then it names the session's own span as parent.

    The id begins with the time in seconds, as X-Ray wants it ("Tracing header", "trace ID format").
    """
    digest = _digest_of(session_id).hex()
    # Eight digits, however wrong the clock is.
    return f"00-{int(at.timestamp()) & 0xFFFFFFFF:08x}{digest[16:]}-{digest[:16]}-{int(sampled):02x}"


@lru_cache(maxsize=4_096)
def is_sampled(trace: str | None) -> bool:
    """Return whether a session's spans are to be kept: decided when it was accepted, and the last bit of its trace."""
    parts = trace_parts(trace)
    return parts is not None and parts[2][-1] in _ODD


@lru_cache(maxsize=4_096)
def trace_parts(trace: str | None) -> tuple[str, str, str] | None:
    """Return a trace's id, its parent's id and its flags; `None` of what is no `traceparent`.

    A journal may hold any text there: a session goes on without a trace then, and never fails of it.
    """
    found = None if trace is None else _TRACEPARENT.fullmatch(trace)
    return None if found is None else (found[1], found[2], found[3])


def spans_since(state: SessionState, since: datetime) -> tuple[Span, ...]:
    """Return the spans of operations that ended after that instant: whoever was to tell of them may have died first."""
    settled = (op for op in state.operations.values() if op.is_settled and op.changed_at > since)
    return tuple(operation_span(state, op) for op in settled if op.kind is not OperationKind.PROGRESS)


def operation_span(
    state: SessionState, operation: Operation, began_at: datetime | None = None, usage: JsonObject | None = None
) -> Span:
    """Return the span of an operation that has ended; `usage` is what a model call within an agent run used."""
    operation_id, order, started = operation.operation_id, operation.order, state.started
    started_at, ended_at = operation.started_at, operation.changed_at
    if began_at is not None and began_at < started_at:
        started_at = began_at
    calls: str | None = None
    if isinstance(order, e.AgentStarted):
        calls = order.agent
    elif isinstance(order, e.ChildStarted):
        calls = order.session_type
    # By place: by name takes longer, and this runs whenever an operation ends.
    return Span(
        _operation_type(operation.kind, operation_id, operation.attempt, state.epoch, calls),
        state.session_id,
        started.trace,
        operation_id,
        ROOT if operation.agent_run is None else _name_of_caller(state, operation.agent_run),
        started_at,
        # The clock of a node that came later may be behind: no span ends before it began.
        started_at if ended_at < started_at else ended_at,
        () if usage is None else _usage_attributes(usage),
        None if operation.error is None else operation.error.code,
    )


def activation_span(state: SessionState, how: str, at: datetime) -> Span:
    """Return the span of the session's latest stay in a node's memory, which ended `how`; it follows the one before."""
    activation, session_id = state.activation, state.session_id
    before = activation.previous
    return Span(
        type=_activation_type(how, activation.node, activation.epoch),
        session_id=session_id,
        trace=state.started.trace,
        which=_name_of_activation(activation.seq),
        parent=ROOT,
        started_at=activation.at,
        ended_at=max(at, activation.at),
        links=() if before is None else (span_id(session_id, _name_of_activation(before)),),
    )


def session_span(state: SessionState) -> Span:
    """Return the span of a session that has ended."""
    started, session_id = state.started, state.session_id
    previous = previous_generation(session_id)
    return Span(
        type=_session_type(started.session_type, started.tenant, state.status, state.resumes),
        session_id=session_id,
        trace=started.trace,
        which=ROOT,
        parent=None,
        started_at=state.started_at,
        ended_at=max(state.updated_at, state.started_at),
        attributes=((CONVERSATION_ID, session_id), *_usage_attributes(state.usage)),
        # What a session was cancelled with is no fault of its own.
        error=_code(state.error) if state.status is SessionStatus.FAILED else None,
        links=() if previous is None else (root_id(previous),),
    )


AgentOutcome: TypeAlias = e.AgentCompleted | e.AgentFailed | e.AgentRetrying


def attempt_span(state: SessionState, was: Operation, event: AgentOutcome, at: datetime) -> Span:
    """Return the span of an attempt at an agent run, `was` before its end; it may have begun on a node before this."""
    agent = was.order.agent if isinstance(was.order, e.AgentStarted) else ""
    usage, error = (event.usage, None) if isinstance(event, e.AgentCompleted) else (None, event.error)
    return Span(
        type=_attempt_type(was.operation_id, was.attempt, agent),
        session_id=state.session_id,
        trace=state.started.trace,
        which=_name_of_attempt(was.operation_id, was.attempt),
        parent=was.operation_id,
        started_at=min(at, was.next_attempt_at or was.changed_at),
        ended_at=at,
        attributes=((CONVERSATION_ID, state.session_id), *_usage_attributes(usage)),
        error=_code(error),
    )


@lru_cache(maxsize=4_096)
def _operation_type(kind: OperationKind, operation_id: str, attempt: int, epoch: int, calls: str | None) -> SpanType:
    """Return the type of an operation's span; `calls` is the agent or the session type that it runs.

    Its name is one of few, so that spans of all sessions can be compared.
    """
    attributes: Attributes = (
        (OPERATION, operation_id),
        ("orchestrator.operation.kind", kind.value),
        ("orchestrator.epoch", epoch),
    )
    if attempt > 1:
        attributes += (("orchestrator.operation.attempts", attempt),)
    if calls is None:
        name = operation_id.rpartition("/")[2].partition("#")[0]
        return SpanType(f"{kind.value} {name}", "internal", attributes)
    if kind is OperationKind.AGENT:
        return SpanType(f"agent {calls}", "internal", attributes)
    return SpanType(f"run_session {calls}", "client", attributes)


@lru_cache(maxsize=4_096)
def _attempt_type(operation_id: str, attempt: int, agent: str) -> SpanType:
    attributes: Attributes = (
        (OPERATION, operation_id),
        ("orchestrator.operation.attempt", attempt),
        ("gen_ai.operation.name", "invoke_agent"),
        ("gen_ai.agent.name", agent),
    )
    return SpanType(f"invoke_agent {agent}", "client", attributes)


@lru_cache(maxsize=4_096)
def _activation_type(how: str, node: str, epoch: int) -> SpanType:
    attributes: Attributes = (
        ("orchestrator.activation.ended", how),
        ("orchestrator.node", node),
        ("orchestrator.epoch", epoch),
    )
    return SpanType("activation", "internal", attributes)


@lru_cache(maxsize=4_096)
def _session_type(session_type: str, tenant: str, status: SessionStatus, resumes: int) -> SpanType:
    attributes: Attributes = (
        ("orchestrator.session.type", session_type),
        ("orchestrator.tenant", tenant),
        ("orchestrator.session.status", status.value),
        ("orchestrator.session.resumes", resumes),
    )
    return SpanType(f"session {session_type}", "consumer", attributes)


def _name_of_attempt(operation: str, attempt: int) -> str:
    return f"{operation}\n{attempt}"


def _name_of_activation(seq: int) -> str:
    return f"\n{seq}"


def _name_of_caller(state: SessionState, agent_run: str) -> str:
    run = state.operations[agent_run]
    return _name_of_attempt(run.operation_id, run.attempt)


def _usage_attributes(usage: JsonObject | None) -> Attributes:
    """Return the tokens by their names in OpenTelemetry's semantic conventions ("Generative AI", spans)."""
    if not usage:
        return ()
    # Bounded as sums are: a number that has no room on the wire would cost all spans of its export.
    return tuple((name, number_of(usage, key)) for name, key in _TOKENS if isinstance(usage.get(key), int | float))


_TOKENS: Final = (("gen_ai.usage.input_tokens", INPUT_TOKENS), ("gen_ai.usage.output_tokens", OUTPUT_TOKENS))


def _code(error: ErrorRecord | None) -> str | None:
    return None if error is None else error.code


@lru_cache(maxsize=4_096)
def _digest_of(session_id: str) -> bytes:
    """Return what the ids of a session's trace and of its own span are cut from."""
    return blake2b(session_id.encode(), digest_size=20).digest()
