"""The checks of what is around the resources: credentials, clocks, who hears of ends, where traces go, the nodes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Final

import aiohttp

from actors import Clock
from orchestrator.aws.inspection import NO_ANSWER, SKEW_SECONDS_MAX, Inspection
from orchestrator.cluster import NodeRecord, Nodes
from orchestrator.doctor import Finding, error, warning, well
from orchestrator.session.values import format_instant

SKEW_SECONDS_TOLD: Final = 5.0
EXPORT_SECONDS_MAX: Final = 5.0
OTLP_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
OTLP_TRACES_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_XRAY: Final = "xray."
"""What the host of X-Ray's own endpoint begins with: it takes only what is signed."""


async def of_clock(found: Inspection, clock: Clock) -> AsyncIterator[Finding]:
    """Check this machine's clock against AWS's, and whether AWS takes our signature."""
    before = clock.now()
    theirs = await found.time_at_aws()
    if theirs is None:
        yield error(
            "connection",
            f"nothing answers at {found.clients.dynamodb.meta.endpoint_url}",
            "see AWS_REGION, AWS_ENDPOINT_URL, the proxy, and the routes or VPC endpoints of the subnet",
        )
        return
    ours = before + (clock.now() - before) / 2
    off = (ours - theirs).total_seconds()
    says = f"this machine's clock is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} AWS's"
    if abs(off) > SKEW_SECONDS_MAX:
        mend = "set the clock (chrony or systemd-timesyncd; on EC2 and Fargate from 169.254.169.123)"
        yield error("clock", f"{says}: timers fire {'early' if off > 0 else 'late'}, and signatures are refused", mend)
    elif abs(off) > SKEW_SECONDS_TOLD:
        yield warning("clock", says, "set the clock: it drifts")
    else:
        yield well("clock", "is right")
    described = await found.table()
    if described.is_unsigned:
        mend = (
            "set the clock" if abs(off) > SKEW_SECONDS_MAX else "see AWS_PROFILE, AWS_ACCESS_KEY_ID, or the task's role"
        )
        yield error("credentials", f"{described.code}: {described.text}"[:300], mend)
    elif described.code != NO_ANSWER:
        yield well("credentials", f"are accepted in {found.region}")


async def of_outlets(found: Inspection) -> AsyncIterator[Finding]:
    """Check the event bus and the topic that hear of ends and approvals, where some are named."""
    bus, topic = found.settings.event_bus, found.settings.approval_topic_arn
    if bus:
        described = await found.bus()
        is_named = "event_bus" in found.settings.model_fields_set
        if described.code == "ResourceNotFoundException":
            says = f"there is no event bus {bus}: nobody hears of ends there"
            mend = "orchestrator provision, or ORCHESTRATOR_EVENT_BUS= for none"
            yield error("event bus", says, mend) if is_named else warning("event bus", says, mend)
        else:
            permission = await found.put_events()
            if permission.answered.is_denied or described.is_denied:
                action = permission.action if permission.answered.is_denied else "events:DescribeEventBus"
                yield error("event bus", f"{action} is not allowed on {bus}", f"allow {action} on it")
            else:
                yield well("event bus", f"{bus} is there")
    if topic:
        permission = await found.publish(topic)
        if permission.answered.is_denied:
            yield error("approval topic", f"sns:Publish is not allowed on {topic}", "allow sns:Publish on it")
        elif permission.answered.code in {"NotFound", "NotFoundException"}:
            yield error("approval topic", f"there is no topic {topic}", "set ORCHESTRATOR_APPROVAL_TOPIC_ARN")
        else:
            yield well("approval topic", f"{topic} is there")


async def of_traces() -> AsyncIterator[Finding]:
    """Check that traces go somewhere: an empty export is sent."""
    base, own = os.environ.get(OTLP_ENDPOINT), os.environ.get(OTLP_TRACES_ENDPOINT)
    if not base and not own:
        yield well("trace export", f"is off: {OTLP_ENDPOINT} is not set")
        return
    url = own or f"{str(base).rstrip('/')}/v1/traces"
    headers = {"Content-Type": "application/x-protobuf"}
    mend = (
        f"see {OTLP_TRACES_ENDPOINT if own else OTLP_ENDPOINT}, and whether the collector runs; sessions run without it"
    )
    try:
        timeout = aiohttp.ClientTimeout(total=EXPORT_SECONDS_MAX)
        # An ExportTraceServiceRequest without spans is a message of no bytes.
        async with aiohttp.ClientSession(timeout=timeout) as http, http.post(url, data=b"", headers=headers) as answer:
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, ValueError) as failed:
        yield error("trace export", f"nothing answers at {url}: {type(failed).__name__}", mend)
        return
    if status < 300 or (status in {400, 403} and _XRAY in url):
        yield well("trace export", f"{url} answers")
    else:
        yield error("trace export", f"{url} answers {status}", mend)


async def of_nodes(nodes: Nodes, clock: Clock, *, heartbeat_seconds: float) -> AsyncIterator[Finding]:
    """Check that nodes are registered and beat; it takes two heartbeats at most."""
    before = {node.node_id: node async for node in nodes.all() if node.declared_dead_at is None}
    if not before:
        yield warning("nodes", "none is registered: what is accepted waits", "orchestrator serve MODULE:APP")
        return
    still, deadline = dict(before), clock.monotonic() + 2 * heartbeat_seconds
    while still and clock.monotonic() < deadline:
        await clock.sleep(min(0.5, heartbeat_seconds / 4))
        after = {node.node_id: node async for node in nodes.all()}
        still = {node_id: node for node_id, node in still.items() if not _has_moved(node, after.get(node_id))}
    for node_id, node in before.items():
        about = f"{node_id} at {node.address}, version {node.version}, up since {format_instant(node.started_at)}"
        if node_id not in still:
            yield well("node", f"{about}, with {node.sessions} sessions")
        else:
            mend = "a node that lives takes its sessions over; if none does, start one: orchestrator serve MODULE:APP"
            yield warning("node", f"{about}, does not beat: it died, or cannot reach the table", mend)
    if len(still) == len(before):
        yield error("nodes", "none of those that are registered beats", "orchestrator serve MODULE:APP")


def _has_moved(before: NodeRecord, after: NodeRecord | None) -> bool:
    """Return whether the node beat since, or left in order."""
    return after is None or after.beat != before.beat or after.declared_dead_at is not None
