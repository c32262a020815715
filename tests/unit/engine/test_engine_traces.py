"""One session is one trace, whoever runs it: its spans come from the journal, each once, and hold nothing in memory."""

import asyncio
from datetime import timedelta

import pytest
from engine_life import live, until_suspended
from engine_telemetry import Seen, Watched, trace_ids
from engine_world import Gate, Node, app_of
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased

from actors import settle
from orchestrator import NonRetryable, RetryPolicy, SessionContext, current_invocation
from orchestrator.intake import Start
from orchestrator.invocation import CallResult
from orchestrator.notifications.memory import MemoryNotifications
from orchestrator.session.events import SessionCompleted, SessionFailed, SessionStarted
from orchestrator.session.tracing import root_id, span_id
from orchestrator.session.values import Json

SUBMITTER = "00-6a000000aaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-01"
UNSAMPLED = SUBMITTER[:-2] + "00"
ROOT = "session main"
ACTIVATION = "activation"


async def submit(node: Node, payload: Json = None, *, trace_context: str | None = None, session_id: str = "s") -> None:
    """Start a session as one that was submitted under that trace."""
    start = Start("main", session_id, "default", payload, trace=trace_context, input_bytes=4)
    await node.router.start(start)


async def same(value: object) -> object:
    """Return what it got."""
    return value


async def test_operations_are_children_of_the_session_which_is_one_of_its_submitter() -> None:
    """Steps, timers, agents and their attempts, each with the time that it took."""
    gate, world = Gate(), Watched()

    async def slow(_: object) -> Json:
        await gate.passing()
        return {"usage": {"input_tokens": 30, "output_tokens": 10}}

    async def handler(ctx: SessionContext) -> object:
        await ctx.step("first", same, 1)
        await ctx.sleep(5)
        return await ctx.invoke_agent("slow", "go", name="ask")

    async with world.node(app_of(handler, slow=slow)) as node:
        await submit(node, trace_context=SUBMITTER)
        await settle()
        await world.pass_time(5)
        await gate.reached()
        await world.pass_time(7)
        gate.open()
        assert isinstance(await world.end(), SessionCompleted)
    assert [
        ("agent slow", ROOT),
        ("invoke_agent slow", "agent slow"),
        (ROOT, "bbbbbbbbbbbbbbbb"),
        ("step first", ROOT),
        ("timer sleep", ROOT),
    ] == world.tree()
    assert {SUBMITTER.split("-")[1]} == trace_ids(world.spans())
    assert (12.0, 5.0, 7.0) == tuple(
        round(world.named(name).seconds, 1) for name in (ROOT, "timer sleep", "invoke_agent slow")
    )
    attempt = world.named("invoke_agent slow").attributes
    assert {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "slow",
        "gen_ai.conversation.id": "s",
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 10,
    } == {name: value for name, value in attempt.items() if name.startswith("gen_ai")}


async def test_a_step_takes_the_time_of_its_attempts_though_the_journal_holds_its_end_alone() -> None:
    """From the first attempt's beginning, pauses between attempts included."""
    gate, world = Gate(), Watched()

    async def handler(ctx: SessionContext) -> object:
        return await ctx.step("slow", gate.passing)

    async with world.node(app_of(handler)) as node:
        await submit(node)
        await gate.reached()
        await world.pass_time(4)
        gate.open()
        await world.end()
    assert 4.0 == round(world.named("step slow").seconds, 1)


async def test_every_attempt_at_an_agent_run_is_a_span_and_a_failure_says_its_code() -> None:
    """The session's own span fails with what it failed of; texts stay in the journal."""
    world = Watched()

    async def fails(_: object) -> Json:
        raise NonRetryable("secret words") if current_invocation().attempt == 2 else ValueError("secret words")

    async def handler(ctx: SessionContext) -> object:
        retry = RetryPolicy(max_attempts=3, initial_delay=timedelta(seconds=2))
        return await ctx.invoke_agent("fails", "go", retry=retry)

    async with world.node(app_of(handler, fails=fails)) as node:
        await submit(node)
        await world.play()
        assert isinstance(await world.end(), SessionFailed)
    spans = world.spans()
    assert ["invoke_agent fails"] * 2 + ["agent fails", ROOT] == [seen.name for seen in spans]
    assert all(seen.error is not None for seen in spans), spans
    assert 2 == spans[2].attributes["orchestrator.operation.attempts"]
    assert "secret" not in str(spans)


async def test_parallel_branches_are_siblings_that_overlap() -> None:
    """Each operation under its own name, with the branch that it ran in among its attributes."""
    world = Watched()

    async def handler(ctx: SessionContext) -> object:
        async def branch(seconds: int) -> None:
            await ctx.sleep(seconds)
            await ctx.step("after", same, seconds)

        return await ctx.map("parts", branch, [2, 4])

    async with world.node(app_of(handler)) as node:
        await submit(node)
        await world.play()
        await world.end()
    timers = [seen for seen in world.spans() if seen.name == "timer sleep"]
    assert [ROOT, ROOT] == [seen.parent for seen in timers]
    assert max(seen.started_at for seen in timers) < min(seen.ended_at for seen in timers)
    assert 2 == len({seen.attributes["orchestrator.operation"] for seen in timers})


