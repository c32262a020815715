"""What people say yes or no to: who may, who did and why, how they hear of it."""

import asyncio

import pytest
import structlog
from engine_trials import Plot, pass_seconds, same_end_whatever_happens, told, until_end
from engine_world import Diary, Handler, Node, World, app_of
from structlog.testing import capture_logs

from actors import settle
from orchestrator import ApprovalTimedOut, SessionContext
from orchestrator.deliveries import CallbackAnswered, CallbackExpired, NotAnApprover, UnknownCallback
from orchestrator.errors import Poison
from orchestrator.inbox import SessionEnded, UnknownSession
from orchestrator.notifications.log import LogChannel
from orchestrator.session.events import CallbackCompleted, SessionCompleted
from orchestrator.session.values import Json


def approved(by: str = "ann", *, yes: bool = True, comment: str | None = "fine", name: str = "publish") -> Plot:
    """Return the act of a person who answers."""

    async def act(_: World, node: Node) -> None:
        await node.deliveries.approve("s", name, yes, by, comment)

    return act


def asking(*, timeout: float | None = None, approvers: list[str] | None = None) -> Handler:
    """Return a handler that asks, and says what it heard."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> object:
        await diary.step(ctx, "draft")
        try:
            verdict = await ctx.request_approval("publish", {"url": "x"}, timeout=timeout, approvers=approvers)
        except ApprovalTimedOut as late:
            return [late.operation, await diary.step(ctx, "late")]
        await diary.step(ctx, "done")
        return [verdict.approved, verdict.by, verdict.comment]

    return handler


@pytest.mark.parametrize("yes", [True, False])
async def test_an_answer_reaches_its_handler_whatever_happens(*, yes: bool) -> None:
    """Who and why stand in the journal and in the result."""
    story = await same_end_whatever_happens(app_of(asking()), told(approved(yes=yes), approved(yes=yes)))
    assert [
        "AGENT_INVOCATION_STARTED",
        "STEP_COMPLETED draft",
        "APPROVAL_REQUESTED publish",
        "CALLBACK_COMPLETED publish",
        "STEP_COMPLETED done",
        "AGENT_BACKGROUND_TASK_COMPLETED",
    ] == story


async def test_an_approval_that_nobody_answers_times_out_whatever_happens() -> None:
    """As `ApprovalTimedOut`; a crash or a rest meanwhile changes nothing."""
    story = await same_end_whatever_happens(app_of(asking(timeout=3)), told())
    assert "CALLBACK_TIMED_OUT publish" in story


async def test_who_and_why_are_recorded() -> None:
    """As they were given."""
    world = World()
    async with world.node(app_of(asking())) as node:
        await node.start()
        await settle()
        await approved("ann", yes=False, comment="too long")(world, node)
        assert SessionCompleted([False, "ann", "too long"]) == await world.end()
    answer: Json = {"approved": False, "by": "ann", "comment": "too long"}
    assert [CallbackCompleted("publish", answer)] == [
        each.event for each in await world.recorded() if isinstance(each.event, CallbackCompleted)
    ]


@pytest.mark.parametrize("way", ["name", "token"])
async def test_only_approvers_may_answer_by_whichever_way(way: str) -> None:
    """A token says that somebody was asked, not who answers."""
    world = World()
    async with world.node(app_of(asking(approvers=["ann", "bob"]))) as node:
        await node.start()
        await settle()
        notice = world.notifications.approvals[0]
        assert ["ann", "bob"] == notice.approvers

        async def answer(by: str) -> None:
            if way == "name":
                await approved(by, comment=None)(world, node)
            else:
                result: Json = {"approved": True, "by": by}
                await node.deliveries.callback(notice.callback_id, notice.token, "SUCCESS", result, None)

        journal = await world.recorded()
        for nobody in ("eve", "Ann", "ann "):
            with pytest.raises(NotAnApprover):
                await answer(nobody)
        assert journal == await world.recorded()
        await answer("bob")
        assert SessionCompleted([True, "bob", None]) == await world.end()


@pytest.mark.parametrize(
    "result",
    [
        *(None, True, [], {}, {"approved": 1, "by": "ann"}, {"approved": True}, {"approved": True, "by": ""}),
        *({"approved": True, "by": "x" * 201}, {"approved": True, "by": "a", "comment": 1}, {"by": "ann"}),
    ],
)
async def test_a_result_that_is_no_approval_is_refused_and_the_approval_stays_open(result: Json) -> None:
    """Its declared type is checked at the door (I11)."""
    world = World()
    async with world.node(app_of(asking())) as node:
        await node.start()
        await settle()
        notice = world.notifications.approvals[0]
        with pytest.raises(Poison, match=r"result\."):
            await node.deliveries.callback(notice.callback_id, notice.token, "SUCCESS", result, None)
        await node.deliveries.callback(
            notice.callback_id, notice.token, "SUCCESS", {"approved": True, "by": "ann", "more": 1}, None
        )
        assert SessionCompleted([True, "ann", None]) == await world.end()


async def test_the_first_answer_stands_by_whichever_way_it_came() -> None:
    """The same again is no error, another one is, also after the end."""
    world = World()
    async with world.node(app_of(asking())) as node:
        await node.start()
        await settle()
        notice = world.notifications.approvals[0]
        yes: Json = {"approved": True, "by": "ann", "comment": "fine"}
        for _ in range(2):
            await approved()(world, node)
            await node.deliveries.callback(notice.callback_id, notice.token, "SUCCESS", yes, None)
            for other in (approved("bob"), approved(yes=False), approved(comment=None)):
                with pytest.raises(CallbackAnswered):
                    await other(world, node)
            await world.pass_time(31)
        assert SessionCompleted([True, "ann", "fine"]) == await world.end()


async def test_answers_that_fit_nothing_are_refused() -> None:
    """Of unknown sessions and approvals, of steps, and of sessions that ended without it."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("draft", str)
        await ctx.gather(ctx.request_approval("publish"), ctx.request_approval("print"))

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        with pytest.raises(UnknownSession):
            await node.deliveries.approve("nobody", "publish", True, "ann", None)
        for name in ("draft", "other"):
            with pytest.raises(UnknownCallback, match=f"asked for no approval '{name}'"):
                await approved(name=name)(world, node)
        for bad in (approved(""), approved("x" * 201), approved(comment="x" * 1_001)):
            with pytest.raises(Poison):
                await bad(world, node)
        await approved()(world, node)
        await node.deliveries.cancel("s", None, None)
        await world.end()
        await approved()(world, node)
        with pytest.raises(SessionEnded):
            await approved(name="print")(world, node)


