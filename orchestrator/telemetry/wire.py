"""Spans of sessions on the wire: OTLP's messages, made straight from what the journal says.

The SDK's own way, a `ReadableSpan` that its encoder takes apart again, costs several times as much
(ADR 26). Source: OpenTelemetry Protocol, `opentelemetry/proto/trace/v1/trace.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, cast

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as WireResource
from opentelemetry.proto.trace.v1 import trace_pb2 as wire
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import TraceFlags
from structlog.typing import FilteringBoundLogger

from orchestrator.session.tracing import ROOT, SESSION_ID, Attribute, Span, SpanType, root_id, span_id, trace_parts

_KINDS: Final = {
    "consumer": wire.Span.SPAN_KIND_CONSUMER,
    "internal": wire.Span.SPAN_KIND_INTERNAL,
    "client": wire.Span.SPAN_KIND_CLIENT,
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LOCAL: Final = wire.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK | TraceFlags.SAMPLED
UNENCODABLE: Final = (ValueError, OverflowError, struct.error)
"""What an instant or a number raises that OTLP has no room for: an odd journal costs no other session its spans."""
TOLD_MAX: Final = 10
_log: FilteringBoundLogger = structlog.get_logger()


class SessionSpanProcessor(BatchSpanProcessor):
    """The SDK's batches, of `Span`s: small, and without their session's state or a result, for thousands may wait."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a `Span` in place of a `ReadableSpan`: not asked whether it is sampled, for no others are made."""
        self._batch_processor.emit(span)


class SessionSpanExporter(OTLPSpanExporter):
    """Exports `Span`s as the SDK's exporter does others: same variables, same retries."""

    def __init__(self, resource: Resource, scope: str, **options: object) -> None:
        super().__init__(**options)  # type: ignore[call-overload]
        attributes = [_key_value(name, value) for name, value in _plain(resource.attributes).items()]
        self._resource = wire.ResourceSpans(resource=WireResource(attributes=attributes)).SerializeToString()
        self._scope = wire.ScopeSpans(scope=InstrumentationScope(name=scope)).SerializeToString()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch; returns when it was taken, or given up.

        Spans become bytes here and not as they end: between a session's events that takes 3 % more of its CPU (ADR 26).
        """
        wired, left_out = list[bytes](), list[str]()
        for span in cast("Sequence[Span]", spans):
            try:
                wired.append(encoded(span))
            except UNENCODABLE:
                left_out.append(span.session_id)
        if left_out:
            _log.warning("spans_left_out", spans=len(left_out), session_ids=sorted({*left_out})[:TOLD_MAX])
        if not wired:
            return SpanExportResult.SUCCESS
        of_scope = self._scope + b"".join(wired)
        of_resource = self._resource + _within(_SCOPE_SPANS, of_scope)
        answer = self._client.export(_within(_RESOURCE_SPANS, of_resource))
        return SpanExportResult.SUCCESS if answer.success else SpanExportResult.FAILURE


def encoded(span: Span) -> bytes:
    """Return a span as one of the spans of an OTLP message; `b""` where its trace is no `traceparent`.

    Parts of a message may stand one behind the other (Protocol Buffers, "Encoding": merging), so what many spans share
    is encoded once; ids and instants, of fixed length, are written in place.
    """
    span_type, session_id, trace, which, parent, started_at, ended_at, attributes, error, links = span
    of = _of_session(session_id, trace)
    if of is None:
        return b""
    shared, below_root, below_submitter = of
    fixed = _ID_AND_TIMES.pack(_SPAN_ID, span_id(session_id, which), _START, _nanos(started_at), _END, _nanos(ended_at))
    if parent == ROOT:
        below = below_root
    else:
        below = below_submitter if parent is None else _PARENT_ID + span_id(session_id, parent)
    message = shared + fixed + below + _of_type(span_type)
    if attributes:
        message += b"".join([_attribute(name, value) for name, value in attributes])
    if error is not None:
        message += _failed(error)
    if links:
        trace_id = shared[len(_TRACE_ID) :][:TRACE_ID_BYTES]
        wired = [wire.Span.Link(trace_id=trace_id, span_id=link, flags=_LOCAL) for link in links]
        message += wire.Span(links=wired).SerializeToString()
    return _head(_SPANS, len(message)) + message


@lru_cache(maxsize=4_096)
def _of_session(session_id: str, trace: str | None) -> tuple[bytes, bytes, bytes] | None:
    """Return what all spans of a session share, the parent of those below its own, and the submitter as parent of that.

    `None` where the trace is no `traceparent`.
    """
    parts = trace_parts(trace)
    if parts is None:
        return None
    parent, root = bytes.fromhex(parts[1]), root_id(session_id)
    shared = _TRACE_ID + bytes.fromhex(parts[0]) + _attribute(SESSION_ID, session_id)
    # A session that nobody else's trace led to names its own span there.
    return shared, _PARENT_ID + root, b"" if parent == root else _PARENT_ID + parent


# Tags of fields: their number and wire type, and for ids their length (`trace.proto`, `common.proto`).
_TRACE_ID: Final = b"\x0a\x10"
TRACE_ID_BYTES: Final = 16
_SPAN_ID: Final = b"\x12\x08"
_PARENT_ID: Final = b"\x22\x08"
_START: Final = 0x39
_END: Final = 0x41
_SPANS: Final = b"\x12"
_SCOPE_SPANS: Final = b"\x12"
_RESOURCE_SPANS: Final = b"\x0a"
_ATTRIBUTES: Final = b"\x4a"
_KEY: Final = b"\x0a"
_VALUE: Final = b"\x12"
_STRING: Final = b"\x0a"
_ID_AND_TIMES: Final = struct.Struct("<2s8sBQBQ")
"""A span's id and its two instants, each behind its tag."""
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
    """Return a message as a field of the one around it."""
    return _head(tag, len(message)) + message


@lru_cache(maxsize=1_024)
def _head(tag: bytes, length: int) -> bytes:
    """Return what stands before a field of so many bytes: its tag, its length (seven bits a byte, the lowest first)."""
    # Kept, for most spans have one of a few hundred lengths.
    digits, left = bytearray(), length
    while left > 0x7F:
        digits.append(left & 0x7F | 0x80)
        left >>= 7
    digits.append(left)
    return tag + bytes(digits)


def _key_value(name: str, value: Attribute) -> KeyValue:
    return KeyValue(key=name, value=_value(value))


def _value(value: Attribute) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    # A bool is an int.
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    # OTLP's whole numbers have 64 bits; a journal may hold any.
    fits = isinstance(value, int) and -(2**63) <= value < 2**63
    return AnyValue(int_value=int(value)) if fits else AnyValue(double_value=value)


def _plain(attributes: Mapping[str, object]) -> dict[str, Attribute]:
    """Return what is text or a number; of lists, as detectors have some, the text."""
    return {name: value if isinstance(value, str | int | float) else str(value) for name, value in attributes.items()}


def _nanos(instant: datetime) -> int:
    # Not by `timestamp()`: a float of today's seconds has no room for nanoseconds, and rounds milliseconds.
    since = instant - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000
