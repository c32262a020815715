"""A node that is poked looks at its wake-ups at once, and no more often than is good for it."""

from collections.abc import AsyncIterator

from engine_cluster import TURNS_MAX
from engine_pair import signals_taken, two_nodes
from engine_world import World

from actors import settle
from orchestrator.inbox.memory import MemoryWakeUps
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
