"""One client's connection: what it sends that is no HTTP is answered with a problem, and its end can be waited for.

aiohttp's own protocol with two of its hooks overridden; everything else about a connection is aiohttp's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final, TypeAlias

from aiohttp import HttpVersion11, hdrs, web

from orchestrator.errors import Unavailable
from orchestrator.http.addresses import authority
from orchestrator.http.problems import CODES, Problem, response

SHUTDOWN_SECONDS_MAX: Final = 5.0
CONTINUE: Final = "100-continue"
IDLE_SECONDS_MAX: Final = 75.0
"""For the head of a request, the first one too. Longer than a load balancer keeps a connection that nobody uses (ALB:
60 s), so that it is never handed one that we are about to close."""

_Handler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Connection(web.RequestHandler):
    """A connection; `on_lost` is called when it is gone, whoever closed it."""

    __slots__ = ("on_lost",)

    def __init__(self, server: web.Server, *, loop: asyncio.AbstractEventLoop, idle_seconds_max: float) -> None:
        super().__init__(
            server,
            loop=loop,
            # `None` turns the access log off (aiohttp, "Logging"), which its annotation does not know.
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=idle_seconds_max,
        )
        self.on_lost: Callable[[], None] | None = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol`."""
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what no handler ever saw. The text quotes nothing: a line that cannot be read may hold a key."""
        super().handle_error(request, status, exc, message)
        kind = "unknown" if exc is None else type(exc).__name__
        known = HTTPStatus(status)
        problem = Problem(known, CODES.get(status, known.name), f"the request cannot be read: {kind}")
        answer = response(problem)
        answer.force_close()
        return answer


@asynccontextmanager
async def listening(
    application: web.Application, *, host: str, port: int, idle_seconds_max: float = IDLE_SECONDS_MAX
) -> AsyncIterator[str]:
    """Serve the application while the block runs; yields the address as `host:port`.

    Raises:
        Unavailable: the port is taken, or the host is none of ours.
    """
    runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS_MAX)
    await runner.setup()
    try:
        assert runner.server is not None, "set up in the line before"
        runner.server.request_handler = _refusing_wishes(runner.server.request_handler)
        listener = await _listener(runner.server, host, port, idle_seconds_max)
        try:
            bound = listener.sockets[0].getsockname()
            yield authority(bound[0], bound[1])
        finally:
            # First no new connections, then the ones that are there: the order in which aiohttp's own sites stop.
            listener.close()
    finally:
        await runner.cleanup()


async def _listener(server: web.Server, host: str, port: int, idle_seconds_max: float) -> asyncio.Server:
    loop = asyncio.get_running_loop()

    def connected() -> Connection:
        return Connection(server, loop=loop, idle_seconds_max=idle_seconds_max)

    try:
        return await loop.create_server(connected, host, port)
    except OSError as error:
        settings = "ORCHESTRATOR_HOST, ORCHESTRATOR_PORT"
        raise Unavailable(f"{settings}: cannot listen on {host}:{port}: {error.strerror}") from None


def _refusing_wishes(handler: _Handler) -> _Handler:
    """Return the handler of all requests, which refuses any wish but to be told to go on (RFC 9110, 10.1.1).

    aiohttp's own refusal is no problem, and quotes what may have no UTF-8; it meets what no route matches, too.
    """

    async def answered(request: web.BaseRequest) -> web.StreamResponse:
        wish = request.headers.get(hdrs.EXPECT)
        if not wish or wish.lower() == CONTINUE or request.version < HttpVersion11:
            return await handler(request)
        failed = HTTPStatus.EXPECTATION_FAILED
        return response(Problem(failed, CODES[failed], f"Expect: only {CONTINUE} is known"))

    return answered
