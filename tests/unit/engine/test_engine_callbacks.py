"""Answers from outside: who wins, what is kept, what is refused (rule 10)."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest
from engine_answers import Given, answers, waiting_handler
from engine_line import PowerCut
from engine_trials import Plot, pass_seconds, same_end_whatever_happens, told, told_live, until_end
from engine_world import NOON, Diary, Node, World, app_of

from actors import settle
from orchestrator import CallbackFailed, SessionContext, StepFailed
from orchestrator.answers import success
from orchestrator.calls import Callback
from orchestrator.deliveries import CallbackAnswered, CallbackExpired, CallbackStatus
from orchestrator.errors import OperationFailed
from orchestrator.inbox import SessionEnded
from orchestrator.session.events import (
    ApprovalRequested,
    CallbackCreated,
    SessionCancelled,
    SessionCompleted,
)
from orchestrator.session.values import Json


async def end_signal(_: World, node: Node) -> None:
    """Let the handler go."""
    await node.deliveries.signal("s", "end", None, "end")


@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE"])
async def test_an_answer_reaches_its_handler_whatever_happens(status: CallbackStatus) -> None:
    """Given again after each crash, by whatever token was issued last, it counts once."""
    given: Given = []
    acts = answers(given, {"yes": 1}, status=status, error={"message": "no"})
    story = await same_end_whatever_happens(app_of(waiting_handler(given)), told(acts, acts, end_signal))
    assert 1 == sum(1 for each in story if each in {"CALLBACK_COMPLETED cb", "CALLBACK_FAILED cb"})


async def test_a_callback_that_nobody_answers_times_out_whatever_happens() -> None:
    """In memory, at rest, or while no node lived."""
    given: Given = []
    story = await same_end_whatever_happens(app_of(waiting_handler(given, timeout=3)), told(end_signal))
    assert "CALLBACK_TIMED_OUT cb" in story


async def test_wait_for_callback_submits_and_waits_whatever_happens() -> None:
    """The callback is handed to `submit`, a step; the answer is the result."""
    given: Given = []

    async def submit(callback: Callback) -> None:
        given.append(callback)

    async def handler(ctx: SessionContext) -> object:
        return [await ctx.wait_for_callback("cb", submit), await ctx.wait_for_signal("end")]

    story = await same_end_whatever_happens(app_of(handler), told(answers(given, 7), end_signal))
    assert [
        "AGENT_INVOCATION_STARTED",
        "CALLBACK_CREATED cb",
        "STEP_COMPLETED cb/submit",
        "CALLBACK_COMPLETED cb",
        "SIGNAL_RECEIVED",
        "VALUE_RECORDED end",
        "AGENT_BACKGROUND_TASK_COMPLETED",
    ] == story


async def test_a_submit_that_fails_fails_the_wait() -> None:
    """Nobody was asked, so nobody is waited for."""

    async def submit(_: Callback) -> None:
        raise ValueError("no")

    async def handler(ctx: SessionContext) -> str:
        try:
            await ctx.wait_for_callback("cb", submit)
        except StepFailed as failed:
            return failed.operation
        return "?"

    assert SessionCompleted("cb/submit") == await World().run(app_of(handler))


async def test_an_answer_that_nobody_awaits_does_not_hold_up_a_replay() -> None:
    """What a handler does next needs no turn: not even where it is news for people only."""
    given: Given = []

    async def handler(ctx: SessionContext) -> str:
        given.append(await ctx.create_callback("cb"))
        await ctx.wait_for_signal("go")
        await ctx.progress("went")
        return "done"

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await answers(given, 1)(world, node)
        node.crash()
    for taking_over in (world, await world.as_of(2), await world.as_of(3)):
        async with taking_over.node(app_of(handler), "node-2") as node:
            assert await node.claim(dead_owner="node-1")
            await node.deliveries.signal("s", "go", None, "1")
            assert SessionCompleted("done") == await taking_over.end()


async def test_news_straight_after_a_replay_that_ends_in_an_answer_are_recorded() -> None:
    """Only the answer is left of the journal when the handler reports: it does not wait for a turn."""
    given: Given = []
    going = asyncio.Event()

    async def handler(ctx: SessionContext) -> str:
        given.append(await ctx.create_callback("cb"))
        await going.wait()
        await ctx.progress("created")
        return "done"

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await answers(given, 1)(world, node)
        node.crash()
    going.set()
    async with world.node(app_of(handler), "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        assert SessionCompleted("done") == await world.end()
    assert "PROGRESS_REPORTED progress" in await world.story()


async def test_the_first_answer_stands_and_its_repetition_is_no_error() -> None:
    """Live, at rest, after the end: the same one is heard already, another one is refused."""
    given: Given = []
    world = World()
    async with world.node(app_of(waiting_handler(given))) as node:
        await node.start()
        await settle()
        for _ in range(3):
            for _ in range(2):
                await answers(given[:1], {"a": 1, "b": 2})(world, node)
                await answers(given[:1], {"b": 2, "a": 1})(world, node)
                for other in (answers(given[:1], {"a": 1}), answers(given[:1], None, status="FAILURE")):
                    with pytest.raises(CallbackAnswered):
                        await other(world, node)
            await world.pass_time(31)
            if not (await world.state()).has_ended:
                await node.deliveries.signal("s", "end", None, "1")
        assert SessionCompleted([{"a": 1, "b": 2}, None]) == await until_end(world, node)
        await answers(given[:1], {"a": 1, "b": 2})(world, node)


async def test_two_answers_at_once_are_one_on_whichever_nodes() -> None:
    """One is heard and recorded, the other is told that it was not (409)."""
    given: Given = []
    app = app_of(waiting_handler(given))
    world = World()
    async with world.node(app) as one, world.node(app, "node-2") as two:
        await one.start()
        await settle()
        results = await asyncio.gather(
            *(answers(given, number)(world, node) for number, node in enumerate((one, two, one, two))),
            return_exceptions=True,
        )
        await one.router.wake("s")
        await one.deliveries.signal("s", "end", None, "1")
        end = await until_end(world, one)
    assert 1 == results.count(None)
    assert [CallbackAnswered] * 3 == [type(each) for each in results if each is not None]
    assert SessionCompleted([results.index(None), None]) == end


async def test_an_answer_after_the_time_limit_is_refused_and_times_the_callback_out() -> None:
    """Also where the owner's own timer has not run yet: the instant in the order counts."""
    given: Given = []
    world = World()
    async with world.node(app_of(waiting_handler(given, timeout=100))) as node:
        await node.start()
        await settle()
        await world.pass_time(40)
        assert (await world.head()).owner is None
        assert NOON + timedelta(seconds=100) == (await world.head()).wake_at
        await world.pass_time(61)
        with pytest.raises(CallbackExpired):
            await answers(given, 1)(world, node)
        with pytest.raises(CallbackExpired):
            await answers(given, 1)(world, node)
        await node.deliveries.signal("s", "end", None, "1")
        timed_out: Json = ["OperationTimedOut", "OPERATION_TIMED_OUT", "no answer came in time"]
        assert SessionCompleted([timed_out, None]) == await until_end(world, node)


