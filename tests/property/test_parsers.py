"""Everything that reads what outsiders send: the answer is a value, or the one error that is promised (I11)."""

import asyncio
import base64
import copy
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, assert_never

import pytest
from any_values import Order, anything, examples, json_like, relaxed, spoiled
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator import Event, Orchestrator, RegistrationError, S3Object, SessionContext
from orchestrator.cluster.dynamodb import _parse_cursor
from orchestrator.cluster.memory import MemoryHeads
from orchestrator.cron import schedule
from orchestrator.errors import Poison
from orchestrator.intake import CallbackAnswer, Cancel, Envelope, Request, Signal, Start, Triggered
from orchestrator.intake.formats import Reader
from orchestrator.intake.triggering import together
from orchestrator.journal import UnreadableEvent
from orchestrator.journal.codec import decode
from orchestrator.session.events import EVENT_TYPES
from orchestrator.session.values import canonical_json, compact_json, is_valid_id, is_valid_session_id
from orchestrator.telemetry.context import trace_ids, trace_parent

REASONS: Final = {
    "INVALID_JSON",
    "INVALID_MESSAGE",
    "UNKNOWN_KIND",
    "UNKNOWN_SESSION_TYPE",
    "INVALID_INPUT",
    "NO_TRIGGER",
    "TRIGGER_FAILED",
}
TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


app = Orchestrator()


@app.session("order")
async def order(ctx: SessionContext, order: Order) -> None:
    """Take an order."""


@app.session("any")
async def take_any(ctx: SessionContext, payload: object) -> None:
    """Take anything."""


@app.on_s3_object(bucket="documents*", prefix="in/", suffix=".pdf")
@app.session("document")
async def document(ctx: SessionContext, created: S3Object) -> None:
    """Take a document."""


def item_of(event: Event) -> Order:
    """Make an order of an event; raises what user code raises."""
    return Order(item=event.detail["item"], count=event.detail["count"])


@app.on_event(source="acme.*", detail_type="Order Placed", match={"detail": {"region": ["eu", {"prefix": "us-"}]}})
@app.session("event")
async def take_event(ctx: SessionContext, event: Event) -> None:
    """Take an event."""


@app.on_event(source="acme.shop", transform=item_of, tenant=lambda event: event.detail["tenant"], key=lambda e: e.id)
@app.session("ordered")
async def take_order(ctx: SessionContext, order: Order) -> None:
    """Take what an event is turned into."""


READER: Final = Reader(app, lambda: "0" * 32)


def read(body: str, **envelope: Any) -> tuple[Request, ...] | str:
    """Return what the reader makes of the body: requests that can be met, or the reason it is refused.

    Of what an event sets off, the starts; one that a trigger refuses counts as refused.
    """
    requests: list[Request] = []
    try:
        for request in READER.read(Envelope("m", body, **envelope)):
            if not isinstance(request, Triggered):
                requests.append(request)
                continue
            requests += [*request.starts, *request.ordered]
            if request.refusals:
                raise together(request.refusals)
    except Poison as poison:
        return known_reason(poison)
    for request in requests:
        assert_acceptable(request)
    return tuple(requests)


def known_reason(poison: Poison) -> str:
    """Check that a dead letter says why, in words that can be sent, and return the code that goes with them."""
    assert poison.reason in REASONS, poison.reason
    assert str(poison).encode().strip()
    return poison.reason


def assert_acceptable(request: Request) -> None:
    """Check that nothing about the request can fail later: its ids, its payloads, its trace."""
    match request:
        case Start():
            assert app.session_type(request.session_type) is not None
            assert is_valid_session_id(request.session_id)
            assert is_valid_id(request.tenant)
            # What its length decides, inline or in the bucket, may be off by what floats are written as.
            length = len(compact_json(request.input).encode())
            assert request.input_bytes / 2 <= length <= 2 * request.input_bytes
            canonical_json(request.input)
            assert request.trace is None or TRACEPARENT.fullmatch(request.trace)
        case Signal():
            assert is_valid_id(request.session_id)
            assert is_valid_id(request.name)
            assert is_valid_id(request.message_id)
            canonical_json(request.data)
        case Cancel():
            assert is_valid_id(request.session_id)
            assert is_valid_id(request.message_id)
            canonical_json(request.reason)
        case CallbackAnswer():
            assert is_valid_id(request.callback_id)
            assert request.token
            assert request.status in {"SUCCESS", "FAILURE"}
            canonical_json([request.result, request.error])
        case Triggered():
            raise AssertionError("its starts are looked at")
        case _:
            assert_never(request)


