"""Which values of a journal stand in it, and which live in the bucket with a reference in their place.

A reference found in a journal is always ours: a value that only looks like one is enclosed, so that nobody can make us
read an object by sending us its name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Final

from orchestrator.artifacts import (
    ARTIFACT_BYTES_MAX,
    ArtifactAltered,
    ArtifactConflict,
    ArtifactForeign,
    ArtifactRef,
    Artifacts,
    disclosed,
    enclosed,
    is_reference,
)
from orchestrator.artifacts.coding import aside
from orchestrator.payloads import PayloadTooLarge, parse_json
from orchestrator.session.values import Json, compact_json, is_valid_id

SUFFIX: Final = ".json.gz"
CONTENT_TYPE: Final = "application/json"
NAME_LENGTH_MAX: Final = 512
"""Characters of an escaped name; a longer one ends in its hash instead, and so fits into a key."""

_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9_.:-]")


def payload_key(session_id: str, name: str) -> str:
    """Return the key of a session's payload: `sessions/<session id>/<name>.json.gz`. Other names, other keys.

    `name` is a seq or an operation id. What a key cannot hold as it is, `/` and `#` among it, stands as `!` and its
    bytes in hex: `draft#2` becomes `draft!232`.
    """
    assert is_valid_id(session_id), f"{session_id!r:.200} is no session id"
    safe = _UNSAFE.sub(lambda unsafe: b"!%02x" % unsafe[0][0], name.encode()).decode()
    if len(safe) > NAME_LENGTH_MAX:
        safe = f"{safe[: NAME_LENGTH_MAX - 66]}!!{hashlib.sha256(name.encode()).hexdigest()}"
    return f"sessions/{session_id}/{safe}{SUFFIX}"


class PayloadStore:
    """Seals values before they are journaled, and opens what a journal holds."""

    def __init__(self, artifacts: Artifacts, *, inline_bytes_max: int) -> None:
        self._artifacts = artifacts
        self.inline_bytes_max = inline_bytes_max

    async def seal(self, key: str, value: Json) -> Json:
        """Return what the journal is to hold: the value, `enclosed` where it must be, or the reference to its artifact.

        `key` comes from `payload_key`. Safe to repeat. Where another value stands under the key (an earlier attempt's,
        or that of a node which lost the session meanwhile), this one goes beside it, under a key with its hash.

        Raises:
            ArtifactTooLarge: its JSON is longer than an artifact can be.
        """
        raw = compact_json(value).encode()
        if len(raw) <= self.inline_bytes_max:
            return enclosed(value)
        try:
            ref = await self._put(key, raw)
        except ArtifactConflict:
            digest = (await aside(hashlib.sha256, raw)).hexdigest()
            ref = await self._put(f"{key.removesuffix(SUFFIX)}!!{digest}{SUFFIX}", raw)
        return ref.to_json()

    async def seal_dump(self, session_id: str, name: str, dump: Callable[[int], Json]) -> Json:
        """Return what `dump(bytes_max)` returns, as `seal` does; most values fit: not measured twice, and in no key."""
        try:
            return enclosed(dump(self.inline_bytes_max))
        except PayloadTooLarge:
            return await self.seal(payload_key(session_id, name), dump(ARTIFACT_BYTES_MAX))

    async def open(self, value: Json) -> Json:
        """Return the value that a journal holds: read from the bucket where it is a reference, else as it is.

        Raises:
            ArtifactMissing, ArtifactAltered, ArtifactForeign: see there.
        """
        if not is_reference(value):
            return disclosed(value)
        try:
            ref = ArtifactRef.from_json(value)
        except ValueError as malformed:
            raise ArtifactForeign(f"a reference that is not ours: {malformed}") from None
        raw = await self._artifacts.get(ref)
        try:
            # Of 60 ms a megabyte 50 go into counting levels in Python, which lets others run meanwhile.
            return await aside(lambda whole: parse_json(whole.decode()), raw)
        except ValueError as unreadable:
            raise ArtifactAltered(f"{ref.artifact}: not the JSON of a payload: {unreadable}") from None

    async def _put(self, key: str, raw: bytes) -> ArtifactRef:
        return await self._artifacts.put(key, raw, compressed=True, content_type=CONTENT_TYPE)
