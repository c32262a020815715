"""What each rescuer sees to: who lives, who is dead, and that nothing waits on the dead (I8, rules 2 and 3)."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random

import pytest
from engine_cluster import HEARTBEAT_SECONDS, NODE_TIMEOUT_SECONDS, TURNS_MAX, Cluster, Member
from engine_world import NOON, World
from structlog.testing import capture_logs
from structlog.typing import EventDict

from actors import settle
from orchestrator import Orchestrator, SessionContext
from orchestrator.cluster import NodeRecord, UnreadableHead
from orchestrator.cluster.directory import Directory
from orchestrator.cluster.memory import MemoryNodes
from orchestrator.intake import Start
from orchestrator.rescuer import AUDIT_EVERY_BEATS
from orchestrator.session.transitions import SessionStatus

SECONDS_OF_AUDIT = (AUDIT_EVERY_BEATS + 1) * HEARTBEAT_SECONDS
DRAIN_SECONDS = 2.0


class Town:
    """A cluster, what it logged, and one session `s` that works for ever in memory."""

    def __init__(self, world: World, cluster: Cluster, logs: list[EventDict]) -> None:
        self.world = world
        self.cluster = cluster
        self.logs = logs

    async def join(self) -> Member:
        """Let a node come."""
        self.cluster.join()
        await self.cluster.pass_time(0)
        return self.cluster.members[-1]

    async def start(self, member: Member, session_type: str = "works") -> None:
        """Start the session there."""
        await member.router.start(Start(session_type, "s", "default", None, input_bytes=4))
        await settle(TURNS_MAX)

    async def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps: nobody stands still."""
        for _ in range(round(seconds / 0.25)):
            await self.cluster.pass_time(0.25)

    async def owner(self) -> str | None:
        """Return who owns the session."""
        return (await self.world.head()).owner

    async def is_marked(self, member: Member) -> bool:
        """Return whether the registration shows the node dead."""
        record = await self.cluster.registry.get(member.node_id)
        return record is not None and record.declared_dead_at is not None

    def logged(self, event: str) -> list[EventDict]:
        """Return the log lines of that name."""
        return [line for line in self.logs if line["event"] == event]


@asynccontextmanager
async def town() -> AsyncIterator[Town]:
    """Run a cluster without nodes yet."""
    app = Orchestrator()

    @app.session("works")
    async def works(ctx: SessionContext) -> None:
        await asyncio.get_running_loop().create_future()

    world = World()
    with capture_logs() as logs, ThreadPoolExecutor(1) as threads:
        cluster = Cluster(app, world, Random(1), threads)
        cluster.drain_seconds = DRAIN_SECONDS
        yield Town(world, cluster, logs)
        await cluster.close()


async def test_a_node_is_dead_when_its_beat_stood_still_for_the_timeout_and_no_sooner() -> None:
    """By the watcher's own clock; then whoever watches claims its sessions."""
    async with town() as running:
        first, second = await running.join(), await running.join()
        await running.start(first)
        await running.pass_time(2)
        first.die()
        await running.pass_time(NODE_TIMEOUT_SECONDS - HEARTBEAT_SECONDS)
        assert not await running.is_marked(first)
        assert first.node_id == await running.owner()
        await running.pass_time(3 * HEARTBEAT_SECONDS)
        assert await running.is_marked(first)
        assert second.node_id == await running.owner()
        assert [first.node_id] == [line["dead_node"] for line in running.logged("node_declared_dead")]


async def test_a_node_whose_beats_are_late_but_come_is_left_alone() -> None:
    """Each one begins the wait anew, however wrong its clock is."""
    async with town() as running:
        first, _ = await running.join(), await running.join()
        for _ in range(4):
            first.line.hold_on("nodes.beat")
            await running.pass_time(NODE_TIMEOUT_SECONDS - 3 * HEARTBEAT_SECONDS)
            first.line.thaw()
            await running.pass_time(2 * HEARTBEAT_SECONDS)
        assert not await running.is_marked(first)
        assert [] == running.logged("node_declared_dead")


async def test_a_node_that_beats_while_it_is_being_declared_dead_is_not() -> None:
    """The mark is refused where the beat has moved since it was listed (rule 3)."""
    async with town() as running:
        first, second = await running.join(), await running.join()
        await running.pass_time(2)
        first.line.hold_on("nodes.beat")
        second.line.hold_on("nodes.declare_dead")
        await running.pass_time(NODE_TIMEOUT_SECONDS + 2 * HEARTBEAT_SECONDS)
        await second.line.until_held()
        first.line.thaw()
        await running.pass_time(HEARTBEAT_SECONDS)
        second.line.thaw()
        await running.pass_time(HEARTBEAT_SECONDS)
        assert not await running.is_marked(first)
        assert not first.line.is_cut


@pytest.mark.parametrize("node_timeouts", [0.5, 1.2])
async def test_a_node_that_had_no_turn_for_the_timeout_ends_itself(node_timeouts: float) -> None:
    """Before it does anything else, though it was not declared dead yet; one that was late for less goes on."""
    async with town() as running:
        node = await running.join()
        await running.pass_time(2)
        beats = await running.cluster.registry.get(node.node_id)
        running.world.clock.advance(NODE_TIMEOUT_SECONDS * node_timeouts + HEARTBEAT_SECONDS)
        await settle(TURNS_MAX)
        assert node.line.is_cut is (node_timeouts > 1)
        assert (beats == await running.cluster.registry.get(node.node_id)) is (node_timeouts > 1)


