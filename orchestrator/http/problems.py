"""Errors on the wire: RFC 9457 `application/problem+json` with a stable `code`, for whatever goes wrong.

One table says which of our errors is which status; a new error of `Deliveries` needs a line there.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from orchestrator import deliveries
from orchestrator.errors import OrchestratorError, Poison
from orchestrator.inbox import MessageConflict, SessionEnded, UnknownSession
from orchestrator.pokes import UnknownNode, WrongSignature
from orchestrator.router import IdempotencyConflict

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

RETRY_AFTER_SECONDS: Final = 5
PROBLEM_TYPE: Final = "application/problem+json"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BEGUN: Final = web.RequestKey("begun", web.StreamResponse)
"""The answer of a request that has begun to go out: no problem can take its place."""

ALSO_ERROR: Final = web.RequestKey("also_error", bool)
"""Of a request of AgentCore Runtime's: its clients look for a text under `error`."""

STATUSES: Final[Mapping[type[OrchestratorError], HTTPStatus]] = {
    UnknownSession: HTTPStatus.NOT_FOUND,
    IdempotencyConflict: HTTPStatus.CONFLICT,
    MessageConflict: HTTPStatus.CONFLICT,
    SessionEnded: HTTPStatus.CONFLICT,
    deliveries.UnknownCallback: HTTPStatus.NOT_FOUND,
    deliveries.UnknownApproval: HTTPStatus.NOT_FOUND,
    deliveries.WrongToken: HTTPStatus.FORBIDDEN,
    deliveries.NotAnApprover: HTTPStatus.FORBIDDEN,
    deliveries.CallbackAnswered: HTTPStatus.CONFLICT,
    deliveries.CallbackExpired: HTTPStatus.GONE,
    UnknownNode: HTTPStatus.NOT_FOUND,
    WrongSignature: HTTPStatus.FORBIDDEN,
}

# Python renames some of its statuses from release to release; a code is stable.
CODES: Final[Mapping[int, str]] = {
    400: "BAD_REQUEST",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "BODY_TOO_LARGE",
    417: "EXPECTATION_FAILED",
}
_DETAILS: Final[Mapping[int, str]] = {
    404: "there is no such endpoint; GET /openapi.json lists them",
    405: "the endpoint does not know this method; see Allow",
    413: "the body is larger than this endpoint takes",
}


class Problem(OrchestratorError):
    """A request that is answered with an error; `headers` go out with it."""

    code = "PROBLEM"

    def __init__(self, status: HTTPStatus, code: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.problem_code = code
        self.headers = headers or {}


def unserved(code: str, detail: str) -> Problem:
    """Return the answer of a node that cannot serve this now: a later try, or another node, may."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, code, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def draining() -> Problem:
    """Return the answer of a node that takes nothing new."""
    return unserved("DRAINING", "this node takes nothing new; try again")


def middleware(log: FilteringBoundLogger) -> Middleware:
    """Return the middleware that turns every error into a problem."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except OrchestratorError as error:
            problem = _known(error) or _fault(error, request, log)
        except ConnectionResetError:
            # The client went away in the middle of its request: there is nobody to answer.
            raise
        except web.HTTPException as error:
            problem = of_http(error)
        except Exception as error:
            # Supervision of one request: our bug must not show its insides, nor take the connection's others down.
            log.error("request_failed", method=request.method, path=request.path, exc_info=error)
            problem = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL", "the node failed on this request")
        members = {"error": str(problem)} if ALSO_ERROR in request else {}
        return request[BEGUN] if BEGUN in request else response(problem, members)

    return answer


def response(problem: Problem, members: Mapping[str, str] | None = None) -> web.Response:
    """Return what goes out; `members` are added to those that every problem has (RFC 9457, 3.2)."""
    body = {
        "type": "about:blank",
        "title": problem.status.phrase,
        "status": problem.status.value,
        "code": problem.problem_code,
        "detail": str(problem),
        **(members or {}),
    }
    return web.Response(
        status=problem.status.value, text=json.dumps(body), content_type=PROBLEM_TYPE, headers=problem.headers
    )


def of_http(error: web.HTTPException) -> Problem:
    """Return the problem that aiohttp found with a request."""
    status = HTTPStatus(error.status)
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    detail = _DETAILS.get(status, error.text or status.phrase)
    return Problem(status, CODES.get(status, status.name), detail, headers=headers)


def _known(error: OrchestratorError) -> Problem | None:
    match error:
        case Problem():
            return error
        case Poison():
            return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, error.reason, str(error))
    status = STATUSES.get(type(error))
    return None if status is None else Problem(status, error.code, str(error))


def _fault(error: OrchestratorError, request: web.Request, log: FilteringBoundLogger) -> Problem:
    # A refusal of AWS, an owner that changed in between: nothing of ours is broken, and a later try may do.
    log.warning("request_unserved", method=request.method, code=error.code, error=str(error)[:300])
    return unserved(error.code, "the node cannot serve this now")
