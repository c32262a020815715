"""One id, one session: starts that repeat, race, differ or die half-way (I3, I4, rules 2, 7 and 14)."""

import asyncio

import pytest
from engine_line import PowerCut
from engine_world import NOON, Diary, Gate, World, app_of

from actors import settle
from orchestrator import SessionContext
from orchestrator.router import IdempotencyConflict
from orchestrator.session.events import SessionCompleted
from orchestrator.session.transitions import SessionStatus

DIARY = Diary()


@pytest.fixture(autouse=True)
def empty_diary() -> None:
    """Begin every test with an empty page."""
    DIARY.entries.clear()


async def echo(ctx: SessionContext, payload: str) -> str:
    """Run one step and return its result."""
    return await ctx.step("a", DIARY.note, payload)


async def test_a_start_that_repeats_is_the_same_session() -> None:
    """While it runs, after its end, on its node and on another: one run, and the answer says that it was there."""
    world = World()
    async with world.node(app_of(echo)) as node, world.node(app_of(echo), "node-2") as other:
        assert (await node.start("x")).is_new
        assert not (await node.start("x")).is_new
        assert not (await other.start("x")).is_new
        assert SessionCompleted(result="x") == await world.end()
        story = await world.story()
        assert not (await node.start("x")).is_new
        assert not (await other.start("x")).is_new
        await settle()
    assert story == await world.story()
    assert ["x"] == DIARY.entries


@pytest.mark.parametrize("other", [{"payload": "y"}, {"tenant": "acme"}, {"session_type": "second"}])
async def test_a_start_with_another_payload_is_a_conflict_and_the_first_goes_on(other: dict[str, str]) -> None:
    """Another input, tenant or type under the same id is no duplicate; the first is untouched (I4)."""
    app = app_of(echo)
    app.session("second")(echo)
    world = World()
    async with world.node(app) as node:
        await node.start("x")
        with pytest.raises(IdempotencyConflict) as caught:
            await node.start(**{"payload": "x", **other})
        assert "s" == caught.value.session_id
        assert SessionCompleted(result="x") == await world.end()
        with pytest.raises(IdempotencyConflict):
            await node.start("y")
    assert ["x"] == DIARY.entries


async def test_the_same_payload_with_its_keys_in_another_order_is_the_same_start() -> None:
    """JSON objects have no order."""

    async def handler(ctx: SessionContext, payload: object) -> None: ...

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start({"a": 1, "b": {"c": 2, "d": 3}})
        assert not (await node.start({"b": {"d": 3, "c": 2}, "a": 1})).is_new


async def test_fifty_starts_of_one_id_at_once_are_one_session() -> None:
    """On one node and across two, exactly one is told that it is new, and the session runs once."""
    world = World()
    async with world.node(app_of(echo)) as one, world.node(app_of(echo), "node-2") as two:
        starts = await asyncio.gather(*([one, two][n % 2].start("x") for n in range(50)))
        assert SessionCompleted(result="x") == await world.end()
    assert 1 == sum(accepted.is_new for accepted in starts)
    assert ["x"] == DIARY.entries
    assert 3 == len(await world.recorded())


async def test_fifty_starts_of_one_id_with_two_payloads_are_one_session() -> None:
    """One payload wins; all of the other are told."""
    world = World()
    async with world.node(app_of(echo)) as node:
        starts = await asyncio.gather(*(node.start("xy"[n % 2]) for n in range(50)), return_exceptions=True)
        await world.end()
    assert 25 == sum(isinstance(each, IdempotencyConflict) for each in starts)
    assert 1 == len(DIARY.entries)


async def test_a_creation_that_died_before_head_is_completed_by_a_redelivery() -> None:
    """Event 1 alone was never accepted (I3); whoever inserts HEAD owns the session, whoever wrote event 1."""
    world = World()
    async with world.node(app_of(echo)) as node:
        node.line.cut_before("create")
        with pytest.raises(PowerCut):
            await node.start("x")
    assert (["AGENT_INVOCATION_STARTED"], None) == (await world.story(), await world.heads.get("s"))
    async with world.node(app_of(echo), "node-2") as node:
        assert (await node.start("x")).is_new
        assert SessionCompleted(result="x") == await world.end()
    assert ["node-1", "node-2", "node-2"] == [each.node for each in await world.recorded()]


async def test_a_conflicting_payload_completes_a_half_done_creation_and_is_told() -> None:
    """The first payload is the session's (rule 14)."""
    world = World()
    async with world.node(app_of(echo)) as node:
        node.line.cut_before("create")
        with pytest.raises(PowerCut):
            await node.start("x")
    async with world.node(app_of(echo), "node-2") as node:
        with pytest.raises(IdempotencyConflict):
            await node.start("y")
        assert SessionCompleted(result="x") == await world.end()
    assert ["x"] == DIARY.entries


