"""What one session has under way, against what its state owes: the set difference is started and cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from actors import ActorContext, ActorStopped, BackgroundTask, Cancelled, Failed, Outcome, Succeeded
from orchestrator.artifacts import ArtifactUnreadable
from orchestrator.errors import Stale, Unavailable
from orchestrator.owned_head import OwnedHead
from orchestrator.performer import Performer
from orchestrator.session import messages as m
from orchestrator.session.notices import Announce, Notice
from orchestrator.session.owed import (
    CLOSING,
    GRACE_KEY,
    HANDLER_KEY,
    LAST_GRACE_KEY,
    TIME_LIMIT_KEY,
    WALL_TIME_KEY,
    CloseCallback,
    Effect,
    EffectKey,
    KeepTask,
    Publish,
    Ring,
    RunAgent,
    RunHandler,
    owed,
    owed_for,
)
from orchestrator.session.state import Operation, SessionState
from orchestrator.session_ports import ActorMessage, Record, blocked_by
from orchestrator.telling import Telling

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

NAME_LENGTH_MAX: Final = 100


class InFlight:
    """The effects of one session that are carried out on this node."""

    log: FilteringBoundLogger

    def __init__(
        self,
        context: ActorContext[ActorMessage],
        performer: Performer,
        start_handler: Callable[[], BackgroundTask],
        head: OwnedHead,
    ) -> None:
        self._context = context
        self._performer = performer
        self._head = head
        self.telling = Telling(head, performer)
        self._start_handler = start_handler
        self._tasks: dict[str, dict[EffectKey, BackgroundTask]] = {}
        """By operation: what one event changes must cost the same among a thousand branches as for one."""
        self._at_work: set[EffectKey] = set()
        self._parked: set[EffectKey] = set()
        self._begun: dict[str, EffectKey] = {}
        """Agent runs by their operation; one whose attempt failed stays until its next one begins."""
        self._latest: dict[EffectKey, object] = {}
        """What tells the latest start of an effect from those before it, whose ends may come later."""
        self._is_shut = False
        self._performed: SessionState | None = None
        self._changed: list[str] = []

    @property
    def state(self) -> SessionState:
        """The session as it was last performed."""
        assert self._performed is not None, "nothing was started yet"
        return self._performed

    def tell_actor(self, message: ActorMessage) -> None:
        """Tell the session's own actor."""
        self._context.tell_self(message)

    @property
    def is_at_work(self) -> bool:
        """Whether anything is under way besides the handler and waiting."""
        return bool(self._at_work)

    def efforts(self) -> tuple[str, ...]:
        """Return the operations that something works for beside the handler; not what only waits."""
        return tuple({operation_id: None for operation_id, _ in self._at_work if operation_id})

    def changed(self, operation: Operation) -> None:
        """Note that an event changed the operation; `perform` looks at no others as long as the session goes on."""
        if operation.order is not None:
            self._changed.append(operation.operation_id)
        if operation.is_settled:
            self._begun.pop(operation.operation_id, None)
        if operation.agent_run is not None and operation.is_settled:
            self._unpark(operation.agent_run)

    def begin(self, run: EffectKey) -> None:
        """Note that an agent run was let begin."""
        self._begun[run[0]] = run

    def begun(self) -> Collection[EffectKey]:
        """Return the agent runs that were let begin here and have no outcome yet."""
        return self._begun.values()

    async def begin_after(self, first: Awaitable[None]) -> None:
        """Await that, and start nothing before it is done."""
        self._is_shut = True
        try:
            await first
        finally:
            self._is_shut = False

    def perform(self, state: SessionState) -> None:
        """Start what is owed and not under way, and cancel what is under way and no longer owed."""
        if self._is_shut:
            return
        before, self._performed = self._performed, state
        asked = None if before is None else before.spent.asking
        if asked is not None and state.spent.asking is None:
            for key in tuple(self._parked):
                self._forget(key)
        is_as_before = before is not None and before.stop is state.stop and asked is state.spent.asking
        if is_as_before and not state.has_ended:
            if self._changed:
                self._perform_changed(state)
            return
        self._changed.clear()
        wanted: dict[str, dict[EffectKey, Effect]] = {operation_id: {} for operation_id in self._tasks}
        for key, effect in owed(state).items():
            wanted.setdefault(key[0], {})[key] = effect
        for operation_id, effects in wanted.items():
            self._match(operation_id, effects, state)

    def _perform_changed(self, state: SessionState) -> None:
        changed, self._changed = self._changed, []
        for operation_id in changed:
            self._match(operation_id, owed_for(operation_id, state), state)

    def _match(self, operation_id: str, wanted: Mapping[EffectKey, Effect], state: SessionState) -> None:
        under_way = self._tasks.setdefault(operation_id, {})
        for key in under_way.keys() - wanted.keys():
            self._forget(key)
        for key, effect in wanted.items():
            if key not in under_way:
                under_way[key] = self._start(key, effect, state)
        if not under_way:
            del self._tasks[operation_id]

    def repeat(self, message: m.Message, state: SessionState) -> None:
        """Start anew the effect that ended in a message which decided nothing, if it is still owed.

        A handler that ended before it heard that the session is to end runs once more; an alarm that a clock set back
        made early is set again.
        """
        if isinstance(message, m.TenantCapReached) and state.spent.asking is not None:
            # It stays parked until people have answered.
            return
        for key in _ended_by(message):
            if key in self._tasks.get(key[0], ()):
                self._forget(key)
                self._performed = None
                self.perform(state)

    def tell(self, told: Sequence[Notice]) -> None:
        """Tell of the session's end, keep in its outbox what could not be told, and let the actor leave."""
        self._context.background.start("outbox", self._tell_all(told), self._all_told)

    def count_handler(self, *, as_busy: bool) -> None:
        """Let the handler count as busy, or not while it only waits."""
        handler = self._tasks.get(HANDLER_KEY[0], {}).get(HANDLER_KEY)
        if handler is not None:
            self._context.background.count(handler, as_busy=as_busy)

    def let_go(self) -> None:
        """Refer back to nobody: the actor has left."""
        self._start_handler = _left

    async def _tell_all(self, told: Sequence[Notice]) -> None:
        for notice in told:
            if not isinstance(notice, Announce):
                await self._performer.tell(notice)
        left = await self.telling.announce([each for each in told if isinstance(each, Announce)], self.log)
        await self._head.settle_outbox(left.outbox, left.wake_at, left.attributes)

    def _all_told(self, outcome: Outcome[None]) -> None:
        match outcome:
            case Failed(error=Stale()) | Succeeded() | Cancelled():
                self._context.stop()
            case Failed(error=error):
                raise error

    def _forget(self, key: EffectKey) -> None:
        self._tasks[key[0]].pop(key).cancel()
        self._latest.pop(key, None)
        self._at_work.discard(key)
        self._parked.discard(key)

    def is_owed(self, key: EffectKey) -> bool:
        """Return whether the effect was not cancelled because it is owed no more."""
        return key in self._tasks.get(key[0], ())

    def park(self, key: EffectKey) -> None:
        """Cancel an agent run that waits for an answer; it counts as under way, so that nothing starts it anew."""
        task = self._tasks.get(key[0], {}).get(key)
        if task is not None:
            self._parked.add(key)
            self._at_work.discard(key)
            task.cancel()

    def _unpark(self, agent_run: str) -> None:
        """Let a parked run start anew: one of its questions is answered."""
        for key in self._tasks.get(agent_run, {}).keys() & self._parked:
            self._forget(key)
            self._changed.append(agent_run)

    def _start(self, key: EffectKey, effect: Effect, state: SessionState) -> BackgroundTask:
        if isinstance(effect, RunHandler):
            return self._start_handler()
        self._latest[key] = start = object()
        waits_for_time = isinstance(effect, Ring | CloseCallback)
        if not waits_for_time:
            self._at_work.add(key)
        if isinstance(effect, Publish):
            return self._context.background.start(
                f"{type(effect).__name__} {key[0]}"[:NAME_LENGTH_MAX],
                self.telling.publish(state, effect, lambda: self._rests(key), self.log),
                lambda outcome: self._ended(key, start, outcome),
            )
        if isinstance(effect, RunAgent):
            name = f"agent {effect.operation}"
            return self._context.background.start(
                name[:NAME_LENGTH_MAX],
                self._performer.run_agent(state.session_id, effect, _Host(self, key), self.log),
                lambda outcome: self._ended(key, start, outcome),
            )
        return self._context.background.start(
            f"{type(effect).__name__} {key[0]}"[:NAME_LENGTH_MAX],
            self._performer.run_errand(state, effect),
            lambda outcome: self._ended(key, start, outcome),
            counts_as_busy=not waits_for_time and not isinstance(effect, KeepTask),
        )

    def _rests(self, key: EffectKey) -> None:
        """Let an effect count neither as work nor as busy: all that it does for now is wait."""
        self._at_work.discard(key)
        task = self._tasks.get(key[0], {}).get(key)
        if task is not None:
            self._context.background.count(task, as_busy=False)

    def _ended(self, key: EffectKey, start: object, outcome: Outcome[m.Message | None]) -> None:
        if self._latest.get(key) is not start and not isinstance(outcome, Failed):
            # It took its time to end after it was cancelled, and may have begun anew since: that one is what counts.
            return
        self._at_work.discard(key)
        if key in self._parked:
            # Whatever a library made of its cancellation: the run starts anew with the answer.
            return
        match outcome:
            case Succeeded(value=message):
                if isinstance(message, m.TenantCapReached):
                    self._parked.add(key)
                if message is not None:
                    self._context.tell_self(message)
            case Failed(error=(ArtifactUnreadable() | Unavailable()) as lost):
                self._context.tell_self(blocked_by(lost))
            case Failed(error=error):
                raise error
            case Cancelled():
                pass


