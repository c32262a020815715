"""Children end before their parent, escalations climb, and deaths are told to whoever watches."""

import asyncio

import pytest
from actor_stage import NOON, Gate, Scripted, ending, running, scripted

from actors import (
    ActorContext,
    ActorRef,
    ActorStopped,
    ActorSystem,
    Directive,
    DuplicateActor,
    Failure,
    ManualClock,
    StopReason,
    Terminated,
    settle,
)


class Named:
    """An actor that writes down its end under its name, and may have a child below it."""

    def __init__(self, context: ActorContext[str], diary: list[str], levels: int) -> None:
        self.context = context
        self.diary = diary
        self.levels = levels

    async def activate(self) -> None:
        """Spawn one child, which spawns the next."""
        if self.levels:
            await spawn_named(self.context, self.levels - 1, self.diary)

    async def receive(self, message: str) -> None:
        """Fail."""
        raise ValueError(message)

    async def deactivate(self) -> None:
        """Write it down."""
        self.diary.append(self.context.actor_id)


async def spawn_named(
    parent: ActorSystem | ActorContext[str], levels: int, diary: list[str], directive: Directive = Directive.ESCALATE
) -> ActorRef[str]:
    """Return the top of a line of actors, "2" above "1" above "0"."""
    return await parent.spawn(
        str(levels), lambda context: Named(context, diary, levels), supervisor=lambda failure: directive
    )


async def test_children_stop_before_their_parent() -> None:
    """All the way down."""
    diary = list[str]()
    async with running() as system:
        await spawn_named(system, 3, diary)
        await settle()
        assert 4 == len(system)
        await system.stop("3")
        assert 0 == len(system)
    assert ["0", "1", "2", "3"] == diary


async def test_children_stop_before_their_parent_on_leaving_and_on_drain() -> None:
    """The same order, whoever gives the word."""
    left, drained = list[str](), list[str]()
    async with running() as system:
        await spawn_named(system, 2, left)
        await settle()
    async with running() as system:
        await spawn_named(system, 2, drained)
        await settle()
        assert ("0", "1", "2") == (await system.drain(10)).finished
    assert ["0", "1", "2"] == left == drained


async def test_an_escalation_climbs_to_the_parents_supervisor_as_the_parents_failure() -> None:
    """And on to the system, with the whole chain of causes."""
    diary, escalated = list[str](), list[Failure]()
    async with running(on_escalation=escalated.append) as system:
        top = await spawn_named(system, 2, diary)
        await settle()
        lowest = system.get("0")
        assert lowest is not None
        await lowest.tell("boom")
        assert StopReason.ESCALATED == (await top.stopped()).reason
        assert 0 == len(system)
    (failure,) = escalated
    chain = [failure]
    while chain[-1].cause is not None:
        chain.append(chain[-1].cause)
    assert ["2", "1", "0"] == [each.actor_id for each in chain]
    assert [] == diary


async def test_a_parent_that_restarts_on_a_childs_escalation_goes_on() -> None:
    """Its new self spawns the child anew."""
    async with running() as system:
        top = await spawn_named(system, 1, [], Directive.RESTART)
        await settle()
        first = system.get("0")
        assert first is not None
        await first.tell("boom")
        await settle()
        assert (False, True, 2) == (first.is_alive, top.is_alive, len(system))


async def test_a_stopping_actor_finishes_its_message_unharmed_and_starts_nothing_after() -> None:
    """A child spawned after the stop but within the message ends with it; in `deactivate` spawn and start raise."""
    seen, children = list[object](), list[str]()

    class Late(Scripted):
        async def deactivate(self) -> None:
            seen.append(await ending(self.context.spawn("b", scripted([]))))
            seen.append(await ending(start_work(self.context)))

    async def start_work(context: ActorContext[str]) -> None:
        context.background.start("w", Gate().passing(), lambda outcome: None)

    async def script(actor: Scripted, message: str) -> None:
        actor.context.stop()
        seen.append(await ending(actor.context.spawn("a", scripted([]))))
        await actor.context.spawn("child", scripted(children))
        await start_work(actor.context)
        await settle()

    async with running() as system:
        ref = await system.spawn("a", lambda context: Late(context, [], script))
        await ref.handled("go")
        assert StopReason.STOPPED == (await ref.stopped()).reason
        assert 0 == len(system)
    assert [DuplicateActor, ActorStopped, ActorStopped] == seen
    assert ["activate", "deactivate"] == children


