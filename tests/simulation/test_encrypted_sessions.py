"""Payloads under a key of KMS, on the composition root: nothing stands in clear, whatever becomes of keys and nodes."""

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest

from orchestrator import Orchestrator, SessionContext
from orchestrator.aws.items import Item
from orchestrator.settings import Settings
from tests.simulation.dynamodb import SimTable
from tests.simulation.network import Cloud, Weather
from tests.simulation.node import SimNode
from tests.simulation.s3 import SimBucket
from tests.simulation.sqs import SimQueue
from tests.simulation.world import World

SECRET = "4711-0815-secret"
SESSION = "SESSION#s"


class Stage:
    """A small account with one session type, and what its handler saw."""

    def __init__(self) -> None:
        self.world = World(0)
        self.table = SimTable(self.world, lambda: 0.0, pytest.fail)
        self.queue = SimQueue(self.world, lambda: False)
        self.cloud = Cloud(self.world, Weather(), self.table, self.queue, SimBucket())
        self.key = self.cloud.keys.create()
        self.seen: list[object] = []
        self.app = Orchestrator()
        self.nodes: list[SimNode] = []
        self.app.session("s")(self._handler)

    async def _handler(self, ctx: SessionContext, secret: str) -> str:
        made = await ctx.step("make", lambda: [secret, "made"])
        await ctx.sleep(timedelta(minutes=10))
        again = await ctx.step("again", lambda: [secret, "again"])
        self.seen.append([secret, made, again])
        return f"{secret} done"

    def start(self, key: str | None) -> SimNode:
        """Start a node that encrypts under that key."""
        settings = Settings(queue="queue", table="table", bucket="bucket", payload_key_arn=key, public_url="https://x")
        name = f"node-{len(self.nodes) + 1}"
        node = SimNode(self.cloud, name, self.app, settings, lambda: None, lambda address: None)
        self.nodes.append(node)
        node.start()
        return node

    def submit(self) -> None:
        """Ask for the session by the queue."""
        self.queue.put(json.dumps({"kind": "start", "session_type": "s", "session_id": "s", "input": SECRET}))

    def head(self) -> Item:
        """Return HEAD of the session; nothing before it is accepted."""
        return self.table.item(SESSION, "HEAD") or {}

    def is_in(self, state: str) -> bool:
        """Return whether HEAD says so."""
        return self.head().get("state") == state

    def events(self) -> list[Item]:
        """Return the items of the journal."""
        return self.table.partition(SESSION, "EVENT#")

    def run(self, state: str, minutes: float) -> None:
        """Let time pass until HEAD shows that state."""
        assert self.world.run(lambda: self.is_in(state), minutes * 60.0), self.head()

    def stands_in_clear(self) -> bool:
        """Return whether the secret is anywhere in the table."""
        return any(SECRET in repr(item) for item in self.table.items())


@pytest.fixture
def stage() -> Iterator[Stage]:
    """An account without nodes, whose nodes end with the test."""
    opened = Stage()
    yield opened
    for node in opened.nodes:
        node.line.is_cut = True
        node.loop.unwind()


def test_what_is_encrypted_outlives_its_node_and_its_key(stage: Stage) -> None:
    """A second node, which has a new key, reads what the first one encrypted; nothing stood in clear meanwhile."""
    first, new_key = stage.start(stage.key), stage.cloud.keys.create()
    stage.submit()
    stage.run("SUSPENDED", 5)
    first.kill()
    stage.start(new_key)
    stage.run("COMPLETED", 30)

    assert [[SECRET, [SECRET, "made"], [SECRET, "again"]]] == stage.seen
    assert not stage.stands_in_clear()
    headers = [
        json.loads(encrypted.partition(b"\n")[0])
        for e in stage.events()
        if isinstance(encrypted := e.get("encrypted"), bytes)
    ]
    assert {stage.key, new_key} == {header["key"] for header in headers}
    assert '{"result":{"encrypted":true},"encrypted":true}' == stage.events()[-1]["data"]