@dataclass(frozen=True, slots=True)
class _Host:
    """The `AgentHost` of one run."""

    effects: InFlight
    key: EffectKey

    def state(self) -> SessionState:
        return self.effects.state

    def tell(self, message: m.Message) -> None:
        self.effects.tell_actor(message)

    async def record(self, message: m.Message) -> None:
        done = asyncio.get_running_loop().create_future()
        self.effects.tell_actor(Record(message, done))
        await done

    def begun(self) -> Collection[EffectKey]:
        return self.effects.begun()

    def begin(self) -> None:
        self.effects.begin(self.key)

    def is_owed(self) -> bool:
        return self.effects.is_owed(self.key)

    def park(self) -> None:
        self.effects.park(self.key)


def _left() -> BackgroundTask:
    raise ActorStopped("its actor has left")


def _ended_by(message: m.Message) -> tuple[EffectKey, ...]:
    """Return the keys of the effects that end in such a message."""
    match message:
        case m.HandlerReturned() | m.HandlerRaised() | m.HandlerContinued():
            return (HANDLER_KEY,)
        case m.TimerDue():
            return ((message.operation, CLOSING),)
        case m.TimeLimitReached():
            return (TIME_LIMIT_KEY,)
        case m.WallTimeReached():
            return (WALL_TIME_KEY,)
        case m.TenantCapReached():
            return ((message.operation, message.attempt),)
        case m.GraceOver():
            return (GRACE_KEY, LAST_GRACE_KEY)
        case _:
            return ()
