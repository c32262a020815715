"""Schedules on the composition root: a deployed node starts what is due, and the next one goes on from there."""

import pytest

from orchestrator import Occurrence, Orchestrator, SessionContext
from orchestrator.settings import Settings
from tests.simulation.dynamodb import SimTable
from tests.simulation.network import Cloud, Weather
from tests.simulation.node import SimNode
from tests.simulation.s3 import SimBucket
from tests.simulation.sqs import SimQueue
from tests.simulation.world import World


def test_nodes_start_what_is_due_and_those_after_them_what_they_left() -> None:
    """Once each: by two whose clocks differ, across a crash in the middle, and what nobody ran for is made up for."""
    app, ran = Orchestrator(), list[str]()

    @app.on_schedule("*/2 * * * *", timezone="Europe/Zurich", missed="all")
    @app.session("report")
    async def report(ctx: SessionContext, occurrence: Occurrence) -> None:
        ran.append(f"{occurrence.scheduled_at:%H:%M}")

    world = World(0)
    table = SimTable(world, lambda: 0.0, pytest.fail)
    cloud = Cloud(world, Weather(), table, SimQueue(world, lambda: False), SimBucket())
    settings = Settings(queue="queue", table="table", bucket="bucket", public_url="https://simulated")

    def start(name: str) -> SimNode:
        node = SimNode(cloud, name, app, settings, lambda: None, lambda address: None)
        node.start()
        return node

    def seen_to() -> object:
        item = table.item("SCHEDULE#report", "default Europe/Zurich */2 * * * *")
        return None if item is None else item["seen_to"]

    nodes = [start("node-1"), start("node-2")]
    nodes[1].clock.wrong_by = 20.0
    try:
        assert world.run(lambda: len(ran) == 2, 5 * 60.0)
        for node in nodes:
            node.kill()
        world.after(10 * 60.0, lambda: nodes.append(start("node-3")))
        assert world.run(lambda: seen_to() == "2026-01-01T12:14:00.000Z", 12 * 60.0)
        assert [f"12:{minute:02}" for minute in range(2, 15, 2)] == sorted(set(ran))
        heads = [item for item in table.items() if item["SK"] == "HEAD"]
        assert len(set(ran)) == len(heads)
    finally:
        for node in nodes:
            node.line.is_cut = True
            node.loop.unwind()
