"""Spans on the wire: what the product writes by hand is what Protocol Buffers would have written."""

from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from structlog.testing import capture_logs

from actors import SystemClock
from orchestrator.session.tracing import ROOT, SESSION_ID, Span, SpanType, attempt_span_id, is_sampled, root_id, span_id
from orchestrator.telemetry.otel import BATCH_SPANS_MAX, OtelTelemetry, open_telemetry
from orchestrator.telemetry.wire import SessionSpanExporter, encoded

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
    ("which", "parent", "submitter", "ids"),
    [
        ("pay", ROOT, "cd" * 8, (span_id("s", "pay"), root_id("s"))),
        ("agent\n2", "agent", "cd" * 8, (attempt_span_id("s", "agent", 2), span_id("s", "agent"))),
        (ROOT, None, "cd" * 8, (root_id("s"), b"\xcd" * 8)),
        (ROOT, None, root_id("s").hex(), (root_id("s"), b"")),
    ],
    ids=["an operation", "an attempt", "the session", "a session without a submitter's trace"],
)
def test_ids_are_those_that_others_were_told(
    which: str, parent: str | None, submitter: str, ids: tuple[bytes, bytes]
) -> None:
    """Whoever was called from a span has its id as the parent's, long before the span is exported."""
    seen = read_back(span()._replace(which=which, parent=parent, trace=f"00-{TRACE_ID}-{submitter}-01"))
    assert ids == (seen.span_id, seen.parent_span_id)


@pytest.mark.parametrize(
    ("flags", "is_kept"),
    [("01", 1), ("03", 1), ("0b", 1), ("ff", 1), ("00", 0), ("02", 0), ("fe", 0), ("zz", 0), ("1", 0)],
)
def test_the_last_bit_of_a_trace_says_whether_it_is_kept(flags: str, is_kept: int) -> None:
    """Whatever else the flags say (W3C Trace Context, "sampled flag")."""
    assert bool(is_kept) is is_sampled(f"{TRACE[:-2]}{flags}")


class Taking:
    """A collector that takes every export."""

    success = True

    def __init__(self) -> None:
        self.spans: list[WireSpan] = []

    def export(self, body: bytes) -> "Taking":
        """Take it."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.spans += [each for scope in resource.scope_spans for each in scope.spans]
        return self


def test_a_span_that_the_wire_has_no_room_for_costs_no_other_its_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instant of a clock that was wrong by centuries, a number of a journal that somebody made: they are named."""
    exporter, collector = SessionSpanExporter(Resource({}), "s"), Taking()
    monkeypatch.setattr(exporter, "_client", collector)
    early = span("early")._replace(started_at=datetime(1969, 1, 1, tzinfo=UTC))
    late = span("late", ended_at=datetime(2600, 1, 1, tzinfo=UTC))
    huge = span("huge")._replace(attributes=(("gen_ai.usage.input_tokens", 10**400),))
    batch = [span("a"), early, late, huge, span("b")]
    with capture_logs() as lines:
        assert SpanExportResult.SUCCESS is exporter.export(cast("list[ReadableSpan]", batch))
        assert SpanExportResult.SUCCESS is exporter.export(cast("list[ReadableSpan]", batch[1:2]))
    said = [each.value.string_value for seen in collector.spans for each in seen.attributes if each.key == SESSION_ID]
    assert ["a", "b"] == said
    assert [["early", "huge", "late"], ["early"]] == [line["session_ids"] for line in lines]


@pytest.mark.parametrize("trace", [None, "", "1", f"00-{'0' * 32}-{'cd' * 8}-01", f"00-{TRACE_ID}-{'語' * 8}-01"])
def test_a_trace_that_is_none_has_no_spans(trace: str | None) -> None:
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
