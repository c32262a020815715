"""A whole node in one process over the adapters in memory: what the engine itself costs, without any table.

The node of `orchestrator.testing`, on the machine's own time; a `Table` outlives its nodes, as the real one does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from actors import ActorSystem, SystemClock
from orchestrator import Orchestrator
from orchestrator.agents.local import LocalAgents
from orchestrator.cluster import NodeRecord
from orchestrator.cluster.directory import Directory
from orchestrator.cluster.memory import MemoryNodes
from orchestrator.deliveries import SessionDeliveries
from orchestrator.intake import Start
from orchestrator.rescuer import Rescuer, RescuerPorts
from orchestrator.router import Router
from orchestrator.session.values import Json
from orchestrator.testing.node import Node as BuiltNode
from orchestrator.testing.node import Setup, Tables, build_node
from orchestrator.user_code import contain_exits

NEVER_SECONDS = 86_400.0
INLINE_BYTES = 204_800
WAIT_SECONDS_MAX = 600.0


class ShiftedClock(SystemClock):
    """The machine's clock, whose wall time a benchmark moves on: what was due then is due now."""

    __slots__ = ("ahead",)

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        """Return the moved wall time."""
        return datetime.now(UTC) + self.ahead


class Table(Tables):
    """What outlives a node, and a clock that goes on over all of them."""

    def __init__(self) -> None:
        self.clock = ShiftedClock()
        super().__init__(self.clock)
        self.nodes = MemoryNodes()


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
    changed = asyncio.Event()
    contain_exits(asyncio.get_running_loop())
    with ThreadPoolExecutor(4) as threads:
        setup = Setup(
            app=app,
            node_id=f"node-{random.getrandbits(40):010x}",
            clock=table.clock,
            threads=threads,
            agents=LocalAgents(app, threads, table.clock).named,
            number=table.number,
            draw=random.random,
            inline_bytes_max=INLINE_BYTES,
            passivate_after=passivate_after,
        )
        built = build_node(setup, table.adapters)
        built.capacity.subscribe(changed.set)
        async with asyncio.TaskGroup() as tasks, built.system:
            rescuing = tasks.create_task(_rescuing(built, table)) if with_rescuer else None
            yield Node(built.system, built.router, built.deliveries, changed)
            if rescuing is not None:
                rescuing.cancel()


async def _rescuing(built: BuiltNode, table: Table) -> None:
    record = NodeRecord(
        node_id=built.node_id,
        beat=0,
        address="bench",
        started_at=table.clock.now(),
        version="bench",
        process=None,
    )
    ports = RescuerPorts(
        node=record,
        nodes=table.nodes,
        directory=Directory(table.nodes, own_id=built.node_id),
        heads=table.heads,
        wake_ups=table.wake_ups,
        router=built.router,
        capacity=built.capacity,
        clock=table.clock,
        may_retry=built.supervisor.may_retry,
        on_fenced=_fenced,
        log=built.router.ports.log,
    )
    # A benchmark that keeps the loop busy for long is not frozen.
    rescuer = Rescuer(ports, heartbeat_seconds=60, node_timeout_seconds=NEVER_SECONDS)
    await rescuer.enter()
    await rescuer.run()


def _fenced(reason: str) -> None:
    raise AssertionError(f"the node was fenced: {reason}")