NATIVE: Final[dict[str, Any]] = {
    "kind": "start",
    "session_type": "order",
    "input": {"item": "tea", "count": 2},
    "idempotency_key": "order-17",
    "session_id": None,
    "tenant": "acme",
    "task_token": None,
}
SIGNAL: Final[dict[str, Any]] = {
    "kind": "signal",
    "session_id": "order-17:g2",
    "name": "paid",
    "data": {"amount": 2},
    "message_id": "m-1",
}
CANCEL: Final[dict[str, Any]] = {"kind": "cancel", "session_id": "order-17", "reason": "enough", "message_id": "m-1"}
CALLBACK: Final[dict[str, Any]] = {
    "kind": "callback",
    "callback_id": "cb-1",
    "token": "t" * 43,
    "status": "SUCCESS",
    "result": {"n": 1},
    "error": None,
}
S3: Final[dict[str, Any]] = {
    "Records": [
        {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": "us-east-1",
            "eventTime": "2026-01-01T12:00:00.000Z",
            "eventName": "ObjectCreated:Put",
            "s3": {
                "bucket": {"name": "documents-1", "arn": "arn:aws:s3:::documents-1"},
                "object": {"key": "in/a+b%2Bc.pdf", "size": 5, "eTag": "e", "versionId": "v", "sequencer": "0055AED6"},
            },
        }
    ]
}


EVENT: Final[dict[str, Any]] = {
    "version": "0",
    "id": "17793124-05d4-b198-2fde-7ededc63b103",
    "detail-type": "Order Placed",
    "source": "acme.shop",
    "account": "111122223333",
    "time": "2026-01-01T12:00:00Z",
    "region": "eu-central-1",
    "resources": ["arn:aws:s3:::documents-1"],
    "detail": {"item": "tea", "count": 2, "region": "us-east-1", "tenant": "acme"},
}
S3_EVENT: Final[dict[str, Any]] = {
    **EVENT,
    "detail-type": "Object Created",
    "source": "aws.s3",
    "detail": {
        "version": "0",
        "bucket": {"name": "documents-1"},
        "object": {"key": "in/a b+c.pdf", "size": 5, "etag": "e", "version-id": "v", "sequencer": "0055AED6"},
        "request-id": "N4N7GDK58NMKJ12R",
        "requester": "123456789012",
        "source-ip-address": "1.2.3.4",
        "reason": "PutObject",
    },
}


def in_sns(body: Mapping[str, object], times: int = 1) -> dict[str, Any]:
    """Return the body in so many SNS envelopes."""
    wrapped: dict[str, Any] = dict(body)
    for _ in range(times):
        wrapped = {"Type": "Notification", "MessageId": "1", "TopicArn": "arn", "Message": json.dumps(wrapped)}
    return wrapped


