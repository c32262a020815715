"""Sessions that start sessions: the end of one is told to the other exactly once, whoever dies in between (I2, I6)."""

import asyncio
from contextlib import suppress
from itertools import count

import pytest
from engine_life import crash_at_every_call, live, look_after, until_suspended
from engine_world import Diary, Handler, Node, World, app_of
from pydantic import BaseModel

from actors import settle
from orchestrator import ChildSessionFailed, NonRetryable, Orchestrator, SessionCancelled, SessionContext, StepFailed
from orchestrator.inbox import SessionEnded
from orchestrator.outside import POLL_SECONDS_MAX
from orchestrator.owned_head import OUTBOX_GRACE
from orchestrator.session.events import ChildStarted, SessionFailed
from orchestrator.session.events import SessionCancelled as Cancelled
from orchestrator.session.events import SessionCompleted as Completed
from orchestrator.session.transitions import Phase


def family(parent: Handler, **children: Handler) -> Orchestrator:
    """Return an application whose `main` is the parent, with children of these types."""
    app = app_of(parent)
    for name, child in children.items():
        app.session(name)(child)
    return app


async def child_of(world: World, parent: str = "s", operation: str = "child") -> str:
    """Return the id of the child that an operation started."""
    order = (await world.state(parent)).operations[operation].order
    assert isinstance(order, ChildStarted)
    return order.child_id


async def outcome_of(ctx: SessionContext) -> object:
    """Be a parent: return the child's result, or how it failed."""
    try:
        return await ctx.run_session("child", {"n": 1})
    except ChildSessionFailed as failed:
        return [failed.operation, failed.error.code, failed.error.message]


async def doubled(ctx: SessionContext, value: dict[str, int]) -> object:
    """Be a child that works a little."""
    await ctx.sleep(1)
    return await ctx.step("double", twice, value["n"])


async def twice(number: int) -> int:
    """Be a step."""
    return 2 * number


async def broken(ctx: SessionContext) -> object:
    """Be a child that fails with a code of its own."""
    raise NonRetryable("cannot")


async def uncaught(ctx: SessionContext) -> object:
    """Be a child whose step fails."""
    return await ctx.step("bad", bad)


async def bad() -> None:
    """Be a step that fails."""
    raise ValueError("no")


async def patient(ctx: SessionContext) -> object:
    """Be a child that waits."""
    return await ctx.wait_for_signal("go")


class Strict(BaseModel):
    """What a strict child takes."""

    amount: int


async def strict(ctx: SessionContext, value: Strict) -> int:
    """Be a child with an input type."""
    return value.amount


# --- how it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("child", "expected"),
    [
        (doubled, 2),
        (broken, ["child", "NON_RETRYABLE", "cannot"]),
        (uncaught, ["child", "STEP_FAILED", "bad: ValueError: no"]),
        (strict, ["child", "INVALID_PAYLOAD", "input.amount: Field required"]),
        (None, ["child", "UNKNOWN_SESSION_TYPE", "no session type 'child' is declared"]),
    ],
    ids=["result", "its code", "unhandled", "bad input", "unknown type"],
)
async def test_a_child_ends_and_its_parent_hears_of_it_exactly_once(child: Handler | None, expected: object) -> None:
    """Live, and with the node dying at each of its calls to the table, HEAD's end and the outbox among them."""
    app = family(outcome_of, **({} if child is None else {"child": child}))

    async def scenario(world: World, node: Node) -> None:
        await node.start()
        for _ in range(3):
            await world.pass_time(1)

    async def after(world: World) -> None:
        end = (await world.recorded())[-1].event
        assert isinstance(end, Completed)
        assert str(expected)[:40] == str(end.result)[:40]
        told = [line for line in await world.story() if line.startswith(("CHILD_COMPLETED", "CHILD_FAILED"))]
        assert 1 == len(told)

    assert 3 < await crash_at_every_call(app, scenario, after=after)


