"""Carries effects out in the background, and reports how each ended as a message to the session's actor.

An effect is started only after the event that orders it is durable. Cancelling one is always allowed: it reports
nothing then, and the state decides whether it is owed again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, assert_never

from actors import Clock
from orchestrator.agent_calls import AgentHost, CallStores, RecordedCalls
from orchestrator.agents import Agent, AgentReply
from orchestrator.agents.usage import counts_in
from orchestrator.answers import TIMED_OUT, message_of
from orchestrator.artifacts import ArtifactTooLarge
from orchestrator.artifacts.payloads import PayloadStore, payload_key
from orchestrator.budgets import Price, priced
from orchestrator.callbacks import Callbacks
from orchestrator.errors import AgentFailed, NonRetryable, NotSerializable, describe, timed_out
from orchestrator.invocation import InvocationScope, invocation_for
from orchestrator.notifications import ApprovalNotice, Notifications
from orchestrator.payloads import PayloadTooLarge, copied, copied_object
from orchestrator.remote import RemoteFault
from orchestrator.session import messages as m
from orchestrator.session.events import ChildStarted, SessionStarted
from orchestrator.session.notices import CountUsage, EndChild, FreeSlot, Internal, StartNext, TellParent, end_of_child
from orchestrator.session.owed import CancelChild, CloseCallback, KeepTask, Publish, Ring, RunAgent, StartChild
from orchestrator.session.state import SessionState
from orchestrator.session.values import ErrorRecord, RetrySpec
from orchestrator.telemetry.port import SILENT, Telemetry
from orchestrator.tenant_budgets import TenantBudgets
from orchestrator.user_code import TimeLimit, belongs_to_runtime, enter

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

AgentLookup = Callable[[str], Agent | None]
SLEEP_SECONDS_MAX: Final = 3_600.0
"""Months are slept in hours: what the machine's clock is corrected by meanwhile is taken into account."""


class Outside(Protocol):
    """Other sessions, wherever they are, and the people who are asked."""

    async def start_child(self, state: SessionState, effect: StartChild) -> m.ChildEnded | None:
        """Have the child accepted. Return its end where that will not be told by the child itself; `None` else."""
        ...

    async def end_child(self, parent: str, started: SessionStarted, order: ChildStarted, message: m.Ending) -> None:
        """Ask the child to end, begun or not, if it is this parent's: one of somebody else's is left to them."""
        ...

    async def start_next(self, notice: StartNext) -> None:
        """Have the next generation accepted, and hand it what still waits in the inbox of the one before."""
        ...

    async def deliver(self, session_id: str, message: m.Delivered) -> None:
        """Return when the message is durable, or the session has ended or is unknown."""
        ...

    async def free_slot(self, notice: FreeSlot) -> None:
        """Give the slot back, and let the next one have it."""
        ...

    async def ask(self, state: SessionState, effect: Publish) -> ApprovalNotice | m.CallbackAnswered:
        """Return what people are to be told of an approval; or the answer, where one was decided already."""
        ...

    async def answer_to(self, effect: Publish) -> m.CallbackAnswered | None:
        """Return the answer to an approval that people know of, where one was decided already."""
        ...


Errand: TypeAlias = Ring | CloseCallback | StartChild | CancelChild | KeepTask
"""An effect that does not run user code."""


