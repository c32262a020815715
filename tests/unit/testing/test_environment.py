"""`testing.environment`: sessions in memory, on time that a test lets pass."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import uvloop
from environment_app import RAN, WEEK, Report, app
from structlog.testing import capture_logs

from orchestrator import (
    AgentFailed,
    LambdaAgent,
    Orchestrator,
    SessionContext,
    StepInterrupted,
    testing,
)
from orchestrator.deliveries import CallbackAnswered, NotAnApprover, WrongToken
from orchestrator.errors import Poison
from orchestrator.inbox import SessionEnded
from orchestrator.session.values import JsonObject
from orchestrator.testing import virtual


async def test_a_week_passes_in_milliseconds() -> None:
    """`result` lets time pass as it is needed, and gives what the annotation says."""
    began = time.monotonic()
    async with testing.environment(app) as env:
        session = await env.start("research", {"topic": "tea"})
        assert Report("ALL ABOUT TEA") == await session.result()
        assert timedelta(days=7) <= env.now - virtual.STARTS_AT < timedelta(days=7, minutes=1)
        assert "COMPLETED" == session.state()
    assert time.monotonic() - began < 2


async def test_time_is_skipped_by_as_much_as_a_test_says() -> None:
    """A session that sleeps leaves memory, and wakes when its time has come, not before."""
    async with testing.environment(app) as env:
        session = await env.start("research", {"topic": "tea"})
        await env.skip(WEEK - timedelta(seconds=1))
        assert "SUSPENDED" == session.state()
        assert "TIMER_STARTED" == session.events()[-1]["status"]
        await env.skip(timedelta(seconds=1))
        assert "COMPLETED" == session.state()
        assert WEEK == env.now - virtual.STARTS_AT


@pytest.mark.parametrize("skipping", [True, False])
async def test_steps_take_no_time(skipping: bool) -> None:
    """What runs in a thread or awaits for real is waited for, and the clock stands still meanwhile."""
    async with testing.environment(app) as env:
        session = await env.start("slow")
        if skipping:
            await env.skip(WEEK)
        assert ["2:00:00"] == await session.result()


async def test_timers_of_many_sessions_fire_in_their_order() -> None:
    """A hundred sessions that sleep from one second to a hundred wake one after the other."""
    woken: list[int] = []
    sleepers = Orchestrator()

    @sleepers.session("sleeper")
    async def sleeper(ctx: SessionContext, seconds: int) -> None:
        await ctx.sleep(seconds)
        await ctx.step("wake", woken.append, seconds)

    async with testing.environment(sleepers) as env:
        for seconds in (*range(2, 101, 2), *range(1, 100, 2)):
            await env.start("sleeper", seconds)
        await env.skip(50)
        assert list(range(1, 51)) == woken
        await env.skip(timedelta(minutes=1))
        assert list(range(1, 101)) == woken


async def test_results_of_several_sessions_are_awaited_at_once() -> None:
    """They share the clock."""
    async with testing.environment(app) as env:
        sessions = [await env.start("research", {"topic": topic}) for topic in ("tea", "milk")]
        texts = [report.text for report in await asyncio.gather(*(session.result() for session in sessions))]
    assert ["ALL ABOUT TEA", "ALL ABOUT MILK"] == texts


async def test_the_same_key_gives_the_same_session() -> None:
    """As on the queue."""
    async with testing.environment(app) as env:
        first, second = [await env.start("nudged", key="k") for _ in range(2)]
        assert first.session_id == second.session_id


async def test_a_start_is_checked_as_on_the_queue() -> None:
    """The refusal names the field, or the types that there are."""
    async with testing.environment(app) as env:
        with pytest.raises(Poison, match=r"input\.topic: Field required"):
            await env.start("research", {})
        with pytest.raises(Poison, match="'reserch' is not declared; known: research, slow"):
            await env.start("reserch")


async def test_signals_reach_a_suspended_session() -> None:
    """In the order they were sent; one message id counts once."""
    async with testing.environment(app) as env:
        session = await env.start("nudged")
        await env.skip(WEEK)
        await session.signal("nudge", {"n": 1}, message_id="m-1")
        await session.signal("nudge", {"n": 1}, message_id="m-1")
        await session.signal("nudge", {"n": 2})
        assert [{"n": 1}, {"n": 2}] == await session.result()
        with pytest.raises(SessionEnded):
            await session.signal("nudge")


async def test_a_wait_that_nobody_ends_is_told_from_one_for_time() -> None:
    """`result` gives up at once, and says what the session waits for."""
    async with testing.environment(app) as env:
        session = await env.start("published")
        with pytest.raises(testing.NothingHappens, match=r"is SUSPENDED.*waits for approval 'publish': send that"):
            await session.result()
        lonely = await env.start("nudged")
        with pytest.raises(testing.NothingHappens, match="a signal, maybe"):
            await lonely.result()
        await lonely.signal("nudge")
        with pytest.raises(testing.SessionDidNotComplete, match="OperationTimedOut"):
            await lonely.result()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda callback: callback.succeed({"paid": 3}), {"paid": 3}),
        (lambda callback: callback.fail("no money"), "CALLBACK_FAILED: no money"),
    ],
)
async def test_callbacks_are_answered(answer: Callable[[testing.PromisedCallback], object], expected: object) -> None:
    """With the token that the handle has, once; another answer is refused."""
    async with testing.environment(app) as env:
        session = await env.start("paid")
        callback = await session.callback("payment")
        assert callback.url.endswith(f"/callbacks/{callback.id}")
        assert callback.token not in repr(callback)
        with pytest.raises(WrongToken):
            await env.node.deliveries.callback(callback.id, "guessed", "SUCCESS", None, None)
        await answer(callback)  # type: ignore[misc]
        assert expected == await session.result()
        with pytest.raises(CallbackAnswered):
            await callback.succeed("something else")


async def test_a_callback_times_out() -> None:
    """Nobody answers within three days."""
    async with testing.environment(app) as env:
        assert "OPERATION_TIMED_OUT: no answer came in time" == await (await env.start("paid")).result()


async def test_approvals_are_answered_in_a_persons_name() -> None:
    """When they are asked for, and by whom it may be."""
    async with testing.environment(app) as env:
        yes, no = await env.start("published"), await env.start("published")
        with pytest.raises(testing.NotAsked, match="an approval 'publish', or not yet; it waits for timer"):
            await yes.approve("publish", by="ann")
        await env.skip(timedelta(hours=1))
        assert ["publish", "publish"] == [notice.name for notice in env.approvals]
        with pytest.raises(NotAnApprover):
            await yes.approve("publish", by="eve")
        await yes.approve("publish", by="ann", comment="good")
        await no.reject("publish", by="bob")
        assert ([True, "ann", "good"], [False, "bob", None]) == (await yes.result(), await no.result())


async def test_child_sessions_run_beside_their_parent() -> None:
    """Their ends reach it, and a test can lay hands on them."""
    async with testing.environment(app) as env:
        session = await env.start("parent", ["research", "nudged"])
        await env.skip(WEEK)
        child = env.session(str(_started(session, "nudged")["child_id"]))
        await child.signal("nudge", 1)
        await child.signal("nudge", 2)
        assert [{"text": "ALL ABOUT TEA"}, [1, 2]] == await session.result()
        failed = await env.start("parent", ["failing"])
        assert "no tea" == await failed.result()


def _started(session: testing.Session, name: str) -> dict[str, object]:
    data = next(event["data"] for event in session.events() if event["operation"] == name)
    assert isinstance(data, dict)
    return dict(data)


async def test_a_session_that_fails_raises_its_error() -> None:
    """With what its journal holds."""
    async with testing.environment(app) as env:
        session = await env.start("failing")
        with pytest.raises(testing.SessionDidNotComplete, match="is FAILED: ValueError: no tea") as raised:
            await session.result()
        assert ("ValueError", "UNHANDLED", "no tea") == (
            raised.value.error.type,
            raised.value.error.code,
            raised.value.error.message,
        )


async def test_a_session_is_cancelled() -> None:
    """Its handler hears of it, and cleans up."""
    async with testing.environment(app) as env:
        session = await env.start("tidy", session_id="t-1")
        await env.skip(timedelta(days=1))
        await session.cancel("why not")
        with pytest.raises(testing.SessionDidNotComplete, match="t-1 is CANCELLED: SessionCancelled: why not"):
            await session.result()
        assert "tidy-up" in [event["operation"] for event in session.events()]


async def test_a_session_is_followed_through_its_generations() -> None:
    """`result` is the last one's, and so are state and events."""
    async with testing.environment(app) as env:
        session = await env.start("again", 2, session_id="a-1")
        assert "a-1:g3" == await session.result()
        assert 3 * WEEK <= env.now - virtual.STARTS_AT
        assert "CONTINUED" == env.tables.heads.all()[0].status
        assert "COMPLETED" == session.state()


