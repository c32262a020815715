"""A branch that its handler leaves behind: no operation of it outlives the run, whichever way that ended."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeAlias

import pytest
from engine_life import until_suspended
from engine_world import Gate, World, app_of

from actors import settle
from orchestrator import RetryPolicy, SessionContext
from orchestrator.session.events import SessionCompleted

Branch: TypeAlias = Callable[[SessionContext], Coroutine[Any, Any, object]]


async def asleep(ctx: SessionContext) -> None:
    """Wait for time."""
    await ctx.sleep(3600)


async def for_signal(ctx: SessionContext) -> object:
    """Wait for what leaves no event until it is there."""
    return await ctx.wait_for_signal("never")


async def at_work(ctx: SessionContext) -> object:
    """Run a step that does not end by itself."""
    return await ctx.step("slow", Gate().passing)


async def between_attempts(ctx: SessionContext) -> object:
    """Wait for the next attempt of a step."""
    patience = RetryPolicy(max_attempts=9, initial_delay=timedelta(hours=1), max_delay=timedelta(hours=1))
    return await ctx.step("failing", fail, retry=patience)


async def fail() -> None:
    """Fail."""
    raise ValueError("no")


BRANCHES: list[Branch] = [asleep, for_signal, at_work, between_attempts]


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Hold the block to leaving no task behind, nor any that asyncio finds thrown away."""
    thrown_away = list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: thrown_away.append(context["message"]))
    before = asyncio.all_tasks()
    yield
    await settle()
    assert set() == asyncio.all_tasks() - before
    gc.collect()
    assert [] == thrown_away


async def test_a_session_that_leaves_memory_takes_the_branches_along_that_its_handler_only_looks_at() -> None:
    """`asyncio.wait` does not pass its cancellation on to what it waits for."""
    world = World()
    world.passivate_after = 0.5

    async def handler(ctx: SessionContext) -> int:
        done, _ = await asyncio.wait({asyncio.create_task(asleep(ctx)), asyncio.create_task(for_signal(ctx))})
        return len(done)

    async with world.node(app_of(handler)) as node, nothing_left():
        await node.start()
        await until_suspended(world, node)


@pytest.mark.parametrize("branch", BRANCHES)
async def test_a_handler_that_returns_ends_the_branches_that_it_left(branch: Branch) -> None:
    """The session has ended: what they asked for will never come."""
    world = World()
    kept = list[asyncio.Task[object]]()

    async def handler(ctx: SessionContext) -> str:
        kept.append(asyncio.create_task(branch(ctx)))
        await ctx.sleep(1)
        return "done"

    async with world.node(app_of(handler)) as node, nothing_left():
        await node.start()
        await settle()
        await world.pass_time(1)
        assert SessionCompleted("done") == await world.end()
    assert [True] == [task.cancelled() for task in kept]


@pytest.mark.parametrize("branch", BRANCHES)
async def test_a_node_that_lost_a_session_ends_the_branches_that_its_handler_left(branch: Branch) -> None:
    """Another node runs the handler now: of this run nothing may go on."""
    world = World()
    kept = list[asyncio.Task[object]]()

    async def handler(ctx: SessionContext) -> None:
        kept.append(asyncio.create_task(branch(ctx)))
        await asyncio.wait({kept[-1]})

    app = app_of(handler)
    async with world.node(app) as node:
        await node.start()
        await settle()
        async with world.node(app, "node-2") as other:
            assert await other.claim(dead_owner="node-1")
            await node.system.stop("s")
            await settle()
            assert [True, False] == [task.done() for task in kept]


async def test_a_task_that_awaits_no_operation_is_left_alone() -> None:
    """A library may have started it inside a step, and use it for every session of the process."""
    world, gate = World(), Gate()
    kept = list[asyncio.Task[str]]()

    async def connect() -> None:
        kept.append(asyncio.create_task(gate.passing()))

    async def handler(ctx: SessionContext) -> str:
        await ctx.step("connect", connect)
        return "done"

    async with world.node(app_of(handler)) as node:
        await node.start()
        assert SessionCompleted("done") == await world.end()
        gate.open()
        assert "passed" == await kept[0]
