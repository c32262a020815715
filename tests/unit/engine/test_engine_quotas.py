"""Tenants with a limit: who runs, who waits, in which order; and that no crash makes the slots drift (I10, rule 9)."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from datetime import timedelta

import pytest
from engine_line import PATIENCE_SECONDS, PowerCut
from engine_world import Diary, Node, World, app_of

from actors import settle
from orchestrator import Orchestrator, SessionContext
from orchestrator.cluster import Head
from orchestrator.errors import OrchestratorError
from orchestrator.inbox import SessionEnded
from orchestrator.router import IdempotencyConflict
from orchestrator.session.transitions import ENDED, SessionStatus

DIARY = Diary()
CALLS = ("append", "admit", "enqueue", "read", "end", "free", "promote", "dismiss", "claim")
"""What a node asks of the table on the way of a session through its quota."""


@pytest.fixture(autouse=True)
def empty_diary() -> None:
    """Begin every test with an empty page."""
    DIARY.entries.clear()


async def waits(ctx: SessionContext, payload: object = None) -> object:
    """Note that it began, and end at the signal `go`."""
    await ctx.step("begin", DIARY.note, ctx.session_id)
    return await ctx.wait_for_signal("go")


async def start(node: Node, *session_ids: str, tenant: str = "acme") -> None:
    """Start sessions of one tenant, one after the other."""
    for session_id in session_ids:
        assert (await node.start(session_id=session_id, tenant=tenant)).is_new
        await settle()


async def arrive(world: World, node: Node, *session_ids: str) -> None:
    """Start sessions, a second apart."""
    for session_id in session_ids:
        await start(node, session_id)
        await world.pass_time(1)


async def let_go(world: World, node: Node, session_id: str) -> None:
    """Let a session that runs end."""
    await node.deliveries.signal(session_id, "go", None, None)
    await world.until(lambda: world.standing[session_id].status in ENDED)


async def rescue(world: World, node: Node, *dead: str) -> None:
    """Do one round of a rescuer: what the dead owned, and what is due."""
    for owner in dead:
        for session_id in [each async for each in world.heads.owned_by(owner)]:
            await node.claim(session_id, dead_owner=owner)
    await look_at_due(world, node)


async def look_at_due(world: World, node: Node) -> None:
    """Claim what is due, as the rescuer does every second."""
    now = world.clock.now()
    for session_id in [each async for each in world.heads.due(now)]:
        await node.router.claim(session_id, due_before=now)
        await settle()


async def heads_of(world: World, tenant: str = "acme") -> list[Head]:
    """Return all HEADs of the tenant."""
    page = await world.heads.listing(status=None, session_type=None, tenant=tenant, cursor=None, limit=1_000)
    return list(page.heads)


async def assert_exact(world: World, tenant: str = "acme") -> None:
    """Slots in use are the open root sessions past QUEUED, and the count of the queue is that of its sessions (I10)."""
    heads = await heads_of(world, tenant)
    roots = [head for head in heads if (await world.state(head.session_id)).started.parent is None]
    # An end is told after it is recorded: until then its slot is owed back, and HEAD says so.
    using = [head for head in roots if head.status not in ENDED | {SessionStatus.QUEUED} or "slot" in head.outbox]
    # A generation that goes on keeps the slot for the next one, which is about to be made.
    using += [
        head for head in roots if "next" in head.outbox and await world.heads.get(head.continued_as or "") is None
    ]
    waiting = [head for head in roots if head.status is SessionStatus.QUEUED]
    quota = await world.quotas.get(tenant)
    assert (len(using), len(waiting)) == (quota.used, quota.queued)


async def status_of(world: World, session_id: str) -> SessionStatus:
    """Return the status that HEAD shows."""
    return (await world.head(session_id)).status


# --- running and waiting ---------------------------------------------------------------------------------------------


async def test_sessions_past_the_limit_wait_and_start_in_order_of_arrival_as_slots_free_up() -> None:
    """Two run; each end lets in the one that has waited longest."""
    world = World(tenant_limit=2)
    async with world.node(app_of(waits)) as node:
        await arrive(world, node, "d", "b", "c", "a")
        assert ["d", "b"] == DIARY.entries
        assert {"c", "a"} == {head.session_id for head in await heads_of(world) if head.status is SessionStatus.QUEUED}
        await assert_exact(world)
        await let_go(world, node, "b")
        assert ["d", "b", "c"] == DIARY.entries
        await assert_exact(world)
        await let_go(world, node, "d")
        assert ["d", "b", "c", "a"] == DIARY.entries
        await let_go(world, node, "a")
        await let_go(world, node, "c")
        await assert_exact(world)
        assert (0, 0) == ((await world.quotas.get("acme")).used, (await world.quotas.get("acme")).queued)
        assert [] == world.errors_logged()


async def test_a_queued_session_is_accepted_and_shows_when() -> None:
    """Its journal holds event 1; HEAD is QUEUED, nobody's, due again in half a minute, as old as its acceptance."""
    world = World(tenant_limit=1)
    async with world.node(app_of(waits)) as node:
        await start(node, "a")
        await world.pass_time(5)
        await start(node, "b")
        head = await world.head("b")
    assert ["AGENT_INVOCATION_STARTED"] == await world.story("b")
    accepted = (await world.recorded("b"))[0].at
    assert (SessionStatus.QUEUED, None, accepted) == (head.status, head.owner, head.updated_at)
    assert accepted + timedelta(seconds=30) == head.wake_at


