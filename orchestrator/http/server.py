"""The HTTP server of a node: the handlers of the endpoints in `routes.py`, authentication, limits on a request."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from pydantic import SecretStr

from actors import Clock
from orchestrator.agents.a2a.tasks import State, pushed_state
from orchestrator.cluster import Heads
from orchestrator.deliveries import Control, Deliveries
from orchestrator.health import Health, HealthStatus, Report
from orchestrator.http import parameters as p
from orchestrator.http.bodies import (
    BODY_BYTES_MAX,
    LARGE_AT_ONCE_MAX,
    ApprovalBody,
    CallbackBody,
    ControlBody,
    answer_body,
    json_body,
    large_body,
    object_body,
)
from orchestrator.http.connections import listening
from orchestrator.http.invocations import Invocations, frames_for, trace_of
from orchestrator.http.openapi import document
from orchestrator.http.page import PAGE_HEADERS, page
from orchestrator.http.problems import ALSO_ERROR, Handler, Problem, draining, middleware, unserved
from orchestrator.http.routes import BETWEEN_NODES, ROUTES
from orchestrator.http.streams import EVENT_STREAM, STREAMS_MAX, EventSignal, EventStreams, Polling, StreamPorts
from orchestrator.inbox import UnknownSession
from orchestrator.intake.formats import Reader, validated
from orchestrator.intake.parsing import checked
from orchestrator.journal import Journal, UnreadableEvent
from orchestrator.pokes import Doorbell
from orchestrator.pokes.http import POKE_SCHEME
from orchestrator.reception import log_start
from orchestrator.router import Router
from orchestrator.session.values import Json, JsonObject, compact_json, format_instant, is_valid_id
from orchestrator.user_code import TimeLimit
from orchestrator.views import error_view, event_view, head_view, session_view
from orchestrator.why.explaining import explain
from orchestrator.why.facts import Gathering

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

HANDLER_SECONDS_MAX: Final = 30.0
"""Load balancers give up after 60 (ALB, "idle timeout"): ours is the answer that says why."""
AGENTCORE_STATUS: Final = {HealthStatus.HEALTHY: "Healthy", HealthStatus.HEALTHY_BUSY: "HealthyBusy"}
"""The exact words of the Bedrock AgentCore Runtime HTTP contract (`/ping`)."""
DEADLINE: Final = web.RequestKey("deadline", TimeLimit)
_NODES: Final = "/nodes/"
OPEN_PREFIXES: Final = tuple(route.path.partition("{")[0] for route in ROUTES if route.is_open)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """How much of anything this node serves at a time."""

    handler_seconds_max: float = HANDLER_SECONDS_MAX
    streams_max: int = STREAMS_MAX


@dataclass(frozen=True, slots=True)
class HttpPorts:
    """What the endpoints need. Without `news` streams poll."""

    node_id: str
    health: Health
    router: Router
    reader: Reader
    heads: Heads
    journal: Journal
    clock: Clock
    api_keys: Sequence[SecretStr]
    log: FilteringBoundLogger
    deliveries: Deliveries
    doorbell: Doorbell
    gathering: Gathering
    news: EventSignal | None = None
    limits: HttpLimits = field(default_factory=HttpLimits)


class Endpoints:
    """The handlers of all routes."""

    def __init__(self, ports: HttpPorts) -> None:
        self._ports = ports
        self._large_at_once = asyncio.Semaphore(LARGE_AT_ONCE_MAX)
        self.streams = EventStreams(
            StreamPorts(
                journal=ports.journal,
                clock=ports.clock,
                news=ports.news or Polling(ports.clock),
                is_ending=lambda: ports.health.is_draining,
                log=ports.log,
                streams_max=ports.limits.streams_max,
            )
        )
        app = ports.router.ports.app
        self._invocations = Invocations(app, ports.reader, ports.router, ports.log)
        self._document = document(ROUTES, app, needs_key=bool(ports.api_keys))

    def application(self) -> web.Application:
        """Return the application with its routes and middlewares."""
        app = web.Application(
            client_max_size=BODY_BYTES_MAX,
            middlewares=[middleware(self._ports.log), self._limit_time(), self._authenticate()],
        )
        handlers = self._handlers()
        routes = (*ROUTES, *BETWEEN_NODES)
        assert set(handlers) == {route.operation_id for route in routes}, "every route has a handler, and the reverse"
        for route in routes:
            # A GET answers HEAD as well: probes and caches ask with it.
            add = app.router.add_get if route.method == hdrs.METH_GET else app.router.add_post
            add(route.path, handlers[route.operation_id])
        app.on_shutdown.append(self._close_streams)
        return app

    def _handlers(self) -> Mapping[str, Handler]:
        return {
            "ping": self.ping,
            "health": self.health,
            "ready": self.ready,
            "startSession": self.start,
            "invoke": self.invoke,
            "listSessions": self.sessions,
            "listUsage": self.usage,
            "getSession": self.session,
            "explainSession": self.why,
            "listEvents": self.events,
            "signalSession": self.signal,
            "cancelSession": self._control(self._ports.deliveries.cancel),
            "pauseSession": self._control(self._ports.deliveries.pause),
            "resumeSession": self._control(self._ports.deliveries.resume),
            "killSession": self._control(self._ports.deliveries.kill),
            "answerApproval": self.approve,
            "answerCallback": self.callback,
            "pushTask": self.push,
            "openapi": self.openapi,
            "docs": self.docs,
            "wakeNode": self.wake,
        }

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
        self._check_open()
        body = await object_body(request)
        wanted = validated(body)
        key = p.START_KEY.read(request)
        if key is not None:
            # After the body was found good as it is: a key in the header must not hide a bad one in there.
            wanted = validated({**body, "idempotency_key": key})
        start = self._ports.reader.start(wanted, trace_of(request))
        accepted = await self._ports.router.start(start)
        log_start(self._ports.log, start, accepted)
        return _accepted(accepted.session_id, HTTPStatus.ACCEPTED if accepted.is_new else HTTPStatus.OK)

    async def invoke(self, request: web.Request) -> web.StreamResponse:
        """Accept an invocation of AgentCore Runtime's: 200 when it is durable, or a stream until its end."""
        request[ALSO_ERROR] = True
        self._check_open()
        is_stream = _wants_stream(request)
        if is_stream:
            self.streams.admit()
        session_id = await self._invocations.accept(request)
        if not is_stream:
            return _accepted(session_id, HTTPStatus.OK)
        request[DEADLINE].lift()
        return await self.streams.tell(request, session_id, *frames_for(session_id))

    async def sessions(self, request: web.Request) -> web.Response:
        """Answer a page of sessions, the latest change first; `cursor` asks for the next page."""
        cursor = p.CURSOR.read(request)
        query = self._ports.heads.listing(
            status=p.STATE.read(request),
            session_type=p.SESSION_TYPE.read(request),
            tenant=p.TENANT.read(request),
            cursor=cursor,
            limit=p.LISTING_LIMIT.or_default(request),
        )
        try:
            found = await query
        except ValueError:
            raise p.refused(p.CURSOR, str(cursor), "one that a listing returned") from None
        return _json({"sessions": [head_view(head) for head in found.heads], "cursor": found.cursor})

    async def usage(self, request: web.Request) -> web.Response:
        """Show what tenants have spent in a month."""
        budgets = self._ports.router.ports.performer.budgets
        rows = await budgets.report(tenant=p.TENANT_SPENDING.read(request), month=p.MONTH.read(request))
        return _json({"usage": [*rows]})

    async def session(self, request: web.Request) -> web.Response:
        """Answer one session."""
        return _json(await session_view(self._ports.heads, self._ports.journal, _asked_for(request)))

    async def why(self, request: web.Request) -> web.Response:
        """Answer in words what a session waits for; and what this node sees of it, where it has it."""
        facts = await self._ports.gathering.facts(_asked_for(request))
        return _json({**explain(facts).view, "under_way": None if facts.under_way is None else facts.under_way.view})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Answer a page of a session's events, from behind `after`, or a stream of them to who accepts one."""
        session_id = _asked_for(request)
        is_stream = request.method == hdrs.METH_GET and _wants_stream(request)
        after, limit = p.AFTER.or_default(request), p.EVENTS_LIMIT.or_default(request)
        p.LAST_EVENT_ID.read(request)
        if await self._ports.heads.get(session_id) is None:
            raise UnknownSession(session_id)
        if is_stream:
            request[DEADLINE].lift()
            return await self.streams.serve(request, session_id)
        return _json(await self._events_page(session_id, after=after, limit=limit))

    async def signal(self, request: web.Request) -> web.Response:
        """Deliver a signal: 202 when it is durable."""
        session_id, name = p.SESSION_ID.required(request), p.SIGNAL_NAME.required(request)
        message_id, data = p.MESSAGE_ID.read(request), await json_body(request)
        return _delivered(session_id, await self._ports.deliveries.signal(session_id, name, data, message_id))

    def _control(self, deliver: Control) -> Handler:
        """Return the handler of one thing that an operator tells a session: 202 when it is durable."""

        async def control(request: web.Request) -> web.Response:
            session_id, message_id = p.SESSION_ID.required(request), p.MESSAGE_ID.read(request)
            body = checked(ControlBody, await json_body(request, empty={}))
            return _delivered(session_id, await deliver(session_id, body.reason, message_id))

        return control

    async def approve(self, request: web.Request) -> web.Response:
        """Answer an approval: 200 when the answer is durable."""
        session_id, name = p.SESSION_ID.required(request), p.APPROVAL_NAME.required(request)
        body = checked(ApprovalBody, await object_body(request))
        await self._ports.deliveries.approve(session_id, name, body.approved, body.by, body.comment)
        return _json({"session_id": session_id, "name": name, "status": "ACCEPTED"})

    async def callback(self, request: web.Request) -> web.Response:
        """Answer a callback: 200 when the answer is durable."""
        callback_id = p.CALLBACK_ID.required(request)
        body = checked(CallbackBody, await answer_body(request, self._large_at_once))
        result, error = cast("Json", body.result), cast("Json", body.error)
        await self._ports.deliveries.callback(callback_id, body.token, body.status, result, error)
        return _json({"callback_id": callback_id, "status": "ACCEPTED"})

    async def push(self, request: web.Request) -> web.Response:
        """Answer a callback by the end of a remote agent's task; what the task came to, its run asks for itself."""
        callback_id, token = p.CALLBACK_ID.required(request), p.PUSH_TOKEN.read(request)
        state = pushed_state(await large_body(request, self._large_at_once))
        if state is not State.OPEN:
            await self._ports.deliveries.callback(callback_id, token or "", "SUCCESS", {"state": state.value}, None)
        return _json({"callback_id": callback_id, "status": "ACCEPTED"})

    async def openapi(self, _: web.Request) -> web.Response:
        """Answer the OpenAPI document."""
        return _json(self._document)

    async def docs(self, _: web.Request) -> web.Response:
        """Answer the document as a page."""
        return web.Response(text=page(self._document), content_type="text/html", headers=PAGE_HEADERS)

    async def wake(self, request: web.Request) -> web.Response:
        """Look at the wake-ups that other nodes left, as one of them asks: 204."""
        scheme, _, signed = _authorization(request)
        self._ports.doorbell.push(p.NODE_ID.required(request), signed if scheme == POKE_SCHEME else "")
        return web.Response(status=HTTPStatus.NO_CONTENT.value)

    async def _events_page(self, session_id: str, *, after: int, limit: int) -> JsonObject:
        found: list[Json] = []
        body: JsonObject = {"events": found, "next_after": after}
        try:
            async for recorded in self._ports.journal.read(session_id, after=after):
                found.append(event_view(session_id, recorded))
                body["next_after"] = recorded.seq
                if len(found) >= limit:
                    break
        except UnreadableEvent as error:
            body["error"] = error_view(error)
        return body

    def _check_open(self) -> None:
        if self._ports.health.is_draining or not self._ports.health.is_ready:
            raise draining()

    def _healthy(self, report: Report) -> JsonObject:
        return {
            "status": report.status.value,
            "active_tasks": report.active_tasks,
            "sessions": report.sessions,
            "stuck": report.stuck,
            "node": self._ports.node_id,
            "draining": report.is_draining,
            "since": format_instant(report.since),
        }

    async def _close_streams(self, _: web.Application) -> None:
        self.streams.close()

    def _limit_time(self) -> Middleware:
        clock, seconds = self._ports.clock, self._ports.limits.handler_seconds_max

        @web.middleware
        async def limited(request: web.Request, handler: Handler) -> web.StreamResponse:
            limit = request[DEADLINE] = TimeLimit(clock, seconds)
            try:
                async with limit:
                    return await handler(request)
            except TimeoutError as error:
                if not limit.has_expired(error):
                    raise
                # What was begun may be durable or not, as after a crash: the same key again tells.
                raise unserved("TIMEOUT", f"the node did not get this done within {seconds:g} s") from None

        return limited

    def _authenticate(self) -> Middleware:
        keys = [key.get_secret_value().encode() for key in self._ports.api_keys]

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            if keys and not _is_open(request.path) and not _is_poke(request):
                scheme, _, given = _authorization(request)
                # Every key is compared, in constant time: the answer's delay tells nothing of any of them.
                known = [hmac.compare_digest(key, given.strip().encode("utf-8", "surrogateescape")) for key in keys]
                if scheme.lower() != "bearer" or not any(known):
                    raise Problem(
                        HTTPStatus.UNAUTHORIZED,
                        "UNAUTHORIZED",
                        "Authorization: a known Bearer key is needed",
                        headers={"WWW-Authenticate": "Bearer"},
                    )
            return await handler(request)

        return check


