"""A session that goes on in a fresh journal is one session to everybody outside: nothing said to it is lost."""

import asyncio

import pytest
from engine_life import crash_at_every_call, live, look_after
from engine_line import PowerCut
from engine_world import NOON, Diary, Node, World, app_of
from pydantic import BaseModel

from actors import settle
from orchestrator import SessionContext
from orchestrator.cluster import Head
from orchestrator.cluster.generations import latest_of
from orchestrator.cluster.memory import MemoryHeads
from orchestrator.inbox import MessageConflict
from orchestrator.journal.codec import encode
from orchestrator.owned_head import OUTBOX_GRACE
from orchestrator.session import decide
from orchestrator.session.events import SessionCancelled, SessionCompleted, SessionContinued, SessionFailed
from orchestrator.session.transitions import SessionStatus

ITEM_BYTES_MAX = 400_000
"""What one item of the table holds (I12)."""


async def counting(ctx: SessionContext, value: int) -> object:
    """Take one signal a generation, three times."""
    await ctx.step("a", noted, value)
    said = await ctx.wait_for_signal("nudge")
    if value < 3:
        ctx.continue_as_new(value + 1)
    return [value, said]


async def noted(value: int) -> int:
    """Be a step."""
    return value


async def test_each_generation_has_a_journal_of_its_own_and_answers_to_the_first_id() -> None:
    """`s`, `s:g2`, `s:g3`: signals to `s` find the latest one."""
    app, world = app_of(counting), World()
    async with world.node(app) as node:
        await node.start(1)
        for number in range(3):
            await settle()
            await node.deliveries.signal("s", "nudge", number, None)
        await settle()
    assert SessionContinued(2, "s:g2") == (await world.recorded("s"))[-1].event
    assert SessionContinued(3, "s:g3") == (await world.recorded("s:g2"))[-1].event
    assert SessionCompleted([3, 2]) == (await world.recorded("s:g3"))[-1].event
    assert 5 == len(await world.recorded("s:g2")), "a step, a signal, the wait, and two ends"
    head = await world.head("s")
    assert (SessionStatus.CONTINUED, "s:g2", ()) == (head.status, head.continued_as, head.outbox)


async def test_signals_and_known_ids_go_along_and_a_repetition_decides_nothing() -> None:
    """What waits is taken in order by later generations; an id that was known stays known."""
    app, world = app_of(counting), World()
    async with world.node(app) as node:
        await node.start(1)
        await settle()
        for number in (0, 0, 1, 0, 1, 2):
            await node.deliveries.signal("s", "nudge", number, f"m-{number}")
        await settle()
        assert SessionCompleted([3, 2]) == await world.end("s:g3")
    journal = [line for name in ("s", "s:g2", "s:g3") for line in await world.story(name)]
    assert 3 == sum("STEP_COMPLETED" in line for line in journal)


async def test_an_id_that_another_message_had_before_is_a_conflict_in_every_generation() -> None:
    """A later generation knows what the first one was told."""
    app, world = app_of(counting), World()
    async with world.node(app) as node:
        await node.start(1)
        await settle()
        await node.deliveries.signal("s", "nudge", 1, "m-1")
        await settle()
        with pytest.raises(MessageConflict):
            await node.deliveries.signal("s", "nudge", 2, "m-1")
        await node.deliveries.signal("s", "nudge", 1, "m-1")
        await settle()
        assert not (await world.state("s:g2")).has_ended


async def test_a_generation_survives_a_death_at_every_call_with_all_that_was_said() -> None:
    """Between the CONTINUED head and the next generation too: what was acknowledged arrives once, in order."""

    async def scenario(world: World, node: Node) -> None:
        await node.start(1)
        await settle()
        for number in range(3):
            await node.deliveries.signal("s", "nudge", number, f"m-{number}")
            await settle()

    async def after(world: World) -> None:
        assert SessionCompleted([3, 2]) == (await world.recorded("s:g3"))[-1].event

    assert 15 < await crash_at_every_call(app_of(counting), scenario, "s", "s:g2", "s:g3", after=after)


