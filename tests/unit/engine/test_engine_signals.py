"""Signals: in order, buffered, once each; from wherever they come and wherever the session is (I9)."""

import asyncio

import pytest
from engine_line import PowerCut
from engine_trials import Plot, pass_seconds, same_end_whatever_happens, told, until_end
from engine_world import PAYLOAD_BYTES_MAX, Diary, Gate, Node, World, app_of

from actors import settle
from orchestrator import OperationTimedOut, SessionContext
from orchestrator.errors import Poison
from orchestrator.inbox import MessageConflict, SessionEnded, UnknownSession
from orchestrator.session.events import SessionCancelled, SessionCompleted
from orchestrator.session.transitions import SessionStatus


def sends(name: str, message_id: str, data: object = None) -> Plot:
    """Return the act of sending a signal under that id."""

    async def act(_: World, node: Node) -> None:
        await node.deliveries.signal("s", name, data, message_id)  # type: ignore[arg-type]

    return act


async def received(world: World) -> int:
    """Return how many signals are journaled."""
    return sum(1 for each in await world.story() if each.startswith("SIGNAL_RECEIVED"))


async def test_signals_are_taken_in_order_and_once_whatever_happens() -> None:
    """Sent again after each crash, each counts once, and those that came early are kept."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> list[object]:
        first = await ctx.wait_for_signal("go")
        await diary.step(ctx, "a")
        await ctx.sleep(3)
        return [
            first,
            await ctx.wait_for_signal("go"),
            await ctx.wait_for_signal("stop"),
            await ctx.wait_for_signal("go"),
        ]

    plot = told(
        sends("go", "1", 1), sends("go", "2", 2), sends("go", "1", 1), sends("go", "3", 3), sends("stop", "4", 4)
    )
    story = await same_end_whatever_happens(app_of(handler), plot)
    assert 4 == sum(1 for each in story if each.startswith("SIGNAL_RECEIVED"))


async def test_two_waits_at_once_get_two_signals_in_the_order_they_asked() -> None:
    """Whichever is served first live is served first on every replay."""

    async def handler(ctx: SessionContext) -> list[object]:
        return list(await asyncio.gather(ctx.wait_for_signal("go"), ctx.wait_for_signal("go")))

    await same_end_whatever_happens(app_of(handler), told(sends("go", "1", "x"), sends("go", "2", "y")))
    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await node.deliveries.signal("s", "go", "x", "1")
        await node.deliveries.signal("s", "go", "y", "2")
        assert SessionCompleted(["x", "y"]) == await world.end()


async def served_or_late(ctx: SessionContext) -> list[object]:
    """Wait for one with a time limit, then for another without."""
    try:
        first = await ctx.wait_for_signal("go", timeout=10)
    except OperationTimedOut:
        first = "late"
    await ctx.wait_for_signal("end")
    return [first]


async def test_a_large_signal_that_nobody_takes_leaves_nothing_in_the_bucket() -> None:
    """Neither for a session that was never accepted (rule 1) nor for one that has ended."""

    async def handler(ctx: SessionContext) -> str:
        return "done"

    world, large = World(), "x" * (PAYLOAD_BYTES_MAX + 1)
    async with world.node(app_of(handler)) as node:
        await node.start()
        await world.end()
        for session_id, refusal in (("nobody", UnknownSession), ("s", SessionEnded)):
            with pytest.raises(refusal):
                await node.deliveries.signal(session_id, "go", large, None)
    assert {} == world.artifacts.objects


@pytest.mark.parametrize("is_served", [True, False])
async def test_a_wait_with_a_time_limit_is_served_or_times_out_whatever_happens(*, is_served: bool) -> None:
    """A signal that comes too late stays for whoever asks next."""
    late = [told()] * 12
    acts = [sends("go", "1", "in time")] if is_served else [*late, sends("go", "1", "in time")]
    story = await same_end_whatever_happens(app_of(served_or_late), told(*acts, sends("end", "2")))
    assert ["VALUE_RECORDED go" if is_served else "TIMER_FIRED go"] == [
        each for each in story if each in {"VALUE_RECORDED go", "TIMER_FIRED go"}
    ]


@pytest.mark.parametrize("first", ["signal", "time"])
async def test_a_signal_and_its_time_limit_at_once_are_one_or_the_other(first: str) -> None:
    """The journal decides, and after a crash at any event the handler hears the same."""
    world = World()
    world.passivate_after = 1e9
    async with world.node(app_of(served_or_late)) as node:
        await node.start()
        await settle()
        if first == "signal":
            node.line.hold_on("append")
            sending = asyncio.ensure_future(node.deliveries.signal("s", "go", "in time", "1"))
            await node.line.until_held()
            await world.pass_time(10)
            node.line.thaw()
            await sending
        else:
            world.clock.advance(10)
            await node.deliveries.signal("s", "go", "in time", "1")
        await settle()
        decided = await world.story()
        await node.deliveries.signal("s", "end", None, "2")
        end = await world.end()
    assert 1 == ("VALUE_RECORDED go" in decided) + ("TIMER_FIRED go" in decided)
    for seq in range(len(decided), len(await world.recorded()) + 1):
        earlier = await world.as_of(seq)
        async with earlier.node(app_of(served_or_late), "node-2") as node:
            await node.claim(dead_owner="node-1")
            if not (await earlier.state()).has_ended:
                await node.deliveries.signal("s", "end", None, "2")
            assert end == await earlier.end()


async def test_a_message_id_counts_once_and_another_content_under_it_is_a_conflict() -> None:
    """Same id, same content: nothing. Same id, other content, name or kind: refused, the first stays."""

    async def handler(ctx: SessionContext) -> list[object]:
        return [await ctx.wait_for_signal("go"), await ctx.wait_for_signal("end")]

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        assert "m" == await node.deliveries.signal("s", "go", {"a": 1, "b": 2}, "m")
        assert "m" == await node.deliveries.signal("s", "go", {"b": 2, "a": 1}, "m")
        for again in (
            node.deliveries.signal("s", "go", {"a": 2}, "m"),
            node.deliveries.signal("s", "end", {"a": 1, "b": 2}, "m"),
            node.deliveries.cancel("s", None, "m"),
        ):
            with pytest.raises(MessageConflict):
                await again
        assert 1 == await received(world)
        await node.deliveries.signal("s", "end", None, None)
        assert SessionCompleted([{"a": 1, "b": 2}, None]) == await world.end()


@pytest.mark.parametrize("place", ["at rest", "elsewhere", "blocked", "next generation"])
async def test_another_content_under_a_known_id_is_refused_wherever_the_session_is(place: str) -> None:
    """The first was journaled long ago, and no actor of it is here to say so; who sends it is told all the same."""

    async def handler(ctx: SessionContext, generation: int) -> None:
        await ctx.wait_for_signal("go")
        if not generation:
            ctx.continue_as_new(1)
        await ctx.wait_for_signal("end")

    async def changed(ctx: SessionContext, generation: int) -> None:
        await ctx.sleep(3)

    world = World()
    app = app_of(changed if place == "blocked" else handler)
    async with world.node(app_of(handler)) as owner, world.node(app, "node-2") as sender:
        await owner.start(0 if place == "next generation" else 1)
        await owner.deliveries.signal("s", "go", 1, "m")
        await settle()
        if place == "blocked":
            owner.crash()
            await sender.claim(dead_owner="node-1")
            await world.blocked()
        elif place != "elsewhere":
            await world.pass_time(31)
            latest = "s:g2" if place == "next generation" else "s"
            assert SessionStatus.SUSPENDED is (await world.head(latest)).status
        with pytest.raises(MessageConflict):
            await sender.deliveries.signal("s", "go", 2, "m")
        with pytest.raises(MessageConflict):
            await sender.deliveries.cancel("s", "enough", "m")
        assert "m" == await sender.deliveries.signal("s", "go", 1, "m")
        assert [] == world.logged("message_dropped")


async def test_signals_to_unknown_and_ended_sessions_are_refused_and_leave_nothing() -> None:
    """Nothing is made up for them (rule 1), and nothing is appended behind an end (I2)."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.wait_for_signal("go")

    world = World()
    async with world.node(app_of(handler)) as node:
        with pytest.raises(UnknownSession):
            await node.deliveries.signal("nobody", "go", None, "1")
        assert await world.heads.get("nobody") is None
        assert () == await world.inbox.read("nobody")
        await node.start()
        await node.deliveries.signal("s", "go", None, "1")
        await world.end()
        journal = await world.recorded()
        with pytest.raises(SessionEnded):
            await node.deliveries.signal("s", "go", None, "2")
        assert journal == await world.recorded()
        assert () == await world.inbox.read("s")


