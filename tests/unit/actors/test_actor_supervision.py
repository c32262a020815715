"""What a raise means: restart, stop, escalate; and that nobody else is harmed by it."""

import asyncio

import pytest
from actor_stage import NOON, Gate, Scripted, ending, explode, running, scripted

from actors import (
    ActorContext,
    ActorStopped,
    ActorSystem,
    Directive,
    Failure,
    ManualClock,
    StopReason,
    StrayCancellation,
    Supervisor,
    Terminated,
    restart_with_limit,
    settle,
    stop_on_failure,
)


async def fail_on_bang(actor: Scripted, message: str) -> None:
    """Raise ValueError when told "bang"."""
    if message == "bang":
        raise ValueError(message)


def always(directive: Directive, failures: list[Failure]) -> Supervisor:
    """Return a supervisor that writes down and orders the same each time."""

    def decide(failure: Failure) -> Directive:
        failures.append(failure)
        return directive

    return decide


async def spawn_and_bang(system: ActorSystem, diary: list[str], supervisor: Supervisor) -> Terminated:
    """Return how an actor ends that fails between two messages."""
    ref = await system.spawn("a", scripted(diary, fail_on_bang), supervisor=supervisor)
    for message in ("1", "bang", "2"):
        await ref.tell(message)
    await settle()
    await system.stop("a")
    return await ref.stopped()


async def test_stop_ends_the_actor_without_deactivate_and_reports_the_rest() -> None:
    """The failing message counts as handled, the next as unhandled."""
    diary = list[str]()
    async with running() as system:
        terminated = await spawn_and_bang(system, diary, stop_on_failure)
    assert ["activate", "1", "bang"] == diary
    assert (StopReason.FAILED, ("2",)) == (terminated.reason, terminated.unhandled)
    assert isinstance(terminated.error, ValueError)


async def test_restart_builds_a_new_actor_and_keeps_the_mailbox() -> None:
    """The failing message is dropped, the next handled by the new one."""
    diary, failures = list[str](), list[Failure]()
    async with running() as system:
        terminated = await spawn_and_bang(system, diary, always(Directive.RESTART, failures))
    assert ["activate", "1", "bang", "activate", "2", "deactivate"] == diary
    assert (StopReason.STOPPED, None, ()) == (terminated.reason, terminated.error, terminated.unhandled)
    assert [("a", "receive", 0)] == [(failure.actor_id, failure.phase, failure.restarts) for failure in failures]


async def test_escalation_at_the_top_gives_up_to_the_system_and_harms_no_sibling() -> None:
    """`gave_up` and `on_escalation` carry the failure; the sibling goes on."""
    diary, escalated = list[str](), list[Failure]()
    async with running(on_escalation=escalated.append) as system:
        sibling = await system.spawn("sibling", scripted(diary))
        terminated = await spawn_and_bang(system, [], always(Directive.ESCALATE, []))
        await sibling.handled("still here")
        assert [system.gave_up] == escalated
    assert (StopReason.ESCALATED, ("2",)) == (terminated.reason, terminated.unhandled)
    assert ["activate", "still here", "deactivate"] == diary


async def test_the_caller_is_told_before_the_supervisor_decides() -> None:
    """So `handled` raises the actor's error even when the supervisor stops the actor."""
    async with running() as system:
        ref = await system.spawn("a", scripted([], fail_on_bang))
        with pytest.raises(ValueError, match="bang"):
            await ref.handled("bang")


def broken_factory(context: ActorContext[str]) -> Scripted:
    """Build nothing."""
    raise OSError(context.actor_id)


def broken_supervisor(failure: Failure) -> Directive:
    """Decide nothing."""
    raise OSError(failure.actor_id)


async def test_a_failing_activation_or_factory_goes_to_the_supervisor() -> None:
    """With phase "activate", messages waiting meanwhile; the third try succeeds and handles them."""
    diary, failures, tries = list[str](), list[Failure](), iter(range(3))

    class Shaky(Scripted):
        async def activate(self) -> None:
            if next(tries) < 2:
                raise OSError("not yet")

    async with running() as system:
        supervisor = always(Directive.RESTART, failures)
        ref = await system.spawn("a", lambda context: Shaky(context, diary, fail_on_bang), supervisor=supervisor)
        await ref.handled("1")
        broken = await system.spawn("b", broken_factory)
        assert StopReason.FAILED == (await broken.stopped()).reason
    assert [("activate", 0), ("activate", 1)] == [(failure.phase, failure.restarts) for failure in failures]
    assert ["1", "deactivate"] == diary


async def test_endless_restarts_do_not_freeze_the_loop() -> None:
    """An activation that fails at once and for ever leaves turns to others."""

    class Broken(Scripted):
        async def activate(self) -> None:
            raise OSError("never")

    async with running() as system:
        supervisor = always(Directive.RESTART, [])
        await system.spawn("a", lambda context: Broken(context, [], fail_on_bang), supervisor=supervisor)
        other = await system.spawn("b", scripted([]))
        await other.handled("1")
        await system.stop("a")


async def test_a_failing_deactivation_ends_as_failed_and_restart_means_stop_then() -> None:
    """There is nothing left to restart."""
    failures = list[Failure]()

    class Untidy(Scripted):
        async def deactivate(self) -> None:
            raise OSError("mess")

    async with running() as system:
        supervisor = always(Directive.RESTART, failures)
        ref = await system.spawn("a", lambda context: Untidy(context, [], fail_on_bang), supervisor=supervisor)
        await ref.handled("1")
        await system.stop("a")
        assert (StopReason.FAILED, "deactivate") == ((await ref.stopped()).reason, failures[0].phase)


