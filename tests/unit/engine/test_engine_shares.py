"""What all nodes see at once falls to one of them by hash, and to everybody where that one does not take it (I8)."""

from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from random import Random

import pytest
from engine_cluster import HEARTBEAT_SECONDS, NODE_TIMEOUT_SECONDS, Cluster, Member
from engine_world import NOON, World
from structlog.testing import capture_logs

from orchestrator import Orchestrator, SessionContext
from orchestrator.cluster import ENDS_NOW, Head, NotOwner
from orchestrator.cluster.memory import MemoryHeads
from orchestrator.cluster.shares import PASSED_OVER_MAX, Turns, first_taker
from orchestrator.inbox import InboxItem
from orchestrator.inbox.codec import encode_message
from orchestrator.intake import Start
from orchestrator.rescuer import AUDIT_EVERY_BEATS
from orchestrator.session.messages import CancelAsked, KillAsked
from orchestrator.session.transitions import SessionStatus

SESSIONS = 400
NAP_SECONDS = 600.0
NEVER_SECONDS = 1e9
TAKEN_WITHIN_SECONDS = 60.0


class CountedHeads(MemoryHeads):
    """HEADs that count what is asked of them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    async def get(self, session_id: str) -> Head | None:
        self.calls["read"] += 1
        return await super().get(session_id)

    async def claim(self, head: Head, *, node_id: str, nonce: str, at: datetime, from_dead_owner: bool) -> Head:
        self.calls["claim"] += 1
        try:
            return await super().claim(head, node_id=node_id, nonce=nonce, at=at, from_dead_owner=from_dead_owner)
        except NotOwner:
            self.calls["refused claim"] += 1
            raise

    def open_by_owner(self) -> Counter[str | None]:
        """Return how many open sessions each node owns; `None` for nobody."""
        return Counter(head.owner for head in self.all() if head.status is SessionStatus.RUNNING)


class Town:
    """A cluster whose HEADs are counted."""

    def __init__(self, *, passivate_after: float, threads: ThreadPoolExecutor) -> None:
        self.world = World()
        self.world.passivate_after = passivate_after
        self.heads = self.world.heads = CountedHeads()
        self.cluster = Cluster(naps(), self.world, Random(1), threads)

    async def join(self, *sessions_max: int) -> list[Member]:
        """Let a node come for each of these; return them once all know each other."""
        for each in sessions_max:
            self.cluster.sessions_max = each
            self.cluster.join()
        for _ in range(3):
            await self.cluster.pass_time(HEARTBEAT_SECONDS)
        return list(self.cluster.members[-len(sessions_max) :])

    async def start(self, member: Member, *, sessions: int = SESSIONS) -> None:
        """Start sessions at that node."""
        for number in range(sessions):
            await member.router.start(Start("nap", f"s{number}", "default", None, input_bytes=4))

    async def until_owned_by(self, members: list[Member], *, within: float = TAKEN_WITHIN_SECONDS) -> float:
        """Return the seconds until these nodes own all open sessions."""
        living = {member.node_id for member in members}
        for seconds in range(int(within) + 1):
            if set(self.heads.open_by_owner()) <= living:
                return seconds
            await self.cluster.pass_time(1)
        raise AssertionError(f"left behind: {self.heads.open_by_owner()}")


def naps() -> Orchestrator:
    """Return an application whose sessions sleep for a while."""
    app = Orchestrator()

    @app.session("nap")
    async def nap(ctx: SessionContext) -> None:
        await ctx.sleep(NAP_SECONDS)

    return app


@asynccontextmanager
async def town(*, passivate_after: float = NEVER_SECONDS) -> AsyncIterator[Town]:
    """Run a cluster in which sessions stay in memory, unless told."""
    with capture_logs() as logs, ThreadPoolExecutor(1) as threads:
        opened = Town(passivate_after=passivate_after, threads=threads)
        yield opened
        await opened.cluster.close()
    assert [] == [line for line in logs if line["log_level"] == "error"]


SECONDS_OF_SHARES = 2 * HEARTBEAT_SECONDS
"""Until every survivor has seen the tombstone."""


async def test_a_dead_nodes_sessions_are_spread_over_the_survivors() -> None:
    """Each gets about its share at once, and nobody is refused a claim because another one was first."""
    async with town() as running:
        first, *survivors = await running.join(*[1_000] * 5)
        await running.start(first)
        running.heads.calls.clear()
        first.die()
        await running.until_owned_by(survivors, within=NODE_TIMEOUT_SECONDS + SECONDS_OF_SHARES)
        owned = running.heads.open_by_owner()
        assert SESSIONS == sum(owned.values())
        assert all(70 <= owned[member.node_id] <= 130 for member in survivors), owned
        assert (SESSIONS, 0) == (running.heads.calls["claim"], running.heads.calls["refused claim"])


@pytest.mark.parametrize("beats", range(AUDIT_EVERY_BEATS))
async def test_what_a_survivor_has_no_room_for_falls_to_the_others(beats: int) -> None:
    """As soon as the time of the shares is over, not at the next audit; nobody takes more than it has room for."""
    async with town() as running:
        first, full, *survivors = await running.join(1_000, 10, 1_000, 1_000)
        for _ in range(beats):
            await running.cluster.pass_time(HEARTBEAT_SECONDS)
        await running.start(first)
        first.die()
        within = NODE_TIMEOUT_SECONDS + 2 * HEARTBEAT_SECONDS + SECONDS_OF_SHARES
        await running.until_owned_by([full, *survivors], within=within)
        owned = running.heads.open_by_owner()
        assert SESSIONS == sum(owned.values())
        assert 10 == owned[full.node_id]
        assert all(130 <= owned[member.node_id] for member in survivors), owned


async def test_who_dies_with_another_one_gets_no_share_of_that() -> None:
    """Its beat stands still, so nobody waits for it to claim."""
    async with town() as running:
        first, second, *survivors = await running.join(*[1_000] * 5)
        await running.start(first)
        first.die()
        second.die()
        await running.until_owned_by(survivors, within=NODE_TIMEOUT_SECONDS + SECONDS_OF_SHARES)
        assert SESSIONS == sum(running.heads.open_by_owner().values())


async def test_the_share_of_a_survivor_that_dies_falls_to_the_others() -> None:
    """What it had not claimed yet, after the time of the shares; what it had, when it is found dead itself."""
    async with town() as running:
        first, second, *survivors = await running.join(*[1_000] * 5)
        await running.start(first)
        first.die()
        second.line.cut_before("heads.claim", calls=20)
        within = NODE_TIMEOUT_SECONDS + 2 * SECONDS_OF_SHARES
        await running.until_owned_by([second, *survivors], within=within)
        assert second.line.is_cut
        assert 0 < running.heads.open_by_owner()[second.node_id] < 20
        await running.until_owned_by(survivors)
        assert SESSIONS == sum(running.heads.open_by_owner().values())


async def test_what_falls_due_is_claimed_by_one_node_and_looked_at_by_no_other() -> None:
    """Five nodes that look every second cost a session's wake two reads at most, not five, and no refused claim."""
    async with town(passivate_after=0.05) as running:
        members = await running.join(*[1_000] * 5)
        await running.start(members[0])
        for _ in range(3):
            await running.cluster.pass_time(1)
        assert {None} == {head.owner for head in running.heads.all()}
        running.heads.calls.clear()
        for _ in range(int(NAP_SECONDS)):
            await running.cluster.pass_time(1)
        assert {SessionStatus.COMPLETED} == {head.status for head in running.heads.all()}
        assert (SESSIONS, 0) == (running.heads.calls["claim"], running.heads.calls["refused claim"])
        assert SESSIONS <= running.heads.calls["read"] <= 2 * SESSIONS, running.heads.calls


