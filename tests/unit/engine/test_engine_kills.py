"""A killed session ends at once, whatever it is doing, whoever has it, and however full the nodes are."""

import asyncio

import pytest
from engine_life import live, look_after, until_suspended
from engine_line import PowerCut
from engine_trials import helper, kill, napping, same_end_whatever_happens, told
from engine_world import Diary, Gate, World, app_of

from actors import settle
from orchestrator import SessionContext
from orchestrator.cluster import ENDS_NOW
from orchestrator.inbox import SessionEnded
from orchestrator.journal import UnwritableEvent
from orchestrator.session.events import SessionCancelled
from orchestrator.session.transitions import SessionStatus


async def test_a_killed_session_ends_whatever_happens() -> None:
    """Request and end are one decision: nobody sees the one without the other."""
    story = await same_end_whatever_happens(app_of(napping, helper=helper), told(kill, kill))
    assert ["CANCEL_REQUESTED", "AGENT_BACKGROUND_TASK_CANCELLED"] == story[-2:]


async def test_a_kill_does_not_wait_for_a_handler_that_swallows_its_cancellation() -> None:
    """Nor are its undo steps run."""
    gate, diary = Gate(), Diary()

    async def stubborn() -> None:
        while True:
            try:
                await gate.passing()
                return
            except asyncio.CancelledError:
                diary.entries.append("swallowed")

    async def handler(ctx: SessionContext) -> None:
        ctx.on_failure("undo", diary.note, "undone")
        await ctx.step("first", stubborn)

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await gate.reached()
        try:
            await kill(world, node)
            assert SessionCancelled("runs away") == await world.end()
            assert {"swallowed"} == set(diary.entries)
        finally:
            gate.open()


async def test_a_kill_does_not_wait_for_a_thread() -> None:
    """A sync step that never returns keeps its thread, not its session."""
    import threading

    started, release = threading.Event(), threading.Event()

    def stuck() -> None:
        started.set()
        release.wait()

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("first", stuck)

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await asyncio.get_running_loop().run_in_executor(None, started.wait)
        try:
            await kill(world, node)
            assert SessionCancelled("runs away") == await world.end()
        finally:
            release.set()


async def test_a_killed_session_kills_its_children() -> None:
    """Whoever ends a session that runs away means all of it."""

    async def child(ctx: SessionContext) -> None:
        try:
            await ctx.wait_for_signal("never")
        finally:
            await ctx.step("clean up", str)

    async def handler(ctx: SessionContext) -> None:
        await ctx.run_session("child", None)

    app = app_of(handler)
    app.session("child")(child)
    world = World()
    async with world.node(app) as node:
        await node.start()
        await settle()
        [child_id] = {s for s in world.standing if s != "s"}
        await kill(world, node)
        assert SessionCancelled("runs away") == await world.end()
        assert SessionCancelled("runs away") == await world.end(child_id)
    assert "STEP_COMPLETED clean up" not in await world.story(child_id)


async def test_a_kill_reaches_a_session_that_rests_or_waits_for_its_slot() -> None:
    """Neither has a handler to ask."""
    world = World(tenant_limit=1)
    async with world.node(app_of(napping, helper=helper)) as node:
        await node.start()
        await node.start(session_id="t")
        await settle()
        assert SessionStatus.QUEUED == (await world.head("t")).status
        await node.deliveries.kill("t", "not needed", "kill-t")
        assert SessionCancelled("not needed") == await world.end("t")
        await node.deliveries.kill("t", "not needed", "kill-t")
        with pytest.raises(SessionEnded):
            await node.deliveries.kill("t", "not needed", "kill-u")


async def test_a_kill_needs_no_free_place() -> None:
    """Of a session that nobody has, on a node that is full; another message waits there until a place is free."""
    gate, world = Gate(), World()
    world.passivate_after = 0.5

    async def rests_or_works(ctx: SessionContext, works: bool) -> None:
        await (gate.passing() if works else ctx.sleep(3_600))

    async with world.node(app_of(rests_or_works), sessions_max=1) as node:
        await node.start(False)
        await until_suspended(world, node)
        await node.start(True, session_id="works")
        await gate.reached()
        await node.deliveries.pause("s", "look at it first", None)
        assert (await world.head()).owner is None
        await kill(world, node)
        assert SessionCancelled("runs away") == await world.end()


