"""Artifacts in a bucket of S3: small ones in one request, large ones in parts, of which memory holds a few.

A key is written once. Where something stands there already, it is read back: it is ours (a repeat, or an answer that
was lost), or it is a conflict.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Final

from orchestrator.artifacts import (
    ArtifactAltered,
    ArtifactMissing,
    ArtifactRef,
    Content,
    check_bucket,
    check_key,
    whole_seconds,
)
from orchestrator.artifacts.coding import (
    PART_BYTES,
    Decoder,
    Encoder,
    collect,
    decode,
    encode,
    encoded_bytes_max,
    require_same,
)
from orchestrator.aws.bucket import Bucket, ObjectPart, ObjectReplaced

GZIP: Final = "gzip"


class S3Artifacts:
    """`Artifacts` of one bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def put(self, key: str, data: Content, *, compressed: bool, content_type: str) -> ArtifactRef:
        """See `Artifacts.put`."""
        check_key(key)
        encoder = Encoder(compressed=compressed)
        async with aclosing(encode(data, encoder)) as parts:
            is_new = await self._store(key, parts, content_type, GZIP if compressed else None)
        ref = encoder.ref(self._bucket.name, key)
        if not is_new:
            await require_same(self, ref)
        return ref

    async def get(self, ref: ArtifactRef) -> bytes:
        """See `Artifacts.get`."""
        return await collect(self.stream(ref))

    async def stream(self, ref: ArtifactRef) -> AsyncIterator[bytes]:
        """See `Artifacts.stream`. Each part is a request of its own, so no connection waits for a slow reader."""
        check_bucket(ref, self._bucket.name)
        first = await self._part(ref, 0)
        if first.object_bytes > encoded_bytes_max(ref):
            raise ArtifactAltered(f"{ref.artifact}: {first.object_bytes} bytes are more than {ref.bytes} can become")
        decoder = Decoder(ref, compressed=first.content_encoding == GZIP)
        parts = self._parts(ref, first)
        # Who holds on to a part holds 8 MiB.
        del first
        async with aclosing(parts), aclosing(decode(parts, decoder)) as pieces:
            async for piece in pieces:
                yield piece

    async def presigned_url(self, ref: ArtifactRef, *, expires: timedelta) -> str:
        """See `Artifacts.presigned_url`. It ends with the credentials that signed it, where those end earlier."""
        check_bucket(ref, self._bucket.name)
        return await self._bucket.presigned_url(ref.key, seconds=whole_seconds(expires))

    async def _store(
        self, key: str, parts: AsyncGenerator[bytes, None], content_type: str, content_encoding: str | None
    ) -> bool:
        """Return whether this made the object. An upload that fails or is cancelled leaves no parts behind."""
        part = await anext(parts)
        if len(part) < PART_BYTES:
            return await self._bucket.create(key, part, content_type=content_type, content_encoding=content_encoding)
        upload = await self._bucket.begin(key, content_type=content_type, content_encoding=content_encoding)
        is_new = False
        try:
            while part:
                await upload.add(part)
                part = await anext(parts, b"")
            is_new = await upload.finish()
        finally:
            if not is_new:
                await upload.abort()
        return is_new

    async def _parts(self, ref: ArtifactRef, first: ObjectPart) -> AsyncGenerator[bytes, None]:
        object_bytes, etag, read = first.object_bytes, first.etag, len(first.body)
        yield first.body
        del first
        while read < object_bytes:
            part = await self._part(ref, read, etag=etag)
            if not part.body:
                # The decoder knows what an early end means.
                return
            read += len(part.body)
            yield part.body

    async def _part(self, ref: ArtifactRef, start: int, *, etag: str | None = None) -> ObjectPart:
        try:
            part = await self._bucket.part(ref.key, start, PART_BYTES, etag=etag)
        except ObjectReplaced:
            raise ArtifactAltered(f"{ref.artifact}: was replaced while it was read") from None
        if part is None:
            raise ArtifactMissing(f"{ref.artifact}: nothing is there")
        return part
