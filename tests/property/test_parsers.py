"""Everything that reads what outsiders send: the answer is a value, or the one error that is promised (I11)."""

import asyncio
import base64
import copy
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, assert_never

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from orchestrator import Orchestrator, S3Object, SessionContext
from orchestrator.cluster.dynamodb import _parse_cursor
from orchestrator.cluster.memory import MemoryHeads
from orchestrator.errors import NotSerializable, Poison, SettingsError
from orchestrator.intake import CallbackAnswer, Cancel, Envelope, Request, Signal, Start
from orchestrator.intake.formats import Reader
from orchestrator.journal import UnreadableEvent
from orchestrator.journal.codec import decode
from orchestrator.payloads import DEPTH_MAX, InvalidPayload, PayloadTooLarge, PayloadType, parse_json, to_json
from orchestrator.session.events import EVENT_TYPES
from orchestrator.session.values import canonical_json, compact_json, is_valid_id, is_valid_session_id
from orchestrator.settings import Settings, load
from orchestrator.telemetry import trace_ids, trace_parent

PAYLOAD_BYTES_MAX: Final = 10_000
REASONS: Final = {
    "INVALID_JSON",
    "INVALID_MESSAGE",
    "UNKNOWN_KIND",
    "UNKNOWN_SESSION_TYPE",
    "INVALID_INPUT",
    "NO_TRIGGER",
}
TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

anything = st.text(st.characters())
"""Every character that a text of Python can hold, lone surrogates too."""
leaves = st.none() | st.booleans() | st.integers() | st.floats() | anything
json_like = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(anything, inner, max_size=4),
    max_leaves=8,
)
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


class Order(BaseModel):
    """An input that can be wrong."""

    item: str
    count: int = 1


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


READER: Final = Reader(app, lambda: "0" * 32)


def read(body: str, **envelope: Any) -> tuple[Request, ...] | str:
    """Return what the reader makes of the body: requests that can be met, or the reason it is refused."""
    try:
        requests = READER.read(Envelope("m", body, **envelope))
    except Poison as poison:
        return known_reason(poison)
    for request in requests:
        assert_acceptable(request)
    return requests


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


FIELDS: Final = sorted({*NATIVE, *SIGNAL, *CANCEL, *CALLBACK, "Type", "Message", "Records", "Event"})


@given(extra=st.dictionaries(st.sampled_from(FIELDS), json_like))
@relaxed
def test_any_values_in_the_known_fields_are_read_or_refused(extra: dict[str, object]) -> None:
    """Of a native message, of an envelope, of a notification, and of all at once."""
    read(json.dumps(extra))
    for body in (NATIVE, SIGNAL, CANCEL, CALLBACK):
        read(json.dumps({**body, **extra}))