async def test_a_child_whose_step_fails_has_the_code_that_its_own_end_records() -> None:
    """The parent sees what the child's terminal event holds."""
    world = World()
    await world.run(family(outcome_of, child=uncaught))
    state = await world.state(await child_of(world))
    parent = await world.state()
    assert state.error is not None
    assert parent.operations["child"].error == state.error


async def test_a_failed_child_fails_a_parent_that_does_not_catch_it() -> None:
    """As `ChildSessionFailed`."""

    async def parent(ctx: SessionContext) -> object:
        return await ctx.run_session("child")

    end = await World().run(family(parent, child=broken))
    assert isinstance(end, SessionFailed)
    assert ("ChildSessionFailed", "CHILD_SESSION_FAILED") == (end.error.type, end.error.code)


async def test_a_child_that_dies_between_its_heads_end_and_its_outbox_tells_its_parent_all_the_same() -> None:
    """The ended HEAD is due after a grace: another node claims it, sends what is owed, and appends nothing."""
    app, world = family(outcome_of, child=doubled), World()
    async with world.node(app) as node:
        node.line.cut_before("settle_outbox")
        await node.start()
        await settle()
        child = await child_of(world)
        # The child tells its parent, which ends; then the power is gone, before that is noted.
        await world.pass_time(1)
        assert ("parent",) == (await world.head(child)).outbox
    child_story = await world.story(child)
    async with world.node(app, "node-2") as node:
        await look_after(world, node, dead=("node-1",))
        assert ("parent",) == (await world.head(child)).outbox, "its writer has a grace"
        await world.pass_time(OUTBOX_GRACE.total_seconds())
        await look_after(world, node)
        assert ((), None) == ((await world.head(child)).outbox, (await world.head(child)).owner)
        assert child_story == await world.story(child)
        assert Completed(2) == await world.end()
        assert 0 == len(node.system)
    assert 1 == sum("CHILD_COMPLETED" in line for line in await world.story())


async def test_an_end_that_is_told_while_another_node_takes_the_telling_over_leaves_nobody_its_owner() -> None:
    """What is owned by a node is looked at by its audits, for as long as the node lives and a day longer."""
    world = World()
    app = family(outcome_of, child=doubled)
    async with world.node(app) as node, world.node(app, "node-2") as other:
        await node.start()
        await settle()
        child = await child_of(world)
        node.line.hold_on("settle_outbox")
        await world.pass_time(1)
        await node.line.until_held()
        other.line.hold_on("claim")
        taking_over = asyncio.ensure_future(other.claim(child, only_unowned=True))
        await other.line.until_held()
        node.line.thaw()
        await world.end()
        other.line.thaw()
        assert await taking_over
        await settle()
        head = await world.head(child)
        assert ((), None, 2) == (head.outbox, head.owner, head.epoch)


async def test_a_child_may_end_on_another_node_than_its_parents() -> None:
    """Each is where it is; the message finds the parent by its HEAD and inbox."""
    app, world = family(outcome_of, child=patient), World()
    async with world.node(app) as node:
        await node.start()
        await settle()
        child = await child_of(world)
        async with world.node(app, "node-2") as other:
            # The child moves: its node is made to believe that it lost it.
            assert await other.claim(child, dead_owner="node-1")
            await other.deliveries.signal(child, "go", "far away", None)
            await settle()
            await live(world, node)
            assert Completed("far away") == await world.end()


async def test_a_child_may_continue_as_new_and_its_last_generation_answers() -> None:
    """The parent waits for the end, in whatever journal it is."""

    async def counting(ctx: SessionContext, value: dict[str, int]) -> object:
        await ctx.sleep(1)
        if value["n"] < 4:
            ctx.continue_as_new({"n": value["n"] + 1})
        return value["n"]

    app = family(outcome_of, child=counting)

    async def scenario(world: World, node: Node) -> None:
        await node.start()
        for _ in range(8):
            await world.pass_time(1)

    async def after(world: World) -> None:
        assert Completed(4) == (await world.recorded())[-1].event
        assert (await world.state(f"{await child_of(world)}:g4")).has_ended
        assert 1 == sum("CHILD_COMPLETED" in line for line in await world.story())

    assert 15 < await crash_at_every_call(app, scenario, after=after)


