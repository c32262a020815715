"""Branches at once, by our own words and by asyncio's: numbered by the code, ended in any order, never run twice."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial

import pytest
from engine_life import ends_alike_after_every_event, ends_alike_with_pauses
from engine_world import Diary, Gate, Handler, World, app_of

from actors import settle
from orchestrator import AgentFailed, OperationTimedOut, SessionContext, StepFailed, in_flight
from orchestrator.session.events import SessionCompleted, SessionFailed
from orchestrator.session.owed import Effect, EffectKey, owed
from orchestrator.session.state import SessionState

SECONDS = {"a": 5, "b": 1, "c": 2}
"""How long the branches below take: the first in the code is the last to end, and no two end at once."""


async def answer(prompt: object) -> str:
    """Be an agent that answers its prompt."""
    return f"answer to {prompt}"


async def refuse(prompt: object) -> str:
    """Be an agent that fails."""
    raise ValueError(f"no {prompt}")


async def noted(item: object) -> str:
    """Be a step."""
    return f"noted {item}"


def note_sync(item: object) -> str:
    """Be a step that runs in a thread."""
    return f"noted {item}"


async def slept(ctx: SessionContext, name: str) -> str:
    """Sleep as long as the branch of that name does, then run a step."""
    await ctx.sleep(SECONDS[name], name=f"sleep-{name}")
    return await ctx.step(name, noted, name)


async def by_gather(ctx: SessionContext) -> object:
    """Use the context's own gather."""
    return await ctx.gather(*(slept(ctx, name) for name in SECONDS))


async def by_asyncio_gather(ctx: SessionContext) -> object:
    """Use asyncio's over operations themselves."""
    return await asyncio.gather(ctx.sleep(3), ctx.sleep(1), ctx.invoke_agent("agent", 1), ctx.step("s", noted, 1))


