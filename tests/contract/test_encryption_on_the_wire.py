"""Keys of KMS as emulators have them, and what is encrypted under them on the wires of the table and the bucket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic_core import to_json

from actors import SystemClock
from orchestrator.artifacts import ArtifactAltered, ArtifactEncrypted, ArtifactRef
from orchestrator.artifacts.coding import PART_BYTES
from orchestrator.artifacts.s3 import S3Artifacts
from orchestrator.aws.bucket import Bucket
from orchestrator.aws.clients import Clients
from orchestrator.aws.items import Insert, batch_statement
from orchestrator.aws.keys import KeyRefused, MasterKeys
from orchestrator.encryption.cipher import PayloadCipher
from orchestrator.encryption.key_ring import KeyRing
from orchestrator.inbox import InboxItem
from orchestrator.inbox.dynamodb import DynamoDBInbox
from orchestrator.journal import AlteredEvent, UnreadableEvent
from orchestrator.journal.dynamodb import DynamoDBJournal
from orchestrator.session.events import StepCompleted
from tests.contract.artifact_stage import noise, s3_stage
from tests.contract.stage import RETENTION, SESSION, append, events_of, open_table, patience_of, recorded, started
from tests.emulators import Emulator

CONTEXT = {"orchestrator-table": "t"}
SECRET = "the secret"


@pytest.fixture(params=["ministack", "moto"])
def emulator(request: pytest.FixtureRequest) -> Emulator:
    """Both have KMS."""
    running = request.getfixturevalue(request.param)
    assert isinstance(running, Emulator)
    return running


async def new_key(clients: Clients) -> str:
    """Return the ARN of a new key of the account."""
    kms = await clients.outlets.kms()
    return (await kms.create_key())["KeyMetadata"]["Arn"]


def payload_cipher(clients: Clients, arn: str | None) -> PayloadCipher:
    """Return what encrypts under that key."""
    keys = MasterKeys(clients.outlets, patience_of("keys"))
    return PayloadCipher(KeyRing(keys, SystemClock(), key_arn=arn, context=CONTEXT))


@asynccontextmanager
async def encrypted_bucket(emulator: Emulator) -> AsyncIterator[tuple[Clients, str, S3Artifacts, S3Artifacts]]:
    """Yield a bucket's clients and name, and two processes on it: one that encrypts, and one that only reads."""
    async with s3_stage(emulator) as stage:
        bucket = Bucket(stage.raw.s3, stage.name, patience_of("bucket"))
        arn = await new_key(stage.raw)
        cipher, reading = payload_cipher(stage.raw, arn), payload_cipher(stage.raw, None)
        yield stage.raw, stage.name, S3Artifacts(bucket, cipher), S3Artifacts(bucket, reading)


async def test_a_data_key_opens_under_its_key_and_context_alone(emulator: Emulator) -> None:
    """What KMS refuses says so by its code; what was never made there is no data key."""
    async with open_table(emulator) as opened:
        keys, arn = MasterKeys(opened.clients.outlets, patience_of("keys")), await new_key(opened.clients)
        made = await keys.generate(arn, CONTEXT)
        assert (arn, 32) == (made.key_arn, len(made.secret))
        assert made.secret == await keys.decrypt(arn, made.encrypted, CONTEXT)
        assert await keys.decrypt(arn, made.encrypted, {"orchestrator-table": "other"}) is None
        assert made.secret != await keys.decrypt(arn, made.encrypted[:-1] + b"?", CONTEXT)
        nobody = f"{arn[:-3]}000"
        with pytest.raises(KeyRefused, match=nobody):
            await keys.generate(nobody, CONTEXT)
        assert 0.0 == keys.unreachable_for()


async def test_a_disabled_key_is_refused(ministack: Emulator) -> None:
    """Whoever disables a key takes what stands under it out of reach, until it is enabled again."""
    async with open_table(ministack) as opened:
        keys, arn = MasterKeys(opened.clients.outlets, patience_of("keys")), await new_key(opened.clients)
        made = await keys.generate(arn, CONTEXT)
        await (await opened.clients.outlets.kms()).disable_key(KeyId=arn)
        with pytest.raises(KeyRefused, match="DisabledException"):
            await keys.generate(arn, CONTEXT)
        with pytest.raises(KeyRefused, match="DisabledException"):
            await keys.decrypt(arn, made.encrypted, CONTEXT)


