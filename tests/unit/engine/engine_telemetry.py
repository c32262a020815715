"""A world whose nodes tell of their work, and what they told: its spans as a tree, its metrics as numbers.

To change it: the product's own telemetry on the SDK's exporters in memory, and nothing in their place.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from engine_world import World
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler

from orchestrator.telemetry.otel import OtelTelemetry


@dataclass(frozen=True)
class Seen:
    """A span: its name, how long it took, what it came from."""

    name: str
    parent: str | None
    seconds: float
    error: str | None
    span: ReadableSpan


class Watched(World):
    """A world whose nodes all tell one exporter. `reader` is asked for metrics, `exporter` for spans."""

    def __init__(self, *, sampler: Sampler | None = None, tenant_limit: int = 0) -> None:
        super().__init__(tenant_limit=tenant_limit)
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        # The SDK's default, whatever the environment of the tests says.
        tracers = TracerProvider(sampler=sampler or ParentBased(ALWAYS_ON), shutdown_on_exit=False)
        processor = SimpleSpanProcessor(self.exporter)
        tracers.add_span_processor(processor)
        self.tracer = tracers.get_tracer("agent")
        meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.telemetry = self.kept = OtelTelemetry(tracers, processor, meters, self.clock)

    def spans(self) -> list[Seen]:
        """Return all spans in the order of their ends; a parent that was not exported shows as its id."""
        finished = self.exporter.get_finished_spans()
        names = {span.context.span_id: span.name for span in finished if span.context is not None}
        return [_seen(span, names) for span in finished]

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

    def metric(self, name: str) -> dict[tuple[tuple[str, object], ...], float]:
        """Return a metric's values by labels: a sum, a gauge, or how many values a histogram holds."""
        return {
            tuple(sorted((point.attributes or {}).items())): point.count
            if isinstance(point, HistogramDataPoint)
            else point.value
            for point in self._points(name)
            if isinstance(point, HistogramDataPoint | NumberDataPoint)
        }

    def total(self, name: str) -> float:
        """Return the sum of a histogram's values over all labels."""
        return sum(point.sum for point in self._points(name) if isinstance(point, HistogramDataPoint))

    def _points(self, name: str) -> Iterable[object]:
        data = self.reader.get_metrics_data()
        for resource in [] if data is None else data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        yield from metric.data.data_points


def trace_ids(spans: Iterable[Seen]) -> set[str]:
    """Return the traces that spans belong to."""
    return {f"{seen.span.context.trace_id:032x}" for seen in spans if seen.span.context is not None}


def _seen(span: ReadableSpan, names: dict[int, str]) -> Seen:
    parent = None if span.parent is None else names.get(span.parent.span_id, f"{span.parent.span_id:016x}")
    took = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
    error = (span.attributes or {}).get("error.type")
    return Seen(span.name, parent, took, None if error is None else str(error), span)