async def by_task_group(ctx: SessionContext) -> object:
    """Use a task group over coroutines of the handler's."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(slept(ctx, name)) for name in SECONDS]
    return [task.result() for task in tasks]


async def by_as_completed(ctx: SessionContext) -> object:
    """Go by the order in which the branches end."""
    return [await each for each in asyncio.as_completed([slept(ctx, name) for name in SECONDS])]


async def by_wait(ctx: SessionContext) -> object:
    """Take whoever is first, and cancel the rest."""
    tasks = [asyncio.create_task(slept(ctx, name), name=name) for name in SECONDS]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.wait(pending)
    return [*sorted(task.get_name() for task in done), await ctx.step("after", noted, "after")]


async def by_wait_for(ctx: SessionContext) -> object:
    """Bound operations by times that are never reached."""
    first = await asyncio.wait_for(ctx.step("s", noted, 1), 600)
    async with asyncio.timeout(600):
        return [first, await ctx.invoke_agent("agent", 1)]


async def by_map(ctx: SessionContext) -> object:
    """Map a function with operations of its own over items, two at a time."""
    return await ctx.map("m", lambda name: slept(ctx, name), SECONDS, max_concurrency=2)


async def by_map_of_steps(ctx: SessionContext) -> object:
    """Map a plain function over items."""
    return await ctx.map("m", noted, ["x", "y", "z"], max_concurrency=2)


async def by_scopes(ctx: SessionContext) -> object:
    """Nest scopes in branches: the same names in each."""

    async def inner(ctx: SessionContext) -> list[str]:
        return [await ctx.step("s", noted, 1), await ctx.step("s", noted, 2)]

    async def outer() -> object:
        return [await ctx.scope("inner", inner), await ctx.scope("inner", inner), await ctx.step("s", noted, 3)]

    return await ctx.gather(ctx.scope("outer", outer), ctx.scope("outer", outer), ctx.step("s", noted, 4))


async def by_queue(ctx: SessionContext) -> object:
    """Let workers share a queue, and tell them by an event when it is closed."""
    queue: asyncio.Queue[str | None] = asyncio.Queue()
    said: list[str] = []

    async def worker() -> None:
        while (name := await queue.get()) is not None:
            said.append(await slept(ctx, name))

    for item in (*SECONDS, None, None):
        queue.put_nowait(item)
    await ctx.gather(worker(), worker())
    return said


PARALLEL = [
    by_gather,
    by_asyncio_gather,
    by_task_group,
    by_as_completed,
    by_wait,
    by_wait_for,
    by_map,
    by_map_of_steps,
    by_scopes,
    by_queue,
]


@pytest.mark.parametrize("handler", PARALLEL)
async def test_branches_end_alike_live_after_any_death_and_with_pauses(handler: Handler) -> None:
    """Whoever was first is first again, and what is recorded stays as it is."""
    app, whole = app_of(handler, agent=answer), World()
    end = await whole.run(app)
    assert isinstance(end, SessionCompleted), end
    async for _ in ends_alike_after_every_event(app, whole):
        pass
    await ends_alike_with_pauses(app, end)


@pytest.mark.parametrize("handler", [by_gather, by_task_group, by_as_completed, by_queue])
async def test_a_branch_that_only_joins_others_leaves_memory_with_its_session(handler: Handler) -> None:
    """Joining others is no work: with every branch asleep the session leaves memory (passivation)."""
    app, world = app_of(handler), World()
    world.passivate_after = 0.5
    async with world.node(app) as node:
        await node.start()
        await settle()
        await world.pass_time(0.5)
        await world.pass_time(0.5)
        assert 0 == len(node.system)


async def test_ids_do_not_depend_on_who_ends_first() -> None:
    """They are counted when the operation is asked for, in the order of the code."""

    async def handler(ctx: SessionContext) -> object:
        return await ctx.gather(*(ctx.sleep(seconds) for seconds in (3, 1, 2)))

    world = World()
    await world.run(app_of(handler))
    assert [
        "AGENT_INVOCATION_STARTED",
        "TIMER_STARTED sleep",
        "TIMER_STARTED sleep#2",
        "TIMER_STARTED sleep#3",
        "TIMER_FIRED sleep#2",
        "TIMER_FIRED sleep#3",
        "TIMER_FIRED sleep",
        "AGENT_BACKGROUND_TASK_COMPLETED",
    ] == await world.story()


# --- map -----------------------------------------------------------------------------------------------------------


class Mapper:
    """What users map with: methods, partials, lambdas, functions with and without the context."""

    def __init__(self, ctx: SessionContext) -> None:
        self.ctx = ctx

    async def compose(self, item: int) -> str:
        """Compose operations, by an instance that holds the context."""
        return await self.ctx.step("one", noted, item)


async def given(ctx: SessionContext, item: int) -> str:
    """Compose operations, given the context."""
    return await ctx.step("one", noted, item)


def given_sync(ctx: SessionContext, item: int) -> Coroutine[object, object, str]:
    """Return an operation without awaiting it."""
    return ctx.step("one", noted, item)


def closed_over(ctx: SessionContext) -> Callable[[int], Coroutine[object, object, str]]:
    """Return an async function over the context."""

    async def compose(item: int) -> str:
        return await ctx.step("one", noted, item)

    return compose


def defaulted(ctx: SessionContext) -> Callable[[int], Coroutine[object, object, str]]:
    """Return a function that keeps the context as a default."""

    async def compose(item: int, ctx: SessionContext = ctx, *, again: SessionContext = ctx) -> str:
        return await ctx.step("one", noted, item)

    return compose


MAPPED: list[tuple[str, Callable[[SessionContext], Callable[..., object]], str]] = [
    ("async step", lambda _: noted, ""),
    ("sync step", lambda _: note_sync, ""),
    ("partial step", lambda _: partial(noted), ""),
    ("given ctx", lambda _: given, "/one"),
    ("given ctx, sync", lambda _: given_sync, "/one"),
    ("closure", closed_over, "/one"),
    ("lambda", lambda ctx: lambda item: ctx.step("one", noted, item), "/one"),
    ("partial of ctx", lambda ctx: partial(given, ctx), "/one"),
    ("method", lambda ctx: Mapper(ctx).compose, "/one"),
    ("default", defaulted, "/one"),
]


@pytest.mark.parametrize(("make", "suffix"), [pytest.param(*case[1:], id=case[0]) for case in MAPPED])
async def test_map_runs_plain_functions_as_steps_and_lets_others_compose(
    make: Callable[[SessionContext], Callable[..., object]], suffix: str
) -> None:
    """The same results either way; one that uses the context gets a scope for each item."""

    async def handler(ctx: SessionContext) -> object:
        return await ctx.map("m", make(ctx), [1, 2, 3])

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        assert SessionCompleted(["noted 1", "noted 2", "noted 3"]) == await world.end()
    done = sorted(line for line in await world.story() if "STEP" in line)
    assert sorted(f"STEP_COMPLETED m{number}{suffix}" for number in ("", "#2", "#3")) == done


@pytest.mark.parametrize("limit", [1, 2, 5, None])
async def test_map_never_runs_more_at_once_than_it_may(limit: int | None) -> None:
    """And as many as it may."""
    running, most = 0, 0
    world = World()

    async def work(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await world.clock.sleep(1 + item % 3)
        running -= 1
        return item

    async def handler(ctx: SessionContext) -> object:
        return await ctx.map("m", work, range(12), max_concurrency=limit)

    assert SessionCompleted(list(range(12))) == await world.run(app_of(handler))
    assert (limit or 12) == most


async def test_map_of_nothing_is_nothing() -> None:
    """No operation, no event."""

    async def handler(ctx: SessionContext) -> object:
        return [await ctx.map("m", noted, []), await ctx.gather()]

    world = World()
    assert SessionCompleted([[], []]) == await world.run(app_of(handler))
    assert 2 == len(await world.recorded())


# --- failure -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["gather", "map", "group"])
async def test_a_failing_branch_cancels_its_siblings_and_what_was_recorded_stays(words: str) -> None:
    """The sibling's own work is cancelled, its agent with it; a result that was recorded before is there for good."""
    gate, cancelled, diary, worlds = Gate(), list[str](), Diary(), [World()]

    async def slow(prompt: object) -> str:
        try:
            return await gate.passing()
        except asyncio.CancelledError:
            cancelled.append(str(prompt))
            raise

    async def fail_later() -> None:
        await worlds[-1].clock.sleep(2)
        raise ValueError("no")

    async def handler(ctx: SessionContext) -> object:
        async def branch(name: str) -> object:
            if name == "bad":
                return await ctx.step("bad", fail_later)
            await diary.step(ctx, name)
            if name == "step":
                return await ctx.step("slow", slow, "slow step")
            return await ctx.invoke_agent("slow", "slow agent")

        async def grouped() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for name in ("step", "bad", "agent"):
                        group.create_task(branch(name))
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None

        try:
            if words == "gather":
                await ctx.gather(branch("step"), branch("bad"), branch("agent"))
            elif words == "map":
                await ctx.map("m", branch, ["step", "bad", "agent"])
            else:
                await grouped()
        except StepFailed as error:
            return [error.error.code, await diary.step(ctx, "after")]
        return None

    app = app_of(handler, slow=slow)
    end = await worlds[0].run(app)
    assert SessionCompleted(["UNHANDLED", "after"]) == end
    assert "slow step" in cancelled
    assert {"step", "agent", "after"} == set(diary.entries)
    async for _ in ends_alike_after_every_event(app, worlds[0], worlds.append):
        pass
    assert {"step", "agent", "after"} == set(diary.entries)


