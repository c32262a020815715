"""One node's HTTP endpoints over adapters in memory, on a real port of loopback: what clients see, without AWS.

To change it: no test logic here. Time moves only when a test moves it, unless the stage is given another clock.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count

import aiohttp
import structlog
from pydantic import BaseModel, ConfigDict, SecretStr
from structlog.testing import capture_logs
from structlog.typing import EventDict

from actors import ActorSystem, BusySignal, Clock, ManualClock
from actors.signals import Signal
from orchestrator import Orchestrator, SessionContext
from orchestrator.artifacts.memory import MemoryArtifacts
from orchestrator.artifacts.payloads import PayloadStore
from orchestrator.artifacts.session_files import SessionFiles
from orchestrator.callbacks.memory import MemoryCallbacks
from orchestrator.capacity import NodeCapacity
from orchestrator.cluster import Head, Heads
from orchestrator.cluster.memory import MemoryHeads, MemoryNodes
from orchestrator.deliveries_memory import MemoryDeliveries
from orchestrator.health import Health, LoopWatch
from orchestrator.http.connections import listening
from orchestrator.http.server import Endpoints, HttpLimits, HttpPorts
from orchestrator.http.streams import EventSignal, EventStreams
from orchestrator.inbox.memory import MemoryInbox, MemoryWakeUps
from orchestrator.intake.formats import Reader
from orchestrator.journal.memory import MemoryJournal
from orchestrator.machine import in_a_thread
from orchestrator.notifications.memory import MemoryNotifications
from orchestrator.outside import NodeOutside
from orchestrator.performer import Performer
from orchestrator.pokes import Doorbell
from orchestrator.router import Router
from orchestrator.session.events import Event, Recorded, SessionCompleted, SessionStarted, StepCompleted
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import Json, JsonObject
from orchestrator.session_ports import SessionPorts
from orchestrator.session_supervisor import SessionSupervisor
from orchestrator.telemetry.port import SILENT
from orchestrator.tenant_budgets import TenantBudgets
from orchestrator.tenants.memory import MemoryQuotas
from orchestrator.usage import NO_CAPS
from orchestrator.usage.memory import MemoryUsage
from orchestrator.why import Owner, UnderWay
from orchestrator.why.facts import Gathering

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PATIENCE_SECONDS = 10.0
"""How long a test waits for what must happen; only a failing test waits that long."""
PAYLOAD_BYTES_MAX = 10_000
NODE = "node-1"
POKE_KEY = "the key in the registration"


class Order(BaseModel):
    """What `order` is started with. Strict, as the schema of the document is: a truth value is no number."""

    model_config = ConfigDict(strict=True)

    item: str
    amount: int = 1


def sample_app() -> Orchestrator:
    """Return an application with two session types that end at once."""
    app = Orchestrator()

    @app.session("echo")
    async def echo(ctx: SessionContext, value: object) -> object:
        return value

    @app.session("order")
    async def order(ctx: SessionContext, wanted: Order) -> str:
        return f"{wanted.amount} {wanted.item}"

    return app


class Bell:
    """An `EventSignal` that a test rings; it keeps the timeouts that it was asked to wait."""

    def __init__(self) -> None:
        self.timeouts: list[float] = []
        self._waiting: list[asyncio.Event] = []
        self._ended = 0
        self._changed = Signal()

    async def wait(self, session_id: str, timeout: float) -> None:
        """See `EventSignal.wait`; returns when it is rung."""
        rung = asyncio.Event()
        self.timeouts.append(timeout)
        self._waiting.append(rung)
        self._changed.fire()
        try:
            await rung.wait()
        finally:
            self._waiting.remove(rung)
            self._ended += 1
            self._changed.fire()

    async def ring(self, *, streams: int = 1) -> None:
        """Wake the streams, once so many of them wait."""
        await self.waited_for_by(streams)
        awake = self._ended + streams
        for rung in self._waiting:
            rung.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._changed.until(lambda: self._ended >= awake)

    async def waited_for_by(self, streams: int) -> None:
        """Return once so many streams wait."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._changed.until(lambda: len(self._waiting) == streams)


