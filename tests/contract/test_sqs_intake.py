"""What only the SQS intake does: capacity, batches, visibility, outages, and the form of a dead letter."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from actors import settle
from orchestrator.aws.queue import BATCH_MAX, MESSAGE_BYTES_MAX
from orchestrator.errors import OrchestratorError, Poison
from orchestrator.intake import UNKNOWN_RECEIVES_MAX, TryAgainSoon
from orchestrator.intake.sqs import (
    DELETE_LINGER_SECONDS,
    ERROR_MESSAGE_MAX,
    PROLONG_EVERY_SECONDS,
    VISIBILITY_SECONDS,
    pause_after,
)
from tests.contract.fault_proxy import FaultProxy, Request, refusal, reset
from tests.contract.intake_stage import Room, Scripted, SQSStage, sqs_stage
from tests.contract.waiting import WatchedClock
from tests.emulators import Emulator

RECEIVE, DELETE, PROLONG = "ReceiveMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a stop wait for one second of polling, not for five."""
    monkeypatch.setattr("orchestrator.intake.sqs.POLL_SECONDS", 1)


@pytest.fixture
def clock() -> WatchedClock:
    return WatchedClock()


@pytest.fixture
async def stage(ministack: Emulator, proxy: FaultProxy, clock: WatchedClock) -> AsyncIterator[SQSStage]:
    """An intake behind the proxy whose time stands still."""
    async with sqs_stage(ministack, through=proxy.endpoint_url, clock=clock) as opened:
        proxy.requests.entries.clear()
        yield opened


async def dead_letter(stage: SQSStage) -> tuple[str, dict[str, str]]:
    """Return the one message of the dead-letter queue: its body, its attributes."""
    answer = await stage.raw.sqs.receive_message(
        QueueUrl=stage.dead_letters_url, WaitTimeSeconds=5, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    )
    (message,) = answer["Messages"]
    return message["Body"], {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}


# --- dead letters ----------------------------------------------------------------------------------------------------


async def test_a_dead_letter_says_why_and_which_message_it_was(stage: SQSStage) -> None:
    """Code, text and the original message id stand beside the untouched body."""
    body = '{"kind": "nonsense", "ö": "♥"}'
    async with stage.running(Scripted({body: [Poison("INVALID_MESSAGE", "kind: unknown")]})):
        message_id = await stage.put(body)
        found = await dead_letter(stage)
    attributes = {"ErrorCode": "INVALID_MESSAGE", "ErrorMessage": "kind: unknown", "OriginalMessageId": message_id}
    assert (body, attributes) == found
    assert {} == stage.stored


async def test_a_dead_letter_keeps_what_its_sender_said_beside_the_body(stage: SQSStage) -> None:
    """Trace, tenant and attributes, the trace first where SQS has no room for all: it may be put back some day."""
    trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    told = {**{f"a-{number}": "x" for number in range(9)}, "traceparent": "00-ab-cd-01"}
    async with stage.running(Scripted({"bad": [Poison("BAD", "never")]})):
        await stage.raw.sqs.send_message(
            QueueUrl=stage.queue_url,
            MessageBody="bad",
            MessageGroupId="acme",
            MessageAttributes={name: {"DataType": "String", "StringValue": text} for name, text in told.items()},
            MessageSystemAttributes={"AWSTraceHeader": {"DataType": "String", "StringValue": trace}},
        )
        answer = await stage.raw.sqs.receive_message(
            QueueUrl=stage.dead_letters_url,
            WaitTimeSeconds=5,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )
    (letter,) = answer["Messages"]
    assert ("acme", trace) == (letter["Attributes"]["MessageGroupId"], letter["Attributes"]["AWSTraceHeader"])
    kept = set(letter["MessageAttributes"]) - {"ErrorCode", "ErrorMessage", "OriginalMessageId"}
    assert ("traceparent" in kept, 7) == (True, len(kept))


async def test_whatever_the_error_says_the_dead_letter_goes_out(stage: SQSStage) -> None:
    """SQS takes no empty attribute, no control characters and no lone surrogates (I11)."""
    texts = ["", "\x00bell\x07\x1f", "\ud800 alone", "ä" * 5_000, "\ufffe \U0001f980\n"]
    script = {f"bad {n}": [Poison("BAD", text)] for n, text in enumerate(texts)}
    async with stage.running(Scripted(script)):
        for body in script:
            await stage.put(body)
        dead = await stage.dead_letters(len(texts))
    assert sorted(script) == sorted(body for body, _, _ in dead)
    assert all(0 < len(text) <= ERROR_MESSAGE_MAX for _, _, text in dead)


