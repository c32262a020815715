"""Whatever user code does, its session ends and its node lives (I8, I11)."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import pytest
from engine_world import Diary, Gate, World, app_of

from actors import settle
from orchestrator import (
    AgentFailed,
    NonRetryable,
    Orchestrator,
    RetryPolicy,
    SessionContext,
    StepFailed,
    current_invocation,
)
from orchestrator.errors import OrchestratorError, RegistrationError
from orchestrator.journal import UnwritableEvent
from orchestrator.journal.codec import encode
from orchestrator.session.events import SessionCompleted, SessionFailed


async def a_cancelled_task(*_: object) -> object:
    """Await a task that somebody cancelled: `CancelledError` rises in the awaiting code, which nobody cancelled."""
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    return await task


async def test_a_handler_that_raises_cancelled_error_itself_ends_its_session() -> None:
    """Nobody cancelled the handler: its own `CancelledError` is an end like any other raise, not silence for ever."""

    async def handler(ctx: SessionContext) -> object:
        return await a_cancelled_task()

    end = await World().run(app_of(handler))
    assert isinstance(end, SessionFailed)
    assert "CancelledError" == end.error.type


async def test_a_step_that_raises_cancelled_error_itself_fails() -> None:
    """Its handler can catch it like any other failure of a step."""

    async def handler(ctx: SessionContext) -> str:
        try:
            await ctx.step("a", a_cancelled_task)
        except StepFailed as error:
            return error.error.type
        return "no error"

    assert SessionCompleted(result="CancelledError") == await World().run(app_of(handler))


async def test_an_agent_that_raises_cancelled_error_itself_fails() -> None:
    """Its handler can catch it like any other failure of an agent."""

    async def handler(ctx: SessionContext) -> str:
        try:
            await ctx.invoke_agent("a", "prompt")
        except AgentFailed as error:
            return error.error.type
        return "no error"

    assert SessionCompleted(result="CancelledError") == await World().run(app_of(handler, a=a_cancelled_task))


def exhausted() -> object:
    """Ask an empty iterator for its next: raises StopIteration, which no asyncio future can hold."""
    return next(iter(()))


async def test_a_sync_step_that_raises_stop_iteration_fails() -> None:
    """A future refuses StopIteration, so it must be turned into an outcome before it leaves the thread."""

    async def handler(ctx: SessionContext) -> str:
        try:
            await ctx.step("a", exhausted)
        except StepFailed as error:
            return error.error.type
        return "no error"

    assert isinstance(await World().run(app_of(handler)), SessionCompleted)


async def test_a_sync_agent_that_raises_stop_iteration_fails() -> None:
    """A future refuses StopIteration, so it must be turned into an outcome before it leaves the thread."""

    def agent(prompt: object) -> object:
        return exhausted()

    async def handler(ctx: SessionContext) -> str:
        try:
            await ctx.invoke_agent("a", "prompt")
        except AgentFailed as error:
            return error.error.type
        return "no error"

    assert isinstance(await World().run(app_of(handler, a=agent)), SessionCompleted)


class Abort(BaseException):
    """What some libraries raise to get past `except Exception`."""


@pytest.mark.parametrize("where", ["handler", "step", "agent"])
async def test_a_base_exception_of_user_code_ends_its_session_and_no_other(where: str) -> None:
    """The node goes on with its other sessions."""
    world, gate = World(), Gate()

    async def raising(*_: object) -> object:
        raise Abort("out")

    async def handler(ctx: SessionContext, payload: str) -> object:
        if payload == "bystander":
            return await ctx.step("wait", gate.passing)
        if where == "step":
            await ctx.step("a", raising)
        elif where == "agent":
            await ctx.invoke_agent("a", "prompt")
        return await raising()

    async with world.node(app_of(handler, a=raising)) as node:
        await node.start("bystander", session_id="other")
        await gate.reached()
        await node.start("raiser")
        assert isinstance(await world.end(), SessionFailed)
        gate.open()
        assert SessionCompleted(result="passed") == await world.end("other")


class Unprintable(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


async def unprintable(*_: object) -> object:
    """Raise it."""
    raise Unprintable


@pytest.mark.parametrize("where", ["handler", "step", "agent"])
async def test_an_error_that_cannot_be_printed_is_recorded_all_the_same(where: str) -> None:
    """Describing an error never raises."""

    async def handler(ctx: SessionContext) -> object:
        if where == "step":
            await ctx.step("a", unprintable)
        elif where == "agent":
            await ctx.invoke_agent("a", "prompt")
        return await unprintable()

    world = World()
    end = await world.run(app_of(handler, a=unprintable))
    assert isinstance(end, SessionFailed)
    assert [] == world.errors_logged()


class NumberCoded(NonRetryable):
    """An error whose author took a number for its code."""

    code = 404  # type: ignore[assignment]


async def test_an_error_whose_code_is_no_text_does_not_spoil_the_journal() -> None:
    """What is appended can be read again: the session goes on after a crash."""

    async def bad() -> None:
        raise NumberCoded("nothing there")

    async def handler(ctx: SessionContext) -> str:
        try:
            await ctx.step("a", bad)
        except StepFailed as error:
            return error.error.message
        return "no error"

    world = World()
    await world.run(app_of(handler))
    for seq in (2, 3):
        assert "STEP_FAILED a" == (await (await world.as_of(seq)).story())[1]


@pytest.mark.parametrize(
    ("message", "percent"),
    [
        ("half", float("nan")),
        ("half", float("inf")),
        ("\ud800", 1.0),
        (ValueError("an object"), 1.0),
        ({"a": 1}, 1.0),
        (7, 1.0),
        ("half", "fifty"),
        ("half", True),
        ("x" * 1_000_000, 1.0),
    ],
    ids=["nan", "inf", "surrogate", "object", "dict", "int", "text-percent", "bool-percent", "megabyte"],
)
async def test_progress_that_no_journal_can_hold_does_not_spoil_the_session(message: str, percent: float) -> None:
    """Nothing depends on progress: a wrong one is refused or left out, and small enough for an item (I12)."""

    def report() -> None:
        with suppress(ValueError):
            current_invocation().progress(message, percent)

    async def handler(ctx: SessionContext) -> str:
        await ctx.step("a", report)
        try:
            await ctx.progress(message, percent)
        except ValueError:
            return "refused"
        return "taken"

    world = World()
    end = await world.run(app_of(handler))
    assert isinstance(end, SessionCompleted)
    assert all(len(encode(recorded.event).encode()) < 300_000 for recorded in await world.recorded())


@pytest.mark.parametrize(
    "approvers",
    [[object()], [7], [None], [""], ["x" * 201], ["\ud800"], [f"somebody-{n:05}" for n in range(10_000)]],
    ids=["object", "number", "nobody", "empty", "long", "surrogate", "many"],
)
async def test_approvers_that_no_journal_can_hold_are_told_to_the_handler(approvers: list[str]) -> None:
    """Not to its actor, which would fail of them again and again."""

    async def handler(ctx: SessionContext) -> str:
        try:
            await ctx.request_approval("publish", approvers=approvers, timeout=1)
        except (ValueError, OrchestratorError) as refused:
            return str(refused).partition(":")[0]
        return "asked"

    assert SessionCompleted("approvers") == await World().run(app_of(handler))


@pytest.mark.parametrize("agent", ["", "\ud800", "x" * 1_000_000, 7], ids=["empty", "surrogate", "megabyte", "number"])
async def test_an_agent_of_no_possible_name_is_told_to_the_handler(agent: str) -> None:
    """The order of its run would not fit into the journal; nobody can register one of that name either."""

    async def handler(ctx: SessionContext) -> str:
        try:
            await ctx.invoke_agent(agent, 1, name="a")
        except ValueError as refused:
            return str(refused).partition(":")[0]
        return "asked"

    assert SessionCompleted("agent") == await World().run(app_of(handler))
    with pytest.raises(RegistrationError):
        Orchestrator().agent(agent)


@pytest.mark.parametrize("attempts", [True, 2.0, 2.5, "2"])
def test_a_number_of_attempts_that_is_none_is_refused_where_it_is_made(attempts: int) -> None:
    """Written down, it would make the session's journal one that nobody can read."""
    with pytest.raises(ValueError, match="max_attempts"):
        RetryPolicy(max_attempts=attempts)


