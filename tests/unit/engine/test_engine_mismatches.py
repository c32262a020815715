"""Code that does not match its journal: it is found, and its session kept BLOCKED; nothing is lost."""

import asyncio

import pytest
from engine_line import PATIENCE_SECONDS
from engine_world import Diary, Handler, World, app_of

from actors.background import CANCEL_GRACE_SECONDS
from orchestrator import NonDeterminismError, RetryPolicy, SessionContext
from orchestrator.driver import HELD_SECONDS
from orchestrator.session.events import SessionCompleted
from orchestrator.session.transitions import SessionStatus

DIARY = Diary()
"""What the steps below did; each test looks at what was added while it ran."""


@pytest.fixture(autouse=True)
def empty_diary() -> None:
    """Begin every test with an empty page."""
    DIARY.entries.clear()


async def prompted(prompt: object) -> object:
    """Be an agent that answers its prompt."""
    return await DIARY.note(f"agent {prompt}")


async def abc(ctx: SessionContext) -> list[str]:
    """Be the handler that wrote the journal: three steps."""
    return [await DIARY.step(ctx, "a"), await DIARY.step(ctx, "b"), await DIARY.step(ctx, "c")]


async def renamed(ctx: SessionContext) -> list[str]:
    """Ask for `b2` where `b` is recorded."""
    return [await DIARY.step(ctx, "a"), await DIARY.step(ctx, "b2"), await DIARY.step(ctx, "c")]


async def removed(ctx: SessionContext) -> list[str]:
    """Leave out `b`."""
    return [await DIARY.step(ctx, "a"), await DIARY.step(ctx, "c")]


async def added_before(ctx: SessionContext) -> list[str]:
    """Ask for `z` first."""
    return [await DIARY.step(ctx, "z"), *await abc(ctx)]


async def swapped(ctx: SessionContext) -> list[str]:
    """Ask for `b` before `a`."""
    return [await DIARY.step(ctx, "b"), await DIARY.step(ctx, "a"), await DIARY.step(ctx, "c")]


async def other_kind(ctx: SessionContext) -> object:
    """Ask for an agent `b` where a step `b` is recorded."""
    await DIARY.step(ctx, "a")
    return await ctx.invoke_agent("agent", "b", name="b")


async def other_kind_caught(ctx: SessionContext) -> object:
    """Catch the mismatch, and go on with something else."""
    await DIARY.step(ctx, "a")
    try:
        return await ctx.invoke_agent("agent", "b", name="b")
    except Exception:
        return await DIARY.step(ctx, "fallback")


async def renamed_caught(ctx: SessionContext) -> object:
    """Catch every exception around the renamed step."""
    await DIARY.step(ctx, "a")
    try:
        return await DIARY.step(ctx, "b2")
    except Exception:
        return "caught"


async def renamed_swallowed(ctx: SessionContext) -> object:
    """Swallow even the cancellation, and go on with something else."""
    await DIARY.step(ctx, "a")
    try:
        return await DIARY.step(ctx, "b2")
    except BaseException:
        return await DIARY.step(ctx, "fallback")


async def returned_early(ctx: SessionContext) -> object:
    """Return before the journal does."""
    return await DIARY.step(ctx, "a")


async def raised_early(ctx: SessionContext) -> object:
    """Raise before the journal ends."""
    raise ValueError(await DIARY.step(ctx, "a"))


async def renamed_in_a_branch(ctx: SessionContext) -> object:
    """Ask for another step in one of two branches."""
    await DIARY.step(ctx, "a")
    return await asyncio.gather(DIARY.step(ctx, "x"), DIARY.step(ctx, "y"))


async def renamed_in_a_task_group(ctx: SessionContext) -> object:
    """Ask for another step below a task group, whose errors come wrapped."""
    await DIARY.step(ctx, "a")
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(DIARY.step(ctx, "x"))
            group.create_task(DIARY.step(ctx, "y"))
    except* Exception:
        pass
    return "caught"


