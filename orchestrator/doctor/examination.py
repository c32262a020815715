"""Runs every check, in the order in which one explains the next: a wrong clock makes every call fail."""

from __future__ import annotations

from collections.abc import AsyncIterator

from actors import Clock
from orchestrator.aws.inspection import Inspection
from orchestrator.cluster import Nodes
from orchestrator.doctor import Finding, Level
from orchestrator.doctor.resources import of_bucket, of_payload_key, of_queues, of_table
from orchestrator.doctor.surroundings import of_clock, of_nodes, of_outlets, of_traces


async def examine(found: Inspection, nodes: Nodes, clock: Clock) -> AsyncIterator[Finding]:
    """Yield what there is to say of the deployment, as it is found; what can only repeat an error is left out."""
    is_sound = True
    async for finding in of_clock(found, clock):
        is_sound = is_sound and finding.level is not Level.ERROR
        yield finding
    if is_sound:
        can_read = True
        for check in (of_table, of_queues, of_bucket, of_payload_key, of_outlets):
            async for finding in check(found):
                can_read = can_read and (check is not of_table or finding.level is not Level.ERROR)
                yield finding
        if can_read:
            async for finding in of_nodes(nodes, clock, heartbeat_seconds=found.settings.heartbeat_seconds):
                yield finding
    async for finding in of_traces():
        yield finding
