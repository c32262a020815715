"""What the artifact suites stand on: artifacts per implementation, and their bucket seen and damaged from outside.

To add an implementation: one more branch in `artifact_stage`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from orchestrator.artifacts import ArtifactRef, Artifacts
from orchestrator.artifacts.memory import MemoryArtifacts, StoredObject
from orchestrator.artifacts.s3 import S3Artifacts
from orchestrator.aws.bucket import Bucket
from orchestrator.aws.clients import Clients
from orchestrator.aws.provision import BUCKET_ENCRYPTION
from tests.contract.stage import clients_of, patience_of
from tests.emulators import Emulator, access_key, fresh_account

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import ServerSideEncryptionConfigurationTypeDef

MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ArtifactStage:
    """One implementation of `Artifacts`, and its outside."""

    artifacts: Artifacts
    name: str
    """The bucket's."""
    body_of: Callable[[str], Awaitable[bytes | None]]
    """What an object holds, compressed where it is."""
    damage: Callable[[str, bytes, bool], Awaitable[None]]
    """Put another body in an object's place, said to be compressed or not."""

    async def put(self, data: bytes, *, key: str = "a/key", compressed: bool = False) -> ArtifactRef:
        """Store bytes of no special type."""
        return await self.artifacts.put(key, data, compressed=compressed, content_type="application/octet-stream")


@dataclass(frozen=True, slots=True)
class S3Stage(ArtifactStage):
    """A bucket, with what only it has; `raw` means: by a client past the product and past the proxy."""

    raw: Clients

    async def pending_uploads(self) -> int:
        """Return how many uploads are neither finished nor aborted."""
        return len((await self.raw.s3.list_multipart_uploads(Bucket=self.name)).get("Uploads", []))


def memory_stage() -> ArtifactStage:
    """Return a stage in memory."""
    artifacts = MemoryArtifacts()

    async def body_of(key: str) -> bytes | None:
        held = artifacts.objects.get(key)
        return None if held is None else held.body

    async def damage(key: str, body: bytes, compressed: bool) -> None:
        artifacts.objects[key] = StoredObject(body, compressed, "text/plain")

    return ArtifactStage(artifacts, "artifacts", body_of, damage)


@asynccontextmanager
async def s3_stage(
    emulator: Emulator,
    *,
    through: str | None = None,
    kms_key_id: str | None = None,
    encryption: "ServerSideEncryptionConfigurationTypeDef" = BUCKET_ENCRYPTION,
) -> AsyncIterator[S3Stage]:
    """Create a bucket in an account of its own; `through` is a proxy's address for the product alone."""
    # The names of buckets are everybody's, whatever the account.
    account = fresh_account()
    key, name = access_key(emulator, account), f"artifacts-{account}"
    async with (
        clients_of(emulator.endpoint_url, key) as raw,
        clients_of(through or emulator.endpoint_url, key) as clients,
    ):
        await raw.s3.create_bucket(Bucket=name)
        await raw.s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration=encryption)

        async def body_of(object_key: str) -> bytes | None:
            listed = await raw.s3.list_objects_v2(Bucket=name)
            if object_key not in {found["Key"] for found in listed.get("Contents", [])}:
                return None
            async with (await raw.s3.get_object(Bucket=name, Key=object_key))["Body"] as body:
                return await body.read()

        async def damage(object_key: str, body: bytes, compressed: bool) -> None:
            if compressed:
                await raw.s3.put_object(Bucket=name, Key=object_key, Body=body, ContentEncoding="gzip")
            else:
                await raw.s3.put_object(Bucket=name, Key=object_key, Body=body)

        bucket = Bucket(clients.s3, name, patience_of("bucket"), kms_key_id=kms_key_id)
        yield S3Stage(S3Artifacts(bucket), name, body_of, damage, raw)


@asynccontextmanager
async def artifact_stage(emulator: Emulator | None) -> AsyncIterator[ArtifactStage]:
    """Yield a stage on that emulator; on `None`, one in memory."""
    if emulator is None:
        yield memory_stage()
        return
    async with s3_stage(emulator) as opened:
        yield opened


def noise(length: int, *, seed: int = 0) -> bytes:
    """Return bytes that nothing can compress, the same ones each time."""
    return Random(seed).randbytes(length)


async def in_pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    """Yield the pieces."""
    for piece in pieces:
        yield piece