@pytest.mark.parametrize(
    ("changed", "recorded", "asked"),
    [
        (renamed, "step 'b'", "'b2'"),
        (removed, "step 'b'", "'c'"),
        (added_before, "step 'a'", "'z'"),
        (swapped, "step 'a'", "'b'"),
        (other_kind, "step 'b'", "agent 'b'"),
        (other_kind_caught, "step 'b'", "agent 'b'"),
        (renamed_caught, "step 'b'", "'b2'"),
        (returned_early, "step 'b'", "nothing more"),
        (raised_early, "step 'b'", "nothing more"),
        (renamed_in_a_branch, "step 'b'", "'x'"),
        (renamed_in_a_task_group, "step 'b'", "'x'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_code_that_does_not_match_its_journal_is_blocked_and_loses_nothing(
    changed: Handler, recorded: str, asked: str
) -> None:
    """BLOCKED names both sides, nothing is run or recorded; with matching code the session ends as it would have."""
    whole = World()
    end = await whole.run(app_of(abc))
    world = await whole.as_of(3)
    DIARY.entries.clear()
    async with world.node(app_of(changed, agent=prompted), "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        await world.play()
        error = await world.blocked()
        assert 0 == len(node.system)
        # A handler that swallows its cancellation is held for a moment before it is cancelled again.
        await world.pass_time(2 * HELD_SECONDS)
    head = await world.head()
    assert error.startswith(NonDeterminismError.code)
    assert recorded in error
    assert asked in error
    assert [] == DIARY.entries
    assert (SessionStatus.BLOCKED, None) == (head.status, head.owner)
    assert head.wake_at is not None
    assert end == await world.resume(app_of(abc), node_id="node-3", dead_owner=None)
    assert ["c"] == DIARY.entries
    assert await whole.story() == [line for line in await world.story() if line != "SESSION_RESUMED"]


async def test_a_handler_that_swallows_even_its_cancellation_is_blocked_and_its_node_can_stop() -> None:
    """It asks for one thing more, gets nothing, and does not keep the node from ending."""
    whole = World()
    await whole.run(app_of(abc))
    world = await whole.as_of(3)
    DIARY.entries.clear()
    async with asyncio.timeout(PATIENCE_SECONDS), world.node(app_of(renamed_swallowed), "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        await world.play()
        await world.pass_time(CANCEL_GRACE_SECONDS)
    assert SessionStatus.BLOCKED == (await world.head()).status
    assert "'b2'" in await world.blocked()
    assert [] == DIARY.entries


async def at_most_once(ctx: SessionContext) -> object:
    """Charge once."""
    return await ctx.step("charge", DIARY.note, "charge", semantics="at_most_once")


async def at_most_once_renamed(ctx: SessionContext) -> object:
    """Charge once, under another name."""
    return await ctx.step("charge-2", DIARY.note, "charge", semantics="at_most_once")


async def agent_in_flight(ctx: SessionContext) -> object:
    """Order an agent run."""
    return await ctx.invoke_agent("agent", "x", name="x")


async def agent_renamed(ctx: SessionContext) -> object:
    """Order it under another name."""
    return await ctx.invoke_agent("agent", "y", name="y")


async def agent_became_step(ctx: SessionContext) -> object:
    """Ask for a step where an agent run is ordered, and catch what comes of it."""
    try:
        return await DIARY.step(ctx, "x")
    except Exception:
        return await DIARY.step(ctx, "fallback")


async def failing_step(ctx: SessionContext) -> object:
    """Fail, and try again after a second."""
    return await ctx.step("flaky", fail_once, retry=RetryPolicy(max_attempts=2))


async def failing_step_renamed(ctx: SessionContext) -> object:
    """Fail under another name."""
    return await ctx.step("flaky-2", fail_once, retry=RetryPolicy(max_attempts=2))


async def fail_once() -> str:
    """Raise the first time."""
    await DIARY.note("flaky")
    if len(DIARY.entries) == 1:
        raise ValueError("first")
    return "second"


async def returned_at_once(ctx: SessionContext) -> object:
    """Ask for nothing."""
    return "nothing"


@pytest.mark.parametrize(
    ("original", "changed", "recorded"),
    [
        (at_most_once, at_most_once_renamed, "step 'charge'"),
        (at_most_once, returned_at_once, "step 'charge'"),
        (agent_in_flight, agent_renamed, "agent 'x'"),
        (agent_in_flight, agent_became_step, "agent 'x'"),
        (agent_in_flight, returned_at_once, "agent 'x'"),
        (failing_step, failing_step_renamed, "step 'flaky'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_code_that_does_not_ask_for_what_is_begun_is_blocked_too(
    original: Handler, changed: Handler, recorded: str
) -> None:
    """What is recorded as begun, and not as ended, counts: else a charge in doubt is made again under a new name."""
    whole = World()
    await whole.run(app_of(original, agent=prompted))
    world = await whole.as_of(2)
    DIARY.entries.clear()
    async with world.node(app_of(changed, agent=prompted), "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        await world.play()
    head = await world.head()
    assert SessionStatus.BLOCKED == head.status
    assert recorded in str(head.attributes["blocked_error"])
    assert "charge" not in DIARY.entries
    assert "fallback" not in DIARY.entries


async def test_a_session_that_is_blocked_again_and_again_is_tried_after_growing_delays() -> None:
    """Thirty seconds, then twice that, and so on; retries of a blocked session are no crash loop."""
    whole = World()
    await whole.run(app_of(abc))
    world = await whole.as_of(3)
    delays = list[float]()
    for number in range(2, 12):
        async with world.node(app_of(renamed), f"node-{number}") as node:
            assert await node.claim(dead_owner="node-1" if number == 2 else None)
            await world.blocked()
        wake_at = (await world.head()).wake_at
        assert wake_at is not None
        delays.append((wake_at - world.clock.now()).total_seconds())
    assert [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600] == delays
    assert isinstance(await world.resume(app_of(abc), node_id="node-99", dead_owner=None), SessionCompleted)


async def test_a_step_added_at_the_end_of_what_is_recorded_is_no_mismatch() -> None:
    """Only what a journal holds binds the code."""

    async def longer(ctx: SessionContext) -> list[str]:
        return [*await abc(ctx), await DIARY.step(ctx, "d")]

    whole = World()
    await whole.run(app_of(abc))
    world = await whole.as_of(3)
    assert SessionCompleted(result=["a", "b", "c", "d"]) == await world.resume(app_of(longer))
