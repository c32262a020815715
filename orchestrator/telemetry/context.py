"""The trace context that a session carries, as the world spells it: W3C `traceparent`, or X-Ray's header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.aws.aws_xray_propagator import TRACE_HEADER_KEY, AwsXRayPropagator
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from orchestrator.session.tracing import is_sampled

TRACEPARENT: Final = "traceparent"
_NOTHING: Final = Context()
(_SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, _NOTHING)
"""What a context keeps its span under: to make one of it alone takes a quarter of what it takes to add it to one."""
_W3C: Final = TraceContextTextMapPropagator()
_XRAY: Final = AwsXRayPropagator()


def trace_parent(*, xray_header: str | None, attributes: Mapping[str, str]) -> str | None:
    """Return the sender's trace context as a W3C `traceparent`; `None` where there is none or it is malformed.

    A `traceparent` message attribute goes before the SQS system attribute `AWSTraceHeader`.
    """
    if TRACEPARENT not in attributes and not xray_header:
        return None
    context = _W3C.extract({TRACEPARENT: attributes[TRACEPARENT]}) if TRACEPARENT in attributes else Context()
    if not _is_valid(context) and xray_header:
        context = _XRAY.extract({TRACE_HEADER_KEY: xray_header})
    if not _is_valid(context):
        return None
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, context)
    return carrier.get(TRACEPARENT)


def trace_context(traceparent: str) -> Context:
    """Return the context in which new spans are children of that one, whose `traceparent` is well-formed: our own."""
    # Not by the propagator, which checks each part by a pattern.
    _, trace_id, span_id, flags = traceparent.split("-")
    parent = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), _NOTHING)


class Traced(Protocol):
    """What has a span, by its `traceparent`; `None` without a trace."""

    @property
    def trace(self) -> str | None:
        """The `traceparent` of its span."""


class _Parent(trace.NonRecordingSpan):
    """A span that others may become children of; its ids are made when somebody asks for them, which few steps do."""

    _context = trace.INVALID_SPAN_CONTEXT
    """The one field of the class above, for whoever looks before it is asked for: its `__init__` would set it."""

    def __init__(self, of: Traced) -> None:
        self._of: Traced | None = of

    def get_span_context(self) -> SpanContext:
        """Return its ids."""
        of = self._of
        if of is not None:
            given = of.trace
            within = _NOTHING if given is None else trace_context(given)
            self._context = trace.get_current_span(within).get_span_context()
            # Last: another thread may ask meanwhile.
            self._of = None
        return self._context


def context_below(of: Traced) -> Context:
    """Return the context in which new spans are children of its span; its `trace` is asked for once, if ever."""
    return Context({_SPAN_KEY: _Parent(of)})


def trace_headers() -> dict[str, str]:
    """Return what a request carries so that whoever answers it becomes a child of the span that asks; `{}` of none."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    _XRAY.inject(carrier)
    return carrier


def trace_of_environment(environ: Mapping[str, str]) -> str | None:
    """Return the `traceparent` that this process was started under (OpenTelemetry, "Environment variable carriers")."""
    given = environ.get(TRACEPARENT.upper())
    return None if given is None else trace_parent(xray_header=None, attributes={TRACEPARENT: given})


def xray_header(traceparent: str | None) -> str | None:
    """Return the trace context as AWS services pass it on (`X-Amzn-Trace-Id`); `None` where there is none."""
    parts = (traceparent or "").split("-")
    if len(parts) != 4:
        return None
    trace_id, span_id, _ = parts[1:]
    sampled = int(is_sampled(traceparent))
    return f"Root=1-{trace_id[:8]}-{trace_id[8:]};Parent={span_id};Sampled={sampled}"


def trace_ids(traceparent: str | None) -> dict[str, str]:
    """Return what binds a log line to its trace: `trace_id` and `parent_span_id`; `{}` without a trace."""
    parts = (traceparent or "").split("-")
    return {"trace_id": parts[1], "parent_span_id": parts[2]} if len(parts) == 4 else {}


def _is_valid(context: Context) -> bool:
    return trace.get_current_span(context).get_span_context().is_valid
