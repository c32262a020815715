"""Code that changed under running sessions: `ctx.patched` keeps each session on the side that it began on."""

import sys
from collections.abc import Callable, Iterator
from textwrap import dedent
from types import ModuleType

import pytest
from engine_life import ends_alike_after_every_event, live
from engine_world import World

from actors import settle
from orchestrator import Orchestrator
from orchestrator.cluster import BLOCKED_ERROR
from orchestrator.session.events import SessionCompleted, SessionStarted
from orchestrator.session.transitions import SessionStatus

Release = Callable[[str], Orchestrator]


@pytest.fixture
def release() -> Iterator[Release]:
    """Return a function that makes an application of a module's text: one release of a user's code."""
    made = list[str]()

    def make(body: str) -> Orchestrator:
        module = ModuleType(f"release_{len(made)}")
        made.append(module.__name__)
        sys.modules[module.__name__] = module
        exec(compile(dedent(body), module.__name__, "exec"), vars(module))
        app = Orchestrator()
        app.session("main")(module.main)
        return app

    yield make
    for name in made:
        del sys.modules[name]


STEPS = """
    async def old(): return "old"
    async def new(): return "new"
    async def same(): return "same"
"""
OLD = (
    STEPS
    + """
    async def main(ctx, value=None):
        first = await ctx.step("same", same)
        await ctx.sleep(10)
        return [first, await ctx.step("old", old)]
"""
)
NEW = (
    STEPS
    + """
    async def main(ctx, value=None):
        first = await ctx.step("same", same)
        await ctx.sleep(10)
        if ctx.patched("use-new"):
            return [first, await ctx.step("new", new)]
        return [first, await ctx.step("old", old)]
"""
)
NEW_SIDE_ALONE = (
    STEPS
    + """
    async def main(ctx, value=None):
        first = await ctx.step("same", same)
        await ctx.sleep(10)
        ctx.patched("use-new")
        return [first, await ctx.step("new", new)]
"""
)
TWICE = (
    STEPS
    + """
    async def main(ctx, value=None):
        said = []
        for _ in range(3):
            said.append(ctx.patched("use-new"))
            await ctx.step("same", same)
            await ctx.sleep(10)
        if value == "again":
            ctx.continue_as_new("done")
        return said
"""
)
AT_RUN_TIME = (
    STEPS
    + """
    CHANGE = "use-" + "new"
    async def main(ctx, value=None):
        await ctx.step("same", same)
        is_new = ctx.patched(CHANGE)
        await ctx.sleep(10)
        return [is_new, ctx.patched(CHANGE), await ctx.step("new" if is_new else "old", new if is_new else old)]
"""
)


async def test_a_session_of_the_new_code_takes_the_new_side_after_every_death(release: Release) -> None:
    """Even where it is first asked on another node than it started on, after all that was recorded before."""
    app, whole = release(NEW), World()
    assert SessionCompleted(["same", "new"]) == await whole.run(app)
    async for world in ends_alike_after_every_event(app, whole):
        assert ["use-new"] == (await world.state()).started.patches
        assert 1 >= sum("PATCH_RECORDED" in line for line in await world.story())


async def test_a_session_of_the_new_code_takes_the_new_side_after_it_was_out_of_memory(release: Release) -> None:
    """It is asked for the first time when the session is woken."""
    app, world = release(NEW), World()
    world.passivate_after = 0.5
    async with world.node(app) as node:
        await node.start()
        await settle()
        await live(world, node)
        assert SessionCompleted(["same", "new"]) == await world.end()
    assert "SESSION_RESUMED" in await world.story()


async def test_a_session_of_the_old_code_stays_on_the_old_side_after_every_death(release: Release) -> None:
    """Wherever in its journal the new code takes it over."""
    old, new, whole = release(OLD), release(NEW), World()
    end = await whole.run(old)
    assert SessionCompleted(["same", "old"]) == end
    async for world in ends_alike_after_every_event(new, whole):
        assert not any("PATCH_RECORDED" in line for line in await world.story())
        assert (await world.state()).started.patches is None


async def test_a_session_of_the_new_code_waits_for_new_code(release: Release) -> None:
    """In the middle of a deployment an old node takes it over: what that wrote, no code could follow."""
    old, new, world = release(OLD), release(NEW), World()
    async with world.node(new) as node:
        await node.start()
        await settle()
        node.crash()
    async with world.node(old, "node-2") as node:
        await node.claim(dead_owner="node-1")
        await world.pass_time(10)
        head = await world.head()
        assert SessionStatus.BLOCKED is head.status
        assert "UNKNOWN_CHANGE: the session began with 'use-new'" in str(head.attributes[BLOCKED_ERROR])
        assert not any("old" in line for line in await world.story())
    async with world.node(new, "node-3") as node:
        await live(world, node)
        assert SessionCompleted(["same", "new"]) == await world.end()


async def test_a_change_may_be_dropped_in_two_deployments(release: Release) -> None:
    """First its old side, then its name, when no session is left that began with it."""
    later, whole = release(NEW_SIDE_ALONE), World()
    await whole.run(release(NEW))
    async for world in ends_alike_after_every_event(later, whole):
        assert SessionCompleted(["same", "new"]) == await world.end()


async def test_an_answer_is_recorded_once_and_stays(release: Release) -> None:
    """However often it is asked for."""
    app, whole = release(TWICE), World()
    assert SessionCompleted([True, True, True]) == await whole.run(app)
    async for world in ends_alike_after_every_event(app, whole):
        assert 1 == sum("PATCH_RECORDED" in line for line in await world.story())


async def test_a_next_generation_begins_on_the_new_side(release: Release) -> None:
    """Its journal is begun by today's code, though its session started on yesterday's."""
    old = release(TWICE.replace('said.append(ctx.patched("use-new"))', "said.append(False)"))
    new, world = release(TWICE), World()
    async with world.node(old) as node:
        await node.start("again")
        await settle()
        await world.pass_time(10)
        node.crash()
    async with world.node(new, "node-2") as node:
        await live(world, node, "s", "s:g2", dead=("node-1",))
    assert not any("PATCH_RECORDED" in line for line in await world.story("s"))
    assert SessionCompleted([True, True, True]) == (await world.recorded("s:g2"))[-1].event
    first = (await world.recorded("s:g2"))[0].event
    assert isinstance(first, SessionStarted)
    assert ["use-new"] == first.patches


async def test_a_change_that_is_named_at_run_time_is_judged_by_where_the_journal_stands(release: Release) -> None:
    """It cannot be looked for beforehand: true, for good, where the session asks first with nothing recorded behind."""
    app, whole = release(AT_RUN_TIME), World()
    assert SessionCompleted([True, True, "new"]) == await whole.run(app)
    async for world in ends_alike_after_every_event(app, whole):
        assert 1 == sum("PATCH_RECORDED" in line for line in await world.story())


@pytest.mark.parametrize("change", ["", "a b", "é", "x" * 129, "a/b"])
async def test_what_is_no_id_is_no_change(release: Release, change: str) -> None:
    """Told where the mistake is."""
    app = release(f"async def main(ctx, value=None):\n    return ctx.patched({change!r})")
    end = await World().run(app)
    assert "change_id" in str(getattr(end, "error", None))