@pytest.mark.parametrize(("name", "message_id"), [("", "1"), ("a b", "1"), ("go", ""), ("go", "ö"), ("x" * 129, "1")])
async def test_a_signal_with_a_bad_name_or_id_is_refused(name: str, message_id: str) -> None:
    """It can never succeed (I11)."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.wait_for_signal("go")

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        with pytest.raises(Poison):
            await node.deliveries.signal("s", name, None, message_id)
        assert 0 == await received(world)


async def test_a_signal_from_another_node_reaches_the_owner_by_inbox_and_wake_up() -> None:
    """Acknowledged while the owner has not heard of it; the wake-up lets it journal it, once, and clear the inbox."""

    async def handler(ctx: SessionContext) -> list[object]:
        return [await ctx.wait_for_signal("go"), await ctx.wait_for_signal("go")]

    world = World()
    async with world.node(app_of(handler)) as owner, world.node(app_of(handler), "node-2") as other:
        await owner.start()
        await settle()
        await other.deliveries.signal("s", "go", 1, "1")
        await other.deliveries.signal("s", "go", 1, "1")
        assert 0 == await received(world)
        assert ["s"] == [each async for each in world.wake_ups.take("node-1")]
        await owner.router.wake("s")
        await settle()
        assert 1 == await received(world)
        assert () == await world.inbox.read("s")
        # The second comes by the inbox, and what the owner is told directly comes behind it.
        await other.deliveries.signal("s", "go", 2, "2")
        await owner.deliveries.signal("s", "go", 3, "3")
        assert SessionCompleted([1, 2]) == await world.end()


@pytest.mark.parametrize("call", ["inbox_put", "append", "inbox_delete", "inbox_read"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_signal_sent_again_after_any_power_cut_counts_once(call: str, when: str) -> None:
    """Whatever the cut lost, an answer or the request, the repetition makes it one (I9)."""

    async def handler(ctx: SessionContext) -> object:
        return [await ctx.wait_for_signal("go"), await ctx.wait_for_signal("end")]

    world = World()
    world.passivate_after = 0.4
    app = app_of(handler)
    async with world.node(app) as node:
        await node.start()
        await settle()
        if call != "append":
            await world.pass_time(1)
            assert SessionStatus.SUSPENDED is (await world.head()).status
        if when == "before":
            node.line.cut_before(call)
        else:
            node.line.cut_after(call)
        sending = asyncio.ensure_future(node.deliveries.signal("s", "go", 7, "1"))
        await settle()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        node.crash()
    async with world.node(app, "node-2") as node:
        await node.claim(dead_owner="node-1")
        await node.deliveries.signal("s", "go", 7, "1")
        await pass_seconds(world, node, 2)
        await node.deliveries.signal("s", "end", 8, "2")
        assert SessionCompleted([7, 8]) == await until_end(world, node)
    assert 2 == await received(world)
    assert () == await world.inbox.read("s")
    assert {PowerCut} >= set(world.failures())


async def test_a_signal_to_a_session_whose_node_died_waits_for_its_rescue() -> None:
    """It is acknowledged at once; whoever takes the session over reads its inbox first."""

    async def handler(ctx: SessionContext) -> object:
        return await ctx.wait_for_signal("go")

    world = World()
    app = app_of(handler)
    async with world.node(app) as node:
        await node.start()
        await settle()
        node.crash()
    async with world.node(app, "node-2") as node:
        await node.deliveries.signal("s", "go", 7, "1")
        assert 0 == await received(world)
        assert await node.claim(dead_owner="node-1")
        assert SessionCompleted(7) == await world.end()


@pytest.mark.parametrize("sender", ["owner", "other"])
@pytest.mark.parametrize("held", ["request", "answer"])
async def test_a_signal_that_comes_while_its_session_leaves_memory_is_not_lost(sender: str, held: str) -> None:
    """Before or after the write that gives the session up, from whichever node (rules 5 and 6)."""

    async def handler(ctx: SessionContext) -> object:
        return await ctx.wait_for_signal("go")

    world = World()
    async with world.node(app_of(handler)) as owner, world.node(app_of(handler), "node-2") as other:
        await owner.start()
        await settle()
        if held == "request":
            owner.line.hold_on("release")
        else:
            owner.line.hold_answer("release")
        await world.pass_time(31)
        await owner.line.until_held()
        node = owner if sender == "owner" else other
        sending = asyncio.ensure_future(node.deliveries.signal("s", "go", 7, "1"))
        await settle()
        owner.line.thaw()
        await sending
        for each in (owner, other):
            async for session_id in world.wake_ups.take(each.node_id):
                await each.router.wake(session_id)
        assert SessionCompleted(7) == await world.end()
    assert 1 == await received(world)


@pytest.mark.parametrize("begins", ["create", "claim"])
@pytest.mark.parametrize("sender", ["owner", "other"])
async def test_a_cancel_that_comes_while_its_session_is_brought_to_life_is_heard(begins: str, sender: str) -> None:
    """HEAD is written, and its writer has not heard so yet; what it has in hand then is as it was before the cancel."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> None:
        await ctx.invoke_agent("slow", "prompt")

    app = app_of(handler, slow=gate.passing)
    world = World()
    async with world.node(app) as owner, world.node(app, "node-2") as other:
        if begins == "claim":
            await owner.start()
            await settle()
            await owner.system.stop("s")
        owner.line.hold_answer(begins)
        beginning = asyncio.ensure_future(owner.start() if begins == "create" else owner.claim())
        await owner.line.until_held()
        node = owner if sender == "owner" else other
        sending = asyncio.ensure_future(node.deliveries.cancel("s", "enough", "1"))
        await settle()
        waking = [asyncio.ensure_future(owner.router.wake(each)) async for each in world.wake_ups.take("node-1")]
        await settle()
        owner.line.thaw()
        await asyncio.gather(beginning, sending, *waking)
        assert SessionCancelled("enough") == await world.end()