async def test_a_kill_of_a_session_that_waits_for_its_slot_needs_no_free_place() -> None:
    """Told by a process that is no node, while the only node is full."""
    world = World(tenant_limit=1)
    async with (
        world.node(app_of(napping, helper=helper), sessions_max=1) as node,
        world.node(app_of(napping), "x") as no,
    ):
        no.router.drain()
        await node.start()
        await node.start(session_id="t")
        await settle()
        assert SessionStatus.QUEUED == (await world.head("t")).status
        await no.deliveries.kill("t", "not needed", None)
        await look_after(world, node)
        assert SessionCancelled("not needed") == await world.end("t")
        assert SessionStatus.RUNNING == (await world.head()).status


async def test_what_is_told_after_a_kill_does_not_put_the_end_off() -> None:
    """By a process that is no node, or drains: a cluster that is full would otherwise wait for a free place."""
    world = World()
    world.passivate_after = 0.5
    async with world.node(app_of(napping, helper=helper)) as node, world.node(app_of(napping), "draining") as draining:
        draining.router.drain()
        await node.start()
        await until_suspended(world, node)
        await draining.deliveries.kill("s", "runs away", None)
        await draining.deliveries.signal("s", "news", 1, None)
        assert ENDS_NOW == (await world.head()).wake_at


async def test_a_kill_of_a_dead_nodes_session_needs_no_free_place() -> None:
    """Its note lies with the dead node, and all others are full."""
    gate, world = Gate(), World()

    async def works(_: SessionContext) -> None:
        await gate.passing()

    app = app_of(works)
    async with world.node(app) as node, world.node(app, "node-2", sessions_max=1) as full:
        await full.start(session_id="works")
        await node.start()
        await gate.reached()
        node.crash()
        await kill(world, full)
        await live(world, full, dead=("node-1",))
        assert SessionCancelled("runs away") == await world.end()
        assert SessionStatus.RUNNING == (await world.head("works")).status
        gate.open()


async def test_a_kill_is_not_lost_with_the_node_that_took_it_up() -> None:
    """It claimed the session and died before it read the inbox: the next one ends it, full or not."""
    gate, world = Gate(), World()
    world.passivate_after = 0.5

    async def rests_or_works(ctx: SessionContext, works: bool) -> None:
        await (gate.passing() if works else ctx.sleep(3_600))

    app = app_of(rests_or_works)
    async with (
        world.node(app) as node,
        world.node(app, "node-2", sessions_max=1) as full,
        world.node(app, "cli") as cli,
    ):
        cli.router.drain()
        await node.start(False)
        await until_suspended(world, node)
        await full.start(True, session_id="works")
        await gate.reached()
        await kill(world, cli)
        node.line.cut_after("claim")
        with pytest.raises(PowerCut):
            await look_after(world, node)
        assert node.node_id == (await world.head()).owner
        await live(world, full, dead=("node-1",))
        assert SessionCancelled("runs away") == await world.end()
        gate.open()


async def test_a_kill_is_not_lost_where_its_owner_gives_the_session_up_as_blocked() -> None:
    """Told while that is on its way to the table, and all nodes are full from then on."""
    gate, busy, world = Gate(), Gate(), World()

    async def handler(ctx: SessionContext, works: bool = False) -> None:
        await (busy.passing() if works else ctx.step("a", gate.passing))

    app = app_of(handler)
    async with world.node(app, sessions_max=1) as node, world.node(app, "cli") as cli:
        cli.router.drain()
        await node.start(False)
        await gate.reached()
        node.line.hold_on("release")
        node.line.fail_once("append", UnwritableEvent("no JSON"), after=0)
        gate.open()
        await node.line.until_held()
        await kill(world, cli)
        node.line.thaw()
        await settle()
        assert SessionStatus.BLOCKED == (await world.head()).status
        await node.start(True, session_id="works")
        await busy.reached()
        await world.pass_time(1)
        await look_after(world, node)
        assert SessionCancelled("runs away") == await world.end()
        busy.open()