async def test_an_answer_decided_in_time_counts_though_its_sender_died_before_it_was_told() -> None:
    """The timer finds it at the callback's item, and delivers it instead of the timeout (rule 10)."""
    given: Given = []
    app = app_of(waiting_handler(given, timeout=100))
    world = World()
    async with world.node(app) as node:
        await node.start()
        await settle()
        async with world.node(app, "node-2") as other:
            other.line.cut_before("inbox_put")
            with pytest.raises(PowerCut):
                await answers(given, "in time")(world, other)
        assert "CALLBACK_COMPLETED cb" not in await world.story()
        await pass_seconds(world, node, 101)
        assert "CALLBACK_COMPLETED cb" in await world.story()
        await node.deliveries.signal("s", "end", None, "1")
        assert SessionCompleted(["in time", None]) == await until_end(world, node)


async def test_an_answer_after_a_cancel_and_after_the_end_is_well_defined() -> None:
    """While the session still cleans up it is heard; after its end a first answer is refused, each time."""
    given: Given = []

    async def handler(ctx: SessionContext) -> None:
        given.append(await ctx.create_callback("cb"))
        given.append(await ctx.create_callback("late"))
        try:
            await given[0].result()
        finally:
            await ctx.wait_for_signal("cleaned")

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await node.deliveries.cancel("s", "enough", "1")
        await settle()
        await answers(given[:1], 1)(world, node)
        assert "CALLBACK_COMPLETED cb" in await world.story()
        await node.deliveries.signal("s", "cleaned", None, "2")
        assert SessionCancelled("enough") == await world.end()
        journal = await world.recorded()
        await answers(given[:1], 1)(world, node)
        for _ in range(2):
            with pytest.raises(SessionEnded):
                await answers(given, 1)(world, node)
        with pytest.raises(CallbackAnswered):
            await answers(given, 2)(world, node)
        assert journal == await world.recorded()


