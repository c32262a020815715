"""`PayloadStore`: what stands in the journal, what in the bucket, and who may name an object there."""

import gzip
import json
import threading
from collections.abc import AsyncIterator

import pytest

from orchestrator.artifacts import (
    ARTIFACT_BYTES_MAX,
    ArtifactAltered,
    ArtifactForeign,
    ArtifactMissing,
    ArtifactRef,
    ArtifactTooLarge,
    is_enclosed,
    is_reference,
)
from orchestrator.artifacts.coding import INLINE_BYTES, Decoder, Encoder
from orchestrator.artifacts.memory import MemoryArtifacts, StoredObject
from orchestrator.artifacts.payloads import PayloadStore, payload_key
from orchestrator.payloads import parse_json
from orchestrator.session.values import Json, compact_json

INLINE_MAX = 200
KEY = payload_key("session-1", "draft#2")
LOOKALIKE: Json = {"artifact": "s3://somebody/elses", "bytes": 3, "sha256": "0" * 64}


@pytest.fixture
def artifacts() -> MemoryArtifacts:
    return MemoryArtifacts()


@pytest.fixture
def payloads(artifacts: MemoryArtifacts) -> PayloadStore:
    return PayloadStore(artifacts, inline_bytes_max=INLINE_MAX)


async def test_a_small_value_stays_in_the_journal(payloads: PayloadStore, artifacts: MemoryArtifacts) -> None:
    """Up to the limit, measured in bytes of compact JSON, not in characters."""
    values: list[Json] = [None, 0, [], {"a": ["ö"]}, "x" * (INLINE_MAX - 2), "ö" * (INLINE_MAX // 2 - 1)]
    for value in values:
        assert value is await payloads.seal(KEY, value)
        assert value is await payloads.open(value)
    assert {} == artifacts.objects


async def test_a_large_value_goes_to_the_bucket(payloads: PayloadStore, artifacts: MemoryArtifacts) -> None:
    """One byte over the limit, and a reference stands in its place that tells the length and hash of its JSON."""
    for name, value in {"ascii": "x" * (INLINE_MAX - 1), "wide": "ö" * (INLINE_MAX // 2)}.items():
        key = payload_key("session-1", name)
        sealed = await payloads.seal(key, value)
        assert is_reference(sealed)
        ref = ArtifactRef.from_json(sealed)
        assert (key, len(compact_json(value).encode())) == (ref.key, ref.bytes)
        assert value == await payloads.open(sealed)
        stored = artifacts.objects[key]
        assert (value, "application/json") == (json.loads(gzip.decompress(stored.body)), stored.content_type)


@pytest.mark.parametrize("value", [LOOKALIKE, {"inline": LOOKALIKE}, {"inline": {"inline": LOOKALIKE}}])
async def test_what_looks_like_a_reference_is_enclosed(
    payloads: PayloadStore, artifacts: MemoryArtifacts, value: Json
) -> None:
    """So a reference in a journal is always ours: its sender gets back the value that he sent, and no object."""
    sealed = await payloads.seal(KEY, value)
    assert {"inline": value} == sealed == await payloads.seal_dump("session-1", "a", lambda _: value)
    assert value == await payloads.open(sealed)
    assert {} == artifacts.objects


@pytest.mark.parametrize(
    "value", [{"inline": 1}, {"inline": LOOKALIKE, "more": 1}, {"inline": [LOOKALIKE]}, [LOOKALIKE]]
)
async def test_what_nobody_could_mistake_stays_as_it_is(payloads: PayloadStore, value: Json) -> None:
    """An object of a user's own may well have such a key."""
    assert value == await payloads.seal(KEY, value) == await payloads.open(value)


async def test_a_large_value_that_looks_enclosed_comes_back_whole(payloads: PayloadStore) -> None:
    """What comes out of the bucket is the value, whatever it looks like."""
    value: Json = {"inline": {"artifact": "x" * INLINE_MAX, "bytes": 1, "sha256": ""}}
    assert value == await payloads.open(await payloads.seal(KEY, value))


async def test_a_reference_is_opened_once(payloads: PayloadStore) -> None:
    """What comes out of the bucket is a value, even where it looks like a reference to our own bucket."""
    secret = await payloads.seal(payload_key("other", "secret"), "x" * 1_000)
    assert secret == await payloads.open(await payloads.seal(KEY, secret))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (LOOKALIKE, True),
        ({"artifact": "", "bytes": -1, "sha256": ""}, True),
        ({"artifact": "s3://b/k", "bytes": 3, "sha256": "0" * 64, "more": 1}, False),
        ({"artifact": "s3://b/k", "bytes": 3}, False),
        ({"artifact": "s3://b/k", "bytes": True, "sha256": "0" * 64}, False),
        ({"artifact": "s3://b/k", "bytes": 3.0, "sha256": "0" * 64}, False),
        ({"artifact": 1, "bytes": 3, "sha256": "0" * 64}, False),
        ({"artifact": "s3://b/k", "bytes": 3, "sha256": None}, False),
        ([LOOKALIKE], False),
        ("s3://b/k", False),
        (None, False),
    ],
)
async def test_a_reference_has_three_keys_of_their_types(value: Json, expected: bool) -> None:
    """What does not have that form is a value, and stands in the journal as it is."""
    assert expected is is_reference(value)
    sealed = await PayloadStore(MemoryArtifacts(), inline_bytes_max=1_000).seal(KEY, value)
    assert expected is is_enclosed(sealed)
    assert not is_reference(sealed)


@pytest.mark.parametrize(
    ("artifact", "length", "sha256"),
    [
        ("", 3, "0" * 64),
        ("http://artifacts/key", 3, "0" * 64),
        ("s3://artifacts/", 3, "0" * 64),
        ("s3:///key", 3, "0" * 64),
        ("s3://artifacts/key", -1, "0" * 64),
        ("s3://artifacts/key", ARTIFACT_BYTES_MAX + 1, "0" * 64),
        ("s3://artifacts/key", 3, "0" * 63),
        ("s3://artifacts/key", 3, "G" * 64),
        ("s3://somebody/elses", 3, "0" * 64),
    ],
)
async def test_a_reference_that_is_not_ours_is_not_followed(
    payloads: PayloadStore, artifact: str, length: int, sha256: str
) -> None:
    """Malformed or of another bucket: no journal of ours can hold it."""
    with pytest.raises(ArtifactForeign):
        await payloads.open({"artifact": artifact, "bytes": length, "sha256": sha256})


async def test_a_second_value_under_a_key_goes_beside_the_first(
    payloads: PayloadStore, artifacts: MemoryArtifacts
) -> None:
    """A node that lost the session, or an attempt whose append was lost, takes nothing from a journal."""
    first = await payloads.seal(KEY, "x" * 200)
    second = await payloads.seal(KEY, "y" * 200)
    assert (first, second) == (await payloads.seal(KEY, "x" * 200), await payloads.seal(KEY, "y" * 200))
    assert ("x" * 200, "y" * 200) == (await payloads.open(first), await payloads.open(second))
    assert 2 == len(artifacts.objects)


async def test_damage_shows(payloads: PayloadStore, artifacts: MemoryArtifacts) -> None:
    """Gone, altered, or stored by somebody who keeps other things than payloads."""
    sealed = await payloads.seal(KEY, "x" * 200)
    artifacts.objects[KEY] = StoredObject(b'"y"', compressed=False, content_type="text/plain")
    with pytest.raises(ArtifactAltered):
        await payloads.open(sealed)
    del artifacts.objects[KEY]
    with pytest.raises(ArtifactMissing):
        await payloads.open(sealed)
    for content in (b"{", b"NaN", b"\xff", b'"\\ud800"', b"[" * 1_000 + b"]" * 1_000):
        ref = await artifacts.put(f"odd/{content[:9]!r}", content, compressed=False, content_type="text/plain")
        with pytest.raises(ArtifactAltered, match="not the JSON of a payload"):
            await payloads.open(ref.to_json())


async def test_a_payload_has_a_greatest_length(payloads: PayloadStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The artifacts' own."""
    monkeypatch.setattr("orchestrator.artifacts.coding.ARTIFACT_BYTES_MAX", 1_000)
    assert is_reference(await payloads.seal(payload_key("session-1", "fits"), "x" * 998))
    with pytest.raises(ArtifactTooLarge):
        await payloads.seal(KEY, "x" * 999)


def test_a_key_tells_the_session_and_the_operation() -> None:
    """As the contract has it, with what a key cannot hold escaped."""
    assert "sessions/session-1/17.json.gz" == payload_key("session-1", "17")
    assert "sessions/a:g2/outline.json.gz" == payload_key("a:g2", "outline")
    assert "sessions/s/scope!2fdraft!232.json.gz" == payload_key("s", "scope/draft#2")
    assert "sessions/s/!c3!b6!21.json.gz" == payload_key("s", "ö!")


def test_other_names_have_other_keys() -> None:
    """Whatever is escaped or cut, and however long a name is, its key fits into a bucket."""
    long = "n" * 2_000
    names = ["a/b", "a#b", "a!2fb", "a!b", "a_b", "..", ".", "", "/", "a", f"{long}1", f"{long}2", "ö" * 500]
    keys = [payload_key("s", name) for name in names]
    assert len(names) == len(set(keys))
    assert all(len(key.encode()) < 900 and 2 == key.count("/") for key in keys)


def test_a_key_belongs_to_one_session() -> None:
    """An id is checked long before; a slash in it would lead into another session's folder."""
    with pytest.raises(AssertionError):
        payload_key("a/b", "17")


async def test_large_pieces_are_worked_on_beside_the_loop(
    artifacts: MemoryArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compressing a mebibyte takes the time of a hundred messages; a small piece is done sooner than handed over."""
    seen: dict[str, set[tuple[bool, bool]]] = {"in": set(), "out": set()}
    encode, decode = Encoder.feed, Decoder.feed

    def note(way: str, piece: bytes | memoryview) -> None:
        is_aside = threading.current_thread() is not threading.main_thread()
        seen[way].add((len(piece) > INLINE_BYTES, is_aside))

    def watched_in(self: Encoder, piece: bytes | memoryview) -> bytes | memoryview:
        note("in", piece)
        return encode(self, piece)

    def watched_out(self: Decoder, piece: bytes | memoryview) -> bytes:
        note("out", piece)
        return decode(self, piece)

    monkeypatch.setattr(Encoder, "feed", watched_in)
    monkeypatch.setattr(Decoder, "feed", watched_out)

    async def source() -> AsyncIterator[bytes]:
        yield bytes(3 * 1024 * 1024)
        yield b"and a little"

    ref = await artifacts.put("a/key", source(), compressed=False, content_type="x/y")
    assert ref.bytes == len(await artifacts.get(ref))
    assert {"in": {(True, True), (False, False)}, "out": {(True, True), (False, False)}} == seen


@pytest.mark.parametrize(("length", "is_aside"), [(INLINE_MAX + 1, False), (INLINE_BYTES, True)])
async def test_a_large_payload_is_read_beside_the_loop(
    payloads: PayloadStore, monkeypatch: pytest.MonkeyPatch, length: int, *, is_aside: bool
) -> None:
    """Its levels are counted in Python, for 60 ms a megabyte; a small one is read sooner than handed over."""
    seen: list[bool] = []

    def watched(text: str) -> Json:
        seen.append(threading.current_thread() is not threading.main_thread())
        return parse_json(text)

    monkeypatch.setattr("orchestrator.artifacts.payloads.parse_json", watched)
    assert "x" * length == await payloads.open(await payloads.seal(KEY, "x" * length))
    assert [is_aside] == seen
