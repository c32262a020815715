"""A cluster whose table takes nothing for a while: nobody dies of it, and who died meanwhile is found."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from random import Random

import pytest
from engine_cluster import NODE_TIMEOUT_SECONDS, Cluster
from engine_world import World, app_of

from actors import Clock
from orchestrator import SessionContext
from orchestrator.aws.faults import BACKOFF_BASE_SECONDS, BACKOFF_MAX_SECONDS
from orchestrator.cluster import NodeRecord
from orchestrator.cluster.memory import MemoryNodes
from orchestrator.user_code import step_threads

NODES = 4
OUTAGE_SECONDS = 60.0
STEP_SECONDS = 0.2


class Throttled(MemoryNodes):
    """Registrations that wait as the table's own patience does while `takes_writes` and `answers` are not set."""

    def __init__(self, clock: Clock, draws: Random) -> None:
        super().__init__()
        self._clock = clock
        self._draws = draws
        self.takes_writes = True
        self.answers = True

    async def beat(self, node_id: str, *, sessions: int) -> None:
        """See `Nodes.beat`."""
        await self._patience()
        await super().beat(node_id, sessions=sessions)

    async def declare_dead(self, node_id: str, *, at: datetime, beat: int | None) -> bool:
        """See `Nodes.declare_dead`."""
        await self._patience()
        return await super().declare_dead(node_id, at=at, beat=beat)

    async def all(self) -> AsyncIterator[NodeRecord]:
        """See `Nodes.all`."""
        while not self.answers:
            await self._clock.sleep(STEP_SECONDS)
        async for node in super().all():
            yield node

    async def _patience(self) -> None:
        attempt = 0
        while not self.takes_writes:
            attempt += 1
            pause = min(BACKOFF_MAX_SECONDS, BACKOFF_BASE_SECONDS * 2.0**attempt)
            await self._clock.sleep(pause * self._draws.random())


@asynccontextmanager
async def living(seed: int) -> AsyncIterator[tuple[Cluster, Throttled]]:
    """Run a few nodes that have seen each other."""

    async def handler(ctx: SessionContext) -> int:
        return 1

    world, draws = World(), Random(seed)
    registry = Throttled(world.clock, draws)
    with step_threads(1) as threads:
        cluster = Cluster(app_of(handler), world, draws, threads, registry=registry)
        for _ in range(NODES):
            cluster.join()
        await passing(cluster, NODE_TIMEOUT_SECONDS)
        yield cluster, registry
        await cluster.close()


async def passing(cluster: Cluster, seconds: float) -> None:
    """Let time pass in small steps, as retries need it."""
    for _ in range(int(seconds / STEP_SECONDS)):
        await cluster.pass_time(STEP_SECONDS)


@pytest.mark.parametrize("answers", [True, False], ids=["it is throttled", "it is out of reach"])
@pytest.mark.parametrize("seed", range(10))
async def test_a_table_that_takes_nothing_for_a_minute_kills_no_node(seed: int, answers: bool) -> None:
    """No beat moves, and who reads that, or whose beat comes through first, takes nobody for dead."""
    async with living(seed) as (cluster, registry):
        registry.takes_writes, registry.answers = False, answers
        await passing(cluster, OUTAGE_SECONDS)
        registry.takes_writes, registry.answers = True, True
        await passing(cluster, 3 * NODE_TIMEOUT_SECONDS)
        assert NODES == len(cluster.members)


@pytest.mark.parametrize("seed", range(5))
async def test_who_died_in_an_outage_is_found_after_it(seed: int) -> None:
    """Once the others' own beats have gone on for the node timeout, its silence counts."""
    async with living(seed) as (cluster, registry):
        registry.takes_writes = False
        await passing(cluster, OUTAGE_SECONDS / 2)
        dead = cluster.members[0]
        dead.die()
        await passing(cluster, OUTAGE_SECONDS / 2)
        registry.takes_writes = True
        await passing(cluster, 3 * NODE_TIMEOUT_SECONDS)
        declared = [node.node_id async for node in registry.all() if node.declared_dead_at is not None]
        assert [dead.node_id] == declared
        assert NODES - 1 == len(cluster.members)
