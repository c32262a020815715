"""A whole session in memory, from its start to its recorded end."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
from engine_world import PAYLOAD_BYTES_MAX, Diary, Gate, World, app_of, failed
from pydantic import BaseModel

from actors import settle
from orchestrator import (
    AgentFailed,
    NonRetryable,
    OperationTimedOut,
    RetryPolicy,
    SessionContext,
    StepFailed,
    current_invocation,
)
from orchestrator.errors import NoInvocation
from orchestrator.session.events import SessionCompleted, SessionFailed, SessionStarted
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import Json


class Order(BaseModel):
    """A pydantic model."""

    item: str
    count: int = 1


@dataclass
class Parcel:
    """A dataclass."""

    weight: float
    orders: list[Order]


async def test_a_session_runs_each_step_once_and_ends_with_its_result() -> None:
    """Its journal is seq 1..n without gap (I1), its terminal event the last one (I2), HEAD shows the same end."""
    diary = Diary()

    async def handler(ctx: SessionContext, names: list[str]) -> list[str]:
        return [await diary.step(ctx, name) for name in names]

    world = World()
    assert SessionCompleted(result=["a", "b", "a"]) == await world.run(app_of(handler), ["a", "b", "a"])
    assert ["a", "b", "a"] == diary.entries
    assert [
        "AGENT_INVOCATION_STARTED",
        "STEP_COMPLETED a",
        "STEP_COMPLETED b",
        "STEP_COMPLETED a#2",
        "AGENT_BACKGROUND_TASK_COMPLETED",
    ] == await world.story()
    recorded = await world.recorded()
    assert [1, 2, 3, 4, 5] == [each.seq for each in recorded]
    assert {("node-1", 1)} == {(each.node, each.epoch) for each in recorded}
    assert 5 == len({each.event_id for each in recorded})
    head = await world.head()
    assert (SessionStatus.COMPLETED, None, 5, None) == (head.status, head.owner, head.last_seq, head.wake_at)
    assert [] == world.errors_logged()


async def test_a_context_says_which_session_it_is() -> None:
    """Id, type, tenant and epoch are there for a handler to use."""

    async def handler(ctx: SessionContext) -> list[object]:
        return [ctx.session_id, ctx.session_type, ctx.tenant, ctx.epoch, ctx.is_replaying]

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start(tenant="acme")
        assert SessionCompleted(result=["s", "main", "acme", 1, False]) == await world.end()


async def pack(order: Order) -> Parcel:
    """Return a dataclass that holds a model."""
    return Parcel(1.5, [order, Order(item="bow", count=2)])


def unpack(parcel: Parcel) -> list[Order]:
    """Return models in a list, from a thread."""
    return parcel.orders


async def find(item: str) -> Order | None:
    """Return a model or nothing."""
    return Order(item=item) if item else None


async def test_results_come_back_as_annotated_live_and_on_replay() -> None:
    """Models and dataclasses are such on the first run and on every later one, and equal."""
    seen = list[object]()

    async def handler(ctx: SessionContext, order: Order) -> Parcel:
        parcel = await ctx.step("pack", pack, order)
        orders = await ctx.step("unpack", unpack, parcel)
        nothing = await ctx.step("find", find, "")
        seen.append([order, parcel, orders, nothing, await ctx.step("find", find, "tea")])
        return parcel

    app = app_of(handler)
    whole = World()
    end = await whole.run(app, {"item": "tea"})
    result: Json = {"weight": 1.5, "orders": [{"item": "tea", "count": 1}, {"item": "bow", "count": 2}]}
    assert SessionCompleted(result=result) == end
    orders = [Order(item="tea"), Order(item="bow", count=2)]
    assert [[Order(item="tea"), Parcel(1.5, orders), orders, None, Order(item="tea")]] == seen
    for seq in range(1, 6):
        assert end == await (await whole.as_of(seq)).resume(app)
    assert [seen[0]] * 6 == seen


async def test_what_is_not_annotated_comes_back_as_json_live_and_on_replay() -> None:
    """A tuple is a list at once, not only after a crash."""
    seen = list[object]()

    async def handler(ctx: SessionContext) -> None:
        seen.append(await ctx.step("a", lambda: (1, {2: timedelta(seconds=3)})))

    app = app_of(handler)
    whole = World()
    await whole.run(app)
    await (await whole.as_of(2)).resume(app)
    assert [[1, {"2": "PT3S"}]] * 2 == seen


async def test_a_handler_may_change_what_a_step_gave_it() -> None:
    """What the state holds stays as the journal has it."""

    async def make() -> dict[str, list[int]]:
        return {"numbers": [1]}

    async def handler(ctx: SessionContext) -> object:
        first = await ctx.step("a", make)
        first["numbers"].append(2)
        return first

    world = World()
    assert SessionCompleted(result={"numbers": [1, 2]}) == await world.run(app_of(handler))
    assert {"numbers": [1]} == (await world.state()).operations["a"].result


async def test_a_sync_step_runs_in_a_thread_and_an_async_one_in_the_loop() -> None:
    """A sync function must not hold up the loop."""

    def sync_step() -> bool:
        return threading.current_thread() is threading.main_thread()

    async def async_step() -> bool:
        return threading.current_thread() is threading.main_thread()

    async def handler(ctx: SessionContext) -> list[bool]:
        return [await ctx.step("sync", sync_step), await ctx.step("async", async_step)]

    assert SessionCompleted(result=[False, True]) == await World().run(app_of(handler))


async def test_a_step_or_an_agent_may_ask_which_attempt_it_is() -> None:
    """The idempotency key is the same on every attempt; a thread knows as well; a handler is no invocation."""
    seen = list[tuple[str, str, int, str]]()

    def look(*_: object) -> None:
        invocation = current_invocation()
        seen.append((invocation.session_id, invocation.operation, invocation.attempt, invocation.idempotency_key))
        if invocation.attempt == 1:
            raise ValueError("again")

    async def look_async(*_: object) -> None:
        look()

    async def handler(ctx: SessionContext) -> str:
        policy = RetryPolicy(max_attempts=2, initial_delay=timedelta(0))
        await ctx.step("sync", look, retry=policy)
        await ctx.step("async", look_async, retry=policy)
        await ctx.invoke_agent("agent", "prompt", retry=policy)
        try:
            current_invocation()
        except NoInvocation:
            return "outside"
        return "inside"

    with pytest.raises(NoInvocation):
        current_invocation()
    assert SessionCompleted(result="outside") == await World().run(app_of(handler, agent=look_async))
    assert [("s", name, n, f"s/{name}") for name in ("sync", "async", "agent") for n in (1, 2)] == seen


async def test_steps_and_agents_report_progress_of_their_own() -> None:
    """Numbered by attempt, from the loop and from threads, until so many are enough."""
    from orchestrator.invocation import PROGRESS_MAX

    def sync_step() -> None:
        current_invocation().progress("from a thread", 1.0)

    async def chatty() -> None:
        for number in range(PROGRESS_MAX + 10):
            current_invocation().progress(f"{number}", data={"n": number})

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("sync", sync_step)
        await ctx.step("chatty", chatty)

    world = World()
    await world.run(app_of(handler))
    story = await world.story()
    assert "PROGRESS_REPORTED sync/progress#1.1" in story
    chatty_story = [line for line in story if "chatty/" in line]
    assert [f"PROGRESS_REPORTED chatty/progress#1.{n}" for n in range(1, PROGRESS_MAX + 1)] == chatty_story


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (object(), "NOT_SERIALIZABLE"),
        (float("nan"), "NOT_SERIALIZABLE"),
        ("\ud800", "NOT_SERIALIZABLE"),
        ({1, 2}, None),
    ],
    ids=["object", "nan", "surrogate", "set"],
)
async def test_a_result_that_no_journal_can_hold_fails_its_session_or_step(result: object, code: str | None) -> None:
    """A step is not tried again for it: the next attempt would end the same way."""
    calls = list[int]()

    def make() -> object:
        calls.append(1)
        return result

    async def in_step(ctx: SessionContext) -> object:
        try:
            await ctx.step("a", make, retry=RetryPolicy(max_attempts=5))
        except StepFailed as error:
            return error.error.code
        return None

    async def in_handler(ctx: SessionContext) -> object:
        return result

    assert SessionCompleted(result=code) == await World().run(app_of(in_step))
    assert [1] == calls
    end = await World().run(app_of(in_handler))
    assert code == (end.error.code if isinstance(end, SessionFailed) else None)


async def test_a_result_over_the_inline_limit_goes_to_the_bucket() -> None:
    """The journal names it and how long it is; the handler is given the result itself, live and on replay."""
    large = "x" * PAYLOAD_BYTES_MAX
    seen = list[object]()

    async def main(ctx: SessionContext) -> object:
        seen.append(await ctx.step("a", lambda: large))
        return large

    app = app_of(main)
    whole = World()
    end = await whole.run(app)
    assert isinstance(end, SessionCompleted)
    for reference in ((await whole.state()).operations["a"].result, end.result):
        assert isinstance(reference, dict)
        assert {"artifact", "bytes", "sha256"} == set(reference)
        assert len(large) + 2 == reference["bytes"]
    earlier = await whole.as_of(2)
    earlier.artifacts = whole.artifacts
    assert end == await earlier.resume(app)
    assert [large, large] == seen


async def test_a_result_that_is_not_as_annotated_fails_its_session() -> None:
    """The end names the field."""

    async def handler(ctx: SessionContext) -> Order:
        return {"item": 5}  # type: ignore[return-value]

    end = await World().run(app_of(handler))
    assert isinstance(end, SessionFailed)
    assert "INVALID_PAYLOAD" == end.error.code
    assert end.error.message.startswith("result.item: ")


async def test_a_handler_that_raises_fails_its_session_with_what_it_raised() -> None:
    """Type, code and text are recorded; a text of any length fits the journal."""

    async def handler(ctx: SessionContext, kind: str) -> None:
        if kind == "own":
            raise NonRetryable("we are closed")
        raise KeyError("x" * 1_000_000)

    assert failed("NonRetryable", "NON_RETRYABLE", "we are closed") == await World().run(app_of(handler), "own")
    end = await World().run(app_of(handler), "any")
    assert isinstance(end, SessionFailed)
    assert ("KeyError", "UNHANDLED", 2_000) == (end.error.type, end.error.code, len(end.error.message))


async def test_a_failed_step_that_nobody_catches_fails_the_session() -> None:
    """The end tells which operation it was, and why."""

    async def bad() -> None:
        raise ValueError("no")

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("a", bad)

    assert failed("StepFailed", "STEP_FAILED", "a: ValueError: no") == await World().run(app_of(handler))


async def test_a_step_is_tried_as_often_and_as_far_apart_as_its_policy_says() -> None:
    """The pause is drawn from zero to the bound; each failed attempt is recorded with the time of the next."""
    world = World()
    tries = list[float]()

    async def bad() -> None:
        tries.append(world.clock.monotonic())
        raise ValueError(f"try {len(tries)}")

    async def handler(ctx: SessionContext) -> None:
        policy = RetryPolicy(max_attempts=4, initial_delay=timedelta(seconds=8), max_delay=timedelta(seconds=20))
        await ctx.step("a", bad, retry=policy)

    assert failed("StepFailed", "STEP_FAILED", "a: ValueError: try 4") == await world.run(app_of(handler))
    assert [0, 4, 12, 22] == tries
    assert 3 * ["STEP_RETRYING a"] + ["STEP_FAILED a"] == (await world.story())[1:5]
    assert 4 == (await world.state()).operations["a"].attempt


async def test_an_error_that_is_not_retryable_ends_a_step_at_once() -> None:
    """Whatever the policy says."""
    diary = Diary()

    async def bad() -> None:
        await diary.note("bad")
        raise NonRetryable("never")

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("a", bad, retry=RetryPolicy(max_attempts=5))

    assert failed("StepFailed", "STEP_FAILED", "a: NonRetryable: never") == await World().run(app_of(handler))
    assert ["bad"] == diary.entries


@pytest.mark.parametrize("kind", ["step", "agent"])
async def test_an_attempt_that_takes_too_long_is_cut_off(kind: str) -> None:
    """The handler sees OperationTimedOut after the last attempt; the code is cancelled each time."""
    ends = list[str]()

    async def endless(*_: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async def handler(ctx: SessionContext) -> str:
        policy, limit = RetryPolicy(max_attempts=2, initial_delay=timedelta(0)), timedelta(milliseconds=2)
        try:
            if kind == "step":
                await ctx.step("a", endless, retry=policy, timeout=limit)
            else:
                await ctx.invoke_agent("a", 1, retry=policy, timeout=limit)
        except OperationTimedOut as error:
            return error.operation
        return "no error"

    world = World()
    async with world.node(app_of(handler, a=endless)) as node:
        await node.start()
        await world.play()
        assert SessionCompleted(result="a") == await world.end()
    assert ["cancelled", "cancelled"] == ends


async def test_a_timeout_error_of_the_functions_own_is_no_timeout_of_the_step() -> None:
    """It is an error like any other."""

    async def bad() -> None:
        raise TimeoutError("the database")

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("a", bad, timeout=timedelta(hours=1))

    assert failed("StepFailed", "STEP_FAILED", "a: TimeoutError: the database") == await World().run(app_of(handler))


class Researcher:
    """An agent as a class: with usage in its answer, and memory of what it was asked."""

    asked: list[object] = []  # noqa: RUF012

    async def invoke_async(self, prompt: object, **kwargs: object) -> object:
        """Answer."""
        self.asked.append((prompt, kwargs))
        return {"answer": "42", "usage": {"input_tokens": 10, "output_tokens": 2.5, "model": "x"}}


async def test_an_agent_is_ordered_run_and_recorded_with_its_usage() -> None:
    """Its order holds prompt and arguments; the session's usage is the sum of what its agents reported."""
    Researcher.asked.clear()

    async def handler(ctx: SessionContext) -> object:
        first = await ctx.invoke_agent("agent", Order(item="tea"), depth=3)
        await ctx.invoke_agent("agent", "again", name="other")
        return first

    world = World()
    usage: Json = {"input_tokens": 10, "output_tokens": 2.5, "model": "x"}
    end = await world.run(app_of(handler, agent=Researcher))
    assert SessionCompleted(result={"answer": "42", "usage": usage}) == end
    assert [({"item": "tea", "count": 1}, {"depth": 3}), ("again", {})] == Researcher.asked
    assert ["AGENT_STARTED agent", "AGENT_COMPLETED agent", "AGENT_STARTED other"] == (await world.story())[1:4]
    assert {"input_tokens": 20, "output_tokens": 5.0, "total_tokens": 25.0} == (await world.state()).usage