async def test_a_death_between_the_continued_head_and_the_next_generation_only_delays_it() -> None:
    """Messages wait in the old inbox meanwhile; the outbox falls due, and any node begins the next one."""
    app, world = app_of(counting), World()
    async with world.node(app) as node:
        await node.start(1)
        await settle()
        node.line.cut_before("append", calls=4)
        await node.deliveries.signal("s", "nudge", 0, None)
        await settle()
        head = await world.head()
        assert (SessionStatus.CONTINUED, ("next",)) == (head.status, head.outbox)
        assert await world.heads.get("s:g2") is None
    async with world.node(app, "node-2") as node:
        await node.deliveries.signal("s", "nudge", 1, "m-1")
        assert 1 == len(await world.inbox.read("s"))
        await look_after(world, node, dead=("node-1",))
        assert await world.heads.get("s:g2") is None, "its writer has a grace"
        await world.pass_time(OUTBOX_GRACE.total_seconds())
        await look_after(world, node)
        assert () == await world.inbox.read("s")
        await node.deliveries.signal("s", "nudge", 2, "m-2")
        await settle()
        assert SessionCompleted([3, 2]) == await world.end("s:g3")


async def test_what_was_left_in_the_inbox_moves_on() -> None:
    """A message that another node left while the session was ending here is the next generation's."""
    app, world = app_of(counting), World()
    async with world.node(app) as node, world.node(app, "node-2") as other:
        await node.start(1)
        await settle()
        node.line.hold_on("end")
        await node.deliveries.signal("s", "nudge", 0, "m-0")
        await node.line.until_held()
        await other.deliveries.signal("s", "nudge", 1, "m-1")
        await other.deliveries.cancel("s", "enough", "c-1")
        assert 2 == len(await world.inbox.read("s"))
        node.line.thaw()
        await settle()
        assert () == await world.inbox.read("s")
        assert SessionCancelled("enough") == await world.end("s:g2")
    assert "SIGNAL_RECEIVED" in await world.story("s:g2")


@pytest.mark.parametrize("signals", [1, 40, 400])
async def test_however_much_waits_no_item_bursts_and_nothing_is_lost(signals: int) -> None:
    """What does not fit beside the start is told to the next generation one by one, in its order (I12)."""
    large = "x" * 9_000

    async def handler(ctx: SessionContext, value: str) -> object:
        if value == "first":
            await ctx.wait_for_signal("go")
            ctx.continue_as_new("second")
        return [str(await ctx.wait_for_signal("load"))[:4] for _ in range(signals)]

    app, world = app_of(handler), World()
    async with world.node(app) as node:
        await node.start("first")
        await settle()
        for number in range(signals):
            await node.deliveries.signal("s", "load", f"{number:04}{large}", f"m-{number:04}")
        await node.deliveries.signal("s", "go", None, "go")
        await settle(1_000_000)
        for number in range(0, signals, 7):
            # Late repetitions: each was heard before.
            if not (await world.state("s:g2")).has_ended:
                await node.deliveries.signal("s", "load", f"{number:04}{large}", f"m-{number:04}")
        assert SessionCompleted([f"{number:04}" for number in range(signals)]) == await world.end("s:g2")
    for name in ("s", "s:g2"):
        assert ITEM_BYTES_MAX > max(len(str(encode(recorded.event))) for recorded in await world.recorded(name))


class Typed(BaseModel):
    """What the handler below takes."""

    n: int


@pytest.mark.parametrize("bad", [{"n": "many"}, {}, object()], ids=["type", "missing", "not json"])
async def test_an_input_that_does_not_fit_fails_the_session(bad: object) -> None:
    """In the generation that asked for it: no next one begins with what its handler cannot take."""

    async def handler(ctx: SessionContext, value: Typed) -> object:
        ctx.continue_as_new(bad)

    world = World()
    end = await world.run(app_of(handler), {"n": 1})
    assert isinstance(end, SessionFailed)
    assert end.error.code in {"INVALID_PAYLOAD", "NOT_SERIALIZABLE"}
    assert await world.heads.get("s:g2") is None


