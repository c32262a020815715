"""Contents too large for the journal, in the bucket: written once under a key, read back only whole and unaltered.

`Artifacts` is the protocol; `s3` and `memory` keep them, and one contract suite holds both to it. `payloads` decides
which values of a journal live here. The JSON of an `ArtifactRef` is in journals: its three keys never change.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from orchestrator.errors import OrchestratorError
from orchestrator.session.values import Json, JsonObject

ARTIFACT_BYTES_MAX: Final = 100 * 1024 * 1024
"""The longest content, before compression."""
KEY_BYTES_MAX: Final = 1_024
"""The longest key of an object (S3, "Naming Amazon S3 objects")."""
EXPIRES_MIN: Final = timedelta(seconds=1)
EXPIRES_MAX: Final = timedelta(days=7)
"""A signature of version 4 is valid for a week at most (S3, "Sharing objects with presigned URLs")."""

Content: TypeAlias = bytes | AsyncIterable[bytes] | Path

_KEYS: Final = frozenset({"artifact", "bytes", "sha256"})
_INLINE: Final = "inline"
_ADDRESS: Final = re.compile(r"s3://([^/]+)/(.+)", re.DOTALL)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class ArtifactUnreadable(OrchestratorError):
    """What a reference names cannot be had as it was stored. A session that needs it waits until it can."""

    code = "ARTIFACT_UNREADABLE"


class ArtifactMissing(ArtifactUnreadable):
    """The bucket holds nothing under the reference's key."""

    code = "ARTIFACT_MISSING"


class ArtifactAltered(ArtifactUnreadable):
    """What the bucket holds is not what was stored: another length, another hash, half of it, or more of it."""

    code = "ARTIFACT_ALTERED"


class ArtifactTooLarge(OrchestratorError):
    """The content is longer than `ARTIFACT_BYTES_MAX`; nothing was stored."""

    code = "ARTIFACT_TOO_LARGE"


class ArtifactForeign(ArtifactUnreadable):
    """The reference leads to another bucket than ours, or nowhere."""

    code = "ARTIFACT_FOREIGN"


class ArtifactEncrypted(OrchestratorError):
    """A URL would hand out ciphertext: the object was encrypted by this service, and only it can open it."""

    code = "ARTIFACT_ENCRYPTED"


class ArtifactConflict(OrchestratorError):
    """Another content stands under that key. It is untouched, for a journal may refer to it."""

    code = "ARTIFACT_CONFLICT"


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """Where a content lives, and what it was: its length and SHA-256 (hex) before compression."""

    artifact: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if _ADDRESS.fullmatch(self.artifact) is None:
            raise ValueError(f"artifact: {self.artifact!r:.200} is not s3://bucket/key")
        if not 0 <= self.bytes <= ARTIFACT_BYTES_MAX:
            raise ValueError(f"bytes: {self.bytes} is not between 0 and {ARTIFACT_BYTES_MAX}")
        if _SHA256.fullmatch(self.sha256) is None:
            raise ValueError(f"sha256: {self.sha256!r:.100} is not 64 hexadecimal digits")

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.artifact.removeprefix("s3://").partition("/")[0]

    @property
    def key(self) -> str:
        """The object's key in its bucket."""
        return self.artifact.removeprefix("s3://").partition("/")[2]

    def to_json(self) -> JsonObject:
        """Return the object that stands in a journal in the content's place."""
        return {"artifact": self.artifact, "bytes": self.bytes, "sha256": self.sha256}

    @classmethod
    def from_json(cls, value: Json) -> ArtifactRef:
        """Return the reference that such an object is. Raises `ValueError` for anything else, naming the field."""
        if not is_reference(value) or not isinstance(value, dict):
            raise ValueError('a reference is {"artifact": "s3://…", "bytes": n, "sha256": "…"} and nothing more')
        artifact, length, sha256 = value["artifact"], value["bytes"], value["sha256"]
        assert isinstance(artifact, str)
        assert isinstance(length, int)
        assert isinstance(sha256, str)
        return cls(artifact, length, sha256)


