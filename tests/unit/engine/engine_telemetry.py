"""A world whose nodes tell of their work, and what they told: its spans as a tree, its metrics as numbers.

To change it: the product's own telemetry on the SDK's exporters in memory, and nothing in their place.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from engine_world import World
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, Metric, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler

from orchestrator.session.tracing import Span as Ended
from orchestrator.telemetry.histograms import Labels
from orchestrator.telemetry.otel import OtelTelemetry
from orchestrator.telemetry.wire import encoded


@dataclass(frozen=True)
class Seen:
    """A span. `parent` is the name of its parent, or its id where that was not exported; instants in seconds."""

    name: str
    parent: str | None
    error: str | None
    attributes: Mapping[str, object]
    started_at: float
    ended_at: float
    span_id: str
    trace_id: str
    links: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended_at - self.started_at


class Kept(SpanProcessor):
    """Keeps the spans of sessions until they are asked for, as the SDK's queue does until the next export."""

    def __init__(self) -> None:
        self.told: list[Ended] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Keep it."""
        self.told.append(cast("Ended", span))

    def spans(self) -> list[Span]:
        """Return them as a collector would get them."""
        return [*ScopeSpans.FromString(b"".join(encoded(each) for each in self.told)).spans]


class Watched(World):
    """A world whose nodes all tell the same. `reader` is asked for metrics, `tracer` begins spans as an agent would."""

    def __init__(self, *, sampler: Sampler | None = None, tenant_limit: int = 0) -> None:
        super().__init__(tenant_limit=tenant_limit)
        self.of_sessions, self.of_users = Kept(), InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        # The SDK's default, whatever the environment of the tests says.
        tracers = TracerProvider(sampler=sampler or ParentBased(ALWAYS_ON), shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self.of_users))
        self.tracer = tracers.get_tracer("agent")
        meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.telemetry = self.kept = OtelTelemetry(tracers, self.of_sessions, meters, self.clock)

    def spans(self) -> list[Seen]:
        """Return the sessions' spans, in the order of their ends, and then those that steps and agents began."""
        wired = self.of_sessions.spans()
        for batch in encode_spans(self.of_users.get_finished_spans()).resource_spans:
            wired += [span for scope in batch.scope_spans for span in scope.spans]
        names = {span.span_id: span.name for span in wired}
        return [_seen(span, names) for span in wired]

    def tree(self) -> list[tuple[str, str | None]]:
        """Return each span with its parent, sorted."""
        return sorted(((seen.name, seen.parent) for seen in self.spans()), key=str)

    def named(self, name: str) -> Seen:
        """Return the one span of that name."""
        (found,) = (seen for seen in self.spans() if seen.name == name)
        return found

    def held_of_sessions(self) -> int:
        """Return how many sessions the telemetry still knows something of."""
        return self.kept.sessions_noted

    def metric(self, name: str) -> dict[Labels, float]:
        """Return a metric's values by labels: a sum, a gauge, or how many values a histogram holds."""
        return {
            tuple(sorted((each, str(said)) for each, said in (point.attributes or {}).items())): point.count
            if isinstance(point, HistogramDataPoint)
            else point.value
            for point in self._points(name)
            if isinstance(point, HistogramDataPoint | NumberDataPoint)
        }

    def total(self, name: str) -> float:
        """Return the sum of a histogram's values over all labels."""
        return sum(point.sum for point in self._points(name) if isinstance(point, HistogramDataPoint))

    def _points(self, name: str) -> Iterable[object]:
        for metric in self._metrics():
            if metric.name == name:
                yield from metric.data.data_points

    def _metrics(self) -> Iterable[Metric]:
        data = self.reader.get_metrics_data()
        for resource in [] if data is None else data.resource_metrics:
            for scope in resource.scope_metrics:
                yield from scope.metrics
        for spread in self.kept.spreads:
            metric = spread.metric(0, 1)
            if metric is not None:
                yield metric


def trace_ids(spans: Iterable[Seen]) -> set[str]:
    """Return the traces that spans belong to."""
    return {seen.trace_id for seen in spans}


def _seen(span: Span, names: dict[bytes, str]) -> Seen:
    said = {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}
    return Seen(
        name=span.name,
        parent=names.get(span.parent_span_id, span.parent_span_id.hex()) if span.parent_span_id else None,
        error=span.status.message or None,
        attributes=said,
        started_at=span.start_time_unix_nano / 1e9,
        ended_at=span.end_time_unix_nano / 1e9,
        span_id=span.span_id.hex(),
        trace_id=span.trace_id.hex(),
        links=tuple(names.get(link.span_id, "?") for link in span.links if link.trace_id == span.trace_id),
    )
