"""`testing.replay`: recorded journals against today's handlers, without running anything of theirs."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator import (
    OperationTimedOut,
    Orchestrator,
    SessionCancelled,
    SessionContext,
    StepFailed,
    testing,
)
from orchestrator.calls import Operation
from orchestrator.session.values import JsonObject

Handler = Callable[..., Awaitable[object]]
RAN: list[str] = []
"""What ran: a replay adds nothing."""


def note(entry: str) -> str:
    RAN.append(entry)
    return entry


async def agent(prompt: object) -> object:
    RAN.append(f"agent {prompt}")
    return prompt


def app_of(handler: Handler, name: str = "main") -> Orchestrator:
    app = Orchestrator()
    app.session(name)(handler)
    app.agent("agent")(agent)
    return app


async def recorded(handler: Handler, *, until: timedelta | None = None, signals: int = 0) -> list[JsonObject]:
    """Return the journal of a session that ended, or that was left alone after so much time."""
    async with testing.environment(app_of(handler)) as env:
        session = await env.start("main", session_id="recorded")
        for number in range(signals):
            await session.signal("go", number)
        if until is not None:
            await env.skip(until)
            return session.events()
        with suppress(testing.SessionDidNotComplete):
            await session.result()
        return session.events()


async def abc(ctx: SessionContext) -> list[object]:
    """Be the handler that wrote the journals."""
    a = await ctx.step("a", note, "a")
    b = await ctx.invoke_agent("agent", "b", name="b")
    await ctx.sleep(timedelta(days=2))
    return [a, b, await ctx.step("c", note, "c")]


async def renamed(ctx: SessionContext) -> object:
    await ctx.step("a", note, "a")
    return await ctx.invoke_agent("agent", "b", name="b2")


async def removed(ctx: SessionContext) -> object:
    await ctx.step("a", note, "a")
    await ctx.sleep(timedelta(days=2))
    return await ctx.step("c", note, "c")


async def removed_last(ctx: SessionContext) -> object:
    await ctx.step("a", note, "a")
    await ctx.invoke_agent("agent", "b", name="b")
    await ctx.sleep(timedelta(days=2))
    return None


async def added(ctx: SessionContext) -> object:
    await ctx.step("z", note, "z")
    return await abc(ctx)


async def added_last(ctx: SessionContext) -> object:
    await abc(ctx)
    return await ctx.step("d", note, "d")


async def reordered(ctx: SessionContext) -> object:
    await ctx.invoke_agent("agent", "b", name="b")
    await ctx.step("a", note, "a")
    return None


async def other_kind(ctx: SessionContext) -> object:
    await ctx.step("a", note, "a")
    return await ctx.step("b", note, "b")


async def caught(ctx: SessionContext) -> object:
    try:
        return await renamed(ctx)
    except BaseException:
        return await ctx.step("fallback", note, "fallback")


async def added_branch(ctx: SessionContext) -> object:
    return await ctx.gather(abc(ctx), ctx.step("z", note, "z"))


async def removed_branch(ctx: SessionContext) -> object:
    return await ctx.gather(ctx.step("a", note, "a"), ctx.sleep(timedelta(days=2)))


async def raises(ctx: SessionContext) -> object:
    await abc(ctx)
    raise ValueError("no tea")


async def raises_early(ctx: SessionContext) -> object:
    await ctx.step("a", note, "a")
    raise TypeError("a bug")


async def continues(ctx: SessionContext) -> object:
    await abc(ctx)
    ctx.continue_as_new(None)


async def waits_for_something_else(ctx: SessionContext) -> object:
    await ctx.step("a", note, "a")
    return await asyncio.Event().wait()


async def test_a_handler_matches_the_journals_that_it_wrote() -> None:
    """Ended, and cut short after every event; nothing runs again."""
    events = await recorded(abc)
    RAN.clear()
    for length in range(1, len(events) + 1):
        testing.replay(events[:length], app_of(abc))
    assert [] == RAN


MISMATCHES = [
    (renamed, "the journal records agent 'b' next, the handler asked for operation 'b2'"),
    (removed, "the journal records agent 'b' next, the handler asked for operation 'sleep'"),
    (removed_last, "the journal records step 'c' next, the handler asked for nothing more: it ended"),
    (added, "the journal records step 'a' next, the handler asked for operation 'z'"),
    (added_last, "the journal records the session's end, COMPLETED, next, the handler asked for step 'd'"),
    (reordered, "the journal records step 'a' next, the handler asked for operation 'b'"),
    (other_kind, "the journal records agent 'b' next, the handler asked for step 'b'"),
    (caught, "the journal records agent 'b' next, the handler asked for operation 'b2'"),
    (added_branch, "the journal records the session's end, COMPLETED, next, the handler asked for step 'z'"),
    (removed_branch, "the journal records agent 'b' next, the handler asked for operation 'sleep'"),
    (raises, "the session's end, COMPLETED, next, the handler asked for nothing more: it raised ValueError: no tea"),
    (raises_early, "the journal records agent 'b' next, the handler asked for nothing more: it ended"),
    (continues, "the session's end, COMPLETED, next, the handler asked for nothing more: it continued as new"),
    (waits_for_something_else, "the journal records agent 'b' next, the handler asked for nothing: it waits"),
]


@pytest.mark.parametrize(("handler", "difference"), MISMATCHES, ids=lambda each: getattr(each, "__name__", None))
async def test_the_first_difference_is_told(handler: Handler, difference: str) -> None:
    """Renamed, removed, added, reordered, of another kind, or ended otherwise; and nothing of it runs."""
    events = await recorded(abc)
    RAN.clear()
    with pytest.raises(testing.ReplayFailed) as failed:
        testing.replay(events, app_of(handler), session_id="order-17")
    assert difference in failed.value.difference
    assert str(failed.value).startswith("order-17: ")
    assert [] == RAN


def test_a_difference_is_all_that_a_failed_test_shows() -> None:
    """Outside a loop too, where a test of an own CI runs: no other error stands before it in the traceback."""
    events = asyncio.run(recorded(abc))
    with pytest.raises(testing.ReplayFailed) as failed:
        testing.replay(events, app_of(renamed))
    assert failed.value.__context__ is None


@pytest.mark.parametrize("handler", [added_last, removed_last, raises, continues])
async def test_an_open_session_is_compared_as_far_as_its_journal_goes(handler: Handler) -> None:
    """What a handler asks for beyond that is new, and allowed."""
    testing.replay(await recorded(abc, until=timedelta(days=1)), app_of(handler))


@pytest.mark.parametrize(
    ("handler", "difference"), [case for case in MISMATCHES if case[0] in {renamed, removed, added, raises_early}]
)
async def test_an_open_session_shows_differences_too(handler: Handler, difference: str) -> None:
    """Those in the part that it has come past."""
    with pytest.raises(testing.ReplayFailed, match=difference.partition(",")[0]):
        testing.replay(await recorded(abc, until=timedelta(days=1)), app_of(handler))


async def test_a_handler_that_fails_where_the_journal_is_open_is_a_difference() -> None:
    """Deployed, it would end the session; unless something in the journal failed, and accounts for it."""
    events = (await recorded(abc))[:2]
    with pytest.raises(testing.ReplayFailed, match=r"open after event 2, the handler ended: .*raised TypeError: a bug"):
        testing.replay(events, app_of(raises_early))

    async def fails(ctx: SessionContext) -> object:
        return await ctx.step("fail", _fail)

    testing.replay((await recorded(fails))[:2], app_of(fails))


def _fail() -> None:
    raise ValueError("no tea")


async def undoes(ctx: SessionContext) -> object:
    ctx.on_failure("undo", note, "undo")
    try:
        return await ctx.step("fail", _fail)
    except StepFailed:
        await ctx.progress("that went wrong")
        raise


async def undoes_nothing(ctx: SessionContext) -> object:
    return await ctx.step("fail", _fail)


async def undoes_more(ctx: SessionContext) -> object:
    ctx.on_failure("undo-first", note, "undo")
    return await undoes(ctx)


async def recovers(ctx: SessionContext) -> object:
    try:
        return await ctx.step("fail", _fail)
    except StepFailed:
        return None


async def test_undo_steps_belong_to_the_journal() -> None:
    """A failed session must fail again, and undo the same."""
    events = await recorded(undoes)
    testing.replay(events, app_of(undoes))
    with pytest.raises(testing.ReplayFailed, match=r"records step 'undo' next, .*nothing more: it ended"):
        testing.replay(events, app_of(undoes_nothing))
    with pytest.raises(testing.ReplayFailed, match=r"end, FAILED \(StepFailed: .*\), next, .* step 'undo-first'"):
        testing.replay(events, app_of(undoes_more))
    with pytest.raises(testing.ReplayFailed, match="asked for nothing more: it returned"):
        testing.replay(await recorded(undoes_nothing), app_of(recovers))


async def test_people_are_told_more_or_less_without_a_difference() -> None:
    """Progress is nothing that a handler depends on."""
    events = await recorded(abc)

    async def talkative(ctx: SessionContext) -> object:
        await ctx.progress("begun")
        result = await abc(ctx)
        await ctx.progress("ended", 100)
        return result

    testing.replay(events, app_of(talkative))
    testing.replay(await recorded(talkative), app_of(abc))


async def everything(ctx: SessionContext) -> object:
    """Use every operation that has no need of a second session."""
    first = await ctx.wait_for_signal("go")
    parts = await ctx.map("part", note, [f"{ctx.uuid4()}", f"{ctx.random()}"])
    inner: Operation[str] = ctx.scope("inner", lambda: ctx.step("a", note, "a"))
    await asyncio.gather(ctx.sleep(5, name="short"), inner)
    callback = await ctx.create_callback("late", timeout=timedelta(hours=1))
    if ctx.patched("polite"):
        await ctx.step("be-polite", note, f"please {ctx.now()}")
    try:
        return await callback.result()
    except OperationTimedOut as error:
        return [first, parts, str(error), await ctx.wait_for_signal("go", timeout=1)]


async def test_every_operation_replays() -> None:
    """Signals, scopes, branches, callbacks, patches, chance and time are the recorded ones, after every event."""
    events = await recorded(everything, signals=2)
    assert "AGENT_BACKGROUND_TASK_COMPLETED" == events[-1]["status"]
    RAN.clear()
    for length in range(1, len(events) + 1):
        testing.replay(events[:length], app_of(everything), session_id="recorded")
    assert [] == RAN


async def test_a_cancelled_session_replays() -> None:
    """Its handler hears of the cancellation where it did, and cleans up as it did."""

    async def tidies(ctx: SessionContext) -> object:
        try:
            return await abc(ctx)
        except SessionCancelled:
            await ctx.step("tidy-up", note, "tidy up")
            raise

    async with testing.environment(app_of(tidies)) as env:
        session = await env.start("main")
        await env.skip(timedelta(days=1))
        await session.cancel("enough")
        assert "CANCELLED" == session.state()
        for length in range(1, len(session.events()) + 1):
            testing.replay(session.events()[:length], app_of(tidies))
        with pytest.raises(testing.ReplayFailed, match="step 'tidy-up'"):
            testing.replay(session.events(), app_of(abc))


async def test_a_handler_may_use_asyncio_between_its_operations() -> None:
    """Its own time is waited for, and so are its branches."""

    async def unhurried(ctx: SessionContext) -> object:
        async def branch() -> object:
            await asyncio.sleep(0.05)
            return await ctx.step("late", note, "late")

        return await asyncio.gather(branch(), ctx.step("early", note, "early"))

    async def hurried(ctx: SessionContext) -> object:
        async def branch() -> object:
            return await asyncio.sleep(0.05, "late")

        return await asyncio.gather(branch(), ctx.step("early", note, "early"))

    events = await recorded(unhurried)
    testing.replay(events, app_of(unhurried))
    with pytest.raises(testing.ReplayFailed, match="step 'late'"):
        testing.replay(events, app_of(hurried))


async def test_a_session_type_that_is_gone_is_a_difference() -> None:
    """The text names those that are left."""
    with pytest.raises(testing.ReplayFailed, match="no session type 'main' any more; it has: other"):
        testing.replay(await recorded(abc), app_of(abc, "other"))


async def test_payloads_in_the_bucket_are_read_from_it_and_nothing_is_written() -> None:
    """Without a bucket the error names the reference, and what to do."""

    async def large(ctx: SessionContext, text: str) -> str:
        await ctx.sleep(1)
        return await ctx.step("double", double, text)

    def double(text: str) -> str:
        return 2 * text

    async with testing.environment(app_of(large)) as env:
        session = await env.start("main", "x" * 300_000, session_id="big")
        await session.result()
        stored = dict(env.artifacts.objects)
        testing.replay(session.events(), app_of(large), artifacts=env.artifacts)
        assert stored == env.artifacts.objects
        with pytest.raises(testing.PayloadOutOfReach, match=r"s3://artifacts/sessions/big/1\.json\.gz.*`artifacts=`"):
            testing.replay(session.events(), app_of(large))


async def test_a_session_that_stored_a_file_is_replayed_without_the_bucket() -> None:
    """What `put` returned stands in the journal: only a payload, or a file that is read again, is out of reach."""

    async def files(ctx: SessionContext) -> object:
        report = await ctx.artifacts.put("report.txt", "all is well")
        await ctx.step("of", double, "twice")
        return report

    def double(text: str) -> str:
        return 2 * text

    async with testing.environment(app_of(files)) as env:
        session = await env.start("main", session_id="filed")
        result = await session.result()
        assert "report.txt" in str(result)
        testing.replay(session.events(), app_of(files))


async def test_journals_are_files_named_after_their_sessions(tmp_path: Path) -> None:
    """A session records itself; a folder of such files is a list of cases."""

    async def named(ctx: SessionContext) -> None:
        await ctx.step(f"of-{ctx.session_id}", note, "named")
        await ctx.step(f"of-{ctx.random()}", note, "named")

    app = app_of(named)
    with pytest.raises(testing.NoRecordings, match="orchestrator events ID --json > "):
        testing.recorded_journals(tmp_path)
    async with testing.environment(app) as env:
        paths = []
        for name in ("order-18", "order-17"):
            session = await env.start("main", session_id=name)
            await session.result()
            paths.append(session.record(tmp_path))
    assert [tmp_path / "order-17.jsonl", tmp_path / "order-18.jsonl"] == sorted(paths)
    assert sorted(paths) == testing.recorded_journals(tmp_path)
    for path in paths:
        testing.replay(path, app)
        testing.replay(str(path), app)
    # Its lines say whose it is, so a file may be called anything; without that, its name does.
    renamed = paths[0].rename(tmp_path / "tea for two.jsonl")
    testing.replay(renamed, app)
    events = [json.loads(line) for line in paths[1].read_text().splitlines()]
    paths[1].write_text("\n".join(json.dumps({**event, "session_id": None}) for event in events))
    with pytest.raises(testing.UnreadableRecording, match=r"order-17\.jsonl:1: session_id: None is not an id"):
        testing.replay(paths[1], app)
    for event in events:
        del event["session_id"]
    paths[1].write_text("\n".join(json.dumps(event) for event in events))
    testing.replay(paths[1], app)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [*lines[:1], "{", *lines[2:]], "j.jsonl:2: "),
        (lambda lines: ["[1]"], "j.jsonl:1: an object was expected"),
        (lambda lines: ['{"seq": 1}'], "j.jsonl:1: no 'epoch' in the event; is it a line of `events --json`"),
        (lambda lines: [lines[0].replace("AGENT_INVOCATION_STARTED", "UNHEARD_OF")], "j.jsonl:1: .*type UNHEARD_OF"),
        (lambda lines: [lines[0], *lines[2:]], "event 3 of recorded stands at place 2"),
        (lambda lines: lines[1:], "event 2 of recorded stands at place 1"),
        (
            lambda lines: [lines[0], lines[1].replace('"recorded"', '"other"')],
            "j.jsonl:2: an event of other in the journal",
        ),
        (lambda lines: [], "the journal of j is empty"),
        (lambda lines: None, "No such file"),
    ],
)
async def test_a_file_that_is_no_journal_is_refused_by_its_line(
    damage: Callable[[list[str]], list[str] | None], message: str, tmp_path: Path
) -> None:
    """Not JSON, no event, of an unknown type, with a gap, of two sessions, empty, or not there."""
    lines = damage([json.dumps(event) for event in await recorded(abc)])
    path = tmp_path / "j.jsonl"
    if lines is not None:
        path.write_text("\n".join(lines))
    with pytest.raises(testing.UnreadableRecording, match=message):
        testing.replay(path, app_of(abc))


def test_a_replay_needs_no_loop_and_leaves_none() -> None:
    """As in a plain test of a user's CI."""
    events = asyncio.run(recorded(abc))
    testing.replay(events, app_of(abc))
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


async def test_large_journals_replay() -> None:
    """A thousand branches, and ten thousand steps one after the other."""

    async def wide(ctx: SessionContext) -> object:
        results: list[int] = await ctx.map("wide", _same, list(range(1_000)))
        return results

    async def long(ctx: SessionContext) -> object:
        return [await ctx.step("long", _same, number) for number in range(9_990)]

    for handler in (wide, long):
        events = await recorded(handler)
        began = time.monotonic()
        testing.replay(events, app_of(handler))
        assert time.monotonic() - began < 20


async def _same(number: int) -> int:
    return number