class Artifacts(Protocol):
    """The contents kept in one bucket."""

    async def put(self, key: str, data: Content, *, compressed: bool, content_type: str) -> ArtifactRef:
        """Store the content under the key, encrypted at rest, and return its reference; durable when this returns.

        Safe to repeat: the same content under the same key is stored once. Memory stays bounded for what comes in
        pieces or from a file. A put that fails or is cancelled leaves nothing behind.

        Raises:
            ArtifactConflict: another content stands there.
            ArtifactTooLarge: the content is longer than `ARTIFACT_BYTES_MAX`.
            ValueError: the key cannot be one; names the argument.
        """
        ...

    async def get(self, ref: ArtifactRef) -> bytes:
        """Return the content, proven to be the one that the reference names.

        Raises:
            ArtifactMissing, ArtifactAltered, ArtifactForeign: see there.
        """
        ...

    def stream(self, ref: ArtifactRef) -> AsyncIterator[bytes]:
        """Yield the content in pieces of at most a mebibyte; raises as `get` does.

        Only its end proves it: a wrong hash raises after the last piece. So do nothing for good before the end.
        """
        ...

    async def presigned_url(self, ref: ArtifactRef, *, expires: timedelta) -> str:
        """Return a URL by which anybody can fetch the object for that long, from a second to seven days.

        What was stored compressed comes with `Content-Encoding: gzip`, which browsers undo. Whether there is such an
        object is not looked up.

        Raises:
            ArtifactForeign, ArtifactEncrypted: see there.
            ValueError: `expires` is out of bounds.
        """
        ...


def is_reference(value: Json) -> bool:
    """Return whether a value has the form of a reference: these three keys, and text, whole number, text."""
    return (
        isinstance(value, dict)
        and len(value) == len(_KEYS)
        and value.keys() == _KEYS
        and isinstance(value["artifact"], str)
        and isinstance(value["bytes"], int)
        and not isinstance(value["bytes"], bool)
        and isinstance(value["sha256"], str)
    )


def is_enclosed(value: Json) -> bool:
    """Return whether a value has the form of an enclosed one: `{"inline": …}` around what could be mistaken."""
    return isinstance(value, dict) and len(value) == 1 and _INLINE in value and _is_ambiguous(value[_INLINE])


def enclosed(value: Json) -> Json:
    """Return the value as a journal holds it: enclosed where it could be mistaken for a reference, or for enclosed."""
    return {_INLINE: value} if _is_ambiguous(value) else value


def disclosed(value: Json) -> Json:
    """Return the value that a journal holds, which is no reference; `enclosed` undone."""
    return value[_INLINE] if isinstance(value, dict) and is_enclosed(value) else value


def _is_ambiguous(value: Json) -> bool:
    return is_reference(value) or is_enclosed(value)


def check_key(key: str) -> None:
    """Return if an object can have that key. Raises `ValueError` if not."""
    if not 1 <= len(key.encode()) <= KEY_BYTES_MAX:
        raise ValueError(f"key: {len(key.encode())} bytes of UTF-8; from 1 to {KEY_BYTES_MAX} make a key")
    # Clients tidy such paths up, and then sign or ask for another object.
    if any(part in {"", ".", ".."} for part in key.split("/")):
        raise ValueError(f"key: {key!r:.200} holds an empty part, '.' or '..'")


def check_bucket(ref: ArtifactRef, bucket: str) -> None:
    """Return if the reference leads into that bucket. Raises `ArtifactForeign` if not."""
    if ref.bucket != bucket:
        raise ArtifactForeign(f"{ref.artifact:.300} is not in the bucket {bucket}")


def whole_seconds(expires: timedelta) -> int:
    """Return for how many seconds a URL is to be valid. Raises `ValueError` where no signature can last that long."""
    if not EXPIRES_MIN <= expires <= EXPIRES_MAX:
        raise ValueError(f"expires: {expires} is not between 1 second and 7 days")
    return int(expires.total_seconds())
