"""What a session leaves behind in memory: nothing that only the cyclic collector would find."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from engine_life import live, until_suspended
from engine_world import Handler, World, app_of

from actors import settle
from orchestrator import RetryPolicy, SessionContext
from orchestrator.calls import Callback

LONG = timedelta(hours=1)


async def noted(value: int) -> int:
    """Be a step."""
    return value


async def refused() -> None:
    """Be a step that fails."""
    raise ValueError("no")


async def agent(prompt: object) -> object:
    """Answer at once."""
    return prompt


async def steps(ctx: SessionContext) -> int:
    """Await one operation after the other."""
    await ctx.invoke_agent("agent", 1)
    return await ctx.step("a", noted, 1)


async def branches(ctx: SessionContext) -> object:
    """Await several at once."""
    return await ctx.gather(ctx.step("a", noted, 1), ctx.step("b", noted, 2), ctx.sleep(1))


async def fails(ctx: SessionContext) -> None:
    """Fail, and undo."""
    ctx.on_failure("undo", noted, 1)
    await ctx.step("a", refused, retry=RetryPolicy(max_attempts=1))


async def continues(ctx: SessionContext, value: int | None) -> int:
    """Go on as a second generation."""
    if value is None:
        ctx.continue_as_new(2)
    return await ctx.step("a", noted, value)


async def waits(ctx: SessionContext) -> object:
    """Wait for long: it leaves memory."""

    def submit(callback: Callback) -> None:
        assert callback.token

    await ctx.sleep(LONG)
    return await ctx.gather(ctx.wait_for_callback("cb", submit), ctx.wait_for_signal("nudge"))


@pytest.mark.parametrize("handler", [steps, branches, fails, continues])
async def test_a_session_that_has_ended_leaves_no_cycle(handler: Handler) -> None:
    """Its actor, its run and its tasks are free when the last of them lets go."""
    world = World()
    async with world.node(app_of(handler, agent=agent)) as node:
        with garbage() as found:
            await node.start()
            await settle()
            await live(world, node, "s:g2" if handler is continues else "s")
            await settle()
    assert {} == found


async def test_a_session_that_left_memory_leaves_no_cycle() -> None:
    """A million of them pass through memory, and more often than those that end."""
    world = World()
    world.passivate_after = 0.1
    async with world.node(app_of(waits)) as node:
        with garbage() as found:
            await node.start()
            await settle()
            await until_suspended(world, node)
            await world.pass_time(LONG.total_seconds())
            await until_suspended(world, node)
    assert {} == found


async def test_a_session_whose_node_stops_leaves_no_cycle() -> None:
    """Its handler is cancelled where it waits, and the error keeps every frame that it passed."""
    world = World()
    with garbage() as found:
        async with world.node(app_of(waits)) as node:
            await node.start()
            await settle()
        await settle()
    assert {} == found


@contextmanager
def garbage() -> Iterator[Counter[str]]:
    """Yield what, after the block, the collector will have found of ours that began in it: how many of which type."""
    found = Counter[str]()
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        found.update(name for each in gc.garbage if (name := _name(each)).startswith(("orchestrator.", "actors.")))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _name(each: object) -> str:
    if isinstance(each, asyncio.Task):
        return f"actors.{type(each).__name__} {each.get_name()}"
    return f"{type(each).__module__}.{type(each).__qualname__}"