async def test_the_error_of_an_agent_in_a_branch_reaches_the_handler_as_it_is() -> None:
    """`ctx.gather` gives the first failure itself, no group around it."""

    async def handler(ctx: SessionContext) -> object:
        try:
            await ctx.gather(ctx.invoke_agent("bad", 1), ctx.sleep(60))
        except AgentFailed as error:
            return error.operation
        return None

    app, whole = app_of(handler, bad=refuse), World()
    assert SessionCompleted("bad") == await whole.run(app)
    async for _ in ends_alike_after_every_event(app, whole):
        pass


async def test_a_branch_that_nobody_catches_fails_the_session_with_its_code() -> None:
    """As without branches."""

    async def handler(ctx: SessionContext) -> object:
        return await ctx.gather(ctx.wait_for_signal("never", timeout=5), ctx.sleep(60))

    app, whole = app_of(handler), World()
    end = await whole.run(app)
    assert isinstance(end, SessionFailed)
    assert OperationTimedOut.code == end.error.code
    async for _ in ends_alike_after_every_event(app, whole):
        pass
    await ends_alike_with_pauses(app, end)


# --- many ----------------------------------------------------------------------------------------------------------

MANY = 1_000
TURNS_MAX = 1_000_000


async def many_steps(ctx: SessionContext) -> object:
    """Run a thousand steps."""
    return await ctx.map("m", noted, range(MANY))


