"""A cluster in memory for the engine tests: one table that outlives its nodes, time that a test moves, power cuts.

To change it: no test logic here, and no second engine: sessions run on the real router, actors and adapters in memory.
A `World` is what a crash leaves behind; a `Node` is what it takes away.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from structlog.testing import capture_logs
from structlog.typing import EventDict

from actors import ManualClock, settle
from actors.signals import Signal
from orchestrator import Orchestrator, SessionContext
from orchestrator.agents.local import LocalAgents
from orchestrator.artifacts.memory import MemoryArtifacts
from orchestrator.callbacks.memory import MemoryCallbacks
from orchestrator.cluster import Head, Heads
from orchestrator.cluster.memory import MemoryHeads
from orchestrator.inbox import Inbox, InboxItem
from orchestrator.inbox.memory import MemoryInbox, MemoryWakeUps
from orchestrator.intake import Start
from orchestrator.journal import Journal
from orchestrator.journal.codec import operation_of, type_name
from orchestrator.journal.memory import MemoryJournal
from orchestrator.notifications.memory import MemoryNotifications
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
from orchestrator.tenants import Quotas
from orchestrator.tenants.memory import MemoryQuotas
from orchestrator.testing.node import Adapters, Setup, build_node
from orchestrator.testing.node import Node as BuiltNode
from orchestrator.user_code import step_threads

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PATIENCE_SECONDS = 5.0
"""How long a test waits for what must happen; only a failing test waits that long."""
PAYLOAD_BYTES_MAX = 10_000
THREADS_MAX = 2
BUCKET = "bucket"

T = TypeVar("T")
Handler = Callable[..., Coroutine[Any, Any, object]]


class PowerCut(Exception):
    """The node has no power: whatever it asks of the table, the table does not hear."""


class Line:
    """A node's line to the table. It can be cut for good, or held, as a frozen process holds its own requests."""

    def __init__(self, changed: Signal) -> None:
        self._changed = changed
        self._held: asyncio.Event | None = None
        self._held_call = ""
        self._held_answer = ""
        self._is_cut = False
        self._cut_before: Counter[str] = Counter()
        self._cut_after = ""
        self._faults: dict[str, tuple[int, Exception]] = {}
        self.calls = 0
        self._cut_at = 0
        self._reached = asyncio.Event()

    def cut(self) -> None:
        """Let nothing pass any more, in neither direction."""
        self._is_cut = True
        self.thaw()

    def cut_before(self, name: str, *, calls: int = 1) -> None:
        """Cut the line when the table is called `name` (append, read, create, claim, end, release) that often."""
        self._cut_before[name] = calls

    def cut_at(self, call: int) -> None:
        """Cut the line at the call of that number, whatever it is: the table does not hear it."""
        self._cut_at = call

    def cut_after(self, name: str) -> None:
        """Cut the line once the table did what it was called for: the answer is lost."""
        self._cut_after = name

    def fail_once(self, name: str, error: Exception, *, after: int = 0) -> None:
        """Raise `error` instead of carrying the call of that name, after so many that pass."""
        self._faults[name] = (after, error)

    def hold(self) -> None:
        """Keep every request on its way until `thaw`."""
        self.hold_on("")

    def hold_on(self, name: str) -> None:
        """Keep calls of that name on their way until `thaw`."""
        self._held, self._held_call = asyncio.Event(), name
        self._reached.clear()

    def hold_answer(self, name: str) -> None:
        """Keep the answers to calls of that name on their way until `thaw`: the table did what it was asked."""
        self._held_answer = name
        self.hold_on("no request")

    async def until_held(self) -> None:
        """Return once somebody waits on the held line."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._reached.wait()

    def thaw(self) -> None:
        """Let pass what was held."""
        held, self._held = self._held, None
        if held is not None:
            held.set()

    async def out(self, name: str) -> None:
        """Carry a request to the table."""
        self.calls += 1
        self._is_cut |= self.calls == self._cut_at
        if self._held is not None and self._held_call in {"", name}:
            self._reached.set()
            await self._held.wait()
        if self._cut_before[name]:
            self._cut_before[name] -= 1
            self._is_cut |= self._cut_before[name] == 0
        self._check()
        if name in self._faults:
            passing, error = self._faults.pop(name)
            if not passing:
                raise error
            self._faults[name] = (passing - 1, error)

    async def back(self, name: str) -> None:
        """Carry the answer back."""
        self._changed.fire()
        if self._held is not None and self._held_answer == name:
            self._reached.set()
            await self._held.wait()
        self._is_cut |= self._cut_after == name
        self._check()

    def _check(self) -> None:
        if self._is_cut:
            raise PowerCut


class LinedJournal:
    """A `Journal` at the end of a line."""

    def __init__(self, journal: Journal, line: Line) -> None:
        self._journal = journal
        self._line = line

    async def append(self, session_id: str, events: Sequence[Recorded], *, started_at: datetime) -> None:
        """See `Journal.append`."""
        await self._line.out("append")
        await self._journal.append(session_id, events, started_at=started_at)
        await self._line.back("append")

    async def read(self, session_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """See `Journal.read`."""
        await self._line.out("read")
        async for recorded in self._journal.read(session_id, after=after):
            yield recorded


class LinedHeads:
    """`Heads` at the end of a line: what the engine itself calls; listings are the rescuer's."""

    def __init__(self, heads: Heads, line: Line, standing: dict[str, Head]) -> None:
        self._heads = heads
        self._line = line
        self._standing = standing

    async def create(self, head: Head) -> Head:
        """See `Heads.create`."""
        return await self._carried("create", self._heads.create(head))

    async def get(self, session_id: str) -> Head | None:
        """See `Heads.get`."""
        await self._line.out("get")
        return await self._heads.get(session_id)

    async def claim(self, head: Head, *, node_id: str, nonce: str, at: datetime, from_dead_owner: bool) -> Head:
        """See `Heads.claim`."""
        write = self._heads.claim(head, node_id=node_id, nonce=nonce, at=at, from_dead_owner=from_dead_owner)
        return await self._carried("claim", write)

    async def settle_takeovers(self, head: Head) -> Head:
        """See `Heads.settle_takeovers`."""
        return await self._carried("settle_takeovers", self._heads.settle_takeovers(head))

    async def end(
        self,
        head: Head,
        status: SessionStatus,
        *,
        last_seq: int,
        at: datetime,
        outbox: tuple[str, ...] = (),
        wake_at: datetime | None = None,
        continued_as: str | None = None,
    ) -> Head:
        """See `Heads.end`."""
        write = self._heads.end(
            head, status, last_seq=last_seq, at=at, outbox=outbox, wake_at=wake_at, continued_as=continued_as
        )
        return await self._carried("end", write)

    async def release(
        self,
        head: Head,
        status: SessionStatus,
        *,
        last_seq: int,
        at: datetime,
        wake_at: datetime | None,
        attributes: Mapping[str, Json] | None = None,
    ) -> Head:
        """See `Heads.release`."""
        write = self._heads.release(head, status, last_seq=last_seq, at=at, wake_at=wake_at, attributes=attributes)
        return await self._carried("release", write)

    async def settle_outbox(self, head: Head, outbox: tuple[str, ...]) -> Head:
        """See `Heads.settle_outbox`."""
        return await self._carried("settle_outbox", self._heads.settle_outbox(head, outbox))

    async def bump_inbox(self, session_id: str) -> Head | None:
        """See `Heads.bump_inbox`."""
        await self._line.out("bump_inbox")
        bumped = await self._heads.bump_inbox(session_id)
        await self._line.back("bump_inbox")
        return bumped

    def __getattr__(self, name: str) -> Any:
        """Pass the listings through: no engine test cuts them."""
        return getattr(self._heads, name)

    async def _carried(self, name: str, write: Coroutine[Any, Any, Head]) -> Head:
        try:
            await self._line.out(name)
        except BaseException:
            write.close()
            raise
        head = await write
        self._standing[head.session_id] = head
        await self._line.back(name)
        return head


