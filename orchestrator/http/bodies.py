"""What a request may carry in its body: the models, and the way from bytes to a JSON value."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Final

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field

from orchestrator.deliveries import CallbackStatus
from orchestrator.errors import Poison
from orchestrator.http.problems import Problem
from orchestrator.intake.formats import Key, Reason
from orchestrator.intake.parsing import NEVER_SUCCEEDS
from orchestrator.payloads import parse_json
from orchestrator.session.values import PERSON_LENGTH_MAX, Json

JSON_TYPES: Final = frozenset({"application/json", "application/a2a+json"})
BODY_BYTES_MAX: Final = 1_048_576
"""As much as a message on the queue may hold (SQS, quotas)."""
ANSWER_BYTES_MAX: Final = 16 * 1_048_576
"""An answer to a callback may be large: what does not fit into the journal goes to the bucket."""
ANSWER_SECONDS_MAX: Final = 25.0
LARGE_AT_ONCE_MAX: Final = 4
"""Nobody needs a key to answer a callback, so what such bodies may hold of this node's memory has an end."""
IN_A_THREAD_FROM: Final = 262_144
"""Bytes from which parsing would hold up the loop for everybody else."""
BODY_SECONDS_MAX: Final = 10.0
UNSAID: Final = "application/octet-stream"
"""What a body without a type is (RFC 9110, 8.3)."""

Person = Annotated[str, Field(min_length=1, max_length=PERSON_LENGTH_MAX)]


class ControlBody(BaseModel):
    """Why a session should end, pause or go on."""

    model_config = ConfigDict(strict=True, extra="ignore")

    reason: Reason | None = None


class CallbackBody(BaseModel):
    """The answer to a callback: `result` with SUCCESS, `error` with FAILURE."""

    model_config = ConfigDict(strict=True, extra="ignore")

    token: Key
    status: CallbackStatus
    # Parsed JSON already.
    result: object = None
    error: object = None


class ApprovalBody(BaseModel):
    """A person's answer to an approval."""

    model_config = ConfigDict(strict=True, extra="ignore")

    approved: bool
    by: Person
    comment: Reason | None = None


async def json_body(request: web.Request, *, empty: Json = None, seconds_max: float = BODY_SECONDS_MAX) -> Json:
    """Return the JSON value of the body; `empty` for a body of no bytes, whatever type it claims to be.

    Raises:
        Problem: it is no JSON, of another type, too large, or does not come.
    """
    raw = await _bytes_of(request, seconds_max)
    if not raw:
        return empty
    _check_type(request)
    return await _parsed(raw)


async def any_body(request: web.Request) -> Json:
    """Return the JSON value of a body whose type need not be said. Raises `Problem` for anything else, and for none.

    A client of AgentCore's that gives no `contentType` sends none, or `application/octet-stream`. A page of another
    site could send a body of no type too, but not without its `Origin` (Fetch Standard, "Origin header").
    """
    if request.content_type != UNSAID or hdrs.ORIGIN in request.headers:
        _check_type(request)
    if not request.can_read_body:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "INVALID_JSON", "the body is empty")
    return await _parsed(await _bytes_of(request, BODY_SECONDS_MAX))


async def object_body(request: web.Request) -> dict[str, Json]:
    """Return the JSON object of the body. Raises `Problem` for anything else, and for an empty body."""
    _check_type(request)
    return _as_object(await json_body(request))


async def answer_body(request: web.Request, large_at_once: asyncio.Semaphore) -> dict[str, Json]:
    """Return the JSON object of an answer to a callback. Raises `Problem` for anything else, and for an empty body."""
    _check_type(request)
    return _as_object(await large_body(request, large_at_once))


async def large_body(request: web.Request, large_at_once: asyncio.Semaphore) -> Json:
    """Return the JSON value of a body that may be longer than others, if it says its length."""
    if (request.content_length or 0) <= BODY_BYTES_MAX:
        return await json_body(request)
    async with large_at_once:
        return await json_body(request.clone(client_max_size=ANSWER_BYTES_MAX), seconds_max=ANSWER_SECONDS_MAX)


async def _parsed(raw: bytes) -> Json:
    try:
        text = raw.decode()
        return await asyncio.to_thread(parse_json, text) if len(raw) > IN_A_THREAD_FROM else parse_json(text)
    except (ValueError, RecursionError) as error:
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY, "INVALID_JSON", f"the body is not JSON: {str(error)[:300]}"
        ) from None


def _as_object(value: Json) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise Poison(NEVER_SUCCEEDS, "the body is not a JSON object")
    return value


def _check_type(request: web.Request) -> None:
    if request.content_type not in JSON_TYPES:
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            f"Content-Type: {request.content_type!r:.100}; send application/json",
        )


async def _bytes_of(request: web.Request, seconds_max: float) -> bytes:
    length = request.content_length or 0
    if length > request.client_max_size:
        # Told at once: what it announces need not be sent first, nor waited for.
        raise web.HTTPRequestEntityTooLarge(max_size=request.client_max_size, actual_size=length)
    try:
        async with asyncio.timeout(seconds_max):
            return await request.read()
    except TimeoutError:
        raise Problem(
            HTTPStatus.REQUEST_TIMEOUT, "REQUEST_TIMEOUT", f"the body did not arrive within {seconds_max:g} s"
        ) from None
    except web.RequestPayloadError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, "BAD_BODY", f"the body cannot be read: {error}") from None
