"""Live streams of events: complete, resumable at any node, ended with the session, and never a burden."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from http_stage import NOON, PATIENCE_SECONDS, Bell, Stage, end, stage, step

from actors import ManualClock, settle
from orchestrator.http.server import HttpLimits
from orchestrator.http.streams import KEEP_ALIVE_SECONDS, WRITE_SECONDS_MAX, Polling
from orchestrator.session.values import Json

STREAM = {"Accept": "text/event-stream"}


class Listener:
    """A client of one stream, frame by frame."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def frame(self) -> dict[str, str]:
        """Return the next frame: its fields, a comment under the empty name; `{}` at the stream's end."""
        fields: dict[str, str] = {}
        while line := (await self.answer.content.readline()).decode():
            if line == "\n":
                return fields
            name, _, text = line.rstrip("\n").partition(": ")
            fields[name.rstrip(":")] = text
        return fields

    async def seqs(self, frames: int) -> list[str]:
        """Return the ids of so many next frames."""
        return [(await self.frame()).get("id", "") for _ in range(frames)]


@asynccontextmanager
async def listening_to(node: Stage, path: str = "/sessions/s/events", **headers: str) -> AsyncIterator[Listener]:
    """Open a stream and pass its first frame, which says when to come back."""
    named = {**STREAM, **{name.replace("_", "-"): text for name, text in headers.items()}}
    async with node.http.get(f"{node.url}{path}", headers=named) as answer:
        assert (200, "text/event-stream") == (answer.status, answer.content_type), await answer.text()
        listener = Listener(answer)
        assert {"retry": "1000"} == await listener.frame()
        yield listener


async def refusal(node: Stage, path: str = "/sessions/s/events", *, last: str | None = None) -> tuple[int, str]:
    """Return the status and the code with which a stream is refused."""
    headers = {} if last is None else {"Last-Event-ID": last}
    async with node.http.get(f"{node.url}{path}", headers={**STREAM, **headers}) as answer:
        return answer.status, (await answer.json(content_type="application/problem+json"))["code"]


async def test_a_stream_tells_what_was_and_what_comes_and_closes_after_the_terminal_event() -> None:
    """Each frame has the seq, the status and the event as the page shows it; the owner is another node."""
    async with stage() as node:
        await node.has("s", step(1))
        async with listening_to(node) as client:
            first, second = await client.frame(), await client.frame()
            await node.bell.waited_for_by(1)
            await node.record("s", step(2), end())
            await node.bell.ring()
            third, last = await client.frame(), await client.frame()
            assert {} == await client.frame()
        frames = [first, second, third, last]
        assert ["1", "2", "3", "4"] == [frame["id"] for frame in frames]
        assert ["AGENT_INVOCATION_STARTED", "STEP_COMPLETED", "STEP_COMPLETED", "AGENT_BACKGROUND_TASK_COMPLETED"] == [
            frame["event"] for frame in frames
        ]
        _, page = await node.ask("GET", "/sessions/s/events")
        assert page["events"] == [json.loads(frame["data"]) for frame in frames]
        assert 0 == len(node.streams)


async def test_a_stream_goes_on_from_the_last_event_id_which_goes_before_after() -> None:
    """A browser that reconnects asks the same address again, and says how far it came in the header."""
    async with stage() as node:
        await node.has("s", step(1), step(2), end())
        async with listening_to(node, "/sessions/s/events?after=1") as client:
            assert ["2", "3", "4", ""] == await client.seqs(4)
        async with listening_to(node, "/sessions/s/events?after=1", Last_Event_ID="3") as client:
            assert ["4", ""] == await client.seqs(2)


async def test_a_client_that_has_seen_the_end_is_told_to_stay_away() -> None:
    """204 ends the reconnecting of an EventSource (WHATWG HTML); it needs no HEAD that says so."""
    async with stage() as node:
        await node.has("s", end())
        async with node.http.get(f"{node.url}/sessions/s/events", headers={**STREAM, "Last-Event-ID": "2"}) as answer:
            assert (204, b"") == (answer.status, await answer.read())


async def test_a_stream_that_cannot_be_is_refused_with_a_reason() -> None:
    """An unknown session, a place that is no number, and one that the journal does not have."""
    async with stage() as node:
        await node.has("s", step(1))
        assert (404, "UNKNOWN_SESSION") == await refusal(node, "/sessions/nobody/events")
        assert (422, "INVALID_MESSAGE") == await refusal(node, last="two")
        assert (422, "INVALID_QUERY") == await refusal(node, "/sessions/s/events?after=-1")
        assert (422, "INVALID_QUERY") == await refusal(node, last="9")
        assert 0 == len(node.streams)


async def test_a_silent_stream_polls_less_and_less_often_and_keeps_itself_alive() -> None:
    """From 0.2 s to 2 s, from the start again after news; a comment every 15 s, and no poll beyond that moment."""
    clock = ManualClock(NOON)
    async with stage(clock=clock) as node:
        await node.has("s")
        async with listening_to(node) as client:
            assert ["1"] == await client.seqs(1)
            for _ in range(7):
                await node.bell.ring()
            await node.bell.waited_for_by(1)
            assert [0.2, 0.3, 0.45, 0.675, 1.013, 1.519, 2.0, 2.0] == [round(t, 3) for t in node.bell.timeouts]
            await node.record("s", step(1))
            await node.bell.ring()
            assert ["2"] == await client.seqs(1)
            await node.bell.waited_for_by(1)
            clock.advance(KEEP_ALIVE_SECONDS - 0.1)
            await node.bell.ring()
            await node.bell.waited_for_by(1)
            assert [0.2, 0.1] == [round(t, 3) for t in node.bell.timeouts[-2:]]
            clock.advance(0.1)
            await node.bell.ring()
            assert {"": "still here"} == await client.frame()


