"""Tokens of callbacks: who holds one, where none stands, and which of them work (rule 10)."""

import asyncio
import hashlib
import hmac

import pytest
from engine_answers import Given, answers, waiting_handler
from engine_life import until_suspended
from engine_trials import until_end
from engine_world import Gate, World, app_of

from actors import settle
from orchestrator import SessionContext
from orchestrator.calls import Callback
from orchestrator.deliveries import CallbackAnswered, UnknownCallback, WrongToken
from orchestrator.session.events import (
    SessionCompleted,
    SessionFailed,
)


class Leak:
    """Everything of a world that outlives a process, or is written where people read."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def texts(self) -> str:
        """Return journal, HEAD, inbox, callbacks, bucket and logs as text."""
        world = self._world
        stores = (world.heads, world.inbox, world.callbacks, world.artifacts, world.wake_ups)
        return repr([await world.recorded(), [vars(store) for store in stores], world.logs, world.standing])


async def test_a_token_stands_nowhere_but_with_whom_it_was_handed_to() -> None:
    """Not in the journal, HEAD, the inbox, the bucket or a log: only its hash, at the callback's item."""
    given: Given = []
    app = app_of(waiting_handler(given))
    world = World()
    async with world.node(app) as node, world.node(app, "node-2") as other:
        await node.start()
        await settle()
        with pytest.raises(WrongToken) as refused:
            await node.deliveries.callback(given[0].id, "token-guessed", "SUCCESS", None, None)
        await other.deliveries.callback(given[0].id, given[0].token, "SUCCESS", 1, None)
        node.crash()
        await other.claim(dead_owner="node-1")
        await other.deliveries.signal("s", "end", None, "1")
        await until_end(world, other)
    texts = await Leak(world).texts()
    for callback in given:
        assert callback.token not in texts
        assert callback.token not in repr(callback)
    assert "token-guessed" not in texts + str(refused.value)
    assert hashlib.sha256(given[0].token.encode()).hexdigest() in texts


@pytest.mark.parametrize("raised_in", ["submit", "undo", "handler"])
async def test_an_error_that_quotes_a_token_is_recorded_without_it(raised_in: str) -> None:
    """What a client library says of a call that failed may hold all that was sent: the token is cut out of it."""
    given: Given = []

    async def fail(callback: Callback) -> None:
        given.append(callback)
        raise ConnectionError(f"{'x' * 1_980} curl -d token={callback.token} {callback.url} exited with 7")

    async def handler(ctx: SessionContext) -> None:
        if raised_in == "submit":
            await ctx.wait_for_callback("cb", fail)
        callback = await ctx.create_callback("cb")
        if raised_in == "undo":
            ctx.on_failure("undo", fail, callback)
            raise ValueError("no")
        await fail(callback)

    world = World()
    world.jitter = 0.01
    end = await world.run(app_of(handler))
    assert isinstance(end, SessionFailed)
    texts = await Leak(world).texts()
    assert "curl -d token=" in texts
    assert [] == [callback.token for callback in given if f"token={callback.token}" in texts]
    assert f"token={given[0].token[:5]}" not in texts


async def test_what_was_handed_out_needs_no_other_token() -> None:
    """A session that wakes while it waits issues none for a callback whose own step has handed it out."""
    given: Given = []

    async def submit(callback: Callback) -> None:
        given.append(callback)

    async def handler(ctx: SessionContext) -> object:
        asked = asyncio.ensure_future(ctx.wait_for_callback("cb", submit))
        for _ in range(3):
            await ctx.wait_for_signal("nudge")
        return await asked

    world = World()
    world.passivate_after = 0.1
    async with world.node(app_of(handler)) as node:
        await node.start()
        for _ in range(3):
            await until_suspended(world, node)
            await node.deliveries.signal("s", "nudge", None, None)
            await settle()
        standing = await world.callbacks.get(given[0].id)
        assert standing is not None
        assert 1 == len(given) == len(standing.token_sha256)
        await node.deliveries.callback(given[0].id, given[0].token, "SUCCESS", 7, None)
        assert SessionCompleted(7) == await world.end()


async def test_tokens_are_compared_by_their_hashes_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that was issued is compared, whatever the first comparison said."""
    given: Given = []
    compared = list[tuple[str, str]]()
    real = hmac.compare_digest

    def compare(a: str, b: str) -> bool:
        compared.append((a, b))
        return real(a, b)

    app = app_of(waiting_handler(given))
    world = World()
    async with world.node(app) as node:
        await node.start()
        await settle()
        node.crash()
    async with world.node(app, "node-2") as node:
        await node.claim(dead_owner="node-1")
        monkeypatch.setattr("orchestrator.deliveries.hmac.compare_digest", compare)
        await node.deliveries.callback(given[0].id, given[0].token, "SUCCESS", 1, None)
    hashes = {hashlib.sha256(each.token.encode()).hexdigest() for each in given}
    assert 2 == len(hashes)
    assert hashes == {issued for _, issued in compared}
    assert {hashlib.sha256(given[0].token.encode()).hexdigest()} == {asked for asked, _ in compared}


@pytest.mark.parametrize("token", ["", "x", "token-1 ", "\ud800", "ö", "0" * 64])
async def test_a_wrong_token_is_refused_and_changes_nothing(token: str) -> None:
    """Neither does one of another callback."""
    given: Given = []

    async def handler(ctx: SessionContext) -> object:
        given.extend([await ctx.create_callback("a"), await ctx.create_callback("b")])
        return await given[0].result()

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        journal = await world.recorded()
        for wrong in (token, given[1].token, hashlib.sha256(given[0].token.encode()).hexdigest()):
            with pytest.raises(WrongToken):
                await node.deliveries.callback(given[0].id, wrong, "SUCCESS", 1, None)
        with pytest.raises(UnknownCallback):
            await node.deliveries.callback("callback-none", given[0].token, "SUCCESS", 1, None)
        assert journal == await world.recorded()
        await answers(given[:1], 5)(world, node)
        assert SessionCompleted(5) == await world.end()


async def test_a_token_that_is_handed_out_again_works_though_the_answer_is_there() -> None:
    """The answer can overtake the record of the hand-over: who repeats it is told 200, not that the token is wrong."""
    tokens = list[tuple[str, str]]()
    gate = Gate()

    async def submit(callback: Callback) -> None:
        tokens.append((callback.id, callback.token))
        await gate.passing()

    async def handler(ctx: SessionContext) -> object:
        return await ctx.wait_for_callback("cb", submit)

    world = World()
    async with world.node(app_of(handler)) as node:
        await node.start()
        await gate.reached()
        await node.deliveries.callback(*tokens[0], "SUCCESS", "yes", None)
        await settle()
        assert ["AGENT_INVOCATION_STARTED", "CALLBACK_CREATED cb", "CALLBACK_COMPLETED cb"] == await world.story()
        node.crash()
    gate.open()
    async with world.node(app_of(handler), "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        assert isinstance(await until_end(world, node, 5), SessionCompleted)
        assert 2 == len(set(tokens))
        await node.deliveries.callback(*tokens[1], "SUCCESS", "yes", None)
        with pytest.raises(CallbackAnswered):
            await node.deliveries.callback(*tokens[1], "SUCCESS", "no", None)