# --- ids -------------------------------------------------------------------------------------------------------------


async def test_two_parents_with_one_key_share_a_child() -> None:
    """It runs once; both get its result."""
    diary = Diary()

    async def parent(ctx: SessionContext) -> object:
        return await ctx.run_session("child", 1, key="shared")

    async def child(ctx: SessionContext, value: int) -> object:
        await ctx.sleep(5)
        return await diary.step(ctx, "once")

    app, world = family(parent, child=child), World()
    async with world.node(app) as node:
        await node.start(session_id="s")
        await node.start(session_id="t")
        await settle()
        await live(world, node, "s", "t")
    assert Completed("once") == (await world.recorded("s"))[-1].event == (await world.recorded("t"))[-1].event
    assert ["once"] == diary.entries


async def test_a_parent_hears_of_a_child_whose_creation_another_had_begun_and_not_finished() -> None:
    """The child's journal names who began it, and it tells nobody else of its end."""

    async def parent(ctx: SessionContext) -> object:
        return await ctx.run_session("child", 1, key="shared")

    async def child(ctx: SessionContext, value: int) -> object:
        await ctx.sleep(5)
        return "done"

    app, world = family(parent, child=child), World()
    async with world.node(app) as node:
        # The second one is the child's: its first event is written, and nobody has accepted it.
        node.line.cut_before("create", calls=2)
        await node.start(session_id="s")
        await settle()
    assert await world.heads.get(await child_of(world, "s")) is None
    async with world.node(app, "node-2") as node:
        await node.start(session_id="t")
        await settle()
        await live(world, node, "t")
        await live(world, node, "s", dead=("node-1",))
    assert Completed("done") == (await world.recorded("t"))[-1].event == (await world.recorded("s"))[-1].event


async def test_a_shared_child_has_not_ended_while_it_continues_as_new() -> None:
    """Whoever looks between a generation's last event and its HEAD's end waits for the next one, as its parent does."""

    async def parent(ctx: SessionContext) -> object:
        return await ctx.run_session("child", 1, key="shared")

    async def child(ctx: SessionContext, value: int) -> object:
        await ctx.sleep(5)
        if value == 1:
            ctx.continue_as_new(2)
        return value

    app, world = family(parent, child=child), World()
    async with world.node(app) as node, world.node(app, "node-2") as other:
        await node.start(session_id="s")
        await settle()
        await other.start(session_id="t")
        await settle()
        node.line.hold_on("end")
        await world.pass_time(5)
        assert (await world.state(await child_of(world))).has_ended
        await world.pass_time(POLL_SECONDS_MAX)
        assert Phase.STARTED == (await world.state("t")).operations["child"].phase
        node.line.thaw()
        await settle()
        await live(world, node, "s", "t")
    assert Completed(2) == (await world.recorded("s"))[-1].event == (await world.recorded("t"))[-1].event


async def test_a_child_that_two_parents_share_is_ended_by_who_started_it_alone() -> None:
    """The other one's cancel, and its end, leave it alone: somebody waits for it."""

    async def parent(ctx: SessionContext) -> object:
        return await ctx.run_session("child", 1, key="shared")

    async def hasty(ctx: SessionContext) -> object:
        try:
            await ctx.gather(ctx.run_session("child", 1, key="shared"), ctx.step("bad", bad))
        except StepFailed:
            return "gone"
        return None

    async def child(ctx: SessionContext, value: int) -> object:
        await ctx.sleep(50)
        return "lived"

    app, world = family(parent, child=child, hasty=hasty), World()
    async with world.node(app) as node:
        for session_id, session_type in (("s", "main"), ("t", "main"), ("u", "hasty")):
            await node.start(session_id=session_id, session_type=session_type)
            await settle()
        await node.deliveries.cancel("t", "not needed", None)
        await settle()
        assert Cancelled("not needed") == await world.end("t")
        assert Completed("gone") == await world.end("u")
        await live(world, node, "s", "t", "u")
        assert Completed("lived") == await world.end("s")


