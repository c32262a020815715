"""What `WakeUps` keeps: one note for each session of a node that has new messages."""

import asyncio

from orchestrator.inbox import WakeUps
from tests.contract.stage import Store, ids, node


async def test_a_node_without_notes_takes_nothing(wake_ups: WakeUps) -> None:
    """Nothing to take is no error."""
    assert [] == await ids(wake_ups.take("node-a"))


async def test_a_note_is_taken_once(wake_ups: WakeUps) -> None:
    """However often it was left; after that it is gone, and may be left anew."""
    for _ in range(3):
        await wake_ups.put("node-a", "session-1")
    await asyncio.gather(*(wake_ups.put("node-a", "session-2") for _ in range(3)))
    assert ["session-1", "session-2"] == sorted(await ids(wake_ups.take("node-a")))
    assert [] == await ids(wake_ups.take("node-a"))
    await wake_ups.put("node-a", "session-1")
    assert ["session-1"] == await ids(wake_ups.take("node-a"))


async def test_a_node_takes_its_own_notes_alone(store: Store) -> None:
    """One whose id begins like another's is another; its registration is no note."""
    await store.nodes.register(node())
    for name in ("node-a", "node-a1", "node"):
        await store.wake_ups.put(name, f"session-of-{name}")
    assert ["session-of-node-a"] == await ids(store.wake_ups.take("node-a"))
    assert ["session-of-node-a1"] == await ids(store.wake_ups.take("node-a1"))
    assert ["session-of-node"] == await ids(store.wake_ups.take("node"))


async def test_ids_of_every_shape_are_taken(wake_ups: WakeUps) -> None:
    """Every character that an id may have, up to 128 of them, and the suffix of a later generation."""
    names = {"0", "A.z_0:9-", "a", "a:g2", "z" * 128, "..", "WAKE"}
    for name in names:
        await wake_ups.put("node-a", name)
    assert sorted(names) == sorted(await ids(wake_ups.take("node-a")))


async def test_a_note_is_removed_before_its_session_is_told(wake_ups: WakeUps) -> None:
    """What comes in while the taker reads the inbox leaves a note of its own, and none is lost."""
    await wake_ups.put("node-a", "session-1")
    async for session_id in wake_ups.take("node-a"):
        await wake_ups.put("node-a", session_id)
    assert ["session-1"] == await ids(wake_ups.take("node-a"))


async def test_notes_that_were_not_told_stay(wake_ups: WakeUps) -> None:
    """A taker that stops half-way leaves the rest to the next round."""
    for n in range(30):
        await wake_ups.put("node-a", f"session-{n}")
    told: set[str] = set()
    async for session_id in wake_ups.take("node-a"):
        told.add(session_id)
        if len(told) == 3:
            break
    rest = set(await ids(wake_ups.take("node-a")))
    assert {f"session-{n}" for n in range(30)} - told == rest
