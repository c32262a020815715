"""A node that is poked looks at its wake-ups at once, and no more often than is good for it."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from random import Random

from engine_cluster import TURNS_MAX, Cluster, Member
from engine_world import World
from structlog.testing import capture_logs

from actors import settle
from orchestrator import Orchestrator, SessionContext
from orchestrator.inbox.memory import MemoryWakeUps
from orchestrator.intake import Start
from orchestrator.pokes.memory import MemoryPokes

POKES = 10_000
LOOKS_A_SECOND_MAX = 20


class CountedWakeUps(MemoryWakeUps):
    """Notes to nodes, and how often somebody looked for them."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    async def take(self, node_id: str) -> AsyncIterator[str]:
        self.looks += 1
        async for session_id in super().take(node_id):
            yield session_id


class LostPokes(MemoryPokes):
    """Pokes of which none arrives."""

    async def poke(self, node_id: str) -> None:
        pass


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
        cluster.is_slow, cluster.sessions_max = False, 1_000
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


async def test_a_signal_to_the_other_node_is_journaled_without_any_time_passing() -> None:
    """Its owner is poked behind the note, and looks."""
    world = World()
    async with two_nodes(world) as (_, second):
        await second.deliveries.signal("s", "go", 1, "m-1")
        assert 1 == await signals_taken(world)


async def test_a_poke_that_comes_during_a_look_has_the_node_look_again() -> None:
    """The look may have been over where the note came."""
    world = World()
    async with two_nodes(world) as (first, second):
        first.line.hold_answer("wake_ups.take")
        await world.pokes.poke(first.node_id)
        await first.line.until_held()
        await second.deliveries.signal("s", "go", 1, "m-1")
        assert 0 == await signals_taken(world)
        first.line.thaw()
        await settle(TURNS_MAX)
        await world.pass_time(0.1)
        assert 1 == await signals_taken(world)


async def test_a_lost_poke_costs_a_second() -> None:
    """The node looks by itself."""
    world = World()
    world.pokes = LostPokes()
    async with two_nodes(world) as (_, second):
        await second.deliveries.signal("s", "go", 1, "m-1")
        assert 0 == await signals_taken(world)
        await world.pass_time(1)
        assert 1 == await signals_taken(world)


async def test_pokes_without_end_cost_a_few_looks_a_second() -> None:
    """Whether they are many messages or one poke that somebody replays."""
    world = World()
    world.wake_ups = counted = CountedWakeUps()
    async with two_nodes(world) as (first, second):
        counted.looks = 0
        for number in range(POKES):
            await world.pokes.poke(first.node_id)
            if number % (POKES // 200) == 0:
                await world.pass_time(0.01)
        assert LOOKS_A_SECOND_MAX <= counted.looks <= 2 * (LOOKS_A_SECOND_MAX + 2) + 2
        await second.deliveries.signal("s", "go", 1, "m-1")
        await world.pass_time(0.1)
        assert 1 == await signals_taken(world)


async def test_a_node_that_nobody_pokes_looks_once_a_second() -> None:
    """An idle node costs no more than it would without pokes, whatever came before."""
    world = World()
    world.wake_ups = counted = CountedWakeUps()
    async with two_nodes(world) as (first, _):
        await world.pokes.poke(first.node_id)
        await world.pass_time(1)
        counted.looks = 0
        for _ in range(200):
            await world.pass_time(0.05)
        assert 2 * 9 <= counted.looks <= 2 * 10