BODIES: Final[dict[str, dict[str, Any]]] = {
    "native": NATIVE,
    "S3": S3,
    "S3 in SNS": in_sns(S3),
    "native in three SNS": in_sns(NATIVE, 3),
    "signal": SIGNAL,
    "signal in SNS": in_sns(SIGNAL),
    "cancel": CANCEL,
    "callback": CALLBACK,
    "event": EVENT,
    "event in SNS": in_sns(EVENT),
    "S3 by EventBridge": S3_EVENT,
    "S3 test": {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "documents"},
}


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("native", [Start]),
        ("S3", [Start]),
        ("S3 in SNS", [Start]),
        ("native in three SNS", [Start]),
        ("signal", [Signal]),
        ("signal in SNS", [Signal]),
        ("cancel", [Cancel]),
        ("callback", [CallbackAnswer]),
        ("event", [Start, Start]),
        ("event in SNS", [Start, Start]),
        ("S3 by EventBridge", [Start]),
        ("S3 test", []),
    ],
)
def test_the_valid_bodies_above_are_valid(name: str, kinds: list[type[Request]]) -> None:
    """Else mutating them would prove nothing."""
    requests = read(json.dumps(BODIES[name]))
    assert isinstance(requests, tuple)
    assert kinds == [type(request) for request in requests]


def test_a_message_without_an_id_has_that_of_its_delivery() -> None:
    """So that a redelivery is known; a cancel need not say why, and the reader gives it no reason of its own."""
    told = [{**SIGNAL, "message_id": None}, {"kind": "cancel", "session_id": "order-17"}]
    assert (
        Signal("order-17:g2", "paid", {"amount": 2}, "m"),
        Cancel("order-17", None, "m"),
    ) == tuple(request for body in told for request in READER.read(Envelope("m", json.dumps(body))))


def test_an_input_of_any_length_is_read() -> None:
    """Whether it stands in the journal or in the bucket is for others to decide, who are told how long it is."""
    body = {**NATIVE, "session_type": "any", "input": "x" * 1_000_000}
    (request,) = READER.read(Envelope("m", json.dumps(body)))
    assert isinstance(request, Start)
    assert 1_000_002 == request.input_bytes


def test_an_s3_key_is_decoded_and_its_version_makes_the_session_id() -> None:
    """Form-encoded keys; the same version of an object is one session, another version another."""
    first = next(iter(read(json.dumps(S3))))
    assert isinstance(first, Start)
    assert isinstance(first.input, dict)
    assert "in/a b+c.pdf" == first.input["key"]
    again, other = copy.deepcopy(S3), copy.deepcopy(S3)
    again["Records"][0]["eventTime"] = "2027-01-01T00:00:00.000Z"
    other["Records"][0]["s3"]["object"]["versionId"] = "w"
    ids = [one.session_id for body in (again, other) for one in read(json.dumps(body)) if isinstance(one, Start)]
    assert [True, False] == [first.session_id == each for each in ids]


@given(body=anything)
@example("[" * 100_000)
@example('{"kind":' * 100_000)
@example('{"kind":"start","session_type":"any","input":' + "9" * 10_000 + "}")
@example('{"kind":"start","session_type":"any","input":1e999}')
@example('{"kind":"start","session_type":"any","input":NaN}')
@example('{"kind":"start","session_type":"any","input":"\\ud800"}')
@example('{"kind":"start","session_type":"any","input":"\ud800"}')
@example('{"kind":"start","kind":"stop"}')
@example('{"kind":"start","session_type":"any","input":"' + "x" * 20_000 + '"}')
@relaxed
def test_any_text_is_read_or_refused(body: str) -> None:
    """Nothing but Poison, with a reason that is known."""
    read(body)


@given(body=json_like)
@relaxed
def test_any_json_is_read_or_refused(body: object) -> None:
    """Nothing but Poison, with a reason that is known."""
    read(json.dumps(body))


FIELDS: Final = sorted({*NATIVE, *SIGNAL, *CANCEL, *CALLBACK, *EVENT, "Type", "Message", "Records", "Event"})


@given(extra=st.dictionaries(st.sampled_from(FIELDS), json_like))
@relaxed
def test_any_values_in_the_known_fields_are_read_or_refused(extra: dict[str, object]) -> None:
    """Of a native message, of an envelope, of a notification, and of all at once."""
    read(json.dumps(extra))
    for body in (NATIVE, SIGNAL, CANCEL, CALLBACK, EVENT):
        read(json.dumps({**body, **extra}))