async def test_an_event_that_cannot_be_written_blocks_its_session_and_says_why() -> None:
    """It is a bug of ours; an actor that fails of it over and over would help nobody."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.request_approval("publish")

    world = World()
    async with world.node(app_of(handler)) as node:
        node.line.fail_once("append", UnwritableEvent("no JSON"), after=1)
        await node.start()
        assert "UNWRITABLE_EVENT: no JSON" == await world.blocked()
    assert [] == world.errors_logged()


@pytest.mark.parametrize(
    ("attempts", "delay", "multiplier"),
    [
        (5, timedelta(seconds=1), 1e300),
        (70, timedelta(seconds=1), 1e5),
        (3, timedelta(seconds=1), float("inf")),
        (3, timedelta(seconds=1), float("nan")),
        (3, timedelta.max, 2.0),
        (1_000, timedelta(milliseconds=1), 1_000.0),
    ],
)
async def test_no_retry_policy_that_is_accepted_stops_a_session(
    attempts: int, delay: timedelta, multiplier: float
) -> None:
    """A policy is refused where it is made, or it works."""

    async def bad(*_: object) -> None:
        raise ValueError("again")

    async def handler(ctx: SessionContext) -> str:
        try:
            policy = RetryPolicy(
                max_attempts=attempts,
                initial_delay=delay,
                max_delay=max(delay, timedelta(minutes=1)),
                multiplier=multiplier,
            )
        except ValueError:
            return "refused"
        with suppress(StepFailed):
            await ctx.step("a", bad, retry=policy)
        with suppress(AgentFailed):
            await ctx.invoke_agent("b", 1, retry=policy)
        return "tried"

    world = World()
    async with world.node(app_of(handler, b=bad)) as node:
        await node.start()
        for _ in range(2 * attempts + 2):
            await world.pass_time(delay.total_seconds() if delay < timedelta.max else 10**9)
            await world.pass_time(60)
        end = await world.end()
    assert isinstance(end, SessionCompleted)


@dataclass
class Adder:
    """A callable that cannot be hashed, as a dataclass with `__call__` is."""

    by: int

    def __call__(self, number: int) -> int:
        """Return the sum."""
        return number + self.by


async def test_a_callable_that_cannot_be_hashed_is_a_step_like_any_other() -> None:
    """A dataclass with `__call__` is a usual way to hand a step its settings."""

    async def handler(ctx: SessionContext) -> int:
        return await ctx.step("add", Adder(2), 3)

    assert SessionCompleted(result=5) == await World().run(app_of(handler))


async def test_an_agent_that_changes_its_prompt_gets_the_recorded_one_on_its_next_attempt() -> None:
    """What the journal holds is the order, on this node as on any other."""
    seen = list[object]()

    async def agent(prompt: list[str], *, extra: list[str]) -> str:
        seen.append((list(prompt), list(extra)))
        prompt.append("spoiled")
        extra.append("spoiled")
        if len(seen) == 1:
            raise ValueError("again")
        return "done"

    async def handler(ctx: SessionContext) -> object:
        return await ctx.invoke_agent("a", ["hello"], extra=["x"], retry=RetryPolicy(max_attempts=2))

    world = World()
    async with world.node(app_of(handler, a=agent)) as node:
        await node.start()
        await settle()
        await world.pass_time(1)
        assert SessionCompleted(result="done") == await world.end()
    assert [(["hello"], ["x"])] * 2 == seen


async def test_a_step_that_reports_from_a_late_thread_harms_nobody() -> None:
    """A thread cannot be stopped: what it reports after the session's end is dropped."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> str:
        await ctx.step("a", lambda: reports.append(current_invocation().progress))
        return await diary.step(ctx, "b")

    reports = list[object]()
    world = World()
    troubles = list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))
    async with world.node(app_of(handler)) as node:
        await node.start()
        assert SessionCompleted(result="b") == await world.end()
        for report in reports:
            assert callable(report)
            report("late")
        await settle()
    assert [] == troubles