async def test_polling_waits_out_its_timeout_by_the_clock() -> None:
    """It returns when so much time has passed, not before."""
    clock = ManualClock(NOON)
    waiting = asyncio.ensure_future(Polling(clock).wait("s", 0.2))
    await settle()
    clock.advance(0.19)
    await settle()
    assert not waiting.done()
    clock.advance(0.01)
    await waiting


async def test_a_client_that_leaves_ends_its_stream_at_once() -> None:
    """Without a poll and without any time passing."""
    async with stage() as node:
        await node.has("s")
        async with listening_to(node) as client:
            await node.bell.waited_for_by(1)
            client.answer.close()
            await node.bell.waited_for_by(0)
        assert 0 == len(node.streams)
        assert [] == node.logs


async def test_a_draining_node_ends_its_streams_and_begins_none() -> None:
    """The client goes on at another node from the last id it has."""
    async with stage() as node:
        await node.has("s")
        async with listening_to(node) as client:
            assert ["1"] == await client.seqs(1)
            node.health.is_draining = True
            await node.bell.ring()
            assert {} == await client.frame()
        assert (503, "DRAINING") == await refusal(node)


async def test_a_server_that_stops_ends_its_streams_at_once() -> None:
    """Also where nobody drained the node: a stop does not wait for clients."""
    async with stage() as node:
        await node.has("s")
        async with listening_to(node) as client:
            await node.bell.waited_for_by(1)
            node.streams.close()
            assert ["1", ""] == await client.seqs(2)
        assert (503, "DRAINING") == await refusal(node)


async def test_a_stream_whose_server_stops_is_closed_in_order() -> None:
    """The body has its end, so that a client comes back for the rest instead of reporting a broken connection."""
    async with stage() as node:
        await node.has("s")
        host, _, port = node.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /sessions/s/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
        await node.bell.waited_for_by(1)
    assert (await reader.read()).endswith(b"\r\n0\r\n\r\n")
    writer.close()


async def test_one_stream_more_than_the_maximum_is_refused_until_one_ends() -> None:
    """503 with Retry-After; the place of a stream that ended is free again."""
    async with stage(limits=HttpLimits(streams_max=1)) as node:
        await node.has("s")
        async with listening_to(node) as client:
            async with node.http.get(f"{node.url}/sessions/s/events", headers=STREAM) as answer:
                problem = await answer.json(content_type=None)
                assert (503, "TOO_MANY_STREAMS", "5") == (answer.status, problem["code"], answer.headers["Retry-After"])
            await node.bell.waited_for_by(1)
            client.answer.close()
            await node.bell.waited_for_by(0)
        async with listening_to(node) as client:
            assert ["1"] == await client.seqs(1)


async def test_an_event_that_this_version_cannot_read_breaks_the_stream_and_says_so() -> None:
    """The frame has no id, so that the client comes back for that event, perhaps to a newer node."""
    async with stage() as node:
        await node.has("s", step(1))
        started, (recorded, _) = node.journal._sessions["s"]
        node.journal._sessions["s"] = [started, (recorded, "{}")]
        async with listening_to(node) as client:
            assert ["1"] == await client.seqs(1)
            broken = await client.frame()
            assert ("UNREADABLE_EVENT", None) == (broken["event"], broken.get("id"))
            assert "UNREADABLE_EVENT" == json.loads(broken["data"])["code"]
            assert {} == await client.frame()


async def test_a_client_that_reads_nothing_loses_its_place() -> None:
    """Once the buffers are full it has half a minute; then the connection is cut."""
    clock = ManualClock(NOON)
    big: Json = "x" * 200_000
    async with stage(clock=clock) as node:
        await node.has("s", *(step(number, big) for number in range(200)))
        host, _, port = node.url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1_024)
        writer.write(b"GET /sessions/s/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
        await _until_open(node)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(node.streams):
                await settle()
                clock.advance(WRITE_SECONDS_MAX)
        writer.close()
        assert [] == node.logs


async def test_a_stream_is_no_request_that_takes_too_long() -> None:
    """The limit on a handler's time ends when the stream begins."""
    clock = ManualClock(NOON)
    async with stage(clock=clock) as node:
        await node.has("s")
        async with listening_to(node) as client:
            await node.bell.waited_for_by(1)
            clock.advance(3_600)
            await node.record("s", end())
            await node.bell.ring()
            assert ["1", "2", ""] == await client.seqs(3)


async def test_asking_for_the_head_of_a_stream_begins_none() -> None:
    """HEAD has no body, so it would never end."""
    async with stage(news=Bell()) as node:
        await node.has("s")
        async with node.http.head(f"{node.url}/sessions/s/events", headers=STREAM) as answer:
            assert (200, "application/json") == (answer.status, answer.content_type)


async def _until_open(node: Stage) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not len(node.streams):
            await settle()
