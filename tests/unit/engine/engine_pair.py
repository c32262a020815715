"""Two nodes with their rescuers, one of which owns a session that waits for signals.

To change it: no checks here; what a test does to the nodes is its own affair.
"""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from random import Random

from engine_cluster import TURNS_MAX, Cluster, Member
from engine_world import World
from structlog.testing import capture_logs

from actors import settle
from orchestrator import Orchestrator, SessionContext
from orchestrator.intake import Start


@asynccontextmanager
async def two_nodes(world: World) -> AsyncIterator[tuple[Member, Member]]:
    """Run two nodes; the first owns session `s`, which waits for signals in its memory."""
    app = Orchestrator()

    @app.session("main")
    async def main(ctx: SessionContext) -> None:
        while True:
            await ctx.wait_for_signal("go")

    world.passivate_after = 1e9
    with capture_logs(), ThreadPoolExecutor(1) as threads:
        cluster = Cluster(app, world, Random(1), threads)
        for _ in range(2):
            cluster.join()
        await cluster.pass_time(0)
        first, second = cluster.members
        await first.router.start(Start("main", "s", "default", None, input_bytes=4))
        await cluster.pass_time(2.5)
        yield first, second
        await cluster.close()


async def signals_taken(world: World) -> int:
    """Return how many signals the journal holds, once everything has run that needs no time."""
    await settle(TURNS_MAX)
    return (await world.story()).count("SIGNAL_RECEIVED")
