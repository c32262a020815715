"""How much of an agent a node runs: so many at once, so often, in order; and what a wait or a cancel does to that."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from engine_world import Gate, World, app_of

from actors import ManualClock, settle
from orchestrator import Orchestrator, RegistrationError, RetryPolicy, SessionContext
from orchestrator.agents.limits import TokenBucket
from orchestrator.app import Rate
from orchestrator.session.events import SessionCompleted
from orchestrator.session.transitions import ENDED


class Desk:
    """An agent that keeps whoever asks until it is told to answer, and counts them."""

    def __init__(self) -> None:
        self.came: list[object] = []
        self.answers: dict[object, asyncio.Event] = {}
        self.at_once = 0
        self.most_at_once = 0

    async def invoke_async(self, prompt: object, **_: object) -> object:
        """Return the prompt once it is answered."""
        self.came.append(prompt)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.answers.setdefault(prompt, asyncio.Event()).wait()
        finally:
            self.at_once -= 1
        return prompt

    async def answer(self, prompt: object) -> None:
        """Answer one that came."""
        self.answers.setdefault(prompt, asyncio.Event()).set()
        await settle()


def limited(desk: object, **limits: Any) -> Orchestrator:
    """Return an application whose sessions ask one limited agent their input."""

    async def handler(ctx: SessionContext, payload: str) -> object:
        return await ctx.invoke_agent("desk", payload)

    app = app_of(handler)
    app.agent("desk", **limits)(desk)
    return app


async def test_no_more_runs_at_once_than_the_agent_allows_and_the_others_wait_in_order() -> None:
    """Over all sessions of a node; a place goes to who has waited longest."""
    desk, world = Desk(), World()
    async with world.node(limited(desk, max_concurrency=2)) as node:
        for name in "abcde":
            await node.start(name, session_id=name)
            await settle()
        assert ["a", "b"] == desk.came
        await desk.answer("b")
        assert ["a", "b", "c"] == desk.came
        for name in "acde":
            await desk.answer(name)
        await world.until(lambda: all(world.standing[name].status in ENDED for name in "abcde"))
    assert list("abcde") == desk.came
    assert 2 == desk.most_at_once


async def test_a_run_that_fails_gives_its_place_back() -> None:
    """The agent raised: the next one is let in all the same."""
    came: list[object] = []

    async def refuse(prompt: object) -> None:
        came.append(prompt)
        raise ValueError("no")

    world = World()
    async with world.node(limited(refuse, max_concurrency=1)) as node:
        for name in "abc":
            await node.start(name, session_id=name)
        await world.until(
            lambda: all(name in world.standing and world.standing[name].status in ENDED for name in "abc")
        )
    assert list("abc") == came


async def test_a_session_cancelled_while_its_agent_waits_takes_no_place() -> None:
    """The wait is left; who stood behind it moves up."""
    desk, world = Desk(), World()
    async with world.node(limited(desk, max_concurrency=1)) as node:
        for name in "abc":
            await node.start(name, session_id=name)
            await settle()
        await node.deliveries.cancel("b", "not needed", None)
        await world.until(lambda: world.standing["b"].status in ENDED)
        await desk.answer("a")
        assert ["a", "c"] == desk.came
        await desk.answer("c")
        await world.until(lambda: world.standing["c"].status in ENDED)


async def test_a_session_cancelled_while_its_agent_runs_gives_its_place_back() -> None:
    """The run is cancelled, and the next one begins."""
    desk, world = Desk(), World()
    async with world.node(limited(desk, max_concurrency=1)) as node:
        for name in "ab":
            await node.start(name, session_id=name)
            await settle()
        await node.deliveries.cancel("a", "not needed", None)
        await world.until(lambda: world.standing["a"].status in ENDED)
        assert ["a", "b"] == desk.came
        await desk.answer("b")
        await world.until(lambda: world.standing["b"].status in ENDED)


async def test_two_agents_do_not_share_their_places() -> None:
    """One that is full holds up nobody else's."""
    desk, gate, world = Desk(), Gate(), World()
    gate.open()

    async def handler(ctx: SessionContext, payload: str) -> object:
        return await ctx.invoke_agent(payload, payload)

    app = app_of(handler)
    app.agent("desk", max_concurrency=1)(desk)
    app.agent("gate", max_concurrency=1)(gate.passing)
    async with world.node(app) as node:
        await node.start("desk", session_id="a")
        await node.start("gate", session_id="b")
        await world.until(lambda: "b" in world.standing and world.standing["b"].status in ENDED)
        await desk.answer("desk")
        await world.until(lambda: world.standing["a"].status in ENDED)
    ends = [(await world.recorded(session_id))[-1].event for session_id in ("a", "b")]
    assert [SessionCompleted("desk"), SessionCompleted("passed")] == ends


