"""A replay gives a handler what it got the first time, whichever of its branches is first (I5)."""

import asyncio
from collections.abc import Awaitable

import pytest
from engine_life import ends_alike_after_every_event
from engine_world import Diary, Gate, Handler, World, app_of

from actors import settle
from orchestrator import RetryPolicy, SessionContext, StepFailed, StepInterrupted
from orchestrator.session.events import SessionCompleted

DIARY = Diary()
"""What the steps below did; each test looks at what was added while it ran."""


@pytest.fixture(autouse=True)
def empty_diary() -> None:
    """Begin every test with an empty page."""
    DIARY.entries.clear()


async def test_time_ids_and_chance_are_the_same_on_replay() -> None:
    """`now` is the time of the latest outcome seen, `uuid4` and `random` follow from the session's id."""
    seen = list[list[object]]()
    world_now: list[World] = []

    async def slow() -> None:
        await world_now[-1].clock.sleep(7)

    async def handler(ctx: SessionContext) -> None:
        values: list[object] = [ctx.now(), ctx.uuid4(), ctx.random()]
        seen.append(values)
        for name in ("a", "b"):
            await ctx.step(name, slow)
            values += [ctx.now(), ctx.uuid4(), ctx.random()]

    app = app_of(handler)
    whole = World()
    world_now.append(whole)
    await whole.run(app)
    for seq in range(1, 5):
        world_now.append(await whole.as_of(seq))
        await world_now[-1].resume(app)
    assert 4 == len(seen), "an ended session runs no handler"
    assert [seen[0][0:3]] * 4 == [values[0:3] for values in seen]
    assert [seen[0][3:6]] * 2 == [values[3:6] for values in seen[2:]]
    assert [seen[0][6:9]] == [values[6:9] for values in seen[3:]]
    assert [seen[0][1::3]] * 4 == [values[1::3] for values in seen]
    assert 9 == len(set(map(str, seen[0])))


async def test_two_sessions_have_other_ids_and_other_chance() -> None:
    """They follow from the session's id, and no two sessions share that."""

    async def handler(ctx: SessionContext) -> object:
        return [str(ctx.uuid4()), ctx.random()]

    world = World()
    async with world.node(app_of(handler)) as node:
        for session_id in ("one", "two"):
            await node.start(session_id=session_id)
        ends = [await world.end(session_id) for session_id in ("one", "two")]
    assert ends[0] != ends[1]


async def test_a_branch_that_reports_progress_wins_and_loses_the_same_races_on_a_replay() -> None:
    """Live, recording it takes a moment; what the others had done in that moment, a replay would not come to."""
    diary = Diary()

    async def reporting(ctx: SessionContext) -> None:
        await diary.step(ctx, "begin")
        for _ in range(3):
            await ctx.progress("going on")

    async def working(ctx: SessionContext) -> None:
        for number in range(10):
            await diary.step(ctx, f"step-{number}")

    async def handler(ctx: SessionContext) -> str:
        branches = [asyncio.ensure_future(branch(ctx)) for branch in (reporting, working)]
        _, late = await asyncio.wait(branches, return_when=asyncio.FIRST_COMPLETED)
        for each in late:
            each.cancel()
        await asyncio.wait(branches)
        await ctx.sleep(10)
        return "done"

    app, whole = app_of(handler), World()
    assert SessionCompleted("done") == await whole.run(app)
    async for world in ends_alike_after_every_event(app, whole):
        assert [] == world.errors_logged()


