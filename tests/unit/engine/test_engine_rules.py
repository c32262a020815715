"""Rules of ownership, each by name; those that are not here are held where their part of the engine is tested."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from engine_cluster import TURNS_MAX
from engine_pair import signals_taken, two_nodes
from engine_world import NOON, World, app_of

from actors import settle
from orchestrator import Orchestrator, SessionContext
from orchestrator.inbox import SessionEnded


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


async def test_a_message_that_meets_its_session_on_the_way_out_starts_it_afresh() -> None:
    """What the mailbox holds when HEAD is given up was not taken: it goes by the inbox, then it is durable (rule 6)."""
    world = World()
    world.passivate_after = 1.0
    async with world.node(waiting()) as node:
        await node.start()
        await settle()
        node.line.hold_on("release")
        await world.pass_time(2)
        await node.line.until_held()
        telling = asyncio.ensure_future(node.deliveries.signal("s", "go", 1, "m-1"))
        await settle()
        assert not telling.done()
        node.line.thaw()
        await telling
        await world.end()
    assert ["SESSION_RESUMED", "SIGNAL_RECEIVED"] == (await world.story())[1:3]


async def test_a_message_that_meets_an_end_is_refused_and_leaves_nothing() -> None:
    """HEAD was open when the message came, and had ended when it was counted: nobody would ever read it (rule 8)."""
    world = World()
    async with world.node(waiting()) as owner, world.node(waiting(), "node-2") as other:
        await owner.start()
        await settle()
        other.line.hold_on("inbox_put")
        telling = asyncio.ensure_future(other.deliveries.signal("s", "go", 1, "m-1"))
        await other.line.until_held()
        await owner.deliveries.cancel("s", "enough", "m-2")
        await world.end()
        other.line.thaw()
        with pytest.raises(SessionEnded):
            await telling
    assert () == await world.inbox.read("s")


async def test_what_a_node_handed_over_before_it_died_was_not_taken_from_the_dead() -> None:
    """The index lags: the session stands in the dead node's list, though HEAD has no owner (rule 12)."""
    world = World()
    async with world.node(waiting()) as owner, world.node(waiting(), "node-2") as other:
        await owner.start()
        await settle()
        await owner.system.stop("s")
        assert (None, 0) == ((await world.head()).owner, (await world.head()).takeovers)
        assert await other.claim(dead_owner="node-1")
        assert ("node-2", 0) == ((await world.head()).owner, (await world.head()).takeovers)
        await other.deliveries.signal("s", "go", 1, "m-1")
        await world.end()


async def test_what_is_due_is_claimed_from_nobody() -> None:
    """The index lags: somebody has it by now, this node itself even, whose actor has just failed (rule 13)."""
    world = World()
    async with world.node(waiting()) as owner, world.node(waiting(), "node-2") as other:
        await owner.start()
        await settle()
        assert not await other.claim(only_unowned=True)
        head = await world.head()
        world.heads.put(replace(head, owner="node-2", epoch=2))
        assert not await other.claim(only_unowned=True)
        assert 2 == (await world.head()).epoch
        world.heads.put(head)
        await owner.deliveries.signal("s", "go", 1, "m-1")
        await world.end()


async def test_what_is_due_no_longer_is_left_alone() -> None:
    """The index lags: it was claimed since, and given up until later (rule 13)."""
    world = World()
    async with world.node(waiting()) as owner, world.node(waiting(), "node-2") as other:
        await owner.start()
        await settle()
        head = await world.head()
        later = NOON + timedelta(hours=1)
        world.heads.put(replace(head, owner=None, wake_at=later))
        assert not await other.router.claim("s", due_before=NOON)
        assert (None, 1) == ((await world.head()).owner, (await world.head()).epoch)
        assert await other.router.claim("s", due_before=later)
        await other.deliveries.signal("s", "go", 1, "m-1")
        await world.end()


async def test_a_full_node_that_is_told_something_makes_the_session_due() -> None:
    """Whoever has room claims it in about a second; nobody would come by otherwise (rule 13)."""
    world = World()
    async with world.node(waiting()) as owner, world.node(waiting(), "node-2", sessions_max=0) as full:
        await owner.start()
        await settle()
        await owner.system.stop("s")
        await world.heads.make_due(await world.head(), at=NOON + timedelta(hours=1))
        await full.deliveries.signal("s", "go", 1, "m-1")
        head = await world.head()
        assert (None, world.clock.now()) == (head.owner, head.wake_at)
        assert await owner.claim(only_unowned=True)
        await world.end()


def waiting() -> Orchestrator:
    """Return an application whose session waits for a signal."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.wait_for_signal("go")

    return app_of(handler)