async def test_the_rate_lets_a_burst_pass_and_then_one_at_a_time() -> None:
    """`3/min`: three at once, then one every twenty seconds, in order."""
    came: list[object] = []

    async def note(prompt: object) -> None:
        came.append(prompt)

    world = World()
    async with world.node(limited(note, rate="3/min")) as node:
        for name in "abcde":
            await node.start(name, session_id=name)
            await settle()
        assert list("abc") == came
        await world.pass_time(19)
        assert list("abc") == came
        await world.pass_time(1)
        assert list("abcd") == came
        await world.pass_time(20)
        assert list("abcde") == came


async def test_the_time_that_an_agent_waits_for_its_place_counts_against_its_timeout() -> None:
    """The timeout runs from the order: a run that waited five of its ten seconds has five left."""
    desk, world = Desk(), World()

    async def handler(ctx: SessionContext, payload: str) -> object:
        return await ctx.invoke_agent("desk", payload, timeout=timedelta(seconds=10))

    app = app_of(handler)
    app.agent("desk", max_concurrency=1)(desk)
    async with world.node(app) as node:
        await node.start("a", session_id="a")
        await settle()
        await world.pass_time(5)
        await node.start("b", session_id="b")
        await settle()
        await world.pass_time(5)
        assert ["a", "b"] == desk.came
        await world.pass_time(4)
        assert world.standing["b"].status not in ENDED
        await world.pass_time(1)
        await world.until(lambda: world.standing["b"].status in ENDED)
        error = (await world.state("b")).error
    assert "OPERATION_TIMED_OUT" == (error and error.code)
    assert 1 == desk.most_at_once


async def test_every_attempt_needs_a_token() -> None:
    """A retry asks the agent again, and counts like any other run."""
    came: list[object] = []

    async def refuse(prompt: object) -> None:
        came.append(prompt)
        raise ValueError("no")

    async def handler(ctx: SessionContext) -> object:
        retry = RetryPolicy(max_attempts=3, initial_delay=timedelta(0), max_delay=timedelta(0))
        return await ctx.invoke_agent("desk", "a", retry=retry)

    app, world = app_of(handler), World()
    app.agent("desk", rate="2/min")(refuse)
    async with world.node(app) as node:
        await node.start()
        await settle()
        assert 2 == len(came)
        await world.pass_time(30)
        assert 3 == len(came)
        await world.end()


async def test_who_is_cancelled_while_it_waits_has_taken_no_token() -> None:
    """The next one gets the token that comes when it would have come to the first."""
    clock = ManualClock(World().clock.now())
    bucket = TokenBucket(Rate(1, 60.0), clock)
    await bucket.take()
    async with asyncio.TaskGroup() as tasks:
        given_up = tasks.create_task(bucket.take())
        patient = tasks.create_task(bucket.take())
        await settle()
        given_up.cancel()
        await settle()
        clock.advance(59)
        await settle()
        assert not patient.done()
        clock.advance(1)
        await settle()
        assert patient.done()


async def test_a_bucket_that_rested_holds_no_more_than_it_may() -> None:
    """An hour without a run saves up no more than one burst."""
    clock = ManualClock(World().clock.now())
    bucket = TokenBucket(Rate(2, 60.0), clock)
    clock.advance(3_600)
    taken: list[int] = []

    async def take(number: int) -> None:
        await bucket.take()
        taken.append(number)

    async with asyncio.TaskGroup() as tasks:
        for number in range(3):
            tasks.create_task(take(number))
        await settle()
        assert [0, 1] == taken
        clock.advance(30)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_concurrency": 0},
        {"max_concurrency": -1},
        {"max_concurrency": True},
        {"max_concurrency": 1.5},
        {"rate": ""},
        {"rate": "60"},
        {"rate": "0/min"},
        {"rate": "-1/min"},
        {"rate": "1.5/min"},
        {"rate": "60/day"},
        {"rate": "60/min "},
        {"rate": 60},
        {"rate": "1000000000/min"},
    ],
)
def test_a_limit_that_is_none_is_refused_at_registration(limits: dict[str, Any]) -> None:
    """The deployment stops and names the agent; no session meets it."""
    with pytest.raises(RegistrationError, match="desk"):
        limited(Desk(), **limits)


@pytest.mark.parametrize(("rate", "expected"), [("5/sec", 1.0), ("60/min", 60.0), ("100/hour", 3_600.0)])
def test_a_rate_is_of_seconds_minutes_or_hours(rate: str, expected: float) -> None:
    """As it is written, so it counts."""
    limits = limited(Desk(), rate=rate).agent_limits("desk")
    assert limits is not None
    assert Rate(int(rate.partition("/")[0]), expected) == limits.rate
