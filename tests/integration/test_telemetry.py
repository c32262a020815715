"""Real nodes and a collector: one story of a session whoever dies, and nobody who waits for the collector."""

from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.session.values import Json, JsonObject
from orchestrator.telemetry.otel import FLUSH_SECONDS_MAX
from tests.integration.collector import collecting, said
from tests.integration.deployment import Deployment, start_message

TRACE_ID = "6a000000aaaaaaaaaaaaaaaaaaaaaaaa"
TRACEPARENT = f"00-{TRACE_ID}-bbbbbbbbbbbbbbbb-01"
NEVER = "3600000"
SCHEDULING_SECONDS = 5.0
"""What a busy machine may add."""


async def test_a_session_that_outlives_its_node_is_one_trace_and_is_told_before_a_drain_ends(
    deployment: Deployment, tmp_path: Path
) -> None:
    """The first node dies with what it had to tell, the second tells of both, as late as in its drain."""
    gate = tmp_path / "gate"
    order: JsonObject = {"item": "tea", "amount": 3, "gate": str(gate)}
    async with collecting() as collector:
        environment: dict[str, Any] = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": NEVER,
            "OTEL_METRIC_EXPORT_INTERVAL": NEVER,
            "ORCHESTRATOR_HEARTBEAT_SECONDS": "0.4",
        }
        first = await deployment.start(**environment)
        start = start_message("order", order, session_id="traced")
        await deployment.send(start, traceparent=TRACEPARENT)
        await first.logged("session_accepted", session_id="traced")
        first.process.kill()
        await first.ended()
        assert [] == collector.spans
        second = await deployment.start(**environment, OTEL_EXPORTER_OTLP_COMPRESSION="gzip")
        await second.logged("session_resumed", session_id="traced")
        gate.touch()
        await second.logged("session_ended", session_id="traced", status="COMPLETED")
        assert [] == collector.spans
        assert 0 == await deployment.stop(second)
        await collector.until(lambda seen: seen.named("session order") and seen.sums)

    assert {TRACE_ID} == {span.trace_id.hex() for span in collector.spans}
    (session,) = collector.named("session order")
    assert "bbbbbbbbbbbbbbbb" == session.parent_span_id.hex()
    assert {("activation", "session order")} <= {*collector.tree()}
    lost, ended = sorted(collector.named("activation"), key=lambda span: span.start_time_unix_nano)
    assert ("lost", "ended") == tuple(said(span.attributes)["orchestrator.activation.ended"] for span in (lost, ended))
    assert [lost.span_id] == [link.span_id for link in ended.links]
    assert len(collector.spans) == len({span.span_id for span in collector.spans})
    assert {"session-orchestrator"} == {resource["service.name"] for resource in collector.resources}
    assert (1, 1, 1) == tuple(
        collector.sums[f"orchestrator.{name}"] for name in ("sessions.ended", "sessions.taken_over", "nodes.started")
    )
    assert collector.sums["orchestrator.journal.append.batch_size"] >= 2


async def test_branches_a_child_and_a_stay_out_of_memory_are_one_tree(deployment: Deployment) -> None:
    """The child is below the operation that waits for it, and each stay in memory follows the one before."""
    async with collecting() as collector:
        worker = await deployment.start(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_METRIC_EXPORT_INTERVAL=NEVER,
            ORCHESTRATOR_PASSIVATE_AFTER_SECONDS="0.2",
        )
        start = start_message("branches-out", 1.5, session_id="tree")
        await deployment.send(start, traceparent=TRACEPARENT)
        await worker.logged("session_suspended", session_id="tree")
        await worker.logged("session_ended", session_id="tree", status="COMPLETED")
        assert 0 == await deployment.stop(worker)
        await collector.until(lambda seen: seen.named("session branches-out"))
    whole = "session branches-out"
    below = ["run_session echo", "step left", "step right", "timer sleep"]
    assert (
        sorted(
            [
                *((name, whole) for name in ("activation", "activation", *below)),
                ("session echo", "run_session echo"),
                (whole, "bbbbbbbbbbbbbbbb"),
            ]
        )
        == collector.tree()
    )
    first, second = sorted(collector.named("activation"), key=lambda span: span.start_time_unix_nano)
    assert [first.span_id] == [link.span_id for link in second.links]
    assert ("suspended", "ended") == tuple(
        said(span.attributes)["orchestrator.activation.ended"] for span in (first, second)
    )


async def test_a_collector_that_never_answers_slows_no_session_and_holds_no_drain_for_long(
    deployment: Deployment,
) -> None:
    """Nor does one that is not there, or container metadata that nobody answers for."""
    async with collecting() as collector:
        collector.answers.clear()
        worker = await deployment.start(
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces",
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="http://127.0.0.1:9/v1/metrics",
            OTEL_BSP_SCHEDULE_DELAY="10",
            OTEL_METRIC_EXPORT_INTERVAL="100",
            ECS_CONTAINER_METADATA_URI_V4="http://127.0.0.1:9/v4/none",
        )
        for number in range(5):
            start = start_message("order", {"item": "tea", "amount": 1}, session_id=f"s{number}")
            await deployment.send(start)
        await worker.logged("session_ended", times=5, status="COMPLETED")
        await collector.until(lambda seen: seen.asked)
        assert 0 == await deployment.stop(worker)
        drained, stopped = [(await worker.logged(f"node_{how}"))[0]["at"] for how in ("drained", "stopped")]
        assert _seconds_between(drained, stopped) < FLUSH_SECONDS_MAX + SCHEDULING_SECONDS
        assert [] == collector.spans


async def test_a_collector_that_answers_late_gets_all_of_it_and_no_session_waits(deployment: Deployment) -> None:
    """The sessions have all ended before it answers the first export."""
    async with collecting() as collector:
        collector.answers.clear()
        worker = await deployment.start(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="10", OTEL_METRIC_EXPORT_INTERVAL=NEVER
        )
        for number in range(5):
            start = start_message("order", {"item": "tea", "amount": 1}, session_id=f"late{number}")
            await deployment.send(start)
        await worker.logged("session_ended", times=5, status="COMPLETED")
        assert [] == collector.spans
        collector.answers.set()
        await collector.until(lambda seen: len(seen.named("session order")) == 5)
        assert 0 == await deployment.stop(worker)
    assert len(collector.spans) == len({span.span_id for span in collector.spans})


def _seconds_between(first: Json, second: Json) -> float:
    return (datetime.fromisoformat(str(second)) - datetime.fromisoformat(str(first))).total_seconds()
