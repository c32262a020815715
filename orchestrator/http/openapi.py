"""The table of routes → an OpenAPI 3.1 document, with the application's session types and what each is started with."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from itertools import groupby
from typing import Final, cast

from pydantic import BaseModel

from orchestrator.app import Orchestrator, SessionType
from orchestrator.http.parameters import APPROVAL_NAME, Parameter
from orchestrator.http.problems import PROBLEM_TYPE
from orchestrator.http.routes import OPEN_CODES, Answer, Body, Route
from orchestrator.intake.formats import StartBody
from orchestrator.payloads import InvalidPayload
from orchestrator.session.events import EVENT_TYPES
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import Json, JsonObject

_SCHEMAS_AT: Final = "#/components/schemas/"
_TEXT: Final[JsonObject] = {"type": "string"}
_NUMBER: Final[JsonObject] = {"type": "integer"}
_INSTANT: Final[JsonObject] = {"type": "string", "format": "date-time"}
_ID: Final[JsonObject] = {"type": "string", "pattern": r"^[A-Za-z0-9_.:\-]{1,128}$"}
_GIVEN_SESSION_ID: Final = r"^(?!\.+$)(?!.*:g[0-9]+$)[A-Za-z0-9_.:\-]{1,110}$"


def _object(**properties: Json) -> JsonObject:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _or_null(schema: JsonObject) -> JsonObject:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> JsonObject:
    return {"$ref": f"{_SCHEMAS_AT}{name}"}


_SUMMARY: Final[JsonObject] = {
    "session_id": _ID,
    "session_type": _TEXT,
    "tenant": _ID,
    "state": {"type": "string", "enum": [status.value for status in SessionStatus]},
    "created_at": _INSTANT,
    "updated_at": _INSTANT,
}
_ERROR: Final = _object(type=_TEXT, code=_TEXT, message=_TEXT)
_ACCEPTED: Final[JsonObject] = {"type": "string", "const": "ACCEPTED"}

_SPENT: Final[JsonObject] = {
    "input_tokens": _NUMBER,
    "output_tokens": _NUMBER,
    "total_tokens": _NUMBER,
    "cost": _NUMBER,
    "agent_calls": _NUMBER,
    "agent_seconds": _NUMBER,
}
_CAPS: Final = _object(
    tokens=_or_null(_NUMBER), cost=_or_null(_NUMBER), agent_calls=_or_null(_NUMBER), agent_seconds=_or_null(_NUMBER)
)

_EXPLAINED: Final[JsonObject] = {
    "session_id": _ID,
    "state": _TEXT,
    "node": _or_null(_TEXT),
    "sentences": {"type": "array", "items": _TEXT},
    "waits_for": {"type": "array", "items": _ref("Wait")},
}

SCHEMAS: Final[dict[str, JsonObject]] = {
    "AnyObject": {"type": "object"},
    "Ping": _object(status={"enum": ["Healthy", "HealthyBusy"]}, time_of_last_update=_NUMBER),
    "Health": _object(
        status={"enum": ["HEALTHY", "HEALTHY_BUSY"]},
        active_tasks=_NUMBER,
        sessions=_NUMBER,
        stuck=_NUMBER,
        node=_TEXT,
        draining={"type": "boolean"},
        since=_INSTANT,
    ),
    "Unhealthy": _object(
        status={"const": "UNHEALTHY"}, checks={"type": "object", "additionalProperties": {"type": "string"}}
    ),
    "Ready": {
        "type": "object",
        "properties": {"ready": {"type": "boolean"}, "reason": {"enum": ["starting", "draining"]}},
        "required": ["ready"],
    },
    "Accepted": _object(session_id=_ID, status=_ACCEPTED),
    "Delivered": _object(session_id=_ID, message_id=_TEXT, status=_ACCEPTED),
    "Approved": _object(session_id=_ID, name=APPROVAL_NAME.schema(), status=_ACCEPTED),
    "Answered": _object(callback_id=_ID, status=_ACCEPTED),
    "SessionSummary": _object(**_SUMMARY),
    "Sessions": _object(sessions={"type": "array", "items": _ref("SessionSummary")}, cursor=_or_null(_TEXT)),
    "Session": {
        "type": "object",
        "properties": {
            **_SUMMARY,
            "current_operations": {"type": "array", "items": _ref("Operation")},
            "result": {},
            "error": _or_null(_ref("Error")),
            "usage": _or_null({"type": "object", "properties": _SPENT}),
            "budget": _or_null(_ref("Budget")),
            "continued_as": _or_null(_ID),
            "undelivered": {"type": "array", "items": _ref("Undelivered")},
            "stop_requested": _or_null(_object(at=_INSTANT, cause=_TEXT, reason=_TEXT)),
            "epoch": _NUMBER,
            "owner": _or_null(_TEXT),
            "resumes": _NUMBER,
        },
        "required": list(_SUMMARY),
    },
    "Undelivered": _object(
        notification=_TEXT,
        attempts=_NUMBER,
        since=_or_null(_INSTANT),
        next_try_at=_or_null(_INSTANT),
        last_error=_or_null(_TEXT),
    ),
    "Budget": _object(
        on_reached={"enum": ["fail", "ask"]},
        caps={"type": "object", "additionalProperties": _object(limit=_NUMBER, used=_NUMBER, left=_NUMBER)},
        wall_time_until=_or_null(_INSTANT),
        grants=_NUMBER,
    ),
    "Usages": _object(usage={"type": "array", "items": _ref("Usage")}),
    "Usage": _object(tenant=_ID, month=_TEXT, **_SPENT, caps=_CAPS),
    "Operation": _object(
        operation=_TEXT,
        kind=_TEXT,
        phase=_TEXT,
        attempt=_NUMBER,
        since=_INSTANT,
        next_attempt_at=_or_null(_INSTANT),
        waits_for=_or_null({"type": "object"}),
        until=_or_null(_INSTANT),
    ),
    "Explanation": {
        "type": "object",
        "properties": {
            **_EXPLAINED,
            "under_way": _or_null(
                _object(
                    operations=_or_null({"type": "array", "items": _TEXT}),
                    signals={"type": "array", "items": _TEXT},
                    is_stuck={"type": "boolean"},
                )
            ),
        },
        "required": [*_EXPLAINED],
    },
    "Wait": _object(
        what=_TEXT,
        says=_TEXT,
        operation=_or_null(_TEXT),
        since=_INSTANT,
        until=_or_null(_INSTANT),
        node=_or_null(_TEXT),
        commands={"type": "array", "items": _TEXT},
        child=_or_null(_ref("Explanation")),
    ),
    "Error": _ERROR,
    "Event": _object(
        session_id=_ID,
        seq={"type": "integer", "minimum": 1},
        status={"type": "string", "enum": [*sorted(EVENT_TYPES)]},
        at=_INSTANT,
        operation=_or_null(_TEXT),
        epoch=_NUMBER,
        node=_TEXT,
        event_id=_TEXT,
        data={"type": "object"},
    ),
    "Events": {
        "type": "object",
        "properties": {
            "events": {"type": "array", "items": _ref("Event")},
            "next_after": _NUMBER,
            "error": _ref("Error"),
        },
        "required": ["events", "next_after"],
    },
    "Problem": _object(
        type={"type": "string", "format": "uri-reference"}, title=_TEXT, status=_NUMBER, code=_TEXT, detail=_TEXT
    ),
}
"""What the answers look like. Fields may be added; clients ignore what they do not know."""


def document(routes: Sequence[Route], app: Orchestrator, *, needs_key: bool) -> JsonObject:
    """Return the document. `needs_key` tells whether this node asks for one; the open endpoints never do."""
    schemas: JsonObject = {**SCHEMAS}
    paths: dict[str, Json] = {}
    for path, group in groupby(sorted(routes, key=lambda route: route.path), key=lambda route: route.path):
        paths[path] = {route.method.lower(): _operation(route, app, schemas, needs_key=needs_key) for route in group}
    schemes: JsonObject = {"key": {"type": "http", "scheme": "bearer", "description": "ORCHESTRATOR_API_KEYS"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Session Orchestrator",
            "version": version("session-orchestrator"),
            "description": "Sessions, their events, and what they can be told. Errors are problems (RFC 9457) whose "
            "`code` is stable; codes may be added.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas, **({"securitySchemes": schemes} if needs_key else {})},
    }


def _operation(route: Route, app: Orchestrator, schemas: JsonObject, *, needs_key: bool) -> JsonObject:
    operation: JsonObject = {"operationId": route.operation_id, "summary": route.summary}
    if route.parameters:
        operation["parameters"] = [_parameter(parameter) for parameter in route.parameters]
    if route.body is not None:
        operation["requestBody"] = {
            "required": route.body.is_required,
            "content": {"application/json": {"schema": _body_schema(route.body, app, schemas)}},
        }
    operation["responses"] = _responses(route, needs_key=needs_key)
    if needs_key:
        operation["security"] = [] if route.is_open else [{"key": []}]
    return operation


def _parameter(parameter: Parameter) -> JsonObject:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": parameter.schema(),
    }


def _responses(route: Route, *, needs_key: bool) -> JsonObject:
    responses: dict[str, JsonObject] = {}
    for answer in route.answers:
        _add(responses, str(answer.status.value), answer.description, answer)
        if answer.has_location:
            location: JsonObject = {"description": "Where the session is.", "schema": _TEXT, "required": True}
            responses[str(answer.status.value)]["headers"] = {"Location": location}
    for status, codes in sorted(route.all_codes().items()):
        if needs_key or codes != ("UNAUTHORIZED",):
            known: JsonObject = {"examples": list(codes)} if status in OPEN_CODES else {"enum": list(codes)}
            of_code: JsonObject = {"allOf": [_ref("Problem"), {"properties": {"code": known}}]}
            content = _add(responses, str(status.value), f"{status.phrase}: {', '.join(codes)}.", None)
            content[PROBLEM_TYPE] = {"schema": of_code}
    return cast("JsonObject", responses)


def _add(responses: dict[str, JsonObject], status: str, description: str, answer: Answer | None) -> JsonObject:
    """Add to the response of that status, which may have another body already; return its content."""
    response = responses.setdefault(status, {"description": ""})
    response["description"] = f"{response['description']} {description}".strip()
    content: Json = {}
    if answer is None or answer.schema is not None or answer.media_type != "application/json":
        content = response.setdefault("content", {})
    assert isinstance(content, dict)
    if answer is not None and answer.schema is not None:
        content[answer.media_type] = {"schema": _ref(answer.schema)}
    elif answer is not None and answer.media_type != "application/json":
        content[answer.media_type] = {"schema": _TEXT}
    return content


def _body_schema(body: Body, app: Orchestrator, schemas: JsonObject) -> JsonObject:
    if body.model is None:
        return {}
    if body.model is not StartBody or not app.session_types:
        schemas[body.model.__name__] = _model_schema(body.model)
        return _ref(body.model.__name__)
    for declared in app.session_types:
        schemas[f"Start.{declared.name}"] = _start_schema(declared, schemas)
    choices: list[Json] = [_ref(f"Start.{declared.name}") for declared in app.session_types]
    invoked = app.invoked_type
    if body.may_be_input and invoked is not None:
        names_none: JsonObject = {"not": {"type": "object", "required": ["session_type"]}}
        choices.append({"allOf": [_input_schema(invoked, schemas), names_none]})
    return {"oneOf": choices}


def _input_schema(declared: SessionType, schemas: JsonObject) -> JsonObject:
    schema = declared.input_type.schema(f"{_SCHEMAS_AT}Input.{declared.name}.{{model}}")
    for name, model in cast("dict[str, JsonObject]", schema.pop("$defs", {})).items():
        schemas[f"Input.{declared.name}.{name}"] = model
    return schema


def _start_schema(declared: SessionType, schemas: JsonObject) -> JsonObject:
    """Return the body that starts this session type: the fields of `StartBody`, with its name and its input."""
    schema = _model_schema(StartBody)
    properties = schema["properties"]
    assert isinstance(properties, dict)
    properties["session_type"] = {"const": declared.name}
    properties["input"] = _input_schema(declared, schemas)
    properties["session_id"] = _or_null({"type": "string", "pattern": _GIVEN_SESSION_ID})
    properties["tenant"] = _or_null(_ID)
    needs_input = [] if _fits_nothing_given(declared) else ["input"]
    return {**schema, "title": f"Start a session of type {declared.name}", "required": ["session_type", *needs_input]}


def _fits_nothing_given(declared: SessionType) -> bool:
    try:
        declared.input_type.load(None)
    except InvalidPayload:
        return False
    return True


def _model_schema(model: type[BaseModel]) -> JsonObject:
    return cast("JsonObject", model.model_json_schema())
