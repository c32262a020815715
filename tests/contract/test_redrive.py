"""Dead letters go back as they came, once, and none is ever lost: on the wire, with answers that are lost."""

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from orchestrator.aws.bucket import Bucket
from orchestrator.aws.queue import QueueMessage, find_queue
from orchestrator.intake.dead_letters import EXHAUSTED, letter_of, started_by
from orchestrator.redrive import Choice, letter_about
from orchestrator.session.values import compact_json, derive_session_id
from tests.contract.fault_proxy import FaultProxy, lost_answer, refusal
from tests.contract.operations_stage import Operated, operated
from tests.contract.stage import patience_of
from tests.emulators import Emulator

TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
START = compact_json({"kind": "start", "session_type": "tea", "input": None, "idempotency_key": "order-17"})


@pytest.fixture
async def deployed(ministack: Emulator, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operated]:
    """A deployment behind the wire, whose queues tell all that they hold at once."""
    monkeypatch.setattr("orchestrator.redrive.LOOK_SECONDS", 0)
    async with operated(ministack, through=proxy.endpoint_url) as running:
        yield running


def why(code: str, message_id: str = "m-1") -> dict[str, str]:
    """Return what a node writes beside a dead letter."""
    return {"ErrorCode": code, "ErrorMessage": f"for {code}", "OriginalMessageId": message_id}


def bodies(messages: Any) -> list[str]:
    """Return the bodies of messages."""
    return sorted(message["Body"] for message in messages)


async def test_a_letter_goes_back_as_its_sender_sent_it(deployed: Operated) -> None:
    """Body, attributes, tenant and trace; what the node wrote beside it is gone, and so is the letter."""
    told = why("UNKNOWN_SESSION_TYPE") | {"traceparent": PARENT, "origin": "shop"}
    await deployed.dead(START, group="acme", trace=TRACE, **told)
    (done,) = await deployed.redrive()
    assert ("redriven", "m-1", "UNKNOWN_SESSION_TYPE", "acme") == (
        *(done.outcome, done.letter.message_id, done.letter.code, done.letter.tenant),
    )
    (message,) = await deployed.held(deployed.settings.queue_name)
    attributes: Any = message["MessageAttributes"]
    system: Any = message["Attributes"]
    assert START == message["Body"]
    assert {"traceparent": PARENT, "origin": "shop"} == {name: each["StringValue"] for name, each in attributes.items()}
    assert ("acme", TRACE) == (system["MessageGroupId"], system["AWSTraceHeader"])
    assert [] == await deployed.held(deployed.settings.dead_letter_queue_name)


async def test_a_dry_run_shows_and_changes_nothing(deployed: Operated) -> None:
    """Each letter with its code and age, what would become of it; and all can be seen again at once."""
    await deployed.dead("one", **why("NO_TRIGGER", "m-1"))
    await deployed.dead("two", **why("SESSION_ENDED", "m-2"))
    found = await deployed.redrive(is_dry=True)
    assert {("m-1", "redriven"), ("m-2", "left")} == {(each.letter.message_id, each.outcome) for each in found}
    assert all(each.letter.sent_at is not None for each in found)
    assert [] == await deployed.held(deployed.settings.queue_name)
    assert ["one", "two"] == bodies(await deployed.held(deployed.settings.dead_letter_queue_name))


async def test_whoever_looks_for_one_letter_hides_none_of_the_others(deployed: Operated) -> None:
    """Several come with one poll: those behind the one that was found can be seen again at once, too."""
    name = deployed.settings.dead_letter_queue_name
    for number in range(5):
        await deployed.dead(f"letter {number}", **why("INVALID_INPUT", f"m-{number}"))
    dead = await find_queue(deployed.clients, name, patience_of())
    found = await letter_about(dead, "m-1", most=200)
    assert found is not None
    assert "m-1" == found.message_id
    assert [f"letter {number}" for number in range(5)] == bodies(await deployed.held(name))


async def test_what_can_never_succeed_is_left_unless_somebody_insists(deployed: Operated) -> None:
    """By its code, its id, or all; a letter that SQS moved itself has no code, and may succeed."""
    cases = [
        (Choice(), ["input", "worn"]),
        (Choice(every=True), ["ended", "input", "worn"]),
        (Choice(codes=frozenset({"SESSION_ENDED"})), ["ended"]),
        (Choice(codes=frozenset({EXHAUSTED})), ["worn"]),
        (Choice(message_ids=frozenset({"m-2"})), ["input"]),
    ]
    for choice, back in cases:
        await deployed.dead("ended", **why("SESSION_ENDED", "m-1"))
        await deployed.dead("input", **why("INVALID_INPUT", "m-2"))
        await deployed.dead("worn")
        await deployed.redrive(choice)
        assert back == bodies(await deployed.held(deployed.settings.queue_name))
        left = {"ended", "input", "worn"} - set(back)
        dead = deployed.settings.dead_letter_queue_name
        assert sorted(left) == bodies(await deployed.held(dead))
        await deployed.clients.sqs.purge_queue(QueueUrl=await deployed.url(dead))


async def test_a_limit_takes_so_many_and_no_more(deployed: Operated) -> None:
    """The others are there for the next run."""
    for number in range(12):
        await deployed.dead(f"{number:02}", **why("NO_TRIGGER", f"m-{number}"))
    assert 3 == len(await deployed.redrive(Choice(limit=3)))
    assert 3 == len(await deployed.held(deployed.settings.queue_name))
    assert 9 == len(await deployed.redrive())


