"""Exchanges over kept connections: every way to end an answer is understood, and half of one is none."""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import aiohttp
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from orchestrator.aws.exchange import Exchange, ExchangeLimits, exchange_with

HEAD = b"HTTP/1.1 200 OK\r\n"
WHOLE = HEAD + b"X-Kind: whole\r\nContent-Length: 2\r\n\r\n{}"
READ_SECONDS = 0.2
LEAVES_SECONDS_MAX = 5.0
"""Only a failing test waits that long."""
LIMITS = ExchangeLimits(connections_max=2, connect_seconds=5, read_seconds=READ_SECONDS)


class Peer:
    """A server that reads a request and answers it with the next of its texts; after the last it closes."""

    def __init__(self, answers: tuple[bytes, ...]) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answers = iter(answers)
        self.closes_after = False
        self.arrived = asyncio.Semaphore(0)
        self.lets_answer = asyncio.Event()
        self.lets_answer.set()
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head + await reader.readexactly(2))
                self.arrived.release()
                await self.lets_answer.wait()
                writer.write(next(self._answers))
                if self.closes_after:
                    return
        except (asyncio.IncompleteReadError, ConnectionResetError):
            self.left.set()
        finally:
            writer.close()


@asynccontextmanager
async def exchange_to(
    peer: Peer, *, identity: ssl.SSLContext | None = None, ca_bundle: str | None = None
) -> AsyncIterator[Exchange]:
    async with await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=identity) as server:
        port = server.sockets[0].getsockname()[1]
        scheme = "http" if identity is None else "https"
        async with exchange_with(f"{scheme}://127.0.0.1:{port}/", LIMITS, ca_bundle=ca_bundle) as exchange:
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
        async with asyncio.timeout(LEAVES_SECONDS_MAX):
            await peer.left.wait()
        assert b"{}" == (await exchange.post({"host": "there"}, b"{}")).body
    assert 2 == peer.connections


async def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """No service that is spoken to answers that much; memory is not for whoever else does."""
    monkeypatch.setattr("orchestrator.aws.connection.ANSWER_BYTES_MAX", 100)
    peer = Peer((HEAD + b"\r\n" + 100 * b"x", WHOLE))
    async with exchange_to(peer) as exchange:
        with pytest.raises(aiohttp.ClientError, match="more than 100 bytes"):
            await exchange.post({"host": "there"}, b"{}")
        assert b"{}" == (await exchange.post({"host": "there"}, b"{}")).body


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


@pytest.mark.parametrize("surplus", [HEAD, WHOLE, b"\r\nno HTTP"], ids=["half", "whole", "no-http"])
async def test_what_comes_with_an_answer_and_was_not_asked_for_is_nobodys(surplus: bytes) -> None:
    """The next exchange gets a connection of its own, not what is left over on this one."""
    peer = Peer((WHOLE + surplus, WHOLE))
    async with exchange_to(peer) as exchange:
        # Read as one piece with the answer, or as the next one: both must be harmless.
        answers = [await exchange.post({"host": "there"}, b"{}") for _ in range(2)]
    assert [(200, "whole", b"{}")] * 2 == [(a.status, a.headers["x-kind"], a.body) for a in answers]
    assert 2 == peer.connections


async def test_what_comes_between_two_exchanges_closes_the_connection() -> None:
    """As a service that is about to stop says goodbye."""
    peer, writers = Peer((WHOLE, WHOLE)), list[asyncio.StreamWriter]()
    serve = peer.serve

    async def remember(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await serve(reader, writer)

    peer.serve = remember  # type: ignore[method-assign]
    async with exchange_to(peer) as exchange:
        await exchange.post({"host": "there"}, b"{}")
        writers[0].write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await peer.left.wait()
        assert 200 == (await exchange.post({"host": "there"}, b"{}")).status
    assert 2 == peer.connections


async def test_no_more_connections_are_opened_than_are_allowed() -> None:
    """Five requests at once, over two connections; each gets an answer."""
    peer = Peer((WHOLE,) * 5)
    peer.lets_answer.clear()
    async with exchange_to(peer) as exchange, asyncio.TaskGroup() as tasks:
        posts = [tasks.create_task(exchange.post({"host": "there"}, b"{}")) for _ in range(5)]
        await peer.arrived.acquire()
        await peer.arrived.acquire()
        peer.lets_answer.set()
        assert [200] * 5 == [(await post).status for post in posts]
    assert LIMITS.connections_max == peer.connections


async def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side may close it any moment, with the request under way."""
    peer = Peer((WHOLE, WHOLE))
    async with exchange_to(peer) as exchange:
        await exchange.post({"host": "there"}, b"{}")
        monkeypatch.setattr("orchestrator.aws.exchange.KEEP_SECONDS", -1.0)
        assert 200 == (await exchange.post({"host": "there"}, b"{}")).status
    assert 2 == peer.connections


async def test_tls_is_spoken_with_whom_the_bundle_vouches_for_and_nobody_else(tmp_path: Path) -> None:
    """A stranger's certificate is a fault of the connection, and is told nothing."""
    bundle = tmp_path / "certificate.pem"
    identity = certified(bundle)
    trusted, stranger = Peer((WHOLE, WHOLE)), Peer((WHOLE,))
    async with exchange_to(trusted, identity=identity, ca_bundle=str(bundle)) as exchange:
        assert [200, 200] == [(await exchange.post({"host": "there"}, b"{}")).status for _ in range(2)]
    assert 1 == trusted.connections
    async with exchange_to(stranger, identity=identity) as exchange:
        with pytest.raises(aiohttp.ClientError, match="CERTIFICATE_VERIFY_FAILED"):
            await exchange.post({"host": "there"}, b"{}")
    assert [] == stranger.requests


@pytest.mark.parametrize("url", ["ftp://there/", "there", "https:///path"])
async def test_a_place_that_cannot_be_connected_to_is_refused(url: str) -> None:
    """Before anything is sent, with what is missing."""
    with pytest.raises(ValueError, match="begins with http"):
        async with exchange_with(url, LIMITS):
            pass


@pytest.mark.parametrize(
    "test",
    [
        test_requests_follow_each_other_on_one_connection,
        partial(test_an_answer_is_understood_however_it_ends, HEAD + b"\r\n{}", True),
        partial(test_half_an_answer_is_none_and_spoils_nothing, HEAD + b"Content-Length: 9\r\n\r\n{}", True),
        partial(test_half_an_answer_is_none_and_spoils_nothing, HEAD + b"Content-Length: 9\r\n\r\n{}", False),
        test_a_cancelled_exchange_leaves_no_answer_for_the_next_one,
        test_nobody_there_is_a_fault_of_the_connection,
        partial(test_what_comes_with_an_answer_and_was_not_asked_for_is_nobodys, HEAD),
        test_what_comes_between_two_exchanges_closes_the_connection,
        test_no_more_connections_are_opened_than_are_allowed,
    ],
)
def test_it_is_the_same_on_uvloop(test: Callable[[], Coroutine[object, object, None]]) -> None:
    """The worker's loop, whose transports are not asyncio's."""
    uvloop.run(test())


def test_tls_is_the_same_on_uvloop(tmp_path: Path) -> None:
    """It is another implementation there."""
    uvloop.run(test_tls_is_spoken_with_whom_the_bundle_vouches_for_and_nobody_else(tmp_path))


def certified(path: Path) -> ssl.SSLContext:
    """Write a certificate for 127.0.0.1 into the file, and return the context of whom it names."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "there")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = path.with_suffix(".key")
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path, private)
    return context