async def test_a_key_that_another_payload_has_fails_the_operation() -> None:
    """The first session under the id is untouched."""

    async def parent(ctx: SessionContext) -> object:
        first = await ctx.run_session("child", 1, key="k")
        try:
            await ctx.run_session("child", 2, key="k")
        except ChildSessionFailed as failed:
            return [first, failed.error.code]
        return None

    async def child(ctx: SessionContext, value: int) -> object:
        return value

    assert Completed([1, "IDEMPOTENCY_CONFLICT"]) == await World().run(family(parent, child=child))


async def test_a_child_of_the_same_key_that_ended_before_gives_its_result_at_once() -> None:
    """Its own parent has it, and whoever asks later gets it too; so does who asks for what somebody else started."""

    async def parent(ctx: SessionContext) -> object:
        return [await ctx.run_session("child", 1, key="k"), await ctx.run_session("child", 1, key="k")]

    async def child(ctx: SessionContext, value: int) -> object:
        return value

    world = World()
    assert Completed([1, 1]) == await world.run(family(parent, child=child))


# --- cancel and the end of the parent ------------------------------------------------------------------------------


async def test_a_parents_cancel_reaches_its_children_and_theirs() -> None:
    """Down to the last one; each ends as cancelled, and the parent after its own cleaning up."""
    diary = Diary()

    async def middle(ctx: SessionContext) -> object:
        return await ctx.run_session("child")

    async def parent(ctx: SessionContext) -> object:
        try:
            return await ctx.run_session("middle")
        except SessionCancelled:
            await diary.step(ctx, "cleaned up")
            raise

    app = family(parent, middle=middle, child=patient)

    async def scenario(world: World, node: Node) -> None:
        await node.start()
        await settle()
        await node.deliveries.cancel("s", "enough", "c-1")
        for _ in range(3):
            await settle()
            await world.pass_time(1)

    async def after(world: World) -> None:
        assert Cancelled("enough") == (await world.recorded())[-1].event
        order = (await world.state()).operations.get("middle")
        if order is None or await world.heads.get(await child_of(world, "s", "middle")) is None:
            return
        ids = ["s", middle_id := await child_of(world, "s", "middle")]
        if "child" in (await world.state(middle_id)).operations:
            ids.append(await child_of(world, middle_id))
        ends = [await world.heads.get(session_id) for session_id in ids]
        assert {"CANCELLED"} == {head.status for head in ends if head is not None}

    assert 15 < await crash_at_every_call(app, scenario, after=after)


@pytest.mark.parametrize("how", ["returns", "raises", "continues"])
async def test_a_parent_that_ends_with_an_open_child_ends_it(how: str) -> None:
    """Whatever its end: nobody waits for the child any more, and it is cancelled; on any node, after any death."""

    async def parent(ctx: SessionContext, value: object = None) -> object:
        if value == "again":
            return "again"
        task = asyncio.ensure_future(ctx.run_session("child"))
        await ctx.sleep(1)
        task.cancel()
        if how == "raises":
            raise NonRetryable("no")
        if how == "continues":
            ctx.continue_as_new("again")
        return "done"

    app = family(parent, child=patient)

    async def scenario(world: World, node: Node) -> None:
        await node.start()
        for _ in range(3):
            await world.pass_time(1)

    async def after(world: World) -> None:
        child = await child_of(world)
        for _ in range(40):
            await settle()
        assert Cancelled("its parent session ended") == (await world.recorded(child))[-1].event

    assert 8 < await crash_at_every_call(app, scenario, after=after)


