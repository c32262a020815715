"""POSTs over aiohttp's kept connections: its pool, its TLS and its parser, without the client that is built on them.

That client makes a task, timers and some dozens of objects of each request, for cookies, redirects, middlewares and
uploads that these calls have none of: three times the CPU of the exchange itself (ADR 0004).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

SUCCESSFUL_MIN: Final = 200
SWITCHING_PROTOCOLS: Final = 101


class Answer(NamedTuple):
    """Status, headers and the whole body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Exchange:
    """POSTs to one URL. `headers` are sent as given, with the body's length."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        assert http.connector is not None, "the session is closed"
        self._http = http
        self._url = url
        self._proxy = _proxy_for(url)
        self._connector = http.connector
        self._timeout = http.timeout
        # It only names the place to connect to: nothing of it is sent.
        self._place = aiohttp.ClientRequest("POST", URL(url), loop=asyncio.get_running_loop(), session=http)
        self._line = f"POST {self._place.url.raw_path_qs} HTTP/1.1\r\n"

    async def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return the answer, of whatever status. One attempt.

        Raises:
            aiohttp.ClientError, TimeoutError: no answer, or half of one.
        """
        if self._proxy is not None:
            return await self._post_by_proxy(headers, body)
        connection = await self._connector.connect(self._place, traces=[], timeout=self._timeout)
        try:
            answer = await self._exchanged(connection, self._head(headers, len(body)), body)
        except BaseException:
            # Half an exchange went over it, so nobody else may use it.
            connection.close()
            raise
        connection.release()
        return answer

    def _head(self, headers: Mapping[str, str], length: int) -> bytes:
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if lines.count("\n") + lines.count("\r") != 2 * len(headers):
            raise ValueError("a header holds a line break")
        return f"{self._line}{lines}content-length: {length}\r\n\r\n".encode()

    async def _exchanged(self, connection: Connection, head: bytes, body: bytes) -> Answer:
        protocol, transport = connection.protocol, connection.transport
        assert protocol is not None, "a connection just taken"
        assert transport is not None, "a connection just taken"
        protocol.set_response_params(read_until_eof=True, read_timeout=self._timeout.sock_read)
        transport.writelines((head, body))
        protocol.start_timeout()
        try:
            message, payload = await protocol.read()
            while message.code < SUCCESSFUL_MIN and message.code != SWITCHING_PROTOCOLS:
                message, payload = await protocol.read()
            return Answer(message.code, message.headers, await payload.read())
        except HttpProcessingError as error:
            raise aiohttp.ClientPayloadError(f"the answer is no HTTP: {error}") from error

    async def _post_by_proxy(self, headers: Mapping[str, str], body: bytes) -> Answer:
        async with self._http.post(self._url, data=body, headers=headers, proxy=self._proxy) as answer:
            return Answer(answer.status, answer.headers, await answer.read())


def _proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for this URL; `None` for none.

    Looked up once: left to aiohttp (`trust_env`), each request hops to a thread for it, a quarter of a busy node's CPU.
    """
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)
