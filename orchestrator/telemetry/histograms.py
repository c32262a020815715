"""Histograms that are summed where they are fed, and join what the SDK exports.

A record costs a tenth of what the SDK's instrument takes, and a session makes half a dozen (ADR 26). They are
cumulative since the node's start, as the SDK's own are by default, or what was counted since the last export where the
exporter prefers deltas (`OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`): CloudWatch takes each export as it is.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from opentelemetry.sdk.metrics import Histogram as Instrument
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, 86_400)
"""Upper bounds of the histograms of durations: from one write to a day."""

Labels: TypeAlias = tuple[tuple[str, str], ...]


UNCOUNTED_MAX: Final = 1_024
"""So many values of one set of labels are kept as they came, and counted together: that is most of the price."""


class _Spread:
    """Values, counted into buckets. Added to by one thread, counted and read under the lock."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.uncounted: list[float] = []
        self.lock = threading.Lock()
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was counted."""
        self.counts = [0] * (len(self._bounds) + 1)
        self.total, self.least, self.most = 0.0, float("inf"), float("-inf")

    def count(self) -> None:
        """Count what came since the last time."""
        # Each of the two in one step of the interpreter: what comes in between is behind them.
        values = self.uncounted[:]
        del self.uncounted[: len(values)]
        if not values:
            return
        values.sort()
        below = 0
        for bucket, bound in enumerate(self._bounds):
            upto = bisect_right(values, bound)
            self.counts[bucket] += upto - below
            below = upto
        self.counts[-1] += len(values) - below
        self.total += sum(values)
        self.least, self.most = min(self.least, values[0]), max(self.most, values[-1])


class Spread:
    """How values are spread over buckets, for each set of labels. `bounds` are the buckets' upper ends."""

    def __init__(self, name: str, unit: str, description: str, bounds: tuple[float, ...] = SECONDS) -> None:
        self.name = name
        self._unit = unit
        self._description = description
        self._bounds = bounds
        self._spreads: dict[Labels, _Spread] = {}

    def record(self, value: float, labels: Labels = ()) -> None:
        """Count a value."""
        spread = self._spreads.get(labels)
        if spread is None:
            spread = self._spreads.setdefault(labels, _Spread(self._bounds))
        spread.uncounted.append(value)
        if len(spread.uncounted) >= UNCOUNTED_MAX:
            with spread.lock:
                spread.count()

    def metric(
        self, since: int, until: int, temporality: AggregationTemporality = AggregationTemporality.CUMULATIVE
    ) -> Metric | None:
        """Return it as the SDK's exporters take it, over that time (Unix, ns); `None` where nothing was counted.

        A delta is what came since the last one.
        """
        points = []
        for labels, spread in self._spreads.copy().items():
            with spread.lock:
                spread.count()
                point = self._point(labels, spread, since, until)
                if temporality is AggregationTemporality.DELTA:
                    spread.begin_anew()
            if point.count:
                points.append(point)
        data = Histogram(points, temporality)
        return Metric(self.name, self._description, self._unit, data) if points else None

    def _point(self, labels: Labels, spread: _Spread, since: int, until: int) -> HistogramDataPoint:
        return HistogramDataPoint(
            attributes=dict(labels),
            start_time_unix_nano=since,
            time_unix_nano=until,
            count=sum(spread.counts),
            sum=spread.total,
            bucket_counts=tuple(spread.counts),
            explicit_bounds=self._bounds,
            min=spread.least,
            max=spread.most,
        )


class WithHistograms(MetricExporter):
    """An exporter that adds these histograms to whatever the SDK exports."""

    def __init__(self, exporter: MetricExporter, resource: Resource, scope: InstrumentationScope) -> None:
        # Its preferences are those of the exporter that it stands for, or the SDK's counters would go by others.
        super().__init__(exporter._preferred_temporality, exporter._preferred_aggregation)
        self._exporter = exporter
        preferred = exporter._preferred_temporality or {}
        self._temporality = preferred.get(Instrument, AggregationTemporality.CUMULATIVE)
        self._resource = resource
        self._scope = scope
        self._since = time.time_ns()
        self.spreads: Sequence[Spread] = ()

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object) -> MetricExportResult:
        """Export both; see `MetricExporter.export`."""
        until = time.time_ns()
        found = [spread.metric(self._since, until, self._temporality) for spread in self.spreads]
        if self._temporality is AggregationTemporality.DELTA:
            self._since = until
        ours = [each for each in found if each is not None]
        return self._exporter.export(self._joined(metrics_data, ours), timeout_millis, **kwargs)

    def _joined(self, data: MetricsData, ours: Sequence[Metric]) -> MetricsData:
        """Return both, ours in the SDK's own scope: of two of one name, its encoder would keep the last."""
        scopes = [scope for each in data.resource_metrics for scope in each.scope_metrics]
        others = [scope for scope in scopes if scope.scope.name != self._scope.name]
        theirs = [metric for scope in scopes if scope.scope.name == self._scope.name for metric in scope.metrics]
        own = ScopeMetrics(self._scope, [*theirs, *ours], "")
        return replace(data, resource_metrics=[ResourceMetrics(self._resource, [*others, own], "")])

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """See `MetricExporter.force_flush`."""
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:
        """See `MetricExporter.shutdown`."""
        self._exporter.shutdown(timeout_millis, **kwargs)
