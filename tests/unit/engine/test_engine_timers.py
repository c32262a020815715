"""Waiting for time: in memory, out of memory, across crashes, and whatever the clock is set to."""

import asyncio
from datetime import timedelta

import pytest
from engine_trials import pass_seconds, same_end_whatever_happens, told, until_end
from engine_world import NOON, Diary, World, app_of

from actors import settle
from orchestrator import Orchestrator, RetryPolicy, SessionContext
from orchestrator.calls import Duration
from orchestrator.session.events import SessionCompleted, SessionFailed
from orchestrator.session.transitions import SessionStatus

MONTHS = timedelta(days=200)


@pytest.mark.parametrize("duration", [0, 0.001, 2.5, timedelta(minutes=1), 120])
async def test_a_timer_comes_to_its_end_whatever_happens(duration: Duration) -> None:
    """Live, at rest and after a crash at any event, it fires once, and the handler goes on."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> str:
        await diary.step(ctx, "before")
        await ctx.sleep(duration)
        return await diary.step(ctx, "after")

    story = await same_end_whatever_happens(app_of(handler), told())
    assert [
        "AGENT_INVOCATION_STARTED",
        "STEP_COMPLETED before",
        "TIMER_STARTED sleep",
        "TIMER_FIRED sleep",
        "STEP_COMPLETED after",
        "AGENT_BACKGROUND_TASK_COMPLETED",
    ] == story


async def test_timers_side_by_side_fire_in_the_order_of_their_instants() -> None:
    """Whoever is first live is first on every replay."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> list[str]:
        order = list[str]()

        async def one(name: str, seconds: float) -> None:
            await ctx.sleep(seconds, name=name)
            order.append(name)
            await diary.step(ctx, f"after-{len(order)}-{name}")

        await asyncio.gather(one("long", 7), one("short", 2), one("middle", 4), one("none", 0))
        return order

    story = await same_end_whatever_happens(app_of(handler), told())
    assert ["none", "short", "middle", "long"] == [each.split()[1] for each in story if each.startswith("TIMER_FIRED")]


