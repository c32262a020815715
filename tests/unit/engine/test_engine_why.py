"""Whoever asks why a session does not go on is told in words: what it waits for, since when, where, and what to do."""

import asyncio
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from engine_why import explained, registry, waits, watch_of
from engine_world import NOON, Gate, Handler, Node, World, app_of

from actors import settle
from orchestrator import Budget, Orchestrator, RetryPolicy, SessionContext, current_invocation
from orchestrator.cluster import BLOCKED_ERROR
from orchestrator.inbox import UnknownSession
from orchestrator.notifications.tries import UNDELIVERED
from orchestrator.session.events import Recorded, ValueRecorded
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import JsonObject
from orchestrator.why import lasting
from orchestrator.why.explaining import unknown

DAY = timedelta(days=1)


@asynccontextmanager
async def running(handler: Handler, **agents: object) -> AsyncIterator[tuple[World, Node]]:
    """Start session `s` on `node-1`, and let it go as far as it goes in an hour; it is cut off with the block."""
    world = World()
    async with world.node(app_of(handler, **agents)) as node:
        await node.start()
        await settle()
        await world.pass_time(60)
        await world.pass_time(3_540)
        yield world, node
        node.crash()


# --- what runs -------------------------------------------------------------------------------------------------------


async def test_of_a_step_that_runs_its_node_tells_the_name() -> None:
    """No event stands in the journal before it ends, so the table alone can only say what came before."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> None:
        await ctx.step("first", gate_of_none)
        await ctx.step("fetch", gate.passing)

    async with running(handler) as (world, node):
        told = await explained(world, node=node)
        assert ("RUNNING", "node-1") == (told.state, told.node)
        assert told.sentences[0] == (
            "Session s (main, tenant default) is RUNNING, on node node-1; "
            "its last change was 1 h ago, at 2026-01-01T12:00:00.000Z."
        )
        assert [
            "It runs step `fetch` on node node-1; nothing was recorded since 2026-01-01T12:00:00.000Z (1 h)."
        ] == waits(told)
        (alone,) = waits(await explained(world, beats=True))
        assert alone.startswith("Its handler runs after step `first`: a step, which is recorded when it ends, or code")
        gate.open()


async def gate_of_none() -> None:
    """End at once."""


async def test_of_an_agent_run_its_attempt_and_its_time_limit_are_told() -> None:
    """The journal knows it from its order on; whoever asks needs no node for that."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> None:
        await ctx.invoke_agent("writer", "tea", timeout=timedelta(hours=4))

    async with running(handler, writer=gate.passing) as (world, node):
        expected = [
            "It runs agent `writer` (operation `writer`, attempt 1) on node node-1 since 2026-01-01T12:00:00.000Z "
            "(1 h), at most 4 h."
        ]
        assert expected == waits(await explained(world, beats=True))
        assert expected == waits(await explained(world, node=node))
        gate.open()


async def test_code_of_the_handlers_own_is_told_of_as_such() -> None:
    """Between operations nothing is recorded; its node sees that it runs, and no operation does."""

    async def handler(ctx: SessionContext) -> None:
        await asyncio.Event().wait()

    async with running(handler) as (world, node):
        (told,) = waits(await explained(world, node=node))
        assert told.startswith("Its handler runs code of its own on node node-1, between operations; nothing was")


async def test_a_pause_before_another_attempt_is_told_with_its_reason() -> None:
    """And when it is over; for a step and an agent run alike."""

    async def fails(*_: object) -> None:
        raise ConnectionError("no route")

    retry = RetryPolicy(max_attempts=5, initial_delay=timedelta(days=2), max_delay=timedelta(days=2))

    async def handler(ctx: SessionContext) -> None:
        await ctx.gather(ctx.step("fetch", fails, retry=retry), ctx.invoke_agent("writer", "tea", retry=retry))

    async with running(handler, writer=fails) as (world, node):
        ends = "again after ConnectionError: no route: attempt 2 is due at 2026-01-02T12:00:00.000Z (in 23 h)."
        expected = {f"It waits to try {kind} {ends}" for kind in ("step `fetch`", "agent `writer`")}
        assert expected == set(waits(await explained(world, node=node)))


