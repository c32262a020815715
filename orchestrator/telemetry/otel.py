"""Telemetry by OpenTelemetry's SDK: traces and metrics over OTLP, to a collector or straight to X-Ray.

Configured by OpenTelemetry's own variables alone (`docs/telemetry.md`). Exporting happens in the SDK's threads; where
nobody takes the spans, they are dropped when its queue is full, and no session waits.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, cast

import requests
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.extension.aws.resource.ecs import AwsEcsResourceDetector
from opentelemetry.sdk.extension.aws.trace import AwsXRayIdGenerator
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource, get_aggregated_resources
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind

from actors import Clock
from orchestrator.session import events as e
from orchestrator.session.state import Operation, SessionState
from orchestrator.session.tracing import (
    Span,
    activation_span,
    attempt_span,
    is_sampled,
    new_traceparent,
    operation_span,
    session_span,
    spans_since,
    trace_parts,
)
from orchestrator.session.transitions import OperationKind, SessionStatus
from orchestrator.telemetry.context import trace_context
from orchestrator.telemetry.histograms import Labels, Spread, WithHistograms
from orchestrator.telemetry.metrics import Metrics
from orchestrator.telemetry.port import Telemetry
from orchestrator.telemetry.wanted import METRICS, TRACES, endpoint_of
from orchestrator.telemetry.wire import SessionSpanExporter, SessionSpanProcessor

SCOPE: Final = "session-orchestrator"
FLUSH_SECONDS_MAX: Final = 5.0
LOST_SECONDS: Final = 10.0
"""What a dead node recorded so shortly before its last event is told of again: it may not have exported that. Twice the
SDK's pause between two exports (OpenTelemetry, `OTEL_BSP_SCHEDULE_DELAY`)."""
SIZES: Final = ("OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE")
QUEUED_SPANS_MAX: Final = 8_192
BATCH_SPANS_MAX: Final = 2_048
"""Four times the SDK's own, where its variables set neither: some 700 KB a request."""
UNDELIVERED_MAX: Final = 10_000
_ATTEMPTS: Final = (e.AgentCompleted, e.AgentFailed, e.AgentRetrying)
_PAUSES: Final = (e.PauseRequested, e.ResumeRequested)
TRIED_WITHIN: Final = timedelta(minutes=10)
"""So long after its time a notice counts as one that this node is to try again."""