async def test_a_start_that_repeats_while_its_session_waits_is_the_same_session() -> None:
    """It waits once; another payload is a conflict, as ever."""
    world = World(tenant_limit=1)
    async with world.node(app_of(waits)) as node, world.node(app_of(waits), "node-2") as other:
        await start(node, "a", "b")
        for each in (node, other):
            assert not (await each.start(session_id="b", tenant="acme")).is_new
            with pytest.raises(IdempotencyConflict):
                await each.start("another", session_id="b", tenant="acme")
        await assert_exact(world)
        await let_go(world, node, "a")
        await let_go(world, node, "b")
        assert ["a", "b"] == DIARY.entries


async def test_a_tenant_without_a_limit_takes_no_slots() -> None:
    """Nothing is written for it and nothing is owed at the end."""
    world = World()
    async with world.node(app_of(waits)) as node:
        for call in ("admit", "enqueue", "free"):
            node.line.cut_before(call)
        await start(node, "a", "b", "c")
        assert 0 == (await world.quotas.get("acme")).used
        for session_id in "abc":
            await let_go(world, node, session_id)
        assert {} == (await world.head("a")).attributes
        assert [] == world.errors_logged()


async def test_a_limit_of_a_tenants_own_is_known_from_the_next_look_on() -> None:
    """Where others have none; who runs already holds no slot."""
    world = World()
    async with world.node(app_of(waits)) as node:
        await start(node, "a")
        await world.quotas.set_limit("acme", 1, at=world.clock.now())
        await node.router.slots.refresh()
        await start(node, "b", "c")
        await start(node, "x", "y", tenant="other")
        assert ["a", "b", "x", "y"] == DIARY.entries
        await let_go(world, node, "a")
        assert SessionStatus.QUEUED == await status_of(world, "c")
        await let_go(world, node, "b")
        assert "c" == DIARY.entries[-1]


async def test_a_tenant_may_be_without_a_limit_where_others_have_one() -> None:
    """A limit of its own of zero is none."""
    world = World(tenant_limit=1)
    await world.quotas.set_limit("acme", 0, at=world.clock.now())
    async with world.node(app_of(waits)) as node:
        await start(node, "a", "b", "c")
        assert ["a", "b", "c"] == DIARY.entries
        assert 0 == (await world.quotas.get("acme")).used
        await start(node, "x", "y", tenant="other")
        assert SessionStatus.QUEUED == await status_of(world, "y")


async def test_a_raised_limit_lets_in_as_many_as_it_allows() -> None:
    """The next look at anybody who waits serves the whole queue, in order."""
    world = World(tenant_limit=1)
    async with world.node(app_of(waits)) as node:
        await arrive(world, node, "d", "c", "b", "a")
        await world.quotas.set_limit("acme", 3, at=world.clock.now())
        await look_at_due(world, node)
        assert ["d"] == DIARY.entries
        await world.pass_time(30)
        await look_at_due(world, node)
        assert ["d", "c", "b"] == DIARY.entries
        await assert_exact(world)