async def test_a_child_session_is_a_child_of_the_operation_that_started_it() -> None:
    """In the parent's trace."""
    world = Watched()

    async def parent(ctx: SessionContext) -> object:
        return await ctx.run_session("child", 1)

    async def child(ctx: SessionContext, value: int) -> object:
        return await ctx.step("work", same, value)

    app = app_of(parent)
    app.session("child")(child)
    async with world.node(app) as node:
        await submit(node)
        await world.end()
    assert [
        ("run_session child", ROOT),
        ("session child", "run_session child"),
        (ROOT, None),
        ("step work", "session child"),
    ] == world.tree()
    assert 1 == len(trace_ids(world.spans()))


async def test_a_session_that_leaves_memory_tells_of_each_stay_and_of_the_one_before() -> None:
    """And of the operation that lasted over both once, by whoever recorded its end."""
    world = Watched()
    world.passivate_after = 0.5

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("before", same, 1)
        await ctx.sleep(3_600)

    async with world.node(app_of(handler)) as node, world.node(app_of(handler), "node-2") as other:
        await submit(node)
        await until_suspended(world, node)
        (stay,) = [seen for seen in world.spans() if seen.name == ACTIVATION]
        assert ("suspended", "node-1") == _how(stay)
        await world.pass_time(3_600)
        assert await other.claim(only_unowned=True)
        await world.end()
    spans = world.spans()
    first, second = (seen for seen in spans if seen.name == ACTIVATION)
    assert ("ended", "node-2") == _how(second)
    assert ((), (ACTIVATION,)) == (first.links, second.links)
    assert 1 == len([seen for seen in spans if seen.name == "timer sleep"]) == len(trace_ids(spans))
    assert 3_600 <= world.named("timer sleep").seconds < 3_602


async def test_who_takes_over_from_the_dead_tells_of_their_stay_and_of_what_they_may_not_have_told() -> None:
    """The dead node's exporter lost what it had; with the same ids, nothing is there twice that was told before."""
    world = Watched()

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("long-before", same, 1)
        await ctx.sleep(60)
        await ctx.step("just-before", same, 1)
        await ctx.sleep(1)

    async with world.node(app_of(handler)) as node, world.node(app_of(handler), "node-2") as successor:
        await submit(node)
        await settle()
        await world.pass_time(60)
        world.of_sessions.told.clear()
        node.crash()
        await live(world, successor, dead=("node-1",))
        await world.end()
    spans = world.spans()
    names = [seen.name for seen in spans]
    assert {"step just-before": 1, "step long-before": 0} == {
        name: names.count(name) for name in ("step just-before", "step long-before")
    }
    lost, second = (seen for seen in spans if seen.name == ACTIVATION)
    assert (("lost", "node-1"), ("ended", "node-2")) == (_how(lost), _how(second))
    assert (ACTIVATION,) == second.links
    ids = [seen.span_id for seen in spans]
    assert len(ids) == len(set(ids))


async def test_a_next_generation_belongs_to_the_trace_and_follows_the_one_before() -> None:
    """By a link: it is nobody's child but the submitter's."""
    world = Watched()

    async def handler(ctx: SessionContext, number: int) -> int:
        if number == 0:
            ctx.continue_as_new(1)
        return number

    async with world.node(app_of(handler)) as node:
        await submit(node, 0, trace_context=SUBMITTER)
        await world.end("s:g2")
    spans = world.spans()
    assert [(ROOT, "bbbbbbbbbbbbbbbb")] * 2 == [(seen.name, seen.parent) for seen in spans]
    assert [(), (ROOT,)] == sorted(seen.links for seen in spans)


@pytest.mark.parametrize("given", [UNSAMPLED, None], ids=["by the submitter", "by the sampler"])
async def test_what_was_not_sampled_at_the_start_is_never_exported(given: str | None) -> None:
    """Whatever another node's sampler would decide: the decision stands in event 1."""
    world = Watched(sampler=ParentBased(ALWAYS_OFF))
    other = Watched()

    async def handler(ctx: SessionContext) -> None:
        await ctx.sleep(1)

    async with world.node(app_of(handler)) as node:
        await submit(node, trace_context=given)
        await settle()
        node.crash()
    world.telemetry = other.telemetry
    assert isinstance(await world.resume(app_of(handler)), SessionCompleted)
    first = (await world.recorded())[0].event
    assert isinstance(first, SessionStarted)
    assert (first.trace or "").endswith("-00")
    assert [] == world.spans() == other.spans()


