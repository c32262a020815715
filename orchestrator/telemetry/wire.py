"""Spans of sessions on the wire: OTLP's messages, made straight from what the journal says.

The SDK's own way, a `ReadableSpan` that its encoder takes apart again, costs several times as much: a tenth of what a
whole session costs (ADR 26). Source: OpenTelemetry Protocol, `opentelemetry/proto/trace/v1/trace.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, cast

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as WireResource
from opentelemetry.proto.trace.v1 import trace_pb2 as wire
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import TraceFlags

from orchestrator.session.frozen import quick
from orchestrator.session.tracing import Attribute, Span, SpanKind

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
        attributes = [_key_value(name, value) for name, value in _plain(resource.attributes).items()]
        self._resource = wire.ResourceSpans(resource=WireResource(attributes=attributes)).SerializeToString()
        self._scope = wire.ScopeSpans(scope=InstrumentationScope(name=scope)).SerializeToString()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch; returns when it was taken, or given up."""
        told = cast("Sequence[Told]", spans)
        of_scope = self._scope + b"".join([_within(_SPANS, encoded(each)) for each in told])
        of_resource = self._resource + _within(_SCOPE_SPANS, of_scope)
        answer = self._client.export(_within(_RESOURCE_SPANS, of_resource))
        return SpanExportResult.SUCCESS if answer.success else SpanExportResult.FAILURE


def encoded(told: Told) -> bytes:
    """Return the span as a message of OTLP.

    Parts of a message may stand one behind the other (Protocol Buffers, "Encoding": merging), so what many spans share
    is encoded once; ids and instants, of fixed length, are written in place.
    """
    span = told.span
    trace_id = bytes.fromhex(told.trace_id)
    parts = [
        *(_TRACE_ID, trace_id, _SPAN_ID, bytes.fromhex(span.span_id)),
        _TIMES.pack(_START, _nanos(span.started_at), _END, _nanos(span.ended_at)),
        _named(span.name, span.kind),
        *[_attribute(name, value) for name, value in span.attributes.items()],
    ]
    if span.parent_id is not None:
        parts += (_PARENT_ID, bytes.fromhex(span.parent_id))
    if span.error is not None:
        parts.append(_failed(span.error))
    if span.links:
        links = [wire.Span.Link(trace_id=trace_id, span_id=bytes.fromhex(link), flags=_LOCAL) for link in span.links]
        parts.append(wire.Span(links=links).SerializeToString())
    return b"".join(parts)


# Tags of fields: their number and wire type, and for ids their length (`trace.proto`).
_TRACE_ID: Final = b"\x0a\x10"
_SPAN_ID: Final = b"\x12\x08"
_PARENT_ID: Final = b"\x22\x08"
_START: Final = 0x39
_END: Final = 0x41
_TIMES: Final = struct.Struct("<BQBQ")
_SPANS: Final = b"\x12"
_SCOPE_SPANS: Final = b"\x12"
_RESOURCE_SPANS: Final = b"\x0a"


@lru_cache(maxsize=1_024)
def _named(name: str, kind: SpanKind) -> bytes:
    part: bytes = wire.Span(name=name, kind=_KINDS[kind], flags=_LOCAL).SerializeToString()
    return part


# `typed`, for 1 and True are one key else.
@lru_cache(maxsize=4_096, typed=True)
def _attribute(name: str, value: Attribute) -> bytes:
    part: bytes = wire.Span(attributes=[_key_value(name, value)]).SerializeToString()
    return part


@lru_cache(maxsize=256)
def _failed(code: str) -> bytes:
    status = wire.Status(code=wire.Status.STATUS_CODE_ERROR, message=code)
    attributes = [_key_value("error.type", code)]
    part: bytes = wire.Span(status=status, attributes=attributes).SerializeToString()
    return part


def _within(tag: bytes, message: bytes) -> bytes:
    """Return a message as a field of the one around it: tag, length (seven bits a byte, the lowest first), bytes."""
    length, left = bytearray(), len(message)
    while left > 0x7F:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    length.append(left)
    return tag + bytes(length) + message


def _key_value(name: str, value: Attribute) -> KeyValue:
    return KeyValue(key=name, value=_value(value))


def _value(value: Attribute) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    # A bool is an int.
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    # OTLP's whole numbers have 64 bits; an agent may report any.
    fits = isinstance(value, int) and -(2**63) <= value < 2**63
    return AnyValue(int_value=int(value)) if fits else AnyValue(double_value=value)


def _plain(attributes: Mapping[str, object]) -> dict[str, Attribute]:
    """Return what is text or a number; of lists, as detectors have some, the text."""
    return {name: value if isinstance(value, str | int | float) else str(value) for name, value in attributes.items()}


def _nanos(instant: datetime) -> int:
    # Not by `timestamp()`: a float of today's seconds has no room for nanoseconds, and rounds milliseconds.
    return (instant - _EPOCH) // _MICROSECOND * 1_000
