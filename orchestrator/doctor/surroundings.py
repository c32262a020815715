"""The checks of what is around the resources: credentials, clocks, who hears of ends, where traces go, the nodes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

import requests

from actors import Clock
from orchestrator.aws.inspection import NO_ANSWER, SKEW_SECONDS_MAX, Inspection
from orchestrator.aws.xray import XRAY, signed_session
from orchestrator.cluster import NodeRecord, Nodes
from orchestrator.doctor import Finding, error, warning, well
from orchestrator.session.values import format_instant
from orchestrator.telemetry.wanted import ENDPOINT, TRACES, endpoint_of

SKEW_SECONDS_TOLD: Final = 5.0
EXPORT_SECONDS_MAX: Final = 5.0
FORBIDDEN: Final = 403
MALFORMED: Final = 400
"""What X-Ray may say of an export without spans, once it has taken the signature."""


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


async def of_traces(
    environ: Mapping[str, str] = os.environ, status_of: Callable[[str], int] | None = None
) -> AsyncIterator[Finding]:
    """Check that traces go somewhere: an empty export is sent, signed where the exporter signs.

    `status_of(url)` sends it and returns the answer's HTTP status; it may block, and raise `requests.RequestException`.
    """
    endpoint, own = endpoint_of(TRACES, environ), environ.get(TRACES[1])
    if endpoint is None:
        yield well("trace export", f"is off: {ENDPOINT} is not set, or traces are not wanted")
        return
    url = own or f"{endpoint.rstrip('/')}/v1/traces"
    mend = f"see {TRACES[1] if own else ENDPOINT}, and whether the collector runs; sessions run without it"
    try:
        status = await asyncio.to_thread(status_of or _exported, url)
    except requests.RequestException as failed:
        yield error("trace export", f"nothing answers at {url}: {type(failed).__name__}", mend)
        return
    if status == FORBIDDEN and XRAY.fullmatch(url):
        mend = "allow xray:PutTraceSegments, see the credentials, and whether Transaction Search is on in the account"
        yield error("trace export", f"xray:PutTraceSegments is not allowed at {url}", mend)
    elif status < 300 or (status == MALFORMED and XRAY.fullmatch(url)):
        yield well("trace export", f"{url} answers")
    else:
        yield error("trace export", f"{url} answers {status}", mend)


def _exported(url: str) -> int:
    with signed_session(url) or requests.Session() as session:
        # An ExportTraceServiceRequest without spans is a message of no bytes.
        headers = {"Content-Type": "application/x-protobuf"}
        return session.post(url, data=b"", headers=headers, timeout=EXPORT_SECONDS_MAX).status_code


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
