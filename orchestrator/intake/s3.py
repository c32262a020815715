"""S3 notifications (S3 User Guide, "Event message structure"), as they come from S3 itself and through EventBridge.

Both tell of the same write; `ObjectEvent` is what they have in common, and does not show which of them it came by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal
from urllib.parse import unquote_plus

from pydantic import AliasChoices, BaseModel, Field

from orchestrator.errors import Poison
from orchestrator.intake.parsing import NEVER_SUCCEEDS, checked
from orchestrator.objects import ObjectWrite
from orchestrator.session.values import Json
from orchestrator.triggers import Event, S3Object

OBJECT_KEY_BYTES_MAX: Final = 1_024
"""S3 User Guide, "Object key naming"."""
SOURCE: Final = "aws.s3"
_CREATED: Final = "ObjectCreated"
_REMOVED: Final = "ObjectRemoved"
_FAMILIES: Final = {"Object Created": _CREATED, "Object Deleted": _REMOVED}
"""Of EventBridge's detail types, those that S3's own notifications have under another name; the others say more."""
_REASONS: Final = {
    "PutObject": "Put",
    "POST Object": "Post",
    "CopyObject": "Copy",
    "CompleteMultipartUpload": "CompleteMultipartUpload",
    "DeleteObject": "Delete",
}
"""EventBridge's words for what S3's own notifications say behind the colon."""
_NO_VERSION: Final = frozenset({"", "null"})
"""What stands for the version of an object in a bucket that keeps none: it tells no write from the next."""


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """An object was written or removed."""

    object: S3Object

    @property
    def is_created(self) -> bool:
        """Whether the object was written."""
        return self.object.event_name.startswith(_CREATED)

    @property
    def is_removed(self) -> bool:
        """Whether the object, or its latest version, is gone."""
        return self.object.event_name.startswith(_REMOVED)

    @property
    def identity(self) -> str:
        """What tells this write from every other, however often and on whichever way S3 tells of it."""
        written = self.object
        return f"s3://{written.bucket}/{written.key}#{written.version_id or written.sequencer or written.etag}"

    @property
    def write(self) -> ObjectWrite | None:
        """Its place among the writes of its key; `None` where S3 gave it none."""
        written = self.object
        return None if not written.sequencer else ObjectWrite(written.bucket, written.key, written.sequencer)


def is_test(body: dict[str, Json]) -> bool:
    """Return whether it is what S3 sends when notifications are set up."""
    return body.get("Event") == "s3:TestEvent"


def records_of(body: dict[str, Json]) -> list[Json] | None:
    """Return the records of a notification; `None` for what is none."""
    records = body.get("Records")
    return records if isinstance(records, list) else None


def object_event(record: Json, path: str) -> ObjectEvent:
    """Return what a record of a notification tells. Raises `Poison` naming the field that is wrong, from `path` on."""
    read = checked(_Record, record, path)
    # Keys arrive form-encoded: a space is a plus (S3 User Guide, "Event message structure").
    key = _decoded(read.s3.object.key, f"{path}.s3.object.key")
    return _told(read.s3, key, read.event_name.removeprefix("s3:"), read.event_time, f"{path}.s3.object.key")


def object_event_in(event: Event) -> ObjectEvent | None:
    """Return what an event of EventBridge tells of an object; `None` where it tells of something else.

    Raises:
        Poison: it says that it is one, and is none; the text names the field.
    """
    family = _FAMILIES.get(event.detail_type)
    if event.source != SOURCE or family is None:
        return None
    detail = checked(_Detail, event.detail, "detail")
    reason = "" if detail.reason is None else f":{_REASONS.get(detail.reason, detail.reason)}"
    # Here, keys are not encoded.
    return _told(detail, detail.object.key, f"{family}{reason}", event.time, "detail.object.key")


class _Bucket(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=255)]


class _Object(BaseModel):
    """An object in either of the two shapes: the names differ."""

    key: str
    size: int | None = None
    etag: str | None = Field(default=None, validation_alias=AliasChoices("eTag", "etag"))
    version_id: str | None = Field(default=None, validation_alias=AliasChoices("versionId", "version-id"))
    sequencer: Annotated[str, Field(max_length=128)] | None = None


class _Detail(BaseModel):
    bucket: _Bucket
    object: _Object
    reason: str | None = None


class _Record(BaseModel):
    event_source: Literal["aws:s3"] = Field(alias="eventSource")
    event_name: str = Field(alias="eventName")
    event_time: str | None = Field(default=None, alias="eventTime")
    s3: _Detail


def _decoded(encoded: str, path: str) -> str:
    try:
        return unquote_plus(encoded, errors="strict")
    except UnicodeDecodeError:
        raise Poison(NEVER_SUCCEEDS, f"{path}: {encoded!r:.100} is not UTF-8 when it is decoded") from None


def _told(detail: _Detail, key: str, event_name: str, event_time: str | None, path: str) -> ObjectEvent:
    if not 1 <= len(key.encode()) <= OBJECT_KEY_BYTES_MAX:
        raise Poison(NEVER_SUCCEEDS, f"{path}: a key has 1 to {OBJECT_KEY_BYTES_MAX} bytes, not {len(key.encode())}")
    version_id = detail.object.version_id
    return ObjectEvent(
        S3Object(
            bucket=detail.bucket.name,
            key=key,
            version_id=None if version_id in _NO_VERSION else version_id,
            etag=detail.object.etag,
            sequencer=detail.object.sequencer or None,
            size=detail.object.size,
            event_name=event_name,
            event_time=event_time,
        )
    )