async def test_a_child_that_waits_for_its_stopping_parents_answer_does_not_deadlock() -> None:
    """The parent refuses what it will not handle before it waits for its children."""
    seen, gate = list[object](), Gate()

    async def child_script(child: Scripted, message: str) -> None:
        seen.append(await ending(parents[0].handled("question")))

    async def parent_script(parent: Scripted, message: str) -> None:
        if message == "begin":
            child = await parent.context.spawn("child", scripted([], child_script))
            await child.tell("ask your parent")
            await gate.passing()

    async with running() as system:
        parents = [await system.spawn("parent", scripted([], parent_script))]
        await parents[0].tell("begin")
        await settle()
        async with asyncio.TaskGroup() as group:
            group.create_task(system.stop("parent"))
            await settle()
            gate.open()
        assert 0 == len(system)
    assert [ActorStopped] == seen


async def test_a_child_that_waits_for_its_restarting_parents_answer_is_cut() -> None:
    """A restart keeps the mailbox, so the child's question would wait for a parent that waits for the child."""

    async def child_script(child: Scripted, message: str) -> None:
        await parents[0].handled("question")

    async def parent_script(parent: Scripted, message: str) -> None:
        if message == "begin":
            child = await parent.context.spawn("child", scripted([], child_script))
            await child.tell("ask your parent")
            await gate.passing()
            raise ValueError(message)

    diary, gate = list[str](), Gate()
    async with running() as system:
        factory = scripted(diary, parent_script)
        parents = [await system.spawn("parent", factory, supervisor=lambda failure: Directive.RESTART)]
        await parents[0].tell("begin")
        await settle()
        gate.open()
        await settle()
        assert 1 == len(system)
    assert ["activate", "begin", "activate", "question", "deactivate"] == diary


@pytest.mark.parametrize("is_dead_already", [False, True])
async def test_a_watcher_is_told_of_a_death_even_when_it_lies_behind(is_dead_already: bool) -> None:
    """As a message of its own making, beyond its mailbox's bound."""
    diary = list[str]()

    def tell_end(terminated: Terminated) -> str:
        return f"{terminated.actor_id} {terminated.reason.value}"

    async def watch(actor: Scripted, message: str) -> None:
        if message == "watch":
            actor.context.watch(target, tell_end)

    async with running() as system:
        target = await system.spawn("target", scripted([]))
        watcher = await system.spawn("watcher", scripted(diary, watch), mailbox_max=1)
        if is_dead_already:
            await system.stop("target")
        await watcher.handled("watch")
        await system.stop("target")
        await settle()
    assert ["activate", "watch", "target stopped", "deactivate"] == diary


async def test_a_dead_watcher_leaves_nothing_behind_in_what_it_watched() -> None:
    """Nor is its end an obstacle to the target's."""

    async def watch(actor: Scripted, message: str) -> None:
        actor.context.watch(target, lambda terminated: "dead")
        actor.context.watch(actor.context.ref, lambda terminated: "me")

    async with running() as system:
        target = await system.spawn("target", scripted([]))
        watcher = await system.spawn("watcher", scripted([], watch))
        await watcher.handled("watch")
        await system.stop("watcher")
        assert {} == target._cell.watches
        await system.stop("target")


async def test_a_death_message_that_cannot_be_made_is_the_watchers_failure() -> None:
    """The one that died, and the other watchers, are not harmed."""
    diary = list[str]()

    async def watch_badly(actor: Scripted, message: str) -> None:
        actor.context.watch(target, lambda terminated: str(1 / 0))

    async def watch(actor: Scripted, message: str) -> None:
        if message == "watch":
            actor.context.watch(target, lambda terminated: "dead")

    async with running() as system:
        target = await system.spawn("target", scripted([]))
        bad = await system.spawn("bad", scripted([], watch_badly))
        good = await system.spawn("good", scripted(diary, watch))
        await bad.handled("watch")
        await good.handled("watch")
        await system.stop("target")
        assert StopReason.FAILED == (await bad.stopped()).reason
        await settle()
    assert ["activate", "watch", "dead", "deactivate"] == diary


async def test_stopping_an_ancestor_from_below_does_not_deadlock() -> None:
    """The call returns, and all end after the current message."""
    diary = list[str]()

    async def child_script(child: Scripted, message: str) -> None:
        await systems[0].stop("parent")
        diary.append("came back")

    async def parent_script(parent: Scripted, message: str) -> None:
        child = await parent.context.spawn("child", scripted(diary, child_script))
        await child.tell("stop your parent")

    async with running(ManualClock(NOON)) as system:
        systems = [system]
        parent = await system.spawn("parent", scripted([], parent_script))
        await parent.tell("begin")
        assert StopReason.STOPPED == (await parent.stopped()).reason
    assert ["activate", "stop your parent", "came back", "deactivate"] == diary
