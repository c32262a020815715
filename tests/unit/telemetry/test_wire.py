"""Spans on the wire: what the product writes by hand is what Protocol Buffers would have written."""

from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from actors import SystemClock
from orchestrator.session.tracing import ROOT, Span, SpanType, operation_span_id, root_id
from orchestrator.telemetry.otel import BATCH_SPANS_MAX, OtelTelemetry, open_telemetry
from orchestrator.telemetry.wire import encoded

NOON = datetime(2026, 6, 30, 12, tzinfo=UTC)
TYPE = SpanType("step pay", "internal", (("orchestrator.operation", "pay"), ("orchestrator.epoch", 1)))
TRACE_ID = "ab" * 16
TRACE = f"00-{TRACE_ID}-{'cd' * 8}-01"


def span(session_id: str = "s", *, ended_at: datetime = NOON) -> Span:
    """Return a span of a session."""
    return Span(TYPE, session_id, TRACE, "pay", ROOT, NOON, ended_at, (("gen_ai.conversation.id", session_id),))


def read_back(told: Span) -> WireSpan:
    """Return what a collector makes of the span."""
    seen: WireSpan
    (seen,) = ScopeSpans.FromString(encoded(told)).spans
    return seen


@pytest.mark.parametrize("length", [0, 1, 80, 127, 128, 300, 16_383, 16_384, 70_000])
@pytest.mark.parametrize("letter", ["a", "ü", "語"])
def test_texts_of_any_length_are_read_back(letter: str, length: int) -> None:
    """Lengths of messages take one byte more from 128, 16,384, … on."""
    seen = read_back(span(letter * length))
    said = {each.key: each.value.string_value for each in seen.attributes}
    assert letter * length == said["orchestrator.session.id"] == said["gen_ai.conversation.id"]
    assert ("pay", "step pay", bytes.fromhex(TRACE_ID)) == (said["orchestrator.operation"], seen.name, seen.trace_id)


@pytest.mark.parametrize("microseconds", [0, 1, 999, 1_000, 86_400_000_001, 10**14 + 7])
def test_instants_are_exact(microseconds: int) -> None:
    """In nanoseconds, which a float of today's seconds has no room for."""
    seen = read_back(span(ended_at=NOON + timedelta(microseconds=microseconds)))
    assert microseconds * 1_000 == seen.end_time_unix_nano - seen.start_time_unix_nano
    assert int(NOON.timestamp()) * 10**9 == seen.start_time_unix_nano


@pytest.mark.parametrize(
    ("which", "parent", "sender", "above"),
    [
        ("pay", ROOT, "cd" * 8, root_id("s")),
        ("agent\n2", "agent", "cd" * 8, operation_span_id("s", "agent")),
        (ROOT, None, "cd" * 8, b"\xcd" * 8),
        (ROOT, None, root_id("s").hex(), b""),
    ],
    ids=["an operation", "an attempt", "the session", "a session without a sender"],
)
def test_ids_are_those_that_others_were_told(which: str, parent: str | None, sender: str, above: bytes) -> None:
    """Whoever was called from a span has its id as the parent's, long before the span is exported."""
    seen = read_back(span()._replace(which=which, parent=parent, trace=f"00-{TRACE_ID}-{sender}-01"))
    assert (root_id("s") if which == ROOT else operation_span_id("s", which), above) == (
        seen.span_id,
        seen.parent_span_id,
    )


@pytest.mark.parametrize("trace", ["", "1", f"00-{'0' * 32}-{'cd' * 8}-01", f"00-{TRACE_ID}-{'語' * 8}-01"])
def test_a_trace_that_is_none_has_no_spans(trace: str) -> None:
    """A journal may hold any text there; it costs no other session its spans."""
    assert b"" == encoded(span()._replace(trace=trace))


@pytest.mark.parametrize(
    ("variables", "batch"), [({}, BATCH_SPANS_MAX), ({"OTEL_BSP_MAX_QUEUE_SIZE": "600"}, 512)], ids=["own", "the SDK's"]
)
def test_sizes_are_the_sdks_as_soon_as_one_is_set(
    variables: dict[str, str], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is larger than the queue would be refused."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces", **variables}
    telemetry = open_telemetry("n", "1", SystemClock(), session_for=lambda _: None, environ=environ)
    assert isinstance(telemetry, OtelTelemetry)
    processor = telemetry._spans
    assert isinstance(processor, BatchSpanProcessor)
    assert batch == processor._batch_processor._max_export_batch_size
    processor.shutdown()  # type: ignore[no-untyped-call]
