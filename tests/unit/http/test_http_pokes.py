"""Pokes: what a node answers to one, and what both ways to send them are held to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
import structlog
from http_stage import NODE, NOON, PATIENCE_SECONDS, POKE_KEY, stage
from structlog.testing import capture_logs

from actors import Signal
from orchestrator.cluster import NodeRecord
from orchestrator.cluster.directory import Directory
from orchestrator.cluster.memory import MemoryNodes
from orchestrator.pokes import Pokes, PokingWakeUps, signature
from orchestrator.pokes.http import HttpPokes
from orchestrator.pokes.memory import MemoryPokes

WAKE = f"/nodes/{NODE}/wake"
SIGNED = f"Poke {signature(POKE_KEY, NODE)}"


@pytest.mark.parametrize("keys", [(), ("secret",)], ids=["open", "with keys"])
async def test_a_poke_signed_with_the_nodes_key_rings(keys: tuple[str, ...]) -> None:
    """204, whether or not clients need a key of their own."""
    async with stage(keys=keys) as node:
        for times in (1, 2):
            async with node.http.post(f"{node.url}{WAKE}", headers={"Authorization": SIGNED}) as answer:
                assert (204, "") == (answer.status, await answer.text())
            assert [NODE] * times == node.rung


@pytest.mark.parametrize(
    "authorization",
    [
        "Poke",
        "Poke ",
        f"Poke {signature('another key', NODE)}",
        f"Poke {signature(POKE_KEY, 'node-2')}",
        f"{SIGNED}0",
        f"Poke {POKE_KEY}",
        "Poke \u00e9",
    ],
)
async def test_a_poke_signed_otherwise_is_refused(authorization: str) -> None:
    """403, and no look; the answer holds neither the key nor the signature that was expected."""
    async with stage(keys=["secret"]) as node:
        assert (403, "WRONG_SIGNATURE") == await node.code("POST", WAKE, Authorization=authorization)
        async with node.http.post(f"{node.url}{WAKE}", headers={"Authorization": authorization}) as answer:
            text = await answer.text()
        assert [] == node.rung
        assert not any(secret in f"{text} {node.logs}" for secret in (POKE_KEY, SIGNED.partition(" ")[2]))


async def test_who_does_not_sign_is_a_client_like_any_other() -> None:
    """A client's key opens no doorbell, and without one the answer is 401 where keys are asked for."""
    async with stage(keys=["secret"]) as node:
        assert (401, "UNAUTHORIZED") == await node.code("POST", WAKE)
        assert (403, "WRONG_SIGNATURE") == await node.code("POST", WAKE, Authorization="Bearer secret")
        assert (401, "UNAUTHORIZED") == await node.code("POST", "/sessions", Authorization=SIGNED)
        assert [] == node.rung
    async with stage() as node:
        assert (403, "WRONG_SIGNATURE") == await node.code("POST", WAKE)
        assert [] == node.rung


async def test_a_poke_to_a_node_that_was_here_before_is_unknown() -> None:
    """A container that got the address of another one says so, whatever the signature."""
    async with stage() as node:
        signed = f"Poke {signature(POKE_KEY, 'node-2')}"
        assert (404, "UNKNOWN_NODE") == await node.code("POST", "/nodes/node-2/wake", Authorization=signed)
        assert (422, "INVALID_MESSAGE") == await node.code("POST", "/nodes/%20/wake", Authorization=signed)
        assert [] == node.rung


async def test_the_document_does_not_know_what_nodes_ask_of_each_other() -> None:
    """Nobody outside can sign a poke."""
    async with stage() as node:
        _, found = await node.ask("GET", "/openapi.json")
        assert "/nodes" not in str(found)


# --- both ways to send them ----------------------------------------------------------------------------------------