@pytest.mark.parametrize("nodes", [1, 2])
async def test_a_child_and_its_parent_that_end_at_the_same_moment_do_not_wait_for_each_other(nodes: int) -> None:
    """Each has a message for the other, and both are told."""

    async def parent(ctx: SessionContext) -> object:
        task = asyncio.ensure_future(ctx.run_session("child"))
        await ctx.sleep(5)
        task.cancel()
        return "parent"

    async def child(ctx: SessionContext) -> object:
        await ctx.sleep(5)
        return "child"

    app, world = family(parent, child=child), World()
    async with world.node(app) as node, world.node(app, "node-2") as other:
        await node.start()
        await settle()
        child_id = await child_of(world)
        if nodes == 2:
            assert await other.claim(child_id, dead_owner="node-1")
        await world.pass_time(5)
        await settle()
        assert (0, 0) == (len(node.system), len(other.system))
        assert Completed("parent") == await world.end()
        assert () == (await world.head(child_id)).outbox == (await world.head()).outbox
        assert [] == world.errors_logged()


async def test_many_children_of_one_session_work() -> None:
    """A hundred at once, each with its journal."""

    async def parent(ctx: SessionContext) -> object:
        return sum(await ctx.gather(*(ctx.run_session("child", {"n": n}) for n in range(100))))  # type: ignore[arg-type]

    app, world = family(parent, child=doubled), World()
    async with world.node(app) as node:
        await node.start()
        await settle(1_000_000)
        world.clock.advance(1)
        await settle(1_000_000)
        await live(world, node)
        assert Completed(9900) == await world.end()


async def test_a_child_hears_of_its_end_though_its_parent_ends_while_telling_it() -> None:
    """The errand of the stop dies with its actor, between the child's inbox and the call that wakes the child."""

    async def parent(ctx: SessionContext) -> None:
        await ctx.run_session("child")

    async def child(ctx: SessionContext) -> None:
        await ctx.wait_for_signal("never")

    world = World()
    world.passivate_after = 0.1
    async with world.node(family(parent, child=child)) as node:
        await node.start()
        await settle()
        await until_suspended(world, node, await child_of(world))
        await node.deliveries.cancel("s", "no more", "c")
        node.line.hold_on("bump_inbox")
        await node.line.until_held()
        await settle()
        node.line.thaw()
        await live(world, node, "s", await child_of(world))
    assert Cancelled("no more") == (await world.recorded(await child_of(world)))[-1].event


async def test_a_child_whose_creation_comes_through_after_its_parents_end_ends_too() -> None:
    """A node stood still on the way, at each of its calls; the parent was cancelled elsewhere meanwhile (rule 9)."""

    async def parent(ctx: SessionContext) -> object:
        await ctx.wait_for_signal("begin")
        return await ctx.run_session("child")

    for call in count(1):
        world, app = World(), family(parent, child=patient)
        async with world.node(app) as zombie, world.node(app, "node-2") as successor:
            await zombie.start()
            await settle()
            zombie.line.freeze_at(zombie.line.calls + call)
            asking = asyncio.ensure_future(zombie.deliveries.signal("s", "begin", None, "m"))
            await settle()
            is_whole = not zombie.line.is_held
            await successor.deliveries.cancel("s", "enough", "c")
            await live(world, successor, "s", dead=("node-1",))
            zombie.line.thaw()
            await settle()
            page = await world.heads.listing(status=None, session_type="child", tenant=None, cursor=None, limit=9)
            children = [head.session_id for head in page.heads]
            await live(world, successor, "s", *children, dead=("node-1",))
            ends = [(await world.recorded(child))[-1].event for child in children]
            assert [Cancelled("enough")] * len(children) == ends
            assert [] == world.errors_logged()
            with suppress(SessionEnded):
                await asking
        if is_whole:
            break
    assert call > 4
