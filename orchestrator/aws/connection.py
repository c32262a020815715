"""One kept HTTP/1.1 connection: a request goes out, and the parser (Node.js's, by httptools) calls as the answer comes.

A connection carries one exchange at a time. One that failed, was cut or heard more than it asked for is never used
again: an answer that comes late would be taken for the next one's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, cast

import aiohttp
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

SUCCESSFUL_MIN: Final = 200
BODILESS: Final = frozenset({204, 304})
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
"""Over the longest answer of the services spoken to (DynamoDB, "Service quotas": 16 MB)."""


class Answer(NamedTuple):
    """Status, headers (names in lower case) and the whole body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection(asyncio.Protocol):
    """A connection as asyncio and the parser tell of it. Its errors are those of aiohttp, as the SDK's own are."""

    def __init__(self, read_seconds: float) -> None:
        """`read_seconds` without a byte end an exchange."""
        self._loop = asyncio.get_running_loop()
        self._read_seconds = read_seconds
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._answered: asyncio.Future[Answer] | None = None
        self._heard_at = 0.0
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._bytes_left = ANSWER_BYTES_MAX
        self._ends_with_connection = False

    @property
    def is_usable(self) -> bool:
        """Whether another exchange may go over it."""
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: Sequence[bytes]) -> Answer:
        """Send the request's parts and return the answer.

        Raises:
            aiohttp.ClientError, TimeoutError: no answer, or half of one.
        """
        if self._transport is None or self._transport.is_closing():
            raise aiohttp.ServerDisconnectedError
        answered: asyncio.Future[Answer] = self._loop.create_future()
        self._answered = answered
        self._heard_at = self._loop.time()
        alarm = self._loop.call_later(self._read_seconds, self._ring, answered)
        self._transport.writelines(request)
        try:
            return await answered
        except BaseException:
            self.abort()
            raise
        finally:
            alarm.cancel()
            self._answered = None

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    def _ring(self, answered: asyncio.Future[Answer]) -> None:
        left = self._heard_at + self._read_seconds - self._loop.time()
        if answered.done():
            return
        if left > 0:
            self._loop.call_later(left, self._ring, answered)
        else:
            self._fail(aiohttp.ServerTimeoutError(f"no byte for {self._read_seconds} seconds"))

    def _fail(self, error: aiohttp.ClientError) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)
        self.abort()

    # --- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        # uvloop's streams are no subclass of it.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._heard_at = self._loop.time()
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            self._fail(aiohttp.ClientPayloadError(f"the answer has more than {ANSWER_BYTES_MAX} bytes"))
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._fail(aiohttp.ClientPayloadError(f"the answer is no HTTP: {error!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._transport = None
        if self._ends_with_connection and exc is None:
            self._complete()
        self._fail(aiohttp.ServerDisconnectedError(str(exc) if exc else None))

    # --- httptools.HTTPProtocol ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """See `httptools`."""
        if self._answered is None or self._answered.done():
            # It came with the end of the answer before; the next exchange would take it for its own.
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `httptools`."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """See `httptools`."""
        status, headers = self._parser.get_status_code(), self._headers
        has_end = "content-length" in headers or "transfer-encoding" in headers or status in BODILESS
        self._ends_with_connection = status >= SUCCESSFUL_MIN and not has_end

    def on_body(self, body: bytes) -> None:
        """See `httptools`."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """See `httptools`."""
        if self._parser.get_status_code() < SUCCESSFUL_MIN:
            # Only a hint that the answer will come.
            self._headers = {}
            return
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        self._complete()

    def _complete(self) -> None:
        answer = Answer(self._parser.get_status_code(), self._headers, b"".join(self._body))
        self._headers, self._body, self._bytes_left = {}, [], ANSWER_BYTES_MAX
        self._ends_with_connection = False
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(answer)
