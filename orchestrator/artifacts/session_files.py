"""A session's own files: what a handler puts, each time under a key of its own, a repetition included."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from orchestrator.artifacts import ArtifactRef, Artifacts
from orchestrator.calls import Content
from orchestrator.session.values import Json


class SessionFiles:
    """The `SessionArtifacts` over a bucket. `new_id` returns a unique text of id characters."""

    def __init__(self, artifacts: Artifacts, new_id: Callable[[], str]) -> None:
        self._artifacts = artifacts
        self._new_id = new_id

    async def put(self, session_id: str, name: str, data: Content) -> Json:
        """See `SessionArtifacts.put`."""
        key = f"sessions/{session_id}/files/{self._new_id()}/{name}"
        content = data.encode() if isinstance(data, str) else data
        ref = await self._artifacts.put(key, content, compressed=False, content_type="application/octet-stream")
        return ref.to_json()

    async def get(self, reference: Json) -> bytes:
        """See `SessionArtifacts.get`."""
        return await self._artifacts.get(ArtifactRef.from_json(reference))

    async def presigned_url(self, reference: Json, *, expires: timedelta) -> str:
        """See `SessionArtifacts.presigned_url`."""
        return await self._artifacts.presigned_url(ArtifactRef.from_json(reference), expires=expires)
