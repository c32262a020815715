"""Payloads over the inline limit live in the bucket: stored before the event that names them, and nobody notices."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from engine_life import crash_at_every_call, ends_alike_after_every_event, ends_alike_with_pauses, live
from engine_world import PAYLOAD_BYTES_MAX, Handler, Node, World, app_of

from actors import settle
from orchestrator import AgentFailed, ChildSessionFailed, SessionContext, current_invocation
from orchestrator.artifacts import ArtifactMissing, is_reference
from orchestrator.artifacts.memory import MemoryArtifacts, StoredObject
from orchestrator.journal.codec import encode
from orchestrator.session.events import SessionCompleted
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import Json

LARGE = "x" * (PAYLOAD_BYTES_MAX + 1)
LOOKALIKE: Json = {"artifact": "s3://bucket/sessions/other/secret.json.gz", "bytes": 3, "sha256": "0" * 64}
"""What a reference looks like; here it is a value of the user's."""


async def grown(text: str) -> str:
    """Return a large text for a small one."""
    return text + LARGE


async def echo(prompt: Json) -> Json:
    """Be an agent that returns its prompt."""
    return prompt


async def mirror(ctx: SessionContext, value: object) -> object:
    """Be a child that returns its input."""
    return value


async def takes_input(ctx: SessionContext, value: str) -> object:
    """Take a large input, return a small result."""
    return len(value)


async def steps(ctx: SessionContext, value: str) -> object:
    """Make and return large results."""
    return [await ctx.step("a", grown, "1"), await ctx.step("a", grown, "2")]


async def agents(ctx: SessionContext, value: object) -> object:
    """Send a large prompt, get a large result."""
    return await ctx.invoke_agent("agent", {"text": value})


async def children(ctx: SessionContext, value: object) -> object:
    """Send a child a large input, get a large result."""
    return await ctx.run_session("child", value)


async def continues(ctx: SessionContext, value: str) -> object:
    """Go on with a large input."""
    if not value.endswith("!"):
        ctx.continue_as_new(value + "!")
    return value


async def reports(ctx: SessionContext, value: object) -> object:
    """Tell people a lot."""
    await ctx.progress("much", 50, value)
    return await ctx.step("s", reported, value)


async def reported(value: object) -> None:
    """Tell people a lot from inside a step."""
    current_invocation().progress("much", 60, "small")


