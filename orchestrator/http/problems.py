"""Errors on the wire: RFC 9457 `application/problem+json` with a stable `code`, for whatever goes wrong."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from orchestrator.errors import OrchestratorError, Poison
from orchestrator.router import IdempotencyConflict
from orchestrator.views import UnknownSession

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

RETRY_AFTER_SECONDS: Final = 5
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Problem(OrchestratorError):
    """A request that is answered with an error; `headers` go out with it."""

    code = "PROBLEM"

    def __init__(self, status: HTTPStatus, code: str, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.problem_code = code
        self.retry_after = retry_after


def draining() -> Problem:
    """Return the answer of a node that takes nothing new."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "DRAINING",
        "this node takes no new sessions; try again",
        retry_after=RETRY_AFTER_SECONDS,
    )


def middleware(log: FilteringBoundLogger) -> Middleware:
    """Return the middleware that turns every error into a problem."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Problem as problem:
            return _response(problem)
        except Poison as poison:
            return _response(Problem(HTTPStatus.UNPROCESSABLE_ENTITY, poison.reason, str(poison)))
        except UnknownSession as unknown:
            return _response(Problem(HTTPStatus.NOT_FOUND, unknown.code, str(unknown)))
        except IdempotencyConflict as conflict:
            return _response(Problem(HTTPStatus.CONFLICT, conflict.code, str(conflict)))
        except OrchestratorError as fault:
            # A refusal of AWS, an owner that changed in between: nothing of ours is broken, and a later try may do.
            log.warning("request_unserved", method=request.method, code=fault.code, error=str(fault)[:300])
            return _response(
                Problem(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    fault.code,
                    "the node cannot serve this now",
                    retry_after=RETRY_AFTER_SECONDS,
                )
            )
        except ConnectionResetError:
            # The client went away in the middle of its request: there is nobody to answer.
            raise
        except web.HTTPException as error:
            status = HTTPStatus(error.status)
            return _response(Problem(status, status.name, error.text or status.phrase))
        except Exception as error:
            # Supervision of one request: our bug must not show its insides, nor take the connection's others down.
            log.error("request_failed", method=request.method, path=request.path, exc_info=error)
            return _response(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL", "the node failed on this request"))

    return answer


def _response(problem: Problem) -> web.Response:
    body = {
        "type": "about:blank",
        "title": problem.status.phrase,
        "status": problem.status.value,
        "code": problem.problem_code,
        "detail": str(problem),
    }
    headers = {} if problem.retry_after is None else {"Retry-After": str(problem.retry_after)}
    return web.Response(
        status=problem.status.value,
        text=json.dumps(body),
        content_type="application/problem+json",
        headers=headers,
    )
