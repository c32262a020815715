"""`owed`: what the world must be doing for a session in this state, whatever message or crash led to it.

The shell starts what is owed and not in flight, and cancels what is in flight and no longer owed. That one set
difference is start, retry, recovery, takeover and cancel: there is no recovery code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final, TypeAlias, assert_never

from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.budget import waits_for_grant, wall_time_over_at
from orchestrator.session.ending import grace_over_at, time_limit_at
from orchestrator.session.frozen import quick
from orchestrator.session.state import Operation, SessionState


@dataclass(frozen=True, slots=True)
class RunHandler:
    """Drive the user's coroutine."""


@quick
@dataclass(frozen=True, slots=True)
class RunAgent:
    """Run an agent; `not_before` holds a retry back, `started_at` is when this attempt was ordered."""

    operation: str
    attempt: int
    order: e.AgentStarted
    started_at: datetime
    not_before: datetime | None


@dataclass(frozen=True, slots=True)
class Ring:
    """Tell the session that `at` has come."""

    at: datetime
    message: m.TimerDue | m.TimeLimitReached | m.WallTimeReached | m.GraceOver


@dataclass(frozen=True, slots=True)
class CloseCallback:
    """Decide the callback as timed out at `at`, unless somebody answers before."""

    operation: str
    callback_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class StartChild:
    """Have the child session accepted."""

    operation: str
    order: e.ChildStarted


@dataclass(frozen=True, slots=True)
class CancelChild:
    """Tell the child session to end."""

    operation: str
    order: e.ChildStarted


@dataclass(frozen=True, slots=True)
class Publish:
    """Tell people that an approval waits for them."""

    operation: str
    order: e.ApprovalRequested


@dataclass(frozen=True, slots=True)
class KeepTask:
    """Let the Step Functions task that waits for the session's end know that it goes on."""

    task_token: str = field(repr=False)


Effect: TypeAlias = RunHandler | RunAgent | Ring | CloseCallback | StartChild | CancelChild | Publish | KeepTask
EffectKey: TypeAlias = tuple[str, int]
"""What tells two effects apart: the operation (`""` for the handler), and its attempt or which of its effects."""

HANDLER_KEY: Final[EffectKey] = ("", 1)
TIME_LIMIT_KEY: Final[EffectKey] = ("", 2)
GRACE_KEY: Final[EffectKey] = ("", 3)
LAST_GRACE_KEY: Final[EffectKey] = ("", 4)
TASK_KEY: Final[EffectKey] = ("", 5)
WALL_TIME_KEY: Final[EffectKey] = ("", 6)
CLOSING: Final = 1
PUBLISHING: Final = 2
STARTING: Final = 1
CANCELLING: Final = 2

RUN_HANDLER: Final = RunHandler()
_HANDLER_ALONE: Final[Mapping[EffectKey, Effect]] = MappingProxyType({HANDLER_KEY: RUN_HANDLER})
_NOTHING: Final[Mapping[EffectKey, Effect]] = MappingProxyType({})


def owed(state: SessionState) -> Mapping[EffectKey, Effect]:
    """Return every effect that should be in flight, by key; empty for a session that ended."""
    if state.has_ended:
        return _NOTHING
    started = state.started
    asks_for_more = (started.time_limit, started.task_token, started.budget) != (None, None, None)
    if not state.open_operations and state.stop is None and not asks_for_more:
        return _HANDLER_ALONE
    effects: dict[EffectKey, Effect] = {HANDLER_KEY: RUN_HANDLER}
    effects.update(_of_session(state))
    # In the order of the journal: of two timers that fell due together, the one asked for first rings first, anywhere.
    for operation in sorted(state.open_operations.values(), key=lambda each: each.started_seq):
        effects.update(_effects(operation, state))
    return effects


def owed_for(operation_id: str, state: SessionState) -> Mapping[EffectKey, Effect]:
    """Return what `owed` returns, as far as it is owed for that operation alone."""
    operation = state.open_operations.get(operation_id)
    if operation is None or state.has_ended:
        return _NOTHING
    return dict(_effects(operation, state))


def next_instant(effects: Mapping[EffectKey, Effect]) -> datetime | None:
    """Return when time alone next asks something of the session; `None` where it never does."""
    return min((effect.at for effect in effects.values() if isinstance(effect, Ring | CloseCallback)), default=None)


def _of_session(state: SessionState) -> Iterator[tuple[EffectKey, Effect]]:
    """Yield what the session as a whole asks for: its alarms, and that its task is kept alive."""
    if state.started.task_token is not None:
        yield TASK_KEY, KeepTask(state.started.task_token)
    stop = state.stop
    if stop is None:
        limit = time_limit_at(state)
        if limit is not None:
            yield TIME_LIMIT_KEY, Ring(limit, m.TimeLimitReached())
        over_at = None if state.spent.asking is not None else wall_time_over_at(state)
        if over_at is not None:
            yield WALL_TIME_KEY, Ring(over_at, m.WallTimeReached())
    else:
        key = GRACE_KEY if stop.forced_at is None else LAST_GRACE_KEY
        yield key, Ring(grace_over_at(stop), m.GraceOver())


def _effects(operation: Operation, state: SessionState) -> Iterator[tuple[EffectKey, Effect]]:
    """Yield what an open operation asks for; one that a stop interrupted asks for no more than its child's end."""
    order, name = operation.order, operation.operation_id
    assert order is not None, f"{name} is open without an order"
    stop = state.stop
    is_interrupted = stop is not None and operation.started_seq < stop.seq
    if isinstance(order, e.ChildStarted):
        if is_interrupted:
            yield (name, CANCELLING), CancelChild(name, order)
        else:
            yield (name, STARTING), StartChild(name, order)
        return
    if is_interrupted:
        return
    match order:
        case e.AgentStarted():
            if not waits_for_grant(operation, state):
                yield (name, operation.attempt), _agent_run(operation, order)
        case e.TimerStarted():
            yield (name, CLOSING), Ring(order.fire_at, m.TimerDue(name))
        case e.CallbackCreated() | e.ApprovalRequested():
            if order.times_out_at is not None:
                yield (name, CLOSING), CloseCallback(name, order.callback_id, order.times_out_at)
            if isinstance(order, e.ApprovalRequested):
                yield (name, PUBLISHING), Publish(name, order)
        case _:
            assert_never(order)


def _agent_run(operation: Operation, order: e.AgentStarted) -> RunAgent:
    return RunAgent(
        operation=operation.operation_id,
        attempt=operation.attempt,
        order=order,
        started_at=operation.next_attempt_at or operation.changed_at,
        not_before=operation.next_attempt_at,
    )