async def test_an_answer_to_what_an_earlier_generation_asked_is_refused() -> None:
    """Its journal has ended without it; the next one takes it for nothing of its own."""
    given: Given = []

    async def handler(ctx: SessionContext, number: int) -> object:
        given.append(await ctx.create_callback("cb"))
        if number == 1:
            ctx.continue_as_new(2)
        return await given[-1].result()

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start(1)
        await world.until(lambda: "s:g2" in world.standing)
        await settle()
        with pytest.raises(SessionEnded):
            await answers(given[:1], "old")(world, node)
        await answers(given, "new")(world, node)
        assert SessionCompleted("new") == await world.end("s:g2")


async def test_an_answer_of_ten_megabytes_goes_to_the_bucket_before_the_event_that_names_it() -> None:
    """The handler gets it whole, live and on replay; journal and item stay small (I12)."""
    given: Given = []
    large = "x" * 10_000_000

    async def handler(ctx: SessionContext) -> object:
        given.append(await ctx.create_callback("cb"))
        answer = await given[-1].result()
        await ctx.wait_for_signal("end")
        return len(str(answer))

    app = app_of(handler)
    world = World()
    async with world.node(app) as node:
        await node.start()
        await settle()
        await answers(given, large)(world, node)
        await answers(given, large)(world, node)
        with pytest.raises(CallbackAnswered):
            await answers(given, large + "x")(world, node)
        node.crash()
    async with world.node(app, "node-2") as node:
        await node.claim(dead_owner="node-1")
        await node.deliveries.signal("s", "end", None, "1")
        assert SessionCompleted(10_000_000) == await world.end()
    assert len(repr(await world.recorded()) + repr(vars(world.callbacks))) < 20_000


async def test_an_answerers_own_error_codes_are_no_timeouts_and_doubts_of_ours() -> None:
    """What timed out over there is a callback that failed here."""
    given: Given = []
    caught = list[type[Exception]]()

    async def handler(ctx: SessionContext) -> None:
        for code in ("OPERATION_TIMED_OUT", "APPROVAL_TIMED_OUT", "STEP_INTERRUPTED", "OTHER"):
            given.append(await ctx.create_callback(code))
            try:
                await given[-1].result()
            except OperationFailed as failed:
                caught.append(type(failed))

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        for code in ("OPERATION_TIMED_OUT", "APPROVAL_TIMED_OUT", "STEP_INTERRUPTED", "OTHER"):
            await settle()
            await answers(given, None, status="FAILURE", error={"code": code, "message": "over there"})(world, node)
        await world.end()
    assert [CallbackFailed] * 4 == caught