@given(body=spoiled(st.sampled_from([BODIES[name] for name in sorted(BODIES)])))
@examples(400)
def test_a_valid_body_with_some_of_it_spoiled_is_read_or_refused(body: object) -> None:
    """Nothing but Poison, with a reason that is known."""
    read(json.dumps(body))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "INVALID_JSON"),
        ("nope", "INVALID_JSON"),
        ("[]", "INVALID_MESSAGE"),
        ("{}", "INVALID_MESSAGE"),
        (json.dumps({"kind": "stop"}), "UNKNOWN_KIND"),
        (json.dumps({**NATIVE, "session_type": "nope"}), "UNKNOWN_SESSION_TYPE"),
        (json.dumps({**NATIVE, "session_type": ""}), "INVALID_MESSAGE"),
        (json.dumps({**NATIVE, "input": {"item": 5}}), "INVALID_INPUT"),
        (json.dumps({**NATIVE, "session_id": "x:g2"}), "INVALID_MESSAGE"),
        (json.dumps({**NATIVE, "session_id": "x" * 111}), "INVALID_MESSAGE"),
        (json.dumps({**NATIVE, "tenant": ""}), "INVALID_MESSAGE"),
        (json.dumps({**NATIVE, "idempotency_key": 5}), "INVALID_MESSAGE"),
        (json.dumps({**SIGNAL, "session_id": "a b"}), "INVALID_MESSAGE"),
        (json.dumps({**SIGNAL, "session_id": "a\n"}), "INVALID_MESSAGE"),
        (json.dumps({**SIGNAL, "session_id": "x" * 129}), "INVALID_MESSAGE"),
        (json.dumps({**SIGNAL, "name": ""}), "INVALID_MESSAGE"),
        (json.dumps({**SIGNAL, "message_id": 5}), "INVALID_MESSAGE"),
        (json.dumps({**CANCEL, "session_id": None}), "INVALID_MESSAGE"),
        (json.dumps({**CANCEL, "reason": "x" * 1_001}), "INVALID_MESSAGE"),
        (json.dumps({**CALLBACK, "callback_id": "a/b"}), "INVALID_MESSAGE"),
        (json.dumps({**CALLBACK, "token": ""}), "INVALID_MESSAGE"),
        (json.dumps({**CALLBACK, "status": "MAYBE"}), "INVALID_MESSAGE"),
        (json.dumps(in_sns(NATIVE, 4)), "INVALID_MESSAGE"),
        (json.dumps({"Records": [1]}), "INVALID_MESSAGE"),
        (json.dumps(S3).replace("documents-1", "other"), "NO_TRIGGER"),
        (json.dumps(S3_EVENT).replace("documents-1", "other"), "NO_TRIGGER"),
        (json.dumps({**EVENT, "source": "acme.other", "detail": {}}), "NO_TRIGGER"),
        (json.dumps({**EVENT, "id": ""}), "INVALID_MESSAGE"),
        (json.dumps({**EVENT, "detail": []}), "INVALID_MESSAGE"),
        (json.dumps({**S3_EVENT, "detail": {"bucket": {"name": "documents-1"}}}), "INVALID_MESSAGE"),
        (json.dumps({**EVENT, "detail": {}}), "TRIGGER_FAILED"),
        (json.dumps({**EVENT, "detail": {**EVENT["detail"], "tenant": 5}}), "TRIGGER_FAILED"),
        (json.dumps({**EVENT, "detail": {**EVENT["detail"], "tenant": "a b"}}), "INVALID_MESSAGE"),
        (json.dumps(in_sns({"Type": "Notification", "Message": "{bad"})), "INVALID_JSON"),
        (json.dumps({"Type": "SubscriptionConfirmation", "SubscribeURL": "https://sns"}), "INVALID_MESSAGE"),
    ],
)
def test_what_is_wrong_has_its_reason(body: str, reason: str) -> None:
    """People look for it in the dead-letter queue."""
    assert reason == read(body)


# --- schedules -----------------------------------------------------------------------------------------------------