async def test_agents_are_replaced() -> None:
    """By a function, an instance or a class; a name that is none of the application's is a mistake."""

    async def fake(prompt: object) -> str:
        return f"nothing about {prompt}"

    async with testing.environment(app, agents={"researcher": fake}) as env:
        assert (
            Report("NOTHING ABOUT {'TOPIC': 'TEA'}") == await (await env.start("research", {"topic": "tea"})).result()
        )
    with pytest.raises(ValueError, match="no agent 'resercher'"):
        async with testing.environment(app, agents={"resercher": fake}):
            pass


async def test_time_passes_under_an_agent_that_hangs_only_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """`result` says what runs and what to do; skipped time strikes the timeout of each attempt."""
    monkeypatch.setattr(virtual, "CALM_SECONDS", 0.01)
    monkeypatch.setattr(virtual, "PATIENCE_SECONDS", 0.05)
    calls: list[object] = []

    async def hangs(prompt: object) -> None:
        calls.append(prompt)
        await asyncio.Event().wait()

    async with testing.environment(app, agents={"researcher": hangs}) as env:
        session = await env.start("patient")
        with pytest.raises(testing.TimeStandsStill, match=r"hangs: running for over 0.05 s.*env\.skip"):
            await session.result()
        await env.skip(timedelta(hours=8, minutes=1))
        assert "OPERATION_TIMED_OUT" == await session.result()
    assert 2 == len(calls)