async def test_a_limit_that_is_lifted_lets_in_everybody_who_waits() -> None:
    """However many they are."""
    world = World(tenant_limit=1)
    async with world.node(app_of(waits)) as node:
        await arrive(world, node, *(f"s{n}" for n in range(60)))
        await world.quotas.set_limit("acme", 0, at=world.clock.now())
        await look_at_due(world, node)
        assert [f"s{n}" for n in range(60)] == DIARY.entries
        await assert_exact(world)


async def test_who_waits_is_looked_at_again_every_half_minute_and_stays_where_it_is() -> None:
    """The looks change neither the order nor the instant that listings show."""
    world = World(tenant_limit=1)
    async with world.node(app_of(waits)) as node:
        await start(node, "a", "b")
        since = (await world.head("b")).updated_at
        for looks in range(1, 4):
            await world.pass_time(30)
            await look_at_due(world, node)
            head = await world.head("b")
            assert (SessionStatus.QUEUED, since) == (head.status, head.updated_at)
            assert since + timedelta(seconds=30 * (looks + 1)) == head.wake_at


# --- whose slot ------------------------------------------------------------------------------------------------------


async def fails(ctx: SessionContext) -> None:
    """Raise."""
    raise ValueError("no")


async def sleeps(ctx: SessionContext) -> None:
    """Do nothing for an hour."""
    await ctx.sleep(timedelta(hours=1))


async def test_a_session_that_fails_gives_its_slot_back() -> None:
    """As one that completes does."""
    world = World(tenant_limit=1)
    async with world.node(app_of(fails)) as node:
        await start(node, "a", "b")
        await world.until(lambda: world.standing["b"].status in ENDED)
        await assert_exact(world)
        assert 0 == (await world.quotas.get("acme")).used


async def test_a_session_that_is_cancelled_gives_its_slot_back() -> None:
    """When it has ended, not when it is asked to."""
    world = World(tenant_limit=1)
    async with world.node(app_of(waits)) as node:
        await start(node, "a", "b")
        await node.deliveries.cancel("a", None, None)
        await world.until(lambda: world.standing["a"].status in ENDED)
        assert ["a", "b"] == DIARY.entries
        await assert_exact(world)


async def test_a_suspended_session_keeps_its_slot() -> None:
    """It left memory, not its place; woken on another node, it gives it back there."""
    world = World(tenant_limit=1)
    async with world.node(app_of(sleeps)) as node, world.node(app_of(sleeps), "node-2") as other:
        await start(node, "a", "b")
        for _ in range(2):
            await world.pass_time(31)
        assert SessionStatus.SUSPENDED == await status_of(world, "a")
        assert SessionStatus.QUEUED == await status_of(world, "b")
        await assert_exact(world)
        await world.pass_time(3_600)
        await other.router.claim("a")
        await world.until(lambda: world.standing["a"].status in ENDED)
        assert SessionStatus.RUNNING == await status_of(world, "b")
        await assert_exact(world)


async def test_a_blocked_session_keeps_its_slot() -> None:
    """It may go on at any time."""
    world = World(tenant_limit=1)
    async with world.node(Orchestrator()) as node:
        await start(node, "a", "b")
        assert SessionStatus.BLOCKED == await status_of(world, "a")
        assert SessionStatus.QUEUED == await status_of(world, "b")
        await assert_exact(world)


async def test_a_child_runs_in_the_slot_of_its_root() -> None:
    """With one slot alone, a session and its child and its child's child end."""

    async def handler(ctx: SessionContext, depth: int) -> object:
        return depth if depth == 3 else await ctx.run_session("main", depth + 1)

    world = World(tenant_limit=1)
    async with world.node(app_of(handler)) as node:
        await node.start(1, session_id="a", tenant="acme")
        await world.until(lambda: world.standing["a"].status in ENDED)
        assert 3 == (await world.state("a")).result
        await assert_exact(world)
        assert 3 == len(await heads_of(world))


