"""Every endpoint of a node in one table: the server registers its routes from it, the OpenAPI document shows it.

A new endpoint is a line here and a handler of the same `operation_id` in `server.py`; one without the other fails at
the start. A `code` that an endpoint can answer stands here too, and the tests hold the answers to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from pydantic import BaseModel

from orchestrator.http import parameters as p
from orchestrator.http.bodies import ApprovalBody, CallbackBody, ControlBody
from orchestrator.intake.formats import StartBody

Codes = Mapping[HTTPStatus, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON body. `model` is `None` where any JSON value will do.

    `may_be_input`: in its place may stand the input of the session type that takes invocations.
    """

    model: type[BaseModel] | None
    is_required: bool = True
    may_be_input: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint answers when all is well. `schema` names one of `openapi.SCHEMAS`; `None` for no body."""

    status: HTTPStatus
    description: str
    schema: str | None
    media_type: str = "application/json"
    has_location: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint. `codes` are its own problems; those that every endpoint has stand in `all_codes`."""

    operation_id: str
    method: str
    path: str
    summary: str
    answers: tuple[Answer, ...]
    parameters: tuple[p.Parameter, ...] = ()
    body: Body | None = None
    codes: Codes = field(default_factory=dict)
    is_open: bool = False

    def all_codes(self) -> Codes:
        """Return every status of a problem that this endpoint answers with, and the codes that come with it."""
        found: dict[HTTPStatus, tuple[str, ...]] = {**self.codes}
        for common in (_EVERYWHERE, {} if self.is_open else _BEHIND_A_KEY, {} if self.body is None else _WITH_A_BODY):
            for status, codes in common.items():
                found[status] = (*found.get(status, ()), *codes)
        return found


OPEN_CODES: Final = frozenset({HTTPStatus.SERVICE_UNAVAILABLE})
"""Statuses whose list of codes is not complete: 503 passes on whatever a dependency is refused by."""