async def test_a_node_that_finds_itself_marked_ends_itself() -> None:
    """Others have its sessions by now: it must not go on, whatever it can still reach."""
    async with town() as running:
        node, other = await running.join(), await running.join()
        await running.cluster.registry.declare_dead(node.node_id, at=NOON, beat=None)
        await running.pass_time(2 * HEARTBEAT_SECONDS)
        assert (True, False) == (node.line.is_cut, other.line.is_cut)


async def test_a_node_that_drained_is_marked_and_what_it_had_goes_on_in_about_a_second() -> None:
    """Nobody waits for its beat to stand still."""
    async with town() as running:
        first, second = await running.join(), await running.join()
        await running.start(first)
        await running.pass_time(2)
        first.stop()
        await running.pass_time(DRAIN_SECONDS + 2.5)
        assert await running.is_marked(first)
        assert second.node_id == await running.owner()
        assert 0 == (await running.world.head()).takeovers
        assert [] == running.logged("node_declared_dead")


async def test_a_draining_node_claims_nothing() -> None:
    """Not even what is due, while it finishes what it has."""
    async with town() as running:
        first, second = await running.join(), await running.join()
        await running.start(first)
        await running.pass_time(2)
        running.cluster.drain_seconds = 1e6
        third = await running.join()
        await running.pass_time(2)
        for member in (second, third):
            member.router.drain()
            member.rescuer.drain()
        first.die()
        await running.pass_time(2 * NODE_TIMEOUT_SECONDS)
        assert first.node_id == await running.owner()
        fourth = await running.join()
        await running.pass_time(4 * HEARTBEAT_SECONDS)
        assert fourth.node_id == await running.owner()


async def test_what_a_node_owns_without_an_actor_is_claimed_anew() -> None:
    """A claim whose answer was lost, an actor that failed: its own audit finds it, and counts no takeover (rule 2)."""
    async with town() as running:
        first, second = await running.join(), await running.join()
        await running.start(first)
        head = await running.world.head()
        running.world.heads.put(replace(head, owner=second.node_id, epoch=head.epoch + 1))
        await running.pass_time(SECONDS_OF_AUDIT)
        head = await running.world.head()
        assert (second.node_id, 3, 0) == (head.owner, head.epoch, head.takeovers)
        assert "SESSION_RESUMED" in await running.world.story()


async def test_what_a_dead_node_claims_late_is_found_as_long_as_its_tombstone_stands() -> None:
    """A frozen process writes when it thaws, and the index tells of it later still (rule 3)."""
    async with town() as running:
        first, second = await running.join(), await running.join()
        await running.start(second)
        first.die()
        await running.pass_time(3 * NODE_TIMEOUT_SECONDS)
        head = await running.world.head()
        running.world.heads.put(replace(head, owner=first.node_id, epoch=head.epoch + 1))
        await running.pass_time(SECONDS_OF_AUDIT)
        assert second.node_id == await running.owner()
        assert 1 == (await running.world.head()).takeovers


async def test_a_registration_that_is_gone_is_forgotten() -> None:
    """Tombstones end after a day: nothing of the node is kept for ever."""
    directory, record = Directory(MemoryNodes(), own_id="here"), NodeRecord("gone", 0, "", NOON, "1")
    directory.saw([record], at=0.0, quiet_seconds_max=1.0)
    assert (record, ("gone", "here")) == (await directory.find("gone"), directory.takers)
    directory.saw([], at=1.0, quiet_seconds_max=1.0)
    assert (None, ("here",)) == (await directory.find("gone"), directory.takers)


async def test_one_item_that_cannot_be_read_stops_no_rescue() -> None:
    """A newer version wrote it, or AWS refused: the chore is logged, and its next round tries again."""
    async with town() as running:
        first, second = await running.join(), await running.join()
        await running.start(first)
        first.die()
        for call in ("heads.owned_by", "heads.due", "nodes.all", "wake_ups.take", "nodes.beat"):
            second.line.fail_once(call, UnreadableHead("newer"))
        await running.pass_time(NODE_TIMEOUT_SECONDS + 4 * HEARTBEAT_SECONDS)
        assert second.node_id == await running.owner()
        assert not second.line.is_cut
        assert {"beat", "watch", "wake-ups", "due"} <= {line["chore"] for line in running.logged("rescue_failed")}


async def test_a_blocked_session_is_tried_whenever_a_node_starts() -> None:
    """Long before it is due again: the new node may run the code that matches (rule 13)."""
    async with town() as running:
        first = await running.join()
        await running.start(first, "unknown")
        await running.pass_time(1)
        head = await running.world.head()
        assert SessionStatus.BLOCKED is head.status
        assert head.wake_at is not None
        await running.join()
        assert (await running.world.head()).epoch == head.epoch + 1
        assert running.world.clock.now() < head.wake_at
