"""The contract of `Artifacts`: what is stored comes back whole and unaltered, or does not come back."""

import asyncio
import gzip
import hashlib
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from yarl import URL

from orchestrator.artifacts import (
    ArtifactAltered,
    ArtifactConflict,
    ArtifactForeign,
    ArtifactMissing,
    ArtifactRef,
    ArtifactTooLarge,
)
from orchestrator.artifacts.coding import PART_BYTES, PIECE_BYTES
from orchestrator.artifacts.s3 import S3Artifacts
from orchestrator.aws.bucket import Bucket
from orchestrator.aws.clients import connect
from orchestrator.aws.faults import Refused
from tests.contract.artifact_stage import (
    MEBIBYTE,
    ArtifactStage,
    S3Stage,
    artifact_stage,
    in_pieces,
    noise,
    s3_stage,
)
from tests.contract.fault_proxy import (
    Answer,
    Fault,
    FaultProxy,
    Forward,
    Request,
    half_an_answer,
    html_page,
    lost_answer,
    pass_on,
    reset,
)
from tests.contract.stage import aws_environment, patience_of
from tests.contract.waiting import SECONDS_MAX
from tests.emulators import Emulator

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import ServerSideEncryptionConfigurationTypeDef

KEY = "a/key"
TEXT = b"It was a bright cold day in April. " * 1_000


@pytest.fixture(params=("memory", "ministack", "moto"))
def emulator(request: pytest.FixtureRequest) -> Emulator | None:
    """Each emulator of S3; `None` stands for memory."""
    if request.param == "memory":
        return None
    running = request.getfixturevalue(request.param)
    assert isinstance(running, Emulator)
    return running


@pytest.fixture
async def stage(emulator: Emulator | None) -> AsyncIterator[ArtifactStage]:
    async with artifact_stage(emulator) as opened:
        yield opened


@pytest.fixture
async def s3(ministack: Emulator) -> AsyncIterator[S3Stage]:
    async with s3_stage(ministack) as opened:
        yield opened


@pytest.fixture
async def wired(ministack: Emulator, proxy: FaultProxy) -> AsyncIterator[S3Stage]:
    """A bucket behind the proxy."""
    async with s3_stage(ministack, through=proxy.endpoint_url) as opened:
        yield opened


# --- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [True, False])
async def test_what_is_stored_comes_back(stage: ArtifactStage, compressed: bool) -> None:
    """Byte for byte, under a reference that tells the length and hash of the content."""
    for content in (b"", b"x", TEXT, noise(PIECE_BYTES + 1)):
        digest = hashlib.sha256(content).hexdigest()
        ref = await stage.put(content, key=digest, compressed=compressed)
        assert ArtifactRef(f"s3://{stage.name}/{digest}", len(content), digest) == ref
        assert content == await stage.artifacts.get(ref)
        assert content == b"".join([piece async for piece in stage.artifacts.stream(ref)])
        body = await stage.body_of(digest)
        assert body is not None
        assert content == (gzip.decompress(body) if compressed else body)


async def test_a_key_is_taken_as_it_is(stage: ArtifactStage) -> None:
    """What means something in a URL is part of the name."""
    for key in ("ä b/#+?&%2F.txt", "a:b!2f/c=d~.json.gz", "k" * 900):
        ref = await stage.put(key.encode(), key=key)
        assert f"s3://{stage.name}/{key}" == ref.artifact
        assert key.encode() == await stage.artifacts.get(ArtifactRef.from_json(ref.to_json()))


async def test_what_can_be_no_key_is_refused(stage: ArtifactStage) -> None:
    """Clients tidy paths up: the object would get another name than its reference says."""
    for key in ("", "/a", "a//b", "a/../b", "./a", "a/", "k" * 1_025):
        with pytest.raises(ValueError, match="key: "):
            await stage.put(TEXT, key=key)