class OtelTelemetry(Telemetry):
    """What a node is told, as spans and metrics."""

    is_exporting = True

    def __init__(
        self, tracers: TracerProvider, spans: SpanProcessor | None, meters: MeterProvider, clock: Clock
    ) -> None:
        """`spans` takes those of sessions, as `Span`; `None` where only metrics are wanted."""
        self._tracers = tracers
        self._spans = spans
        self._meters = meters
        self._metrics = Metrics(meters.get_meter(SCOPE))
        self._clock = clock
        self._began: dict[str, dict[str, datetime]] = {}
        self._live: dict[str, tuple[str, str]] = {}
        self._undelivered: dict[str, tuple[datetime, datetime]] = {}
        self._metrics.observe(
            "orchestrator.sessions.active", "{session}", "Sessions in this node's memory", self._active
        )
        self._metrics.observe(
            "orchestrator.outbox.age", "s", "Age of the oldest notification that was not taken", self._outbox_age
        )
        self._metrics.nodes.add()

    @property
    def spreads(self) -> Sequence[Spread]:
        """The histograms, for whoever exports them."""
        return self._metrics.spreads

    @property
    def sessions_noted(self) -> int:
        """How many sessions something is kept of: those in this node's memory, and no others."""
        return len(self._began.keys() | self._live.keys())

    def trace_for(self, session_id: str, trace: str | None, at: datetime) -> str | None:
        """See `Telemetry.trace_for`."""
        if self._spans is None:
            return trace
        given = None if trace is None or trace_parts(trace) is None else trace
        if self._tracers.sampler is DEFAULT_ON:
            # Everything but what the submitter does not keep: most nodes' sampler, and half the price of asking it.
            return given or new_traceparent(session_id, at, sampled=True)
        wanted = given or new_traceparent(session_id, at, sampled=True)
        context = None if given is None else trace_context(given)
        decision = self._tracers.sampler.should_sample(
            context, int(wanted.split("-")[1], 16), "session", kind=SpanKind.CONSUMER
        ).decision
        return f"{wanted[:-2]}{int(decision is Decision.RECORD_AND_SAMPLE):02x}"

    def began(self, session_id: str, operation: str) -> None:
        """See `Telemetry.began`."""
        operations = self._began.get(session_id)
        if operations is None:
            self._began[session_id] = {operation: self._clock.now()}
        elif operation not in operations:
            operations[operation] = self._clock.now()

    def recorded(
        self, before: SessionState | None, state: SessionState, recorded: e.Recorded, operation: Operation | None
    ) -> None:
        """See `Telemetry.recorded`."""
        event = recorded.event
        if operation is None:
            self._recorded_of_session(before, state, recorded)
            return
        is_traced = self._is_traced(state)
        if isinstance(event, _ATTEMPTS):
            was = None if before is None else before.operations.get(operation.operation_id)
            self._metrics.attempt(was, event, recorded.at)
            if was is not None and is_traced:
                self._export(attempt_span(state, was, event, recorded.at))
        elif isinstance(event, e.StepRetrying):
            self._metrics.step_retried()
        if operation.is_settled and operation.kind is not OperationKind.PROGRESS:
            began_at = self._began_at(state.session_id, operation.operation_id)
            self._metrics.settled(operation, began_at, recorded.at)
            if is_traced:
                usage = event.usage if isinstance(event, e.StepCompleted) else None
                self._export(operation_span(state, operation, began_at, usage))

    def entered(self, state: SessionState) -> None:
        """See `Telemetry.entered`."""
        if state.has_ended:
            # HEAD is to be brought to its end here, and no event will tell of that.
            return
        shown = SessionStatus.PAUSED if state.is_paused else state.status
        self._live[state.session_id] = state.started.session_type, shown.value

    def took_over(self, before: SessionState) -> None:
        """See `Telemetry.took_over`."""
        self._metrics.taken_over.add()
        if self._is_traced(before):
            # Whoever had it can tell no more: its stay ended, as far as anybody knows, with the last it recorded.
            self._export(activation_span(before, "lost", before.updated_at))
            for span in spans_since(before, before.updated_at - timedelta(seconds=LOST_SECONDS)):
                self._export(span)

    def left(self, state: SessionState, how: str, at: datetime) -> None:
        """See `Telemetry.left`."""
        self.forget(state.session_id)
        if how == "suspended":
            self._metrics.passivated.add()
        if self._is_traced(state):
            self._export(activation_span(state, how, at))

    def forget(self, session_id: str) -> None:
        """See `Telemetry.forget`."""
        self._began.pop(session_id, None)
        self._live.pop(session_id, None)

    def accepted(self, seconds: float) -> None:
        """See `Telemetry.accepted`."""
        self._metrics.accept_seconds.record(seconds)

    def queued(self, seconds: float) -> None:
        """See `Telemetry.queued`."""
        self._metrics.queue_seconds.record(seconds)

    def messages(self, what: str, count: int) -> None:
        """See `Telemetry.messages`."""
        self._metrics.queue[what].add(count)

    def appended(self, seconds: float, writes: int) -> None:
        """See `Telemetry.appended`."""
        self._metrics.append_seconds.record(seconds)
        self._metrics.append_items.record(writes)

    def conflict(self) -> None:
        """See `Telemetry.conflict`."""
        self._metrics.conflicts.add()

    def throttled(self, service: str) -> None:
        """See `Telemetry.throttled`."""
        self._metrics.throttles.add(1, (("service", service),))

    def loop_lag(self, seconds: float) -> None:
        """See `Telemetry.loop_lag`."""
        self._metrics.loop_seconds.record(max(0.0, seconds))

    def undelivered(self, notice: str, since: datetime, next_at: datetime | None) -> None:
        """See `Telemetry.undelivered`."""
        if next_at is None or len(self._undelivered) >= UNDELIVERED_MAX:
            self._undelivered.pop(notice, None)
        else:
            self._undelivered[notice] = since, next_at + TRIED_WITHIN

    def delivered(self, notice: str) -> None:
        """See `Telemetry.delivered`."""
        self._undelivered.pop(notice, None)

    def measured(self, name: str, value: float) -> None:
        """See `Telemetry.measured`."""
        # A truth value is a number to mypy, but protobuf refuses it, and with it all that is exported at once.
        self._metrics.gauges[name].set(float(value))

    async def flush(self) -> None:
        """See `Telemetry.flush`."""
        done, loop = asyncio.Event(), asyncio.get_running_loop()

        def export() -> None:
            # One after the other: where nobody takes them, both would time out.
            if self._spans is not None:
                self._spans.force_flush()
            self._tracers.force_flush(int(FLUSH_SECONDS_MAX * 1_000))
            self._meters.force_flush(FLUSH_SECONDS_MAX * 1_000)
            # Whoever waited may have given up, and its loop may be closed.
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

        # Not one of the loop's threads: the process must not wait for an exporter that hangs.
        threading.Thread(target=export, name="telemetry flush", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS_MAX):
                await done.wait()

    def _active(self) -> Mapping[Labels, float]:
        return Counter((("session_type", kind), ("state", shown)) for kind, shown in self._live.copy().values())

    def _outbox_age(self) -> Mapping[Labels, float]:
        # What is overdue is some other node's by now, which tells of it.
        now = self._clock.now()
        waiting = [since for since, until in self._undelivered.copy().values() if until > now]
        return {(): max((now - min(waiting)).total_seconds(), 0.0) if waiting else 0.0}

    def _recorded_of_session(self, before: SessionState | None, state: SessionState, recorded: e.Recorded) -> None:
        self._metrics.session(before, state, recorded)
        if isinstance(recorded.event, _PAUSES):
            self.entered(state)
        if not state.has_ended:
            return
        self.forget(state.session_id)
        if self._is_traced(state):
            if state.activation.previous is not None:
                self._export(activation_span(state, "ended", recorded.at))
            self._export(session_span(state))

    def _began_at(self, session_id: str, operation: str) -> datetime | None:
        operations = self._began.get(session_id)
        return None if operations is None else operations.pop(operation, None)

    def _is_traced(self, state: SessionState) -> bool:
        """Return whether spans of the session go to the exporter."""
        return self._spans is not None and is_sampled(state.started.trace)

    def _export(self, span: Span) -> None:
        assert self._spans is not None, "asked for where spans are wanted"
        self._spans.on_end(cast("ReadableSpan", span))