async def test_progress_is_recorded_once_and_silent_on_replay() -> None:
    """A replayed handler reports again, and nobody hears it twice."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.progress("begun", 0.0, {"of": 2})
        await DIARY.step(ctx, "a")
        await ctx.progress("half", 50.0)
        await DIARY.step(ctx, "b")

    whole = World()
    end = await whole.run(app_of(handler))
    story = await whole.story()
    assert [
        "AGENT_INVOCATION_STARTED",
        "PROGRESS_REPORTED progress",
        "STEP_COMPLETED a",
        "PROGRESS_REPORTED progress#2",
        "STEP_COMPLETED b",
        "AGENT_BACKGROUND_TASK_COMPLETED",
    ] == story
    for seq in range(1, len(story) + 1):
        world = await whole.as_of(seq)
        assert end == await world.resume(app_of(handler))
        resumed = await world.story()
        assert len(set(resumed)) == len(resumed)


async def test_a_handlers_logger_is_silent_on_replay() -> None:
    """Each line is logged once, by the run that got that far first; `is_replaying` says the same."""
    replaying = list[bool]()

    async def handler(ctx: SessionContext) -> None:
        for name in ("a", "b", "c"):
            ctx.logger.info(f"before {name}")
            replaying.append(ctx.is_replaying)
            await DIARY.step(ctx, name)
        ctx.logger.info("at the end")

    whole = World()
    await whole.run(app_of(handler))
    lines = ["before a", "before b", "before c", "at the end"]
    assert [1, 1, 1, 1] == [len(whole.logged(line)) for line in lines]
    assert whole.logged("before a")[0]["session_id"] == "s"
    replaying.clear()
    world = await whole.as_of(3)
    await world.resume(app_of(handler))
    assert [0, 0, 1, 1] == [len(world.logged(line)) for line in lines]
    assert [True, True, False] == replaying


class Stage:
    """Runs steps and agents that take so many seconds by the world's clock, and writes down each that began."""

    def __init__(self) -> None:
        self.world = World()
        self.began: list[str] = []

    async def play(self, name: str, seconds: float) -> str:
        """Take that long."""
        self.began.append(name)
        await self.world.clock.sleep(seconds)
        return name

    def step(self, ctx: SessionContext, name: str, seconds: float) -> Awaitable[str]:
        """Run a step of that name and length."""
        return ctx.step(name, self.play, name, seconds)

    async def flaky(self, name: str) -> str:
        """Raise the first two times."""
        self.began.append(name)
        if self.began.count(name) < 3:
            raise ValueError(name)
        return name

    async def agent(self, prompt: object) -> str:
        """Be an agent: the prompt is name and length."""
        assert isinstance(prompt, list)
        return await self.play(str(prompt[0]), float(prompt[1]))


STAGE = Stage()


def task(ctx: SessionContext, name: str, seconds: float) -> "asyncio.Task[str]":
    """Start a step in a task of its own."""
    return asyncio.ensure_future(STAGE.step(ctx, name, seconds))


async def gathered(ctx: SessionContext) -> object:
    """Gather three, the last one first to end."""
    return await asyncio.gather(*(STAGE.step(ctx, f"s{n}", 9 - 2 * n) for n in range(3)))


async def grouped(ctx: SessionContext) -> object:
    """Run two in a task group, then one more."""
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(ctx.step("slow", STAGE.play, "slow", 5))
        quick = group.create_task(ctx.step("quick", STAGE.play, "quick", 2))
    return [slow.result(), quick.result(), await STAGE.step(ctx, "last", 1)]


async def in_order_of_ends(ctx: SessionContext) -> object:
    """Take them as they end; which one is first decides what comes next."""
    ends = [await each for each in asyncio.as_completed([task(ctx, f"s{n}", 7 - 2 * n) for n in range(3)])]
    return [*ends, await STAGE.step(ctx, f"after-{ends[0]}", 1)]


async def first_wins(ctx: SessionContext) -> object:
    """Race two, cancel the loser, and go on by the winner."""
    slow, quick = task(ctx, "slow", 9), task(ctx, "quick", 2)
    done, _ = await asyncio.wait([slow, quick], return_when=asyncio.FIRST_COMPLETED)
    winner = "slow" if slow in done else "quick"
    slow.cancel()
    await asyncio.wait([slow])
    return [winner, slow.cancelled(), await STAGE.step(ctx, f"after-{winner}", 1)]


async def first_decides(ctx: SessionContext) -> object:
    """See which ones are done when the first is, two tasks deep; wait for the rest only then."""

    async def deep(name: str, seconds: float) -> str:
        async with asyncio.TaskGroup() as group:
            inner = group.create_task(ctx.step(name, STAGE.play, name, seconds))
        return inner.result()

    races = {asyncio.ensure_future(deep(f"s{n}", 9 - 2 * n)) for n in range(3)}
    done, rest = await asyncio.wait(races, return_when=asyncio.FIRST_COMPLETED)
    first = sorted(each.result() for each in done)
    after = await STAGE.step(ctx, "-".join(["after", *first]), 5)
    return [first, after, await asyncio.gather(*sorted(rest, key=id)) and "all"]


async def agents_race(ctx: SessionContext) -> object:
    """Race an agent against a step; the loser's agent goes on, and ends while the handler does something else."""
    agent = asyncio.ensure_future(ctx.invoke_agent("agent", ["agent", 4]))
    step = task(ctx, "quick", 2)
    await asyncio.wait([agent, step], return_when=asyncio.FIRST_COMPLETED)
    agent.cancel()
    return [step.done(), await STAGE.step(ctx, "long", 6)]


async def nested(ctx: SessionContext) -> object:
    """Branches with steps one after the other, within branches, with retries and agents."""

    async def chain(name: str, seconds: float) -> list[object]:
        first = await STAGE.step(ctx, f"{name}1", seconds)
        both = await asyncio.gather(
            STAGE.step(ctx, f"{first}-x", seconds),
            ctx.invoke_agent("agent", [f"{name}-agent", 1], name=f"{name}-agent"),
        )
        return [first, *both]

    flaky = ctx.step("flaky", STAGE.flaky, "flaky", retry=RetryPolicy(max_attempts=3))
    return await asyncio.gather(chain("p", 3), chain("q", 2), flaky)


