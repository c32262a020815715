"""Events from outside, from the envelope to the session: one each, in the order of their object, whatever dies."""

import json
from typing import Any

import pytest
import structlog
from engine_line import PowerCut, at_the_end_of
from engine_world import Node, World

from actors import settle
from orchestrator import Event, Orchestrator, S3Object, SessionContext
from orchestrator.errors import Poison
from orchestrator.intake import Envelope
from orchestrator.intake.formats import Reader
from orchestrator.objects import ObjectWrite
from orchestrator.objects.memory import MemoryLatestWrites
from orchestrator.reception import Reception

BUCKET = "documents"


class Desk:
    """Where envelopes are handed in; what was seen of objects outlives its nodes."""

    def __init__(self, app: Orchestrator) -> None:
        self.world = World()
        self.app = app
        self.writes = MemoryLatestWrites(clock=self.world.clock)

    async def take(self, node: Node, body: dict[str, Any]) -> None:
        """Let the node handle the body, and what it sets off run."""
        reader = Reader(self.app, lambda: "0")
        writes = at_the_end_of(node.line, self.writes, writes=frozenset({"note"}))
        reception = Reception(node.router, node.deliveries, reader, writes, structlog.get_logger())
        await reception.handle(Envelope("m", json.dumps(body)))
        await settle()

    def sessions(self) -> list[str]:
        """Return the types of the sessions that were accepted, in order."""
        return [head.session_type for head in self.world.heads.all()]

    def logged(self, event: str) -> int:
        """Return how many lines of that name were logged."""
        return len(self.world.logged(event))


def documents(**trigger: Any) -> Orchestrator:
    """Return an application whose sessions end with the sequencer of the object that they are about."""
    app = Orchestrator()

    @app.on_s3_object(**trigger)
    @app.session("document")
    async def document(ctx: SessionContext, created: S3Object) -> object:
        return created.sequencer

    return app


def told(sequencer: str | None, *, key: str = "a", name: str = "ObjectCreated:Put", **of_object: Any) -> dict[str, Any]:
    """Return a notification of a write, or a removal."""
    about = {"key": key, "sequencer": sequencer, **of_object}
    return {
        "Records": [
            {"eventSource": "aws:s3", "eventName": name, "s3": {"bucket": {"name": BUCKET}, "object": about}},
        ]
    }


def on_the_bus(sequencer: str, *, detail_type: str = "Object Created") -> dict[str, Any]:
    """Return what EventBridge says of the same."""
    detail = {"bucket": {"name": BUCKET}, "object": {"key": "a", "sequencer": sequencer}, "reason": "PutObject"}
    return {
        "id": f"e-{sequencer}",
        "source": "aws.s3",
        "detail-type": detail_type,
        "time": "2026-01-01T12:00:00Z",
        "detail": detail,
    }


async def test_an_older_write_is_dropped_with_a_log_line_and_a_newer_one_is_not() -> None:
    """Of texts of different length the shorter one is padded on the right."""
    desk = Desk(documents())
    async with desk.world.node(desk.app) as node:
        for sequencer in ("0055AE", "0055AD99", "0055", "0055AE01", "0055AE00"):
            await desk.take(node, told(sequencer))
    assert ["0055AE", "0055AE01"] == await results(desk)
    assert [("0055AD99", "0055AE"), ("0055", "0055AE"), ("0055AE00", "0055AE01")] == [
        (line["sequencer"], line["latest"]) for line in desk.world.logged("older_event_dropped")
    ]


async def test_an_order_says_nothing_across_keys() -> None:
    """A write of another key, or without a place among those of its own, is no older one."""
    desk = Desk(documents())
    async with desk.world.node(desk.app) as node:
        for body in (told("09"), told("01", key="b"), told(None, eTag="e"), told("", eTag="f")):
            await desk.take(node, body)
    assert 4 == len(desk.sessions())


async def test_versions_of_a_key_are_in_order_too_unless_each_is_wanted() -> None:
    """An older version is still there to be read: a trigger says that it wants it."""
    for ordered, expected in ((True, ["2"]), (False, ["2", "1"])):
        desk = Desk(documents(ordered=ordered))
        async with desk.world.node(desk.app) as node:
            await desk.take(node, told("2", versionId="v2"))
            await desk.take(node, told("1", versionId="v1"))
        assert expected == await results(desk)