@dataclass
class Stage:
    """A node's endpoints and what stands behind them."""

    url: str
    http: aiohttp.ClientSession
    clock: Clock
    health: Health
    heads: MemoryHeads
    journal: MemoryJournal
    deliveries: MemoryDeliveries
    bell: Bell
    streams: EventStreams
    logs: list[EventDict]
    rung: list[str]
    _numbers: "count[int]" = field(default_factory=lambda: count(1))

    async def ask(
        self, method: str, path: str, *, data: bytes | None = None, json: Json = None, **headers: str
    ) -> tuple[int, dict[str, Json]]:
        """Return the status and the JSON object of an answer; a header's name has `_` for `-`."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        async with self.http.request(method, f"{self.url}{path}", data=data, json=json, headers=named) as answer:
            body = await answer.json(content_type=None)
            assert isinstance(body, dict), body
            return answer.status, body

    async def code(self, method: str, path: str, *, data: bytes | None = None, **headers: str) -> tuple[int, str]:
        """Return the status and the code of a problem."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        async with self.http.request(method, f"{self.url}{path}", data=data, headers=named) as answer:
            assert "application/problem+json" == answer.content_type, await answer.text()
            problem = await answer.json(content_type=None)
            assert answer.status == problem["status"]
            return answer.status, problem["code"]

    async def has(self, session_id: str, *events: Event, budget: JsonObject | None = None, **fields: str) -> None:
        """Let there be such a session, with these events behind its start."""
        at = NOON + timedelta(seconds=next(self._numbers))
        head = Head(
            session_id=session_id,
            session_type=fields.get("session_type", "echo"),
            tenant=fields.get("tenant", "default"),
            status=SessionStatus(fields.get("state", "RUNNING")),
            owner="node-2",
            epoch=1,
            last_seq=1,
            inbox_version=0,
            claim_nonce="n",
            takeovers=0,
            created_at=at,
            updated_at=at,
        )
        await self.heads.create(head)
        digest = fields.get("payload_sha256", "0")
        started = SessionStarted(head.session_type, head.tenant, None, digest, None, budget=budget)
        await self.record(session_id, started, *events)

    async def record(self, session_id: str, *events: Event) -> None:
        """Add events to a session's journal, as another node would."""
        held = [recorded.seq async for recorded in self.journal.read(session_id)]
        recorded = [
            Recorded(len(held) + place, event, NOON, 1, "node-2", f"e-{next(self._numbers)}")
            for place, event in enumerate(events, 1)
        ]
        await self.journal.append(session_id, recorded, started_at=NOON)


def step(number: int, result: Json = None) -> StepCompleted:
    """Return the completion of one of many steps."""
    return StepCompleted(operation=f"step-{number}", result=result, attempt=1)


def end() -> SessionCompleted:
    """Return a terminal event."""
    return SessionCompleted(result="done")