def open_telemetry(
    node_id: str,
    version: str,
    clock: Clock,
    *,
    session_for: Callable[[str], requests.Session | None],
    environ: Mapping[str, str] = os.environ,
) -> Telemetry:
    """Return the telemetry that the environment asks for. Blocks for a moment.

    `session_for(url)` returns what the requests to an endpoint are to be signed by, `None` for nothing.
    """
    traces_to, metrics_to = endpoint_of(TRACES, environ), endpoint_of(METRICS, environ)
    own = {"service.name": SCOPE, "service.version": version, "service.instance.id": node_id}
    # What the variables say goes before what we say of ourselves.
    detectors = [AwsEcsResourceDetector(), OTELResourceDetector()]
    resource = get_aggregated_resources(detectors, Resource.create(own))
    tracers = TracerProvider(resource=resource, id_generator=AwsXRayIdGenerator(), shutdown_on_exit=False)
    spans: SpanProcessor | None = None
    if traces_to:
        signed = session_for(traces_to)
        # A request costs about the same for a hundred sessions as for five hundred, but for the encoding.
        queue, batch = (None, None) if any(name in environ for name in SIZES) else (QUEUED_SPANS_MAX, BATCH_SPANS_MAX)
        ours = SessionSpanExporter(resource, SCOPE, session=signed)
        spans = SessionSpanProcessor(ours, max_queue_size=queue, max_export_batch_size=batch)
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(session=signed)))
    readers: list[MetricReader] = []
    histograms: WithHistograms | None = None
    if metrics_to:
        exporter = OTLPMetricExporter(session=session_for(metrics_to))
        histograms = WithHistograms(exporter, resource, InstrumentationScope(SCOPE))
        readers.append(PeriodicExportingMetricReader(histograms))
    meters = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
    # What agents and steps trace and measure by the API goes the same way, unless they chose another one.
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(tracers)
        metrics.set_meter_provider(meters)
    telemetry = OtelTelemetry(tracers, spans, meters, clock)
    if histograms is not None:
        histograms.spreads = telemetry.spreads
    return telemetry
