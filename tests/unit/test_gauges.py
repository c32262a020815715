"""What is measured can be sent."""

from datetime import UTC, datetime

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from actors import ManualClock
from orchestrator.telemetry.otel import OtelTelemetry
from orchestrator.telemetry.port import UNHEALTHY


def test_a_gauge_takes_a_truth_value() -> None:
    """Whether the node is unhealthy, as one or zero: the wire has numbers only."""
    reader = InMemoryMetricReader()
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    telemetry = OtelTelemetry(TracerProvider(), None, MeterProvider([reader]), clock)
    telemetry.measured(UNHEALTHY, True)
    data = reader.get_metrics_data()
    assert data is not None
    sent = {
        metric.name: metric.gauge.data_points[0].as_double
        for resource in encode_metrics(data).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.gauge.data_points
    }
    assert 1.0 == sent[UNHEALTHY]
