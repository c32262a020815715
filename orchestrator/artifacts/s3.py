"""Artifacts in a bucket of S3: small ones in one request, large ones in parts, of which memory holds a few.

A key is written once. Where something stands there already, it is read back: it is ours (a repeat, or an answer that
was lost), or it is a conflict. With a payload key, an object is encrypted for its place after it was compressed; its
content encoding says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Final

from orchestrator.artifacts import (
    ArtifactAltered,
    ArtifactEncrypted,
    ArtifactMissing,
    ArtifactRef,
    ArtifactUnreadable,
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
from orchestrator.encryption import Altered
from orchestrator.encryption.cipher import PayloadCipher, encrypted_bytes_max

GZIP: Final = "gzip"
ENCRYPTED: Final = "x-encrypted"
ENCRYPTED_GZIP: Final = "x-encrypted-gzip"
"""Content encodings of what this service encrypted: nothing else can undo them."""
CIPHERTEXT_TYPE: Final = "application/octet-stream"


class S3Artifacts:
    """`Artifacts` of one bucket."""

    def __init__(self, bucket: Bucket, cipher: PayloadCipher | None = None) -> None:
        """Without `cipher` it can read no object that is encrypted."""
        self._bucket = bucket
        self._cipher = cipher

    async def put(self, key: str, data: Content, *, compressed: bool, content_type: str) -> ArtifactRef:
        """See `Artifacts.put`."""
        check_key(key)
        encoder = Encoder(compressed=compressed)
        parts, content_encoding = encode(data, encoder), GZIP if compressed else None
        if self._cipher is not None and self._cipher.is_encrypting:
            parts = self._cipher.encrypt_parts(self._place(key), parts)
            content_type, content_encoding = CIPHERTEXT_TYPE, ENCRYPTED_GZIP if compressed else ENCRYPTED
        async with aclosing(parts):
            is_new = await self._store(key, parts, content_type, content_encoding)
        ref = encoder.ref(self._bucket.name, key)
        if not is_new:
            await require_same(self, ref)
        return ref

    async def put_over(self, key: str, raw: bytes) -> ArtifactRef:
        """Store JSON under the key, in the place of what is there: for what no journal refers to."""
        ref = ArtifactRef(f"s3://{self._bucket.name}/{key}", len(raw), hashlib.sha256(raw).hexdigest())
        if self._cipher is None or not self._cipher.is_encrypting:
            await self._bucket.put(key, raw, content_type="application/json")
            return ref
        encrypted = b"".join([part async for part in self._cipher.encrypt_parts(self._place(key), _whole(raw))])
        await self._bucket.put(key, encrypted, content_type=CIPHERTEXT_TYPE, content_encoding=ENCRYPTED)
        return ref

    async def get(self, ref: ArtifactRef) -> bytes:
        """See `Artifacts.get`."""
        return await collect(self.stream(ref))

    async def stream(self, ref: ArtifactRef) -> AsyncIterator[bytes]:
        """See `Artifacts.stream`. Each part is a request of its own, so no connection waits for a slow reader."""
        check_bucket(ref, self._bucket.name)
        first = await self._part(ref, 0)
        is_encrypted = first.content_encoding in {ENCRYPTED, ENCRYPTED_GZIP}
        bytes_max = encoded_bytes_max(ref)
        if first.object_bytes > (encrypted_bytes_max(bytes_max) if is_encrypted else bytes_max):
            raise ArtifactAltered(f"{ref.artifact}: {first.object_bytes} bytes are more than {ref.bytes} can become")
        decoder = Decoder(ref, compressed=first.content_encoding in {GZIP, ENCRYPTED_GZIP})
        parts = self._parts(ref, first)
        if is_encrypted:
            parts = self._decrypted(ref, parts)
        # Who holds on to a part holds 8 MiB.
        del first
        async with aclosing(parts), aclosing(decode(parts, decoder)) as pieces:
            async for piece in pieces:
                yield piece

    async def presigned_url(self, ref: ArtifactRef, *, expires: timedelta) -> str:
        """See `Artifacts.presigned_url`. It ends with the credentials that signed it, where those end earlier."""
        check_bucket(ref, self._bucket.name)
        seconds = whole_seconds(expires)
        if self._cipher is not None and self._cipher.is_encrypting:
            first = await self._bucket.part(ref.key, 0, 1)
            if first is not None and first.content_encoding in {ENCRYPTED, ENCRYPTED_GZIP}:
                raise ArtifactEncrypted(f"{ref.artifact}: is encrypted; a URL would lead to its ciphertext")
        return await self._bucket.presigned_url(ref.key, seconds=seconds)

    async def _decrypted(self, ref: ArtifactRef, parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        if self._cipher is None:
            raise ArtifactUnreadable(f"{ref.artifact}: is encrypted, and this reader has no keys")
        opened = self._cipher.decrypt_parts(self._place(ref.key), parts)
        try:
            async with aclosing(parts), aclosing(opened):
                async for piece in opened:
                    yield piece
        except Altered as altered:
            raise ArtifactAltered(f"{ref.artifact}: {altered}") from None

    def _place(self, key: str) -> str:
        return f"s3://{self._bucket.name}/{key}"

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


async def _whole(raw: bytes) -> AsyncGenerator[bytes, None]:
    yield raw
