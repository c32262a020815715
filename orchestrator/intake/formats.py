"""Bodies → messages: our own format, S3 notifications, and SNS around either. Bad input is `Poison`.

The parser of every outside format is here, and each error names the field and what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Final, Literal, TypeVar, cast
from urllib.parse import unquote_plus

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.app import Orchestrator, S3Object, S3Trigger
from orchestrator.calls import REASON_LENGTH_MAX
from orchestrator.errors import Poison
from orchestrator.intake import CallbackAnswer, Cancel, Envelope, Request, Signal, Start
from orchestrator.payloads import InvalidPayload, parse_json, size_of
from orchestrator.session.values import (
    ID_PATTERN,
    ID_SAYS,
    TENANT_DEFAULT,
    Json,
    derive_session_id,
    is_valid_session_id,
)
from orchestrator.telemetry import trace_parent

KEY_LENGTH_MAX: Final = 1_024
TASK_TOKEN_LENGTH_MAX: Final = 2_048
"""Step Functions, "Task token"."""
ENVELOPES_DEEP_MAX: Final = 3
"""One SNS topic may feed another; AWS nests no deeper by itself."""
NEVER_SUCCEEDS: Final = "INVALID_MESSAGE"

Key = Annotated[str, Field(min_length=1, max_length=KEY_LENGTH_MAX)]
Reason = Annotated[str, Field(max_length=REASON_LENGTH_MAX)]
# pydantic's own engine for these: there, `$` is the very end, and no newline may follow.
Id = Annotated[str, Field(pattern=f"^{ID_PATTERN.pattern}$")]
ModelT = TypeVar("ModelT", bound=BaseModel)


class StartBody(BaseModel):
    """The fields of a `start` message, as on the queue and over HTTP."""

    model_config = ConfigDict(strict=True, extra="ignore")

    kind: Literal["start"] = "start"
    session_type: Key
    # Parsed JSON already: checking each of its parts again would cost as much as all the rest.
    input: object = None
    idempotency_key: Key | None = None
    session_id: str | None = None
    tenant: str | None = None
    task_token: Annotated[str, Field(max_length=TASK_TOKEN_LENGTH_MAX)] | None = None


class SignalBody(BaseModel):
    """The fields of a `signal` message."""

    model_config = ConfigDict(strict=True, extra="ignore")

    session_id: Id
    name: Id
    data: object = None
    message_id: Id | None = None


class CancelBody(BaseModel):
    """The fields of a `cancel` message."""

    model_config = ConfigDict(strict=True, extra="ignore")

    session_id: Id
    reason: Reason | None = None
    message_id: Id | None = None


class CallbackBody(BaseModel):
    """The fields of a `callback` message."""

    model_config = ConfigDict(strict=True, extra="ignore")

    callback_id: Id
    token: Key
    status: Literal["SUCCESS", "FAILURE"]
    result: object = None
    error: object = None


class Reader:
    """Turns envelopes into requests, checked against what an application declares. `new_id` returns a unique text."""

    def __init__(self, app: Orchestrator, new_id: Callable[[], str]) -> None:
        """Read the application's triggers; raises `RegistrationError` when one of them is wrong."""
        self._app = app
        self._new_id = new_id
        self._triggers = app.s3_triggers()

    def read(self, envelope: Envelope) -> tuple[Request, ...]:
        """Return what the envelope asks for; `()` where there is nothing to do, as for S3's test event.

        Raises:
            Poison: it can never succeed; `reason` and text say why.
        """
        body = _object(envelope.body)
        trace = trace_parent(xray_header=envelope.xray_header, attributes=envelope.attributes)
        return tuple(self._requests(body, trace, envelope.message_id, ENVELOPES_DEEP_MAX))

    def start(self, body: StartBody, trace: str | None) -> Start:
        """Return the start that a body asks for: known type, valid input, its session id given, derived or random.

        Raises:
            Poison: `UNKNOWN_SESSION_TYPE`, `INVALID_INPUT` or `INVALID_MESSAGE`.
        """
        payload = cast("Json", body.input)
        declared = self._app.session_type(body.session_type)
        if declared is None:
            known = ", ".join(t.name for t in self._app.session_types) or "none"
            raise Poison(
                "UNKNOWN_SESSION_TYPE", f"session_type: {body.session_type!r:.100} is not declared; known: {known}"
            )
        tenant = TENANT_DEFAULT if body.tenant is None else body.tenant
        if ID_PATTERN.fullmatch(tenant) is None:
            raise Poison(NEVER_SUCCEEDS, f"tenant: {tenant!r:.150} is not {ID_SAYS}")
        try:
            declared.input_type.load(payload)
        except InvalidPayload as error:
            raise Poison("INVALID_INPUT", str(error)) from None
        return Start(
            session_type=declared.name,
            session_id=self._session_id(body, tenant),
            tenant=tenant,
            input=payload,
            trace=trace,
            task_token=body.task_token,
            input_bytes=size_of(payload),
        )

    def _session_id(self, body: StartBody, tenant: str) -> str:
        if body.session_id is not None:
            if not is_valid_session_id(body.session_id):
                raise Poison(
                    NEVER_SUCCEEDS,
                    f"session_id: {body.session_id!r:.150} is not one (1 to 110 of A-Z a-z 0-9 _.:-, no ':g<n>' last)",
                )
            return body.session_id
        if body.idempotency_key is not None:
            return derive_session_id(tenant, body.session_type, body.idempotency_key)
        return f"{body.session_type}-{self._new_id()}"

    def _requests(self, body: dict[str, Json], trace: str | None, message_id: str, depth: int) -> Iterator[Request]:
        if body.get("kind") is not None:
            yield self._native(body, trace, message_id)
        elif body.get("Type") == "Notification" and isinstance(body.get("Message"), str):
            if depth == 0:
                raise Poison(NEVER_SUCCEEDS, "Message: envelopes are nested too deep")
            yield from self._requests(_object(str(body["Message"])), trace, message_id, depth - 1)
        elif body.get("Event") == "s3:TestEvent":
            return
        elif isinstance(body.get("Records"), list):
            yield from self._s3_records(body["Records"], trace)
        else:
            raise Poison(
                NEVER_SUCCEEDS, "kind: missing; expected a message with a 'kind', an S3 event or an SNS notification"
            )

    def _native(self, body: dict[str, Json], trace: str | None, message_id: str) -> Request:
        match body["kind"]:
            case "start":
                return self.start(validated(body), trace)
            case "signal":
                signal = checked(SignalBody, body)
                return Signal(
                    signal.session_id, signal.name, cast("Json", signal.data), signal.message_id or message_id
                )
            case "cancel":
                cancel = checked(CancelBody, body)
                return Cancel(cancel.session_id, cancel.reason, cancel.message_id or message_id)
            case "callback":
                answer = checked(CallbackBody, body)
                return CallbackAnswer(
                    callback_id=answer.callback_id,
                    token=answer.token,
                    status=answer.status,
                    result=cast("Json", answer.result),
                    error=cast("Json", answer.error),
                )
            case kind:
                known = "'start', 'signal', 'cancel' or 'callback'"
                raise Poison("UNKNOWN_KIND", f"kind: {kind!r:.100} is not known; expected {known}")

    def _s3_records(self, records: Json, trace: str | None) -> Iterator[Request]:
        assert isinstance(records, list)
        for position, record in enumerate(records):
            created = _s3_object(record, f"Records.{position}")
            if not created.event_name.startswith("ObjectCreated"):
                continue
            matching = [trigger for trigger in self._triggers if trigger.matches(created)]
            if not matching:
                raise Poison("NO_TRIGGER", f"no trigger matches s3://{created.bucket}/{created.key:.200}")
            for trigger in matching:
                yield self._triggered(trigger, created, trace)

    def _triggered(self, trigger: S3Trigger, created: S3Object, trace: str | None) -> Start:
        # A version or a sequencer tells one write of a key from the next; S3 may tell of each more than once.
        key = f"s3://{created.bucket}/{created.key}#{created.version_id or created.sequencer or created.etag}"
        body = StartBody(session_type=trigger.session_type, input=created.model_dump(mode="json"))
        session_id = derive_session_id(TENANT_DEFAULT, trigger.session_type, key)
        return self.start(body.model_copy(update={"session_id": session_id}), trace)


