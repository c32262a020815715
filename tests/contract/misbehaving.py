"""A server that answers as it is told to, in turn: well, by an error, in half, without end, or not at all."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from orchestrator.session.values import Json

Behave = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Service:
    """A server that keeps what it was asked, and answers as it is told to, in turn."""

    answers: list[Behave] = field(default_factory=list)
    asked: list[web.Request] = field(default_factory=list)
    bodies: list[Json] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer the next request."""
        self.asked.append(request)
        self.bodies.append(await request.json() if request.can_read_body else None)
        return await self.answers.pop(0)(request)


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[str]:
    """Run the server while the block runs, and yield where it listens."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", service.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answering(body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> Behave:
    """Return a behaviour: that answer."""

    async def answer(_: web.Request) -> web.StreamResponse:
        given = {"Content-Type": "application/json", **(headers or {})}
        return web.Response(body=body, status=status, headers=given)

    return answer


async def cut_in_the_middle(request: web.Request) -> web.StreamResponse:
    """Promise a thousand bytes, send nine, and hang up."""
    response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"score":')
    assert request.transport is not None
    request.transport.abort()
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    """Send fifty megabytes, or as much of them as is taken."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    for _ in range(50):
        await response.write(b" " * 1024 * 1024)
    return response


async def hang_up(request: web.Request) -> web.StreamResponse:
    """Say nothing."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
