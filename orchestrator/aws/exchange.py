"""POSTs over kept connections to one place: asyncio's transports and TLS, httptools' parser, and nothing else.

A client for everybody makes a task, timers and some dozens of objects of each request, for cookies, redirects,
middlewares and uploads that these calls have none of: several times the CPU of the exchange itself (ADR 0013).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from orchestrator.aws.connection import Answer, Connection

KEEP_SECONDS: Final = 12.0
"""An idle connection is used again for as long: well before the other side closes it (DynamoDB: 20 s and more)."""
PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ExchangeLimits:
    """How many connections at once, and how long to wait for one and for each next byte, in seconds."""

    connections_max: int
    connect_seconds: float
    read_seconds: float


@asynccontextmanager
async def exchange_with(url: str, limits: ExchangeLimits, *, ca_bundle: str | None = None) -> AsyncIterator[Exchange]:
    """Yield an exchange with that URL; its connections are closed at the end.

    `ca_bundle` is the path of the certificates to trust, `None` for the machine's. Raises ValueError for a URL without
    a host, or of another scheme than `http` and `https`.
    """
    proxy = _proxy_for(url)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_seconds, sock_read=limits.read_seconds)
    tls = ssl.create_default_context(cafile=ca_bundle) if urlsplit(url).scheme == "https" else None
    async with aiohttp.ClientSession(timeout=timeout, skip_auto_headers=("User-Agent",)) as client:
        exchange = Exchange(url, limits, tls, None if proxy is None else _Proxied(client, url, proxy, tls))
        try:
            yield exchange
        finally:
            exchange.close()


class Exchange:
    """POSTs to one URL. `headers` are sent as given, with the body's length."""

    def __init__(
        self, url: str, limits: ExchangeLimits, tls: ssl.SSLContext | None, proxied: _Proxied | None = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname:
            raise ValueError(f"{url!r} is no URL to connect to; it begins with http:// or https:// and names a host")
        self._host, self._port = parts.hostname, parts.port or PORTS[parts.scheme]
        self._tls = tls
        self._limits = limits
        self._proxied = proxied
        self._line = f"POST {parts.path or '/'} HTTP/1.1\r\n"
        self._seats = asyncio.Semaphore(limits.connections_max)
        self._idle: list[tuple[float, Connection]] = []
        self._loop = asyncio.get_running_loop()

    async def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return the answer, of whatever status. One attempt.

        Raises:
            aiohttp.ClientError, TimeoutError: no answer, or half of one.
            ValueError: a header holds a line break.
        """
        if self._proxied is not None:
            return await self._proxied.post(headers, body)
        head = self._head(headers, len(body))
        async with self._seats:
            connection = self._kept() or await self._connected()
            answer = await connection.exchange((head, body))
            if connection.is_usable:
                self._idle.append((self._loop.time(), connection))
            return answer

    def close(self) -> None:
        """Close the connections that are not in use."""
        for _, connection in self._idle:
            connection.abort()
        self._idle.clear()

    def _head(self, headers: Mapping[str, str], length: int) -> bytes:
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if lines.count("\n") + lines.count("\r") != 2 * len(headers):
            raise ValueError("a header holds a line break")
        return f"{self._line}{lines}content-length: {length}\r\n\r\n".encode()

    def _kept(self) -> Connection | None:
        """Return the connection used last, if it may still be used; those used before it are older."""
        while self._idle:
            since, connection = self._idle.pop()
            if self._loop.time() - since > KEEP_SECONDS:
                connection.abort()
                self.close()
            elif connection.is_usable:
                return connection
        return None

    async def _connected(self) -> Connection:
        try:
            async with asyncio.timeout(self._limits.connect_seconds):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._limits.read_seconds), self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            raise aiohttp.ConnectionTimeoutError(f"{self._host}:{self._port} took no connection") from None
        except OSError as error:
            raise aiohttp.ClientConnectionError(f"{self._host}:{self._port}: {error}") from error
        return connection


@dataclass(frozen=True, slots=True)
class _Proxied:
    """The same POSTs through a proxy, by aiohttp's client: tunnels and proxy authentication are its business."""

    client: aiohttp.ClientSession
    url: str
    proxy: str
    tls: ssl.SSLContext | None

    async def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        sent = self.client.post(self.url, data=body, headers=headers, proxy=self.proxy, ssl=self.tls or True)
        async with sent as answer:
            lowered = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, lowered, await answer.read())


def _proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for this URL; `None` for none.

    Looked up once: left to aiohttp (`trust_env`), each request hops to a thread for it, a quarter of a busy node's CPU.
    """
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)