def test_a_journal_of_clear_and_encrypted_events_is_read(stage: Stage) -> None:
    """The key was set in the middle of a session, and is unset before its end: each event is read as it was written."""
    for key in (None, stage.key):
        node = stage.start(key)
        if key is None:
            stage.submit()
        stage.run("SUSPENDED", 5)
        node.kill()
        stage.world.run(lambda: False, 60.0)
    stage.start(None)
    stage.run("COMPLETED", 30)
    assert [[SECRET, [SECRET, "made"], [SECRET, "again"]]] == stage.seen


def test_while_kms_does_not_answer_nothing_is_written_and_nothing_lost(stage: Stage) -> None:
    """A start waits for as long as the outage lasts, and is no session until it can be encrypted."""
    node = stage.start(stage.key)
    assert stage.world.run(lambda: node.takes, 60.0)
    # What the start has made a data key of is used up by then.
    stage.world.run(lambda: False, 300.0)
    stage.cloud.keys.is_down = True
    stage.submit()
    assert not stage.world.run(lambda: bool(stage.events()), 120.0)
    assert {"keys"} == node.rooms.health.report().checks.keys()

    stage.cloud.keys.is_down = False
    stage.run("COMPLETED", 30)
    assert not node.rooms.health.report().checks
    assert not stage.stands_in_clear()


@pytest.mark.parametrize(("resumes", "minutes"), [(False, 120), (True, 1)])
def test_a_session_whose_key_is_refused_is_blocked_until_it_is_not(stage: Stage, resumes: bool, minutes: int) -> None:
    """No clear payload and no end is written for want of a key: it says why, and goes on by itself, or when told to."""
    node = stage.start(stage.key)
    stage.submit()
    stage.run("SUSPENDED", 5)
    stage.cloud.keys.disabled.add(stage.key)
    stage.run("BLOCKED", 30)
    assert "PAYLOAD_KEY_REFUSED" in str(stage.head()["attributes"])
    assert [] == stage.seen

    if resumes:
        # By then it is looked at every quarter of an hour.
        stage.world.run(lambda: False, 17 * 60.0)
        deliveries = node.rooms.http.deliveries
        node.loop.call_soon(lambda: node.loop.create_task(deliveries.resume("s", None, None)))
    stage.cloud.keys.disabled.clear()
    stage.run("COMPLETED", minutes)
    assert [[SECRET, [SECRET, "made"], [SECRET, "again"]]] == stage.seen
    assert not stage.stands_in_clear()


def test_a_node_does_not_start_on_a_key_that_is_refused(stage: Stage) -> None:
    """A deployment with the wrong key, or without the permission, fails before it takes a single session."""
    stage.cloud.keys.disabled.add(stage.key)
    node = stage.start(stage.key)
    assert stage.world.run(lambda: not node.is_alive, 60.0)
    last = stage.world.timeline[-1].what
    assert "ORCHESTRATOR_PAYLOAD_KEY_ARN" in last
    assert "DisabledException" in last


@pytest.mark.parametrize("damage", ["swapped", "taken away", "of another text", "in clear"])
def test_an_event_that_was_tampered_with_blocks_its_session(stage: Stage, damage: str) -> None:
    """Ciphertext is bound to its place and to what stands beside it: no handler ever sees a value that was not its."""
    first = stage.start(stage.key)
    stage.submit()
    stage.run("SUSPENDED", 5)
    first.kill()
    one, two = (item for item in stage.events() if "encrypted" in item)
    match damage:
        case "swapped":
            stage.table.change(one | {"encrypted": two["encrypted"]})
            stage.table.change(two | {"encrypted": one["encrypted"]})
        case "taken away":
            stage.table.change({name: value for name, value in two.items() if name != "encrypted"})
        case "of another text":
            stage.table.change(two | {"operation": "again"})
        case "in clear":
            stage.table.change(two | {"encrypted": "none"})
    stage.start(stage.key)
    stage.run("BLOCKED", 30)

    reason = json.loads(str(stage.head()["attributes"]))["blocked_error"]
    assert reason.startswith(("ALTERED_EVENT: ", "UNREADABLE_EVENT: "))
    assert SECRET not in reason
    assert [] == stage.seen