class LinedInbox:
    """An `Inbox` at the end of a line."""

    def __init__(self, inbox: Inbox, line: Line) -> None:
        self._inbox = inbox
        self._line = line

    async def put(self, session_id: str, item: InboxItem) -> None:
        """See `Inbox.put`."""
        await self._line.out("inbox_put")
        await self._inbox.put(session_id, item)
        await self._line.back("inbox_put")

    async def read(self, session_id: str) -> tuple[InboxItem, ...]:
        """See `Inbox.read`."""
        await self._line.out("inbox_read")
        return await self._inbox.read(session_id)

    async def delete(self, session_id: str, message_ids: Sequence[str]) -> None:
        """See `Inbox.delete`."""
        await self._line.out("inbox_delete")
        await self._inbox.delete(session_id, message_ids)
        await self._line.back("inbox_delete")


class LinedQuotas:
    """`Quotas` at the end of a line: what changes HEADs and slots."""

    def __init__(self, quotas: Quotas, line: Line, standing: dict[str, Head]) -> None:
        self._quotas = quotas
        self._line = line
        self._standing = standing

    async def admit(self, head: Head) -> Head | None:
        """See `Quotas.admit`."""
        return await self._carried("admit", self._quotas.admit(head))

    async def enqueue(self, head: Head) -> Head | None:
        """See `Quotas.enqueue`."""
        return await self._carried("enqueue", self._quotas.enqueue(head))

    async def promote(self, head: Head, *, node_id: str | None, nonce: str, at: datetime) -> Head | None:
        """See `Quotas.promote`."""
        return await self._carried("promote", self._quotas.promote(head, node_id=node_id, nonce=nonce, at=at))

    async def dismiss(self, head: Head, *, node_id: str | None, nonce: str, at: datetime) -> Head:
        """See `Quotas.dismiss`."""
        dismissed = await self._carried("dismiss", self._quotas.dismiss(head, node_id=node_id, nonce=nonce, at=at))
        assert dismissed is not None
        return dismissed

    async def free(self, tenant: str, session_id: str) -> None:
        """See `Quotas.free`."""
        await self._line.out("free")
        await self._quotas.free(tenant, session_id)
        await self._line.back("free")

    def __getattr__(self, name: str) -> Any:
        """Pass on what only reads."""
        return getattr(self._quotas, name)

    async def _carried(self, name: str, write: Coroutine[Any, Any, Head | None]) -> Head | None:
        try:
            await self._line.out(name)
        except BaseException:
            write.close()
            raise
        head = await write
        if head is not None:
            self._standing[head.session_id] = head
        await self._line.back(name)
        return head