async def test_a_write_that_comes_twice_or_on_both_ways_is_one_session() -> None:
    """Its own sequencer is no later one, and what differs in the telling is no conflict."""
    desk = Desk(documents())
    async with desk.world.node(desk.app) as node:
        for body in (told("1"), on_the_bus("1"), told("1"), on_the_bus("1")):
            await desk.take(node, body)
    assert ["1"] == await results(desk)
    assert [3, 0] == [desk.logged("duplicate_absorbed"), desk.logged("older_event_dropped")]


@pytest.mark.parametrize(
    "body", [told("2", name="ObjectRemoved:Delete"), on_the_bus("2", detail_type="Object Deleted")]
)
async def test_an_object_that_was_removed_since_starts_nothing(body: dict[str, Any]) -> None:
    """Where S3 told of both in the wrong order; written again, it does."""
    desk = Desk(documents())
    async with desk.world.node(desk.app) as node:
        await desk.take(node, body)
        await desk.take(node, told("1"))
        await desk.take(node, told("3"))
    assert ["3"] == await results(desk)
    assert 1 == desk.logged("older_event_dropped")


async def test_a_removal_that_no_trigger_is_about_is_not_noted() -> None:
    """It would cost a write for nothing."""
    for trigger in ({"prefix": "in/"}, {"ordered": False}):
        desk = Desk(documents(**trigger))
        async with desk.world.node(desk.app) as node:
            await desk.take(node, told("2", name="ObjectRemoved:Delete"))
        assert "1" == await desk.writes.note(ObjectWrite(BUCKET, "a", "1"))


async def test_wherever_a_node_dies_the_latest_write_is_one_session() -> None:
    """The same event comes again, and is not older than itself; once it was noted, an older one starts nothing."""
    has_crashed, call = True, 0
    while has_crashed:
        call += 1
        desk, has_crashed = Desk(documents()), False
        async with desk.world.node(desk.app) as node:
            node.line.cut_at(call)
            try:
                await desk.take(node, told("2"))
            except PowerCut:
                has_crashed = True
        async with desk.world.node(desk.app, "node-2") as node:
            await desk.take(node, told("1"))
            await desk.take(node, told("2"))
            await node.claim(desk.world.heads.all()[-1].session_id, dead_owner="node-1")
            # The first call is the note: without it nobody knows of the later write.
            assert (["1", "2"] if call == 1 else ["2"]) == await results(desk), call
    assert call > 3


async def test_one_event_starts_a_session_of_each_trigger_and_the_one_that_cannot_goes_with_the_letter() -> None:
    """A redelivery, or the letter put back, starts what was missing and repeats nothing."""
    app, is_mended = Orchestrator(), False

    def transform(event: Event) -> object:
        if not is_mended:
            raise ValueError("not yet")
        return event.id

    @app.on_event(source="acme", transform=transform)
    @app.session("first")
    async def first(ctx: SessionContext, given: str) -> str:
        return given

    @app.on_event(source="acme")
    @app.session("second")
    async def second(ctx: SessionContext, event: Event) -> str:
        return event.id

    desk = Desk(app)
    body = {"id": "e-1", "source": "acme", "detail-type": "x", "detail": {}}
    async with desk.world.node(app) as node:
        with pytest.raises(Poison, match=r"^on_event\(source='acme'\) of session type 'first': transform raised"):
            await desk.take(node, body)
        assert ["second"] == desk.sessions()
        is_mended = True
        await desk.take(node, body)
        assert ["first", "second"] == sorted(desk.sessions())
        assert 1 == desk.logged("duplicate_absorbed")


async def test_the_same_content_under_another_name_is_the_same_session() -> None:
    """Where the trigger says that the content is the key."""
    desk = Desk(documents(key=lambda created: created.etag))
    async with desk.world.node(desk.app) as node:
        await desk.take(node, told("1", key="a", eTag="e"))
        await desk.take(node, told("7", key="copy of a", eTag="e"))
    assert [["1"], 1] == [await results(desk), desk.logged("duplicate_absorbed")]


async def results(desk: Desk) -> list[object]:
    """Return what the sessions ended with, in order of acceptance."""
    ended = [(await desk.world.end(head.session_id)) for head in desk.world.heads.all()]
    return [getattr(each, "result", each) for each in ended]
