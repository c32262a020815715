"""Short ways to say what comes from outside, and what the reader makes of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator import Orchestrator
from orchestrator.intake import Envelope, Start, Triggered
from orchestrator.intake.formats import Reader
from orchestrator.session.values import Json

BUCKET: Final = "documents"


@dataclass(frozen=True)
class Made:
    """What became of one envelope: its starts, and what each refusal says."""

    starts: list[Start]
    refusals: list[tuple[str, str]]


def made(app: Orchestrator, body: Mapping[str, Any]) -> Made:
    """Return what the reader makes of a body that holds events."""
    starts, refusals = list[Start](), list[tuple[str, str]]()
    for request in Reader(app, lambda: "0").read(Envelope("m", json.dumps(body))):
        assert isinstance(request, Triggered), request
        starts += [*request.starts, *request.ordered]
        refusals += [(poison.reason, str(poison)) for poison in request.refusals]
    return Made(starts, refusals)


def record(key: str, *, bucket: str = BUCKET, name: str = "ObjectCreated:Put", **of_object: Json) -> dict[str, Any]:
    """Return a record of an S3 notification; `key` as it stands there, encoded."""
    return {
        "eventSource": "aws:s3",
        "eventName": name,
        "eventTime": "2026-01-01T12:00:00.000Z",
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "sequencer": "0055", **of_object}},
    }


def records(*them: dict[str, Any]) -> dict[str, Any]:
    """Return an S3 notification."""
    return {"Records": list(them)}


def event(
    detail: dict[str, Any] | None = None,
    *,
    source: str = "acme.shop",
    detail_type: str = "Order Placed",
    event_id: str = "e-1",
) -> dict[str, Any]:
    """Return an event of EventBridge."""
    return {
        "version": "0",
        "id": event_id,
        "detail-type": detail_type,
        "source": source,
        "account": "111122223333",
        "time": "2026-01-01T12:00:00Z",
        "region": "eu-central-1",
        "resources": [],
        "detail": detail or {},
    }


def s3_event(
    key: str,
    *,
    bucket: str = BUCKET,
    detail_type: str = "Object Created",
    reason: str = "PutObject",
    event_id: str = "e-1",
    **of_object: Json,
) -> dict[str, Any]:
    """Return what S3 tells EventBridge; `key` as it is."""
    told = {"bucket": {"name": bucket}, "object": {"key": key, "sequencer": "0055", **of_object}, "reason": reason}
    return event(told, source="aws.s3", detail_type=detail_type, event_id=event_id)


def in_sns(body: Mapping[str, Any] | str) -> dict[str, Any]:
    """Return an SNS envelope around the body."""
    text = body if isinstance(body, str) else json.dumps(body)
    return {"Type": "Notification", "MessageId": "1", "TopicArn": "arn", "Message": text}