async def test_events_and_messages_are_sealed_on_the_wire(emulator: Emulator) -> None:
    """Alone, in batches and in transactions: another process reads them, and an outsider finds nothing."""
    async with open_table(emulator) as opened:
        process = payload_cipher(opened.clients, await new_key(opened.clients))
        journal = DynamoDBJournal(opened.table, retention=RETENTION, cipher=process)
        inbox = DynamoDBInbox(opened.table, clock=opened.clock, retention=RETENTION, cipher=process)
        events = [recorded(1), *(recorded(seq, StepCompleted(f"s{seq}", {"n": [SECRET]}, 1)) for seq in (2, 3, 4))]
        await append(journal, events[0])
        await append(journal, *events[1:])
        # The same again is no conflict, though it is encrypted to other bytes.
        await append(journal, *events[1:])
        # At once, so that they travel in one batch.
        firsts = {other: recorded(1, started(SECRET)) for other in ("b1", "b2", "b3")}
        await asyncio.gather(*(append(journal, first, session_id=other) for other, first in firsts.items()))
        await inbox.put(SESSION, InboxItem("m", 1, f'"{SECRET}"'))
        await inbox.put(SESSION, InboxItem("m", 1, f'"{SECRET}"'))

        reader = payload_cipher(opened.clients, None)
        read = DynamoDBJournal(opened.table, retention=RETENTION, cipher=reader)
        assert events == await events_of(read)
        assert [firsts["b2"]] == await events_of(read, "b2")
        waiting = DynamoDBInbox(opened.table, clock=opened.clock, retention=RETENTION, cipher=reader)
        assert (InboxItem("m", 1, f'"{SECRET}"'),) == await waiting.read(SESSION)
        rows = (await opened.clients.dynamodb.scan(TableName=opened.name))["Items"]
        assert (8, False) == (len(rows), SECRET in repr(rows))
        with pytest.raises(UnreadableEvent, match="has no keys"):
            await events_of(opened.journal())


def test_bytes_travel_in_a_batch_as_base64() -> None:
    """No SDK comes after us there; of the two alphabets DynamoDB takes the standard one."""
    statement = batch_statement("t", Insert({"PK": "p", "SK": "s", "encrypted": b"\xff\xfb"}))
    assert [{"S": "p"}, {"S": "s"}, {"B": "//s="}] == json.loads(to_json(statement))["Parameters"]


async def test_ciphertext_moved_to_another_event_is_noticed(ministack: Emulator) -> None:
    """Two events swap what is encrypted in them: neither is read as the other."""
    async with open_table(ministack) as opened:
        journal = DynamoDBJournal(
            opened.table, retention=RETENTION, cipher=payload_cipher(opened.clients, await new_key(opened.clients))
        )
        await append(journal, recorded(1), *(recorded(seq, StepCompleted("s", SECRET, 1)) for seq in (2, 3)))
        places = [{"PK": {"S": f"SESSION#{SESSION}"}, "SK": {"S": f"EVENT#{seq:010d}"}} for seq in (2, 3)]
        table = opened.clients.dynamodb
        rows = [(await table.get_item(TableName=opened.name, Key=place))["Item"] for place in places]
        for row, other in zip(rows, reversed(rows), strict=True):
            await table.put_item(TableName=opened.name, Item={**row, "encrypted": other["encrypted"]})
        with pytest.raises(AlteredEvent, match=r"EVENT#0000000002 cannot be decrypted"):
            await events_of(journal)


@pytest.mark.parametrize("compressed", [True, False])
async def test_artifacts_are_sealed_in_the_bucket(emulator: Emulator, compressed: bool) -> None:
    """Whoever reads the bucket finds ciphertext; a repetition is none too many, and another process reads it."""
    async with encrypted_bucket(emulator) as (raw, name, cipher, reading):
        content = SECRET.encode() * 2_000
        refs = {
            (await cipher.put("a/key", content, compressed=compressed, content_type="text/plain")).to_json()["sha256"]
            for _ in range(2)
        }
        assert 1 == len(refs)
        async with (await raw.s3.get_object(Bucket=name, Key="a/key"))["Body"] as body:
            stored = await body.read()
        assert SECRET.encode() not in stored
        ref = await cipher.put("a/key", content, compressed=compressed, content_type="text/plain")
        assert content == await reading.get(ref)
        with pytest.raises(ArtifactEncrypted):
            await cipher.presigned_url(ref, expires=timedelta(minutes=1))

        await raw.s3.put_object(
            Bucket=name, Key="b/key", Body=stored, ContentEncoding="x-encrypted-gzip" if compressed else "x-encrypted"
        )
        with pytest.raises(ArtifactAltered):
            await reading.get(replace(ref, artifact=f"s3://{name}/b/key"))


async def test_a_long_artifact_is_encrypted_in_parts(ministack: Emulator, tmp_path: Path) -> None:
    """Memory holds a part of it at most; cut short in the bucket, it does not come back."""
    async with encrypted_bucket(ministack) as (raw, name, cipher, reading):
        content = noise(2 * PART_BYTES + 3)
        source = tmp_path / "content"
        source.write_bytes(content)
        ref = await cipher.put("long", source, compressed=True, content_type="text/plain")
        assert content == await reading.get(ref)
        async with (await raw.s3.get_object(Bucket=name, Key="long"))["Body"] as body:
            stored = await body.read()
        await raw.s3.put_object(Bucket=name, Key="long", Body=stored[:-32], ContentEncoding="x-encrypted-gzip")
        with pytest.raises(ArtifactAltered):
            await reading.get(ref)


async def test_an_artifact_of_before_is_read_and_linked_to(ministack: Emulator) -> None:
    """What was stored before the key was set is as it was; only what is encrypted has no URL."""
    async with encrypted_bucket(ministack) as (_, _, cipher, reading):
        ref: ArtifactRef = await reading.put("old", b"clear", compressed=False, content_type="text/plain")
        assert b"clear" == await cipher.get(ref)
        assert (await cipher.presigned_url(ref, expires=timedelta(minutes=1))).startswith("http")