def validated(body: dict[str, Json]) -> StartBody:
    """Return the body of a start message. Raises `Poison` naming the first field that is wrong."""
    return checked(StartBody, body)


def checked(model: type[ModelT], body: Json) -> ModelT:
    """Return the body as that model. Raises `Poison` naming the first field that is wrong."""
    try:
        return model.model_validate(body)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise Poison(NEVER_SUCCEEDS, f"{field}: {first['msg']}") from None


def _object(text: str) -> dict[str, Json]:
    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise Poison("INVALID_JSON", f"the body is not JSON: {str(error)[:300]}") from None
    if not isinstance(value, dict):
        raise Poison(NEVER_SUCCEEDS, f"the body is a JSON {type(value).__name__}, not an object")
    return value


class _Bucket(BaseModel):
    name: str


class _Object(BaseModel):
    key: str
    size: int | None = None
    e_tag: str | None = Field(default=None, alias="eTag")
    version_id: str | None = Field(default=None, alias="versionId")
    sequencer: str | None = None


class _S3(BaseModel):
    bucket: _Bucket
    object: _Object


class _Record(BaseModel):
    """One record of an S3 notification (S3 User Guide, "Event message structure")."""

    event_source: Literal["aws:s3"] = Field(alias="eventSource")
    event_name: str = Field(alias="eventName")
    event_time: str | None = Field(default=None, alias="eventTime")
    s3: _S3


def _s3_object(record: Json, path: str) -> S3Object:
    try:
        read = _Record.model_validate(record)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False)[0]
        field = ".".join([path, *(str(part) for part in first["loc"])])
        raise Poison(NEVER_SUCCEEDS, f"{field}: {first['msg']}") from None
    return S3Object(
        bucket=read.s3.bucket.name,
        # Keys arrive form-encoded: a space is a plus (S3 User Guide, "Event message structure").
        key=unquote_plus(read.s3.object.key),
        version_id=read.s3.object.version_id,
        etag=read.s3.object.e_tag,
        sequencer=read.s3.object.sequencer,
        size=read.s3.object.size,
        event_name=read.event_name.removeprefix("s3:"),
        event_time=read.event_time,
    )
