"""Rules of ownership that need two nodes, each by name; the others are held where their part of the engine is."""

from engine_cluster import TURNS_MAX
from engine_pair import signals_taken, two_nodes
from engine_world import World

from actors import settle


async def test_a_message_that_comes_while_the_inbox_is_read_is_not_lost() -> None:
    """HEAD's inbox version is read before the inbox: what comes in between shows in the next look (rule 5)."""
    world = World()
    async with two_nodes(world) as (owner, other):
        owner.line.hold_answer("inbox.read")
        await other.deliveries.signal("s", "go", 1, "m-1")
        await owner.line.until_held()
        await other.deliveries.signal("s", "go", 2, "m-2")
        await settle(TURNS_MAX)
        assert 0 == await signals_taken(world)
        owner.line.thaw()
        await settle(TURNS_MAX)
        await world.pass_time(2)
        assert 2 == await signals_taken(world)