async def test_a_start_whose_answer_was_lost_is_there() -> None:
    """HEAD was written, and nobody was told; a redelivery finds the session, a rescuer its node dead."""
    world = World()
    async with world.node(app_of(echo)) as node:
        node.line.cut_after("create")
        with pytest.raises(PowerCut):
            await node.start("x")
    assert "node-1" == (await world.head()).owner
    async with world.node(app_of(echo), "node-2") as node:
        assert not (await node.start("x")).is_new
        assert await node.claim(dead_owner="node-1")
        assert SessionCompleted(result="x") == await world.end()
    assert ["x"] == DIARY.entries


async def test_whoever_inserts_head_owns_the_session_whoever_wrote_event_one() -> None:
    """Two nodes in the middle of one creation: the nonce in HEAD tells which of them it is (rule 2)."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> str:
        return await ctx.step("a", gate.passing)

    app, world = app_of(handler), World()
    async with world.node(app) as slow, world.node(app, "node-2") as quick, asyncio.TaskGroup() as group:
        slow.line.hold_on("create")
        first = group.create_task(slow.start())
        await slow.line.until_held()
        assert (await quick.start()).is_new
        slow.line.thaw()
        assert not (await first).is_new
        assert (0, 1) == (len(slow.system), len(quick.system))
        gate.open()
        assert SessionCompleted(result="passed") == await world.end()
    assert ["node-1", "node-2", "node-2"] == [each.node for each in await world.recorded()]


async def test_a_claim_waits_for_a_creation_of_the_same_session_on_its_node() -> None:
    """HEAD says that it is ours and no actor lives yet: it is being brought up, not lost (rule 2)."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> str:
        return await ctx.step("a", gate.passing)

    app, world = app_of(handler), World()
    async with world.node(app) as node, asyncio.TaskGroup() as group:
        node.line.hold_answer("create")
        starting = group.create_task(node.start())
        await node.line.until_held()
        assert "node-1" == (await world.head()).owner
        claiming = group.create_task(node.claim())
        await settle()
        assert not claiming.done()
        node.line.thaw()
        assert (True, False) == ((await starting).is_new, await claiming)
        gate.open()
        assert SessionCompleted(result="passed") == await world.end()
    assert [1, 1, 1] == [each.epoch for each in await world.recorded()]


async def test_two_claims_of_one_session_at_once_are_one() -> None:
    """Two survivors see the same dead node: one owns the session then (rule 2)."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> str:
        return await ctx.step("a", gate.passing)

    app, world = app_of(handler), World()
    async with world.node(app) as dead, world.node(app, "node-2") as one, world.node(app, "node-3") as two:
        await dead.start()
        await gate.reached()
        dead.crash()
        claims = await asyncio.gather(*([one, two][n % 2].claim(dead_owner="node-1") for n in range(10)))
        assert 1 == sum(claims)
        assert 1 == len(one.system) + len(two.system)
        gate.open()
        assert SessionCompleted(result="passed") == await world.end()
    assert 1 == (await world.story()).count("SESSION_RESUMED")


@pytest.mark.parametrize("owner", ["node-1", "node-2"])
async def test_a_session_in_living_hands_is_not_claimed(owner: str) -> None:
    """Neither another's nor one's own: only the dead, the unowned, and one's own without an actor."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> str:
        return await ctx.step("a", gate.passing)

    app, world = app_of(handler), World()
    async with world.node(app, owner) as holder, world.node(app, "node-9") as other:
        await holder.start()
        await gate.reached()
        assert not await holder.claim()
        assert not await other.claim()
        assert not await other.claim(dead_owner="node-8")
        assert not await other.claim("unknown")
        assert 1 == (await world.head()).epoch
        gate.open()
        await world.end()


async def test_an_unowned_session_is_claimed_even_where_an_old_actor_of_it_lives() -> None:
    """That one is stale and is replaced (rule 7)."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> str:
        return await ctx.step("a", gate.passing)

    app, world = app_of(handler), World()
    async with world.node(app) as node:
        await node.start()
        await gate.reached()
        await world.heads.release(await world.head(), SessionStatus.RUNNING, last_seq=1, at=NOON, wake_at=NOON)
        assert await node.claim(only_unowned=True)
        assert 1 == len(node.system)
        gate.open()
        assert SessionCompleted(result="passed") == await world.end()
    assert [1, 2, 2, 2] == [each.epoch for each in await world.recorded()]