_EVERYWHERE: Final[Codes] = {
    HTTPStatus.BAD_REQUEST: ("BAD_REQUEST", "BAD_BODY"),
    HTTPStatus.INTERNAL_SERVER_ERROR: ("INTERNAL",),
    HTTPStatus.SERVICE_UNAVAILABLE: ("TIMEOUT",),
}
_BEHIND_A_KEY: Final[Codes] = {HTTPStatus.UNAUTHORIZED: ("UNAUTHORIZED",)}
_WITH_A_BODY: Final[Codes] = {
    HTTPStatus.REQUEST_TIMEOUT: ("REQUEST_TIMEOUT",),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("BODY_TOO_LARGE",),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: ("UNSUPPORTED_MEDIA_TYPE",),
    HTTPStatus.UNPROCESSABLE_ENTITY: ("INVALID_JSON", "INVALID_MESSAGE", "PAYLOAD_TOO_LARGE"),
}
_UNKNOWN_SESSION: Final[Codes] = {HTTPStatus.NOT_FOUND: ("UNKNOWN_SESSION",)}
_TO_A_SESSION: Final[Codes] = {
    HTTPStatus.NOT_FOUND: ("UNKNOWN_SESSION",),
    HTTPStatus.CONFLICT: ("SESSION_ENDED", "MESSAGE_CONFLICT"),
}
_TO_A_CALLBACK: Final[Codes] = {
    HTTPStatus.CONFLICT: ("CALLBACK_ANSWERED", "SESSION_ENDED", "MESSAGE_CONFLICT"),
    HTTPStatus.GONE: ("CALLBACK_EXPIRED",),
}
_DELIVERED: Final = Answer(HTTPStatus.ACCEPTED, "The message is durable.", "Delivered")

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "ping",
        "GET",
        "/ping",
        "Tell Bedrock AgentCore Runtime whether the node works on something",
        answers=(Answer(HTTPStatus.OK, "The node answers.", "Ping"),),
        is_open=True,
    ),
    Route(
        "health",
        "GET",
        "/health",
        "Tell whether the node is well",
        answers=(
            Answer(HTTPStatus.OK, "It is.", "Health"),
            Answer(HTTPStatus.SERVICE_UNAVAILABLE, "It is not; `checks` names why.", "Unhealthy"),
        ),
        is_open=True,
    ),
    Route(
        "ready",
        "GET",
        "/ready",
        "Tell whether the node takes sessions",
        answers=(
            Answer(HTTPStatus.OK, "It does.", "Ready"),
            Answer(HTTPStatus.SERVICE_UNAVAILABLE, "It is starting or draining.", "Ready"),
        ),
        is_open=True,
    ),
    Route(
        "startSession",
        "POST",
        "/sessions",
        "Start a session, once",
        answers=(
            Answer(HTTPStatus.ACCEPTED, "The session is durable.", "Accepted", has_location=True),
            Answer(HTTPStatus.OK, "It was accepted before.", "Accepted", has_location=True),
        ),
        parameters=(p.START_KEY,),
        body=Body(StartBody),
        codes={
            HTTPStatus.CONFLICT: ("IDEMPOTENCY_CONFLICT",),
            HTTPStatus.UNPROCESSABLE_ENTITY: ("UNKNOWN_SESSION_TYPE", "INVALID_INPUT"),
            HTTPStatus.SERVICE_UNAVAILABLE: ("DRAINING",),
        },
    ),
    Route(
        "invoke",
        "POST",
        "/invocations",
        "Start a session as Bedrock AgentCore Runtime does",
        answers=(
            Answer(HTTPStatus.OK, "The session is durable.", "Accepted", has_location=True),
            Answer(HTTPStatus.OK, "With Accept: text/event-stream, until its end.", None, "text/event-stream"),
        ),
        parameters=(p.RUNTIME_SESSION_ID, p.START_KEY),
        body=Body(StartBody, may_be_input=True),
        codes={
            HTTPStatus.CONFLICT: ("IDEMPOTENCY_CONFLICT",),
            HTTPStatus.UNPROCESSABLE_ENTITY: ("UNKNOWN_SESSION_TYPE", "INVALID_INPUT"),
            HTTPStatus.SERVICE_UNAVAILABLE: ("DRAINING", "TOO_MANY_STREAMS"),
        },
    ),
    Route(
        "listSessions",
        "GET",
        "/sessions",
        "List sessions, the latest change first",
        answers=(Answer(HTTPStatus.OK, "One page; `cursor` asks for the next one.", "Sessions"),),
        parameters=(p.STATE, p.SESSION_TYPE, p.TENANT, p.CURSOR, p.LISTING_LIMIT),
        codes={HTTPStatus.UNPROCESSABLE_ENTITY: (p.INVALID_QUERY,)},
    ),
    Route(
        "listUsage",
        "GET",
        "/usage",
        "Show what the sessions of each tenant have spent in a month",
        answers=(Answer(HTTPStatus.OK, "Every tenant that spent anything, or the one that was asked for.", "Usages"),),
        parameters=(p.TENANT_SPENDING, p.MONTH),
        codes={HTTPStatus.UNPROCESSABLE_ENTITY: (p.INVALID_QUERY,)},
    ),
    Route(
        "getSession",
        "GET",
        "/sessions/{id}",
        "Show one session",
        answers=(Answer(HTTPStatus.OK, "The session as its journal says it is.", "Session"),),
        parameters=(p.SESSION_ID,),
        codes=_UNKNOWN_SESSION,
    ),
    Route(
        "explainSession",
        "GET",
        "/sessions/{id}/why",
        "Tell in words what a session waits for, since when and on which node",
        answers=(Answer(HTTPStatus.OK, "Why it does not go on, and what this node sees of it.", "Explanation"),),
        parameters=(p.SESSION_ID,),
        codes=_UNKNOWN_SESSION,
    ),
    Route(
        "listEvents",
        "GET",
        "/sessions/{id}/events",
        "Show a session's events: a page, or with Accept: text/event-stream all of them as they come",
        answers=(
            Answer(HTTPStatus.OK, "A page.", "Events"),
            Answer(HTTPStatus.OK, "A stream; it closes after the terminal event.", None, "text/event-stream"),
            Answer(HTTPStatus.NO_CONTENT, "A stream's client has seen the terminal event: nothing will follow.", None),
        ),
        parameters=(p.SESSION_ID, p.AFTER, p.EVENTS_LIMIT, p.LAST_EVENT_ID),
        codes={
            **_UNKNOWN_SESSION,
            HTTPStatus.UNPROCESSABLE_ENTITY: (p.INVALID_QUERY, "INVALID_MESSAGE"),
            HTTPStatus.SERVICE_UNAVAILABLE: ("DRAINING", "TOO_MANY_STREAMS"),
        },
    ),
    Route(
        "signalSession",
        "POST",
        "/sessions/{id}/signals/{name}",
        "Send a signal; the body is its data, and null where there is none",
        answers=(_DELIVERED,),
        parameters=(p.SESSION_ID, p.SIGNAL_NAME, p.MESSAGE_ID),
        body=Body(None, is_required=False),
        codes=_TO_A_SESSION,
    ),
    *(
        Route(
            f"{word}Session",
            "POST",
            f"/sessions/{{id}}/{word}",
            summary,
            answers=(_DELIVERED,),
            parameters=(p.SESSION_ID, p.MESSAGE_ID),
            body=Body(ControlBody, is_required=False),
            codes=_TO_A_SESSION,
        )
        for word, summary in (
            ("cancel", "Ask a session to end"),
            ("pause", "Let a session begin nothing new; what had begun goes on to its end"),
            ("resume", "Let a paused session go on"),
            ("kill", "End a session now, whatever its handler does: it is not asked, and nothing is undone"),
        )
    ),
    Route(
        "answerApproval",
        "POST",
        "/sessions/{id}/approvals/{name}",
        "Answer an approval in a person's name",
        answers=(Answer(HTTPStatus.OK, "The answer is durable.", "Approved"),),
        parameters=(p.SESSION_ID, p.APPROVAL_NAME),
        body=Body(ApprovalBody),
        codes={
            **_TO_A_CALLBACK,
            HTTPStatus.NOT_FOUND: ("UNKNOWN_SESSION", "UNKNOWN_CALLBACK"),
            HTTPStatus.FORBIDDEN: ("NOT_AN_APPROVER",),
        },
    ),
    Route(
        "answerCallback",
        "POST",
        "/callbacks/{callback_id}",
        "Answer a callback; its token is the key",
        answers=(Answer(HTTPStatus.OK, "The answer is durable.", "Answered"),),
        parameters=(p.CALLBACK_ID,),
        body=Body(CallbackBody),
        codes={
            **_TO_A_CALLBACK,
            HTTPStatus.NOT_FOUND: ("UNKNOWN_CALLBACK",),
            HTTPStatus.FORBIDDEN: ("WRONG_TOKEN", "NOT_AN_APPROVER"),
        },
        is_open=True,
    ),
    Route(
        "pushTask",
        "POST",
        "/callbacks/{callback_id}/a2a",
        "Take a remote agent's push notification (A2A); one that tells of a task's end answers the callback",
        answers=(Answer(HTTPStatus.OK, "What it tells is durable, or needs not be.", "Answered"),),
        parameters=(p.CALLBACK_ID, p.PUSH_TOKEN),
        body=Body(None, is_required=False),
        codes={
            **_TO_A_CALLBACK,
            HTTPStatus.NOT_FOUND: ("UNKNOWN_CALLBACK",),
            HTTPStatus.FORBIDDEN: ("WRONG_TOKEN", "NOT_AN_APPROVER"),
        },
        is_open=True,
    ),
    Route(
        "openapi",
        "GET",
        "/openapi.json",
        "Describe these endpoints for machines",
        answers=(Answer(HTTPStatus.OK, "An OpenAPI 3.1 document.", "AnyObject"),),
    ),
    Route(
        "docs",
        "GET",
        "/docs",
        "Describe these endpoints for people",
        answers=(Answer(HTTPStatus.OK, "A page without scripts.", None, "text/html"),),
    ),
)

BETWEEN_NODES: Final[tuple[Route, ...]] = (
    Route(
        "wakeNode",
        "POST",
        "/nodes/{node_id}/wake",
        "Have the node look at its wake-ups now",
        answers=(Answer(HTTPStatus.NO_CONTENT, "It does.", None),),
        parameters=(p.NODE_ID,),
        codes={HTTPStatus.NOT_FOUND: ("UNKNOWN_NODE",), HTTPStatus.FORBIDDEN: ("WRONG_SIGNATURE",)},
    ),
)
"""What nodes ask of each other, signed with a key from the table: in no document, for nobody else can."""
