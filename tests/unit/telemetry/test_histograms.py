"""Histograms of our own, as an exporter gets them: since the start, or since the last export."""

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    MetricExportResult,
    MetricsData,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from orchestrator.telemetry.histograms import Spread, WithHistograms

PREFERENCE = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
Told = list[tuple[int, float, float, int, int]]


class Kept(OTLPMetricExporter):
    """Keeps what it is to export; its preferences are those that the environment gives."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[Histogram] = []

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: object
    ) -> MetricExportResult:
        """Keep it."""
        data = [m.data for r in metrics_data.resource_metrics for s in r.scope_metrics for m in s.metrics]
        self.points += [each for each in data if isinstance(each, Histogram)]
        return MetricExportResult.SUCCESS


def exported() -> tuple[Kept, AggregationTemporality, Told]:
    """Return what three exports tell of 1, 5, then nothing, then 2: count, sum, greatest, begin and end of each."""
    kept, spread = Kept(), Spread("lag", "s", "How late")
    whole = WithHistograms(kept, Resource({}), InstrumentationScope("test"))
    whole.spreads = [spread]
    for values in ((1.0, 5.0), (), (2.0,)):
        for value in values:
            spread.record(value)
        whole.export(MetricsData([]))
    told = [
        (p.count, p.sum, p.max, p.start_time_unix_nano, p.time_unix_nano) for h in kept.points for p in h.data_points
    ]
    (temporality,) = {each.aggregation_temporality for each in kept.points}
    return kept, temporality, told


def test_they_add_up_from_the_start_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the SDK's own do."""
    monkeypatch.delenv(PREFERENCE, raising=False)
    _, temporality, told = exported()
    assert AggregationTemporality.CUMULATIVE is temporality
    assert [(2, 6.0, 5.0), (2, 6.0, 5.0), (3, 8.0, 5.0)] == [each[:3] for each in told]
    assert 1 == len({begun for *_, begun, _ in told})


def test_an_exporter_that_prefers_deltas_hears_of_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CloudWatch is sent it takes for new: the greatest of yesterday would raise an alarm for ever."""
    monkeypatch.setenv(PREFERENCE, "delta")
    _, temporality, told = exported()
    assert AggregationTemporality.DELTA is temporality
    assert [(2, 6.0, 5.0), (1, 2.0, 2.0)] == [each[:3] for each in told]
    (_, _, _, _, first_end), (_, _, _, second_begin, _) = told
    assert first_end <= second_begin


def test_counters_of_the_sdk_go_by_the_same_preference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader asks the one that stands before the exporter."""
    monkeypatch.setenv(PREFERENCE, "delta")
    kept = Kept()
    whole = WithHistograms(kept, Resource({}), InstrumentationScope("test"))
    assert kept._preferred_temporality == whole._preferred_temporality
    assert AggregationTemporality.DELTA in (whole._preferred_temporality or {}).values()


@pytest.mark.parametrize("times", [1, 1_000, 5_000])
def test_values_are_counted_once_into_their_buckets_however_many_come(times: int) -> None:
    """A bucket holds its upper bound; what is above all bounds has one of its own."""
    spread = Spread("took", "s", "How long", (1, 2, 3))
    for value in (0.5, 1, 1.5, 3, 9) * times:
        spread.record(value)
    for _ in range(2):
        metric = spread.metric(0, 1)
        assert metric is not None
        (point,) = metric.data.data_points
        assert isinstance(point, HistogramDataPoint)
        assert (2 * times, times, times, times) == tuple(point.bucket_counts)
        assert (5 * times, 15.0 * times, 0.5, 9) == (point.count, point.sum, point.min, point.max)