@asynccontextmanager
async def stage(
    *,
    clock: Clock | None = None,
    keys: Sequence[str] = (),
    heads: MemoryHeads | None = None,
    limits: HttpLimits | None = None,
    news: EventSignal | None = None,
    doorbell_of: tuple[str, str, Callable[[], None]] | None = None,
    app: Orchestrator | None = None,
) -> AsyncIterator[Stage]:
    """Run a node's endpoints; `doorbell_of` is who is poked there, its key, and what it does then."""
    clock = clock or ManualClock(NOON)
    numbers, bell, heads, rung = count(1), Bell(), heads or MemoryHeads(), list[str]()
    deliveries = MemoryDeliveries(lambda: f"random-{next(numbers)}")
    with capture_logs() as logs, ThreadPoolExecutor(1) as threads:
        system = ActorSystem(clock=clock, busy=BusySignal(clock))
        health = _health(clock, system)
        health.is_ready = True
        ports = replace(
            _ports(_session_ports(app or sample_app(), clock, heads, threads, numbers), system, health, deliveries),
            api_keys=[SecretStr(key) for key in keys],
            news=news or bell,
            limits=limits or HttpLimits(),
            doorbell=Doorbell(*(doorbell_of or (NODE, POKE_KEY, lambda: rung.append(NODE)))),
        )
        endpoints = Endpoints(ports)
        async with (
            system,
            listening(endpoints.application(), host="127.0.0.1", port=0) as address,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE_SECONDS)) as http,
        ):
            journal = ports.journal
            assert isinstance(journal, MemoryJournal)
            yield Stage(
                f"http://{address}",
                http,
                clock,
                health,
                heads,
                journal,
                deliveries,
                bell,
                endpoints.streams,
                logs,
                rung,
            )
            await system.drain(PATIENCE_SECONDS)


def _health(clock: Clock, system: ActorSystem) -> Health:
    watch = LoopWatch(clock, stall_seconds_max=3_600, on_stalled=lambda _: None, guard=in_a_thread)
    return Health(busy=system.busy, system=system, loop=watch, reachability={})


def _session_ports(
    app: Orchestrator, clock: Clock, heads: Heads, threads: ThreadPoolExecutor, numbers: "count[int]"
) -> SessionPorts:
    def new_id() -> str:
        return f"n-{next(numbers)}"

    artifacts, callbacks, usage = MemoryArtifacts(), MemoryCallbacks(clock=clock), MemoryUsage()
    payloads = PayloadStore(artifacts, inline_bytes_max=PAYLOAD_BYTES_MAX)
    return SessionPorts(
        node_id=NODE,
        app=app,
        journal=MemoryJournal(),
        heads=heads,
        inbox=MemoryInbox(),
        callbacks=callbacks,
        quotas=MemoryQuotas(MemoryHeads()),
        payloads=payloads,
        artifacts=SessionFiles(artifacts, new_id),
        performer=Performer(
            agents=lambda _: None,
            clock=clock,
            draw=lambda: 0.5,
            callbacks=callbacks,
            payloads=payloads,
            new_token=new_id,
            callback_url=lambda callback_id: f"http://node-1/callbacks/{callback_id}",
            outside=_nobody_outside,
            notifications=MemoryNotifications(),
            budgets=TenantBudgets(usage, clock, defaults=NO_CAPS),
            price_of=lambda _: None,
        ),
        clock=clock,
        threads=threads,
        draw=lambda: 0.5,
        new_id=new_id,
        new_token=new_id,
        callback_url=lambda callback_id: f"http://node-1/callbacks/{callback_id}",
        budget_default=None,
        fruitless_resumes_max=5,
        telemetry=SILENT,
        passivate_after=30.0,
        log=structlog.get_logger(),
    )


def _nobody_outside() -> NodeOutside:
    raise AssertionError("no session of these tests reaches another")


def _ports(session: SessionPorts, system: ActorSystem, health: Health, deliveries: MemoryDeliveries) -> HttpPorts:
    capacity = NodeCapacity(1_000)
    capacity.watch(system)
    return HttpPorts(
        node_id=session.node_id,
        health=health,
        router=Router(system, session, MemoryWakeUps(), capacity, SessionSupervisor(session.clock)),
        reader=Reader(session.app, session.new_id),
        heads=session.heads,
        journal=session.journal,
        clock=session.clock,
        api_keys=(),
        log=session.log,
        deliveries=deliveries,
        doorbell=Doorbell(NODE, POKE_KEY, lambda: None),
        gathering=Gathering(
            session.heads, session.journal, MemoryNodes(), session.quotas, session.clock, _sees_nothing
        ),
    )


async def _sees_nothing(head: Head, owner: Owner) -> tuple[UnderWay | None, bool | None]:
    return None, None
