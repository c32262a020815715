"""The bucket's wire: objects stored whole or in parts, read in parts, and URLs for others to read them by.

What is in an object is the artifacts' affair. Every call is tried until S3 decides it; a call whose condition does not
hold returns `False`, for after a lost answer only a look at the object tells whose it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypedDict, TypeVar

from botocore.exceptions import ClientError

from orchestrator.aws.faults import CONNECTION_FAULTS, Patience, Refused, error_code

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef, GetObjectRequestTypeDef

T = TypeVar("T")

ABORT_SECONDS_MAX: Final = 10.0
"""How long an upload that came to nothing may keep its caller; what it leaves then, a lifecycle rule takes away."""

_NOTHING_THERE: Final = frozenset({"NoSuchKey", "404"})
_UNMET: Final = "PreconditionFailed"
_UPLOAD_ENDED: Final = "NoSuchUpload"


class _Encryption(TypedDict, total=False):
    ServerSideEncryption: Literal["AES256", "aws:kms"]
    SSEKMSKeyId: str


class _Description(TypedDict, total=False):
    ContentType: str
    ContentEncoding: str


@dataclass(frozen=True, slots=True)
class ObjectPart:
    """Some bytes of an object, and of the whole object its length, its version (`etag`) and its content encoding."""

    body: bytes
    object_bytes: int
    etag: str
    content_encoding: str


class ObjectReplaced(Exception):
    """The object became another one while its parts were read."""


class Bucket:
    """One S3 bucket by its name. What is stored is encrypted as the bucket's owner set it, or by that key of KMS.

    A request that named an algorithm would go past the owner's key; one that names none is encrypted by S3's own where
    the owner set nothing (S3, "Setting default server-side encryption behavior").
    """

    def __init__(self, client: S3Client, name: str, patience: Patience, *, kms_key_id: str | None = None) -> None:
        self._client = client
        self.name = name
        self._patience = patience
        self._encryption: _Encryption = (
            {} if kms_key_id is None else {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key_id}
        )

    async def put(self, key: str, body: bytes, *, content_type: str, content_encoding: str | None = None) -> None:
        """Store an object, in the place of one that is there. Raises `Refused` where the bucket will not take it."""
        await self._insist(
            key,
            lambda: self._client.put_object(
                Bucket=self.name,
                Key=key,
                Body=body,
                **_described(content_type, content_encoding),
                **self._encryption,
            ),
        )

    async def create(self, key: str, body: bytes, *, content_type: str, content_encoding: str | None) -> bool:
        """Store an object and return whether this call did: `False` where one stands there, perhaps this very one."""
        return await self._took_effect(
            key,
            lambda: self._client.put_object(
                Bucket=self.name,
                Key=key,
                Body=body,
                IfNoneMatch="*",
                **_described(content_type, content_encoding),
                **self._encryption,
            ),
        )

    async def begin(self, key: str, *, content_type: str, content_encoding: str | None) -> Upload:
        """Return an upload in parts; it has to be finished or aborted, for parts cost as objects do."""
        begun = await self._insist(
            key,
            lambda: self._client.create_multipart_upload(
                Bucket=self.name,
                Key=key,
                **_described(content_type, content_encoding),
                **self._encryption,
            ),
        )
        return Upload(self, key, begun["UploadId"])

    async def add_part(self, key: str, upload_id: str, number: int, body: bytes) -> str:
        """Store part `number` of an upload, and return its etag."""
        stored = await self._insist(
            key,
            lambda: self._client.upload_part(
                Bucket=self.name, Key=key, UploadId=upload_id, PartNumber=number, Body=body
            ),
        )
        return stored["ETag"]

    async def complete(self, key: str, upload_id: str, parts: list[CompletedPartTypeDef]) -> bool:
        """Make the parts the object, and return whether this call did: see `create`."""
        return await self._took_effect(
            key,
            lambda: self._client.complete_multipart_upload(
                Bucket=self.name, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
            ),
        )

    async def abort(self, key: str, upload_id: str) -> None:
        """Throw the parts of an upload away, as far as S3 can be reached; one that is over is left as it is."""
        with suppress(Refused, TimeoutError, *CONNECTION_FAULTS):
            async with asyncio.timeout(ABORT_SECONDS_MAX):
                await self._took_effect(
                    key,
                    lambda: self._client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload_id),
                )

    async def part(self, key: str, start: int, length: int, *, etag: str | None = None) -> ObjectPart | None:
        """Return at most `length` bytes of an object from byte `start` on; `None` where there is no such object.

        Raises:
            ObjectReplaced: it is no longer the one of that `etag`.
            Refused: we may not read it, or there is no such bucket.
        """
        request: GetObjectRequestTypeDef = {
            "Bucket": self.name,
            "Key": key,
            "Range": f"bytes={start}-{start + length - 1}",
        }
        if etag is not None:
            request["IfMatch"] = etag

        async def fetch() -> ObjectPart | None:
            try:
                answer = await self._client.get_object(**request)
            except ClientError as error:
                if error_code(error) == "InvalidRange":
                    # An object without a byte has no first one.
                    return ObjectPart(b"", 0, "", "")
                if error_code(error) in _NOTHING_THERE:
                    return None
                if error_code(error) == _UNMET:
                    raise ObjectReplaced(f"s3://{self.name}/{key}") from error
                raise
            async with answer["Body"] as stream:
                body = await stream.read()
            object_bytes = int(answer.get("ContentRange", "").rpartition("/")[2] or len(body))
            return ObjectPart(body, object_bytes, answer["ETag"], answer.get("ContentEncoding", ""))

        return await self._insist(key, fetch)

    async def presigned_url(self, key: str, *, seconds: int) -> str:
        """Return a URL that reads the object for so long, or until our credentials expire."""
        return await self._insist(
            key,
            lambda: self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self.name, "Key": key}, ExpiresIn=seconds
            ),
        )

    async def _took_effect(self, key: str, call: Callable[[], Awaitable[object]]) -> bool:
        """Return whether a call that depends on what is there took effect: not that of an earlier try of it."""

        async def attempt() -> bool:
            try:
                await call()
            except ClientError as error:
                if error_code(error) in {_UNMET, _UPLOAD_ENDED}:
                    return False
                raise
            return True

        return await self._insist(key, attempt)

    async def _insist(self, key: str, call: Callable[[], Awaitable[T]]) -> T:
        """Return the call's answer; raises `Refused` for an error that patience does not mend."""
        try:
            return await self._patience.insist(call)
        except ClientError as error:
            hint = "; `orchestrator provision` creates it" if error_code(error) == "NoSuchBucket" else ""
            raise Refused(f"s3://{self.name}/{key}: {error}{hint}") from error


class Upload:
    """An object that comes in parts, in order; nobody sees it before `finish`."""

    def __init__(self, bucket: Bucket, key: str, upload_id: str) -> None:
        self._bucket = bucket
        self._key = key
        self._upload_id = upload_id
        self._parts: list[CompletedPartTypeDef] = []

    async def add(self, body: bytes) -> None:
        """Store the next part."""
        number = len(self._parts) + 1
        etag = await self._bucket.add_part(self._key, self._upload_id, number, body)
        self._parts.append({"PartNumber": number, "ETag": etag})

    async def finish(self) -> bool:
        """Make the parts the object, and return whether this call did: see `Bucket.create`."""
        return await self._bucket.complete(self._key, self._upload_id, self._parts)

    async def abort(self) -> None:
        """Throw the parts away."""
        await self._bucket.abort(self._key, self._upload_id)


def _described(content_type: str, content_encoding: str | None) -> _Description:
    description: _Description = {"ContentType": content_type}
    if content_encoding is not None:
        description["ContentEncoding"] = content_encoding
    return description