async def test_a_request_to_continue_leaves_from_inside_branches_and_scopes() -> None:
    """No task group and no `except Exception` holds it up; the other branches are cancelled."""

    async def handler(ctx: SessionContext, value: int) -> object:
        if value == 2:
            return "second"

        async def leave() -> None:
            await ctx.sleep(1)
            ctx.continue_as_new(2)

        try:
            await ctx.gather(ctx.sleep(60), ctx.scope("inner", leave))
        except Exception:
            return "caught"
        return "never"

    app, world = app_of(handler), World()
    async with world.node(app) as node:
        await node.start(1)
        await settle()
        await live(world, node, "s", "s:g2")
    assert SessionCompleted("second") == (await world.recorded("s:g2"))[-1].event


# --- long journals -------------------------------------------------------------------------------------------------


async def test_a_long_journal_is_warned_of_once_and_ended_with_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """5,000 events are too many, and 25,000 the end; here 20 and 50."""
    monkeypatch.setattr("orchestrator.session_actor.EVENTS_WARNED_AT", 20)
    monkeypatch.setattr(decide, "EVENTS_MAX", 50)
    monkeypatch.setattr(decide, "CLEAN_UP_EVENTS", 10)
    undone = Diary()

    async def handler(ctx: SessionContext) -> object:
        ctx.on_failure("undo", undone.note, "undone")
        while True:
            await ctx.step("a", noted, 1)

    world = World()
    end = await world.run(app_of(handler))
    assert isinstance(end, SessionFailed)
    assert "JOURNAL_TOO_LONG" == end.error.code
    assert "continue_as_new" in end.error.message
    assert ["CANCEL_REQUESTED", "STEP_COMPLETED undo", "AGENT_BACKGROUND_TASK_FAILED"] == (await world.story())[50:]
    assert [20] == [line["last_seq"] for line in world.logged("journal_long")]


