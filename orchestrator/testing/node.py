"""A node in memory: the real router, actors and deliveries over tables that outlive it, and a power switch.

To change it: a composition root beside `service.py`, over adapters in memory; nothing is decided here.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, TypeVar, cast

import structlog

from actors import ActorSystem, ManualClock
from orchestrator.agents import Agent
from orchestrator.agents.local import LocalAgent
from orchestrator.app import AgentTarget, Orchestrator
from orchestrator.artifacts.memory import MemoryArtifacts
from orchestrator.artifacts.payloads import PayloadStore
from orchestrator.artifacts.session_files import SessionFiles
from orchestrator.callbacks.memory import MemoryCallbacks
from orchestrator.capacity import NodeCapacity
from orchestrator.cluster.memory import MemoryHeads
from orchestrator.deliveries import SessionDeliveries
from orchestrator.errors import Stale
from orchestrator.inbox.memory import MemoryInbox, MemoryWakeUps
from orchestrator.journal.memory import MemoryJournal
from orchestrator.notifications.memory import MemoryNotifications
from orchestrator.outside import NodeOutside
from orchestrator.payloads import BYTES_MAX
from orchestrator.performer import Performer
from orchestrator.router import Router
from orchestrator.session_ports import SessionPorts
from orchestrator.session_supervisor import SessionSupervisor
from orchestrator.tenants.memory import MemoryQuotas

T = TypeVar("T")

PASSIVATE_AFTER_SECONDS: Final = 30.0
FRUITLESS_RESUMES_MAX: Final = 5
SESSIONS_MAX: Final = 1_000_000
JITTER: Final = 0.5
"""Every pause before a retry is half its bound: the same in every run of a test."""


class PowerCut(Stale):
    """The node has no power: whatever it asks of the tables, they do not hear. Its actors leave silently."""

    code = "POWER_CUT"


class Power:
    """Whether a node has any."""

    def __init__(self) -> None:
        self.is_on = True

    def cut(self) -> None:
        """Let nothing reach the tables any more, and no answer come back."""
        self.is_on = False

    def check(self) -> None:
        """Raise `PowerCut` unless it is on."""
        if not self.is_on:
            raise PowerCut("the node has no power")


class Tables:
    """What a node's death leaves behind."""

    def __init__(self, clock: ManualClock) -> None:
        self.journal = MemoryJournal()
        self.heads = MemoryHeads()
        self.inbox = MemoryInbox()
        self.wake_ups = MemoryWakeUps()
        self.callbacks = MemoryCallbacks(clock=clock)
        self.quotas = MemoryQuotas(self.heads)
        self.artifacts = MemoryArtifacts()
        self.notifications = MemoryNotifications()
        self._numbers = count(1)

    def number(self) -> int:
        """Return a number that was never returned before."""
        return next(self._numbers)


@dataclass(frozen=True, slots=True)
class Node:
    """One node: what stands over its tables."""

    node_id: str
    router: Router
    system: ActorSystem
    deliveries: SessionDeliveries
    supervisor: SessionSupervisor
    power: Power


def build_node(
    app: Orchestrator,
    tables: Tables,
    clock: ManualClock,
    threads: Executor,
    agent_named: Callable[[str], AgentTarget | None],
) -> Node:
    """Return a node that runs as long as a block of `async with node.system` does."""
    node_id, power = f"node-{tables.number()}", Power()
    artifacts = _powered(tables.artifacts, power)
    payloads = PayloadStore(artifacts, inline_bytes_max=BYTES_MAX)
    callbacks = _powered(tables.callbacks, power)

    def new_id() -> str:
        return f"{node_id}.{tables.number()}"

    def lookup(name: str) -> Agent | None:
        target = agent_named(name)
        return None if target is None else LocalAgent(target, threads)

    ports = SessionPorts(
        node_id=node_id,
        app=app,
        journal=_powered(tables.journal, power),
        heads=_powered(tables.heads, power),
        inbox=_powered(tables.inbox, power),
        callbacks=callbacks,
        quotas=_powered(tables.quotas, power),
        payloads=payloads,
        artifacts=SessionFiles(artifacts, new_id),
        performer=Performer(
            agents=lookup,
            clock=clock,
            draw=lambda: JITTER,
            callbacks=callbacks,
            payloads=payloads,
            outside=lambda: outside,
        ),
        clock=clock,
        threads=threads,
        draw=lambda: JITTER,
        new_id=new_id,
        new_token=lambda: f"token-{tables.number()}",
        callback_url=lambda callback_id: f"http://{node_id}.test/callbacks/{callback_id}",
        fruitless_resumes_max=FRUITLESS_RESUMES_MAX,
        passivate_after=PASSIVATE_AFTER_SECONDS,
        log=structlog.get_logger("orchestrator"),
    )
    system, capacity, supervisor = ActorSystem(clock=clock), NodeCapacity(SESSIONS_MAX), SessionSupervisor(clock)
    capacity.watch(system)
    router = Router(system, ports, _powered(tables.wake_ups, power), capacity, supervisor)
    outside = NodeOutside(router, _powered(tables.notifications, power), ports.new_token)
    return Node(node_id, router, system, SessionDeliveries(router, new_id), supervisor, power)


def _powered(port: T, power: Power) -> T:
    """Return the port as a node with that power reaches it."""
    return cast("T", _Powered(port, power))


class _Powered:
    """Any port, behind a switch. One class for all: what a port does is none of its business."""

    def __init__(self, port: object, power: Power) -> None:
        self._port = port
        self._power = power

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)

        async def answered(*args: object, **kwargs: object) -> object:
            self._power.check()
            answer: object = await method(*args, **kwargs)
            self._power.check()
            return answer

        async def streamed(*args: object, **kwargs: object) -> AsyncIterator[object]:
            self._power.check()
            async for each in method(*args, **kwargs):
                self._power.check()
                yield each

        return streamed if inspect.isasyncgenfunction(method) else answered
