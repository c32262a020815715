"""Carries effects out in the background, and reports how each ended as a message to the session's actor.

An effect is started only after the event that orders it is durable. Cancelling one is always allowed: it reports
nothing then, and the state decides whether it is owed again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from actors import Clock
from orchestrator.agents import Agent, AgentReply
from orchestrator.context import InvocationScope, invocation_for
from orchestrator.errors import AgentFailed, NonRetryable, NotSerializable, OperationTimedOut, describe
from orchestrator.payloads import PayloadTooLarge, copied, copied_object
from orchestrator.session import messages as m
from orchestrator.session.owed import RunAgent
from orchestrator.session.values import ErrorRecord
from orchestrator.user_code import TimeLimit, belongs_to_runtime, enter

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

AgentLookup = Callable[[str], Agent | None]


@dataclass(frozen=True, slots=True)
class Performer:
    """Runs agents. `draw` returns a float from [0, 1)."""

    agents: AgentLookup
    clock: Clock
    draw: Callable[[], float]

    async def run_agent(
        self, session_id: str, effect: RunAgent, tell: Callable[[m.Message], None], log: FilteringBoundLogger
    ) -> m.AgentSucceeded | m.AgentAttemptFailed:
        """Return how the agent run went; raises nothing but cancellation."""
        if effect.not_before is not None:
            await self.clock.sleep(max(0.0, (effect.not_before - self.clock.now()).total_seconds()))
        agent = self.agents(effect.order.agent)
        if agent is None:
            error = ErrorRecord(AgentFailed.__name__, "UNKNOWN_AGENT", f"no agent {effect.order.agent!r} is registered")
            return self._failed(effect, error, is_retryable=False)
        log.info("agent_started", operation=effect.operation, agent=effect.order.agent, attempt=effect.attempt)
        enter()
        limit = TimeLimit(self.clock, self._seconds_left(effect))
        try:
            async with limit:
                with InvocationScope(invocation_for(session_id, effect.operation, effect.attempt, tell)):
                    reply: AgentReply = await agent.run(copied(effect.order.prompt), copied_object(effect.order.kwargs))
        except (NotSerializable, PayloadTooLarge, NonRetryable) as error:
            return self._failed(effect, describe(error), is_retryable=False)
        except BaseException as error:
            # User code: what it raises is the attempt's outcome.
            if belongs_to_runtime(error):
                raise
            if limit.has_expired(error):
                return self._failed(effect, _timed_out(effect), is_retryable=True)
            return self._failed(effect, describe(error), is_retryable=True)
        return m.AgentSucceeded(effect.operation, effect.attempt, reply.result, reply.usage)

    def _seconds_left(self, effect: RunAgent) -> float | None:
        """Return what is left of the attempt's time: it runs from the order, whichever node it is carried out on."""
        if effect.order.timeout is None:
            return None
        elapsed = (self.clock.now() - effect.started_at).total_seconds()
        return max(0.0, effect.order.timeout - max(0.0, elapsed))

    def _failed(self, effect: RunAgent, error: ErrorRecord, *, is_retryable: bool) -> m.AgentAttemptFailed:
        return m.AgentAttemptFailed(effect.operation, effect.attempt, error, is_retryable, self.draw())


def _timed_out(effect: RunAgent) -> ErrorRecord:
    within = timedelta(seconds=effect.order.timeout or 0)
    return ErrorRecord(OperationTimedOut.__name__, OperationTimedOut.code, f"no result within {within}")
