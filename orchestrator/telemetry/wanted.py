"""Whether telemetry is to be exported, by OpenTelemetry's own variables; read before its SDK is imported.

Sources: OpenTelemetry specification, "Environment variables" and "OpenTelemetry protocol exporter". Unlike there, an
endpoint that is not set is none, and not one on this machine: a node without a collector knocks at no port.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES: Final = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
METRICS: Final = ("OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
DISABLED: Final = "OTEL_SDK_DISABLED"


def endpoint_of(signal: tuple[str, str], environ: Mapping[str, str]) -> str | None:
    """Return where the signal (`TRACES` or `METRICS`) is exported to; `None` where it is not."""
    exporter, own = signal
    is_off = environ.get(DISABLED, "").strip().lower() == "true" or (environ.get(exporter) or "otlp") != "otlp"
    return None if is_off else environ.get(own) or environ.get(ENDPOINT) or None


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Return whether anything is exported."""
    return any(endpoint_of(signal, environ) for signal in (TRACES, METRICS))
