"""Journals and results that no version of ours makes: the session is kept or fails, and no node trips over it again."""

import pytest
from engine_world import NOON, World, app_of

from actors import settle
from orchestrator import AgentFailed, SessionContext
from orchestrator.artifacts import ArtifactTooLarge
from orchestrator.inbox import InboxItem
from orchestrator.journal import UnreadableEvent
from orchestrator.journal.folding import read_state
from orchestrator.session.events import Recorded, SessionCompleted, ValueRecorded


async def test_events_that_contradict_each_other_are_unreadable() -> None:
    """Whoever reads such a journal is told the place; its session is blocked, not failed over and over."""

    async def handler(ctx: SessionContext) -> object:
        return await ctx.wait_for_signal("go")

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        node.crash()
    event = ValueRecorded("go", {"signal": "go", "message_id": "never-received"})
    await world.journal.append("s", (Recorded(2, event, NOON, 1, "node-1", "odd"),), started_at=NOON)
    with pytest.raises(UnreadableEvent, match="event 2 of s cannot follow"):
        await read_state(world.journal, "s")
    async with world.node(app_of(handler), "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        assert "UNREADABLE_EVENT" in await world.blocked()


async def test_an_agent_whose_result_no_bucket_takes_fails_its_operation() -> None:
    """It is told to the handler, once: another attempt would end the same way."""

    async def huge(_: object) -> str:
        return "x" * 20_000

    async def handler(ctx: SessionContext) -> object:
        try:
            return await ctx.invoke_agent("huge", None)
        except AgentFailed as failed:
            return failed.error.code

    async def refuse(key: str, data: object, *, compressed: bool, content_type: str) -> None:
        raise ArtifactTooLarge(f"{key}: too large")

    world = World()
    world.artifacts.put = refuse  # type: ignore[method-assign, assignment]
    end = await world.run(app_of(handler, huge=huge))
    assert "ARTIFACT_TOO_LARGE" == getattr(end, "result", end)


async def test_a_message_that_cannot_be_read_blocks_its_session_and_is_kept() -> None:
    """It was acknowledged, so it is not dropped; and once it can be read, or is gone, the session goes on (I9, I11)."""

    async def handler(ctx: SessionContext) -> object:
        return await ctx.wait_for_signal("go")

    world, app = World(), app_of(handler)
    async with world.node(app) as node:
        await node.start()
        await settle()
        odd = InboxItem("newer", 1, '{"kind":"telepathy"}')
        await world.inbox.put("s", odd)
        await world.heads.bump_inbox("s")
        await node.router.wake("s")
        assert "UNREADABLE_MESSAGE" in await world.blocked()
        await node.deliveries.signal("s", "go", 1, "later")
        await settle()
        assert [odd.body] == [item.body for item in await world.inbox.read("s") if item.message_id == "newer"]
        assert ["newer", "later"] == [item.message_id for item in await world.inbox.read("s")]
        await world.inbox.delete("s", ["newer"])
        assert await node.claim()
        assert SessionCompleted(result=1) == await world.end()
    assert [] == world.errors_logged()