async def test_a_body_too_long_for_a_dead_letter_is_kept_in_the_bucket(stage: SQSStage) -> None:
    """With its attributes the message would pass the limit of SQS, so a reference goes instead."""
    body = "x" * (MESSAGE_BYTES_MAX - 100)
    async with stage.running(Scripted({body: [Poison("BAD", "too much")]})):
        message_id = await stage.put(body)
        found, attributes = await dead_letter(stage)
    assert {message_id: body} == stage.stored
    assert f'{{"artifact": "s3://bucket/{message_id}"}}' == found
    assert ("BAD", message_id) == (attributes["ErrorCode"], attributes["OriginalMessageId"])


async def test_a_dead_letter_queue_that_refuses_stops_nothing(stage: SQSStage, proxy: FaultProxy) -> None:
    """The poison stays in its queue and comes again; the rest goes on (I11)."""
    proxy.arm("SendMessage", refusal("AccessDenied", status=403))
    handle = Scripted({"bad": [Poison("BAD", "never")]})
    async with stage.running(handle):
        await stage.put("bad")
        await proxy.answered.until(lambda _: proxy.is_disarmed)
        await stage.put("good")
        await handle.handled.count(1)
        assert ["good"] == [envelope.body for envelope in handle.handled.entries]
    assert 1 == sum(await stage.counts())


# --- capacity --------------------------------------------------------------------------------------------------------


async def test_no_more_is_taken_than_there_is_room_for(
    ministack: Emulator, proxy: FaultProxy, clock: WatchedClock
) -> None:
    """What the node has no room for stays in the queue, visible to other nodes."""
    room, handle = Room(3), Scripted()
    handle.gate.clear()
    async with sqs_stage(ministack, through=proxy.endpoint_url, clock=clock, room=room) as stage:
        for n in range(10):
            await stage.put(f"body {n}")
        proxy.requests.entries.clear()
        async with stage.running(handle):
            await handle.entered.count(3)
            polls = len(proxy.of(RECEIVE))
            await settle()
            assert (7, 3) == await stage.counts()
            assert [3] == [request.body["MaxNumberOfMessages"] for request in proxy.of(RECEIVE)]
            assert (3, polls) == (handle.in_hand, len(proxy.of(RECEIVE)))
            handle.gate.set()
            await handle.handled.count(10)
            assert all(request.body["MaxNumberOfMessages"] <= 3 for request in proxy.of(RECEIVE))


async def test_a_full_node_leaves_the_queue_alone_until_a_session_leaves(
    ministack: Emulator, proxy: FaultProxy, clock: WatchedClock
) -> None:
    """No polling for nothing: the first request goes out when there is room, for as much as there is."""
    room, handle = Room(0), Scripted()
    async with sqs_stage(ministack, through=proxy.endpoint_url, clock=clock, room=room) as stage:
        proxy.requests.entries.clear()
        async with stage.running(handle):
            await stage.put("body")
            await settle()
            await stage.counts()
            assert [] == proxy.requests.entries
            room.leave(2)
            await handle.handled.count(1)
            assert 2 == proxy.of(RECEIVE)[0].body["MaxNumberOfMessages"]


async def test_a_full_node_stops_at_once(ministack: Emulator, proxy: FaultProxy) -> None:
    """Who waits for room is woken by the stop."""
    async with sqs_stage(ministack, through=proxy.endpoint_url, room=Room(0)) as stage, stage.running(Scripted()):
        await settle()
    assert [] == proxy.of(RECEIVE)


# --- acknowledging ---------------------------------------------------------------------------------------------------


async def test_what_is_handled_together_is_deleted_in_tens(
    stage: SQSStage, proxy: FaultProxy, clock: WatchedClock
) -> None:
    """Twenty acknowledgements of one moment cost two requests."""
    handle = Scripted()
    handle.gate.clear()
    async with stage.running(handle):
        for n in range(20):
            await stage.put(f"body {n}")
        await handle.entered.count(20)
        assert [] == proxy.of(DELETE)
        handle.gate.set()
        await proxy.answered.until(partial(_asked, DELETE, 2))
    assert [BATCH_MAX, BATCH_MAX] == [len(request.body["Entries"]) for request in proxy.of(DELETE)]
    assert DELETE_LINGER_SECONDS not in clock.sleeps.entries
    assert (0, 0) == await stage.counts()


