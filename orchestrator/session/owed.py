"""`owed`: what the world must be doing for a session in this state, whatever message or crash led to it.

The shell starts what is owed and not in flight, and cancels what is in flight and no longer owed. That one set
difference is start, retry, recovery, takeover and cancel: there is no recovery code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final, TypeAlias

from orchestrator.session.events import AgentStarted
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
    order: AgentStarted
    started_at: datetime
    not_before: datetime | None


Effect: TypeAlias = RunHandler | RunAgent
EffectKey: TypeAlias = tuple[str, int]
"""What tells two effects apart: the operation (`""` for the handler) and its attempt."""

RUN_HANDLER: Final = RunHandler()
_HANDLER_ALONE: Final[Mapping[EffectKey, Effect]] = MappingProxyType({("", 1): RUN_HANDLER})
_NOTHING: Final[Mapping[EffectKey, Effect]] = MappingProxyType({})


def owed(state: SessionState) -> Mapping[EffectKey, Effect]:
    """Return every effect that should be in flight, by key; empty for a session that ended."""
    if state.has_ended:
        return _NOTHING
    if not state.open_agents:
        return _HANDLER_ALONE
    agents = {(operation.operation_id, operation.attempt): _run(operation) for operation in state.open_agents.values()}
    return {**_HANDLER_ALONE, **agents}


def _run(operation: Operation) -> RunAgent:
    assert operation.order is not None, f"{operation.operation_id} has no order"
    return RunAgent(
        operation=operation.operation_id,
        attempt=operation.attempt,
        order=operation.order,
        started_at=operation.next_attempt_at or operation.changed_at,
        not_before=operation.next_attempt_at,
    )
