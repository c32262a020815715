"""What `Nodes` keeps: beats, and the tombstones of nodes that were declared dead (rule 3)."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.cluster import NodeFenced, NodeRecord, Nodes
from tests.contract.stage import POKE_KEY, node
from tests.contract.waiting import START

LATER = START + timedelta(minutes=5)


async def all_nodes(nodes: Nodes) -> dict[str, NodeRecord]:
    return {record.node_id: record async for record in nodes.all()}


async def test_registered_nodes_are_all_listed(nodes: Nodes) -> None:
    """Every attribute of a registration comes back; a process that cannot be told, and a key, may be absent."""
    bare = replace(node("bare"), process=None, poke_key=None)
    records = {f"node-{n}": node(f"node-{n}") for n in range(12)} | {"bare": bare}
    for record in records.values():
        await nodes.register(record)
    assert records == await all_nodes(nodes)


async def test_one_registration_is_read_by_its_id(nodes: Nodes) -> None:
    """As of now, marked or not; one that was never made is `None`."""
    await nodes.register(node())
    await nodes.beat("node-a", sessions=2)
    assert replace(node(), beat=1, sessions=2) == await nodes.get("node-a")
    await nodes.declare_dead("node-a", at=LATER, beat=None)
    assert replace(node(), beat=1, sessions=2, declared_dead_at=LATER) == await nodes.get("node-a")
    assert None is await nodes.get("node-b")


def test_a_registration_shows_its_key_to_no_log() -> None:
    """Who has it may poke."""
    assert POKE_KEY not in repr(node())


async def test_the_same_registration_again_is_welcome(nodes: Nodes) -> None:
    """A registration whose answer was lost is repeated."""
    await nodes.register(node())
    await nodes.beat("node-a", sessions=2)
    await nodes.register(node())
    assert {"node-a": replace(node(), beat=1, sessions=2)} == await all_nodes(nodes)


async def test_a_node_id_is_never_used_again(nodes: Nodes) -> None:
    """Another process under the id of one that was is fenced, and changes nothing."""
    await nodes.register(node())
    with pytest.raises(NodeFenced):
        await nodes.register(node(started_at=LATER))
    assert {"node-a": node()} == await all_nodes(nodes)


async def test_each_beat_adds_one_and_tells_the_sessions(nodes: Nodes) -> None:
    """The counter is what others watch, not a time."""
    await nodes.register(node())
    for sessions in (5, 0, 7):
        await nodes.beat("node-a", sessions=sessions)
    assert {"node-a": replace(node(), beat=3, sessions=7)} == await all_nodes(nodes)


async def test_a_beat_without_registration_is_fenced_and_registers_nothing(nodes: Nodes) -> None:
    """A node whose registration is gone must exit, not come back by beating."""
    with pytest.raises(NodeFenced):
        await nodes.beat("node-a", sessions=0)
    assert {} == await all_nodes(nodes)


async def test_a_node_declared_dead_is_fenced_and_stays_listed(nodes: Nodes) -> None:
    """The tombstone keeps the node's sessions audited, and its next beat fails."""
    await nodes.register(node())
    assert await nodes.declare_dead("node-a", at=LATER, beat=0)
    with pytest.raises(NodeFenced):
        await nodes.beat("node-a", sessions=1)
    assert {"node-a": replace(node(), declared_dead_at=LATER)} == await all_nodes(nodes)


async def test_a_node_that_has_beaten_since_is_not_dead(nodes: Nodes) -> None:
    """The mark is conditional on the beat that was seen to stand still."""
    await nodes.register(node())
    await nodes.beat("node-a", sessions=0)
    assert not await nodes.declare_dead("node-a", at=LATER, beat=0)
    await nodes.beat("node-a", sessions=0)
    assert {"node-a": replace(node(), beat=2)} == await all_nodes(nodes)


async def test_a_drained_node_marks_itself_whatever_its_beat(nodes: Nodes) -> None:
    """`None` as beat asks for no condition."""
    await nodes.register(node())
    await nodes.beat("node-a", sessions=0)
    assert await nodes.declare_dead("node-a", at=LATER, beat=None)
    assert {"node-a": replace(node(), beat=1, declared_dead_at=LATER)} == await all_nodes(nodes)


async def test_the_first_tombstone_stands(nodes: Nodes) -> None:
    """Whoever comes later learns that the node is marked, and does not move the instant."""
    await nodes.register(node())
    await nodes.declare_dead("node-a", at=LATER, beat=0)
    assert await nodes.declare_dead("node-a", at=LATER + timedelta(hours=1), beat=0)
    assert await nodes.declare_dead("node-a", at=LATER + timedelta(hours=1), beat=7)
    assert {"node-a": replace(node(), declared_dead_at=LATER)} == await all_nodes(nodes)


async def test_declaring_an_unknown_node_dead_creates_nothing(nodes: Nodes) -> None:
    """A registration that is gone counts as marked, and does not come back."""
    assert await nodes.declare_dead("node-a", at=LATER, beat=3)
    assert {} == await all_nodes(nodes)


async def test_beats_of_many_nodes_at_once_reach_each_its_own(nodes: Nodes) -> None:
    """What travels at the same time does not mix."""
    names = [f"node-{n:02d}" for n in range(30)]
    await asyncio.gather(*(nodes.register(node(name)) for name in names))
    await asyncio.gather(*(nodes.beat(name, sessions=n) for n, name in enumerate(names)))
    assert {name: (1, n) for n, name in enumerate(names)} == {
        name: (record.beat, record.sessions) for name, record in (await all_nodes(nodes)).items()
    }