async def test_who_dies_between_send_and_delete_loses_nothing_and_doubles_no_session(
    deployed: Operated, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The letter is still there and goes back once more, under the identity that it had: it is done once."""
    # As when its time is over for which it was hidden.
    monkeypatch.setattr("orchestrator.redrive.HOLD_SECONDS", 0)
    bare: dict[str, str | None] = {"kind": "signal", "session_id": "s", "name": "nudge"}
    await deployed.dead(compact_json({**bare}), **why("UNKNOWN_SESSION", "m-7"))
    proxy.arm("DeleteMessageBatch", refusal("AccessDenied", status=403))
    with pytest.raises(ClientError):
        await deployed.redrive()
    assert ["redriven"] == [each.outcome for each in await deployed.redrive()]
    assert [] == await deployed.held(deployed.settings.dead_letter_queue_name)
    sent = [json.loads(body) for body in bodies(await deployed.held(deployed.settings.queue_name))]
    assert [{**bare, "message_id": "m-7"}] * 2 == sent


async def test_a_send_whose_answer_is_lost_is_repeated_and_the_letter_deleted_after_it(
    deployed: Operated, proxy: FaultProxy
) -> None:
    """Twice on the queue is as good as once: a start with a key is the same start."""
    await deployed.dead(START, **why("UNKNOWN_SESSION_TYPE"))
    proxy.arm("SendMessage", lost_answer)
    proxy.requests.entries.clear()
    await deployed.redrive()
    assert proxy.is_disarmed
    assert [START, START] == bodies(await deployed.held(deployed.settings.queue_name))
    order = [request.operation for request in proxy.of("SendMessage", "DeleteMessageBatch")]
    assert ["SendMessage", "SendMessage", "DeleteMessageBatch"] == order


async def test_a_queue_that_refuses_leaves_the_letter_where_it_is(deployed: Operated, proxy: FaultProxy) -> None:
    """No permission to send: nothing was deleted, and others see the letter again."""
    await deployed.dead(START, **why("UNKNOWN_SESSION_TYPE"))
    proxy.arm("SendMessage", refusal("AccessDenied", status=403))
    with pytest.raises(Exception, match="AccessDenied"):
        await deployed.redrive()
    assert [] == proxy.of("DeleteMessageBatch")


async def test_a_body_that_lies_in_the_bucket_is_fetched_and_one_that_is_lost_is_left(deployed: Operated) -> None:
    """The whole message goes back; a letter whose body is gone stays, for somebody may find it."""
    body, settings = "x" * 1_048_000, deployed.settings
    bucket = Bucket(deployed.clients.s3, settings.bucket, patience_of())
    await bucket.put("dead-letters/m-1.json", body.encode(), content_type="application/json")
    for name in ("m-1", "m-2"):
        reference = {
            "artifact": f"s3://{settings.bucket}/dead-letters/{name}.json",
            "bytes": len(body),
            "sha256": hashlib.sha256(body.encode()).hexdigest(),
        }
        await deployed.dead(json.dumps(reference), **why("INVALID_INPUT", name))
    outcomes = {each.letter.message_id: each.outcome for each in await deployed.redrive()}
    assert {"m-1": "redriven", "m-2": "unreadable"} == outcomes
    assert [body] == bodies(await deployed.held(settings.queue_name))


async def test_what_is_thrown_away_is_gone_and_goes_nowhere(deployed: Operated) -> None:
    """Only what was chosen."""
    await deployed.dead("ended", **why("SESSION_ENDED", "m-1"))
    await deployed.dead("input", **why("INVALID_INPUT", "m-2"))
    chosen = Choice(codes=frozenset({"SESSION_ENDED"}))
    assert ["discarded"] == [each.outcome for each in await deployed.redrive(chosen, discards=True, is_dry=True)]
    assert ["discarded"] == [each.outcome for each in await deployed.redrive(chosen, discards=True)]
    assert [] == await deployed.held(deployed.settings.queue_name)
    assert ["input"] == bodies(await deployed.held(deployed.settings.dead_letter_queue_name))


@pytest.mark.parametrize(
    ("body", "session_id"),
    [
        ({"kind": "start", "session_type": "tea", "session_id": "s-1"}, "s-1"),
        ({"kind": "start", "session_type": "tea", "idempotency_key": "k"}, derive_session_id("default", "tea", "k")),
        (
            {"kind": "start", "session_type": "tea", "idempotency_key": "k", "tenant": "acme"},
            derive_session_id("acme", "tea", "k"),
        ),
        ({"kind": "start", "session_type": "tea"}, None),
        ({"kind": "signal", "session_id": "s-1"}, None),
        ("no JSON", None),
    ],
)
def test_a_letter_tells_which_session_it_would_start(body: Any, session_id: str | None) -> None:
    """In an envelope of SNS too; whatever it is, it is no error."""
    text = body if isinstance(body, str) else json.dumps(body)
    wrapped = json.dumps({"Type": "Notification", "Message": text})
    assert [session_id] * 2 == [started_by(letter_of(QueueMessage("m", "r", each, 1))) for each in (text, wrapped)]
