"""A cluster that goes on living: what is due is claimed, what the dead owned is taken over, as the rescuer does it.

To change it: no test logic here. `crash_at_every_call` is the hardest proof we have of a story with several sessions:
the first node loses its power at each of its calls to the table, one after the other, and a second one ends the story.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress

from engine_line import PATIENCE_SECONDS, PowerCut
from engine_world import Node, World

from actors import settle
from orchestrator import Orchestrator
from orchestrator.inbox import SessionEnded
from orchestrator.session.events import Event
from orchestrator.session.transitions import ENDED
from orchestrator.session.values import Json

ROUNDS_MAX = 400
CALLS_MAX = 400

Scenario = Callable[[World, Node], Awaitable[None]]


async def look_after(world: World, node: Node, *, dead: Sequence[str] = ()) -> None:
    """Do one round of the rescuer: the dead's sessions, our own without an actor, wake-ups, and what is due."""
    for owner in dead:
        async for session_id in world.heads.owned_by(owner):
            await node.router.claim(session_id, owners=(owner,))
    async for session_id in world.heads.owned_by(node.node_id):
        await node.router.claim(session_id, owners=(node.node_id,))
    async for session_id in world.wake_ups.take(node.node_id):
        await node.router.wake(session_id)
    now = world.clock.now()
    async for session_id in world.heads.due(now):
        await node.router.claim(session_id, owners=dead, due_before=now)
    await settle()


async def live(world: World, node: Node, *session_ids: str, dead: Sequence[str] = (), step: float = 1.0) -> None:
    """Let time pass until these sessions have ended (`s`, if none is named) and all is told that was to be told."""
    for _ in range(ROUNDS_MAX):
        await look_after(world, node, dead=dead)
        heads = [await world.heads.get(session_id) for session_id in session_ids or ("s",)]
        if all(head is not None and head.status in ENDED and not head.outbox for head in heads):
            return
        await world.pass_time(step)
    raise AssertionError(f"it never ended; errors logged: {world.errors_logged()}")


async def until_suspended(world: World, node: Node, session_id: str = "s") -> None:
    """Let time pass until nobody holds the session any more, though it has not ended."""
    for _ in range(ROUNDS_MAX):
        if (await world.head(session_id)).owner is None and not len(node.system):
            return
        await world.pass_time(1)
    raise AssertionError(f"it stays: {await world.head(session_id)}")


async def ends_alike_after_every_event(
    app: Orchestrator, whole: World, prepare: Callable[[World], None] = lambda _: None
) -> AsyncIterator[World]:
    """Take the session over from a death after each of its events; yield each world once it has the same end."""
    story = await whole.story()
    end = (await whole.recorded())[-1].event
    for seq in range(1, len(story) + 1):
        world = await whole.as_of(seq)
        prepare(world)
        assert end == await world.resume(app), f"after {story[:seq]}"
        assert story[:seq] == (await world.story())[:seq]
        yield world


async def ends_alike_with_pauses(app: Orchestrator, end: Event, payload: Json = None) -> World:
    """Run the session so that it leaves memory whenever it waits a moment, and hold it to that end."""
    world = World()
    world.passivate_after = 0.05
    async with world.node(app) as node:
        await node.start(payload)
        await settle()
        await live(world, node, step=0.1)
    assert end == (await world.recorded())[-1].event
    return world


async def crash_at_every_call(
    app: Orchestrator,
    scenario: Scenario,
    *session_ids: str,
    after: Callable[[World], Awaitable[None]],
    passivate_after: float = 30.0,
) -> int:
    """Play the scenario on a node that dies at its n-th call, for each n, and end it on another; return the last n.

    `after(world)` looks at what came of it, each time.
    """
    for call in range(1, CALLS_MAX):
        world = World()
        world.passivate_after = passivate_after
        async with world.node(app, "node-1") as first:
            first.line.cut_at(call)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await _acted(scenario, world, first)
            is_whole = first.line.calls < call
            first.crash()
        async with world.node(app, "node-2") as second:
            # Whoever was not answered asks again.
            await _acted(scenario, world, second)
            await live(world, second, *session_ids, dead=("node-1",))
        await after(world)
        if is_whole:
            return call
    raise AssertionError("the scenario never ended by itself")


async def _acted(scenario: Scenario, world: World, node: Node) -> None:
    # Not answered, or it had what it asked for before its node died, and was not told.
    with suppress(PowerCut, SessionEnded):
        await scenario(world, node)
