"""A node in memory: the real router, actors and deliveries over tables that outlive it.

To change it: the composition root beside `service.py`, over adapters in memory. The environment of this package runs on
it, and so do the engine's own tests and benchmarks; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import count
from typing import Final

import structlog

from actors import ActorSystem, Clock
from orchestrator.app import Orchestrator
from orchestrator.artifacts import Artifacts
from orchestrator.artifacts.memory import MemoryArtifacts
from orchestrator.artifacts.payloads import PayloadStore
from orchestrator.artifacts.session_files import SessionFiles
from orchestrator.callbacks import Callbacks
from orchestrator.callbacks.memory import MemoryCallbacks
from orchestrator.capacity import NodeCapacity
from orchestrator.cluster import Heads
from orchestrator.cluster.memory import MemoryHeads
from orchestrator.deliveries import SessionDeliveries
from orchestrator.inbox import Inbox, WakeUps
from orchestrator.inbox.memory import MemoryInbox, MemoryWakeUps
from orchestrator.journal import Journal
from orchestrator.journal.memory import MemoryJournal
from orchestrator.notifications import Notifications
from orchestrator.notifications.memory import MemoryNotifications
from orchestrator.objects.memory import MemoryLatestWrites
from orchestrator.outside import NodeOutside
from orchestrator.payloads import BYTES_MAX
from orchestrator.performer import AgentLookup, Performer
from orchestrator.pokes import Pokes, PokingWakeUps
from orchestrator.pokes.memory import MemoryPokes
from orchestrator.router import Router
from orchestrator.session.values import JsonObject
from orchestrator.session_ports import SessionPorts
from orchestrator.session_supervisor import SessionSupervisor
from orchestrator.telemetry.port import SILENT, Telemetry
from orchestrator.tenant_budgets import TenantBudgets
from orchestrator.tenants import Quotas
from orchestrator.tenants.memory import MemoryQuotas
from orchestrator.usage import NO_CAPS, Usage
from orchestrator.usage.memory import MemoryUsage

PASSIVATE_AFTER_SECONDS: Final = 30.0
FRUITLESS_RESUMES_MAX: Final = 5
SESSIONS_MAX: Final = 1_000_000
JITTER: Final = 0.5
"""Every pause before a retry is half its bound: the same in every run of a test."""


@dataclass(frozen=True, slots=True)
class Adapters:
    """What a node reaches of the world: as it stands there, or behind something that a test can cut."""

    journal: Journal
    heads: Heads
    inbox: Inbox
    wake_ups: WakeUps
    callbacks: Callbacks
    quotas: Quotas
    usage: Usage
    artifacts: Artifacts
    notifications: Notifications
    pokes: Pokes


class Tables:
    """What a node's death leaves behind, in memory."""

    def __init__(self, clock: Clock) -> None:
        self.journal = MemoryJournal()
        self.heads = MemoryHeads()
        self.inbox = MemoryInbox()
        self.wake_ups = MemoryWakeUps()
        self.callbacks = MemoryCallbacks(clock=clock)
        self.quotas = MemoryQuotas(self.heads)
        self.latest_writes = MemoryLatestWrites(clock=clock)
        self.usage = MemoryUsage()
        self.artifacts = MemoryArtifacts()
        self.notifications = MemoryNotifications()
        self.pokes = MemoryPokes()
        self._numbers = count(1)

    def number(self) -> int:
        """Return a number that was never returned before."""
        return next(self._numbers)

    @property
    def adapters(self) -> Adapters:
        """Them all, as they stand."""
        return Adapters(
            journal=self.journal,
            heads=self.heads,
            inbox=self.inbox,
            wake_ups=self.wake_ups,
            callbacks=self.callbacks,
            quotas=self.quotas,
            usage=self.usage,
            artifacts=self.artifacts,
            notifications=self.notifications,
            pokes=self.pokes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What one node is made of, besides what it reaches.

    `agents` finds an agent by its name, `number` returns one that was never returned before, over all nodes of the same
    tables; `draw` returns a float from [0, 1). Sessions leave memory after resting for `passivate_after` seconds.
    """

    app: Orchestrator
    node_id: str
    clock: Clock
    threads: Executor
    agents: AgentLookup
    number: Callable[[], int]
    draw: Callable[[], float] = lambda: JITTER
    inline_bytes_max: int = BYTES_MAX
    sessions_max: int = SESSIONS_MAX
    passivate_after: float = PASSIVATE_AFTER_SECONDS
    budget_default: JsonObject | None = None
    telemetry: Telemetry = SILENT


@dataclass(frozen=True, slots=True)
class Node:
    """One node: what stands over its tables."""

    node_id: str
    router: Router
    system: ActorSystem
    deliveries: SessionDeliveries
    supervisor: SessionSupervisor
    capacity: NodeCapacity


def build_node(setup: Setup, adapters: Adapters) -> Node:
    """Return a node that runs as long as a block of `async with node.system` does."""
    clock, capacity = setup.clock, NodeCapacity(setup.sessions_max)
    supervisor = SessionSupervisor(clock, setup.telemetry)

    def new_id() -> str:
        return f"{setup.node_id}.{setup.number()}"

    ports = _ports(setup, adapters, new_id, lambda: outside)
    system = ActorSystem(clock=clock, on_end=capacity.changed)
    capacity.watch(system)
    router = Router(system, ports, PokingWakeUps(adapters.wake_ups, adapters.pokes), capacity, supervisor)
    outside = NodeOutside(router, ports.new_token)
    return Node(setup.node_id, router, system, SessionDeliveries(router, new_id), supervisor, capacity)


def _ports(
    setup: Setup, adapters: Adapters, new_id: Callable[[], str], outside: Callable[[], NodeOutside]
) -> SessionPorts:
    payloads = PayloadStore(adapters.artifacts, inline_bytes_max=setup.inline_bytes_max)

    def new_token() -> str:
        return f"token-{setup.number()}"

    def callback_url(callback_id: str) -> str:
        return f"http://{setup.node_id}.test/callbacks/{callback_id}"

    return SessionPorts(
        node_id=setup.node_id,
        app=setup.app,
        journal=adapters.journal,
        heads=adapters.heads,
        inbox=adapters.inbox,
        callbacks=adapters.callbacks,
        quotas=adapters.quotas,
        payloads=payloads,
        artifacts=SessionFiles(adapters.artifacts, new_id),
        performer=Performer(
            agents=setup.agents,
            clock=setup.clock,
            draw=setup.draw,
            callbacks=adapters.callbacks,
            payloads=payloads,
            new_token=new_token,
            callback_url=callback_url,
            outside=outside,
            notifications=adapters.notifications,
            budgets=TenantBudgets(adapters.usage, setup.clock, defaults=NO_CAPS),
            price_of=setup.app.agent_price,
            telemetry=setup.telemetry,
        ),
        clock=setup.clock,
        threads=setup.threads,
        draw=setup.draw,
        new_id=new_id,
        new_token=new_token,
        callback_url=callback_url,
        budget_default=setup.budget_default,
        fruitless_resumes_max=FRUITLESS_RESUMES_MAX,
        passivate_after=setup.passivate_after,
        telemetry=setup.telemetry,
        log=structlog.get_logger("orchestrator"),
    )
