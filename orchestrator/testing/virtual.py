"""`environment(app)`: one node, all in memory, on time that stands still until a test lets it pass.

Time passes by itself only where a test asks for a result, and only while everything waits for time: then to the next
instant at which something happens. While a step or an agent runs, it stands still.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final
from weakref import WeakKeyDictionary

import structlog

from actors import ManualClock
from orchestrator.agents.local import LocalAgents
from orchestrator.app import AgentTarget, Orchestrator
from orchestrator.artifacts import ARTIFACT_BYTES_MAX
from orchestrator.artifacts.memory import MemoryArtifacts
from orchestrator.calls import Duration, seconds_of
from orchestrator.intake import Envelope
from orchestrator.intake.formats import Reader, StartBody, validated
from orchestrator.notifications import ApprovalNotice
from orchestrator.payloads import to_json
from orchestrator.reception import Reception
from orchestrator.session.values import JsonObject, compact_json, truncate_to_millis
from orchestrator.standstill import Work, check_loop, look_again, rest, work_under_way
from orchestrator.testing.errors import TimeStandsStill
from orchestrator.testing.node import Node, Setup, Tables, build_node
from orchestrator.testing.power import Power, powered
from orchestrator.testing.session import Session
from orchestrator.user_code import step_threads

STARTS_AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
THREADS_MAX: Final = 8
CALM_SECONDS: Final = 0.25
"""Real seconds that an async step or agent is waited for; one that takes longer counts as running on."""
PATIENCE_SECONDS: Final = 10.0
"""Real seconds that a test waits for a step or agent at most."""
RETRY_SECONDS: Final = 1.0
LEAVING_TURNS_MAX: Final = 1_000


@asynccontextmanager
async def environment(
    app: Orchestrator, *, agents: Mapping[str, object] | None = None, starts_at: datetime = STARTS_AT
) -> AsyncIterator[Environment]:
    """Run the application on one node in memory while the block runs, from that instant on.

    `agents` stand in for those of the same name that the application declares: a class, an instance or a function, as
    `@app.agent` takes them. The pauses of retries are not random here.

    Raises:
        ValueError: the application declares no agent of such a name.
        RuntimeError: the test runs on another event loop than asyncio's own.
    """
    check_loop()
    clock = ManualClock(starts_at)
    with step_threads(THREADS_MAX) as threads:
        made = Environment(app, clock, threads, _replaced(app, agents or {}))
        await made._rise()
        try:
            yield made
        finally:
            await made._fall()


class Environment:
    """One node of an application, in memory. Every call returns when all has happened that can without time."""

    def __init__(
        self,
        app: Orchestrator,
        clock: ManualClock,
        threads: ThreadPoolExecutor,
        agent_named: Callable[[str], AgentTarget | None],
    ) -> None:
        """Made by `environment`."""
        self._app = app
        self._clock = clock
        self._threads = threads
        self._agent_named = agent_named
        self._tables = Tables(clock)
        self._reader = Reader(app, lambda: str(self._tables.number()))
        self._turn = asyncio.Lock()
        self._seen: WeakKeyDictionary[object, float] = WeakKeyDictionary()
        self._power = Power()
        self._node = self._new_node()
        self._living: asyncio.Task[None] | None = None
        self._down = asyncio.Event()

    # --- for tests -----------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """What time it is here (UTC)."""
        return self._clock.now()

    @property
    def approvals(self) -> list[ApprovalNotice]:
        """What people were asked so far, in order."""
        return self._tables.notifications.approvals

    @property
    def artifacts(self) -> MemoryArtifacts:
        """The bucket."""
        return self._tables.artifacts

    async def start(
        self,
        session_type: str,
        input: object = None,  # noqa: A002 - as the contract names it
        *,
        key: str | None = None,
        session_id: str | None = None,
        tenant: str | None = None,
    ) -> Session:
        """Start a session as a message on the queue would; the same `key` and input give the same session.

        Raises:
            Poison: no such session type, or an input that does not fit; the text names the field.
            IdempotencyConflict: the key was used with another input.
        """
        body: StartBody = validated(
            {
                "session_type": session_type,
                "input": to_json(input, "input", bytes_max=ARTIFACT_BYTES_MAX),
                "idempotency_key": key,
                "session_id": session_id,
                "tenant": tenant,
            }
        )
        accepted = await self._node.router.start(self._reader.start(body, None))
        await self.rest()
        return Session(self, accepted.session_id)

    async def deliver(self, body: JsonObject | str) -> None:
        """Handle a message as the queue brings it: an S3 notification, an event of EventBridge, one of our own.

        Raises:
            Poison: it would go to the dead-letter queue; the text says why. What could be started was.
        """
        text = body if isinstance(body, str) else compact_json(body)
        node, log = self._node, structlog.get_logger("orchestrator")
        reception = Reception(node.router, node.deliveries, self._reader, self._tables.latest_writes, log)
        try:
            await reception.handle(Envelope(f"message-{self._tables.number()}", text))
        finally:
            await self.rest()

    def sessions(self, session_type: str) -> list[Session]:
        """Return the sessions of that type, in the order in which they were accepted."""
        heads = self._tables.heads.all()
        return [Session(self, head.session_id) for head in heads if head.session_type == session_type]

    def session(self, session_id: str) -> Session:
        """Return a session that was not started by the test: a child, say."""
        return Session(self, session_id)

    async def skip(self, duration: Duration) -> None:
        """Let that much time pass at once: timers fire in order, suspended sessions wake, timeouts strike.

        A sync step that this sets off is waited for, an async one as long as it takes no more than a quarter of a
        second of real time.
        """
        left = seconds_of(duration, "duration", allow_zero=True)
        async with self._turn:
            until = self._clock.monotonic() + left
            await self._rest()
            while (due := self._next_instant()) is not None and self._clock.monotonic() + due <= until:
                self._clock.advance(due)
                await self._rest()
            self._clock.advance(max(0.0, until - self._clock.monotonic()))
            await self._rest()

    async def restart(self) -> None:
        """Let the node die as of a power cut, with all that is in flight, and another one take its sessions over.

        Code that was running is cancelled; what it still does reaches nothing. Time does not pass.
        """
        async with self._turn:
            dead = self._node.node_id
            await self._fall()
            self._node = self._new_node()
            await self._rise()
            for head in self._tables.heads.all():
                if head.owner == dead:
                    await self._node.router.claim(head.session_id, owners=(dead,))
            await self._rest()

    # --- for the sessions' handles -------------------------------------------------------------------------------

    @property
    def node(self) -> Node:
        """The node that lives now."""
        return self._node

    @property
    def tables(self) -> Tables:
        """What outlives it."""
        return self._tables

    @property
    def app(self) -> Orchestrator:
        """The application."""
        return self._app

    async def rest(self) -> None:
        """Return when all has happened that can without time; what runs on is left running."""
        async with self._turn:
            await self._rest()

    async def until(self, met: Callable[[], bool], *, passing_time: bool) -> bool:
        """Return True once the condition holds; False if nothing happens any more that could make it hold.

        Raises:
            TimeStandsStill: a step or an agent runs for too long.
        """
        while True:
            async with self._turn:
                running = await self._rest()
                if met():
                    return True
                if running:
                    await self._outlast(running)
                    continue
                due = self._next_instant() if passing_time else None
                if due is None:
                    return False
                self._clock.advance(due)

    # --- time ----------------------------------------------------------------------------------------------------

    async def _rest(self) -> list[Work]:
        """Return when nothing more happens without time; return what runs nevertheless."""
        while True:
            await rest()
            if await self._attend():
                continue
            running = work_under_way()
            if not any(self._is_awaited(work) for work in running):
                return running
            await look_again()

    def _is_awaited(self, work: Work) -> bool:
        seconds = self._seconds_of(work)
        if work.ends_itself and seconds > PATIENCE_SECONDS:
            raise TimeStandsStill([work.name], PATIENCE_SECONDS)
        return work.ends_itself or seconds <= CALM_SECONDS

    async def _outlast(self, running: list[Work]) -> None:
        late = [work.name for work in running if self._seconds_of(work) > PATIENCE_SECONDS]
        if late:
            raise TimeStandsStill(late, PATIENCE_SECONDS)
        await look_again()

    def _seconds_of(self, work: Work) -> float:
        """Return for how long, in real seconds, the work has been seen."""
        now = asyncio.get_running_loop().time()
        return now - self._seen.setdefault(work.link, now)

    def _next_instant(self) -> float | None:
        """Return the seconds until something happens by time alone; `None` if nothing does."""
        now = truncate_to_millis(self._clock.now())
        due = [self._clock.next_due()]
        for head in self._tables.heads.all():
            if head.owner is None and head.wake_at is not None and head.wake_at > now:
                due.append((head.wake_at - self._clock.now()).total_seconds())
            elif head.owner == self._node.node_id and self._node.system.get(head.session_id) is None:
                due.append(RETRY_SECONDS)
        return min((seconds for seconds in due if seconds is not None), default=None)

    async def _attend(self) -> bool:
        """Do what a node's rescuer does: wake what is due, and take up what lost its actor; return whether it did."""
        router, own_id, has_claimed = self._node.router, self._node.node_id, False
        async for session_id in self._tables.wake_ups.take(own_id):
            await router.wake(session_id)
            has_claimed = True
        now = truncate_to_millis(self._clock.now())
        for head in self._tables.heads.all():
            if head.owner is None and head.wake_at is not None and head.wake_at <= now:
                has_claimed |= await router.claim(head.session_id, due_before=now) is not None
            elif head.owner == own_id and self._node.system.get(head.session_id) is None:
                may_retry = self._node.supervisor.may_retry(head.session_id)
                has_claimed |= may_retry and await router.claim(head.session_id, owners=(own_id,)) is not None
        return has_claimed

    # --- the node's life -----------------------------------------------------------------------------------------

    def _new_node(self) -> Node:
        self._power = Power()
        agents = LocalAgents(self._app, self._threads, self._clock, target_named=self._agent_named)
        setup = Setup(
            app=self._app,
            node_id=f"node-{self._tables.number()}",
            clock=self._clock,
            threads=self._threads,
            agents=agents.named,
            number=self._tables.number,
        )
        return build_node(setup, powered(self._tables.adapters, self._power))

    async def _rise(self) -> None:
        loop = asyncio.get_running_loop()
        up: asyncio.Future[None] = loop.create_future()
        self._down = asyncio.Event()
        # A task group cannot hold it: a fixture of pytest's may be entered in one task and left in another.
        self._living = loop.create_task(self._live(self._node, up, self._down), name=self._node.node_id)
        await up

    async def _live(self, node: Node, up: asyncio.Future[None], down: asyncio.Event) -> None:
        async with node.system:
            up.set_result(None)
            await down.wait()

    async def _fall(self) -> None:
        assert self._living is not None, "the node never lived"
        self._power.cut()
        self._down.set()
        for _ in range(LEAVING_TURNS_MAX):
            await rest()
            if self._living.done():
                await self._living
                return
            # Code that is slow to end is waited for on the node's clock, and nobody else moves that.
            self._clock.advance(min(self._clock.next_due() or 0.0, RETRY_SECONDS))
            await look_again()
        warnings.warn(f"code on {self._node.node_id} ignores its cancellation and is left behind", stacklevel=2)


def _replaced(app: Orchestrator, agents: Mapping[str, object]) -> Callable[[str], AgentTarget | None]:
    doubles = Orchestrator()
    for name, agent in agents.items():
        if app.agent_named(name) is None:
            raise ValueError(f"agents: the application declares no agent {name!r} that this could stand in for")
        doubles.agent(name)(agent)
    return lambda name: doubles.agent_named(name) or app.agent_named(name)
