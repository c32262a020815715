"""A whole node in one process over the adapters in memory: what the engine itself costs, without any table.

Composed as `service.py` composes it, only smaller; a `Table` outlives its nodes, as the real one does.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from actors import ActorSystem, BusySignal, SystemClock
from orchestrator import Orchestrator
from orchestrator.agents import Agent
from orchestrator.agents.local import LocalAgent
from orchestrator.artifacts.memory import MemoryArtifacts
from orchestrator.artifacts.payloads import PayloadStore
from orchestrator.artifacts.session_files import SessionFiles
from orchestrator.callbacks.memory import MemoryCallbacks
from orchestrator.capacity import NodeCapacity
from orchestrator.cluster import NodeRecord
from orchestrator.cluster.memory import MemoryHeads, MemoryNodes
from orchestrator.deliveries import SessionDeliveries
from orchestrator.inbox.memory import MemoryInbox, MemoryWakeUps
from orchestrator.intake import Start
from orchestrator.journal.memory import MemoryJournal
from orchestrator.notifications.memory import MemoryNotifications
from orchestrator.outside import NodeOutside
from orchestrator.performer import Performer
from orchestrator.rescuer import Rescuer, RescuerPorts
from orchestrator.router import Router
from orchestrator.session.values import Json
from orchestrator.session_ports import SessionPorts
from orchestrator.session_supervisor import SessionSupervisor
from orchestrator.tenants.memory import MemoryQuotas
from orchestrator.user_code import contain_exits

NEVER_SECONDS = 86_400.0
INLINE_BYTES = 204_800
BUCKET = "bench"
WAIT_SECONDS_MAX = 600.0


class ShiftedClock(SystemClock):
    """The machine's clock, whose wall time a benchmark moves on: what was due then is due now."""

    __slots__ = ("ahead",)

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        """Return the moved wall time."""
        return datetime.now(UTC) + self.ahead


@dataclass(frozen=True, slots=True)
class Table:
    """What outlives a node."""

    clock: ShiftedClock = field(default_factory=ShiftedClock)
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    heads: MemoryHeads = field(default_factory=MemoryHeads)
    nodes: MemoryNodes = field(default_factory=MemoryNodes)
    inbox: MemoryInbox = field(default_factory=MemoryInbox)
    wake_ups: MemoryWakeUps = field(default_factory=MemoryWakeUps)


@dataclass(frozen=True, slots=True)
class Node:
    """A running node; `changed` is set whenever an actor ends."""

    system: ActorSystem
    router: Router
    deliveries: SessionDeliveries
    changed: asyncio.Event

    async def start(self, session_type: str, session_id: str, payload: Json = None) -> None:
        """Start a session as the intake would."""
        await self.router.start(Start(session_type, session_id, "default", payload))

    async def until_empty(self) -> None:
        """Return once no session is in memory: each has ended, or is suspended."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while len(self.system):
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def node(
    app: Orchestrator, table: Table, *, passivate_after: float = NEVER_SECONDS, with_rescuer: bool = False
) -> AsyncIterator[Node]:
    """Run a node while the block runs."""
    numbers, clock, capacity, changed = itertools.count(1), table.clock, NodeCapacity(1_000_000), asyncio.Event()
    contain_exits(asyncio.get_running_loop())
    artifacts, callbacks = MemoryArtifacts(BUCKET), MemoryCallbacks(clock=clock)
    payloads = PayloadStore(artifacts, inline_bytes_max=INLINE_BYTES)
    node_id = f"node-{random.getrandbits(40):010x}"
    with ThreadPoolExecutor(4) as threads:
        ports = SessionPorts(
            node_id=node_id,
            app=app,
            journal=table.journal,
            heads=table.heads,
            inbox=table.inbox,
            callbacks=callbacks,
            quotas=MemoryQuotas(table.heads),
            payloads=payloads,
            artifacts=SessionFiles(artifacts, lambda: f"file-{next(numbers)}"),
            performer=Performer(
                agents=_agents_of(app, threads),
                clock=clock,
                draw=random.random,
                callbacks=callbacks,
                payloads=payloads,
                outside=lambda: outside,
            ),
            clock=clock,
            threads=threads,
            draw=random.random,
            new_id=lambda: f"{node_id}.{next(numbers)}",
            new_token=lambda: f"token-{next(numbers)}",
            callback_url=lambda callback_id: f"http://bench/callbacks/{callback_id}",
            fruitless_resumes_max=5,
            passivate_after=passivate_after,
            log=structlog.get_logger("orchestrator"),
        )
        system = ActorSystem(clock=clock, busy=BusySignal(clock), on_end=capacity.changed)
        capacity.watch(system)
        capacity.subscribe(changed.set)
        async with asyncio.TaskGroup() as tasks, system:
            supervisor = SessionSupervisor(clock)
            router = Router(system, ports, table.wake_ups, capacity, supervisor)
            outside = NodeOutside(router, MemoryNotifications(), ports.new_token)
            deliveries = SessionDeliveries(router, lambda: f"message-{next(numbers)}")
            rescuing = tasks.create_task(_rescuing(router, table, capacity, supervisor)) if with_rescuer else None
            yield Node(system, router, deliveries, changed)
            if rescuing is not None:
                rescuing.cancel()


async def _rescuing(router: Router, table: Table, capacity: NodeCapacity, supervisor: SessionSupervisor) -> None:
    record = NodeRecord(
        node_id=router.ports.node_id,
        beat=0,
        address="bench",
        started_at=table.clock.now(),
        version="bench",
        process=None,
    )
    ports = RescuerPorts(
        node=record,
        nodes=table.nodes,
        heads=table.heads,
        wake_ups=table.wake_ups,
        router=router,
        capacity=capacity,
        clock=table.clock,
        may_retry=supervisor.may_retry,
        on_fenced=_fenced,
        log=router.ports.log,
    )
    # A benchmark that keeps the loop busy for long is not frozen.
    rescuer = Rescuer(ports, heartbeat_seconds=60, node_timeout_seconds=NEVER_SECONDS)
    await rescuer.enter()
    await rescuer.run()


def _fenced(reason: str) -> None:
    raise AssertionError(f"the node was fenced: {reason}")


def _agents_of(app: Orchestrator, threads: ThreadPoolExecutor) -> Callable[[str], Agent | None]:
    def agent_named(name: str) -> Agent | None:
        target = app.agent_named(name)
        return None if target is None else LocalAgent(target, threads)

    return agent_named