class Node:
    """One node of a world: its router and actors, and a line that can be cut."""

    def __init__(self, built: BuiltNode, line: Line) -> None:
        self.node_id = built.node_id
        self.router = built.router
        self.system = built.system
        self.deliveries = built.deliveries
        self.line = line

    async def start(
        self, payload: Json = None, *, session_id: str = "s", session_type: str = "main", tenant: str = "default"
    ) -> Accepted:
        """Start a session as the intake would."""
        size = len(canonical_json(payload))
        return await self.router.start(Start(session_type, session_id, tenant, payload, input_bytes=size))

    async def claim(self, session_id: str = "s", *, dead_owner: str | None = None, only_unowned: bool = False) -> bool:
        """Take the session over as the rescuer would, and let it go as far as it goes without time passing."""
        is_claimed = await self.router.claim(session_id, dead_owner=dead_owner, only_unowned=only_unowned)
        await settle()
        return is_claimed

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
        self.inbox = MemoryInbox()
        self.wake_ups = MemoryWakeUps()
        self.callbacks = MemoryCallbacks(clock=self.clock)
        self.artifacts = MemoryArtifacts(BUCKET)
        self.notifications = MemoryNotifications()
        self.passivate_after = 30.0
        self.changed = Signal()
        self.standing: dict[str, Head] = {}
        self._captures: list[list[EventDict]] = []
        self.jitter = 0.5
        self._numbers = itertools.count(1)

    @asynccontextmanager
    async def node(
        self, app: Orchestrator, node_id: str = "node-1", *, sessions_max: int = 1_000
    ) -> AsyncIterator[Node]:
        """Run a node; leaving the block stops it in order, unless it crashed before."""
        line = Line(self.changed)
        adapters = Adapters(
            journal=LinedJournal(self.journal, line),
            heads=LinedHeads(self.heads, line, self.standing),
            inbox=LinedInbox(self.inbox, line),
            wake_ups=self.wake_ups,
            callbacks=self.callbacks,
            quotas=LinedQuotas(self.quotas, line, self.standing),
            artifacts=self.artifacts,
            notifications=self.notifications,
        )
        with self._capturing(), step_threads(THREADS_MAX) as threads:
            setup = Setup(
                app=app,
                node_id=node_id,
                clock=self.clock,
                threads=threads,
                agents=LocalAgents(app, threads, self.clock).named,
                number=lambda: next(self._numbers),
                draw=lambda: self.jitter,
                inline_bytes_max=PAYLOAD_BYTES_MAX,
                sessions_max=sessions_max,
                passivate_after=self.passivate_after,
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
