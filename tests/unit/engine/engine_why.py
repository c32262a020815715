"""What people are told of a session of a world, by whoever explains it: its words, and what it waits for."""

from datetime import UTC, datetime

import structlog
from engine_world import Node, World

from orchestrator.cluster import Head, NodeRecord
from orchestrator.cluster.memory import MemoryNodes
from orchestrator.stuck import StuckWatch
from orchestrator.why import Explanation, Owner, UnderWay
from orchestrator.why.explaining import explain
from orchestrator.why.facts import Gathering

STARTED = datetime(2026, 1, 1, tzinfo=UTC)


async def registry(*node_ids: str) -> MemoryNodes:
    """Return a registry of these nodes, which live."""
    nodes = MemoryNodes()
    for node_id in node_ids:
        await nodes.register(NodeRecord(node_id, 0, f"{node_id}.test:8080", STARTED, "0.1.0"))
    return nodes


def watch_of(node: Node, *, factor: float = 10.0, seconds_min: float = 300.0) -> StuckWatch:
    """Return a watch over the sessions in a node's memory."""
    log = structlog.get_logger("orchestrator")
    return StuckWatch(node.system, node.system.clock, log, factor=factor, seconds_min=seconds_min)


async def explained(
    world: World,
    session_id: str = "s",
    *,
    node: Node | None = None,
    nodes: MemoryNodes | None = None,
    beats: bool | None = None,
    watch: StuckWatch | None = None,
) -> Explanation:
    """Return what is said of a session: as `node` sees it, or as the table alone tells it."""
    seen = watch or (None if node is None else watch_of(node))

    async def look(head: Head, owner: Owner) -> tuple[UnderWay | None, bool | None]:
        return (None, beats) if seen is None else (seen.under_way(head.session_id), True)

    registered = nodes or await registry("node-1", "node-2")
    gathering = Gathering(world.heads, world.journal, registered, world.quotas, world.clock, look)
    return explain(await gathering.facts(session_id))


def waits(explanation: Explanation) -> list[str]:
    """Return what it is said to wait for."""
    return [wait.says for wait in explanation.waits_for]