async def test_a_share_of_the_traces_is_kept_where_the_sampler_says_so() -> None:
    """Decided by the trace's id, as every OpenTelemetry sampler of that kind does."""
    world = Watched(sampler=ParentBased(TraceIdRatioBased(0.5)))

    async def handler(_: SessionContext) -> None:
        return None

    async with world.node(app_of(handler)) as node:
        for number in range(40):
            await submit(node, session_id=f"s{number}")
            await world.end(f"s{number}")
    assert 5 < len(world.spans()) < 35


async def test_spans_that_steps_and_agents_begin_are_children_of_their_own() -> None:
    """What they ask others carries the same context, in the heads that a library puts on it."""
    world = Watched()
    carried = dict[str, dict[str, str]]()

    async def helper(_: object) -> str:
        with world.tracer.start_as_current_span("inside agent"):
            propagate.inject(carried.setdefault("agent", {}))
        return current_invocation().trace or ""

    def in_a_thread() -> None:
        with world.tracer.start_as_current_span("inside step"):
            pass

    async def handler(ctx: SessionContext) -> object:
        await ctx.step("work", in_a_thread)
        assert not trace.get_current_span().get_span_context().is_valid
        return await ctx.invoke_agent("helper", "go")

    async with world.node(app_of(handler, helper=helper)) as node:
        await submit(node, trace_context=SUBMITTER)
        end = await world.end()
    assert {("inside step", "step work"), ("inside agent", "invoke_agent helper")} <= set(world.tree())
    assert isinstance(end, SessionCompleted)
    assert str(end.result).split("-")[1] == SUBMITTER.split("-")[1] == carried["agent"]["traceparent"].split("-")[1]


async def test_calls_within_an_agent_run_are_children_of_the_attempt_that_made_them() -> None:
    """With the tokens that each of them used."""
    world = Watched()

    async def agent(_: object) -> Json:
        calls = current_invocation().calls
        assert calls is not None

        async def ask() -> CallResult:
            return CallResult("said", {"input_tokens": 5, "output_tokens": 3})

        return await calls.run("model.1", ask)

    async def handler(ctx: SessionContext) -> object:
        return await ctx.invoke_agent("agent", "go")

    async with world.node(app_of(handler, agent=agent)) as node:
        await submit(node)
        await world.end()
    call = world.named("call model.1")
    assert "invoke_agent agent" == call.parent
    assert (5, 3) == tuple(call.attributes[f"gen_ai.usage.{kind}_tokens"] for kind in ("input", "output"))


async def test_whoever_hears_of_an_end_hears_of_its_trace() -> None:
    """Notices name the session's own span, so that what they set off hangs below it."""
    world = Watched()
    world.notifications = MemoryNotifications(channels_of_end=("bus",), channels_of_approval=("bus",))

    async def handler(ctx: SessionContext) -> None:
        await asyncio.gather(ctx.request_approval("ok", "this"), ctx.sleep(1))

    async with world.node(app_of(handler)) as node:
        await submit(node, trace_context=SUBMITTER)
        await settle()
        await node.deliveries.approve("s", "ok", True, "ann", None)
        await world.play()
        await world.end()
        await settle()
    trace_id = SUBMITTER.split("-")[1]
    (asked,), (ended,) = world.notifications.approvals, world.notifications.ends
    assert f"00-{trace_id}-{span_id('s', 'ok').hex()}-01" == asked.trace
    assert f"00-{trace_id}-{root_id('s').hex()}-01" == ended.trace


def _how(stay: Seen) -> tuple[object, object]:
    return stay.attributes["orchestrator.activation.ended"], stay.attributes["orchestrator.node"]


async def test_an_unsampled_session_has_no_attempts_and_no_stays_either() -> None:
    """Whatever would be a span of it: agent runs, and what is told when it leaves memory."""
    world = Watched(sampler=ParentBased(ALWAYS_OFF))

    async def agent(_: object) -> Json:
        return {}

    async def handler(ctx: SessionContext) -> None:
        await ctx.invoke_agent("agent", "go")
        await ctx.sleep(3_600)

    async with world.node(app_of(handler, agent=agent)) as node:
        await submit(node, trace_context=f"{SUBMITTER[:-2]}00")
        await until_suspended(world, node)
        await world.pass_time(3_600)
        assert await node.claim(only_unowned=True)
        await world.end()
    assert [] == world.spans()


async def test_where_metrics_alone_are_wanted_a_sampled_trace_has_no_spans() -> None:
    """Another node, or the submitter, keeps its own."""
    world = Watched()
    world.kept._spans = None

    async def handler(ctx: SessionContext) -> object:
        return await ctx.step("once", same, 1)

    async with world.node(app_of(handler)) as node:
        await submit(node, trace_context=SUBMITTER)
        await world.end()
    assert [] == world.spans()
    assert [] == world.failures()
    assert [1] == [*world.metric("orchestrator.sessions.ended").values()]
