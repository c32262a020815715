"""What is encrypted opens at its own place, unaltered, as long as its key lets it; KMS is asked no more than needed."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from actors import ManualClock
from orchestrator.encryption import Altered
from orchestrator.encryption.cipher import FRAME_BYTES, PayloadCipher, encrypted_bytes_max
from orchestrator.encryption.key_ring import OPENED_SECONDS_MAX, SECONDS_MAX, KeyRing
from orchestrator.encryption.memory import MemoryKeys
from orchestrator.errors import Unavailable

CONTEXT = {"table": "t"}


class Stage:
    """Keys, a clock, and processes that encrypt with them."""

    def __init__(self) -> None:
        self.keys = MemoryKeys()
        self.clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.arn = self.keys.create()

    def process(self, *, arn: str | None = "", uses_max: int = 1_000) -> PayloadCipher:
        """Return the cipher of another process; cipher under the stage's key unless told."""
        key_arn = self.arn if arn == "" else arn
        return PayloadCipher(KeyRing(self.keys, self.clock, key_arn=key_arn, context=CONTEXT, uses_max=uses_max))


@pytest.fixture
def stage() -> Stage:
    """One key, and nothing encrypted."""
    return Stage()


async def test_another_process_opens_what_one_sealed(stage: Stage) -> None:
    """With the key set, with another one set, or with none: what is encrypted names its key."""
    encrypted = await stage.process().encrypt("place", b"content")
    assert b"content" not in encrypted
    for arn in (stage.arn, stage.keys.create(), None):
        assert b"content" == await stage.process(arn=arn).decrypt("place", encrypted)


async def test_no_byte_can_be_altered(stage: Stage) -> None:
    """Header, data key, nonce, ciphertext and tag: each bit counts, and so does the place."""
    process = stage.process()
    encrypted = await process.encrypt("place", b"content")
    for position in range(len(encrypted)):
        altered = bytearray(encrypted)
        altered[position] ^= 1
        with pytest.raises((Altered, Unavailable)):
            # A header that names another key is refused by whoever has the keys.
            await process.decrypt("place", bytes(altered))
    for length in range(len(encrypted)):
        with pytest.raises(Altered):
            await process.decrypt("place", encrypted[:length])
    with pytest.raises(Altered):
        await process.decrypt("another place", encrypted)


async def test_the_same_content_is_never_sealed_to_the_same_bytes(stage: Stage) -> None:
    """Nobody sees that two payloads are equal."""
    process = stage.process()
    assert 100 == len({await process.encrypt("place", b"yes") for _ in range(100)})


async def test_a_data_key_seals_for_so_many_uses_and_so_long(stage: Stage) -> None:
    """One request makes the key of many payloads; past either bound, the next one gets another."""
    process = stage.process(uses_max=3)
    for _ in range(7):
        await process.encrypt("place", b"")
    assert ["generate"] * 3 == stage.keys.calls
    stage.clock.advance(SECONDS_MAX)
    await process.encrypt("place", b"")
    assert ["generate"] * 4 == stage.keys.calls


async def test_many_at_once_ask_for_a_key_once(stage: Stage) -> None:
    """A node that starts, and one that takes over a thousand sessions, does not flood KMS."""
    process, reader = stage.process(), stage.process()
    encrypted = await asyncio.gather(*(process.encrypt("place", b"%d" % n) for n in range(100)))
    await asyncio.gather(*(reader.decrypt("place", each) for each in encrypted))
    assert ["generate", "decrypt"] == stage.keys.calls


async def test_a_key_that_is_taken_away_opens_nothing_for_long(stage: Stage) -> None:
    """What is remembered is forgotten within five minutes; then KMS has the say again."""
    process = stage.process()
    encrypted = await process.encrypt("place", b"content")
    stage.keys.refused.add(stage.arn)
    assert b"content" == await process.decrypt("place", encrypted)
    stage.clock.advance(OPENED_SECONDS_MAX)
    for refused in (process.decrypt("place", encrypted), process.encrypt("place", b"more")):
        with pytest.raises(Unavailable):
            await refused
    stage.keys.refused.clear()
    assert b"content" == await process.decrypt("place", encrypted)


async def in_pieces(raw: bytes, sizes: list[int]) -> AsyncIterator[bytes]:
    """Yield the bytes cut in pieces of these sizes, and the rest."""
    for size in sizes:
        yield raw[:size]
        raw = raw[size:]
    yield raw


async def parts_of(*parts: bytes) -> AsyncGenerator[bytes, None]:
    """Yield the parts."""
    for part in parts:
        yield part


async def opened(process: PayloadCipher, raw: bytes, sizes: list[int]) -> bytes:
    """Return the content of encrypted parts that come in those pieces."""
    return b"".join([piece async for piece in process.decrypt_parts("place", in_pieces(raw, sizes))])


@pytest.mark.parametrize("length", [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES + 7])
async def test_a_long_content_comes_back_from_whatever_pieces(stage: Stage, length: int) -> None:
    """Frames do not depend on how the wire cuts them; what is encrypted is hardly longer than the content."""
    process, content = stage.process(), random.Random(0).randbytes(length)
    encrypted = [
        part async for part in process.encrypt_parts("place", parts_of(content[: length // 3], content[length // 3 :]))
    ]
    raw = b"".join(encrypted)
    assert len(raw) <= encrypted_bytes_max(length)
    for sizes in ([], [1, 2, 3, 400], [len(raw) - 1], [len(raw) // 2]):
        assert content == await opened(process, raw, sizes)


async def test_a_long_content_cannot_be_cut_short_reordered_or_added_to(stage: Stage) -> None:
    """Each frame knows its number, and the last one that it is the last."""
    process = stage.process()
    raw = b"".join([part async for part in process.encrypt_parts("place", parts_of(b"first", b"second", b"third"))])
    other = b"".join(
        [part async for part in process.encrypt_parts("elsewhere", parts_of(b"first", b"second", b"third"))]
    )
    header, _, body = raw.partition(b"\n")
    frames, rest = [], body
    while rest:
        end = 4 + int.from_bytes(rest[:4], "big")
        frames.append(rest[:end])
        rest = rest[end:]
    assert 4 == len(frames)
    whole = [0, 1, 2, 3]
    for order in ([0, 1, 2], [0, 1], [], [1, 0, 2, 3], [0, 2, 3], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [3], [0, 3, 1, 2]):
        with pytest.raises(Altered):
            await opened(process, header + b"\n" + b"".join(frames[n] for n in order), [])
    for length in range(len(raw)):
        with pytest.raises(Altered):
            await opened(process, raw[:length], [])
    with pytest.raises(Altered):
        # Not at its end: what is streamed is used before that.
        await anext(process.decrypt_parts("place", in_pieces(other, [])))
    assert b"firstsecondthird" == await opened(process, header + b"\n" + b"".join(frames[n] for n in whole), [])


async def test_what_is_none_of_ours_is_altered_and_no_crash(stage: Stage) -> None:
    """Whoever may write to the table or the bucket can put anything there."""
    process, chance = stage.process(), random.Random(1)
    headers = [
        b"",
        b"{}",
        b"null",
        b"[" * 9_000,
        b'{"v":2}',
        b'{"v":1,"alg":"A256GCM","key":"k","data_key":"!","context":{}}',
    ]
    for header in (*headers, *(chance.randbytes(200) for _ in range(50))):
        for encrypted in (header, header + b"\n", header + b"\n" + chance.randbytes(60)):
            with suppress(Unavailable), pytest.raises(Altered):
                await process.decrypt("place", encrypted)
            with suppress(Unavailable), pytest.raises(Altered):
                await opened(process, encrypted, [])