@pytest.mark.parametrize("duration", [-1, float("nan"), float("inf"), timedelta(days=-1), timedelta(days=401), "1"])
async def test_a_duration_that_is_none_fails_where_it_is_asked_for(duration: Duration) -> None:
    """Nothing is journaled for it."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.sleep(duration)

    world = World()
    end = await world.run(app_of(handler))
    assert isinstance(end, SessionFailed)
    assert "ValueError" == end.error.type
    assert 2 == len(await world.recorded())


async def test_a_timer_of_months_is_slept_in_memory_and_out_of_it() -> None:
    """It is as exact as any other."""

    async def handler(ctx: SessionContext) -> str:
        await ctx.sleep(MONTHS)
        return ctx.now().isoformat()

    for passivate_after in (30.0, 1e9):
        world = World()
        world.passivate_after = passivate_after
        async with world.node(app_of(handler)) as node:
            await node.start()
            await settle()
            await world.pass_time(31)
            assert (await world.head()).owner == (None if passivate_after == 30 else "node-1")
            for _ in range(200 * 24 - 1):
                await world.pass_time(3600)
            assert not (await world.state()).has_ended
            await world.pass_time(3600 - 32)
            await pass_seconds(world, node, 1)
            assert SessionCompleted((NOON + MONTHS).isoformat()) == await world.end()


async def test_a_timer_that_fell_due_while_no_node_lived_fires_once_on_the_next() -> None:
    """However late: at once, and not again on the one after."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> None:
        await ctx.sleep(60)
        await diary.step(ctx, "after")
        await ctx.sleep(60)

    app = app_of(handler)
    world = World()
    async with world.node(app) as node:
        await node.start()
        await settle()
        node.crash()
    await world.pass_time(10_000)
    async with world.node(app, "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        assert ["after"] == diary.entries
        node.crash()
    async with world.node(app, "node-3") as node:
        assert await node.claim(dead_owner="node-2")
        assert SessionCompleted(None) == await until_end(world, node)
    assert ["after"] == diary.entries
    assert 1 == (await world.story()).count("TIMER_FIRED sleep")


async def test_a_session_at_rest_is_due_at_the_first_of_its_timers() -> None:
    """HEAD says when; nobody holds it meanwhile, and the one who wakes it fires that timer only."""

    async def handler(ctx: SessionContext) -> None:
        await asyncio.gather(ctx.sleep(300, name="a"), ctx.sleep(100, name="b"), ctx.wait_for_signal("go", timeout=200))

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await world.pass_time(40)
        head = await world.head()
        assert (SessionStatus.SUSPENDED, None) == (head.status, head.owner)
        assert NOON + timedelta(seconds=100) == head.wake_at
        assert 0 == len(node.system)
        await pass_seconds(world, node, 61)
        assert ["TIMER_FIRED b"] == [each for each in await world.story() if each.startswith("TIMER_FIRED")]


@pytest.mark.parametrize("step_back", [1, 3600, 86_400 * 365])
async def test_a_clock_that_is_set_back_makes_no_timer_early(step_back: int) -> None:
    """The instant in the journal counts, live and after a crash."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.sleep(60)

    app = app_of(handler)
    world = World()
    world.passivate_after = 1e9
    async with world.node(app) as node:
        await node.start()
        await settle()
        await world.pass_time(50)
        world.clock.set_wall(NOON + timedelta(seconds=50 - step_back))
        await world.pass_time(10)
        assert not (await world.state()).has_ended
        node.crash()
    async with world.node(app, "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        while world.clock.now() < NOON + timedelta(seconds=59):
            await world.pass_time(min(3600.0, (NOON + timedelta(seconds=59) - world.clock.now()).total_seconds()))
        assert not (await world.state()).has_ended
        await world.pass_time(1)
        assert SessionCompleted(None) == await world.end()


async def test_a_timer_that_rang_before_the_clock_was_set_back_rings_again() -> None:
    """It waits behind an append when the clock is set; then it is too early, and armed once more."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.sleep(60)

    world = World()
    world.passivate_after = 1e9
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await world.pass_time(59)
        node.line.hold_on("append")
        signal = asyncio.ensure_future(node.deliveries.signal("s", "go", None, "m-1"))
        await node.line.until_held()
        await world.pass_time(1)
        world.clock.set_wall(NOON)
        node.line.thaw()
        await signal
        await settle()
        assert not (await world.state()).has_ended
        await world.pass_time(59)
        assert not (await world.state()).has_ended
        await world.pass_time(1)
        assert SessionCompleted(None) == await world.end()


async def test_a_timer_that_falls_due_while_its_session_leaves_memory_is_not_lost() -> None:
    """It rings to an actor that has left; HEAD is due at once, and the next claim fires it."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.sleep(60)

    world = World()
    world.passivate_after = 59
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        node.line.hold_on("release")
        await world.pass_time(59)
        await node.line.until_held()
        await world.pass_time(5)
        node.line.thaw()
        await settle()
        assert "TIMER_FIRED sleep" not in await world.story()
        assert SessionCompleted(None) == await until_end(world, node)
    assert 1 == (await world.story()).count("TIMER_FIRED sleep")


async def test_the_time_limit_of_a_session_ends_it_wherever_it_is() -> None:
    """In memory, at rest, or after a crash: it fails as timed out, once its handler was told."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> None:
        ctx.on_failure("undo", diary.note, "undone")
        await diary.step(ctx, "a")
        await ctx.wait_for_signal("never")

    app = Orchestrator()
    app.session("main", timeout=timedelta(seconds=20))(handler)
    story = await same_end_whatever_happens(app, told())
    assert [
        "AGENT_INVOCATION_STARTED",
        "STEP_COMPLETED a",
        "CANCEL_REQUESTED",
        "STEP_COMPLETED undo",
        "AGENT_BACKGROUND_TASK_FAILED",
    ] == story


async def test_a_timer_started_again_under_its_name_is_another_one() -> None:
    """Two of one name are two operations."""

    async def handler(ctx: SessionContext) -> None:
        await asyncio.gather(ctx.sleep(2), ctx.sleep(1))

    story = await same_end_whatever_happens(app_of(handler), told())
    assert ["TIMER_FIRED sleep#2", "TIMER_FIRED sleep"] == [each for each in story if "FIRED" in each]


async def test_a_session_leaves_memory_once_nothing_has_happened_in_it_for_so_long() -> None:
    """Each event keeps it for as long again."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.wait_for_signal("go")

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await world.pass_time(20)
        await node.deliveries.signal("s", "other", None, "1")
        await settle()
        await pass_seconds(world, node, 29)
        assert "node-1" == (await world.head()).owner
        await pass_seconds(world, node, 1)
        assert (await world.head()).owner is None


@pytest.mark.parametrize("kind", ["step", "agent"])
async def test_a_retry_pauses_no_longer_than_its_policy_says_though_the_clock_was_set_back(kind: str) -> None:
    """The node that noted when the next attempt is due died, and the clock of the one that takes over is behind."""
    tries = list[int]()

    async def flaky(*_: object) -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("not yet")
        return len(tries)

    async def handler(ctx: SessionContext) -> object:
        retry = RetryPolicy(max_attempts=2, max_delay=timedelta(seconds=10))
        if kind == "step":
            return await ctx.step("flaky", flaky, retry=retry)
        return await ctx.invoke_agent("flaky", None, retry=retry)

    world = World()
    async with world.node(app_of(handler, flaky=flaky)) as node:
        await node.start()
        await settle()
        node.crash()
    world.clock.set_wall(NOON - timedelta(days=30))
    async with world.node(app_of(handler, flaky=flaky), "node-2") as node:
        await node.claim(dead_owner="node-1")
        await world.pass_time(10)
        assert SessionCompleted(2) == await world.end()


async def test_a_session_leaves_memory_though_the_clock_was_set_back() -> None:
    """Its last event seems to be yet to come, for a month."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.wait_for_signal("go")

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        world.clock.set_wall(NOON - timedelta(days=30))
        await world.pass_time(31)
        assert SessionStatus.SUSPENDED is (await world.head()).status