async def test_an_answer_after_the_time_limit_is_refused() -> None:
    """The session hears that it timed out, even from the late answer itself."""
    world = World()
    async with world.node(app_of(asking(timeout=100))) as node:
        await node.start()
        await settle()
        await world.pass_time(101)
        assert (await world.head()).owner is None
        for _ in range(2):
            with pytest.raises(CallbackExpired):
                await approved()(world, node)
        assert SessionCompleted(["publish", "late"]) == await until_end(world, node)


async def test_people_hear_of_an_approval_at_least_once_whichever_node_dies() -> None:
    """Each activation may tell them again, under the same callback id; each token that they were given works."""
    world = World()
    app = app_of(asking())
    async with world.node(app) as node:
        await node.start()
        node.line.cut_after("append")
        await settle()
        node.crash()
    world = await world.as_of(3) if len(await world.recorded()) >= 3 else world
    for number in (2, 3):
        async with world.node(app, f"node-{number}") as node:
            assert await node.claim(dead_owner="node-1" if number == 2 else "node-2")
            node.crash()
    async with world.node(app, "node-4") as node:
        assert await node.claim(dead_owner="node-3")
        notices = world.notifications.approvals
        assert 3 == len(notices)
        assert 1 == len({notice.callback_id for notice in notices})
        first = notices[0]
        await node.deliveries.callback(first.callback_id, first.token, "SUCCESS", {"approved": True, "by": "b"}, None)
        assert SessionCompleted([True, "b", None]) == await world.end()


async def test_a_token_of_an_approval_stands_in_no_log_and_no_store() -> None:
    """Not even where notices are written to the log."""
    world = World()
    app = app_of(asking())
    async with world.node(app) as node:
        await node.start()
        await settle()
        notice = world.notifications.approvals[0]
        with capture_logs() as lines:
            await LogChannel(structlog.get_logger()).tell_approval(notice)
        await approved()(world, node)
        await world.end()
    stores = [vars(store) for store in (world.heads, world.inbox, world.callbacks, world.artifacts)]
    texts = repr([lines, world.logs, world.standing, await world.recorded(), stores, notice])
    assert notice.callback_id in texts
    assert notice.token not in texts


async def test_an_answer_from_another_node_to_a_session_at_rest_wakes_it_there() -> None:
    """It is claimed where the answer came in."""
    world = World()
    app = app_of(asking())
    async with world.node(app) as one, world.node(app, "node-2") as two:
        await one.start()
        await settle()
        await world.pass_time(31)
        assert (await world.head()).owner is None
        await approved()(world, two)
        assert SessionCompleted([True, "ann", "fine"]) == await world.end()
    assert ["node-2"] == sorted({each.node for each in (await world.recorded())[4:]})


async def test_a_large_subject_goes_to_the_bucket() -> None:
    """What people are told of holds its reference."""

    async def handler(ctx: SessionContext) -> bool:
        return (await ctx.request_approval("publish", "x" * 50_000)).approved

    world = World()
    world.passivate_after = 0.4
    async with world.node(app_of(handler)) as node:
        await node.start()
        while not world.notifications.approvals:  # noqa: ASYNC110 - what goes to the bucket is packed in a thread
            await asyncio.sleep(0)
        await pass_seconds(world, node, 2)
        assert len(repr(world.notifications.approvals)) < 2_000
        await approved()(world, node)
        assert SessionCompleted(True) == await until_end(world, node)
