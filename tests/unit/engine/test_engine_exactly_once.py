"""A failure is recorded once, told once, and frees one slot once, however many nodes and callers bring it about.

Two nodes, one table: a root that asks for an approval and fails by its child, and another of its tenant that waits for
its slot. One node stands still at each of its calls to the table, before it and after it, while the other takes over
and ends everything; then it goes on, as a zombie does (I2, I6, I7, I9, I10).
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import TypeAlias

import pytest
from engine_life import live, look_after
from engine_line import PATIENCE_SECONDS
from engine_trials import LATE
from engine_world import Diary, Node, World, app_of

from actors import settle
from orchestrator import Orchestrator, SessionContext
from orchestrator.router import NotYetThere
from orchestrator.session.transitions import SessionStatus

TERMINAL = "AGENT_BACKGROUND_TASK_"
RETRIES = 3
"""How often each caller asks each node: all at once, under one message id."""
CALLS_MIN, CALLS_MAX = 20, 200
STRIDE = 7
"""Of the calls at which a successor could freeze, one in seven is tried: all of them in seven freezes of its zombie."""

Call: TypeAlias = Callable[[Node], Awaitable[object]]


def family() -> Orchestrator:
    """Return the application: a root that fails as its child does, and one that waits for the root's slot."""

    async def root(ctx: SessionContext) -> object:
        await ctx.request_approval("publish", timeout=timedelta(hours=1))
        return await ctx.run_session("child", None, key="child")

    async def child(ctx: SessionContext) -> object:
        await ctx.wait_for_signal("go")
        raise ValueError("no")

    async def after(ctx: SessionContext) -> object:
        return await Diary().step(ctx, "a")

    app = app_of(root)
    app.session("child")(child)
    app.session("next")(after)
    return app


class Plot:
    """What happens in one world: who is told what, by how many at once."""

    def __init__(self, world: World, nodes: tuple[Node, Node], heir: Node) -> None:
        self.world = world
        self.nodes = nodes
        self.heir = heir
        self.child = ""
        self._callers: list[asyncio.Future[None]] = []

    async def begin(self) -> None:
        """Let the root run and the next one wait for its slot."""
        first = self.nodes[0]
        await first.start(session_id="root", tenant="acme")
        await settle()
        await first.start(session_id="next", session_type="next", tenant="acme")
        await settle()
        assert SessionStatus.QUEUED == (await self.world.head("next")).status

    async def ask(self, call: Call) -> None:
        """Ask both nodes, several times each and all at once."""
        for node in self.nodes * RETRIES:
            self._callers.append(asyncio.ensure_future(answered(call, node)))
        await settle()

    async def approve(self) -> None:
        """Let everybody approve at once; the child begins."""
        await self.ask(lambda node: node.deliveries.approve("root", "publish", True, "me", None))
        page = await self.world.heads.listing(status=None, session_type="child", tenant=None, cursor=None, limit=9)
        self.child = next((head.session_id for head in page.heads), "")

    async def fail(self) -> None:
        """Let everybody tell the child at once to go on, and so to fail."""
        if self.child:
            await self.ask(lambda node: node.deliveries.signal(self.child, "go", None, "go-1"))

    async def cancel(self) -> None:
        """Let everybody cancel the root at once."""
        await self.ask(lambda node: node.deliveries.cancel("root", "enough", "cancel-1"))

    async def look_after(self, survivor: Node, *dead: str) -> None:
        """Let so much time pass that the survivor takes over whatever fell due or lost its owner."""
        for _ in range(3):
            await look_after(self.world, survivor, dead=dead)
            await self.world.pass_time(31)
        await look_after(self.world, survivor, dead=dead)

    async def close(self, survivor: Node, *dead: str) -> None:
        """Let everything end, and wait until every caller was answered."""
        await live(self.world, survivor, *self.sessions(), dead=dead)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*self._callers)
        await settle()

    def sessions(self) -> list[str]:
        """Return the ids of those that there are."""
        return [session_id for session_id in ("root", self.child, "next") if session_id]


async def answered(call: Call, node: Node) -> None:
    """Return when the node has answered, whatever it says to one who is late."""
    with suppress(*LATE, NotYetThere):
        await call(node)


@asynccontextmanager
async def plot() -> AsyncIterator[Plot]:
    """Yield a plot on two nodes of one table, where the tenant has one slot."""
    world, app = World(tenant_limit=1), family()
    async with (
        world.node(app, "node-1") as first,
        world.node(app, "node-2") as second,
        world.node(app, "node-3") as third,
    ):
        made = Plot(world, (first, second), third)
        await made.begin()
        yield made