async def test_an_on_done_that_raises_is_the_actors_failure() -> None:
    """With phase "background", judged between two messages."""
    diary, failures = list[str](), list[Failure]()

    async def start_work(actor: Scripted, message: str) -> None:
        actor.context.background.start("work", Gate.passing(opened), explode)

    opened = Gate()
    opened.open()
    async with running() as system:
        ref = await system.spawn("a", scripted(diary, start_work), supervisor=always(Directive.STOP, failures))
        await ref.tell("go")
        assert StopReason.FAILED == (await ref.stopped()).reason
    assert ["background"] == [failure.phase for failure in failures]
    assert ["activate", "go"] == diary


async def test_an_on_done_that_raises_during_activation_is_judged_before_the_first_message() -> None:
    """It does not wait for something else to happen."""
    opened, failures = Gate(), list[Failure]()
    opened.open()

    class Hasty(Scripted):
        async def activate(self) -> None:
            self.context.background.start("work", opened.passing(), explode)
            await self.context.background.idle()

    async with running() as system:
        supervisor = always(Directive.STOP, failures)
        ref = await system.spawn("a", lambda context: Hasty(context, [], fail_on_bang), supervisor=supervisor)
        await settle()
        assert (["background"], False) == ([failure.phase for failure in failures], ref.is_alive)


async def test_what_the_cut_children_of_a_restarting_actor_escalate_is_not_its_new_selfs_failure() -> None:
    """They belonged to the old one: one failure, one restart."""
    failures = list[Failure]()

    async def clumsy(child: Scripted, message: str) -> None:
        try:
            await Gate().passing()
        finally:
            raise OSError("while being cut")

    async def script(actor: Scripted, message: str) -> None:
        if message == "begin":
            child = await actor.context.spawn("child", scripted([], clumsy), supervisor=always(Directive.ESCALATE, []))
            await child.tell("go")
        await fail_on_bang(actor, message)

    async with running() as system:
        ref = await system.spawn("a", scripted([], script), supervisor=always(Directive.RESTART, failures))
        for message in ("begin", "bang"):
            await ref.tell(message)
            await settle()
        assert (["receive"], True, 1) == ([failure.phase for failure in failures], ref.is_alive, len(system))


async def test_a_restart_ends_the_work_and_the_children_of_the_failed_actor() -> None:
    """The new one may spawn the same child; the outcome of the old work is a message like any other."""
    diary, children = list[str](), list[str]()

    async def script(actor: Scripted, message: str) -> None:
        context = actor.context
        if message == "begin":
            await context.spawn("child", scripted(children))
            context.background.start("w", Gate().passing(), lambda out: context.tell_self(type(out).__name__))
        await fail_on_bang(actor, message)

    async with running() as system:
        ref = await system.spawn("a", scripted(diary, script), supervisor=always(Directive.RESTART, []))
        for message in ("begin", "bang", "begin"):
            await ref.tell(message)
            await settle()
        assert 2 == len(system)
    assert ["activate", "begin", "bang", "activate", "Cancelled", "begin", "deactivate"] == diary
    assert ["activate", "deactivate"] * 2 == children


async def test_a_supervisor_that_raises_escalates() -> None:
    """Its bug must not pass unseen."""
    async with running() as system:
        await spawn_and_bang(system, [], broken_supervisor)
        assert system.gave_up is not None


async def test_an_on_escalation_that_raises_harms_nobody() -> None:
    """It is logged, and the system goes on."""
    async with running(on_escalation=explode) as system:
        await spawn_and_bang(system, [], always(Directive.ESCALATE, []))
        await (await system.spawn("b", scripted([]))).handled("1")


async def test_a_cancelled_error_of_the_actors_own_making_is_a_failure() -> None:
    """Awaiting something that was cancelled elsewhere does not kill an actor silently."""

    async def await_cancelled(actor: Scripted, message: str) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with running() as system:
        ref = await system.spawn("a", scripted([], await_cancelled))
        with pytest.raises(StrayCancellation):
            await ref.handled("1")
        terminated = await ref.stopped()
        assert (StopReason.FAILED, StrayCancellation) == (terminated.reason, type(terminated.error))


async def test_a_failure_after_a_requested_stop_is_still_a_failure() -> None:
    """And RESTART means no more than an end without deactivate."""

    async def stop_and_fail(actor: Scripted, message: str) -> None:
        actor.context.stop()
        raise ValueError(message)

    for directive, reason in ((Directive.STOP, StopReason.FAILED), (Directive.RESTART, StopReason.STOPPED)):
        diary = list[str]()
        async with running() as system:
            ref = await system.spawn("a", scripted(diary, stop_and_fail), supervisor=always(directive, []))
            assert ValueError is await ending(ref.handled("1"))
            assert ActorStopped is await ending(ref.handled("2"))
            assert reason == (await ref.stopped()).reason
        assert ["activate", "1"] == diary


def test_restart_with_limit_escalates_when_an_actor_fails_too_often_within_the_time() -> None:
    """Counted per actor, over a sliding window."""
    clock = ManualClock(NOON)
    supervisor = restart_with_limit(2, within=10, clock=clock)
    restart, escalate = Directive.RESTART, Directive.ESCALATE

    def decide(actor_id: str) -> Directive:
        return supervisor(Failure(actor_id, ValueError(), "receive", 0))

    assert [restart, restart] == [decide("a"), decide("a")]
    clock.advance(9)
    assert [escalate, restart] == [decide("a"), decide("b")]
    clock.advance(2)
    assert [restart, restart, escalate] == [decide("b"), decide("a"), decide("b")]
