"""The HTTP server of a node: routes, authentication, limits on what a request may be."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web
from aiohttp.typedefs import Middleware
from pydantic import SecretStr

from orchestrator.cluster import Heads
from orchestrator.errors import Unavailable
from orchestrator.health import Health, HealthStatus, Report
from orchestrator.http.problems import Handler, Problem, draining, middleware
from orchestrator.intake.formats import Reader, validated
from orchestrator.journal import Journal, UnreadableEvent
from orchestrator.payloads import parse_json
from orchestrator.router import Router
from orchestrator.session.values import Json, JsonObject, compact_json, format_instant, is_valid_id
from orchestrator.telemetry import TRACEPARENT, trace_parent
from orchestrator.views import UnknownSession, error_view, event_view, session_view

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

BODY_BYTES_MAX: Final = 1_048_576
"""As much as a message on the queue may hold (SQS, quotas)."""
BODY_SECONDS_MAX: Final = 10.0
EVENTS_PAGE_MAX: Final = 1_000
OPEN_PATHS: Final = frozenset({"/ping", "/health", "/ready"})
AGENTCORE_STATUS: Final = {HealthStatus.HEALTHY: "Healthy", HealthStatus.HEALTHY_BUSY: "HealthyBusy"}
"""The exact words of the Bedrock AgentCore Runtime HTTP contract (`/ping`)."""


@dataclass(frozen=True, slots=True)
class HttpPorts:
    """What the endpoints need."""

    node_id: str
    health: Health
    router: Router
    reader: Reader
    heads: Heads
    journal: Journal
    api_keys: Sequence[SecretStr]
    log: FilteringBoundLogger


class Endpoints:
    """The handlers of all routes."""

    def __init__(self, ports: HttpPorts) -> None:
        self._ports = ports

    def application(self) -> web.Application:
        """Return the application with its routes and middlewares."""
        app = web.Application(
            client_max_size=BODY_BYTES_MAX, middlewares=[middleware(self._ports.log), self._authenticate()]
        )
        app.router.add_get("/ping", self.ping)
        app.router.add_get("/health", self.health)
        app.router.add_get("/ready", self.ready)
        app.router.add_post("/sessions", self.start)
        app.router.add_get("/sessions/{id}", self.session)
        app.router.add_get("/sessions/{id}/events", self.events)
        return app

    async def ping(self, _: web.Request) -> web.Response:
        """Answer as AgentCore Runtime asks; the time moves only when the status does."""
        report = self._ports.health.report()
        body: JsonObject = {
            "status": AGENTCORE_STATUS[HealthStatus.HEALTHY_BUSY if report.active_tasks else HealthStatus.HEALTHY],
            "time_of_last_update": int(report.since.timestamp()),
        }
        return _json(body)

    async def health(self, _: web.Request) -> web.Response:
        """Answer 200 with HEALTHY or HEALTHY_BUSY, 503 with what is wrong."""
        report = self._ports.health.report()
        if report.status is HealthStatus.UNHEALTHY:
            return _json({"status": report.status.value, "checks": dict(report.checks)}, HTTPStatus.SERVICE_UNAVAILABLE)
        return _json(self._healthy(report))

    async def ready(self, _: web.Request) -> web.Response:
        """Answer 200 while the node takes sessions."""
        health = self._ports.health
        if health.is_draining or not health.is_ready:
            state = "draining" if health.is_draining else "starting"
            return _json({"ready": False, "reason": state}, HTTPStatus.SERVICE_UNAVAILABLE)
        return _json({"ready": True})

    async def start(self, request: web.Request) -> web.Response:
        """Accept a session: 202 when it is durable, 200 when it was before."""
        if self._ports.health.is_draining or not self._ports.health.is_ready:
            raise draining()
        body = await _object_body(request)
        key = request.headers.get("Idempotency-Key")
        if key is not None:
            body["idempotency_key"] = key
        trace = trace_parent(
            xray_header=request.headers.get("X-Amzn-Trace-Id"),
            attributes={TRACEPARENT: request.headers[TRACEPARENT]} if TRACEPARENT in request.headers else {},
        )
        accepted = await self._ports.router.start(self._ports.reader.start(validated(body), trace))
        return _json(
            {"session_id": accepted.session_id, "status": "ACCEPTED"},
            HTTPStatus.ACCEPTED if accepted.is_new else HTTPStatus.OK,
            location=f"/sessions/{accepted.session_id}",
        )

    async def session(self, request: web.Request) -> web.Response:
        """Answer one session."""
        return _json(await session_view(self._ports.heads, self._ports.journal, _session_id(request)))

    async def events(self, request: web.Request) -> web.Response:
        """Answer a page of a session's events, from behind `after`; `next_after` asks for the next page."""
        session_id = _session_id(request)
        after, limit = _number(request, "after", 0), _number(request, "limit", EVENTS_PAGE_MAX)
        if await self._ports.heads.get(session_id) is None:
            raise UnknownSession(session_id)
        page: list[Json] = []
        body: JsonObject = {"events": page, "next_after": after}
        try:
            async for recorded in self._ports.journal.read(session_id, after=after):
                page.append(event_view(recorded))
                body["next_after"] = recorded.seq
                if len(page) >= min(max(limit, 1), EVENTS_PAGE_MAX):
                    break
        except UnreadableEvent as error:
            body["error"] = error_view(error)
        return _json(body)

    def _healthy(self, report: Report) -> JsonObject:
        return {
            "status": report.status.value,
            "active_tasks": report.active_tasks,
            "sessions": report.sessions,
            "node": self._ports.node_id,
            "draining": report.is_draining,
            "since": format_instant(report.since),
        }

    def _authenticate(self) -> Middleware:
        keys = [key.get_secret_value().encode() for key in self._ports.api_keys]

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            if keys and request.path not in OPEN_PATHS and not request.path.startswith("/callbacks/"):
                scheme, _, given = request.headers.get("Authorization", "").partition(" ")
                # Every key is compared, in constant time: the answer's delay tells nothing of any of them.
                known = [hmac.compare_digest(key, given.strip().encode("utf-8", "surrogateescape")) for key in keys]
                if scheme.lower() != "bearer" or not any(known):
                    raise Problem(
                        HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", "Authorization: a known Bearer key is needed"
                    )
            return await handler(request)

        return check


