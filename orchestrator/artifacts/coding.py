"""Content ↔ the bytes of an object, piece by piece: hashed and compressed on the way in, checked on the way out.

No step holds the event loop for long: a piece is at most a mebibyte, and a large one is worked on in a thread (hashlib
and zlib let go of the interpreter's lock).
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Final, TypeVar

from orchestrator.artifacts import (
    ARTIFACT_BYTES_MAX,
    ArtifactAltered,
    ArtifactConflict,
    ArtifactRef,
    Artifacts,
    ArtifactTooLarge,
    Content,
)

B = TypeVar("B", bytes, bytes | memoryview)
T = TypeVar("T")

PIECE_BYTES: Final = 1024 * 1024
INLINE_BYTES: Final = 32 * 1024
"""A smaller piece is done sooner than a thread would take it up."""
PART_BYTES: Final = 8 * 1024 * 1024
"""What goes to the bucket in one request, and comes from it; parts are at least 5 MiB (S3, multipart limits)."""
GZIP_WINDOW: Final = zlib.MAX_WBITS | 16
LEVEL: Final = 6


class Encoder:
    """Content in, an object's bytes out. The same content gives the same bytes: the header holds no time."""

    def __init__(self, *, compressed: bool) -> None:
        self._hash = hashlib.sha256()
        self._deflater = zlib.compressobj(LEVEL, wbits=GZIP_WINDOW) if compressed else None
        self._length = 0

    def feed(self, piece: bytes | memoryview) -> bytes | memoryview:
        """Return the next bytes of the object. Raises `ArtifactTooLarge` as soon as the content is."""
        self._length += len(piece)
        if self._length > ARTIFACT_BYTES_MAX:
            raise _too_large(self._length)
        self._hash.update(piece)
        return piece if self._deflater is None else self._deflater.compress(piece)

    def finish(self) -> bytes:
        """Return the last bytes of the object."""
        return b"" if self._deflater is None else self._deflater.flush()

    def ref(self, bucket: str, key: str) -> ArtifactRef:
        """Return the reference to what was fed, as stored there."""
        return ArtifactRef(f"s3://{bucket}/{key}", self._length, self._hash.hexdigest())


class Decoder:
    """An object's bytes in, content out, never more of it than the reference says."""

    def __init__(self, ref: ArtifactRef, *, compressed: bool) -> None:
        self._ref = ref
        self._hash = hashlib.sha256()
        self._inflater = zlib.decompressobj(GZIP_WINDOW) if compressed else None
        self._left = ref.bytes
        self.is_pending = False
        """Whether more content may come of what was fed: ask for it by feeding what is `kept`."""

    @property
    def kept(self) -> bytes:
        """What was fed and is not decompressed yet."""
        return b"" if self._inflater is None else self._inflater.unconsumed_tail

    def feed(self, raw: bytes | memoryview) -> bytes:
        """Return the next piece of content, at most `PIECE_BYTES` of it; `b""` where it takes more to make one."""
        if self._inflater is None:
            return self._checked(bytes(raw))
        # One byte over what is due is enough to know that the object holds too much, be it a bomb or not.
        length_max = min(PIECE_BYTES, self._left + 1)
        try:
            piece = self._inflater.decompress(raw, length_max)
        except zlib.error as error:
            raise ArtifactAltered(f"{self._ref.artifact}: cannot be decompressed: {error}") from None
        if self._inflater.unused_data:
            raise ArtifactAltered(f"{self._ref.artifact}: something follows the compressed content")
        self.is_pending = len(piece) == length_max
        return self._checked(piece)

    def finish(self) -> None:
        """Return if all of the content came out, and nothing but it. Raises `ArtifactAltered` if not."""
        if self._left or (self._inflater is not None and not self._inflater.eof):
            raise ArtifactAltered(f"{self._ref.artifact}: ends {self._left} bytes short of {self._ref.bytes}")
        if self._hash.hexdigest() != self._ref.sha256:
            raise ArtifactAltered(f"{self._ref.artifact}: its SHA-256 is {self._hash.hexdigest()}")

    def _checked(self, piece: bytes) -> bytes:
        self._left -= len(piece)
        if self._left < 0:
            raise ArtifactAltered(f"{self._ref.artifact}: holds more than {self._ref.bytes} bytes")
        self._hash.update(piece)
        return piece


def encoded_bytes_max(ref: ArtifactRef) -> int:
    """Return the most bytes that an object of this content can have: what cannot be compressed grows a little."""
    return ref.bytes + ref.bytes // 1_000 + 1_024


async def encode(data: Content, encoder: Encoder) -> AsyncGenerator[bytes, None]:
    """Yield the object's bytes in parts, at least one: each of `PART_BYTES` or little more, the last of any length."""
    part: list[bytes | memoryview] = []
    length = 0
    async with aclosing(_pieces(data)) as pieces:
        async for piece in pieces:
            out = await aside(encoder.feed, piece)
            part.append(out)
            length += len(out)
            if length >= PART_BYTES:
                yield _joined(part)
                length = 0
    part.append(encoder.finish())
    yield _joined(part)


async def decode(raw: AsyncIterator[bytes], decoder: Decoder) -> AsyncGenerator[bytes, None]:
    """Yield the content of the object's bytes. Raises `ArtifactAltered` as soon as that is known."""
    async for part in raw:
        for slice_ in _slices(part):
            if piece := await aside(decoder.feed, slice_):
                yield piece
            while decoder.is_pending:
                if piece := await asyncio.to_thread(decoder.feed, decoder.kept):
                    yield piece
    decoder.finish()


async def collect(pieces: AsyncIterator[bytes]) -> bytes:
    """Return the pieces as one."""
    # It hands out its own memory: joining a list would take the content twice.
    content = io.BytesIO()
    async for piece in pieces:
        content.write(piece)
    return content.getvalue()


async def require_same(artifacts: Artifacts, ref: ArtifactRef) -> None:
    """Return if what stands under the key is what was to be stored there. Raises `ArtifactConflict` if not."""
    try:
        async for _ in artifacts.stream(ref):
            pass
    except ArtifactAltered as altered:
        raise ArtifactConflict(f"{ref.artifact}: another content is there; use another key") from altered


async def _pieces(data: Content) -> AsyncGenerator[bytes | memoryview, None]:
    if isinstance(data, bytes):
        if len(data) > ARTIFACT_BYTES_MAX:
            raise _too_large(len(data))
        for piece in _slices(data):
            yield piece
    elif isinstance(data, Path):
        async with aclosing(_read(data)) as read:
            async for block in read:
                yield block
    else:
        async for chunk in data:
            for piece in _slices(chunk):
                yield piece


async def _read(path: Path) -> AsyncGenerator[bytes, None]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while block := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield block
    finally:
        file.close()


def _joined(part: list[bytes | memoryview]) -> bytes:
    """Return the pieces as one and empty the list, or memory would hold them twice."""
    whole = b"".join(part)
    part.clear()
    return whole


def _slices(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    return (view[start : start + PIECE_BYTES] for start in range(0, len(view), PIECE_BYTES))


async def aside(work: Callable[[B], T], piece: B) -> T:
    """Return what the work makes of the piece; a large one is done in a thread."""
    return work(piece) if len(piece) <= INLINE_BYTES else await asyncio.to_thread(work, piece)


def _too_large(length: int) -> ArtifactTooLarge:
    return ArtifactTooLarge(f"{length} bytes or more; an artifact holds at most {ARTIFACT_BYTES_MAX}")
