"""Artifacts in memory: the same protocol and the same refusals as the bucket's. Shipped for tests and simulations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import quote

from orchestrator.artifacts import (
    ArtifactMissing,
    ArtifactRef,
    Content,
    check_bucket,
    check_key,
    whole_seconds,
)
from orchestrator.artifacts.coding import Decoder, Encoder, collect, decode, encode, require_same


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a bucket holds it: `body` is compressed where `compressed` says so."""

    body: bytes
    compressed: bool
    content_type: str


class MemoryArtifacts:
    """`Artifacts` of one process. `objects` is what a bucket would hold, for tests to look at and to damage."""

    def __init__(self, bucket: str = "artifacts") -> None:
        self._bucket = bucket
        self.objects: dict[str, StoredObject] = {}

    async def put(self, key: str, data: Content, *, compressed: bool, content_type: str) -> ArtifactRef:
        """See `Artifacts.put`."""
        check_key(key)
        encoder = Encoder(compressed=compressed)
        body = b"".join([part async for part in encode(data, encoder)])
        ref = encoder.ref(self._bucket, key)
        if self.objects.setdefault(key, StoredObject(body, compressed, content_type)).body != body:
            await require_same(self, ref)
        return ref

    async def get(self, ref: ArtifactRef) -> bytes:
        """See `Artifacts.get`."""
        return await collect(self.stream(ref))

    async def stream(self, ref: ArtifactRef) -> AsyncIterator[bytes]:
        """See `Artifacts.stream`."""
        check_bucket(ref, self._bucket)
        held = self.objects.get(ref.key)
        if held is None:
            raise ArtifactMissing(f"{ref.artifact}: nothing is there")
        decoder = Decoder(ref, compressed=held.compressed)
        async with aclosing(decode(_whole(held.body), decoder)) as pieces:
            async for piece in pieces:
                yield piece

    async def presigned_url(self, ref: ArtifactRef, *, expires: timedelta) -> str:
        """See `Artifacts.presigned_url`; nothing serves this one."""
        check_bucket(ref, self._bucket)
        return f"memory://{self._bucket}/{quote(ref.key)}?expires={whole_seconds(expires)}"


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    yield body