async def bounded(ctx: SessionContext) -> object:
    """Run five, two at a time."""
    room = asyncio.Semaphore(2)

    async def one(number: int) -> str:
        async with room:
            return await STAGE.step(ctx, f"s{number}", 5 - number)

    return await asyncio.gather(*(one(number) for number in range(5)))


async def fails_together(ctx: SessionContext) -> object:
    """A branch fails, and takes the other one of its group with it."""

    async def bad() -> None:
        await STAGE.play("bad", 2)
        raise ValueError("bad")

    said = list[str]()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step("bad", bad))
            group.create_task(ctx.step("good", STAGE.play, "good", 5))
    except* StepFailed as errors:
        said = [str(error) for error in errors.exceptions]
    return [*said, await STAGE.step(ctx, "after", 1)]


async def delayed_branch(ctx: SessionContext) -> object:
    """A branch does something of its own before its step, and ends first all the same."""

    async def late() -> str:
        await STAGE.world.clock.sleep(1)
        return await STAGE.step(ctx, "late", 1)

    return await asyncio.gather(STAGE.step(ctx, "early", 6), late(), ctx.invoke_agent("agent", ["agent", 8]))


CONCURRENT = [
    gathered,
    grouped,
    in_order_of_ends,
    first_wins,
    first_decides,
    agents_race,
    nested,
    bounded,
    fails_together,
    delayed_branch,
]


def recorded_as_done(story: list[str]) -> set[str]:
    """Return the operations whose outcome is recorded."""
    outcomes = ("STEP_COMPLETED", "AGENT_COMPLETED", "STEP_FAILED", "AGENT_FAILED")
    return {line.split()[1] for line in story if line.startswith(outcomes)}


@pytest.mark.parametrize("handler", CONCURRENT)
async def test_a_crash_after_any_event_leads_to_the_same_end(handler: Handler) -> None:
    """Whatever the handler chose by who was first, it chooses again, and nothing recorded is run again (I5)."""
    app = app_of(handler, agent=STAGE.agent)
    STAGE.world, STAGE.began = World(), []
    whole = STAGE.world
    end = await whole.run(app)
    assert isinstance(end, SessionCompleted)
    story = await whole.story()
    for seq in range(1, len(story) + 1):
        STAGE.world, STAGE.began = (
            await whole.as_of(seq),
            [line.split()[1] for line in story[:seq] if "RETRYING" in line],
        )
        begun_before = len(STAGE.began)
        assert end == await STAGE.world.resume(app), f"after {story[:seq]}"
        assert set() == recorded_as_done(story[:seq]) & set(STAGE.began[begun_before:]), f"after {story[:seq]}"
        assert story[:seq] == (await STAGE.world.story())[:seq]


@pytest.mark.parametrize("handler", CONCURRENT)
async def test_a_session_whose_every_node_dies_after_one_event_comes_to_the_same_end(handler: Handler) -> None:
    """One new event a node is progress: it is no crash loop, and it ends as if nobody had died."""
    app = app_of(handler, agent=STAGE.agent)
    STAGE.world, STAGE.began = World(), []
    end = await STAGE.world.run(app)
    STAGE.world, STAGE.began = world, _ = World(), list[str]()
    async with world.node(app, "node-0") as node:
        await node.start()
        node.crash()
    for number in range(1, 40):
        async with world.node(app, f"node-{number}") as node:
            # Its arrival, one more event, and the next one finds no table.
            node.line.cut_before("append", calls=3)
            await node.claim(dead_owner=f"node-{number - 1}")
            await settle()
            for _ in range(40):
                await world.pass_time(1)
            node.crash()
        if (await world.state()).has_ended:
            break
    assert end == (await world.recorded())[-1].event
    done = [line for line in await world.story() if line.startswith(("STEP_COMPLETED", "AGENT_COMPLETED"))]
    assert len(set(done)) == len(done)


async def test_a_branch_that_waits_before_its_first_operation_is_no_mismatch() -> None:
    """A handler may use asyncio between its operations: who asks late is waited for, even if nobody asked before."""
    world_now: list[World] = []

    async def quick() -> str:
        return await DIARY.note("quick")

    async def handler(ctx: SessionContext) -> object:
        async def late() -> str:
            await world_now[-1].clock.sleep(0.5)
            return await ctx.step("quick", quick)

        return await asyncio.gather(ctx.step("slow", slow), late())

    async def slow() -> str:
        await world_now[-1].clock.sleep(5)
        return await DIARY.note("slow")

    app = app_of(handler)
    whole = World()
    world_now.append(whole)
    end = await whole.run(app)
    assert ["quick", "slow"] == DIARY.entries
    world_now.append(await whole.as_of(2))
    assert end == await world_now[-1].resume(app)