@pytest.mark.parametrize(
    ("mark", "says"),
    [
        ("dead", "Node node-1 is dead or drained since 2026-01-01T12:00:00.000Z: another node takes the session over."),
        ("gone", "Node node-1 is not registered any more: another node takes the session over."),
        ("still", "Node node-1 (node-1.test:8080) does not beat: others take the session over once they see that."),
    ],
)
async def test_a_node_that_is_no_more_is_named_with_who_takes_over(mark: str, says: str) -> None:
    """What it had in hand runs again elsewhere: the session waits for that."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> None:
        await ctx.invoke_agent("writer", "tea")

    async with running(handler, writer=gate.passing) as (world, _):
        nodes = await registry(*(() if mark == "gone" else ("node-1",)), "node-2")
        if mark == "dead":
            await nodes.declare_dead("node-1", at=NOON, beat=None)
        told = await explained(world, nodes=nodes, beats=False if mark == "still" else None)
        assert says == told.sentences[1]
        assert [("takeover", None)] == [(wait.what, wait.node) for wait in told.waits_for]
        gate.open()


async def test_that_no_node_lives_is_said() -> None:
    """Then nothing goes on, whatever is due."""
    async with running(sleeps) as (world, _):
        told = await explained(world, nodes=await registry())
        assert told.sentences[-1].startswith("No node is registered as living: nothing goes on until one runs")


async def test_a_session_in_nobodys_hands_waits_for_a_node_with_room() -> None:
    """Its owner handed it over; what ran there runs again."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> None:
        await ctx.invoke_agent("writer", "tea")

    world = World()
    async with world.node(app_of(handler, writer=gate.passing)) as node:
        await node.start()
        await settle()
    told = await explained(world)
    assert "No node has it, due since 2026-01-01T12:00:00.000Z: the next one with room takes it over." in told.sentences
    (wait,) = told.waits_for
    assert ("takeover", None) == (wait.what, wait.node)
    assert wait.says.startswith("It was running agent `writer` (operation `writer`, attempt 1) since 2026-01-01T12:00")


# --- what waits for the world outside --------------------------------------------------------------------------------


async def sleeps(ctx: SessionContext) -> None:
    """Sleep for two days."""
    await ctx.sleep(2 * DAY)


async def awaits_signal(ctx: SessionContext) -> None:
    """Wait for a signal, in a scope, for as long as it takes."""

    async def inner(scoped: SessionContext) -> None:
        await scoped.wait_for_signal("nudge")

    await ctx.scope("inside", inner)


async def awaits_signal_for_a_day(ctx: SessionContext) -> None:
    """Wait for a signal until tomorrow."""
    await ctx.wait_for_signal("nudge", timeout=DAY)


async def awaits_callback(ctx: SessionContext) -> None:
    """Wait for a callback until tomorrow."""
    await (await ctx.create_callback("answer", timeout=DAY)).result()


async def asks_ann(ctx: SessionContext) -> None:
    """Ask Ann and Bob."""
    await ctx.request_approval("publish", {"draft": 1}, approvers=["ann", "bob"], timeout=DAY)


async def asks_anybody(ctx: SessionContext) -> None:
    """Ask whoever reads it."""
    await ctx.request_approval("publish", None)


@pytest.mark.parametrize(
    ("handler", "what", "says", "commands"),
    [
        (
            sleeps,
            "timer",
            "It sleeps (timer `sleep`) since 2026-01-01T12:00:00.000Z (1 h), until 2026-01-03T12:00:00.000Z "
            "(in 1 d 23 h).",
            (),
        ),
        (
            awaits_signal,
            "signal",
            "It waits for signal `nudge`, without a time limit, since 2026-01-01T12:00:00.000Z (1 h).",
            ("orchestrator signal s nudge --data 'null'",),
        ),
        (
            awaits_signal_for_a_day,
            "signal",
            "It waits for signal `nudge` since 2026-01-01T12:00:00.000Z (1 h), until 2026-01-02T12:00:00.000Z "
            "(in 23 h).",
            ("orchestrator signal s nudge --data 'null'",),
        ),
        (
            asks_ann,
            "approval",
            'It waits for ann or bob to approve `publish` ({"draft": 1}), since 2026-01-01T12:00:00.000Z (1 h), '
            "until 2026-01-02T12:00:00.000Z (in 23 h).",
            ("orchestrator approve s publish --by ann", "orchestrator reject s publish --by ann"),
        ),
        (
            asks_anybody,
            "approval",
            "It waits for anybody to approve `publish` (null), since 2026-01-01T12:00:00.000Z (1 h), without a time "
            "limit.",
            ("orchestrator approve s publish --by WHO", "orchestrator reject s publish --by WHO"),
        ),
    ],
    ids=["timer", "signal", "signal until", "approval", "approval of anybody"],
)
async def test_what_a_suspended_session_waits_for_is_told_with_the_command_that_answers(
    handler: Handler, what: str, says: str, commands: tuple[str, ...]
) -> None:
    """Since when and until when; no node has it, and none is asked."""
    async with running(handler) as (world, _):
        told = await explained(world)
        assert ("SUSPENDED", None) == (told.state, told.node)
        (wait,) = told.waits_for
        assert (what, says, commands) == (wait.what, wait.says, wait.commands)


