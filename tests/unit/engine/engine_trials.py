"""One session told the same story under three kinds of bad luck: none, a crash after each event, rest in between.

To change it: no assertions about one handler here. A `Plot` is what the outside does; it may be told again from its
start at any point of the session, as senders do that had no answer.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

from engine_world import Diary, Node, World

from orchestrator import Orchestrator, SessionContext
from orchestrator.deliveries import CallbackAnswered, CallbackExpired, UnknownCallback, WrongToken
from orchestrator.inbox import SessionEnded
from orchestrator.session.events import Event
from orchestrator.session.transitions import ENDED, SessionStatus

Plot: TypeAlias = Callable[[World, Node], Awaitable[None]]
LATE = (SessionEnded, UnknownCallback, CallbackAnswered, CallbackExpired, WrongToken)
"""What a sender hears whose message is not needed any more, or whose callback is not there (yet, or again)."""


def told(*acts: Plot) -> Plot:
    """Return the plot of these acts, a second between them."""

    async def plot(world: World, node: Node) -> None:
        for act in acts:
            await pass_seconds(world, node, 1)
            with suppress(*LATE):
                await act(world, node)

    return plot


async def cancel(_: World, node: Node) -> None:
    """Ask the session to end, always under the same message id."""
    await node.deliveries.cancel("s", "enough", "cancel-1")


async def pass_seconds(world: World, node: Node, seconds: int, session_id: str = "s") -> None:
    """Let time pass, second by second; the node takes up what is due, as its rescuer would."""
    for _ in range(seconds):
        await world.pass_time(1)
        head = await world.heads.get(session_id)
        if head is not None and head.owner is None and head.wake_at is not None and head.wake_at <= world.clock.now():
            await node.claim(session_id, only_unowned=True)


async def until_end(world: World, node: Node, seconds_max: int = 200) -> Event:
    """Let time pass until the session has ended; return its last event."""
    for _ in range(seconds_max):
        if (await world.head()).status in ENDED | {SessionStatus.BLOCKED}:
            break
        await pass_seconds(world, node, 1)
    return await world.end()


async def told_live(app: Orchestrator, plot: Plot, *, passivate_after: float = 1_000) -> World:
    """Return the world after the whole story, without a crash."""
    world = World()
    world.passivate_after = passivate_after
    async with world.node(app) as node:
        await node.start()
        await plot(world, node)
        await until_end(world, node)
    return world


async def told_after_crash(app: Orchestrator, plot: Plot, whole: World, seq: int, *, passivate_after: float) -> World:
    """Return the world in which everybody died after event `seq`, and the story was told again to the next node."""
    world = await whole.as_of(seq)
    world.passivate_after = passivate_after
    async with world.node(app, "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        await plot(world, node)
        await until_end(world, node)
    return world


async def same_end_whatever_happens(app: Orchestrator, plot: Plot) -> list[str]:
    """Tell the story live, with rests, and with a crash after every event; return the live journal.

    The end is the same each time, and what was recorded before a crash is recorded once.
    """
    whole = await told_live(app, plot)
    story = await whole.story()
    end = (await whole.recorded())[-1].event
    rested = await told_live(app, plot, passivate_after=0.4)
    assert end == (await rested.recorded())[-1].event
    assert [] == whole.errors_logged() + rested.errors_logged()
    for source in (whole, rested):
        recorded = await source.story()
        for seq in range(1, len(recorded) + 1):
            for passivate_after in (0.4, 1_000):
                world = await told_after_crash(app, plot, source, seq, passivate_after=passivate_after)
                after = await world.story()
                assert end == (await world.recorded())[-1].event, f"after {recorded[:seq]}: {after}"
                assert recorded[:seq] == after[:seq]
                outcomes = [line for line in after if line.split()[0].endswith(("_COMPLETED", "_FAILED", "_FIRED"))]
                assert len(set(outcomes)) == len(outcomes), f"after {recorded[:seq]}: {after}"
                assert [] == world.errors_logged(), f"after {recorded[:seq]}"
    return story


async def kill(_: World, node: Node) -> None:
    """End it, always under the same message id."""
    await node.deliveries.kill("s", "runs away", "kill-1")


async def napping(ctx: SessionContext) -> object:
    """Do one thing after the other, with naps between."""
    diary = Diary()
    await diary.step(ctx, "a")
    await ctx.sleep(3)
    await diary.step(ctx, "b")
    await ctx.invoke_agent("helper", "go")
    await ctx.sleep(1)
    return "slept well"


async def helper(prompt: object) -> object:
    """Answer at once."""
    return "done"