FIELD: Final = st.text("0123456789*/,-#L", max_size=6) | st.sampled_from(["*", "mon-fri", "jan,feb", "*/15", "31", "L"])


@given(
    cron=anything | st.lists(FIELD, min_size=4, max_size=6).map(" ".join), timezone=anything | st.just("Asia/Kolkata")
)
@example("0 0 31 2,4,6 mon#5", "UTC")
@example("0 0 29 2 *", "Europe/Zurich")
@example("0 0 * * " + "9" * 200, "UTC")
@example("٣ * * * *", "UTC")
@example("0 8 * * *", "UTC\x00")
@example("0 8 * * *", "x" * 10_000)
@examples(100)
def test_any_schedule_comes_true_or_is_refused(cron: str, timezone: str) -> None:
    """With an error that says what is wrong; and when it comes true, it does so again."""
    try:
        declared = schedule(cron, timezone, "skip", None, ())
    except RegistrationError as error:
        said = str(error)
    else:
        said = "on_schedule("
        now = datetime(2026, 1, 1, tzinfo=UTC)
        assert now < declared.next_after(now) < declared.next_after(declared.next_after(now))
    assert said.startswith("on_schedule(")


# --- headers, cursors, journals ------------------------------------------------------------------------------------

hexes = st.text("0123456789abcdefABCDEF", max_size=40)
parents = st.builds("{}-{}-{}-{}".format, st.sampled_from(["00", "01", "ff", ""]), hexes, hexes, st.text(max_size=4))
xrays = st.builds(
    "Root={};Parent={};Sampled={}{}".format,
    st.builds("1-{}-{}".format, hexes, hexes) | anything,
    hexes,
    st.sampled_from(["0", "1", "?", "x", ""]),
    anything,
)


@given(
    attributes=st.dictionaries(st.sampled_from(["traceparent", "tracestate", "x"]), anything | parents),
    header=st.none() | anything | xrays,
)
@example({"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}, None)
@example({}, "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1")
@examples(300)
def test_any_header_is_a_valid_trace_parent_or_none(attributes: dict[str, str], header: str | None) -> None:
    """W3C, level 1; and its parts bind a log line."""
    parent = trace_parent(xray_header=header, attributes=attributes)
    assert parent is None or TRACEPARENT.fullmatch(parent)
    assert (0 if parent is None else 2) == len(trace_ids(parent))


def test_a_valid_trace_is_kept_and_the_attribute_goes_before_the_header() -> None:
    """Else the property above could be kept by `None` alone."""
    parent = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    xray = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    assert parent == trace_parent(xray_header=xray, attributes={"traceparent": parent})
    kept = trace_parent(xray_header=xray, attributes={"traceparent": "nonsense"})
    assert "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01" == kept


@given(
    cursor=anything
    | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode())
    | json_like.map(lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode())
)
@example("9" * 10_000)
@example("٣")
@example(base64.urlsafe_b64encode(b"[" * 100_000).decode())
@example(base64.urlsafe_b64encode(b'[1e999,"s"]').decode())
@example(base64.urlsafe_b64encode(b'[NaN,"s"]').decode())
@examples(300)
def test_any_cursor_is_a_position_or_a_value_error(cursor: str) -> None:
    """It comes back from outside; in memory and in the table."""
    listing = MemoryHeads().listing(status=None, session_type=None, tenant=None, cursor=cursor, limit=5)
    with suppress(ValueError):
        assert () == asyncio.run(listing).heads
    try:
        stamp, session_id = _parse_cursor(cursor)
    except ValueError:
        return
    assert math.isfinite(stamp)
    assert isinstance(session_id, str)


@given(
    status=st.sampled_from(sorted(EVENT_TYPES)) | anything,
    operation=st.none() | anything,
    data=anything | json_like.map(json.dumps),
)
@examples(300)
def test_any_item_is_an_event_or_unreadable(status: str, operation: str | None, data: str) -> None:
    """The table is within reach of other hands."""
    with suppress(UnreadableEvent):
        decode(status, operation, data)