async def test_a_lone_acknowledgement_waits_for_company_but_not_for_long(
    stage: SQSStage, proxy: FaultProxy, clock: WatchedClock
) -> None:
    """What is handled within the linger shares its request."""
    handle = Scripted()
    async with stage.running(handle):
        await stage.put("first")
        await clock.sleeps.until(lambda sleeps: DELETE_LINGER_SECONDS in sleeps)
        await stage.put("second")
        await handle.handled.count(2)
        await settle()
        assert [] == proxy.of(DELETE)
        clock.advance(DELETE_LINGER_SECONDS)
        await proxy.answered.until(partial(_asked, DELETE, 1))
        assert [2] == [len(request.body["Entries"]) for request in proxy.of(DELETE)]


async def test_a_stop_lets_the_poll_finish_and_flushes_the_acknowledgements(stage: SQSStage, proxy: FaultProxy) -> None:
    """A poll that is cut swallows a message until its visibility ends; what it brings is handled and deleted."""
    handle = Scripted()
    proxy.hold()
    async with stage.running(handle) as running:
        await proxy.requests.count(1)
        stage.stop()
        await stage.put("brought by the last poll")
        await settle()
        assert not running.done()
        proxy.release()
        await running
    assert ["brought by the last poll"] == [envelope.body for envelope in handle.handled.entries]
    assert (0, 0) == await stage.counts()
    assert [RECEIVE, DELETE] == [request.operation for request in proxy.requests.entries]


async def test_a_delete_that_fails_is_tried_again(stage: SQSStage, proxy: FaultProxy) -> None:
    """Throttled or cut, the acknowledgement gets through."""
    proxy.arm(DELETE, reset, refusal("RequestThrottled"), refusal("ServiceUnavailable", status=503))
    handle = Scripted()
    async with stage.running(handle):
        await stage.put("body")
        await handle.handled.count(1)
    assert proxy.is_disarmed
    assert (0, 0) == await stage.counts()


async def test_a_delete_that_is_refused_stops_nothing(stage: SQSStage, proxy: FaultProxy) -> None:
    """The message comes again and is recognised; the intake goes on."""
    proxy.arm(DELETE, refusal("AccessDenied", status=403))
    handle = Scripted()
    async with stage.running(handle):
        await stage.put("body")
        await handle.handled.count(1)
    assert proxy.is_disarmed
    assert 1 == sum(await stage.counts())


# --- visibility ------------------------------------------------------------------------------------------------------


async def test_a_message_whose_handling_is_slow_is_hidden_for_longer(
    stage: SQSStage, proxy: FaultProxy, clock: WatchedClock
) -> None:
    """As long as the handle works, nobody else gets the message; afterwards nothing is prolonged any more."""
    handle = Scripted()
    handle.gate.clear()
    async with stage.running(handle):
        for n in range(12):
            await stage.put(f"body {n}")
        await handle.entered.count(12)
        for turn in range(1, 4):
            await clock.sleeps.until(partial(_has, PROLONG_EVERY_SECONDS, turn))
            clock.advance(PROLONG_EVERY_SECONDS)
            await proxy.answered.until(partial(_asked, PROLONG, 2 * turn))
        entries = [entry for request in proxy.of(PROLONG) for entry in request.body["Entries"]]
        assert {VISIBILITY_SECONDS} == {entry["VisibilityTimeout"] for entry in entries}
        assert {3} == {[e["ReceiptHandle"] for e in entries].count(e["ReceiptHandle"]) for e in entries}
        assert 36 == len(entries)
        handle.gate.set()
        await handle.handled.count(12)
        await clock.sleeps.until(partial(_has, PROLONG_EVERY_SECONDS, 4))
        clock.advance(PROLONG_EVERY_SECONDS)
        await clock.sleeps.until(partial(_has, PROLONG_EVERY_SECONDS, 5))
        assert 6 == len(proxy.of(PROLONG))