async def test_a_session_does_not_leave_memory_between_asking_for_a_signal_and_getting_it() -> None:
    """The alarm rings as it asks for one that waits for it already: out of memory, nobody would wake it."""
    going = asyncio.Event()

    async def handler(ctx: SessionContext) -> object:
        await going.wait()
        return await ctx.wait_for_signal("go")

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await node.deliveries.signal("s", "go", 7, "1")
        await settle()
        world.clock.advance(29)
        await settle()
        # In one turn of the loop: the alarm's message is in the mailbox before the handler asks.
        world.clock.advance(1)
        going.set()
        await settle()
        assert SessionCompleted(7) == await world.end()


async def test_a_wait_with_a_time_limit_that_was_just_asked_for_does_not_sleep_for_ever() -> None:
    """Out of memory before its limit is written down, it would never be due."""
    going = asyncio.Event()

    async def handler(ctx: SessionContext) -> object:
        await going.wait()
        try:
            return await ctx.wait_for_signal("go", timeout=5)
        except OperationTimedOut:
            return "late"

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        world.clock.advance(29)
        await settle()
        world.clock.advance(1)
        going.set()
        assert SessionCompleted("late") == await until_end(world, node, 10)


async def test_a_large_signal_goes_to_the_bucket_and_comes_back_whole() -> None:
    """Its journal holds the reference; the same signal again is the same message."""

    async def handler(ctx: SessionContext) -> int:
        data = await ctx.wait_for_signal("go")
        await ctx.wait_for_signal("end")
        return len(str(data))

    large = "x" * 50_000
    world = World()
    world.passivate_after = 0.4
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await node.deliveries.signal("s", "go", large, "1")
        await node.deliveries.signal("s", "go", large, "1")
        await pass_seconds(world, node, 2)
        await node.deliveries.signal("s", "end", None, "2")
        assert SessionCompleted(50_000) == await until_end(world, node)
    assert 2 == await received(world)
    assert all(len(repr(recorded)) < 5_000 for recorded in await world.recorded())


