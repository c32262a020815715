"""A cluster in memory for the engine tests: one table that outlives its nodes, time that a test moves, power cuts.

To change it: no test logic here, and no second engine: sessions run on the real router, actors and adapters in memory.
A `World` is what a crash leaves behind; a `Node` is what it takes away.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from engine_line import (
    HEAD_WRITES,
    INBOX_WRITES,
    JOURNAL_WRITES,
    PATIENCE_SECONDS,
    QUOTA_WRITES,
    USAGE_WRITES,
    Line,
    at_the_end_of,
)
from structlog.testing import capture_logs
from structlog.typing import EventDict

from actors import ManualClock, settle
from actors.signals import Signal
from orchestrator import Orchestrator, SessionContext
from orchestrator.agents import Connections
from orchestrator.agents.local import LocalAgents
from orchestrator.artifacts.memory import MemoryArtifacts
from orchestrator.callbacks.memory import MemoryCallbacks
from orchestrator.cluster import Head
from orchestrator.cluster.memory import MemoryHeads
from orchestrator.inbox.memory import MemoryInbox, MemoryWakeUps
from orchestrator.intake import Start
from orchestrator.journal.codec import operation_of, type_name
from orchestrator.journal.memory import MemoryJournal
from orchestrator.notifications.memory import MemoryNotifications
from orchestrator.pokes.memory import MemoryPokes
from orchestrator.router import Accepted
from orchestrator.session.events import (
    Event,
    Recorded,
    SessionCancelled,
    SessionCompleted,
    SessionContinued,
    SessionFailed,
)
from orchestrator.session.state import SessionState, replay
from orchestrator.session.transitions import ENDED, SessionStatus
from orchestrator.session.values import ErrorRecord, Json, canonical_json
from orchestrator.telemetry.port import SILENT, Telemetry
from orchestrator.tenants.memory import MemoryQuotas
from orchestrator.testing.node import Adapters, Setup, build_node
from orchestrator.testing.node import Node as BuiltNode
from orchestrator.usage.memory import MemoryUsage
from orchestrator.user_code import step_threads

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PAYLOAD_BYTES_MAX = 10_000
THREADS_MAX = 2
BUCKET = "bucket"

T = TypeVar("T")
Handler = Callable[..., Coroutine[Any, Any, object]]


class Node:
    """One node of a world: its router and actors, and a line that can be cut."""

    def __init__(self, built: BuiltNode, line: Line) -> None:
        self.node_id = built.node_id
        self.router = built.router
        self.system = built.system
        self.deliveries = built.deliveries
        self.capacity = built.capacity
        self.line = line

    async def start(
        self, payload: Json = None, *, session_id: str = "s", session_type: str = "main", tenant: str = "default"
    ) -> Accepted:
        """Start a session as the intake would."""
        size = len(canonical_json(payload))
        return await self.router.start(Start(session_type, session_id, tenant, payload, input_bytes=size))

    async def claim(self, session_id: str = "s", *, dead_owner: str | None = None, only_unowned: bool = False) -> bool:
        """Take the session over as the rescuer would, and let it go as far as it goes without time passing."""
        owners = () if only_unowned else (self.node_id if dead_owner is None else dead_owner,)
        met = await self.router.claim(session_id, owners=owners)
        await settle()
        return met is not None

    def crash(self) -> None:
        """Lose power: from here on nothing this node does reaches the table."""
        self.line.cut()


class World:
    """A table and a clock. `standing` is each HEAD as last written by a node."""

    def __init__(self, *, tenant_limit: int = 0) -> None:
        self.clock = ManualClock(NOON)
        self.journal = MemoryJournal()
        self.heads = MemoryHeads()
        self.quotas = MemoryQuotas(self.heads, limit_default=tenant_limit)
        self.usage = MemoryUsage()
        self.inbox = MemoryInbox()
        self.wake_ups = MemoryWakeUps()
        self.callbacks = MemoryCallbacks(clock=self.clock)
        self.artifacts = MemoryArtifacts(BUCKET)
        self.notifications = MemoryNotifications()
        self.pokes = MemoryPokes()
        self.passivate_after = 30.0
        self.changed = Signal()
        self.standing: dict[str, Head] = {}
        self._captures: list[list[EventDict]] = []
        self.jitter = 0.5
        self.connections: Connections | None = None
        self.telemetry: Telemetry = SILENT
        self._numbers = itertools.count(1)

    def number(self) -> int:
        """Return a number that was never returned before."""
        return next(self._numbers)

    @asynccontextmanager
    async def node(
        self, app: Orchestrator, node_id: str = "node-1", *, sessions_max: int = 1_000
    ) -> AsyncIterator[Node]:
        """Run a node; leaving the block stops it in order, unless it crashed before."""
        line = Line(self.changed)
        adapters = Adapters(
            journal=at_the_end_of(line, self.journal, writes=JOURNAL_WRITES, reads=frozenset({"read"})),
            heads=at_the_end_of(line, self.heads, writes=HEAD_WRITES, reads=frozenset({"get"}), standing=self.standing),
            inbox=at_the_end_of(line, self.inbox, writes=INBOX_WRITES, reads=frozenset({"read"}), prefix="inbox_"),
            wake_ups=self.wake_ups,
            callbacks=self.callbacks,
            quotas=at_the_end_of(line, self.quotas, writes=QUOTA_WRITES, standing=self.standing),
            usage=at_the_end_of(line, self.usage, writes=USAGE_WRITES, prefix="usage_"),
            artifacts=self.artifacts,
            notifications=self.notifications,
            pokes=self.pokes,
        )
        with self._capturing(), step_threads(THREADS_MAX) as threads:
            setup = Setup(
                app=app,
                node_id=node_id,
                clock=self.clock,
                threads=threads,
                agents=LocalAgents(app, threads, self.clock, connections=self.connections).named,
                number=self.number,
                draw=lambda: self.jitter,
                inline_bytes_max=PAYLOAD_BYTES_MAX,
                sessions_max=sessions_max,
                passivate_after=self.passivate_after,
                telemetry=self.telemetry,
            )
            built = build_node(setup, adapters)
            built.capacity.subscribe(self.changed.fire)
            async with built.system:
                await built.router.slots.refresh()
                yield Node(built, line)

    async def run(self, app: Orchestrator, payload: Json = None) -> Event:
        """Start session `s` on a node of its own and return its terminal event; time passes as it is needed."""
        async with self.node(app) as node:
            await node.start(payload)
            await self.play()
            return await self.end()

    async def resume(self, app: Orchestrator, *, node_id: str = "node-2", dead_owner: str | None = "node-1") -> Event:
        """Take session `s` over on a node of its own and return its terminal event; time passes as it is needed."""
        async with self.node(app, node_id) as node:
            assert await node.claim(dead_owner=dead_owner)
            await self.play()
            return await self.end()

    async def play(self, session_id: str = "s") -> None:
        """Let time pass, second by second and at most a few minutes, until the session has ended or is blocked."""
        await settle()
        for _ in range(200):
            if self._status(session_id) in ENDED | {SessionStatus.BLOCKED}:
                return
            await self.pass_time(1)

    async def end(self, session_id: str = "s") -> Event:
        """Return the session's terminal event once HEAD shows the end; time does not pass meanwhile."""
        await self.until(lambda: self._status(session_id) in ENDED)
        last = (await self.recorded(session_id))[-1].event
        assert isinstance(last, SessionCompleted | SessionFailed | SessionCancelled | SessionContinued), last
        return last

    async def blocked(self, session_id: str = "s") -> str:
        """Return the error once HEAD shows BLOCKED; time does not pass meanwhile."""
        await self.until(lambda: self._status(session_id) is SessionStatus.BLOCKED)
        return str(self.standing[session_id].attributes["blocked_error"])

    async def until(self, met: Callable[[], bool]) -> None:
        """Return once the condition holds; it is looked at whenever a node has written or an actor ended."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self.changed.until(met)
        except TimeoutError:
            raise AssertionError(f"it never came to that; errors logged: {self.errors_logged()}") from None
        await settle()

    async def pass_time(self, seconds: float) -> None:
        """Let so many seconds pass, and what they set off run."""
        self.clock.advance(seconds)
        await settle()

    async def recorded(self, session_id: str = "s") -> list[Recorded]:
        """Return the journal."""
        return [recorded async for recorded in self.journal.read(session_id)]

    async def story(self, session_id: str = "s") -> list[str]:
        """Return the journal as people read it: `STEP_COMPLETED a`."""
        events = [recorded.event for recorded in await self.recorded(session_id)]
        return [" ".join([type_name(event), *filter(None, [operation_of(event)])]) for event in events]

    async def state(self, session_id: str = "s") -> SessionState:
        """Return the fold of the journal."""
        state = replay(session_id, await self.recorded(session_id))
        assert state is not None
        return state

    async def head(self, session_id: str = "s") -> Head:
        """Return HEAD."""
        head = await self.heads.get(session_id)
        assert head is not None
        return head

    async def as_of(self, seq: int, session_id: str = "s") -> "World":
        """Return another world in which everybody died right after event `seq` was durable."""
        kept = (await self.recorded(session_id))[:seq]
        head = await self.head(session_id)
        earlier = World()
        earlier.clock = ManualClock(kept[-1].at)
        earlier.callbacks = MemoryCallbacks(clock=earlier.clock)
        earlier.artifacts.objects.update(self.artifacts.objects)
        earlier._numbers = itertools.count(10_000)
        await earlier.journal.append(session_id, kept, started_at=kept[0].at)
        await earlier.heads.create(
            Head(
                session_id=session_id,
                session_type=head.session_type,
                tenant=head.tenant,
                status=SessionStatus.RUNNING,
                owner="node-1",
                epoch=kept[-1].epoch,
                last_seq=1,
                inbox_version=0,
                claim_nonce="n",
                takeovers=0,
                created_at=head.created_at,
                updated_at=head.created_at,
            )
        )
        return earlier

    @property
    def logs(self) -> list[EventDict]:
        """Return what all nodes logged, in order as long as one ran at a time."""
        return [line for lines in self._captures for line in lines]

    def logged(self, event: str) -> list[EventDict]:
        """Return the log lines of that name."""
        return [line for line in self.logs if line["event"] == event]

    def failures(self) -> list[type[BaseException]]:
        """Return what actors failed of, in order."""
        return [type(line["exc_info"]) for line in self.logged("actor_failed")]

    def errors_logged(self) -> list[str]:
        """Return the error lines: name and exception."""
        bad = [line for line in self.logs if line["log_level"] in {"error", "critical"}]
        return [f"{line['event']}: {line.get('exc_info')!r}" for line in bad]

    def _status(self, session_id: str) -> SessionStatus | None:
        head = self.standing.get(session_id)
        return None if head is None else head.status

    @contextmanager
    def _capturing(self) -> Iterator[None]:
        with capture_logs() as lines:
            self._captures.append(lines)
            yield


def app_of(handler: Handler, **agents: object) -> Orchestrator:
    """Return an application with one session type, `main`, and these agents."""
    app = Orchestrator()
    app.session("main")(handler)
    for name, agent in agents.items():
        app.agent(name)(agent)
    return app


def failed(kind: str, code: str, message: str) -> SessionFailed:
    """Return the end of a session that failed so."""
    return SessionFailed(error=ErrorRecord(kind, code, message))


class Diary:
    """What user code did, in order, whichever node it ran on: `note` is a step that returns its argument."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    async def note(self, entry: str) -> str:
        """Write the entry down and return it."""
        self.entries.append(entry)
        return entry

    def step(self, ctx: SessionContext, name: str) -> Coroutine[object, object, str]:
        """Run a step of that name which notes it."""
        return ctx.step(name, self.note, name)


class Gate:
    """Holds whoever passes until it is opened; tells when somebody came."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._came = asyncio.Event()

    def open(self) -> None:
        """Let everybody pass from now on."""
        self._open.set()

    async def passing(self, *_: object, **__: object) -> str:
        """Return once open."""
        self._came.set()
        await self._open.wait()
        return "passed"

    async def reached(self) -> None:
        """Return once somebody stands before the gate."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._came.wait()


def gated_app() -> tuple[Orchestrator, Gate]:
    """Return an application whose one step waits before a gate, and that gate."""
    gate = Gate()

    async def one_step(ctx: SessionContext) -> object:
        return await ctx.step("a", gate.passing)

    return app_of(one_step), gate