async def test_what_falls_due_to_a_full_node_is_claimed_by_another_one_a_look_later() -> None:
    """The full one lives and beats, so it has a share, and takes none of it."""
    async with town(passivate_after=0.05) as running:
        first, _ = await running.join(1_000, 0)
        await running.start(first, sessions=40)
        for _ in range(int(NAP_SECONDS) + 2):
            await running.cluster.pass_time(1)
        assert {SessionStatus.COMPLETED} == {head.status for head in running.heads.all()}


async def test_what_is_to_be_ended_now_is_claimed_by_a_full_node() -> None:
    """By a message that a process that is no node left: all nodes are full, and take nothing else that is due."""
    async with town(passivate_after=0.05) as running:
        first, _ = await running.join(1, 0)
        await running.start(first, sessions=2)
        for _ in range(3):
            await running.cluster.pass_time(1)
        first.capacity.sessions_max = 0
        for message, session_id in ((CancelAsked("c", "stop"), "s0"), (KillAsked("k", "stop now"), "s1")):
            head = await running.world.head(session_id)
            await running.world.inbox.put(session_id, InboxItem(message.message_id, 1, encode_message(message)))
            await running.heads.bump_inbox(session_id)
            await running.heads.make_due(head, at=ENDS_NOW if session_id == "s1" else NOON)
        for _ in range(3):
            await running.cluster.pass_time(1)
        assert SessionStatus.CANCELLED == (await running.world.head("s1")).status
        assert SessionStatus.SUSPENDED == (await running.world.head("s0")).status