async def many_sleeps(ctx: SessionContext) -> object:
    """Sleep a thousand times at once."""
    return len(await ctx.gather(*(ctx.sleep(1 + number % 3) for number in range(MANY))))


async def many_agents(ctx: SessionContext) -> object:
    """Run a thousand agents."""
    return await ctx.gather(*(ctx.invoke_agent("agent", number) for number in range(MANY)))


@pytest.mark.parametrize("handler", [many_steps, many_sleeps, many_agents])
async def test_a_thousand_branches_work_and_replay(handler: Handler) -> None:
    """Live, and from the middle and the end of their journal."""
    app, whole = app_of(handler, agent=answer), World()
    async with whole.node(app) as node:
        await node.start()
        await settle(TURNS_MAX)
        await whole.play()
        end = await whole.end()
    assert isinstance(end, SessionCompleted), end
    story = await whole.story()
    for seq in (len(story) // 2, len(story) - 1):
        world = await whole.as_of(seq)
        async with world.node(app, "node-2") as node:
            assert await node.router.claim("s", owners=("node-1",))
            await settle(TURNS_MAX)
            await world.play()
            assert end == await world.end()
        settled = [line for line in await world.story() if "COMPLETED" in line or "FIRED" in line]
        assert len(settled) == len(set(settled)), "none was run twice"


async def test_an_event_of_one_branch_does_not_look_at_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is owed is worked out anew for the operation that changed: else a thousand branches take a million looks."""
    looks = list[int]()

    def counted(state: SessionState) -> dict[EffectKey, Effect]:
        looks.append(len(state.open_operations))
        return dict(owed(state))

    monkeypatch.setattr(in_flight, "owed", counted)

    async def handler(ctx: SessionContext) -> object:
        return len(await ctx.gather(*(ctx.invoke_agent("agent", number) for number in range(50))))

    assert SessionCompleted(50) == await World().run(app_of(handler, agent=answer))
    assert [0, 0] == looks, "at its activation and at its end"


async def test_what_happens_at_once_after_a_takeover_waits_for_branches_that_ask_late() -> None:
    """An overdue timer does not overtake the branch that it cancels: that one had asked before it rang."""
    worlds = [World()]

    async def handler(ctx: SessionContext) -> object:
        async def late() -> None:
            await worlds[-1].clock.sleep(1)
            await ctx.sleep(100, name="late")

        branch = asyncio.create_task(late())
        await ctx.sleep(2, name="first")
        branch.cancel()
        return await ctx.step("after", noted, 1)

    app = app_of(handler)
    end = await worlds[0].run(app)
    world = await worlds[0].as_of((await worlds[0].story()).index("TIMER_STARTED late") + 1)
    worlds.append(world)
    await world.pass_time(10)
    assert end == await world.resume(app)
