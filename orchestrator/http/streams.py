"""A session's events as they come, as server-sent events (WHATWG HTML, "Server-sent events").

A stream reads the journal, so any node can serve any session, and a client that is cut off goes on at another node from
its `Last-Event-ID`. It ends with the terminal event; a client that asks again after that is told 204, to stay away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from aiohttp import web

from actors import Clock
from orchestrator.errors import OrchestratorError
from orchestrator.http.connections import Connection
from orchestrator.http.parameters import AFTER, INVALID_QUERY, LAST_EVENT_ID
from orchestrator.http.problems import BEGUN, Problem, draining, unserved
from orchestrator.journal import Journal
from orchestrator.session.events import Event, Recorded, SessionContinued
from orchestrator.session.transitions import ENDED, SESSION_TRANSITIONS
from orchestrator.session.values import JsonObject, compact_json
from orchestrator.user_code import TimeLimit
from orchestrator.views import error_view, event_view

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

EVENT_STREAM: Final = "text/event-stream"
STREAMS_MAX: Final = 500
POLL_SECONDS_FIRST: Final = 0.2
POLL_SECONDS_MAX: Final = 2.0
POLL_GROWTH: Final = 1.5
KEEP_ALIVE_SECONDS: Final = 15.0
WRITE_SECONDS_MAX: Final = 30.0
"""A client that reads nothing for so long holds a place that others want; it may come back."""
RECONNECT_MILLISECONDS: Final = 1_000
_HEADERS: Final = {"Content-Type": EVENT_STREAM, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Proxies that buffer would hold an event back until there are many (nginx, "proxy_buffering")."""


FrameOf: TypeAlias = Callable[[Recorded], str]
"""What a stream writes for an event; an empty text for nothing."""


class EventSignal(Protocol):
    """Tells that a session may have new events: by polling, or because it lives on this node."""

    async def wait(self, session_id: str, timeout: float) -> None:
        """Return when there may be news, at the latest after `timeout` seconds. May return for no reason."""
        ...


