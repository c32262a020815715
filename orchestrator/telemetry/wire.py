"""Spans of sessions on the wire: OTLP's messages, made straight from what the journal says.

The SDK's own way, a `ReadableSpan` that its encoder takes apart again, costs several times as much: a tenth of what a
whole session costs (ADR 26). Source: OpenTelemetry Protocol, `opentelemetry/proto/trace/v1/trace.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import ClassVar, Final, cast

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as WireResource
from opentelemetry.proto.trace.v1 import trace_pb2 as wire
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import TraceFlags

from orchestrator.session.tracing import SESSION_ID, Attribute, Span, SpanType, sampled_trace

_KINDS: Final = {
    "consumer": wire.Span.SPAN_KIND_CONSUMER,
    "internal": wire.Span.SPAN_KIND_INTERNAL,
    "client": wire.Span.SPAN_KIND_CLIENT,
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LOCAL: Final = wire.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK | TraceFlags.SAMPLED


class _Flags:
    sampled = True


class _Sampled:
    # Not `TraceFlags`, whose `sampled` is worked out each time that it is asked.
    trace_flags = _Flags


class Told(bytes):
    """A span as it goes over the wire: what the SDK's batches carry for us in place of a `ReadableSpan`.

    Bytes and nothing else, so that what waits for its export is small, and holds nothing of its session.
    """

    __slots__ = ()
    context: ClassVar = _Sampled
    """What the SDK asks a span for before it queues it: only sampled ones are made."""


class SessionSpanExporter(OTLPSpanExporter):
    """Exports `Told` spans as the SDK's exporter does others: same variables, same retries."""

    def __init__(self, resource: Resource, scope: str, **options: object) -> None:
        super().__init__(**options)  # type: ignore[call-overload]
        attributes = [_key_value(name, value) for name, value in _plain(resource.attributes).items()]
        self._resource = wire.ResourceSpans(resource=WireResource(attributes=attributes)).SerializeToString()
        self._scope = wire.ScopeSpans(scope=InstrumentationScope(name=scope)).SerializeToString()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch; returns when it was taken, or given up."""
        of_scope = self._scope + b"".join([_within(_SPANS, told) for told in cast("Sequence[Told]", spans)])
        of_resource = self._resource + _within(_SCOPE_SPANS, of_scope)
        answer = self._client.export(_within(_RESOURCE_SPANS, of_resource))
        return SpanExportResult.SUCCESS if answer.success else SpanExportResult.FAILURE


@lru_cache(maxsize=4_096)
def of_session(session_id: str, trace: str | None) -> bytes | None:
    """Return the part of a message that all spans of a session have in common; `None` where none are to be kept."""
    trace_id = sampled_trace(trace)
    return None if trace_id is None else _TRACE_ID + bytes.fromhex(trace_id) + _attribute(SESSION_ID, session_id)


def encoded(of: bytes, span: Span) -> Told:
    """Return a span as a message of OTLP; `of` is what `of_session` returns for its session.

    Parts of a message may stand one behind the other (Protocol Buffers, "Encoding": merging), so what many spans share
    is encoded once; ids and instants, of fixed length, are written in place.
    """
    times = _TIMES.pack(_START, _nanos(span.started_at), _END, _nanos(span.ended_at))
    parts = [of, _SPAN_ID, span.span_id, times, _of_type(span.type)]
    if span.parent_id is not None:
        parts += (_PARENT_ID, span.parent_id)
    if span.attributes:
        parts += [_attribute(name, value) for name, value in span.attributes]
    if span.error is not None:
        parts.append(_failed(span.error))
    if span.links:
        trace_id = of[len(_TRACE_ID) :][:TRACE_ID_BYTES]
        links = [wire.Span.Link(trace_id=trace_id, span_id=link, flags=_LOCAL) for link in span.links]
        parts.append(wire.Span(links=links).SerializeToString())
    return Told(b"".join(parts))


# Tags of fields: their number and wire type, and for ids their length (`trace.proto`, `common.proto`).
_TRACE_ID: Final = b"\x0a\x10"
TRACE_ID_BYTES: Final = 16
_SPAN_ID: Final = b"\x12\x08"
_PARENT_ID: Final = b"\x22\x08"
_START: Final = 0x39
_END: Final = 0x41
_TIMES: Final = struct.Struct("<BQBQ")
_SPANS: Final = b"\x12"
_SCOPE_SPANS: Final = b"\x12"
_RESOURCE_SPANS: Final = b"\x0a"
_ATTRIBUTES: Final = b"\x4a"
_KEY: Final = b"\x0a"
_VALUE: Final = b"\x12"
_STRING: Final = b"\x0a"
_ONE_BYTE: Final = tuple(bytes([length]) for length in range(0x80))


@lru_cache(maxsize=4_096)
def _of_type(span_type: SpanType) -> bytes:
    attributes = [_key_value(name, value) for name, value in span_type.attributes]
    kind = _KINDS[span_type.kind]
    part: bytes = wire.Span(name=span_type.name, kind=kind, flags=_LOCAL, attributes=attributes).SerializeToString()
    return part


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, str):
        # The id of a session, mostly: written by hand in a tenth of the time.
        key, text = _key(name), value.encode("utf-8", "replace")
        whole = len(key) + len(text) + 4
        if whole < 0x80:
            # The lengths of the attribute, its value and the text in it are one byte each.
            value_of, string_of = _ONE_BYTE[len(text) + 2], _ONE_BYTE[len(text)]
            return b"".join((_ATTRIBUTES, _ONE_BYTE[whole], key, _VALUE, value_of, _STRING, string_of, text))
        return _within(_ATTRIBUTES, key + _within(_VALUE, _within(_STRING, text)))
    part: bytes = wire.Span(attributes=[_key_value(name, value)]).SerializeToString()
    return part


@lru_cache(maxsize=256)
def _key(name: str) -> bytes:
    return _within(_KEY, name.encode())


@lru_cache(maxsize=256)
def _failed(code: str) -> bytes:
    status = wire.Status(code=wire.Status.STATUS_CODE_ERROR, message=code)
    attributes = [_key_value("error.type", code)]
    part: bytes = wire.Span(status=status, attributes=attributes).SerializeToString()
    return part


def _within(tag: bytes, message: bytes) -> bytes:
    """Return a message as a field of the one around it: tag, length (seven bits a byte, the lowest first), bytes."""
    left = len(message)
    if left < 0x80:
        return tag + _ONE_BYTE[left] + message
    if left < 0x4000:
        return tag + bytes((left & 0x7F | 0x80, left >> 7)) + message
    length = bytearray()
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
    since = instant - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000