async def test_the_name_of_an_approver_comes_through_a_shell_as_it_is() -> None:
    """It may be any text, and somebody who looks for help copies the command."""
    name = "Ann O'Neill; reboot"

    async def asks(ctx: SessionContext) -> None:
        await ctx.request_approval("publish", None, approvers=[name])

    async with running(asks) as (world, _):
        (wait,) = (await explained(world)).waits_for
        assert [["orchestrator", word, "s", "publish", "--by", name] for word in ("approve", "reject")] == [
            shlex.split(command) for command in wait.commands
        ]


async def test_a_callback_is_answered_by_whoever_has_its_token() -> None:
    """The command has its id; the token stands nowhere."""
    async with running(awaits_callback) as (world, _):
        (wait,) = (await explained(world)).waits_for
        assert wait.says == (
            "It waits for callback `answer` to be answered by whoever has its token, since 2026-01-01T12:00:00.000Z "
            "(1 h), until 2026-01-02T12:00:00.000Z (in 23 h)."
        )
        (callback_id,) = [op.order.callback_id for op in (await world.state()).open_operations.values()]  # type: ignore[union-attr]
        assert (f"orchestrator callback {callback_id} --token - --success 'null'",) == wait.commands


async def test_a_signal_is_named_while_the_session_is_in_memory_too() -> None:
    """Then it is its node that tells: HEAD is written when the session leaves."""
    world = World()
    async with world.node(app_of(awaits_signal)) as node:
        await node.start()
        await settle()
        assert "RUNNING" == (await world.head()).status
        (told,) = waits(await explained(world, node=node))
        assert told.startswith("It waits for signal `nudge`, without a time limit, since")


async def test_a_signal_that_came_is_waited_for_no_more() -> None:
    """What HEAD said when the session left memory is not said again when it rests for another reason."""

    async def handler(ctx: SessionContext) -> None:
        await ctx.wait_for_signal("nudge")
        await ctx.sleep(DAY)

    async with running(handler) as (world, node):
        await node.deliveries.signal("s", "nudge", None, "m-1")
        await settle()
        await world.pass_time(60)
        assert ["timer"] == [wait.what for wait in (await explained(world)).waits_for]