async def failing(told: Plot) -> None:
    """Approve, and let the child fail, and so the root."""
    await told.approve()
    await told.fail()


async def cancelling(told: Plot) -> None:
    """Approve, and cancel the root, and so its child."""
    await told.approve()
    await told.cancel()


Way: TypeAlias = Callable[[Plot], Awaitable[None]]
ENDS: dict[Way, str] = {failing: "FAILED", cancelling: "CANCELLED"}


async def assert_once(told: Plot, end: str) -> None:
    """Check that each end, each delivery and the slot's way happened exactly once."""
    world = told.world
    for session_id in told.sessions():
        story = await world.story(session_id)
        terminal = [line for line in story if line.startswith(TERMINAL)]
        assert [TERMINAL + ("COMPLETED" if session_id == "next" else end)] == terminal == story[-1:], story
        head = await world.head(session_id)
        assert (None, ()) == (head.owner, head.outbox)
        recorded = await world.recorded(session_id)
        assert sorted(each.epoch for each in recorded) == [each.epoch for each in recorded]
        times = Counter(line for line in story if line != "SESSION_RESUMED")
        assert {1} == set(times.values()), story
        ended = [line for line in world.logged("session_ended") if line["session_id"] == session_id]
        assert 1 == len(ended), story
    quota = await world.quotas.get("acme")
    assert (0, 0) == (quota.used, quota.queued)
    assert ["next"] == [line["session_id"] for line in world.logged("session_promoted")]
    assert [] == world.errors_logged()


@pytest.mark.parametrize("way", ENDS)
async def test_an_end_that_everybody_brings_about_at_once_is_recorded_and_told_once(way: Way) -> None:
    """The child's, the root's that it leads to, and the slot's that the next one waits for."""
    async with plot() as told:
        await way(told)
        await told.close(told.nodes[1])
        await assert_once(told, ENDS[way])
        story = await told.world.story("root")
        assert 1 == sum(line.startswith("CALLBACK_COMPLETED publish") for line in story)
        assert 1 == len(told.world.notifications.approvals)
        if way is failing:
            assert 1 == sum(line.startswith("CHILD_FAILED") for line in story)
            assert 1 == (await told.world.story(told.child)).count("SIGNAL_RECEIVED")


@pytest.mark.parametrize("done", [False, True], ids=["unheard", "done"])
@pytest.mark.parametrize("way", ENDS)
async def test_wherever_a_node_stands_still_it_and_its_successor_record_and_tell_an_end_once(
    way: Way, done: bool
) -> None:
    """Frozen at each of its calls, it goes on when all is over; who asked it asks its successor again meanwhile."""
    for call in count(1):
        async with plot() as told:
            zombie, successor = told.nodes
            zombie.line.freeze_at(zombie.line.calls + call, answered=done)
            await way(told)
            is_whole = not zombie.line.is_held
            await told.look_after(successor, "node-1")
            await way(told)
            await told.look_after(successor, "node-1")
            zombie.line.thaw()
            await settle()
            await told.close(successor, "node-1")
            await assert_once(told, ENDS[way])
        if is_whole:
            break
    assert CALLS_MIN < call < CALLS_MAX


@pytest.mark.parametrize("done", [False, True], ids=["unheard", "done"])
@pytest.mark.parametrize("way", ENDS)
async def test_a_zombie_and_its_successor_that_stand_still_in_turn_record_and_tell_an_end_once(
    way: Way, done: bool
) -> None:
    """The successor freezes as it takes over or after that, the zombie goes on, then both, and a third ends it all."""
    is_whole = False
    for call in count(1):
        for other in count(1 + call % STRIDE, STRIDE):
            async with plot() as told:
                zombie, successor = told.nodes
                zombie.line.freeze_at(zombie.line.calls + call, answered=done)
                await way(told)
                is_whole = not zombie.line.is_held
                successor.line.freeze_at(successor.line.calls + other, answered=done)
                taking_over = asyncio.ensure_future(told.look_after(successor, "node-1"))
                await settle()
                zombie.line.thaw()
                await settle()
                is_through = not successor.line.is_held
                await told.look_after(told.heir, "node-1", "node-2")
                successor.line.thaw()
                await settle()
                await taking_over
                await way(told)
                await told.close(told.heir, "node-1", "node-2")
                await assert_once(told, ENDS[way])
            if is_through:
                break
        if is_whole:
            break
    assert CALLS_MIN < call < CALLS_MAX