@asynccontextmanager
async def serving(ports: HttpPorts, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve while the block runs; yields the address as `host:port` (the real port where 0 was asked for)."""
    runner = web.AppRunner(Endpoints(ports).application(), access_log=None, handle_signals=False, shutdown_timeout=5.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise Unavailable(f"ORCHESTRATOR_PORT: cannot listen on {host}:{port}: {error.strerror}") from None
        bound = runner.addresses[0]
        yield f"{bound[0]}:{bound[1]}"
    finally:
        await runner.cleanup()


async def _object_body(request: web.Request) -> dict[str, Json]:
    if request.content_type != "application/json":
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            f"Content-Type: {request.content_type!r:.100}; send application/json",
        )
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            raw = await request.read()
        value = parse_json(raw.decode())
    except TimeoutError:
        raise Problem(
            HTTPStatus.REQUEST_TIMEOUT, "REQUEST_TIMEOUT", f"the body did not arrive within {BODY_SECONDS_MAX:g} s"
        ) from None
    except web.RequestPayloadError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, "BAD_BODY", f"the body cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY, "INVALID_JSON", f"the body is not JSON: {str(error)[:300]}"
        ) from None
    if not isinstance(value, dict):
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "INVALID_MESSAGE", "the body is not a JSON object")
    return value


def _session_id(request: web.Request) -> str:
    session_id = request.match_info["id"]
    if not is_valid_id(session_id):
        raise UnknownSession(session_id)
    return session_id


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal() or len(text) > 9:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "INVALID_QUERY", f"{name}: {text!r:.50} is not a whole number")
    return int(text)


def _json(body: JsonObject, status: HTTPStatus = HTTPStatus.OK, *, location: str | None = None) -> web.Response:
    return web.Response(
        status=status.value,
        text=compact_json(body),
        content_type="application/json",
        headers=None if location is None else {"Location": location},
    )