async def test_what_head_still_says_of_a_signal_that_came_is_not_believed() -> None:
    """Handed over in between, HEAD stays as it was; the journal knows better."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> None:
        await ctx.wait_for_signal("nudge")
        await ctx.step("fetch", gate.passing)

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await world.pass_time(60)
        await node.deliveries.signal("s", "nudge", None, "m-1")
        await settle()
    assert ["nudge"] == (await world.head()).attributes["signals_awaited"]
    assert ["takeover"] == [wait.what for wait in (await explained(world)).waits_for]


async def test_an_agent_run_that_asks_somebody_is_told_by_its_question() -> None:
    """Nothing runs: whoever answers lets it go on."""

    async def asks_in_a_run(prompt: object) -> object:
        calls = current_invocation().calls
        assert calls is not None
        return await calls.ask("publish", {"draft": 1})

    async def handler(ctx: SessionContext) -> None:
        await ctx.invoke_agent("writer", "tea")

    async with running(handler, writer=asks_in_a_run) as (world, node):
        (wait,) = (await explained(world, node=node)).waits_for
        assert ("approval", True) == (wait.what, 'to approve `writer/publish` ({"draft": 1})' in wait.says)


async def test_a_journal_that_cannot_be_read_is_told_with_the_place() -> None:
    """What the session waits for besides cannot be known."""
    async with running(sleeps) as (world, _):
        event = ValueRecorded("go", {"signal": "go", "message_id": "never-received"})
        seq = (await world.recorded())[-1].seq + 1
        await world.journal.append("s", (Recorded(seq, event, NOON, 1, "node-1", "odd"),), started_at=NOON)
        told = await explained(world)
        assert f"Its journal cannot be read: event {seq} of s cannot follow: " in told.sentences[1]
        assert () == told.waits_for


async def test_what_was_due_long_ago_is_told_as_overdue() -> None:
    """A timer that nobody rang: the reader is led to the nodes."""
    world = World()
    async with world.node(app_of(sleeps)) as node:
        await node.start()
        await settle()
        await world.pass_time(60)
        node.crash()
        await world.pass_time(3 * 86_400)
    (told,) = waits(await explained(world))
    assert told.endswith(
        "until 2026-01-03T12:00:00.000Z, which is 1 d ago and no node has seen to it: see whether one lives."
    )


async def test_a_child_is_explained_inside_its_parent() -> None:
    """And a child's child in there, to a bounded depth."""
    app = Orchestrator()

    @app.session("main")
    async def main(ctx: SessionContext) -> None:
        await ctx.run_session("middle", None, key="middle")

    @app.session("middle")
    async def middle(ctx: SessionContext) -> None:
        await ctx.run_session("asker", None, key="asker")

    app.session("asker")(asks_ann)
    world = World()
    async with world.node(app) as node:
        await node.start()
        await settle()
        await world.pass_time(60)
        told = await explained(world)
        (outer,) = told.waits_for
        assert outer.child is not None
        assert outer.says.startswith(
            f"It waits for its child session {outer.child.session_id} (middle, operation `middle`)"
        )
        assert (f"orchestrator why {outer.child.session_id}",) == outer.commands
        (inner,) = outer.child.waits_for
        assert inner.child is not None
        assert ["approval"] == [wait.what for wait in inner.child.waits_for]
        assert any("to approve `publish`" in line and line.startswith("        - ") for line in told.lines())


async def test_a_session_at_its_cap_waits_for_people_to_grant_more() -> None:
    """By the name that `orchestrator approve` takes."""
    app = Orchestrator()
    app.agent("writer")(gate_of_anything)

    @app.session("main", budget=Budget(agent_calls=1, on_reached="ask"))
    async def main(ctx: SessionContext) -> None:
        for _ in range(2):
            await ctx.invoke_agent("writer", "tea")

    world = World()
    async with world.node(app) as node:
        await node.start()
        await settle()
        (wait,) = (await explained(world)).waits_for
        assert "budget" == wait.what
        assert wait.says.startswith(
            'Its budget is spent ({"cap": "agent_calls", "limit": 1, "used": 1}): it waits for anybody to grant more,'
        )
        assert "orchestrator approve s budget --by WHO" == wait.commands[0]
        # The run that it holds back waits for nothing else, as its node sees it, and as HEAD has it afterwards.
        assert [wait] == list((await explained(world, node=node)).waits_for)
        await world.pass_time(60)
        assert ["budget"] == [each.what for each in (await explained(world)).waits_for]


async def gate_of_anything(prompt: object) -> str:
    """Return at once."""
    return "done"


# --- what is held back -----------------------------------------------------------------------------------------------


async def test_a_queued_session_knows_its_place() -> None:
    """Its tenant's limit, what is in use, and how many are before it."""
    world = World(tenant_limit=1)
    async with world.node(app_of(sleeps)) as node:
        for name in ("a", "b", "s"):
            await node.start(session_id=name, tenant="acme")
        await world.pass_time(60)
        told = await explained(world)
        assert "QUEUED" == told.state
        (wait,) = told.waits_for
        assert wait.says == (
            "It waits for a slot of tenant acme since 2026-01-01T12:00:00.000Z (1 min): "
            "1 of 1 are in use, 2 wait, and 1 is before it."
        )
        assert "orchestrator tenants set acme --limit N" == wait.commands[0]