async def test_an_agent_that_nobody_registered_fails_without_a_retry() -> None:
    """The handler may catch it; the code says what is wrong."""

    async def handler(ctx: SessionContext) -> object:
        try:
            await ctx.invoke_agent("nobody", 1, retry=RetryPolicy(max_attempts=5))
        except AgentFailed as error:
            return [error.error.code, error.error.message]
        return None

    end = await World().run(app_of(handler))
    assert SessionCompleted(result=["UNKNOWN_AGENT", "no agent 'nobody' is registered"]) == end


async def test_an_agent_is_tried_again_as_its_policy_says() -> None:
    """Attempts are numbered, pauses pass by the clock, the last error is what the handler sees."""
    world = World()
    tries = list[tuple[int, float]]()

    async def bad(prompt: object) -> None:
        tries.append((current_invocation().attempt, world.clock.monotonic()))
        raise ValueError(f"try {len(tries)}")

    async def handler(ctx: SessionContext) -> None:
        await ctx.invoke_agent("agent", 1, retry=RetryPolicy(initial_delay=timedelta(seconds=10)))

    end = await world.run(app_of(handler, agent=bad))
    assert failed("AgentFailed", "AGENT_FAILED", "agent: ValueError: try 3") == end
    assert [(1, 0), (2, 5), (3, 15)] == tries