class Polling:
    """An `EventSignal` that knows nothing and waits out every timeout."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def wait(self, session_id: str, timeout: float) -> None:
        """See `EventSignal.wait`."""
        await self._clock.sleep(timeout)


@dataclass(frozen=True, slots=True)
class StreamPorts:
    """What streams need. `is_ending` tells that this node serves no streams any more."""

    journal: Journal
    clock: Clock
    news: EventSignal
    is_ending: Callable[[], bool]
    log: FilteringBoundLogger
    streams_max: int = STREAMS_MAX


class EventStreams:
    """The streams of one node."""

    def __init__(self, ports: StreamPorts) -> None:
        self._ports = ports
        self._open: set[asyncio.Timeout] = set()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._open)

    def close(self) -> None:
        """End every stream now, and begin none any more."""
        self._is_closed = True
        for life in tuple(self._open):
            self._end(life)

    async def serve(self, request: web.Request, session_id: str) -> web.StreamResponse:
        """Answer with the session's events from behind `Last-Event-ID` or `after`, until its end.

        Raises:
            Problem: too many streams, a draining node, or a place to go on from that the journal does not have.
        """
        seen = LAST_EVENT_ID.read(request)
        after = seen if seen is not None else AFTER.or_default(request)
        return await self._held(request, lambda: self._told(request, session_id, after))

    async def tell(self, request: web.Request, session_id: str, opening: str, frame_of: FrameOf) -> web.StreamResponse:
        """Answer with `opening` and what `frame_of` makes of each event, through all generations until the end.

        Raises:
            Problem: too many streams, or a draining node.
        """
        return await self._held(request, lambda: self._retold(request, session_id, opening, frame_of))

    def admit(self) -> None:
        """Return if a stream may begin here. Raises `Problem` if not."""
        if self._is_ending():
            raise draining()
        if len(self._open) >= self._ports.streams_max:
            raise unserved("TOO_MANY_STREAMS", f"this node serves {self._ports.streams_max} streams; try another one")

    async def _held(
        self, request: web.Request, told: Callable[[], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.admit()
        # From here on the place is taken, whatever is waited for: it begins to live before it begins to speak.
        life = asyncio.timeout(None)
        try:
            async with life:
                self._open.add(life)
                assert isinstance(request.protocol, Connection), "served by `listening`"
                request.protocol.on_lost = lambda: self._end(life)
                return await told()
        except TimeoutError:
            if not life.expired():
                raise
            # The client is gone, or the server stops: what was written is all.
            return request.get(BEGUN) or web.Response(status=HTTPStatus.NO_CONTENT.value)
        finally:
            self._open.discard(life)
            if isinstance(request.protocol, Connection):
                request.protocol.on_lost = None

    async def _told(self, request: web.Request, session_id: str, after: int) -> web.StreamResponse:
        if after and is_terminal(await self._event(session_id, after)):
            return web.Response(status=HTTPStatus.NO_CONTENT.value)
        outlet = _Outlet(request, self._ports.clock)
        await outlet.open()
        try:
            await self._follow(outlet, session_id, after, lambda recorded: _frame_of(session_id, recorded))
        except OrchestratorError as error:
            # Another node may read what this one cannot: the client goes on there, from the last id it has.
            await self._broken(outlet, session_id, error)
        return outlet.response

    async def _retold(
        self, request: web.Request, session_id: str, opening: str, frame_of: FrameOf
    ) -> web.StreamResponse:
        outlet = _Outlet(request, self._ports.clock)
        await outlet.open()
        await outlet.write(opening)
        generation: str | None = session_id
        try:
            while generation is not None:
                last = await self._follow(outlet, generation, 0, frame_of)
                generation = last.continued_as if isinstance(last, SessionContinued) else None
        except OrchestratorError as error:
            await self._broken(outlet, session_id, error)
        return outlet.response

    async def _broken(self, outlet: _Outlet, session_id: str, error: OrchestratorError) -> None:
        self._ports.log.warning("stream_broken", session_id=session_id, code=error.code)
        await outlet.write(frame(error.code, error_view(error)))

    async def _event(self, session_id: str, seq: int) -> Recorded:
        """Return the event at which a client left off."""
        async for recorded in self._ports.journal.read(session_id, after=seq - 1):
            return recorded
        detail = f"after, Last-Event-ID: the journal has no event {seq} yet"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, INVALID_QUERY, detail)

    async def _follow(self, outlet: _Outlet, session_id: str, after: int, frame_of: FrameOf) -> Event | None:
        """Write a journal's events as they come; return its terminal one, `None` where this server ends first."""
        seen, pause = after, POLL_SECONDS_FIRST
        while not self._is_ending():
            before = seen
            async for recorded in self._ports.journal.read(session_id, after=seen):
                await outlet.write(frame_of(recorded))
                seen = recorded.seq
                if is_terminal(recorded):
                    return recorded.event
                if self._is_ending():
                    return None
            pause = POLL_SECONDS_FIRST if seen > before else min(pause * POLL_GROWTH, POLL_SECONDS_MAX)
            if outlet.silent_for() >= KEEP_ALIVE_SECONDS:
                await outlet.write(": still here\n\n")
            await self._ports.news.wait(session_id, min(pause, KEEP_ALIVE_SECONDS - outlet.silent_for()))
        return None

    def _is_ending(self) -> bool:
        return self._is_closed or self._ports.is_ending()

    def _end(self, life: asyncio.Timeout) -> None:
        if life in self._open:
            self._open.remove(life)
            life.reschedule(asyncio.get_running_loop().time())


class _Outlet:
    """The answer as it goes out to one client."""

    def __init__(self, request: web.Request, clock: Clock) -> None:
        self.response = web.StreamResponse(headers=_HEADERS)
        self._request = request
        self._clock = clock
        self._written_at = clock.monotonic()

    async def open(self) -> None:
        """Send the head; from here on nothing else can be answered."""
        await self.response.prepare(self._request)
        self._request[BEGUN] = self.response
        await self.write(f"retry: {RECONNECT_MILLISECONDS}\n\n")

    async def write(self, text: str) -> None:
        """Send this. Raises `ConnectionResetError` when the client is gone, or reads nothing any more."""
        if not text:
            return
        limit = TimeLimit(self._clock, WRITE_SECONDS_MAX)
        try:
            async with limit:
                await self.response.write(text.encode())
        except TimeoutError as error:
            if not limit.has_expired(error):
                raise
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError(f"the client read nothing for {WRITE_SECONDS_MAX:g} s") from None
        self._written_at = self._clock.monotonic()

    def silent_for(self) -> float:
        """Return for how many seconds nothing was sent."""
        return self._clock.monotonic() - self._written_at


def is_terminal(recorded: Recorded) -> bool:
    """Return whether nothing can follow this event."""
    return SESSION_TRANSITIONS.get(type(recorded.event)) in ENDED


def _frame_of(session_id: str, recorded: Recorded) -> str:
    view = event_view(session_id, recorded)
    return f"id: {recorded.seq}\n{frame(str(view['status']), view)}"


def frame(event: str, data: JsonObject) -> str:
    """Return one server-sent event."""
    # Compact JSON holds no line break, so one `data` line holds all of it.
    return f"event: {event}\ndata: {compact_json(data)}\n\n"