async def test_content_comes_from_files_and_streams_too(stage: ArtifactStage, tmp_path: Path) -> None:
    """The same content has the same reference, wherever it comes from and however it is cut."""
    content = noise(3 * MEBIBYTE + 5)
    (tmp_path / "file").write_bytes(content)
    sources = (
        content,
        tmp_path / "file",
        in_pieces(content[:1], b"", content[1 : 2 * MEBIBYTE], content[2 * MEBIBYTE :]),
    )
    refs = [await stage.artifacts.put(KEY, source, compressed=True, content_type="x/y") for source in sources]
    assert 1 == len(set(refs))
    assert content == await stage.artifacts.get(refs[0])


@pytest.mark.parametrize("compressed", [True, False])
async def test_many_parts_come_back_as_one(stage: ArtifactStage, compressed: bool) -> None:
    """Two parts and a bit, read in pieces of at most a mebibyte."""
    content = noise(2 * PART_BYTES + 7)
    ref = await stage.put(content, compressed=compressed)
    pieces = [piece async for piece in stage.artifacts.stream(ref)]
    assert content == b"".join(pieces)
    assert PIECE_BYTES >= max(map(len, pieces))
    assert content == await stage.artifacts.get(ref)


async def test_compressed_content_holds_no_time(stage: ArtifactStage) -> None:
    """The same content gives the same object (RFC 1952: bytes 4 to 8 are the time)."""
    await stage.put(TEXT, compressed=True)
    assert bytes(4) == (await stage.body_of(KEY) or b"")[4:8]


# --- a key is written once -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [100, PART_BYTES + 1], ids=["small", "in parts"])
async def test_a_put_may_be_repeated(stage: ArtifactStage, length: int) -> None:
    """A node that died after storing and before journaling does both again."""
    first = await stage.put(noise(length))
    assert first == await stage.put(noise(length))
    # Compressed otherwise, it is the same content still.
    assert first == await stage.put(noise(length), compressed=True)
    assert noise(length) == await stage.artifacts.get(first)


@pytest.mark.parametrize("length", [100, PART_BYTES + 1], ids=["small", "in parts"])
async def test_another_content_does_not_take_a_keys_place(
    stage: ArtifactStage, emulator: Emulator | None, length: int
) -> None:
    """A journal may refer to the first one."""
    if emulator is not None and emulator.name == "moto" and length > PART_BYTES:
        pytest.skip("moto overwrites when an upload in parts is completed on a condition")
    first = await stage.put(noise(length))
    with pytest.raises(ArtifactConflict):
        await stage.put(noise(length, seed=1))
    assert noise(length) == await stage.artifacts.get(first)
    if isinstance(stage, S3Stage):
        assert 0 == await stage.pending_uploads()


# --- missing, altered, foreign ---------------------------------------------------------------------------------------


async def test_a_missing_artifact_is_missing(stage: ArtifactStage) -> None:
    """Not empty, and not somebody's fault that retrying would mend."""
    with pytest.raises(ArtifactMissing, match=f"s3://{stage.name}/nothing"):
        await stage.artifacts.get(ArtifactRef(f"s3://{stage.name}/nothing", 0, "0" * 64))


DAMAGES = {
    "another content": (bytes(len(TEXT)), False),
    "a byte less": (TEXT[:-1], False),
    "a byte more": (TEXT + b"x", False),
    "nothing": (b"", False),
    "another compressed content": (gzip.compress(bytes(len(TEXT))), True),
    "compressed and cut": (gzip.compress(TEXT)[:-20], True),
    "compressed without its trailer": (gzip.compress(TEXT)[:-8], True),
    "compressed with a wrong trailer": (gzip.compress(TEXT)[:-8] + bytes(8), True),
    "compressed, a byte less": (gzip.compress(TEXT[:-1]), True),
    "compressed, a byte more": (gzip.compress(TEXT + b"x"), True),
    "compressed, with a tail": (gzip.compress(TEXT) + b"x", True),
    "compressed twice over": (gzip.compress(TEXT) + gzip.compress(TEXT), True),
    "compressed nothing": (b"", True),
    "no gzip at all": (TEXT, True),
}


