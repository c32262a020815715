"""Bedrock AgentCore Runtime's way to start a session: an invocation → a session, and what its stream tells (ADR 0025).

What decides is the runtime session id and the body: the same two are one session, however often a client repeats them.
No header is kept: what a handler is to know stands in the body.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

from aiohttp import web

from orchestrator.app import Orchestrator
from orchestrator.artifacts import disclosed
from orchestrator.errors import Poison, SessionCancelled
from orchestrator.http import parameters as p
from orchestrator.http.bodies import InvocationBody, any_body
from orchestrator.http.streams import FrameOf, frame
from orchestrator.intake import Start
from orchestrator.intake.formats import Reader, StartBody, checked
from orchestrator.router import Accepted, IdempotencyConflict, Router
from orchestrator.session import events as e
from orchestrator.session.values import Json, JsonObject, canonical_json, is_valid_session_id, payload_digest
from orchestrator.telemetry import TRACEPARENT, trace_parent

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

REQUEST_ID: Final = "X-Amzn-Bedrock-AgentCore-Runtime-Request-Id"
REQUEST_ID_LOGGED_MAX: Final = 128
XRAY: Final = "X-Amzn-Trace-Id"


class Invocations:
    """Turns the invocations of a node into sessions."""

    def __init__(self, app: Orchestrator, reader: Reader, router: Router, log: FilteringBoundLogger) -> None:
        self._app = app
        self._reader = reader
        self._router = router
        self._log = log

    async def accept(self, request: web.Request) -> str:
        """Accept what the request invokes, and return its session id: the one of the invocation that it repeats.

        Raises:
            Poison, Problem: it asks for nothing that can be.
            IdempotencyConflict: its `Idempotency-Key` came with another body.
        """
        runtime_id, key = p.RUNTIME_SESSION_ID.read(request), p.START_KEY.read(request)
        body = self._body(await any_body(request))
        start = self._reader.start(_under(runtime_id, key, body), trace_of(request))
        accepted = await self._started(start, runtime_id, is_keyed=key is not None)
        request_id = request.headers.get(REQUEST_ID, "")[:REQUEST_ID_LOGGED_MAX]
        known = {"runtime_session_id": runtime_id, "request_id": request_id, "is_new": accepted.is_new}
        self._log.info("invocation_accepted", session_id=accepted.session_id, **known)
        return accepted.session_id

    def _body(self, value: Json) -> InvocationBody:
        if isinstance(value, dict) and "session_type" in value:
            return checked(InvocationBody, value)
        invoked = self._app.invoked_type
        if invoked is None:
            known = ", ".join(declared.name for declared in self._app.session_types) or "none"
            raise Poison(
                "UNKNOWN_SESSION_TYPE",
                "session_type: missing; say one, or declare which takes invocations "
                f"(`@app.session(…, invocations=True)`); known: {known}",
            )
        return InvocationBody(session_type=invoked.name, input=value)

    async def _started(self, start: Start, runtime_id: str | None, *, is_keyed: bool) -> Accepted:
        try:
            return await self._router.start(start)
        except IdempotencyConflict:
            if runtime_id is None or is_keyed:
                raise
        # Another body in the same runtime session is the next turn of a conversation, no mistake.
        turn = payload_digest(start.session_type, start.tenant, start.input)
        return await self._router.start(replace(start, session_id=_derived_id(runtime_id, turn)))


def trace_of(request: web.Request) -> str | None:
    """Return the caller's trace context; a `traceparent` goes before `X-Amzn-Trace-Id`."""
    given = {TRACEPARENT: request.headers[TRACEPARENT]} if TRACEPARENT in request.headers else {}
    return trace_parent(xray_header=request.headers.get(XRAY), attributes=given)


def frames_for(session_id: str) -> tuple[str, FrameOf]:
    """Return the first frame of an invocation's stream, and what makes the others of its session's events."""
    return frame("accepted", {"session_id": session_id, "status": "ACCEPTED"}), lambda it: _frame_of(session_id, it)


def _frame_of(session_id: str, recorded: e.Recorded) -> str:
    match recorded.event:
        case e.ProgressReported(message=message, percent=percent, data=data):
            told: JsonObject = {"status": "RUNNING", "message": message, "percent": percent, "data": disclosed(data)}
            return frame("progress", {"session_id": session_id, **told})
        case e.SessionCompleted(result=result):
            return frame("result", {"session_id": session_id, "status": "COMPLETED", "result": disclosed(result)})
        case e.SessionFailed(error=error):
            # The names under which AgentCore's own SDK streams an error.
            known: JsonObject = {"error": error.message, "error_type": error.type, "message": error.message}
            return frame("error", {"session_id": session_id, "status": "FAILED", "code": error.code, **known})
        case e.SessionCancelled(reason=reason):
            known = {"error": reason, "error_type": SessionCancelled.__name__, "message": reason}
            ended: JsonObject = {"status": "CANCELLED", "code": SessionCancelled.code}
            return frame("error", {"session_id": session_id, **ended, **known})
        case _:
            return ""


def _under(runtime_id: str | None, key: str | None, body: InvocationBody) -> StartBody:
    """Return the start that this body asks for, under the id that the headers give it."""
    start = StartBody(
        session_type=body.session_type,
        input=cast("Json", body.input),
        tenant=body.tenant,
        task_token=body.task_token,
        idempotency_key=key,
    )
    if runtime_id is None:
        return start
    if key is not None:
        return start.model_copy(update={"session_id": _derived_id(runtime_id, key)})
    first = runtime_id if is_valid_session_id(runtime_id) else _derived_id(runtime_id)
    return start.model_copy(update={"session_id": first})


def _derived_id(*parts: str) -> str:
    return f"invocation-{hashlib.sha256(canonical_json([*parts]).encode()).hexdigest()[:32]}"