async def test_the_next_generation_runs_in_the_slot_of_the_one_before() -> None:
    """However often a session continues, it holds one slot, and the last one gives it back."""

    async def handler(ctx: SessionContext, generation: int) -> None:
        await ctx.step("begin", DIARY.note, ctx.session_id)
        await ctx.wait_for_signal("go")
        if generation < 3:
            ctx.continue_as_new(generation + 1)

    world = World(tenant_limit=1)
    async with world.node(app_of(handler)) as node:
        assert (await node.start(1, session_id="a", tenant="acme")).is_new
        assert (await node.start(3, session_id="b", tenant="acme")).is_new
        for session_id in ("a", "a:g2"):
            await node.deliveries.signal("a", "go", None, None)
            await world.until(lambda done=session_id: world.standing[done].status in ENDED)  # type: ignore[misc]
            await settle()
            assert SessionStatus.QUEUED == await status_of(world, "b")
            await assert_exact(world)
        await let_go(world, node, "a:g3")
        assert ["a", "a:g2", "a:g3", "b"] == DIARY.entries
        await let_go(world, node, "b")
        assert 0 == (await world.quotas.get("acme")).used


# --- messages to who waits -------------------------------------------------------------------------------------------


async def test_a_queued_session_that_is_cancelled_ends_without_ever_running() -> None:
    """Its journal says so, it never had a slot, and the queue moves up."""
    world = World(tenant_limit=1)
    async with world.node(app_of(waits)) as node:
        await start(node, "a", "b", "c")
        await node.deliveries.cancel("b", "not needed", "m-1")
        await world.until(lambda: world.standing["b"].status in ENDED)
        assert [
            "AGENT_INVOCATION_STARTED",
            "SESSION_RESUMED",
            "CANCEL_REQUESTED",
            "AGENT_BACKGROUND_TASK_CANCELLED",
        ] == await world.story("b")
        assert "not needed" == getattr((await world.state("b")).error, "message", None)
        await assert_exact(world)
        with pytest.raises(SessionEnded):
            await node.deliveries.signal("b", "go", None, None)
        await let_go(world, node, "a")
        assert ["a", "c"] == DIARY.entries
        await assert_exact(world)


async def test_a_signal_to_a_queued_session_waits_for_its_turn() -> None:
    """Acknowledged while it waits, heard when it runs (I9); it does not jump the queue for it."""
    world = World(tenant_limit=1)
    async with world.node(app_of(waits)) as node:
        await start(node, "a", "b")
        await node.deliveries.signal("b", "go", "early", "m-1")
        await settle()
        assert SessionStatus.QUEUED == await status_of(world, "b")
        await let_go(world, node, "a")
        await world.until(lambda: world.standing["b"].status in ENDED)
        assert "early" == (await world.state("b")).result
        await assert_exact(world)


async def test_a_cancel_and_signals_before_it_end_a_queued_session() -> None:
    """What else waits in its inbox does not make it run."""
    world = World(tenant_limit=1)
    async with world.node(app_of(waits)) as node:
        await start(node, "a", "b")
        await node.deliveries.signal("b", "go", None, "m-1")
        await node.deliveries.cancel("b", None, "m-2")
        await world.until(lambda: world.standing["b"].status in ENDED)
        assert SessionStatus.CANCELLED == await status_of(world, "b")
        assert ["a"] == DIARY.entries


async def test_a_queued_session_is_cancelled_by_a_node_without_room() -> None:
    """It is taken out of the queue there, and ended where there is room."""
    world = World(tenant_limit=1)
    async with world.node(app_of(waits), sessions_max=1) as full, world.node(app_of(waits), "node-2") as other:
        await start(full, "a", "b")
        await full.deliveries.cancel("b", None, None)
        await look_at_due(world, other)
        await world.until(lambda: world.standing["b"].status in ENDED)
        assert ["a"] == DIARY.entries
        await assert_exact(world)


