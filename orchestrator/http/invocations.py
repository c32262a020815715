"""Bedrock AgentCore Runtime's way to start a session: an invocation → a session, and what its stream tells (ADR 0025).

What decides is the runtime session id and the body: the same two are one session, however often a client repeats them.
No header is kept: what a handler is to know stands in the body.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aiohttp import web

from orchestrator.app import Orchestrator
from orchestrator.artifacts import disclosed
from orchestrator.errors import Poison, SessionCancelled
from orchestrator.http import parameters as p
from orchestrator.http.bodies import any_body
from orchestrator.http.streams import FrameOf, frame
from orchestrator.intake import Start
from orchestrator.intake.formats import Reader, StartBody, validated
from orchestrator.router import Accepted, IdempotencyConflict, Router
from orchestrator.session import events as e
from orchestrator.session.values import Json, JsonObject, canonical_json, is_valid_session_id, payload_digest
from orchestrator.telemetry.context import TRACEPARENT, trace_parent

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
            IdempotencyConflict: its key, or the session id in its body, came with another body.
        """
        runtime_id, key = p.RUNTIME_SESSION_ID.read(request), p.START_KEY.read(request)
        body, turn_of = _under(runtime_id, key, self._body(await any_body(request)))
        accepted = await self._started(self._reader.start(body, trace_of(request)), turn_of)
        request_id = request.headers.get(REQUEST_ID, "")[:REQUEST_ID_LOGGED_MAX]
        known = {"runtime_session_id": runtime_id, "request_id": request_id, "is_new": accepted.is_new}
        self._log.info("invocation_accepted", session_id=accepted.session_id, **known)
        return accepted.session_id

    def _body(self, value: Json) -> StartBody:
        if isinstance(value, dict) and "session_type" in value:
            return validated(value)
        invoked = self._app.invoked_type
        if invoked is None:
            known = ", ".join(declared.name for declared in self._app.session_types) or "none"
            raise Poison(
                "UNKNOWN_SESSION_TYPE",
                "session_type: missing; say one, or declare which takes invocations "
                f"(`@app.session(…, invocations=True)`); known: {known}",
            )
        return StartBody(session_type=invoked.name, input=value)

    async def _started(self, start: Start, turn_of: str | None) -> Accepted:
        """Start it, under an id of its own where another body came first in the runtime session `turn_of`."""
        try:
            return await self._router.start(start)
        except IdempotencyConflict:
            if turn_of is None:
                raise
        turn = payload_digest(start.session_type, start.tenant, start.input)
        return await self._router.start(replace(start, session_id=_derived_id(turn_of, turn)))


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


def _under(runtime_id: str | None, key: str | None, body: StartBody) -> tuple[StartBody, str | None]:
    """Return the start that a body asks for, with its id, and the runtime session in which it may be a later turn.

    That is `None` where the caller says what makes the session: an id in the body, or a key.
    """
    key = body.idempotency_key if key is None else key
    if body.session_id is not None or runtime_id is None:
        return body.model_copy(update={"idempotency_key": key}), None
    if key is not None:
        return body.model_copy(update={"session_id": _derived_id(runtime_id, key)}), None
    first = runtime_id if is_valid_session_id(runtime_id) else _derived_id(runtime_id)
    return body.model_copy(update={"session_id": first}), runtime_id


def _derived_id(*parts: str) -> str:
    return f"invocation-{hashlib.sha256(canonical_json([*parts]).encode()).hexdigest()[:32]}"