async def test_a_session_that_continues_in_time_lives_as_long_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each generation counts for itself, and may end with its very last event."""
    monkeypatch.setattr(decide, "EVENTS_MAX", 12)

    async def handler(ctx: SessionContext, value: int) -> object:
        for number in range(10):
            await ctx.step("a", noted, number)
        if value < 8:
            ctx.continue_as_new(value + 1)
        return value

    app, world = app_of(handler), World()
    async with world.node(app) as node:
        await node.start(1)
        await settle(1_000_000)
        assert SessionCompleted(8) == await world.end("s:g8")
    assert {12} == {len(await world.recorded(f"s:g{number}")) for number in range(2, 9)}


@pytest.mark.parametrize("generations", [2, 3])
async def test_nothing_overtakes_what_waits_to_be_handed_to_the_next_generation(generations: int) -> None:
    """Whoever was to hand it over died when the next one had begun; the signal after it comes from somebody else."""

    async def handler(ctx: SessionContext, value: int) -> object:
        if value < generations:
            ctx.continue_as_new(value + 1)
        return [await ctx.wait_for_signal("go"), await ctx.wait_for_signal("go")]

    app, world = app_of(handler), World()
    async with world.node(app) as node, world.node(app, "node-2") as other:
        node.line.hold_answer("end")
        starting = asyncio.ensure_future(node.start(1))
        await node.line.until_held()
        await other.deliveries.signal("s", "go", "first", "m-1")
        node.line.thaw()
        node.line.cut_before("inbox_read")
        await settle()
        if generations > 2:
            # It goes on once more, before anybody sees to the first one's outbox.
            assert await other.router.claim("s:g2", owners=("node-1",))
            await settle()
        await other.deliveries.signal("s", "go", "second", "m-2")
        await live(world, other, f"s:g{generations}", dead=("node-1",))
        starting.cancel()
    assert SessionCompleted(["first", "second"]) == (await world.recorded(f"s:g{generations}"))[-1].event


async def test_a_message_on_its_way_to_a_generation_that_goes_on_meanwhile_follows_it() -> None:
    """Its sender found the old one open; it lands in the new one, and nothing stays behind."""
    app, world = app_of(counting), World()
    async with world.node(app) as node, world.node(app, "node-2") as other:
        await node.start(1)
        await settle()
        other.line.hold_on("inbox_put")
        late = asyncio.create_task(other.deliveries.signal("s", "nudge", 1, "m-1"))
        await other.line.until_held()
        await node.deliveries.signal("s", "nudge", 0, "m-0")
        await settle()
        assert not (await world.state("s:g2")).has_ended
        other.line.thaw()
        await late
        await look_after(world, node)
        assert SessionContinued(3, "s:g3") == (await world.recorded("s:g2"))[-1].event
        assert () == await world.inbox.read("s")


async def test_a_repetition_that_dies_on_its_way_to_the_next_generation_loses_nothing() -> None:
    """What was acknowledged stays in the old inbox until it stands in the new one, or is handed over."""
    app, world = app_of(counting), World()
    async with world.node(app) as node, world.node(app, "node-2") as other, world.node(app, "node-3") as third:
        await node.start(1)
        await settle()
        node.line.hold_answer("end")
        await node.deliveries.signal("s", "nudge", 0, "m-0")
        await node.line.until_held()
        await other.deliveries.signal("s", "nudge", 1, "m-1")
        assert 1 == len(await world.inbox.read("s")), "acknowledged, and its generation has not begun"
        third.line.hold_on("inbox_put")
        again = asyncio.ensure_future(third.deliveries.signal("s", "nudge", 1, "m-1"))
        await third.line.until_held()
        node.line.thaw()
        node.line.cut_before("inbox_read")
        await settle()
        assert await world.heads.get("s:g2") is not None
        third.line.cut_before("inbox_put", calls=2)
        third.line.thaw()
        await settle()
        assert isinstance(again.exception(), PowerCut)
        await live(world, other, "s:g2", dead=("node-1", "node-3"))
    assert SessionContinued(3, "s:g3") == (await world.recorded("s:g2"))[-1].event


async def test_a_year_of_generations_costs_a_message_a_few_reads() -> None:
    """They are not walked one by one: neither for a message nor for whoever looks at the session."""

    async def handler(ctx: SessionContext, left: int) -> object:
        if left:
            ctx.continue_as_new(left - 1)
        return await ctx.wait_for_signal("nudge")

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start(365)
        await settle(1_000_000)
        before = node.line.calls
        assert "s:g366" == (await node.router.latest("s")).session_id
        assert 20 > node.line.calls - before
        await node.deliveries.signal("s", "nudge", "found", None)
        assert SessionCompleted("found") == await world.end("s:g366")


@pytest.mark.parametrize("begun", [1, 2, 3, 4, 5, 8, 9, 31, 32, 33, 100])
@pytest.mark.parametrize("is_last_one_over", [False, True])
async def test_the_latest_generation_is_found_from_any_earlier_one(begun: int, *, is_last_one_over: bool) -> None:
    """However many there are, and whether or not the next one is about to begin."""
    heads = MemoryHeads()
    ids = ["s", *(f"s:g{number}" for number in range(2, begun + 2))]
    for number, session_id in enumerate(ids[:begun]):
        is_over = number + 1 < begun or is_last_one_over
        await heads.create(head_of(session_id, continued_as=ids[number + 1] if is_over else None))
    for session_id in ids[:begun]:
        head = await heads.get(session_id)
        assert head is not None
        assert ids[begun - 1] == (await latest_of(heads, head)).session_id


def head_of(session_id: str, *, continued_as: str | None) -> Head:
    """Return the HEAD of a generation."""
    return Head(
        session_id=session_id,
        session_type="main",
        tenant="default",
        status=SessionStatus.RUNNING if continued_as is None else SessionStatus.CONTINUED,
        owner="node-1" if continued_as is None else None,
        epoch=1,
        last_seq=1,
        inbox_version=0,
        claim_nonce=session_id,
        takeovers=0,
        created_at=NOON,
        updated_at=NOON,
        continued_as=continued_as,
    )
