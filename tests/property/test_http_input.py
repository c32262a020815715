"""Whatever comes to a node's port is answered with what was asked for or with a problem, and never with a 500 (I11).

To change it: no test of one endpoint here. A new route, parameter or header is drawn from `ROUTES` as it is.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

import pytest
from any_values import anything, examples, json_like, odd, odd_texts, spoiled
from http_stage import Stage, stage
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.http.routes import ROUTES

SECONDS_MAX: Final = 10.0
"""Only a failing test waits that long."""
PINGS: Final = 5
CODE: Final = re.compile(r"[A-Z][A-Z_]+")


class Port:
    """A node that serves, and the loop on which it does."""

    def __init__(self, loop: asyncio.AbstractEventLoop, node: Stage) -> None:
        self._loop = loop
        host, port = node.url.removeprefix("http://").split(":")
        self._address = (host, int(port))
        self.node = node

    def answer(self, raw: bytes) -> bytes:
        """Return all that the node says to these bytes; one that waits for more of them is told that none come."""
        return self._loop.run_until_complete(self._answered(raw))

    def is_well(self) -> bool:
        """Return whether it still answers others, and reported no failure of its own."""
        failed = [line for line in self.node.logs if line["log_level"] in {"error", "critical"}]
        self.node.logs.clear()
        return self._loop.run_until_complete(self._pinged()) and not failed

    async def _answered(self, raw: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._address)
        reading = asyncio.ensure_future(reader.read())
        try:
            async with asyncio.timeout(SECONDS_MAX):
                with suppress(ConnectionError):
                    writer.write(raw)
                    await writer.drain()
                for _ in range(PINGS):
                    # By the time that others were served so often, it was too, or waits for more.
                    if not reading.done():
                        assert await self._pinged()
                with suppress(OSError):
                    writer.write_eof()
                with suppress(ConnectionError):
                    return await reading
                return b""
        finally:
            writer.close()

    async def _pinged(self) -> bool:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(b"GET /ping HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")
            return b"200 OK" in await reader.read()
        finally:
            writer.close()


@pytest.fixture(scope="module")
def port() -> Iterator[Port]:
    """Serve for all examples: a node that one of them spoils must not serve the next as if nothing were."""
    with asyncio.Runner() as runner:
        loop, serving = runner.get_loop(), stage()
        node = loop.run_until_complete(serving.__aenter__())
        loop.run_until_complete(node.has("s"))
        yield Port(loop, node)
        loop.run_until_complete(serving.__aexit__(None, None, None))


def assert_fit(answer: bytes) -> None:
    """Check that an answer is no 500, and that an error is a problem with a stable code."""
    if not answer:
        return
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    assert status != 500, answer
    if status >= 400 and body:
        assert b"application/problem+json" in head, answer
        problem = json.loads(body[body.index(b"{") :].partition(b"\r\n")[0])
        assert status == problem["status"]
        assert CODE.fullmatch(problem["code"])


# --- requests that are HTTP ----------------------------------------------------------------------------------------

header_texts: Final = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30) | st.sampled_from(
    [
        "x" * 1_025,
        "9" * 30,
        "application/json",
        "Bearer x",
        "text/event-stream",
        "0",
        "100-continue",
        "٣",
        "%00",
        "\udce9",
    ]
)
BODIES: Final[tuple[Any, ...]] = (
    {"session_type": "order", "input": {"item": "tea"}, "idempotency_key": "k"},
    {"token": "t", "status": "SUCCESS", "result": 1},
    {"approved": True, "by": "me", "comment": None},
    {"reason": "enough"},
)
QUERY: Final = ["state", "type", "tenant", "cursor", "limit", "after", "x"]
HEADERS: Final = [
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "Authorization",
    "Accept",
    "traceparent",
    "X-Amzn-Trace-Id",
    "Expect",
    "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id",
]


def encodable(text: str) -> str:
    """Return the text as a client could put it into a URL."""
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Return a request to one of the routes, right but for its parts."""
    route = draw(st.sampled_from(ROUTES))
    ids = st.sampled_from(["s", "go", ".", "..", "%2e%2e", "%00", "a%2Fb", "x" * 200]) | anything.map(encodable)
    path = re.sub(r"\{[^}]*\}", lambda _: draw(ids), route.path)
    query = draw(st.dictionaries(st.sampled_from(QUERY), anything | odd_texts | st.integers().map(str), max_size=3))
    pairs = "&".join(f"{name}={encodable(text)}" for name, text in query.items())
    headers = draw(st.dictionaries(st.sampled_from(HEADERS), header_texts, max_size=3))
    body = b""
    if route.method == "POST":
        headers = {"Content-Type": "application/json", **headers}
        value = draw(spoiled(st.sampled_from(BODIES)) | json_like | odd)
        body = draw(st.just(json.dumps(value).encode()) | st.binary(max_size=20))
    lines = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
    method = draw(st.sampled_from([route.method, route.method, route.method, "HEAD", "PUT"]))
    head = f"{method} {path}?{pairs} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n{lines}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode("utf-8", "surrogateescape") + body


@given(raw=requests())
@examples(250)
def test_any_request_is_answered_with_what_it_asks_for_or_a_problem(port: Port, raw: bytes) -> None:
    """In its path, its query, its headers and its body."""
    # A stream goes on for as long as its session does; how it begins is what counts here.
    assert_fit(port.answer(raw.replace(b"text/event-stream", b"text/plain")))
    assert port.is_well()


# --- bytes that may be none ----------------------------------------------------------------------------------------

WHOLE: Final = (
    b"POST /sessions HTTP/1.1\r\nHost: n\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b'Content-Length: 35\r\n\r\n{"session_type": "echo", "input": 1}',
    b"POST /sessions/s/signals/go HTTP/1.1\r\nHost: n\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: application/json\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"GET /sessions/s HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n",
)
PIECES: Final = st.sampled_from(
    [
        *(b"\r\n", b"\r\n\r\n", b"\n", b"\x00", b"\xff", b" ", b":", b"9" * 40, b"-1", b"chunked", b"Host: x\r\n"),
        *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n"),
        *(
            b"Content-Encoding: gzip\r\n",
            b"Content-Encoding: br\r\n",
            b"Upgrade: websocket\r\n",
            b"Expect: 100-continue\r\n",
        ),
        *(b"X: " + b"y" * 20_000 + b"\r\n", b"/" * 20_000, b"%", b"http://[", b"CONNECT n:1 HTTP/1.1\r\n\r\n"),
    ]
)


@st.composite
def framed(draw: st.DrawFn) -> bytes:
    """Return a request of which some bytes were cut out, overwritten or added, or bytes of any kind."""
    raw = draw(st.sampled_from(WHOLE) | st.binary(max_size=40))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(PIECES | st.binary(max_size=4)) + raw[at + draw(st.integers(0, 8)) :]
    return raw


@given(raw=framed())
@example(WHOLE[0].replace(b"Host: n", b"Host: n\r\nContent-Encoding: gzip"))
@example(b"GET /sessions/%ff%fe HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")
@example(b"GET /nowhere HTTP/1.1\r\nHost: n\r\nConnection: close\r\nExpect: a miracle\r\n\r\n")
@example(b"GET /nowhere HTTP/1.1\r\nHost: n\r\nConnection: close\r\nExpect: \xe9\r\n\r\n")
@example(b"GET http://[ HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")
@examples(250)
def test_any_bytes_are_answered_with_a_problem_or_not_at_all(port: Port, raw: bytes) -> None:
    """And whoever comes next is served."""
    assert_fit(port.answer(raw))
    assert port.is_well()
