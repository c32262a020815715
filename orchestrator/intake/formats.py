"""Bodies → messages: our own format here, and which of the others a body is of. Bad input is `Poison`.

A format that is not ours has a module of its own (`s3`, `eventbridge`, `sns`), and each error names the field and what
would be right. To add one, add such a module and an arm in `Reader._requests`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.app import Orchestrator
from orchestrator.calls import REASON_LENGTH_MAX
from orchestrator.errors import Poison
from orchestrator.intake import CallbackAnswer, Cancel, Envelope, Request, Signal, Start, eventbridge, s3, sns
from orchestrator.intake.parsing import KEY_LENGTH_MAX, NEVER_SUCCEEDS, checked, json_object
from orchestrator.intake.triggering import Asked, Triggering
from orchestrator.payloads import InvalidPayload, size_of
from orchestrator.session.values import (
    ID_PATTERN,
    ID_SAYS,
    TENANT_DEFAULT,
    Json,
    derive_session_id,
    is_valid_session_id,
)
from orchestrator.telemetry.context import trace_parent

TASK_TOKEN_LENGTH_MAX: Final = 2_048
"""Step Functions, "Task token"."""

Key = Annotated[str, Field(min_length=1, max_length=KEY_LENGTH_MAX)]
Reason = Annotated[str, Field(max_length=REASON_LENGTH_MAX)]
# pydantic's own engine for these: there, `$` is the very end, and no newline may follow.
Id = Annotated[str, Field(pattern=f"^{ID_PATTERN.pattern}$")]


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
        self._triggering = Triggering(app.triggers(), self._asked)

    def read(self, envelope: Envelope) -> tuple[Request, ...]:
        """Return what the envelope asks for; `()` where there is nothing to do, as for S3's test event.

        Raises:
            Poison: it can never succeed; `reason` and text say why.
        """
        trace = trace_parent(xray_header=envelope.xray_header, attributes=envelope.attributes)
        body, where = sns.unwrapped(json_object(envelope.body))
        try:
            return tuple(self._requests(body, where, trace, envelope.message_id))
        except Poison as poison:
            raise sns.placed(poison, where) from None

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

    def _requests(self, body: dict[str, Json], where: str, trace: str | None, message_id: str) -> Iterator[Request]:
        if body.get("kind") is not None:
            yield self._native(body, trace, message_id)
        elif eventbridge.is_event(body):
            yield self._triggering.event(body, where, trace)
        elif s3.is_test(body):
            return
        elif (records := s3.records_of(body)) is not None:
            for position, record in enumerate(records):
                yield self._triggering.record(record, f"{where}Records.{position}", trace)
        else:
            raise Poison(
                NEVER_SUCCEEDS,
                "kind: missing; expected a message with a 'kind', an S3 notification, an event of EventBridge, or an "
                "SNS notification around one of these",
            )

    def _asked(self, asked: Asked) -> Start:
        """Return the start that a trigger asks for. Raises `Poison` as `start` does."""
        # Not as the body's key: that of an object may be longer than a sender's may.
        session_id = derive_session_id(asked.tenant, asked.session_type, asked.key)
        body = StartBody(session_type=asked.session_type, input=asked.input, tenant=asked.tenant, session_id=session_id)
        return self.start(body, asked.trace)

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


def validated(body: dict[str, Json]) -> StartBody:
    """Return the body of a start message. Raises `Poison` naming the first field that is wrong."""
    return checked(StartBody, body)