async def test_an_altered_artifact_does_not_come_back(stage: ArtifactStage) -> None:
    """Of whatever kind the damage is: never a wrong value."""
    for damage, (body, is_compressed) in DAMAGES.items():
        ref = await stage.put(TEXT, key=damage, compressed=is_compressed)
        await stage.damage(damage, body, is_compressed)
        with pytest.raises(ArtifactAltered, match=damage):
            await stage.artifacts.get(ref)
    ref = await stage.put(TEXT, key="whole")
    await stage.damage(KEY, TEXT[:-5], False)
    with pytest.raises(ArtifactAltered, match="5 bytes short"):
        await stage.artifacts.get(replace(ref, artifact=f"s3://{stage.name}/{KEY}"))


async def test_a_stream_proves_its_content_at_the_end(stage: ArtifactStage) -> None:
    """The pieces are out by then, which is why its reader waits for the end."""
    ref = await stage.put(TEXT)
    await stage.damage(KEY, bytes(len(TEXT)), False)
    pieces = stage.artifacts.stream(ref)
    assert len(TEXT) == len(await anext(pieces))
    with pytest.raises(ArtifactAltered, match="SHA-256"):
        await anext(pieces)


async def test_a_bomb_is_not_unpacked(stage: ArtifactStage) -> None:
    """Of 64 MiB in 64 KiB no more comes out than the reference promised, and a byte to know it by."""
    ref = await stage.put(TEXT * 10, compressed=True)
    await stage.damage(KEY, gzip.compress(bytes(64 * MEBIBYTE)), True)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactAltered, match="more than"):
            await stage.artifacts.get(ref)
        assert 4 * MEBIBYTE > tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def test_an_object_too_long_for_its_reference_is_not_read(s3: S3Stage) -> None:
    """A compressed stream can be endless and hold nothing at all."""
    ref = await s3.put(TEXT, compressed=True)
    empty_block = b"\x00\x00\x00\xff\xff"
    await s3.damage(KEY, gzip.compress(b"")[:10] + empty_block * 100_000, True)
    with pytest.raises(ArtifactAltered, match="more than"):
        await s3.artifacts.get(ref)


async def test_an_artifact_replaced_while_it_is_read_does_not_come_back(s3: S3Stage) -> None:
    """Two halves of two contents are no content, though the reader would find out by the hash alone too."""
    ref = await s3.put(noise(PART_BYTES + 100))
    pieces = s3.artifacts.stream(ref)
    await anext(pieces)
    await s3.damage(KEY, noise(PART_BYTES + 100, seed=1), False)
    with pytest.raises(ArtifactAltered, match="replaced"):
        [piece async for piece in pieces]


async def test_a_reference_to_another_bucket_is_not_followed(stage: ArtifactStage) -> None:
    """Whoever gets a reference into a journal cannot read with our permissions."""
    ref = ArtifactRef("s3://somebody/elses", 3, "0" * 64)
    with pytest.raises(ArtifactForeign):
        await stage.artifacts.get(ref)
    with pytest.raises(ArtifactForeign):
        await anext(stage.artifacts.stream(ref))
    with pytest.raises(ArtifactForeign):
        await stage.artifacts.presigned_url(ref, expires=timedelta(minutes=1))


async def test_a_bucket_that_is_not_there_is_no_missing_artifact(s3: S3Stage) -> None:
    """The setting is wrong, and the text says what to do."""
    bucket = Bucket(s3.raw.s3, "no-such-bucket", patience_of("bucket"))
    with pytest.raises(Refused, match="orchestrator provision"):
        await S3Artifacts(bucket).get(ArtifactRef("s3://no-such-bucket/key", 0, "0" * 64))