async def test_what_a_pause_holds_back_is_no_wait_of_its_own() -> None:
    """What the handler asks for meanwhile begins with the resume: that is what it waits for, and nothing else."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> None:
        await ctx.invoke_agent("writer", "tea")
        await ctx.sleep(DAY)

    async with running(handler, writer=gate.passing) as (world, node):
        await node.deliveries.pause("s", "look at this first", "m-1")
        gate.open()
        await settle()
        assert ["resume"] == [wait.what for wait in (await explained(world, node=node)).waits_for]
        await world.pass_time(60)
        assert (await world.head()).owner is None
        assert ["resume"] == [wait.what for wait in (await explained(world)).waits_for]


async def test_a_paused_session_says_why_and_how_it_goes_on() -> None:
    """By the reason that was given, and the command that resumes it; what it waits for besides stands behind that."""
    async with running(awaits_signal_for_a_day) as (world, node):
        await node.deliveries.pause("s", "look at this first", "m-1")
        await settle()
        await world.pass_time(60)
        told = await explained(world)
        assert "PAUSED" == told.state
        assert ["resume", "signal"] == [wait.what for wait in told.waits_for]
        assert "It is paused since 2026-01-01T13:00:00.000Z (1 min): look at this first" == told.waits_for[0].says
        assert ("orchestrator resume s",) == told.waits_for[0].commands


async def test_a_session_that_does_not_match_its_code_says_what_mends_it() -> None:
    """The difference, when it is tried again, and the command that shows it."""

    async def before(ctx: SessionContext) -> None:
        await ctx.step("a", gate_of_none)
        await ctx.sleep(DAY)

    async def after(ctx: SessionContext) -> None:
        await ctx.step("b", gate_of_none)

    async with running(before) as (world, _):
        async with world.node(app_of(after), "node-2") as other:
            await other.claim(dead_owner="node-1")
            await world.blocked()
        told = await explained(world)
    assert "BLOCKED" == told.state
    wait = told.waits_for[0]
    assert wait.says.startswith(
        "It is blocked since 2026-01-01T13:00:00.000Z (less than a second) by NON_DETERMINISM: "
    )
    assert "Its handler does not match its journal: deploy code that matches, and it goes on by itself." in wait.says
    assert wait.says.endswith("It is tried again at 2026-01-01T13:00:30.000Z, and when a node starts.")
    assert ("orchestrator replay s MODULE:APP", "orchestrator resume s", "orchestrator cancel s") == wait.commands


@pytest.mark.parametrize(
    ("code", "mends", "command"),
    [
        ("UNREADABLE_EVENT", "run the version that wrote it", "orchestrator resume s"),
        ("PAYLOAD_KEY_REFUSED", "mend what `orchestrator doctor` finds", "orchestrator doctor"),
        ("UNKNOWN_SESSION_TYPE", "No node declares its type", "orchestrator replay s MODULE:APP"),
        ("UNKNOWN_CHANGE", "older than the session", "orchestrator replay s MODULE:APP"),
        ("ARTIFACT_MISSING", "restore the object", "orchestrator resume s"),
        ("AWS_REFUSED", "mend what `orchestrator doctor` finds", "orchestrator doctor"),
        ("SOMETHING_NEW", "It is tried again by itself", "orchestrator resume s"),
    ],
)
async def test_every_reason_to_be_blocked_has_what_mends_it(code: str, mends: str, command: str) -> None:
    """One that is not known yet is told as it is."""
    async with running(sleeps) as (world, _):
        head = await world.head()
        attributes = {BLOCKED_ERROR: f"{code}: for a reason"}
        world.heads.put(replace(head, status=SessionStatus.BLOCKED, attributes=attributes))
        wait = (await explained(world)).waits_for[0]
        assert f"by {code}: for a reason." in wait.says
        assert mends in wait.says
        assert command == wait.commands[0]


async def test_a_session_that_is_to_end_says_until_when_it_may_clean_up() -> None:
    """And what ends it now."""
    gate = Gate()

    async def handler(ctx: SessionContext) -> None:
        ctx.on_failure("undo", gate.passing)
        await ctx.sleep(DAY)

    async with running(handler) as (world, node):
        await node.deliveries.cancel("s", "too late", "m-1")
        await settle()
        await world.pass_time(1)
        told = await explained(world, node=node)
        assert (
            "It is to end since 2026-01-01T13:00:00.000Z (1 s) (request: too late). Its handler may clean up until "
            "2026-01-01T13:01:00.000Z; `orchestrator kill s` ends it now."
        ) in told.sentences
        assert any("step `undo`" in says for says in waits(told))
        gate.open()


async def test_a_session_that_takes_nodes_down_is_told_as_a_crash_loop() -> None:
    """By how often it was taken over in a row."""
    async with running(sleeps) as (world, _):
        world.heads.put(replace(await world.head(), takeovers=4))
        told = await explained(world)
        assert "It was taken over from dead nodes 4 times in a row without progress: a crash loop?" in told.sentences


# --- what has ended, and what never began ----------------------------------------------------------------------------


async def test_an_end_is_told_with_its_error() -> None:
    """Nothing is waited for any more."""

    async def handler(ctx: SessionContext) -> None:
        raise RuntimeError("out of tea")

    world = World()
    await world.run(app_of(handler))
    told = await explained(world)
    assert ("FAILED", ()) == (told.state, told.waits_for)
    assert "It ended with RuntimeError (UNHANDLED): out of tea" == told.sentences[1]


async def test_what_an_end_still_owes_the_world_is_told_with_its_last_error() -> None:
    """What is tried again, what was given up, and what was not tried yet."""

    async def handler(ctx: SessionContext) -> None:
        return None

    world = World()
    await world.run(app_of(handler))
    tried: JsonObject = {"attempts": 3, "since": "2026-01-01T12:00:00.000Z", "last_error": "AccessDenied"}
    undelivered: JsonObject = {
        "bus": {**tried, "next_try_at": "2026-01-01T12:30:00.000Z"},
        "webhook": {**tried, "next_try_at": None},
    }
    world.heads.put(replace(await world.head(), outbox=("bus", "slot"), attributes={UNDELIVERED: undelivered}))
    told = await explained(world)
    assert [
        "It could not tell `bus` of its end in 3 tries (AccessDenied); next at 2026-01-01T12:30:00.000Z.",
        "It still has to tell `slot` of its end, since 2026-01-01T12:00:00.000Z (less than a second).",
        "It could not tell `webhook` of its end in 3 tries (AccessDenied); that was given up.",
    ] == waits(told)


async def test_who_asks_for_a_first_generation_is_told_of_the_latest() -> None:
    """That one's id, state and wait."""

    async def handler(ctx: SessionContext, number: int) -> None:
        if number < 3:
            ctx.continue_as_new(number + 1)
        await ctx.sleep(DAY)

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start(1)
        await world.pass_time(1)
        told = await explained(world, node=node)
        assert ("s:g3", ["timer"]) == (told.session_id, [wait.what for wait in told.waits_for])


