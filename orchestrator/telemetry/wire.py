"""Spans of sessions on the wire: OTLP's messages, made straight from what the journal says.

The SDK's own way, a `ReadableSpan` that its encoder takes apart again, costs several times as much: a tenth of what a
whole session costs (ADR 26). Source: OpenTelemetry Protocol, `opentelemetry/proto/trace/v1/trace.proto`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as WireResource
from opentelemetry.proto.trace.v1 import trace_pb2 as wire
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import TraceFlags

from orchestrator.session.frozen import quick
from orchestrator.session.tracing import Attribute, Span

_KINDS: Final = {
    "consumer": wire.Span.SPAN_KIND_CONSUMER,
    "internal": wire.Span.SPAN_KIND_INTERNAL,
    "client": wire.Span.SPAN_KIND_CLIENT,
}
_LOCAL: Final = wire.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK | TraceFlags.SAMPLED
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class _Sampled:
    trace_flags = TraceFlags(TraceFlags.SAMPLED)


@quick
@dataclass(frozen=True, slots=True)
class Told:
    """A span that has ended, with its trace: what the SDK's batches carry for us in place of a `ReadableSpan`."""

    trace_id: str
    span: Span

    @property
    def context(self) -> type[_Sampled]:
        """What the SDK asks a span for before it queues it: only sampled ones are made."""
        return _Sampled


class SessionSpanExporter(OTLPSpanExporter):
    """Exports `Told` spans as the SDK's exporter does others: same variables, same retries."""

    def __init__(self, resource: Resource, scope: str, **options: object) -> None:
        super().__init__(**options)  # type: ignore[call-overload]
        self._wire_resource = WireResource(attributes=_attributes(_plain(resource.attributes)))
        self._wire_scope = InstrumentationScope(name=scope)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch; returns when it was taken, or given up."""
        told = cast("Sequence[Told]", spans)
        body = ExportTraceServiceRequest(
            resource_spans=[
                wire.ResourceSpans(
                    resource=self._wire_resource,
                    scope_spans=[wire.ScopeSpans(scope=self._wire_scope, spans=[span_of(each) for each in told])],
                )
            ]
        )
        answer = self._client.export(body.SerializeToString())
        return SpanExportResult.SUCCESS if answer.success else SpanExportResult.FAILURE


def span_of(told: Told) -> wire.Span:
    """Return the span as OTLP has it."""
    span, trace_id = told.span, bytes.fromhex(told.trace_id)
    message = wire.Span(
        trace_id=trace_id,
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=b"" if span.parent_id is None else bytes.fromhex(span.parent_id),
        flags=_LOCAL,
        name=span.name,
        kind=_KINDS[span.kind],
        start_time_unix_nano=_nanos(span.started_at),
        end_time_unix_nano=_nanos(span.ended_at),
        attributes=_attributes(span.attributes),
    )
    for link in span.links:
        message.links.add(trace_id=trace_id, span_id=bytes.fromhex(link), flags=_LOCAL)
    if span.error is not None:
        message.attributes.append(KeyValue(key="error.type", value=AnyValue(string_value=span.error)))
        message.status.code = wire.Status.STATUS_CODE_ERROR
        message.status.message = span.error
    return message


def _attributes(attributes: Mapping[str, Attribute]) -> list[KeyValue]:
    return [KeyValue(key=name, value=_value(value)) for name, value in attributes.items()]


def _value(value: Attribute) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    # A bool is an int.
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    return AnyValue(int_value=value) if isinstance(value, int) else AnyValue(double_value=value)


def _plain(attributes: Mapping[str, object]) -> dict[str, Attribute]:
    """Return what is text or a number; of lists, as detectors have some, the text."""
    return {name: value if isinstance(value, str | int | float) else str(value) for name, value in attributes.items()}


def _nanos(instant: datetime) -> int:
    # Not by `timestamp()`: a float of today's seconds has no room for nanoseconds, and rounds milliseconds.
    return (instant - _EPOCH) // _MICROSECOND * 1_000