@pytest.mark.parametrize("size", [1, PAYLOAD_BYTES_MAX + 1])
async def test_a_signal_that_was_taken_may_come_again_after_the_end(size: int) -> None:
    """As a queue repeats what it did not see acknowledged; another message under that id comes too late."""

    async def handler(ctx: SessionContext) -> int:
        return len(str(await ctx.wait_for_signal("go")))

    world, data = World(), "x" * size
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await node.deliveries.signal("s", "go", data, "1")
        assert SessionCompleted(size) == await world.end()
        assert "1" == await node.deliveries.signal("s", "go", data, "1")
        for message_id, other in (("1", data + "x"), ("2", data)):
            with pytest.raises(SessionEnded):
                await node.deliveries.signal("s", "go", other, message_id)


async def test_a_cancel_that_was_taken_may_come_again_after_the_end() -> None:
    """Whoever repeats it has what was asked for; a cancel that never came before is late."""
    world = World()
    async with world.node(app_of(served_or_late)) as node:
        await node.start()
        await settle()
        await node.deliveries.cancel("s", "enough", "1")
        assert isinstance(await world.end(), SessionCancelled)
        assert "1" == await node.deliveries.cancel("s", "enough", "1")
        with pytest.raises(SessionEnded):
            await node.deliveries.cancel("s", "enough", "2")