async def test_a_restart_loses_what_was_in_flight_and_nothing_else() -> None:
    """A step in flight runs again on the next node, a recorded one does not, and timers go on."""
    RAN.clear()
    async with testing.environment(app) as env:
        session = await env.start("steps", ["a", "b", "c"])
        await env.restart()
        await env.skip(1)
        await env.restart()
        assert ["a", "b", "c"] == await session.result()
    assert ["a", "b", "c"] == RAN
    assert 2 == len([event for event in session.events() if event["status"] == "SESSION_RESUMED"])
    assert ["node-1"] != sorted({str(event["node"]) for event in session.events()})


async def test_a_restart_cuts_off_what_runs() -> None:
    """What the dead node's code still does reaches nothing; the step runs again."""
    gates = [asyncio.Event(), asyncio.Event()]
    cut: list[str] = []
    hanging = Orchestrator()

    @hanging.session("gated")
    async def gated(ctx: SessionContext) -> int:
        return await ctx.step("pass", passing)

    async def passing() -> int:
        attempt = len(cut)
        try:
            await gates[attempt].wait()
        except asyncio.CancelledError:
            cut.append("cut")
            raise
        return attempt

    async with testing.environment(hanging) as env:
        session = await env.start("gated")
        await env.restart()
        assert ["cut"] == cut
        gates[1].set()
        assert 1 == await session.result()


async def test_every_instant_survives_a_restart() -> None:
    """Power cuts between any two seconds change nothing but the number of takeovers."""
    RAN.clear()
    async with testing.environment(app) as env:
        session = await env.start("steps", ["a", "b", "c", "d"])
        while session.state() != "COMPLETED":
            await env.restart()
            await env.skip(0.5)
        assert ["a", "b", "c", "d"] == await session.result()
    assert ["a", "b", "c", "d"] == RAN


async def test_a_handler_out_of_step_with_itself_is_seen_as_blocked() -> None:
    """Chance between operations shows as soon as the session has left memory and comes back."""
    chance = Orchestrator()
    names = iter("abcdef")

    @chance.session("fickle")
    async def fickle(ctx: SessionContext) -> None:
        await ctx.step(next(names), str)
        await ctx.sleep(WEEK)

    async with testing.environment(chance) as env:
        session = await env.start("fickle")
        with pytest.raises(testing.SessionDidNotComplete, match=r"is BLOCKED.*records step 'a' next.*asked for.*'b'"):
            await session.result()


async def test_large_payloads_live_in_the_bucket() -> None:
    """As they do in an account, and come back whole."""
    large = Orchestrator()

    @large.session("large")
    async def grow(ctx: SessionContext, text: str) -> str:
        await ctx.sleep(WEEK)
        return await ctx.step("double", double, text)

    def double(text: str) -> str:
        return 2 * text

    async with testing.environment(large) as env:
        session = await env.start("large", "x" * 300_000)
        assert "x" * 600_000 == await session.result()
        assert 3 == len(env.artifacts.objects)