@dataclass(frozen=True, slots=True)
class Performer:
    """Carries effects out. `draw` returns a float from [0, 1), `callback_url` the address of a callback."""

    agents: AgentLookup
    clock: Clock
    draw: Callable[[], float]
    callbacks: Callbacks
    payloads: PayloadStore
    new_token: Callable[[], str]
    callback_url: Callable[[str], str]
    outside: Callable[[], Outside]
    notifications: Notifications
    budgets: TenantBudgets
    price_of: Callable[[str], Price | None]
    telemetry: Telemetry = SILENT

    async def run_errand(self, state: SessionState, effect: Errand) -> m.Message | None:
        """Do it, and return what the session is to be told of it; `None` for nothing."""
        match effect:
            case Ring():
                await self.sleep_until(effect.at)
                return effect.message
            case CloseCallback():
                await self.sleep_until(effect.at)
                return await self._close(effect)
            case StartChild():
                return await self.outside().start_child(state, effect)
            case CancelChild():
                ending = end_of_child(state)
                await self.outside().end_child(state.session_id, state.started, effect.order, ending)
                return None
            case KeepTask():
                await self.notifications.keep_task(effect.task_token)
                return None
            case _:
                assert_never(effect)

    async def tell(self, notice: Internal) -> None:
        """Tell other sessions of a session's end; returning means that it is durable where it was to go."""
        match notice:
            case TellParent():
                await self.outside().deliver(notice.parent, notice.message)
            case EndChild():
                await self.outside().end_child(notice.parent, notice.started, notice.order, notice.message)
            case FreeSlot():
                await self.outside().free_slot(notice)
            case StartNext():
                await self.outside().start_next(notice)
            case CountUsage():
                await self.budgets.count(notice.ended)
            case _:
                assert_never(notice)

    async def _close(self, effect: CloseCallback) -> m.Message:
        """Decide the callback as timed out; an answer that came before is the one that counts (rule 10)."""
        decided = await self.callbacks.decide(effect.callback_id, TIMED_OUT)
        if decided is None or decided.answer is None:
            # Nobody was ever given a token: the item was not written before its time was over.
            return m.CallbackAnswered(effect.callback_id, effect.operation, timed_out=True)
        return message_of(decided)

    async def sleep_until(self, instant: datetime) -> None:
        """Return once it is that time."""
        # A clock that is set back while we wait must not make it early.
        while (left := (instant - self.clock.now()).total_seconds()) > 0:
            await self.clock.sleep(min(left, SLEEP_SECONDS_MAX))

    async def run_agent(
        self, session_id: str, effect: RunAgent, host: AgentHost, log: FilteringBoundLogger
    ) -> m.AgentSucceeded | m.AgentAttemptFailed | m.TenantCapReached:
        """Return how the agent run went; or that it was not begun, because its tenant may spend no more.

        Raises:
            ArtifactUnreadable: its prompt is not in the bucket as it was: nothing was run.
            Unavailable: the bucket refuses us.
        """
        if effect.not_before is not None:
            retry = effect.order.retry or RetrySpec()
            await self.clock.sleep(retry.left_until(effect.not_before, self.clock.now()))
        refusal = await self.budgets.refusal(host.state(), (effect.operation, effect.attempt), host.begun())
        if refusal is not None:
            return refusal
        host.begin()
        agent = self.agents(effect.order.agent)
        if agent is None:
            error = ErrorRecord(AgentFailed.__name__, "UNKNOWN_AGENT", f"no agent {effect.order.agent!r} is registered")
            return self._failed(effect, error, is_retryable=False)
        prompt = copied(await self.payloads.open(effect.order.prompt))
        log.info("agent_started", operation=effect.operation, agent=effect.order.agent, attempt=effect.attempt)
        enter()
        seconds_left = self._seconds_left(effect)
        limit = TimeLimit(self.clock, seconds_left)
        price = self.price_of(effect.order.agent)
        calls = RecordedCalls(effect.operation, host, self._call_stores, partial(self._seconds_left, effect), price)
        try:
            async with limit:
                invocation = replace(
                    invocation_for(session_id, effect.operation, effect.attempt, host.tell, calls),
                    session_trace=host.state().started.trace,
                    is_over=lambda: limit.has_rung or not host.is_owed(),
                )
                with InvocationScope(invocation):
                    reply: AgentReply = await agent.run(prompt, copied_object(effect.order.kwargs))
        except (NotSerializable, PayloadTooLarge, NonRetryable) as error:
            return self._failed(effect, describe(error), is_retryable=False)
        except BaseException as error:
            # User code: what it raises is the attempt's outcome.
            if belongs_to_runtime(error):
                raise
            if limit.has_expired(error):
                return self._failed(effect, timed_out(effect.order.timeout or 0), is_retryable=True)
            least = error.retry_after if isinstance(error, RemoteFault) else None
            return self._failed(effect, describe(error), is_retryable=True, retry_after=least or 0.0)
        key = payload_key(session_id, f"{effect.operation}.{effect.attempt}")
        try:
            result = await self.payloads.seal(key, reply.result)
        except ArtifactTooLarge as error:
            return self._failed(effect, describe(error), is_retryable=False)
        return m.AgentSucceeded(effect.operation, effect.attempt, result, priced(counts_in(reply.usage), price))

    @property
    def _call_stores(self) -> CallStores:
        return CallStores(self.payloads, self.callbacks, self.clock, self.new_token, self.callback_url)

    def _seconds_left(self, effect: RunAgent) -> float | None:
        """Return what is left of the attempt's time: it runs from the order, whichever node it is carried out on."""
        if effect.order.timeout is None:
            return None
        elapsed = (self.clock.now() - effect.started_at).total_seconds()
        return max(0.0, effect.order.timeout - max(0.0, elapsed))

    def _failed(
        self, effect: RunAgent, error: ErrorRecord, *, is_retryable: bool, retry_after: float = 0.0
    ) -> m.AgentAttemptFailed:
        return m.AgentAttemptFailed(effect.operation, effect.attempt, error, is_retryable, self.draw(), retry_after)