@dataclass
class Town:
    """Two nodes, `a` and `b`, that can be poked, and who was."""

    pokes: Pokes
    rung: list[str] = field(default_factory=list)
    changed: Signal = field(default_factory=Signal)

    def bell_of(self, node_id: str) -> Callable[[], None]:
        """Return what that node's doorbell does."""

        def ring() -> None:
            self.rung.append(node_id)
            self.changed.fire()

        return ring

    async def until_rung(self, *node_ids: str) -> None:
        """Return once these nodes were poked, in any order."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.changed.until(lambda: set(node_ids) <= set(self.rung))


@asynccontextmanager
async def town_in_memory() -> AsyncIterator[Town]:
    pokes = MemoryPokes()
    town = Town(pokes)
    for node_id in ("a", "b"):
        pokes.answer(node_id, town.bell_of(node_id))
    yield town


@asynccontextmanager
async def town_over_http() -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        nodes = MemoryNodes()
        town = Town(HttpPokes(Directory(nodes, own_id="c"), structlog.get_logger()))
        for node_id in ("a", "b"):
            key = f"key of {node_id}"
            running = await stack.enter_async_context(
                stage(doorbell_of=(node_id, key, town.bell_of(node_id)), keys=["secret"])
            )
            await nodes.register(registration(node_id, running.url.removeprefix("http://"), key))
        yield town


@pytest.fixture(params=["memory", "http"])
async def town(request: pytest.FixtureRequest) -> AsyncIterator[Town]:
    """Both ways, in turn; pokes are carried while the test runs."""
    async with town_in_memory() if request.param == "memory" else town_over_http() as opened:
        carrying = asyncio.ensure_future(opened.pokes.run())
        yield opened
        carrying.cancel()
        await asyncio.wait({carrying})


def registration(node_id: str, address: str, key: str | None) -> NodeRecord:
    """Return a registration."""
    return NodeRecord(node_id, 0, address, NOON, "1", poke_key=key)


async def test_a_poke_reaches_the_node_that_it_is_for(town: Town) -> None:
    """And no other one."""
    await town.pokes.poke("a")
    await town.until_rung("a")
    assert ["a"] == town.rung
    await town.pokes.poke("b")
    await town.until_rung("b")
    assert ["a", "b"] == town.rung


async def test_a_poke_to_nobody_is_no_error(town: Town) -> None:
    """And the next one arrives."""
    await town.pokes.poke("nobody")
    await town.pokes.poke("a")
    await town.until_rung("a")
    assert ["a"] == town.rung


async def test_many_pokes_at_once_arrive_at_each_node(town: Town) -> None:
    """At least one of them to each."""
    for _ in range(100):
        await town.pokes.poke("a")
        await town.pokes.poke("b")
    await town.until_rung("a", "b")


# --- over HTTP ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def poking(*records: NodeRecord) -> AsyncIterator[HttpPokes]:
    """Carry pokes to these nodes while the block runs."""
    nodes = MemoryNodes()
    for record in records:
        await nodes.register(record)
    pokes = HttpPokes(Directory(nodes, own_id="c"), structlog.get_logger())
    carrying = asyncio.ensure_future(pokes.run())
    try:
        yield pokes
    finally:
        carrying.cancel()
        await asyncio.wait({carrying})


async def test_whom_no_poke_reaches_is_named_once_and_keeps_nobody_from_the_others() -> None:
    """A closed port, an address that is none, a name that nobody has: the sender hears nothing of it."""
    bell = Signal()
    rung = list[str]()

    def ring() -> None:
        rung.append(NODE)
        bell.fire()

    async with stage(doorbell_of=(NODE, POKE_KEY, ring)) as node:
        unreachable = {"closed": "127.0.0.1:9", "none": "no address", "empty": "", "bracket": "[::1"}
        records = [registration(name, address, "key") for name, address in unreachable.items()]
        here = registration(NODE, node.url.removeprefix("http://"), POKE_KEY)
        with capture_logs() as logs:
            async with poking(here, *records) as pokes:
                for times in (1, 2):
                    for name in (*unreachable, NODE):
                        await pokes.poke(name)
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        await bell.until(lambda times=times: len(rung) >= times)  # type: ignore[misc]
        missed = [line["other_node"] for line in logs if line["event"] == "node_not_reached"]
        assert len(missed) == len(set(missed))
        assert set(missed) <= set(unreachable)
        assert "key" not in {*logs[0].values()}


async def test_whoever_leaves_can_wait_until_its_pokes_have_gone_out() -> None:
    """Also those that reach nobody; nothing to send is nothing to wait for."""
    rung = list[str]()
    async with stage(doorbell_of=(NODE, POKE_KEY, lambda: rung.append(NODE))) as node:
        records = [
            registration(NODE, node.url.removeprefix("http://"), POKE_KEY),
            registration("closed", "127.0.0.1:9", "key"),
        ]
        async with asyncio.timeout(PATIENCE_SECONDS), poking(*records) as pokes:
            await pokes.settled()
            for name in ("closed", NODE):
                await pokes.poke(name)
            await pokes.settled()
            assert [NODE] == rung


class WatchedDirectory(Directory):
    """A directory that tells when it was made to forget somebody."""

    def __init__(self, nodes: MemoryNodes, *, own_id: str) -> None:
        super().__init__(nodes, own_id=own_id)
        self.forgotten = asyncio.Event()

    def forget(self, node_id: str) -> None:
        super().forget(node_id)
        self.forgotten.set()


async def test_an_address_with_a_new_owner_is_not_asked_again_until_the_next_listing() -> None:
    """The node is gone, though its registration may still look alive."""
    async with stage(keys=["secret"]) as node:
        address = node.url.removeprefix("http://")
        nodes = MemoryNodes()
        gone = registration("gone", address, "key")
        await nodes.register(gone)
        directory = WatchedDirectory(nodes, own_id="c")
        directory.saw([gone], at=0.0, quiet_seconds_max=1.0)
        with capture_logs() as logs:
            pokes = HttpPokes(directory, structlog.get_logger())
            carrying = asyncio.ensure_future(pokes.run())
            await pokes.poke("gone")
            async with asyncio.timeout(PATIENCE_SECONDS):
                await directory.forgotten.wait()
            assert None is await directory.find("gone")
            directory.saw([gone], at=1.0, quiet_seconds_max=1.0)
            assert gone == await directory.find("gone")
            carrying.cancel()
            await asyncio.wait({carrying})
        assert ["HTTP 404"] == [line["error"] for line in logs if line["event"] == "node_not_reached"]


class Notes:
    """Wake-ups that are put nowhere, and a poke, in the order in which they come."""

    def __init__(self) -> None:
        self.story: list[str] = []

    async def put(self, node_id: str, session_id: str) -> None:
        self.story.append(f"note to {node_id}")

    async def take(self, node_id: str) -> AsyncIterator[str]:
        yield f"taken by {node_id}"

    async def poke(self, node_id: str) -> None:
        self.story.append(f"poke {node_id}")

    async def run(self) -> None:
        raise AssertionError("nobody carries these")


async def test_the_note_is_there_before_its_node_is_poked() -> None:
    """The other way round the node would look too early, and again after a second."""
    notes = Notes()
    wake_ups = PokingWakeUps(notes, notes)
    await wake_ups.put("a", "s")
    assert ["note to a", "poke a"] == notes.story
    assert ["taken by a"] == [each async for each in wake_ups.take("a")]


# --- who is where ---------------------------------------------------------------------------------------------------


class CountedNodes(MemoryNodes):
    """A registry that counts who is read by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    async def get(self, node_id: str) -> NodeRecord | None:
        self.reads.append(node_id)
        return await super().get(node_id)


async def test_a_node_that_was_not_listed_is_read_once_until_the_next_listing() -> None:
    """However often it is asked for, and whether it is there or not; one that was listed is not read at all."""
    nodes = CountedNodes()
    listed, new = registration("listed", "1:1", "k"), registration("new", "2:2", "k")
    directory = Directory(nodes, own_id="c")
    for record in (listed, new):
        await nodes.register(record)
    for looks in (1, 2):
        directory.saw([listed], at=float(looks), quiet_seconds_max=9.0)
        for _ in range(3):
            assert listed == await directory.find("listed")
            assert new == await directory.find("new")
            assert None is await directory.find("nobody")
        assert ["new", "nobody"] * looks == nodes.reads


async def test_the_dead_are_found_by_nobody() -> None:
    """Neither where the listing shows the mark, nor where a read does."""
    nodes = CountedNodes()
    await nodes.register(registration("dead", "1:1", "k"))
    await nodes.declare_dead("dead", at=NOON + timedelta(seconds=1), beat=None)
    directory = Directory(nodes, own_id="c")
    assert None is await directory.find("dead")
    directory.saw([record async for record in nodes.all()], at=0.0, quiet_seconds_max=9.0)
    assert None is await directory.find("dead")
    assert ["dead"] == nodes.reads
