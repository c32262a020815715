"""How a remote agent is spoken to over HTTP: bounded answers, and credentials for origins that are named alone."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Final

import httpx

from orchestrator.agents.payload import check_values
from orchestrator.remote import (
    ANSWER_BYTES_MAX,
    AgentAnswerTooLarge,
    AgentCutOff,
    AgentRefused,
    AgentThrottled,
    AgentUnreachable,
    AgentUnreadable,
    AgentUnwell,
    seconds_until,
)
from orchestrator.telemetry.context import trace_headers

REDIRECTS_MAX: Final = 3
CONNECT_SECONDS_MAX: Final = 10.0
ANSWER_SECONDS_MAX: Final = 30.0
"""How long any answer may keep us waiting, but for that of an agent that works before it answers."""
WORK_SECONDS_MAX: Final = 900.0


@asynccontextmanager
async def connection(
    headers: Mapping[str, str], origins: frozenset[str], tls: ssl.SSLContext, now: Callable[[], datetime]
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client that sends the headers to those origins alone, and reads no more of an answer than is bounded."""

    async def authorise(request: httpx.Request) -> None:
        # The card says where the agent is, and whoever wrote it must not have our credentials by that.
        if origin_of(request.url) in origins:
            request.headers.update(trace_headers())
            request.headers.update(headers)

    async def look(response: httpx.Response) -> None:
        _check(response, now())
        assert isinstance(response.stream, httpx.AsyncByteStream), "a sync stream in an async client"
        response.stream = BoundedStream(response.stream)
        # Read here, before the SDK parses it.
        check_values(await response.aread())

    # Packed, a few bytes would stand for gigabytes.
    plain = {"Accept-Encoding": "identity"}
    timeout = httpx.Timeout(ANSWER_SECONDS_MAX, connect=CONNECT_SECONDS_MAX)
    hooks: dict[str, list[Callable[..., object]]] = {"request": [authorise], "response": [look]}
    async with httpx.AsyncClient(
        headers=plain,
        timeout=timeout,
        verify=tls,
        event_hooks=hooks,
        # Many a server sends whoever asks for `/agent` on to `/agent/`.
        follow_redirects=True,
        max_redirects=REDIRECTS_MAX,
    ) as client:
        yield client


class BoundedStream(httpx.AsyncByteStream):
    """The body of an answer, up to a bound."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body's pieces. Raises `AgentAnswerTooLarge` in its middle."""
        left = ANSWER_BYTES_MAX
        async for piece in self._stream:
            left -= len(piece)
            if left < 0:
                raise AgentAnswerTooLarge(f"its answer has more than {ANSWER_BYTES_MAX} bytes: have it answer by links")
            yield piece

    async def aclose(self) -> None:
        """See `httpx.AsyncByteStream`."""
        await self._stream.aclose()


def origin_of(url: httpx.URL) -> str:
    """Return scheme, host and port, written in one way."""
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return f"{url.scheme}://{url.host}:{port}"


@contextmanager
def translated() -> Iterator[None]:
    """Let errors of the connection leave as those of `orchestrator.remote`; their own texts may quote addresses."""
    try:
        yield
    except httpx.HTTPError as error:
        raise fault_of(error) from None
    except httpx.InvalidURL:
        raise AgentRefused("its address is none") from None


def fault_of(error: httpx.HTTPError) -> Exception:
    """Return what an error of the connection, or of an answer by its status, means."""
    kind = type(error).__name__
    match error:
        case httpx.HTTPStatusError():
            return AgentRefused(f"it answered {error.response.status_code}")
        case httpx.RemoteProtocolError() | httpx.ReadError():
            return AgentCutOff(f"its answer ended in the middle: {kind}")
        case httpx.UnsupportedProtocol() | httpx.TooManyRedirects():
            return AgentRefused(f"its address leads nowhere: {kind}")
        case httpx.DecodingError():
            return AgentUnreadable(f"its answer cannot be unpacked: {kind}")
        case _:
            return AgentUnreachable(f"no answer: {kind}")


def _check(response: httpx.Response, now: datetime) -> None:
    """Raise for an answer that no protocol needs to look into."""
    status = response.status_code
    retry_after = seconds_until(response.headers.get("Retry-After"), now)
    if status == httpx.codes.TOO_MANY_REQUESTS or (status == httpx.codes.SERVICE_UNAVAILABLE and retry_after):
        raise AgentThrottled(f"it answered {status}", retry_after=retry_after)
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise AgentUnwell(f"it answered {status}")
    if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise AgentRefused(f"it answered {status}")
    if response.is_redirect and origin_of(response.url.join(response.headers["Location"])) != origin_of(response.url):
        raise AgentRefused(f"it answered {status}, and would send us elsewhere")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise AgentUnreadable("its answer is packed, which it was told not to do")
    length = response.headers.get("Content-Length", "")[:20]
    if length.isascii() and length.isdigit() and int(length) > ANSWER_BYTES_MAX:
        raise AgentAnswerTooLarge(f"its answer has {length} bytes, over {ANSWER_BYTES_MAX}: have it answer by links")