async def test_what_is_to_come_again_soon_is_hidden_for_growing_pauses(stage: SQSStage, proxy: FaultProxy) -> None:
    """A signal that overtook its start does not wait for as long as a message whose node died."""
    handle = Scripted({"early": [TryAgainSoon("not yet"), TryAgainSoon("not yet")], "fault": [OrchestratorError("no")]})
    async with stage.running(handle):
        await stage.put("fault")
        await stage.put("early")
        await handle.handled.until(lambda handled: "early" in [envelope.body for envelope in handled])
    pauses = [entry["VisibilityTimeout"] for request in proxy.of(PROLONG) for entry in request.body["Entries"]]
    assert [1, 2] == pauses


def test_the_pauses_grow_up_to_the_visibility() -> None:
    """Together they outlast a message that a dead node had in hand."""
    pauses = [pause_after(receives) for receives in range(1, UNKNOWN_RECEIVES_MAX)]
    assert [1, 2, 4, 8, 16] == pauses
    assert sum(pauses) > VISIBILITY_SECONDS == pause_after(100)


def test_visibility_leaves_room_for_a_missed_prolongation() -> None:
    """A message is at most one and a half turns old when it is first prolonged; twice that is hidden."""
    assert 1.5 * PROLONG_EVERY_SECONDS * 2 <= VISIBILITY_SECONDS


# --- outages ---------------------------------------------------------------------------------------------------------


async def test_an_outage_of_the_queue_is_waited_out_and_told(
    stage: SQSStage, proxy: FaultProxy, clock: WatchedClock
) -> None:
    """Whatever kind it is: growing pauses, an honest `unreachable_for`, and on with the first answer."""
    denied, gone = refusal("AccessDenied", status=403), refusal("QueueDoesNotExist")
    proxy.arm(RECEIVE, reset, refusal("ServiceUnavailable", status=503), denied, gone)
    handle = Scripted()
    async with stage.running(handle):
        passed = 0.0
        for failures in range(1, 5):
            pauses = await clock.sleeps.until(partial(_has_paused, failures))
            assert passed == pytest.approx(stage.intake.unreachable_for())
            passed += _pauses(pauses)[-1]
            clock.advance(_pauses(pauses)[-1])
        await stage.put("after the outage")
        await handle.handled.count(1)
        assert 0.0 == stage.intake.unreachable_for()
    assert [0.1, 0.2, 0.4, 0.8] == _pauses(clock.sleeps.entries)


def _has(seconds: float, times: int, sleeps: list[float]) -> bool:
    return sleeps.count(seconds) == times


def _asked(operation: str, times: int, requests: list[Request]) -> bool:
    return [request.operation for request in requests].count(operation) == times


def _has_paused(times: int, sleeps: list[float]) -> bool:
    return len(_pauses(sleeps)) == times


def _pauses(sleeps: list[float]) -> list[float]:
    return [seconds for seconds in sleeps if seconds not in {PROLONG_EVERY_SECONDS, DELETE_LINGER_SECONDS}]


async def test_a_stop_during_an_outage_returns(stage: SQSStage, proxy: FaultProxy, clock: WatchedClock) -> None:
    """A queue that is gone does not keep a node from leaving."""
    proxy.arm(RECEIVE, reset, times=1_000)
    async with stage.running(Scripted()) as running:
        await clock.sleeps.until(lambda sleeps: bool(_pauses(sleeps)))
        stage.intake.stop()
        clock.advance(5)
        async with asyncio.timeout(5):
            await running


async def test_what_the_sender_said_beside_the_body_reaches_the_handle(stage: SQSStage) -> None:
    """Message attributes and the X-Ray header come with the envelope, other types than text do not harm."""
    handle = Scripted()
    trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    async with stage.running(handle):
        await stage.raw.sqs.send_message(
            QueueUrl=stage.queue_url,
            MessageBody="body",
            MessageAttributes={
                "traceparent": {"DataType": "String", "StringValue": "00-ab-cd-01"},
                "blob": {"DataType": "Binary", "BinaryValue": b"\x00\x01"},
                "number": {"DataType": "Number", "StringValue": "7"},
            },
            MessageSystemAttributes={"AWSTraceHeader": {"DataType": "String", "StringValue": trace}},
        )
        (envelope,) = await handle.handled.count(1)
    assert ({"traceparent": "00-ab-cd-01", "number": "7"}, trace) == (dict(envelope.attributes), envelope.xray_header)
