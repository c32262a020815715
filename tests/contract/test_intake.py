"""What every `Intake` keeps (I3, I11): an envelope is acknowledged after it was handled, and a bad one stops nothing.

SQS runs on ministack with short visibility and polls, so that what comes again comes soon.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors import settle
from orchestrator.errors import OrchestratorError, Poison, Unavailable
from orchestrator.intake import Envelope
from tests.contract.intake_stage import IntakeStage, Scripted, memory_stage, sqs_stage
from tests.emulators import Emulator


@pytest.fixture(params=["memory", "sqs"])
async def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[IntakeStage]:
    if request.param == "memory":
        yield memory_stage()
        return
    emulator = request.getfixturevalue("ministack")
    assert isinstance(emulator, Emulator)
    monkeypatch.setattr("orchestrator.intake.sqs.VISIBILITY_SECONDS", 1)
    monkeypatch.setattr("orchestrator.intake.sqs.POLL_SECONDS", 1)
    async with sqs_stage(emulator) as opened:
        yield opened


async def test_what_is_put_is_handled_and_acknowledged(stage: IntakeStage) -> None:
    """Every body arrives once, under its id, with a receive count of 1; afterwards nothing is left."""
    handle = Scripted()
    async with stage.running(handle):
        put = {await stage.put(f"body {n} ♥"): f"body {n} ♥" for n in range(12)}
        await handle.handled.count(12)
    assert put == {envelope.message_id: envelope.body for envelope in handle.handled.entries}
    assert {1} == {envelope.receive_count for envelope in handle.handled.entries}
    assert set(put) == set(await stage.acknowledged())
    assert 12 == len(handle.handled.entries)


async def test_nothing_is_acknowledged_while_it_is_handled(stage: IntakeStage) -> None:
    """The acknowledgement waits for the handle to return (I3)."""
    handle = Scripted()
    handle.gate.clear()
    async with stage.running(handle):
        message_id = await stage.put("slow")
        await handle.entered.count(1)
        assert 1 == await stage.left_count()
        handle.gate.set()
    assert [message_id] == await stage.acknowledged()


async def test_poison_goes_to_the_dead_letters_with_its_reason_and_the_rest_goes_on(stage: IntakeStage) -> None:
    """What can never succeed leaves the queue, and stops nothing (I11)."""
    handle = Scripted({"bad": [Poison("UNKNOWN_TYPE", "nobody registered it")]})
    async with stage.running(handle):
        bad, good = await stage.put("bad"), await stage.put("good")
        await handle.handled.count(1)
        assert [("bad", "UNKNOWN_TYPE", "nobody registered it")] == await stage.dead_letters(1)
    assert ["good"] == [envelope.body for envelope in handle.handled.entries]
    assert {bad, good} == set(await stage.acknowledged())


async def test_what_cannot_be_handled_now_comes_again(stage: IntakeStage) -> None:
    """It stays in the queue, unacknowledged, and is handled when the fault is over."""
    handle = Scripted({"later": [OrchestratorError("later"), Unavailable("table")]})
    async with stage.running(handle):
        message_id = await stage.put("later")
        await handle.handled.count(1)
    assert [message_id] * 3 == [envelope.message_id for envelope in handle.entered.entries]
    assert [message_id] == await stage.acknowledged()
    assert [] == await stage.dead_letters(0)


async def test_what_comes_again_counts_its_receipts(stage: IntakeStage) -> None:
    """The receive count tells how often a message was tried."""
    handle = Scripted({"later": [OrchestratorError("later")]})
    async with stage.running(handle):
        await stage.put("later")
        await handle.handled.count(1)
    assert [1, 2] == [envelope.receive_count for envelope in handle.entered.entries]


async def test_a_bug_in_the_handle_stops_nothing(stage: IntakeStage) -> None:
    """The message stays unacknowledged; the next one is handled."""
    handle = Scripted({"bug": [ZeroDivisionError("ours")] * 10_000})
    async with stage.running(handle):
        bad = await stage.put("bug")
        await handle.entered.count(1)
        good = await stage.put("good")
        await handle.handled.until(lambda handled: "good" in [envelope.body for envelope in handled])
        assert bad not in [envelope.message_id for envelope in handle.handled.entries]
    assert good in await stage.acknowledged()


async def test_a_stop_waits_for_what_is_under_way_and_acknowledges_it(stage: IntakeStage) -> None:
    """`run` returns only when every handle has returned and was acknowledged."""
    handle = Scripted()
    handle.gate.clear()
    async with stage.running(handle) as running:
        put = [await stage.put(f"body {n}") for n in range(3)]
        await handle.entered.count(1)
        stage.intake.stop()
        await settle()
        assert not running.done()
        handle.gate.set()
        async with asyncio.timeout(10):
            await running
    handled = [envelope.message_id for envelope in handle.handled.entries]
    assert set(handled) <= set(put)
    assert sorted(handled) == sorted(await stage.acknowledged())


async def test_a_stop_of_an_idle_intake_returns(stage: IntakeStage) -> None:
    """Nothing to wait for but the poll that is out."""
    async with stage.running(Scripted()):
        pass
    assert 0.0 == stage.intake.unreachable_for()


def test_an_envelope_needs_its_id_and_body_alone() -> None:
    """What SQS adds is optional, so that tests and HTTP make envelopes too."""
    assert Envelope("id", "body", 1, {}, None) == Envelope("id", "body")