# --- limits, failures and memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1_001, PART_BYTES + 1], ids=["small", "in parts"])
async def test_what_is_too_large_is_not_stored(
    stage: ArtifactStage, length: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether the length is known before or found out on the way."""
    monkeypatch.setattr("orchestrator.artifacts.coding.ARTIFACT_BYTES_MAX", length - 1)
    (tmp_path / "file").write_bytes(noise(length))
    for data in (noise(length), tmp_path / "file", in_pieces(noise(length)[:-1], b"x")):
        with pytest.raises(ArtifactTooLarge, match=str(length - 1)):
            await stage.artifacts.put(KEY, data, compressed=False, content_type="x/y")
    assert await stage.body_of(KEY) is None
    assert not isinstance(stage, S3Stage) or 0 == await stage.pending_uploads()


async def test_a_source_that_fails_leaves_nothing_behind(stage: ArtifactStage) -> None:
    """The error is the source's own, the parts that were stored are gone."""

    async def source() -> AsyncIterator[bytes]:
        yield noise(2 * PART_BYTES)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await stage.artifacts.put(KEY, source(), compressed=False, content_type="x/y")
    assert await stage.body_of(KEY) is None
    assert not isinstance(stage, S3Stage) or 0 == await stage.pending_uploads()


async def test_a_cancelled_put_leaves_nothing_behind(s3: S3Stage) -> None:
    """Parts of an upload that nobody finishes would cost money until a lifecycle rule finds them."""
    waits = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield noise(PART_BYTES)
        waits.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(s3.artifacts.put(KEY, source(), compressed=False, content_type="x/y"))
    async with asyncio.timeout(SECONDS_MAX):
        await waits.wait()
        assert 1 == await s3.pending_uploads()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert task.cancelled()
    assert 0 == await s3.pending_uploads()
    assert await s3.body_of(KEY) is None


@pytest.mark.parametrize("compressed", [True, False])
async def test_memory_holds_a_few_parts_however_long_the_content_is(s3: S3Stage, compressed: bool) -> None:
    """Forty-eight mebibytes in and out, in pieces: less than four parts at once."""
    block = noise(MEBIBYTE)

    async def source() -> AsyncIterator[bytes]:
        for _ in range(48):
            yield block

    tracemalloc.start()
    try:
        ref = await s3.artifacts.put(KEY, source(), compressed=compressed, content_type="x/y")
        stored = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        length = 0
        async for piece in s3.artifacts.stream(ref):
            length += len(piece)
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 48 * MEBIBYTE == length
    assert 4 * PART_BYTES > max(stored, read)


# --- the wire --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [reset, lost_answer, html_page])
@pytest.mark.parametrize("length", [100, PART_BYTES + 1], ids=["small", "in parts"])
async def test_a_put_survives_the_wire(wired: S3Stage, proxy: FaultProxy, length: int, fault: Fault) -> None:
    """An answer that was lost is found out by reading back: our own object is no conflict."""
    for method in ("PUT", "POST"):
        proxy.arm(method, fault, times=1)
    ref = await wired.put(noise(length))
    assert noise(length) == await wired.artifacts.get(ref)
    assert noise(length) == await wired.body_of(KEY)


async def test_a_lost_answer_to_the_last_request_of_an_upload_is_looked_up(wired: S3Stage, proxy: FaultProxy) -> None:
    """The second try is told that there is no such upload: it is over, because the first try ended it."""
    over = b"<Error><Code>NoSuchUpload</Code><Message>It may have been aborted or completed.</Message></Error>"

    async def no_such_upload(_request: Request, _raw: bytes, _forward: Forward) -> Answer:
        # The emulators say that the object is there; S3 may say this (S3, CompleteMultipartUpload, errors).
        return Answer(404, over, {"Content-Type": "application/xml"})

    proxy.arm("POST", pass_on, lost_answer, no_such_upload)
    ref = await wired.put(noise(PART_BYTES + 1))
    assert proxy.is_disarmed
    assert noise(PART_BYTES + 1) == await wired.artifacts.get(ref)


@pytest.mark.parametrize("fault", [reset, half_an_answer, html_page])
async def test_a_get_survives_the_wire(wired: S3Stage, proxy: FaultProxy, fault: Fault) -> None:
    """A part that was cut is asked for again."""
    ref = await wired.put(noise(PART_BYTES + 100))
    proxy.arm("GET", fault, times=2)
    assert noise(PART_BYTES + 100) == await wired.artifacts.get(ref)
    assert proxy.is_disarmed


# --- for others to see -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [True, False])
async def test_anybody_can_fetch_by_a_presigned_url(stage: ArtifactStage, compressed: bool) -> None:
    """A plain HTTP client gets the content, its type, and undoes the compression by itself."""
    if not isinstance(stage, S3Stage):
        pytest.skip("nothing serves memory")
    ref = await stage.artifacts.put("a/ä #+.txt", TEXT, compressed=compressed, content_type="text/plain")
    url = await stage.artifacts.presigned_url(ref, expires=timedelta(minutes=5))
    assert "300" == URL(url).query["X-Amz-Expires"]
    assert "AWS4-HMAC-SHA256" == URL(url).query["X-Amz-Algorithm"]
    async with aiohttp.ClientSession() as session, session.get(URL(url, encoded=True)) as answer:
        assert (200, "text/plain") == (answer.status, answer.content_type)
        assert TEXT == await answer.read()


async def test_a_url_lasts_from_a_second_to_seven_days(stage: ArtifactStage) -> None:
    """S3 would refuse it only when somebody uses it."""
    ref = await stage.put(TEXT)
    for allowed in (timedelta(seconds=1), timedelta(days=7)):
        assert await stage.artifacts.presigned_url(ref, expires=allowed)
    for refused in (timedelta(seconds=0.9), timedelta(days=7, seconds=1), timedelta(seconds=-1)):
        with pytest.raises(ValueError, match="expires: "):
            await stage.artifacts.presigned_url(ref, expires=refused)


@pytest.mark.parametrize("length", [100, PART_BYTES + 1], ids=["small", "in parts"])
async def test_objects_are_encrypted_and_say_what_they_are(s3: S3Stage, ministack: Emulator, length: int) -> None:
    """By the key that the bucket's owner set, the service's own or one of KMS; or by the one that is given."""
    await s3.put(noise(length), compressed=True)
    head = await s3.raw.s3.head_object(Bucket=s3.name, Key=KEY)
    assert ("AES256", "gzip") == (head["ServerSideEncryption"], head["ContentEncoding"])
    assert "application/octet-stream" == head["ContentType"]
    owners: ServerSideEncryptionConfigurationTypeDef = {
        "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "alias/ours"}}]
    }
    for stage in (s3_stage(ministack, kms_key_id="alias/ours"), s3_stage(ministack, encryption=owners)):
        async with stage as by_key:
            await by_key.put(noise(length))
            head = await by_key.raw.s3.head_object(Bucket=by_key.name, Key=KEY)
            assert "aws:kms" == head["ServerSideEncryption"]
            assert head["SSEKMSKeyId"].endswith("alias/ours")


async def test_a_url_names_the_bucket_in_its_host_unless_an_endpoint_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An emulator's host does not resolve with a bucket's name in front of it."""
    ref = ArtifactRef(f"s3://bucket/{KEY}", 0, "0" * 64)

    async def url() -> URL:
        async with connect() as clients:
            artifacts = S3Artifacts(Bucket(clients.s3, "bucket", patience_of("bucket")))
            return URL(await artifacts.presigned_url(ref, expires=timedelta(hours=1)))

    with aws_environment("http://emulator.test:4566", "key"):
        here = await url()
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        there = await url()
    assert ("emulator.test", f"/bucket/{KEY}") == (here.host, here.path)
    assert ("bucket.s3.amazonaws.com", f"/{KEY}") == (there.host, there.path)
