"""What a node leaves behind, another one goes on with: crashes, crash loops, what a node cannot run (I2, I5, I8)."""

from datetime import timedelta

import pytest
from engine_world import NOON, Diary, Gate, World, app_of, gated_app

from actors import settle
from orchestrator import Orchestrator, RetryPolicy, SessionContext, StepFailed, current_invocation
from orchestrator.calls import Semantics
from orchestrator.session.events import AgentRetrying, SessionCompleted, SessionFailed, StepRetrying
from orchestrator.testing.node import FRUITLESS_RESUMES_MAX

TEN_SECONDS = timedelta(seconds=10)


async def test_a_retry_waits_for_its_time_across_a_crash() -> None:
    """Attempt number and due time go on where they were, on whatever node, however long nobody was there."""
    tries = list[tuple[int, float]]()
    world = World()

    async def bad() -> None:
        tries.append((current_invocation().attempt, world.clock.monotonic()))
        raise ValueError("no")

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("a", bad, retry=RetryPolicy(max_attempts=4, initial_delay=TEN_SECONDS))

    app = app_of(handler)
    async with world.node(app) as node:
        await node.start()
        await settle()
        node.crash()
    await world.pass_time(2)
    async with world.node(app, "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        assert [(1, 0)] == tries, "attempt 2 is due at 5 s"
        await world.pass_time(3)
        node.crash()
    assert [(1, 0), (2, 5)] == tries
    await world.pass_time(100)
    async with world.node(app, "node-3") as node:
        assert await node.claim(dead_owner="node-2")
        assert [(1, 0), (2, 5), (3, 105)] == tries, "attempt 3 was overdue"
        await world.play()
        assert isinstance(await world.end(), SessionFailed)
    assert [1, 2, 3, 4] == [attempt for attempt, _ in tries]
    dues = [each.event.next_attempt_at for each in await world.recorded() if isinstance(each.event, StepRetrying)]
    assert [5, 15, 125] == [(due - NOON).total_seconds() for due in dues]


async def test_an_agents_retry_waits_for_its_time_across_a_crash() -> None:
    """As a step's does."""
    tries = list[tuple[int, float]]()
    world = World()

    async def bad(prompt: object) -> None:
        tries.append((current_invocation().attempt, world.clock.monotonic()))
        raise ValueError("no")

    async def handler(ctx: SessionContext) -> None:
        await ctx.invoke_agent("agent", 1, retry=RetryPolicy(max_attempts=3, initial_delay=TEN_SECONDS))

    app = app_of(handler, agent=bad)
    async with world.node(app) as node:
        await node.start()
        await settle()
        node.crash()
    await world.pass_time(2)
    async with world.node(app, "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        assert [(1, 0)] == tries
        await world.play()
        assert isinstance(await world.end(), SessionFailed)
    assert [(1, 0), (2, 5), (3, 15)] == tries
    dues = [each.event.next_attempt_at for each in await world.recorded() if isinstance(each.event, AgentRetrying)]
    assert [5, 15] == [(due - NOON).total_seconds() for due in dues]


async def test_an_agent_in_flight_at_a_crash_is_run_again_and_a_recorded_one_is_not() -> None:
    """The order is durable, and so is what was answered."""
    gate, asked = Gate(), list[object]()
    gates = {"slow": gate}

    async def agent(prompt: str) -> object:
        asked.append((prompt, current_invocation().attempt, current_invocation().idempotency_key))
        return await gates[prompt].passing() if prompt in gates else prompt

    async def handler(ctx: SessionContext) -> object:
        return [await ctx.invoke_agent("agent", "quick"), await ctx.invoke_agent("agent", "slow")]

    app = app_of(handler, agent=agent)
    world = World()
    async with world.node(app) as node:
        await node.start()
        await gate.reached()
        node.crash()
    gates.clear()
    assert SessionCompleted(result=["quick", "slow"]) == await world.resume(app)
    assert [("quick", 1, "s/agent"), ("slow", 1, "s/agent#2"), ("slow", 1, "s/agent#2")] == asked
    assert 2 == sum("AGENT_STARTED" in line for line in await world.story())


async def test_an_agents_time_runs_from_its_order_across_a_crash() -> None:
    """Four hours are four hours, whoever died meanwhile."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> object:
        return await ctx.invoke_agent("agent", 1, timeout=timedelta(hours=4))

    app = app_of(handler, agent=gate.passing)
    world = World()
    async with world.node(app) as node:
        await node.start()
        await gate.reached()
        node.crash()
    world.clock.advance(5 * 3600)
    end = await world.resume(app)
    assert isinstance(end, SessionFailed)
    assert "OPERATION_TIMED_OUT" == end.error.code


@pytest.mark.parametrize(
    ("semantics", "result", "runs"), [("at_most_once", "STEP_INTERRUPTED", 1), ("at_least_once", "charged", 2)]
)
async def test_a_step_in_doubt_after_a_live_crash_is_not_run_again(
    semantics: Semantics, result: str, runs: int
) -> None:
    """The node died while the function ran: `at_most_once` fails it, `at_least_once` runs it again (I5)."""
    gate, diary = Gate(), Diary()

    async def charge() -> str:
        await diary.note("charge")
        if len(diary.entries) == 1:
            await gate.passing()
        return "charged"

    async def handler(ctx: SessionContext) -> str:
        try:
            return await ctx.step("charge", charge, semantics=semantics)
        except StepFailed as error:
            return error.error.code

    app, world = app_of(handler), World()
    async with world.node(app) as node:
        await node.start()
        await gate.reached()
        node.crash()
    assert SessionCompleted(result=result) == await world.resume(app)
    assert ["charge"] * runs == diary.entries


async def test_a_step_in_doubt_on_its_second_attempt_is_not_run_again() -> None:
    """A retry policy does not outweigh the doubt."""
    gate, attempts = Gate(), list[int]()

    async def charge() -> None:
        attempts.append(current_invocation().attempt)
        if attempts == [1]:
            raise ValueError("refused")
        await gate.passing()

    async def handler(ctx: SessionContext) -> None:
        policy = RetryPolicy(max_attempts=9, initial_delay=timedelta(0))
        await ctx.step("charge", charge, retry=policy, semantics="at_most_once")

    app, world = app_of(handler), World()
    async with world.node(app) as node:
        await node.start()
        await gate.reached()
        node.crash()
    end = await world.resume(app)
    assert isinstance(end, SessionFailed)
    assert "STEP_INTERRUPTED" == end.error.code
    assert [1, 2] == attempts


# --- crash loop ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies", ["after its arrival", "before its arrival"])
async def test_a_session_that_kills_node_after_node_ends(dies: str) -> None:
    """After the allowed takeovers without a new event it is FAILED with CRASH_LOOP (rule 12)."""
    app, gate = gated_app()
    world = World()
    async with world.node(app, "node-0") as node:
        await node.start()
        await gate.reached()
        node.crash()
    for number in range(1, FRUITLESS_RESUMES_MAX + 1):
        async with world.node(app, f"node-{number}") as node:
            if dies == "before its arrival":
                node.line.cut_before("append")
            assert await node.claim(dead_owner=f"node-{number - 1}")
            assert not (await world.state()).has_ended
            node.crash()
    end = await world.resume(app, node_id="node-6", dead_owner=f"node-{FRUITLESS_RESUMES_MAX}")
    assert isinstance(end, SessionFailed)
    assert "CRASH_LOOP" == end.error.code
    assert str(FRUITLESS_RESUMES_MAX + 1) in end.error.message
    resumed = FRUITLESS_RESUMES_MAX if dies == "after its arrival" else 0
    assert resumed == (await world.story()).count("SESSION_RESUMED")


async def test_any_new_event_ends_a_crash_loop() -> None:
    """Progress counts: the session may take as many nodes as it has events."""
    diary = Diary()

    async def handler(ctx: SessionContext) -> int:
        for number in range(3 * FRUITLESS_RESUMES_MAX):
            await ctx.step(f"s{number}", diary.note, f"s{number}")
        return len(diary.entries)

    app, world = app_of(handler), World()
    async with world.node(app, "node-0") as node:
        node.line.cut_before("append", calls=2)
        await node.start()
        await settle()
    for number in range(1, 3 * FRUITLESS_RESUMES_MAX + 2):
        async with world.node(app, f"node-{number}") as node:
            node.line.cut_before("append", calls=3)
            await node.claim(dead_owner=f"node-{number - 1}")
            node.crash()
    assert isinstance((await world.recorded())[-1].event, SessionCompleted)


async def test_drains_and_healthy_wakes_are_no_crash_loop() -> None:
    """Only takeovers from the dead count."""
    app, gate = gated_app()
    world = World()
    async with world.node(app, "node-0") as node:
        await node.start()
        await gate.reached()
    for number in range(1, 3 * FRUITLESS_RESUMES_MAX):
        async with world.node(app, f"node-{number}") as node:
            assert await node.claim()
    gate.open()
    assert SessionCompleted(result="passed") == await world.resume(app, dead_owner=None)


# --- what a node cannot run ----------------------------------------------------------------------------------------


async def test_a_claimed_session_of_an_unknown_type_is_blocked_until_code_that_knows_it_comes() -> None:
    """Nothing is lost, and nothing fails."""
    app, gate = gated_app()
    gate.open()
    world = World()
    async with world.node(app) as node:
        node.router.is_draining = True
        await node.start()
    async with world.node(Orchestrator(), "node-2") as node:
        assert await node.claim()
        assert (await world.blocked()).startswith("UNKNOWN_SESSION_TYPE")
        assert 0 == len(node.system)
    assert SessionCompleted(result="passed") == await world.resume(app, node_id="node-3", dead_owner=None)


async def test_a_journal_that_this_version_cannot_read_blocks_its_session() -> None:
    """Newer code wrote it; code that can read it goes on."""
    from orchestrator.journal import UnreadableEvent

    app, gate = gated_app()
    gate.open()
    world = World()
    async with world.node(app) as node:
        node.router.is_draining = True
        await node.start()
    async with world.node(app, "node-2") as node:
        node.line.fail_once("read", UnreadableEvent("an event of type X, which this version does not know"))
        assert await node.claim()
        assert (await world.blocked()).startswith("UNREADABLE_EVENT")
        assert 0 == len(node.system)
    assert ["AGENT_INVOCATION_STARTED"] == await world.story()
    assert SessionCompleted(result="passed") == await world.resume(app, node_id="node-3", dead_owner=None)


async def test_an_actor_that_failed_over_a_fault_is_taken_up_again_by_its_own_node() -> None:
    """The append raised something unforeseen: the actor stops, HEAD still says whose it is, and the audit claims it."""
    app, gate = gated_app()
    gate.open()
    world = World()
    async with world.node(app) as node:
        node.line.fail_once("append", OSError("a bug"), after=1)
        await node.start()
        await settle()
        assert 0 == len(node.system)
        assert "node-1" == (await world.head()).owner
        assert await node.claim()
        assert SessionCompleted(result="passed") == await world.end()
    assert 1 == len(world.logged("actor_failed"))