# --- the hash -------------------------------------------------------------------------------------------------------


def test_shares_are_about_equal_whatever_the_ids_look_like() -> None:
    """Numbered sessions, derived ids, nodes that are numbered, too."""
    for takers in (["node-1", "node-2", "node-3", "node-4"], [f"{number:012x}" for number in range(10)]):
        for sessions in ([f"order-{n}" for n in range(4_000)], [f"{n:064x}:g2" for n in range(4_000)]):
            shares = Counter(first_taker(session_id, takers) for session_id in sessions)
            fair = len(sessions) / len(takers)
            assert all(0.8 * fair <= shares[taker] <= 1.2 * fair for taker in takers), shares


def test_no_session_moves_between_nodes_that_stay() -> None:
    """When one goes, its share is spread; the order in which nodes are named does not matter."""
    takers = ["a", "b", "c", "d"]
    for session_id in (f"s{n}" for n in range(1_000)):
        taker = first_taker(session_id, takers)
        assert taker == first_taker(session_id, takers[::-1])
        if taker != "d":
            assert taker == first_taker(session_id, takers[:3])


def test_a_session_is_everybodys_from_the_second_look_on() -> None:
    """As long as it stays listed; one that was away meanwhile begins anew."""
    turns = Turns("a")
    others = next(name for name in map(str, range(100)) if first_taker(name, ["a", "b"]) == "b")
    assert [False, True] == [turns.look(["a", "b"])(others) for _ in range(2)]
    turns.look(["a", "b"])
    assert not turns.look(["a", "b"])(others)
    assert turns.look(["a"])(others)


def test_what_is_passed_over_has_a_limit_and_still_is_not_left_behind() -> None:
    """The rest of a list without end is looked at when its head is gone."""
    turns = Turns("a")
    listed = [str(number) for number in range(3 * PASSED_OVER_MAX)]
    taken = set[str]()
    for _ in range(10):
        is_ours = turns.look(["a", "b"])
        taken |= {session_id for session_id in listed if session_id not in taken and is_ours(session_id)}
    assert set(listed) == taken


async def test_what_a_dead_node_left_to_be_ended_now_is_claimed_by_a_full_node() -> None:
    """As soon as its owner is known as dead; nothing else of what that one left."""
    async with town() as running:
        first, full = await running.join(2, 0)
        await running.start(first, sessions=2)
        first.die()
        await full.deliveries.kill("s1", "stop now", None)
        for _ in range(int(NODE_TIMEOUT_SECONDS + 2 * HEARTBEAT_SECONDS)):
            await running.cluster.pass_time(1)
        assert SessionStatus.CANCELLED == (await running.world.head("s1")).status
        assert first.node_id == (await running.world.head("s0")).owner
