"""X-Ray: its ids, as a service that knows them takes them, and the signature of what goes straight to its endpoint."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import requests
from aiobotocore.session import get_session

from orchestrator.aws.xray import signed_session
from orchestrator.session import events as e
from orchestrator.session.state import begin, evolve
from orchestrator.session.tracing import Span, new_traceparent, operation_span, session_span, span_id
from tests.contract.stage import aws_environment
from tests.emulators import REGION, Emulator, access_key

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)


def spans_of_a_session() -> tuple[str, list[Span]]:
    """Return the trace of a session of one step, and its spans."""
    trace = new_traceparent("s", NOW, sampled=True)
    journal: tuple[e.Event, ...] = (
        e.SessionStarted("main", "default", 1, "x", trace),
        e.StepCompleted("work", 1, 1),
        e.SessionCompleted(1),
    )
    recorded = [
        e.Recorded(seq, event, NOW + timedelta(seconds=seq), 1, "node-1", f"id-{seq}")
        for seq, event in enumerate(journal, 1)
    ]
    state = begin("s", recorded[0])
    for each in recorded[1:]:
        state = evolve(state, each)
    return trace, [operation_span(state, state.operations["work"]), session_span(state)]


async def test_x_ray_takes_the_ids_of_a_session_that_nobody_elses_trace_led_to(moto: Emulator, account: str) -> None:
    """As the collector's exporter writes them down: the trace begins with its time, and is found again by its id."""
    trace, spans = spans_of_a_session()
    hexadecimal = trace.split("-")[1]
    trace_id = f"1-{hexadecimal[:8]}-{hexadecimal[8:]}"
    assert NOW.timestamp() == int(hexadecimal[:8], 16)
    documents = [
        json.dumps(
            {
                "trace_id": trace_id,
                "id": span_id("s", span.which).hex(),
                **({} if span.parent is None else {"parent_id": span_id("s", span.parent).hex()}),
                "name": span.type.name,
                "start_time": span.started_at.timestamp(),
                "end_time": span.ended_at.timestamp(),
            }
        )
        for span in spans
    ]
    with aws_environment(moto.endpoint_url, access_key(moto, account)):
        async with get_session().create_client("xray", region_name=REGION) as xray:
            answer = await xray.put_trace_segments(TraceSegmentDocuments=documents)
            assert [] == answer["UnprocessedTraceSegments"]
            (found,) = (await xray.batch_get_traces(TraceIds=[trace_id]))["Traces"]
    kept = [json.loads(segment["Document"]) for segment in found["Segments"]]
    assert {"step work", "session main"} == {segment["name"] for segment in kept}


@pytest.mark.parametrize("region", ["eu-central-1", "cn-north-1"])
def test_what_goes_straight_to_x_ray_is_signed_for_it(region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the process's own credentials; a collector's address is asked without."""
    for name, value in (("ACCESS_KEY_ID", "AKIDEXAMPLE"), ("SECRET_ACCESS_KEY", "secret"), ("SESSION_TOKEN", "token")):
        monkeypatch.setenv(f"AWS_{name}", value)
    url = f"https://xray.{region}.amazonaws.com{'.cn' if region.startswith('cn') else ''}/v1/traces"
    session = signed_session(url)
    assert session is not None
    headers = {"Content-Type": "application/x-protobuf"}
    request = session.prepare_request(requests.Request("POST", url, headers=headers, data=b"spans"))
    assert f"/{region}/xray/aws4_request" in request.headers["Authorization"]
    assert "token" == request.headers["X-Amz-Security-Token"]
    for other in ("http://localhost:4318/v1/traces", "https://xray.example.com/v1/traces"):
        assert signed_session(other) is None
