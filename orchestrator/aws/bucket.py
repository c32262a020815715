"""The bucket's wire: put, get and existence of objects. What is in them is the artifacts' affair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from orchestrator.aws.faults import Patience, Refused, Verdict, verdict_of

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client


class Bucket:
    """One S3 bucket by its name."""

    def __init__(self, client: S3Client, name: str, patience: Patience) -> None:
        self._client = client
        self.name = name
        self._patience = patience

    async def put(self, key: str, body: bytes, *, content_type: str) -> None:
        """Store an object, encrypted by the service. Raises `Refused` where the bucket will not take it."""
        try:
            await self._patience.insist(
                lambda: self._client.put_object(
                    Bucket=self.name,
                    Key=key,
                    Body=body,
                    ContentType=content_type,
                    ServerSideEncryption="AES256",
                )
            )
        except ClientError as error:
            raise Refused(f"s3://{self.name}/{key}: {error}") from error

    async def get(self, key: str) -> bytes | None:
        """Return an object's bytes; `None` where there is none. Raises `Refused` where we may not read it."""

        async def fetch() -> bytes:
            answer = await self._client.get_object(Bucket=self.name, Key=key)
            async with answer["Body"] as stream:
                return await stream.read()

        try:
            return await self._patience.insist(fetch)
        except ClientError as error:
            if verdict_of(error) is Verdict.MISSING:
                return None
            raise Refused(f"s3://{self.name}/{key}: {error}") from error