@asynccontextmanager
async def serving(ports: HttpPorts, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve while the block runs; yields the address as `host:port` (the real port where 0 was asked for)."""
    async with listening(Endpoints(ports).application(), host=host, port=port) as address:
        yield address


def _is_open(path: str) -> bool:
    return any(path.startswith(open_) if open_.endswith("/") else path == open_ for open_ in OPEN_PREFIXES)


def _is_poke(request: web.Request) -> bool:
    """Return whether another node asks: its handler looks at the signature."""
    return request.path.startswith(_NODES) and _authorization(request)[0] == POKE_SCHEME


def _authorization(request: web.Request) -> tuple[str, str, str]:
    return request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")


def _asked_for(request: web.Request) -> str:
    """Return the session id of the path. What can be no id is no session either."""
    session_id = request.match_info[p.SESSION_ID.name]
    if not is_valid_id(session_id):
        raise UnknownSession(session_id)
    return session_id


def _wants_stream(request: web.Request) -> bool:
    return EVENT_STREAM in request.headers.get(hdrs.ACCEPT, "")


def _accepted(session_id: str, status: HTTPStatus) -> web.Response:
    body: JsonObject = {"session_id": session_id, "status": "ACCEPTED"}
    return _json(body, status, location=f"/sessions/{session_id}")


def _delivered(session_id: str, message_id: str) -> web.Response:
    return _json({"session_id": session_id, "message_id": message_id, "status": "ACCEPTED"}, HTTPStatus.ACCEPTED)


def _json(body: JsonObject, status: HTTPStatus = HTTPStatus.OK, *, location: str | None = None) -> web.Response:
    return web.Response(
        status=status.value,
        text=compact_json(body),
        content_type="application/json",
        headers=None if location is None else {"Location": location},
    )
