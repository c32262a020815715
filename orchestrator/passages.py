"""What passes from a journal to a handler, in the order of its events: outcomes of operations, and stops."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from orchestrator.session.spending import is_of_session
from orchestrator.session.state import Operation, SessionState, Stop
from orchestrator.session.transitions import OperationKind, Phase

RESULT_SUFFIX: Final = "/result"
"""Behind the id of a callback: its answer, which passes in a turn of its own."""
SUBMIT_SUFFIX: Final = "/submit"
"""Behind the id of a callback: the step that hands it out, in `wait_for_callback`."""


@dataclass(frozen=True, slots=True)
class Interruption:
    """A stop of the session: what the handler awaits then raises `SessionCancelled`; forced, the handler is ended."""

    changed_seq: int
    reason: str
    is_forced: bool


Passage: TypeAlias = Operation | Interruption
"""What passes the turnstile, one at a time, in the order of its event."""


def passages(operation: Operation) -> tuple[Operation, ...]:
    """Return what a handler gets of an operation: of a callback first the callback, then its answer."""
    if operation.kind is not OperationKind.CALLBACK:
        return (operation,)
    created = replace(
        operation, phase=Phase.COMPLETED, changed_at=operation.started_at, changed_seq=operation.started_seq, error=None
    )
    if not operation.is_settled:
        return (created,)
    return created, replace(operation, operation_id=f"{operation.operation_id}{RESULT_SUFFIX}")


def interruptions(stop: Stop | None) -> tuple[Interruption, ...]:
    """Return the interruptions that a stop is made of."""
    if stop is None:
        return ()
    first = Interruption(stop.seq, stop.reason, is_forced=False)
    if stop.forced_seq is None:
        return (first,)
    return first, Interruption(stop.forced_seq, stop.reason, is_forced=True)


def is_arrival(passage: Passage) -> bool:
    """Return whether nobody has to ask for it: a callback's answer comes whether the handler awaits it or not."""
    return isinstance(passage, Operation) and passage.operation_id.endswith(RESULT_SUFFIX)


def must_be_claimed(passage: Passage) -> bool:
    """Return whether a handler that matches its journal asks for it."""
    return isinstance(passage, Operation) and not is_arrival(passage)


def is_forced_stop(passage: Passage) -> bool:
    """Return whether it ends the handler."""
    return isinstance(passage, Interruption) and passage.is_forced


def operation_of(passage: Passage) -> str | None:
    """Return the operation's id; `None` for a stop."""
    return passage.operation_id if isinstance(passage, Operation) else None


@dataclass(frozen=True, slots=True)
class Past:
    """What a journal holds for a run that begins anew; the run takes from it what it has come past.

    `known` has each operation by its id, `outcomes` what passed, `unasked` what was ordered and is open still: the
    handler asks for these too before anything new begins. `begun` is what began before its outcome, by when it did:
    nothing later is handed over before the handler has asked for it.
    """

    known: dict[str, Operation] = field(default_factory=dict)
    outcomes: deque[Passage] = field(default_factory=deque)
    unasked: dict[str, Operation] = field(default_factory=dict)
    begun: deque[Operation] = field(default_factory=deque)


def past_of(state: SessionState) -> Past:
    """Return what the journal behind that state holds."""
    if not state.operations and state.stop is None:
        return Past()
    handlers = (op for op in state.operations.values() if op.agent_run is None and not is_of_session(op.operation_id))
    known = [each for operation in handlers for each in passages(operation)]
    settled = (op for op in known if op.is_settled and op.kind is not OperationKind.PROGRESS)
    outcomes: list[Passage] = [*settled, *interruptions(state.stop)]
    is_open = (op for op in sorted(known, key=lambda operation: operation.changed_seq) if not op.is_settled)
    began = (op for op in known if op.started_seq < op.changed_seq or not op.is_settled)
    asked_for = (op for op in began if not is_arrival(op))
    return Past(
        known={operation.operation_id: operation for operation in known},
        outcomes=deque(sorted(outcomes, key=lambda passage: passage.changed_seq)),
        unasked={op.operation_id: op for op in is_open},
        begun=deque(sorted(asked_for, key=lambda operation: operation.started_seq)),
    )
