"""An OTLP collector over HTTP that keeps what it is sent, or keeps whoever sends it waiting."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.integration.deployment import WAIT_SECONDS_MAX


class Collector:
    """What came so far. `answers` is cleared to let no request be answered."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []
        self.resources: list[dict[str, object]] = []
        self.sums: dict[str, float] = {}
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = 0
        self._news = asyncio.Condition()

    async def until(self, met: Callable[["Collector"], object]) -> None:
        """Return once the condition holds of what came."""
        async with asyncio.timeout(WAIT_SECONDS_MAX), self._news:
            await self._news.wait_for(lambda: met(self))

    def named(self, name: str) -> list[Span]:
        """Return the spans of that name."""
        return [span for span in self.spans if span.name == name]

    def tree(self) -> list[tuple[str, str]]:
        """Return each span with its parent's name, or its id where that never came."""
        names = {span.span_id: span.name for span in self.spans}
        return sorted((span.name, names.get(span.parent_span_id, span.parent_span_id.hex())) for span in self.spans)

    async def take(self, request: web.Request) -> web.Response:
        """Keep one request."""
        self.asked += 1
        async with self._news:
            self._news.notify_all()
        await self.answers.wait()
        body = await request.read()
        if request.path == "/v1/traces":
            self._take_spans(ExportTraceServiceRequest.FromString(body))
        else:
            self._take_metrics(ExportMetricsServiceRequest.FromString(body))
        async with self._news:
            self._news.notify_all()
        return web.Response(content_type="application/x-protobuf")

    def _take_spans(self, batch: ExportTraceServiceRequest) -> None:
        for resource in batch.resource_spans:
            self.resources.append(said(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def _take_metrics(self, batch: ExportMetricsServiceRequest) -> None:
        for resource in batch.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points = [*metric.sum.data_points, *metric.gauge.data_points]
                    counts = [point.count for point in metric.histogram.data_points]
                    numbers = [point.as_double or point.as_int for point in points]
                    self.sums[metric.name] = sum((*numbers, *counts))


def said(attributes: Iterable[KeyValue]) -> dict[str, object]:
    """Return attributes as a mapping."""
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Serve a collector on loopback."""
    collector = Collector()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/{signal}", collector.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield collector
    finally:
        collector.answers.set()
        await runner.cleanup()
