"""Former owners: what they still may write, and how they stop once another epoch shows (I7)."""

import asyncio

from engine_line import PowerCut
from engine_world import Diary, Gate, Node, World, app_of, gated_app

from actors import settle
from orchestrator import Orchestrator, SessionContext
from orchestrator.session.events import SessionCompleted
from orchestrator.session.transitions import SessionStatus


async def test_a_former_owner_stops_silently_once_its_successor_has_arrived() -> None:
    """Its append behind SESSION_RESUMED fails; HEAD is untouched, and no error is logged (I7)."""
    app, gate = gated_app()
    world = World()
    async with world.node(app) as zombie, world.node(app, "node-2") as successor:
        await zombie.start()
        await gate.reached()
        zombie.line.hold()
        assert await successor.claim(dead_owner="node-1")
        gate.open()
        await zombie.line.until_held()
        assert SessionCompleted(result="passed") == await world.end()
        before = await world.head()
        zombie.line.thaw()
        await settle()
        assert 0 == len(zombie.system)
        assert before == await world.head()
    assert [1, 2, 2, 2] == [each.epoch for each in await world.recorded()]
    assert 1 == len(world.logged("session_fenced"))
    assert [] == world.logged("actor_failed")


async def test_a_former_owners_late_outcome_is_refused_while_its_successor_still_works() -> None:
    """Nothing of epoch 1 stands behind an event of epoch 2, and its only result is the successor's (I5, I7)."""
    old, new = Gate(), Gate()

    def app_before(gate: Gate, result: str) -> Orchestrator:
        async def work() -> str:
            await gate.passing()
            return result

        async def handler(ctx: SessionContext) -> list[str]:
            return [await ctx.step("a", work), await ctx.step("b", lambda: result)]

        return app_of(handler)

    world = World()
    async with world.node(app_before(old, "old")) as zombie, world.node(app_before(new, "new"), "node-2") as successor:
        await zombie.start()
        await old.reached()
        assert await successor.claim(dead_owner="node-1")
        await new.reached()
        old.open()
        await settle()
        assert 0 == len(zombie.system)
        assert ["AGENT_INVOCATION_STARTED", "SESSION_RESUMED"] == await world.story()
        assert ("node-2", SessionStatus.RUNNING) == ((await world.head()).owner, (await world.head()).status)
        new.open()
        assert SessionCompleted(result=["new", "new"]) == await world.end()
    assert [1, 2, 2, 2, 2] == [each.epoch for each in await world.recorded()]


async def test_a_fenced_actor_logs_no_error() -> None:
    """A former owner stops silently: it is no fault, and no traceback must wake anybody (I7)."""
    app, gate = gated_app()
    world = World()
    async with world.node(app) as zombie, world.node(app, "node-2") as successor:
        await zombie.start()
        await gate.reached()
        assert await successor.claim(dead_owner="node-1")
        gate.open()
        await settle()
        assert 0 == len(zombie.system)
    assert [] == world.errors_logged()


async def test_a_former_owners_last_event_counts_if_it_came_before_the_successors_first() -> None:
    """The claimer owns HEAD, lost one race in the journal, and goes on from behind the event it lost to (I7)."""
    app, gate = gated_app()
    world = World()
    async with world.node(app) as zombie, world.node(app, "node-2") as successor:
        await zombie.start()
        await gate.reached()
        zombie.line.hold()
        gate.open()
        await zombie.line.until_held()
        async with asyncio.TaskGroup() as group:
            await claimed_and_read(group, successor)
            zombie.line.thaw()
            zombie.line.hold()
            await zombie.line.until_held()
            successor.line.thaw()
        await world.end()
        zombie.line.thaw()
        await settle()
        assert 0 == len(zombie.system)
    assert [
        "AGENT_INVOCATION_STARTED",
        "STEP_COMPLETED a",
        "SESSION_RESUMED",
        "AGENT_BACKGROUND_TASK_COMPLETED",
    ] == await world.story()
    assert [1, 1, 2, 2] == [each.epoch for each in await world.recorded()]


async def claimed_and_read(group: asyncio.TaskGroup, successor: Node) -> None:
    """Let the successor claim HEAD and read the journal, and hold its first append."""
    group.create_task(successor.router.claim("s", owners=("node-1",)))
    successor.line.hold_on("append")
    await successor.line.until_held()


async def test_a_former_owners_end_counts_and_its_successor_corrects_head() -> None:
    """The terminal event won the race: nothing is appended after it (I2), and HEAD is the claimer's to write."""

    async def handler(ctx: SessionContext) -> str:
        return await gate.passing()

    gate, app, world = Gate(), app_of(handler), World()
    async with world.node(app) as zombie, world.node(app, "node-2") as successor:
        await zombie.start()
        await gate.reached()
        zombie.line.hold()
        gate.open()
        await zombie.line.until_held()
        async with asyncio.TaskGroup() as group:
            await claimed_and_read(group, successor)
            zombie.line.thaw()
            await settle()
            assert SessionStatus.RUNNING == (await world.head()).status
            successor.line.thaw()
        await world.end()
    assert ["AGENT_INVOCATION_STARTED", "AGENT_BACKGROUND_TASK_COMPLETED"] == await world.story()
    head = await world.head()
    assert (SessionStatus.COMPLETED, 2, 2, None) == (head.status, head.epoch, head.last_seq, head.owner)


async def test_a_claimer_that_finds_a_higher_epoch_in_the_journal_stops() -> None:
    """It was frozen between its claim and its first append, and somebody claimed after it (rule 4)."""
    app, gate = gated_app()
    world = World()
    async with world.node(app) as first, world.node(app, "node-2") as frozen, world.node(app, "node-3") as last:
        await first.start()
        await gate.reached()
        first.crash()
        async with asyncio.TaskGroup() as group:
            await claimed_and_read(group, frozen)
            assert await last.claim(dead_owner="node-2")
            frozen.line.thaw()
        await settle()
        assert 0 == len(frozen.system)
        gate.open()
        assert SessionCompleted(result="passed") == await world.end()
    assert [1, 3, 3, 3] == [each.epoch for each in await world.recorded()]
    failures = [line["exc_info"] for line in world.logged("actor_failed")]
    assert [PowerCut] == [type(error) for error in failures], "that of the node without power alone"


async def test_a_node_that_died_between_the_last_event_and_head_leaves_only_head_to_be_corrected() -> None:
    """The journal leads: the next claimer appends nothing, runs nothing, and brings HEAD to the recorded end."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> str:
        return await diary.step(ctx, "a")

    app, world = app_of(handler), World()
    async with world.node(app) as node:
        node.line.cut_before("end")
        await node.start()
        await settle()
    assert SessionStatus.RUNNING == (await world.head()).status
    story = await world.story()
    assert SessionCompleted(result="a") == await world.resume(app)
    assert (story, ["a"]) == (await world.story(), diary.entries)
    head = await world.head()
    assert (SessionStatus.COMPLETED, None, 3) == (head.status, head.owner, head.last_seq)
    async with world.node(app, "node-3") as node:
        assert not await node.claim()
        assert not await node.claim(dead_owner="node-2")
