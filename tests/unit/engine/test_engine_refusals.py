"""AWS refuses a node while a session runs: the session waits as BLOCKED, and goes on as if nothing had been."""

from collections.abc import AsyncIterable
from datetime import datetime
from pathlib import Path

import pytest
from engine_life import live
from engine_world import PAYLOAD_BYTES_MAX, Diary, Handler, Node, World, app_of

from actors import settle
from orchestrator import SessionCancelled as Cancelled
from orchestrator import SessionContext
from orchestrator.artifacts import ArtifactRef
from orchestrator.artifacts.memory import MemoryArtifacts
from orchestrator.callbacks import Callback
from orchestrator.callbacks.memory import MemoryCallbacks
from orchestrator.errors import Unavailable
from orchestrator.session.events import SessionCancelled, SessionCompleted

LARGE = "x" * (PAYLOAD_BYTES_MAX + 1)
REFUSED = "UNAVAILABLE: AccessDenied"


class RefusingArtifacts(MemoryArtifacts):
    """A bucket whose policy changes: `refuses` names what we may not do just now, `put` or `get`."""

    refuses = ""

    async def put(
        self, key: str, data: bytes | AsyncIterable[bytes] | Path, *, compressed: bool, content_type: str
    ) -> ArtifactRef:
        """See `Artifacts.put`."""
        if self.refuses == "put":
            raise Unavailable("AccessDenied")
        return await super().put(key, data, compressed=compressed, content_type=content_type)

    async def get(self, ref: ArtifactRef) -> bytes:
        """See `Artifacts.get`."""
        if self.refuses == "get":
            raise Unavailable("AccessDenied")
        return await super().get(ref)


def world_with(bucket: RefusingArtifacts) -> World:
    """Return a world with that bucket."""
    world = World()
    world.artifacts = bucket
    return world


async def grown() -> str:
    """Return a large text."""
    return LARGE


async def answers(prompt: object) -> str:
    """Be an agent with a large answer."""
    return LARGE


async def counts(prompt: str) -> int:
    """Be an agent with a small answer."""
    return len(prompt)


async def takes_input(ctx: SessionContext, value: str) -> int:
    """Need a large input."""
    await ctx.wait_for_signal("go")
    return len(value)


async def a_result(ctx: SessionContext, value: object) -> int:
    """Need a step's large result."""
    made = await ctx.step("a", grown)
    await ctx.wait_for_signal("go")
    return len(made)


async def an_answer(ctx: SessionContext, value: object) -> int:
    """Need an agent's large answer."""
    made = await ctx.invoke_agent("answers", 1)
    await ctx.wait_for_signal("go")
    return len(str(made))


async def a_prompt(ctx: SessionContext, value: object) -> object:
    """Give an agent a large prompt, once the signal has come."""
    await ctx.wait_for_signal("go")
    return await ctx.invoke_agent("counts", LARGE)


async def an_end(ctx: SessionContext, value: object) -> int:
    """Return something large."""
    await ctx.wait_for_signal("go")
    return len(await ctx.step("a", grown))


HANDLERS: list[Handler] = [a_result, an_answer, a_prompt, an_end]


async def blocked_until_allowed(world: World, node: Node, bucket: RefusingArtifacts) -> None:
    """Hold the session to waiting for the bucket, and let the bucket allow everything again."""
    assert REFUSED == await world.blocked()
    assert not (await world.state()).has_ended
    assert [] == world.errors_logged()
    bucket.refuses = ""
    assert await node.claim(only_unowned=True)


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_session_whose_payload_may_not_be_written_waits_until_it_may(handler: Handler) -> None:
    """It is nothing that the handler did: neither an error for it to catch, nor its end."""
    bucket = RefusingArtifacts("bucket")
    world = world_with(bucket)
    bucket.refuses = "put"
    async with world.node(app_of(handler, answers=answers, counts=counts)) as node:
        await node.start("small")
        await settle()
        await node.deliveries.signal("s", "go", None, "m-1")
        await settle()
        await blocked_until_allowed(world, node, bucket)
        await live(world, node)
        assert SessionCompleted(len(LARGE)) == await world.end()


@pytest.mark.parametrize("handler", [takes_input, a_result, an_answer, a_prompt])
async def test_a_session_whose_payload_may_not_be_read_waits_until_it_may(handler: Handler) -> None:
    """A replay needs what was stored; so does an agent that is given a large prompt."""
    bucket = RefusingArtifacts("bucket")
    world = world_with(bucket)
    async with world.node(app_of(handler, answers=answers, counts=counts)) as node:
        await node.start(LARGE)
        await settle()
        await node.system.stop("s")
        bucket.refuses = "" if handler is a_prompt else "get"
        assert await node.claim(only_unowned=True)
        bucket.refuses = "get"
        await node.deliveries.signal("s", "go", None, "m-1")
        await settle()
        await blocked_until_allowed(world, node, bucket)
        await live(world, node)
        assert SessionCompleted(len(LARGE)) == await world.end()


async def test_a_callback_that_may_not_be_stored_is_created_once_it_may() -> None:
    """No token is handed out before, and none that does not work."""
    world = World()
    tokens = list[tuple[str, str]]()

    class RefusingCallbacks(MemoryCallbacks):
        """A table that takes no callback until `allows` is set."""

        allows = False

        async def issue(self, callback: Callback, *, expires_at: datetime) -> Callback:
            """See `Callbacks.issue`."""
            if not self.allows:
                raise Unavailable("AccessDenied")
            return await super().issue(callback, expires_at=expires_at)

    async def handler(ctx: SessionContext) -> object:
        callback = await ctx.create_callback("cb")
        tokens.append((callback.id, callback.token))
        return await callback.result()

    table = world.callbacks = RefusingCallbacks(clock=world.clock)
    async with world.node(app_of(handler)) as node:
        await node.start()
        assert REFUSED == await world.blocked()
        assert [] == tokens
        table.allows = True
        assert await node.claim(only_unowned=True)
        await node.deliveries.callback(*tokens[0], "SUCCESS", "answered", None)
        await live(world, node)
        assert SessionCompleted("answered") == await world.end()


async def test_a_session_that_is_to_end_cleans_up_and_undoes_its_work_once_it_may() -> None:
    """A refusal passes, unlike code that matches no journal: nothing is left undone for it."""
    bucket, diary = RefusingArtifacts("bucket"), Diary()
    world = world_with(bucket)

    async def handler(ctx: SessionContext) -> None:
        ctx.on_failure("undo", diary.note, "undone")
        try:
            await ctx.sleep(3600)
        except Cancelled:
            await ctx.step("keep", grown)
            raise

    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        bucket.refuses = "put"
        await node.deliveries.cancel("s", "enough", None)
        await settle()
        await blocked_until_allowed(world, node, bucket)
        await live(world, node)
        assert SessionCancelled("enough") == await world.end()
    assert ["undone"] == diary.entries