@pytest.fixture
async def env():  # type: ignore[no-untyped-def]
    """Be the fixture that users write."""
    async with testing.environment(app) as running:
        yield running


async def test_an_environment_can_be_a_fixture(env: testing.Environment) -> None:
    """Entered in one task, left in another."""
    session = await env.start("tidy")
    assert "RUNNING" == session.state()


async def test_leaving_stops_what_still_runs() -> None:
    """Nothing of the application's runs behind a test's back, and nothing more is journaled."""
    before = asyncio.all_tasks()

    async def hangs(prompt: object) -> None:
        await asyncio.Event().wait()

    async with testing.environment(app, agents={"researcher": hangs}) as env:
        session = await env.start("patient")
    assert before == asyncio.all_tasks()
    assert "AGENT_STARTED" == session.events()[-1]["status"]


async def test_a_step_in_flight_at_a_power_cut_is_in_doubt() -> None:
    """One that is to run at most once does not run again."""
    doubtful = Orchestrator()
    ran: list[str] = []

    async def charge() -> None:
        ran.append("charged")
        await asyncio.Event().wait()

    @doubtful.session("charge")
    async def charged(ctx: SessionContext) -> str:
        try:
            await ctx.step("charge", charge, semantics="at_most_once")
        except StepInterrupted:
            return "in doubt"
        return "charged"

    async with testing.environment(doubtful) as env:
        session = await env.start("charge")
        await env.restart()
        assert "in doubt" == await session.result()
    assert ["charged"] == ran


async def test_power_cuts_at_any_moment_leave_no_errors_in_the_log() -> None:
    """Parents, children, agents, callbacks and approvals under way: the dead node goes silently."""
    with capture_logs() as lines:
        async with testing.environment(app) as env:
            sessions = [
                await env.start("parent", ["research", "nudged"]),
                await env.start("paid"),
                await env.start("published"),
                await env.start("steps", ["a", "b"]),
            ]
            for _ in range(4):
                await env.restart()
                await env.skip(timedelta(minutes=30))
                await sessions[0].signal("unheard-of")
                await env.restart()
            await sessions[2].approve("publish", by="ann")
            await sessions[2].result()
    assert [] == [line for line in lines if line["log_level"] in {"error", "critical"}]


async def test_a_session_has_its_own_time_limit() -> None:
    """Skipped time counts for it."""
    limited = Orchestrator()

    @limited.session("limited", timeout=timedelta(days=1))
    async def endless(ctx: SessionContext) -> None:
        await ctx.wait_for_signal("never")

    async with testing.environment(limited) as env:
        session = await env.start("limited")
        with pytest.raises(testing.SessionDidNotComplete, match="SessionTimedOut"):
            await session.result()


def test_another_event_loop_is_refused_with_a_reason() -> None:
    """One that hides whether it is at rest; a replay brings a loop of its own."""

    async def enter() -> None:
        testing.replay(events, app)
        async with testing.environment(app):
            raise AssertionError("it was entered")

    events = asyncio.run(_events_of_a_session())
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        pytest.raises(RuntimeError, match="hides whether it is at rest: run tests and replays on asyncio's own"),
    ):
        runner.run(enter())


async def _events_of_a_session() -> list[JsonObject]:
    async with testing.environment(app) as env:
        return (await env.start("published")).events()


async def test_an_agent_that_runs_elsewhere_wants_a_stand_in() -> None:
    """Nothing leads out of a test: its run says so, and a stand-in answers in its name."""
    elsewhere = Orchestrator()
    elsewhere.agent("scorer")(LambdaAgent("arn:aws:lambda:eu-central-1:111122223333:function:scorer"))

    @elsewhere.session("score")
    async def score(ctx: SessionContext) -> object:
        try:
            return await ctx.invoke_agent("scorer", "tea")
        except AgentFailed as failed:
            return failed.error.code

    async with testing.environment(elsewhere) as env:
        assert "AGENT_NOT_CONNECTED" == await (await env.start("score")).result()
    async with testing.environment(elsewhere, agents={"scorer": lambda prompt: f"{prompt}: 1"}) as env:
        assert "tea: 1" == await (await env.start("score")).result()