async def test_two_callbacks_of_one_name_in_two_branches_are_two() -> None:
    """Each has an id, a token and an answer of its own."""
    given = dict[str, Callback]()

    async def handler(ctx: SessionContext) -> object:
        async def one(key: str) -> object:
            callback = given[key] = await ctx.create_callback("cb")
            return await callback.result()

        return list(await asyncio.gather(one("x"), one("y")))

    def answered(key: str) -> Plot:
        async def act(_: World, node: Node) -> None:
            await node.deliveries.callback(given[key].id, given[key].token, "SUCCESS", key, None)

        return act

    assert await same_end_whatever_happens(app_of(handler), told(answered("y"), answered("x")))


async def test_two_who_wait_for_one_answer_both_get_it() -> None:
    """And so does who asks for it again later."""
    given: Given = []

    async def handler(ctx: SessionContext) -> object:
        callback = await ctx.create_callback("cb")
        given.append(callback)
        both = await asyncio.gather(callback.result(), callback.result())
        await ctx.wait_for_signal("end")
        return [*both, await callback.result()]

    app, plot = app_of(handler), told(answers(given, 3), answers(given, 3), end_signal)
    assert SessionCompleted([3, 3, 3]) == (await (await told_live(app, plot)).recorded())[-1].event
    await same_end_whatever_happens(app, plot)


async def test_a_callback_that_is_slow_to_be_issued_is_not_overtaken() -> None:
    """What is first live is first on a replay, which issues nothing: the handler chooses the same."""
    diary = Diary()
    world = World()
    slow = world.callbacks.issue
    numbers: Iterator[int] = iter(range(100))

    async def issue(*args: object, **kwargs: object) -> object:
        if next(numbers) == 0:
            await world.clock.sleep(5)
        return await slow(*args, **kwargs)  # type: ignore[arg-type]

    world.callbacks.issue = issue  # type: ignore[method-assign,assignment]
    given: Given = []

    async def handler(ctx: SessionContext) -> object:
        async def created() -> str:
            given.append(await ctx.create_callback("cb"))
            return "created"

        async def slept() -> str:
            await ctx.sleep(2)
            return "slept"

        tasks = [asyncio.ensure_future(created()), asyncio.ensure_future(slept())]
        first = await next(iter(asyncio.as_completed(tasks)))
        await diary.step(ctx, f"after-{first}")
        await asyncio.gather(*tasks)
        await given[-1].result()
        return await ctx.wait_for_signal("end")

    app = app_of(handler)
    async with world.node(app) as node:
        await node.start()
        await settle()
        await pass_seconds(world, node, 8)
        await answers(given, 1)(world, node)
        node.crash()
    async with world.node(app, "node-2") as node:
        await node.claim(dead_owner="node-1")
        await node.deliveries.signal("s", "end", None, "1")
        assert SessionCompleted(None) == await until_end(world, node, 40)
    assert 1 == len(diary.entries)


@pytest.mark.parametrize("asked", ["callback", "approval"])
async def test_an_answer_that_was_decided_and_not_delivered_reaches_whoever_takes_over(asked: str) -> None:
    """Its sender was told nothing and may never come again; the item keeps what was decided."""

    async def handler(ctx: SessionContext) -> object:
        if asked == "approval":
            return (await ctx.request_approval("a")).by
        return await (await ctx.create_callback("a")).result()

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        node.crash()
    order = (await world.state()).operations["a"].order
    assert isinstance(order, CallbackCreated | ApprovalRequested)
    await world.callbacks.decide(order.callback_id, success({"approved": True, "by": "ann", "comment": None}))
    async with world.node(app_of(handler), "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        expected: Json = "ann" if asked == "approval" else {"approved": True, "by": "ann", "comment": None}
        assert SessionCompleted(expected) == await world.end()