async def test_a_dismissed_session_whose_node_dies_is_ended_by_the_next_and_never_runs() -> None:
    """That it is to end stands in HEAD, and the cancel in its inbox."""
    world = World(tenant_limit=1)
    async with world.node(app_of(waits)) as node:
        await start(node, "a", "b")
        node.line.cut_after("dismiss")
        with pytest.raises(PowerCut):
            await node.deliveries.cancel("b", "not needed", None)
        await settle()
    async with world.node(app_of(waits), "node-2") as other:
        await rescue(world, other, "node-1")
        await world.until(lambda: world.standing["b"].status in ENDED)
        assert SessionStatus.CANCELLED == await status_of(world, "b")
        assert ["a"] == DIARY.entries
        await assert_exact(world)


# --- nodes -----------------------------------------------------------------------------------------------------------


async def test_a_node_without_room_passes_the_slot_on_to_one_that_has_some() -> None:
    """The session has its slot, belongs to nobody and is due at once."""
    world = World(tenant_limit=1)
    async with world.node(app_of(waits), sessions_max=1) as full, world.node(app_of(waits), "node-2") as other:
        await start(full, "a", "b")
        await let_go(world, full, "a")
        assert SessionStatus.RUNNING == await status_of(world, "b")
        assert (await world.head("b")).owner is None
        await assert_exact(world)
        await look_at_due(world, other)
        assert "node-2" == (await world.head("b")).owner
        await let_go(world, other, "b")
        await assert_exact(world)


async def test_a_slot_that_waits_for_its_next_owner_is_not_taken_by_who_comes_later() -> None:
    """The node died between giving it back and promoting: those who wait have the first right to it."""
    world = World(tenant_limit=1)
    async with world.node(app_of(waits)) as node, world.node(app_of(waits), "node-2") as other:
        await start(node, "a", "b")
        node.line.cut_before("promote")
        await node.deliveries.signal("a", "go", None, None)
        await settle()
        assert (0, 1) == ((await world.quotas.get("acme")).used, (await world.quotas.get("acme")).queued)
        await start(other, "c")
        assert SessionStatus.QUEUED == await status_of(world, "c")
        await world.pass_time(30)
        await look_at_due(world, other)
        assert ["a", "b"] == DIARY.entries
        assert SessionStatus.QUEUED == await status_of(world, "c")
        await assert_exact(world)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("turn", [0, 1, 2, 3])
async def test_wherever_a_node_dies_the_slots_stay_exact_and_everybody_gets_one(call: str, turn: int) -> None:
    """Starts, ends, a cancel and promotions, cut off at each request (turn 0: after it); starts come again."""
    world = World(tenant_limit=1)
    app = app_of(waits)
    async with world.node(app) as node:
        if turn:
            node.line.cut_before(call, calls=turn)
        else:
            node.line.cut_after(call)
        await _ignoring(node, "a", "b", "c", "d")
    async with world.node(app, "node-2") as other:
        for session_id in "abcd":
            await other.start(session_id=session_id, tenant="acme")
        for _ in range(12):
            await rescue(world, other, "node-1")
            for head in await heads_of(world):
                if head.status is SessionStatus.SUSPENDED or (head.status, head.owner) == (
                    SessionStatus.RUNNING,
                    "node-2",
                ):
                    await other.deliveries.signal(head.session_id, "go", None, None)
                    await settle()
            await world.pass_time(31)
        await assert_exact(world)
        assert all(head.status in ENDED and not head.outbox for head in await heads_of(world))
        quota = await world.quotas.get("acme")
        assert (0, 0, 4) == (quota.used, quota.queued, len(await heads_of(world)))


async def _ignoring(node: Node, *session_ids: str) -> None:
    """Start, cancel and end sessions, whatever comes of it."""
    for session_id in session_ids:
        await _try(node.start(session_id=session_id, tenant="acme"))
    await _try(node.deliveries.cancel(session_ids[1], None, "m-1"))
    await _try(node.deliveries.signal(session_ids[0], "go", None, "m-2"))
    await _try(node.deliveries.signal(session_ids[2], "go", None, "m-3"))
    node.crash()


async def _try(doing: Awaitable[object]) -> None:
    with suppress(PowerCut, OrchestratorError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            await doing
    await settle()