async def test_a_session_that_nobody_knows_is_an_error_and_has_words_of_its_own() -> None:
    """Its start may be a dead letter, or wait in the queue."""
    with pytest.raises(UnknownSession):
        await explained(World())
    letter = unknown("s", dead="UNKNOWN_SESSION_TYPE: session_type: 'tea' is not declared (message m-1)", queued=0)
    assert (
        "Its start lies in the dead-letter queue: UNKNOWN_SESSION_TYPE: session_type: 'tea' is not"
        in letter.sentences[1]
    )
    assert "About 7 messages wait in the queue" in unknown("s", dead=None, queued=7).sentences[2]
    assert "The queue is empty" in unknown("s", dead=None, queued=0).sentences[2]


async def test_a_node_that_takes_it_for_stuck_says_so() -> None:
    """In the explanation as in its log."""

    async def handler(ctx: SessionContext) -> None:
        await asyncio.Event().wait()

    async with running(handler) as (world, node):
        watch = watch_of(node)
        watch.look()
        told = await explained(world, watch=watch)
        assert "Node node-1 takes it for stuck: nothing was recorded for much longer than usual." in told.sentences


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "less than a second"),
        (59, "59 s"),
        (60, "1 min"),
        (3_725, "1 h 2 min"),
        (90_000, "1 d 1 h"),
        (-5, "less than a second"),
    ],
)
def test_durations_are_told_in_their_two_greatest_units(seconds: int, words: str) -> None:
    """Of a clock that was set back, nothing is said."""
    assert words == lasting(timedelta(seconds=seconds))