async def test_a_branch_that_waits_long_before_its_first_operation_is_no_mismatch() -> None:
    """A handler may use asyncio between its operations, for as long as a call to a slow service takes."""
    world_now: list[World] = []

    async def quick() -> str:
        return await DIARY.note("quick")

    async def handler(ctx: SessionContext) -> object:
        await DIARY.step(ctx, "first")

        async def late() -> str:
            await world_now[-1].clock.sleep(10)
            return await ctx.step("quick", quick)

        return await asyncio.gather(ctx.step("slow", slow), late())

    async def slow() -> str:
        await world_now[-1].clock.sleep(50)
        return await DIARY.note("slow")

    app = app_of(handler)
    whole = World()
    world_now.append(whole)
    end = await whole.run(app)
    world_now.append(await whole.as_of(3))
    assert end == await world_now[-1].resume(app)


async def test_a_late_branch_of_a_task_group_is_no_mismatch_when_the_handler_itself_waits() -> None:
    """The handler's own task has asked; its task group holds a branch that has not yet, and it is waited for."""
    world_now: list[World] = []

    async def quick() -> str:
        return await DIARY.note("quick")

    async def slow() -> str:
        await world_now[-1].clock.sleep(5)
        return await DIARY.note("slow")

    async def handler(ctx: SessionContext) -> object:
        async def late() -> str:
            await world_now[-1].clock.sleep(0.5)
            return await ctx.step("quick", quick)

        async with asyncio.TaskGroup() as branches:
            branches.create_task(late())
            return await ctx.step("slow", slow)

    app = app_of(handler)
    whole = World()
    world_now.append(whole)
    end = await whole.run(app)
    world_now.append(await whole.as_of(2))
    assert end == await world_now[-1].resume(app)


async def test_a_step_in_doubt_fails_and_can_be_caught() -> None:
    """`at_most_once`: started, and no outcome recorded; the handler decides what that means."""

    async def handler(ctx: SessionContext) -> str:
        try:
            await ctx.step("charge", DIARY.note, "charge", semantics="at_most_once")
        except StepInterrupted:
            return "in doubt"
        return "charged"

    whole = World()
    assert SessionCompleted(result="charged") == await whole.run(app_of(handler))
    world = await whole.as_of(2)
    DIARY.entries.clear()
    assert SessionCompleted(result="in doubt") == await world.resume(app_of(handler))
    assert [] == DIARY.entries
    assert [
        "AGENT_INVOCATION_STARTED",
        "STEP_STARTED charge",
        "SESSION_RESUMED",
        "STEP_FAILED charge",
        "AGENT_BACKGROUND_TASK_COMPLETED",
    ] == await world.story()


async def test_many_events_that_wait_for_a_replay_are_taken_one_by_one() -> None:
    """However much an agent reports while its handler is still busy replaying."""
    gate = Gate()
    reports = 400

    async def chatty(prompt: object) -> str:
        from orchestrator import current_invocation

        for number in range(reports):
            current_invocation().progress(f"{number}")
        return "done"

    async def handler(ctx: SessionContext) -> object:
        await DIARY.step(ctx, "a")
        await gate.passing()
        return await ctx.invoke_agent("chatty", 1)

    app = app_of(handler, chatty=chatty)
    whole = World()
    async with whole.node(app) as node:
        await node.start()
        await gate.reached()
        gate.open()
        end = await whole.end()
    world = await whole.as_of(3)
    gate = Gate()
    async with world.node(app, "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        await gate.reached()
        await settle()
        gate.open()
        assert end == await world.end()


async def test_a_branch_that_takes_its_time_to_ask_keeps_the_number_of_its_operation() -> None:
    """An outcome that took long the first time, and none on replay, lets it ask first both times."""
    gates = {"a": Gate(), "slow": Gate()}

    async def passed(name: str) -> str:
        if name in gates:
            await gates[name].passing()
        return name

    async def handler(ctx: SessionContext) -> list[str]:
        async def slow() -> str:
            for _ in range(50):
                await asyncio.sleep(0)
            return await ctx.step("x", passed, "slow")

        async def quick() -> str:
            await ctx.step("a", passed, "a")
            return await ctx.step("x", passed, "quick")

        return await ctx.gather(slow(), quick())

    app, whole = app_of(handler), World()
    async with whole.node(app) as node:
        await node.start()
        for gate in (gates["a"], gates["slow"]):
            await settle()
            gate.open()
        assert SessionCompleted(["slow", "quick"]) == await whole.end()
    assert ["STEP_COMPLETED a", "STEP_COMPLETED x#2", "STEP_COMPLETED x"] == (await whole.story())[1:-1]
    async for _ in ends_alike_after_every_event(app, whole):
        pass
