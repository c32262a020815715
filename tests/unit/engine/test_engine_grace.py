"""Handlers that do not end when they are asked to: their grace, how they are stopped, what undo steps may take."""

import asyncio
from contextlib import suppress

import pytest
from engine_trials import cancel, same_end_whatever_happens, told, until_end
from engine_world import Diary, Gate, World, app_of

from actors import settle
from orchestrator import SessionContext
from orchestrator.errors import SessionCancelled as Cancelled
from orchestrator.session.events import SessionCancelled


async def test_a_handler_that_waits_for_something_of_its_own_is_stopped_after_its_grace() -> None:
    """Nothing tells such a handler to end but force; its undo steps run then."""
    diary, world = Diary(), World()

    async def handler(ctx: SessionContext) -> None:
        ctx.on_failure("undo", diary.note, "undone")
        await asyncio.Event().wait()

    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await cancel(world, node)
        await world.pass_time(59)
        assert [] == diary.entries
        await world.pass_time(1)
        await world.pass_time(5)
        assert ["undone"] == diary.entries
        assert SessionCancelled("enough") == await until_end(world, node)


async def test_a_handler_that_is_stopped_is_stopped_after_a_crash_too() -> None:
    """The force that is recorded reaches the handler on its replay, whatever it waits for then."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> None:
        ctx.on_failure("undo", diary.note, "undone")
        try:
            await ctx.wait_for_signal("go")
        except Cancelled:
            await diary.step(ctx, "cleaned")
            await asyncio.Event().wait()

    story = await same_end_whatever_happens(app_of(handler), told(cancel))
    assert [
        "AGENT_INVOCATION_STARTED",
        "CANCEL_REQUESTED",
        "STEP_COMPLETED cleaned",
        "CANCEL_REQUESTED",
        "STEP_COMPLETED undo",
        "AGENT_BACKGROUND_TASK_CANCELLED",
    ] == story


@pytest.mark.parametrize("does", [TypeError, None])
async def test_a_handler_that_makes_something_else_of_being_stopped_still_undoes_its_work(
    does: type[Exception] | None,
) -> None:
    """An undo step that awaits what was cancelled has failed, and is tried again: it is not itself cancelled."""
    said = list[str]()

    async def undo() -> None:
        said.append("tried")
        if len(said) == 1:
            lost = asyncio.ensure_future(asyncio.Event().wait())
            lost.cancel()
            await lost

    async def handler(ctx: SessionContext) -> None:
        ctx.on_failure("undo", undo)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if does is not None:
                raise does("no") from None

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await cancel(world, node)
        await world.pass_time(60)
        await world.pass_time(2)
        assert SessionCancelled("enough") == await until_end(world, node, 10)
    assert ["tried", "tried"] == said


async def test_a_handler_that_swallows_the_cancel_is_given_its_grace_then_stopped() -> None:
    """What it does meanwhile is recorded; its result is not the session's."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> str:
        ctx.on_failure("undo", diary.note, "undone")
        with suppress(Cancelled):
            await ctx.wait_for_signal("go")
        for number in range(10):
            await diary.step(ctx, f"on-{number}")
            await ctx.sleep(25)
        return "done"

    story = await same_end_whatever_happens(app_of(handler), told(cancel))
    assert ["on-0", "on-1", "on-2", "undo"] == [each.split()[1] for each in story if each.startswith("STEP_COMPLETED")]


async def test_a_handler_that_returns_in_spite_of_the_cancel_has_not_completed() -> None:
    """Whoever asked for the end gets it."""

    async def handler(ctx: SessionContext) -> str:
        with suppress(Cancelled):
            await ctx.wait_for_signal("go")
        return "done"

    assert "AGENT_BACKGROUND_TASK_CANCELLED" == (await same_end_whatever_happens(app_of(handler), told(cancel)))[-1]


async def test_undo_steps_that_take_too_long_are_left_behind_after_the_last_grace() -> None:
    """Then the session ends without the rest of them."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> None:
        ctx.on_failure("undo", gate.passing)
        await ctx.wait_for_signal("go")

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await cancel(world, node)
        await gate.reached()
        await world.pass_time(60)
        await world.pass_time(15 * 60 - 1)
        assert not (await world.state()).has_ended
        await world.pass_time(1)
        assert SessionCancelled("enough") == await world.end()


async def test_a_handler_that_awaits_no_operation_at_all_is_stopped_after_a_crash_too() -> None:
    """Nothing of it comes by the journal, on no replay."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> None:
        ctx.on_failure("undo", diary.note, "undone")
        await asyncio.Event().wait()

    assert "STEP_COMPLETED undo" in await same_end_whatever_happens(app_of(handler), told(cancel))
