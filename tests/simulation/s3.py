"""S3, as the product sees it: objects written once, read in parts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tests.simulation.dynamodb import refused


@dataclass(frozen=True, slots=True)
class _Object:
    body: bytes
    encoding: str


class _Body:
    """The body of an answer."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def read(self) -> bytes:
        return self._raw


class SimBucket:
    """One bucket. Large objects in parts are not simulated."""

    def __init__(self) -> None:
        self._objects: dict[str, _Object] = {}

    def keys(self) -> set[str]:
        """Return the keys of all objects."""
        return set(self._objects)

    def perform(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request. Raises `ClientError` for an error answer."""
        key = request["Key"]
        match operation:
            case "PutObject":
                if request.get("IfNoneMatch") == "*" and key in self._objects:
                    raise refused("PreconditionFailed", operation)
                self._objects[key] = _Object(request["Body"], request.get("ContentEncoding", ""))
                return {"ETag": "simulated"}
            case "GetObject":
                return self._get(key, request)
            case _:
                raise AssertionError(f"{operation} is not simulated")

    def _get(self, key: str, request: Mapping[str, Any]) -> dict[str, Any]:
        found = self._objects.get(key)
        if found is None:
            raise refused("NoSuchKey", "GetObject")
        first, last = map(int, request["Range"].removeprefix("bytes=").split("-"))
        if first >= len(found.body):
            raise refused("InvalidRange", "GetObject")
        part = found.body[first : last + 1]
        return {
            "Body": _Body(part),
            "ContentRange": f"bytes {first}-{first + len(part) - 1}/{len(found.body)}",
            "ContentEncoding": found.encoding,
            "ETag": hashlib.sha256(found.body).hexdigest()[:16],
        }
