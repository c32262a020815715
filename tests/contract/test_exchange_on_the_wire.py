"""The exchange over aiohttp's connections: every way to end an answer is understood, and half of one is none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from orchestrator.aws.exchange import Exchange, ExchangeLimits, exchange_with

HEAD = b"HTTP/1.1 200 OK\r\n"
WHOLE = HEAD + b"X-Kind: whole\r\nContent-Length: 2\r\n\r\n{}"
READ_SECONDS = 0.2
LIMITS = ExchangeLimits(connections_max=2, connect_seconds=5, read_seconds=READ_SECONDS)


class Peer:
    """A server that reads a request and answers it with the next of its texts; after the last it closes."""

    def __init__(self, answers: tuple[bytes, ...]) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answers = iter(answers)
        self.closes_after = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head + await reader.readexactly(2))
                writer.write(next(self._answers))
                if self.closes_after:
                    return
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def exchange_to(peer: Peer) -> AsyncIterator[Exchange]:
    async with await asyncio.start_server(peer.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with exchange_with(f"http://127.0.0.1:{port}/", LIMITS) as exchange:
            yield exchange


async def test_requests_follow_each_other_on_one_connection() -> None:
    """A request is its line, the headers as given and the length of its body; the connection is kept."""
    peer = Peer((WHOLE, WHOLE))
    async with exchange_to(peer) as exchange:
        answers = [await exchange.post({"host": "there", "x-n": str(n)}, b"{}") for n in range(2)]
    assert [(200, "whole", b"{}")] * 2 == [(a.status, a.headers["x-kind"], a.body) for a in answers]
    assert [b"POST / HTTP/1.1\r\nhost: there\r\nx-n: %d\r\ncontent-length: 2\r\n\r\n{}" % n for n in range(2)] == (
        peer.requests
    )
    assert 1 == peer.connections


@pytest.mark.parametrize(
    ("answer", "closes"),
    [
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", False),
        (HEAD + b"\r\n{}", True),
        (HEAD + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE, False),
        (b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + WHOLE, False),
    ],
    ids=["chunked", "until-close", "closing", "after-a-hint", "after-two-hints"],
)
async def test_an_answer_is_understood_however_it_ends(answer: bytes, closes: bool) -> None:
    """HTTP knows several ends of a body; the next exchange goes on."""
    peer = Peer((answer, WHOLE))
    peer.closes_after = closes
    async with exchange_to(peer) as exchange:
        assert b"{}" == (await exchange.post({"host": "there"}, b"{}")).body
        assert b"{}" == (await exchange.post({"host": "there"}, b"{}")).body


@pytest.mark.parametrize(
    ("answer", "closes"),
    [
        (b"", True),
        (HEAD, True),
        (HEAD + b"Content-Length: 9\r\n\r\n{}", True),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\n{}", True),
        (b"", False),
        (HEAD + b"Content-Length: 9\r\n\r\n{}", False),
        (b"no HTTP at all\r\n\r\n", False),
        (HEAD + b"Content-Length: two\r\n\r\n{}", False),
    ],
    ids=["none", "half-head", "half-body", "half-chunk", "silence", "stall", "no-http", "no-length"],
)
async def test_half_an_answer_is_none_and_spoils_nothing(answer: bytes, closes: bool) -> None:
    """It raises what counts as a fault of the connection, and the next exchange gets a connection of its own."""
    peer = Peer((answer, WHOLE))
    peer.closes_after = closes
    async with exchange_to(peer) as exchange:
        with pytest.raises((aiohttp.ClientError, TimeoutError)):
            await exchange.post({"host": "there"}, b"{}")
        assert b"{}" == (await exchange.post({"host": "there"}, b"{}")).body
    assert 2 == peer.connections


async def test_a_cancelled_exchange_leaves_no_answer_for_the_next_one() -> None:
    """Its connection goes with it: the answer that comes late would be taken for the next one's."""
    peer = Peer((b"", WHOLE))
    async with exchange_to(peer) as exchange:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(READ_SECONDS / 4):
                await exchange.post({"host": "there"}, b"{}")
        assert b"{}" == (await exchange.post({"host": "there"}, b"{}")).body
    assert 2 == peer.connections


async def test_a_header_never_becomes_two() -> None:
    """A credential copied with its line break is refused before it leaves."""
    peer = Peer((WHOLE,))
    async with exchange_to(peer) as exchange:
        with pytest.raises(ValueError, match="line break"):
            await exchange.post({"host": "there", "x-key": "a\r\nx-other: b"}, b"{}")
    assert [] == peer.requests


async def test_nobody_there_is_a_fault_of_the_connection() -> None:
    """As every other failure to get an answer."""
    async with exchange_with("http://127.0.0.1:1/", LIMITS) as exchange:
        with pytest.raises(aiohttp.ClientError):
            await exchange.post({"host": "there"}, b"{}")