async def test_a_session_that_ends_cancels_the_agents_it_left_behind() -> None:
    """Nothing is owed after the end, and what is recorded then is nothing (I2)."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> str:
        left = asyncio.ensure_future(ctx.invoke_agent("agent", 1))
        await gate.reached()
        left.cancel()
        return "left"

    world = World()
    assert SessionCompleted(result="left") == await world.run(app_of(handler, agent=gate.passing))
    assert ["AGENT_STARTED agent", "AGENT_BACKGROUND_TASK_COMPLETED"] == (await world.story())[1:]


async def test_an_input_that_no_longer_fits_its_session_type_blocks_the_session() -> None:
    """It was checked when it was accepted: the code has changed, and nothing is lost until code that fits comes."""

    async def handler(ctx: SessionContext, order: Order) -> None: ...

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start(payload={"item": 5})
        error = await world.blocked()
        assert error.startswith("NON_DETERMINISM")
        assert "an accepted input" in error


async def test_what_a_start_brings_stands_in_event_one() -> None:
    """Input, tenant, digest and trace, for any node to begin from."""

    async def handler(ctx: SessionContext) -> None: ...

    world = World()
    async with world.node(app_of(handler)) as node:
        accepted = await node.start({"a": [1]}, tenant="acme")
        await world.end()
    first = (await world.recorded())[0].event
    assert isinstance(first, SessionStarted)
    assert ("s", True) == (accepted.session_id, accepted.is_new)
    assert ("main", "acme", {"a": [1]}) == (first.session_type, first.tenant, first.input)


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    """Yield a gate that is open after the test, so that nobody is left before it."""
    gate = Gate()
    yield gate
    gate.open()


async def test_a_thousand_sessions_run_side_by_side(gate: Gate) -> None:
    """None waits for another."""

    async def handler(ctx: SessionContext, number: int) -> int:
        await ctx.step("wait", gate.passing)
        return number

    world = World()
    async with world.node(app_of(handler)) as node:
        for number in range(1_000):
            await node.start(number, session_id=f"s{number}")
        await settle()
        assert 1_000 == len(node.system)
        gate.open()
        await settle(100_000)
        assert [SessionCompleted(result=n) for n in range(1_000)] == [await world.end(f"s{n}") for n in range(1_000)]
        assert 0 == len(node.system)
