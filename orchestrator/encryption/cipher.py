"""Payloads to ciphertext and back by AES-256-GCM, each bound to its place, so that none can be moved unseen.

Ciphertext is one line of JSON (the key of KMS and the encrypted data key, see `key_ring`), and after it either one
message, or frames of a long content: four bytes of length, then a message, the last one empty and marked as the last.
A message is 12 bytes of nonce, ciphertext, 16 bytes of tag. What is read today must be readable for years.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from orchestrator.encryption import Altered
from orchestrator.encryption.key_ring import KeyRing
from orchestrator.errors import SettingsError, Unavailable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
HEADER_BYTES_MAX: Final = 8_192
"""An encrypted data key of KMS has at most 6,144 bytes (KMS, "GenerateDataKey"), in practice under 200."""
FRAME_BYTES: Final = 1024 * 1024
LENGTH_BYTES: Final = 4
_END_OF_HEADER: Final = b"\n"


class PayloadCipher:
    """Encrypts and decrypts by the data keys of a ring. A place is a text that is never the same for two contents."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    @property
    def is_encrypting(self) -> bool:
        """Whether what is written is to be encrypted."""
        return self._ring.is_encrypting

    async def check(self) -> None:
        """Return if contents can be encrypted, or are not to be.

        Raises:
            SettingsError: KMS refuses the key that the settings name.
        """
        if self.is_encrypting:
            try:
                await self._ring.to_encrypt()
            except Unavailable as refused:
                raise SettingsError(f"ORCHESTRATOR_PAYLOAD_KEY_ARN: {refused}") from None

    async def encrypt(self, place: str, content: bytes) -> bytes:
        """Return the content encrypted for that place. Raises `Unavailable` where KMS refuses the key."""
        header, aead = await self._ring.to_encrypt()
        return header + _END_OF_HEADER + _message(aead, content, _bound(header, place))

    async def decrypt(self, place: str, encrypted: bytes) -> bytes:
        """Return what was encrypted for that place.

        Raises:
            Altered: it was not, or it was altered.
            Unavailable: KMS refuses the key.
        """
        header, end, message = encrypted.partition(_END_OF_HEADER)
        if not end:
            raise Altered("it has no header")
        aead = await self._ring.to_decrypt(header)
        return _opened(aead, message, _bound(header, place))

    async def encrypt_parts(self, place: str, parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Yield the content's parts encrypted, each a little longer; memory holds one. Raises as `encrypt` does."""
        header, aead = await self._ring.to_encrypt()
        number, out = 0, header + _END_OF_HEADER
        async with aclosing(parts):
            async for part in parts:
                if number:
                    # One part behind: the last one has to end with what ends it all.
                    yield out
                    out = b""
                # In a thread, because a part has some mebibytes, and hashing and compressing it are done so too.
                frames = await asyncio.to_thread(_frames, aead, part, header, place, number)
                out += b"".join(frames)
                number += len(frames)
        yield out + _frame(aead, b"", _bound_last(header, place, number))

    async def decrypt_parts(self, place: str, parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Yield the content of encrypted parts, cut in whatever way, frame by frame; raises as `decrypt` does.

        Nothing is missing once this ends: what was cut short raises.
        """
        buffer, header, aead, number = bytearray(), b"", None, 0
        is_over = False
        async for part in parts:
            buffer += part
            if aead is None:
                header, end, _ = bytes(buffer[: HEADER_BYTES_MAX + 1]).partition(_END_OF_HEADER)
                if not end:
                    if len(buffer) > HEADER_BYTES_MAX:
                        raise Altered("it has no header")
                    continue
                aead = await self._ring.to_decrypt(header)
                del buffer[: len(header) + 1]
            while (message := _taken(buffer)) is not None:
                if is_over:
                    raise Altered("something follows its last frame")
                if len(message) == NONCE_BYTES + TAG_BYTES:
                    _opened(aead, message, _bound_last(header, place, number))
                    is_over = True
                else:
                    yield _opened(aead, message, _bound_frame(header, place, number))
                number += 1
        if buffer or not is_over:
            raise Altered("it was cut short")


def encrypted_bytes_max(content_bytes: int) -> int:
    """Return the most bytes that `encrypt_parts` makes of so many."""
    # A part of any length ends a frame: parts have 5 MiB at least, but for the last one.
    frames = 2 * (content_bytes // FRAME_BYTES) + 3
    return HEADER_BYTES_MAX + content_bytes + frames * (LENGTH_BYTES + NONCE_BYTES + TAG_BYTES)


def _message(aead: AESGCM, content: bytes, bound: bytes) -> bytes:
    # From the system's source, never from the seeded one: a nonce that comes twice gives both contents away.
    nonce = os.urandom(NONCE_BYTES)
    return nonce + aead.encrypt(nonce, content, bound)


def _opened(aead: AESGCM, message: bytes, bound: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - with the first key, see `key_ring`

    if len(message) < NONCE_BYTES + TAG_BYTES:
        raise Altered("it was cut short")
    try:
        return aead.decrypt(message[:NONCE_BYTES], message[NONCE_BYTES:], bound)
    except InvalidTag:
        raise Altered("it is not what was encrypted for this place") from None


def _frames(aead: AESGCM, part: bytes, header: bytes, place: str, number: int) -> list[bytes]:
    starts = enumerate(range(0, len(part), FRAME_BYTES), start=number)
    return [_frame(aead, part[at : at + FRAME_BYTES], _bound_frame(header, place, n)) for n, at in starts]


def _frame(aead: AESGCM, content: bytes, bound: bytes) -> bytes:
    message = _message(aead, content, bound)
    return len(message).to_bytes(LENGTH_BYTES, "big") + message


def _taken(buffer: bytearray) -> bytes | None:
    """Return the first message of the buffer and take it out; `None` where it is not whole yet."""
    if len(buffer) < LENGTH_BYTES:
        return None
    length = int.from_bytes(buffer[:LENGTH_BYTES], "big")
    if not NONCE_BYTES + TAG_BYTES <= length <= NONCE_BYTES + FRAME_BYTES + TAG_BYTES:
        raise Altered("a frame has a length that none can have")
    if len(buffer) < LENGTH_BYTES + length:
        return None
    message = bytes(buffer[LENGTH_BYTES : LENGTH_BYTES + length])
    del buffer[: LENGTH_BYTES + length]
    return message


def _bound(header: bytes, place: str) -> bytes:
    # No header holds a line's end, so none of these is another one's beginning.
    return b"message\n" + header + _END_OF_HEADER + place.encode()


def _bound_frame(header: bytes, place: str, number: int) -> bytes:
    return b"frame %d\n" % number + header + _END_OF_HEADER + place.encode()


def _bound_last(header: bytes, place: str, number: int) -> bytes:
    return b"last %d\n" % number + header + _END_OF_HEADER + place.encode()