async def in_branches(ctx: SessionContext, value: object) -> object:
    """Read large results in branches at once, in the order in which they came."""
    order = list[int]()

    async def branch(number: int) -> None:
        await ctx.sleep(3 - number, name=f"sleep-{number}")
        await ctx.step(f"large-{number}", grown, "x")
        order.append(number)

    await ctx.gather(branch(0), branch(1), branch(2))
    return order


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse and hash in the loop: virtual time does not wait for threads."""

    async def in_loop(fn: Callable[..., object], *args: object) -> object:
        await asyncio.sleep(0)
        return fn(*args)

    monkeypatch.setattr(asyncio, "to_thread", in_loop)


EVERYWHERE: list[Handler] = [takes_input, steps, agents, children, reports, in_branches]


@pytest.mark.parametrize("handler", EVERYWHERE)
async def test_large_payloads_are_as_transparent_as_small_ones(handler: Handler) -> None:
    """Live, after a death behind each event, and with pauses in between."""
    app, whole = app_of(handler, agent=echo), World()
    app.session("child")(mirror)
    async with whole.node(app) as node:
        await node.start(LARGE)
        await settle()
        await live(whole, node)
        end = await whole.end()
    assert isinstance(end, SessionCompleted)
    store = node.router.ports.payloads
    value = await store.open(end.result)
    if handler in {agents, children}:
        assert value == ({"text": LARGE} if handler is agents else LARGE)
    if handler is steps:
        assert value == ["1" + LARGE, "2" + LARGE]
    if handler is in_branches:
        assert [2, 1, 0] == value
    for recorded in await whole.recorded():
        assert 3 * PAYLOAD_BYTES_MAX > len(str(encode(recorded.event)))
    if handler is children:
        return
    async for _ in ends_alike_after_every_event(app, whole):
        pass
    await ends_alike_with_pauses(app, end, LARGE)


@pytest.mark.parametrize("handler", [children, continues])
async def test_large_payloads_between_sessions_survive_a_death_at_every_call(handler: Handler) -> None:
    """A child's input and result, and a next generation's input."""
    app = app_of(handler)
    app.session("child")(mirror)

    async def scenario(world: World, node: Node) -> None:
        await node.start(LARGE)
        await settle()

    async def after(world: World) -> None:
        last = (await world.recorded("s:g2" if handler is continues else "s"))[-1].event
        assert isinstance(last, SessionCompleted)
        assert is_reference(last.result)

    await crash_at_every_call(app, scenario, *(["s", "s:g2"] if handler is continues else ["s"]), after=after)


@pytest.mark.parametrize("data", [LARGE, LOOKALIKE, {"n": LOOKALIKE}], ids=["large", "lookalike", "inside"])
async def test_large_values_and_lookalikes_from_outside_arrive_as_they_were_sent(data: Json) -> None:
    """A signal's data, a callback's answer, the input itself: what only looks like a reference is a value."""
    tokens = list[tuple[str, str]]()

    async def handler(ctx: SessionContext, value: object) -> object:
        signal = await ctx.wait_for_signal("nudge")
        callback = await ctx.create_callback("cb")
        tokens.append((callback.id, callback.token))
        answer = await callback.result()
        return [value == data, signal == data, answer == data, await ctx.step("s", echo, data) == data]

    whole = World()
    app = app_of(handler)
    async with whole.node(app) as node:
        await node.start(data)
        await settle()
        await node.deliveries.signal("s", "nudge", data, "m-1")
        await settle()
        # Repeated as it was: the same message.
        await node.deliveries.signal("s", "nudge", data, "m-1")
        await node.deliveries.callback(*tokens[0], "SUCCESS", data, None)
        await node.deliveries.callback(*tokens[0], "SUCCESS", data, None)
        await settle()
        end = await whole.end()
    assert SessionCompleted([True, True, True, True]) == end
    story = await whole.story()
    for seq in range(story.index("CALLBACK_COMPLETED cb") + 1, len(story)):
        world = await whole.as_of(seq)
        assert end == await world.resume(app)


async def test_a_payload_is_in_the_bucket_before_the_event_that_names_it() -> None:
    """A node that dies at its next append leaves an object that nobody names, and never a name of nothing."""

    async def handler(ctx: SessionContext) -> object:
        return len(await ctx.step("a", grown, ""))

    world = World()
    async with world.node(app_of(handler)) as node:
        node.line.cut_before("append", calls=2)
        await node.start()
        await settle()
        assert 1 == len(await world.recorded())
        assert ["sessions/s/a.json.gz"] == list(world.artifacts.objects)


# --- lost and altered ------------------------------------------------------------------------------------------------


def lose(artifacts: MemoryArtifacts, key: str) -> dict[str, StoredObject]:
    """Delete the object, and return what there was."""
    kept = dict(artifacts.objects)
    del artifacts.objects[key]
    return kept


def alter(artifacts: MemoryArtifacts, key: str) -> dict[str, StoredObject]:
    """Cut the object short, and return what there was."""
    kept = dict(artifacts.objects)
    artifacts.objects[key] = replace(kept[key], body=kept[key].body[:-9])
    return kept


async def needs_input(ctx: SessionContext, value: str) -> object:
    """Need a large input."""
    try:
        return [len(value), await ctx.wait_for_signal("nudge")]
    except Exception:
        return "caught"


async def needs_result(ctx: SessionContext, value: str) -> object:
    """Need a large result, and catch whatever comes."""
    try:
        made = await ctx.step("a", grown, "")
    except Exception:
        return "caught"
    return [len(made), await ctx.wait_for_signal("nudge")]


async def needs_prompt(ctx: SessionContext, value: str) -> object:
    """Need an agent that needs a large prompt."""
    try:
        return len(str(await ctx.invoke_agent("agent", value)))
    except AgentFailed:
        return "caught"


async def needs_child(ctx: SessionContext, value: str) -> object:
    """Need a child that needs a large input."""
    try:
        return len(str(await ctx.run_session("child", value, name="child")))
    except ChildSessionFailed:
        return "caught"


LOST = [
    (needs_input, "sessions/s/1.json.gz", 1),
    (needs_result, "sessions/s/a.json.gz", 2),
    (needs_prompt, "sessions/s/agent.prompt.json.gz", 2),
    (needs_child, "sessions/s/child.json.gz", 2),
]


@pytest.mark.parametrize(("damage", "code"), [(lose, "ARTIFACT_MISSING"), (alter, "ARTIFACT_ALTERED")])
@pytest.mark.parametrize(("handler", "key", "seq"), LOST)
async def test_a_session_whose_payload_is_lost_is_blocked_and_goes_on_when_it_is_back(
    damage: Callable[[MemoryArtifacts, str], dict[str, StoredObject]], code: str, handler: Handler, key: str, seq: int
) -> None:
    """Never a wrong value, never an error that the handler could take for its own: BLOCKED, which names the object."""
    app, whole = app_of(handler, agent=echo), World()
    app.session("child")(mirror)
    async with whole.node(app) as node:
        await node.start(LARGE)
        await settle()
        world = await whole.as_of(seq)
        node.crash()
    kept = damage(world.artifacts, key)
    async with world.node(app, "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        reason = await world.blocked()
        assert reason.startswith(f"{code}: s3://bucket/{key}"), reason
        assert ["SESSION_RESUMED"] == (await world.story())[seq:]
        world.artifacts.objects.update(kept)
        assert await node.claim(only_unowned=True)
        await settle()
        assert SessionStatus.RUNNING == (await world.head()).status or (await world.state()).has_ended
        if handler in {needs_input, needs_result}:
            await node.deliveries.signal("s", "nudge", 1, None)
            await settle()
        await live(world, node)
        end = await world.end()
    assert isinstance(end, SessionCompleted)
    assert "caught" != end.result


# --- the user's own files --------------------------------------------------------------------------------------------


async def test_a_handlers_own_files_are_put_once_and_read_back() -> None:
    """The reference is a small value like any other; a repetition after a crash does not store again."""

    async def handler(ctx: SessionContext) -> object:
        report = await ctx.artifacts.put("report.txt", "héllo")
        again = await ctx.artifacts.put("report.txt", b"bytes")
        url = await ctx.artifacts.presigned_url(report, expires=timedelta(days=7))
        passed_on = await ctx.step("pass", echo, report)
        content = await ctx.artifacts.get(passed_on)
        is_address = url.startswith("memory://bucket/sessions/s/files/")
        return [content.decode(), (await ctx.artifacts.get(again)).decode(), is_address]

    app, whole = app_of(handler), World()
    assert SessionCompleted(["héllo", "bytes", True]) == await whole.run(app)
    put_by = (await whole.story()).index("STEP_COMPLETED artifact:report.txt#2") + 1
    async for world in ends_alike_after_every_event(app, whole):
        files = [key for key in world.artifacts.objects if "/files/" in key]
        kept = [line for line in (await world.story())[:put_by] if line.startswith("STEP_COMPLETED")]
        assert len(files) == 2 or len(kept) < 2, "what is recorded is not put again"


@pytest.mark.parametrize("name", ["", "..", "Über uns.pdf", "a/b.pdf", "x" * 92])
async def test_a_name_that_no_file_can_have_is_refused_where_it_stands(name: str) -> None:
    """At the call, and the error speaks of the file's name, not of the operation that is made of it."""

    async def handler(ctx: SessionContext) -> object:
        try:
            await ctx.artifacts.put(name, "x")
        except ValueError as error:
            return [str(error).startswith(f"name: {name[:5]!r}"[:-1]), "1 to 91 of" in str(error)]
        return await ctx.artifacts.put("x" * 91, "x")

    assert SessionCompleted([True, True]) == await World().run(app_of(handler))


async def test_a_link_lasts_for_seconds_or_a_timedelta() -> None:
    """As every duration; one that is out of bounds is named."""

    async def handler(ctx: SessionContext) -> object:
        report = await ctx.artifacts.put("report.txt", "x")
        found: list[str] = []
        for expires in (timedelta(hours=1), 3_600, 3_600.0, 0, -1, float("nan"), timedelta(days=8)):
            try:
                found.append((await ctx.artifacts.presigned_url(report, expires=expires)).partition("?")[2])
            except ValueError as error:
                found.append(str(error).partition(":")[0])
        return found

    expected: list[Json] = [*(["expires=3600"] * 3), *(["expires"] * 4)]
    assert SessionCompleted(expected) == await World().run(app_of(handler))


async def test_a_file_that_is_gone_is_an_error_that_the_handler_can_catch() -> None:
    """It is the handler's own reference: it may know what to do."""

    async def handler(ctx: SessionContext) -> object:
        report = await ctx.artifacts.put("report.txt", "x")
        world.artifacts.objects.clear()
        try:
            return (await ctx.artifacts.get(report)).decode()
        except ArtifactMissing as error:
            return error.code

    world = World()
    assert SessionCompleted("ARTIFACT_MISSING") == await world.run(app_of(handler))