def paths(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the way to every part of a JSON value."""
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from paths(part, (*path, key))
    elif isinstance(value, list):
        for position, part in enumerate(value):
            yield from paths(part, (*path, position))


@st.composite
def mutated(draw: st.DrawFn) -> object:
    """Return a valid body of which one to three parts were replaced, dropped or doubled."""
    body: Any = copy.deepcopy(BODIES[draw(st.sampled_from(sorted(BODIES)))])
    for _ in range(draw(st.integers(1, 3))):
        way = draw(st.sampled_from(sorted(paths(body), key=repr)))
        if not way:
            continue
        parent = body
        for step in way[:-1]:
            parent = parent[step]
        match draw(st.sampled_from(["replace", "drop", "double", "wrap"])):
            case "replace":
                parent[way[-1]] = draw(json_like)
            case "drop":
                del parent[way[-1]]
            case "double":
                parent[way[-1]] = [parent[way[-1]], parent[way[-1]]]
            case _:
                parent[way[-1]] = {"Records": parent[way[-1]]}
    return body


@given(body=mutated())
@settings(relaxed, max_examples=400)
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
    ],
)
def test_what_is_wrong_has_its_reason(body: str, reason: str) -> None:
    """People look for it in the dead-letter queue."""
    assert reason == read(body)


# --- JSON values ---------------------------------------------------------------------------------------------------


@given(text=anything)
@example("[" * 100_000 + "]" * 100_000)
@example('{"a":' * 100_000)
@example("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1))
@example('"' + "[" * 100_000 + '"')
@example("9" * 10_000)
@example("-" + "9" * 10_000)
@example("1e999")
@example("-1e999")
@example("NaN")
@example("[Infinity]")
@example('"\\ud800"')
@example('"\\uDFFF"')
@example('{"\\ud800": 1}')
@example('"\ud800"')
@example('{"a": 1, "a": 2}')
@relaxed
def test_a_text_parses_to_what_a_journal_can_hold_or_raises_value_error(text: str) -> None:
    """No NaN, no infinity, no lone surrogate, no nesting without end: what parses can be written again."""
    try:
        value = parse_json(text)
    except ValueError:
        return
    written = compact_json(value)
    written.encode()
    assert value == parse_json(written)


@given(value=json_like)
@relaxed
def test_any_json_value_parses_as_it_was_written_or_raises_value_error(value: object) -> None:
    """As long as it is a finite one."""
    try:
        parsed = parse_json(json.dumps(value))
    except ValueError:
        return
    assert value == parsed


def test_json_is_as_deep_as_it_may_be_and_no_deeper() -> None:
    """Brackets inside texts are no nesting."""
    assert parse_json("[" * DEPTH_MAX + "]" * DEPTH_MAX)
    with pytest.raises(ValueError, match="levels"):
        parse_json("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1))
    assert "[" * 100_000 == parse_json('"' + "[" * 100_000 + '"')
    assert '"[' * 1_000 == parse_json(json.dumps('"[' * 1_000))


class Colour(Enum):
    """A kind of value that pydantic knows."""

    RED = "red"


@dataclass
class Knot:
    """A value that can hold itself."""

    inner: object = None


def cycle() -> object:
    """Return a list that holds itself."""
    value: list[object] = []
    value.append({"again": value})
    return value


def knotted() -> object:
    """Return a dataclass that holds itself."""
    knot = Knot()
    knot.inner = [knot]
    return knot


def deep(wrap: Callable[[object], object], levels: int = 100_000) -> object:
    """Return a value so many levels deep."""
    value: object = None
    for _ in range(levels):
        value = wrap(value)
    return value


AWKWARD: Final = [
    cycle,
    knotted,
    lambda: deep(lambda inner: [inner]),
    lambda: deep(lambda inner: {"a": inner}),
    lambda: deep(Knot, 5_000),
    lambda: float("nan"),
    lambda: {"a": [float("inf")]},
    lambda: Knot(float("nan")),
    lambda: "\ud800",
    lambda: {"\ud800": 1},
    lambda: b"\xff\xfe",
    lambda: {b"a": 1},
    lambda: {(1, 2): 3},
    lambda: {0: 2, 1.5: 3, None: 4, True: 5},
    lambda: 10**10_000,
    lambda: {"a": 10**10_000},
    object,
    lambda: Colour.RED,
    lambda: Knot,
    lambda: (each for each in (1, 2)),
    lambda: lambda: None,
    lambda: {1, 2, "x"},
    lambda: 1j,
    lambda: "x" * (PAYLOAD_BYTES_MAX + 1),
    lambda: ValueError("an error"),
    lambda: range(3),
    lambda: memoryview(b"x"),
    asyncio.Event,
]


def assert_json(value: object) -> None:
    """Check that a journal can hold it, and gives it back as it is."""
    text = compact_json(value)  # type: ignore[arg-type]
    assert len(text.encode()) <= PAYLOAD_BYTES_MAX
    assert value == parse_json(text)


@pytest.mark.parametrize("make", AWKWARD)
@pytest.mark.parametrize("annotation", [object, int, str, Order, list[Order], dict[str, int], Order | None])
def test_awkward_values_become_json_or_are_refused(make: Callable[[], object], annotation: object) -> None:
    """Nothing but NotSerializable, InvalidPayload and PayloadTooLarge, for any annotation."""
    try:
        assert_json(PayloadType(annotation).dump(make(), bytes_max=PAYLOAD_BYTES_MAX))
    except (NotSerializable, InvalidPayload, PayloadTooLarge) as error:
        str(error).encode()


python_values = st.recursive(
    leaves | st.binary() | st.datetimes() | st.decimals() | st.uuids() | st.complex_numbers() | st.timedeltas(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.builds(Knot, inner)
        | st.dictionaries(leaves | st.binary() | st.tuples(leaves), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(value=python_values)
@relaxed
def test_any_value_becomes_json_or_is_refused(value: object) -> None:
    """Nothing but NotSerializable and PayloadTooLarge; what comes out is what a journal gives back."""
    try:
        assert_json(to_json(value, "value", bytes_max=PAYLOAD_BYTES_MAX))
    except (NotSerializable, PayloadTooLarge) as error:
        str(error).encode()


@given(value=python_values)
@relaxed
def test_plain_values_are_copied_as_encoding_and_parsing_would(value: object) -> None:
    """A value far under the limit takes a short way, one that just fits the long way: to the same end, type by type."""
    try:
        short = to_json(value, "value", bytes_max=2**20)
    except NotSerializable:
        return
    just_enough = len(compact_json(short).encode())
    assert repr(short) == repr(to_json(value, "value", bytes_max=just_enough))


@given(
    value=json_like,
    annotation=st.sampled_from([object, int, str, Order, list[Order], dict[str, int], Order | None, Knot]),
)
@relaxed
def test_any_json_loads_as_annotated_or_is_refused_by_field(value: Any, annotation: object) -> None:
    """InvalidPayload, whose text begins with the name it was given."""
    refusal = "input"
    try:
        PayloadType(annotation).load(value, "input")
    except InvalidPayload as error:
        refusal = str(error)
    assert refusal.startswith("input")


# --- settings ------------------------------------------------------------------------------------------------------

VARIABLES: Final = [f"ORCHESTRATOR_{name.upper()}" for name in Settings.model_fields]
environment_texts = st.text(
    st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20
) | st.sampled_from(
    [
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1e999",
        "1_000",
        "٣",
        " 5 ",
        "",
        "true",
        "null",
        "[]",
        "{}",
        ",,",
        "9" * 5_000,
        "\udc80",
    ]
)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set these variables, and none other of ours, while the block runs."""
    before = dict(os.environ)
    try:
        for name in [name for name in os.environ if name.upper().startswith("ORCHESTRATOR_")]:
            del os.environ[name]
        os.environ.update(variables)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@given(variables=st.dictionaries(st.sampled_from(VARIABLES), environment_texts, max_size=4))
@settings(relaxed, max_examples=300)
def test_any_environment_is_settings_or_one_line_that_names_the_variable(variables: dict[str, str]) -> None:
    """And settings that are accepted can be worked with: every number is one."""
    with environment(variables):
        try:
            accepted = load()
        except SettingsError as error:
            text = str(error)
            assert 1 == len(text.splitlines())
            assert any(name in text for name in VARIABLES)
            text.encode()
            return
    for name, value in accepted:
        assert not (isinstance(value, float) and math.isnan(value)), name
    assert accepted.node_timeout_seconds >= 2 * accepted.heartbeat_seconds


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ORCHESTRATOR_PORT", "http"),
        ("ORCHESTRATOR_PORT", "65536"),
        ("ORCHESTRATOR_HEARTBEAT_SECONDS", "0"),
        ("ORCHESTRATOR_HEARTBEAT_SECONDS", "nan"),
        ("ORCHESTRATOR_NODE_TIMEOUT_SECONDS", "nan"),
        ("ORCHESTRATOR_NODE_TIMEOUT_SECONDS", "9"),
        ("ORCHESTRATOR_DRAIN_SECONDS", "nan"),
        ("ORCHESTRATOR_PASSIVATE_AFTER_SECONDS", "nan"),
        ("ORCHESTRATOR_MAX_SESSIONS", "0"),
        ("ORCHESTRATOR_INLINE_LIMIT_BYTES", "400000"),
        ("ORCHESTRATOR_LOG_FORMAT", "xml"),
        ("ORCHESTRATOR_QUEUE", ""),
        ("ORCHESTRATOR_HOST", ""),
    ],
)
def test_a_bad_setting_is_named(variable: str, value: str) -> None:
    """One line, the variable first."""
    with environment({variable: value}), pytest.raises(SettingsError, match=f"^{variable}: .+$"):
        load()


def test_api_keys_are_split_at_commas() -> None:
    """White space and empty ones do not count, and they do not show."""
    with environment({"ORCHESTRATOR_API_KEYS": " one, two ,,"}):
        accepted = load()
    assert ["one", "two"] == [key.get_secret_value() for key in accepted.api_keys]
    assert "two" not in repr(accepted)


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
@settings(relaxed, max_examples=300)
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
@settings(relaxed, max_examples=300)
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
@settings(relaxed, max_examples=300)
def test_any_item_is_an_event_or_unreadable(status: str, operation: str | None, data: str) -> None:
    """The table is within reach of other hands."""
    with suppress(UnreadableEvent):
        decode(status, operation, data)
