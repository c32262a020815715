"""KMS's wire: data keys made under a key of the account, and opened again. What they encrypt is not known here.

A call is tried until KMS decides it, as one to the table is: an outage or a throttle is waited out, a refusal raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from botocore.exceptions import ClientError

from orchestrator.aws.faults import Patience, Refused, error_code

if TYPE_CHECKING:
    from orchestrator.aws.clients import Outlets

T = TypeVar("T")

_NOT_ITS_OWN: Final = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})
_ARN_PARTS: Final = 6
TABLE_CONTEXT: Final = "orchestrator-table"
"""In the encryption context of every data key: the table whose payloads it encrypts."""


class KeyRefused(Refused):
    """KMS does not let us use the key: a permission, a key that is disabled, about to be deleted, or in no account."""

    code = "PAYLOAD_KEY_REFUSED"


class GeneratedKey(NamedTuple):
    """A new data key: the key of KMS that it stands under, and itself encrypted by that and in clear."""

    key_arn: str
    encrypted: bytes
    secret: bytes


class MasterKeys:
    """The keys of KMS, each asked for in the region that its ARN names."""

    def __init__(self, outlets: Outlets, patience: Patience) -> None:
        self._outlets = outlets
        self._patience = patience
        self._under_way = 0

    def unreachable_for(self) -> float:
        """Return for how many seconds KMS has not answered those who wait for it; 0 where nobody does."""
        return self._patience.reachability.unreachable_for() if self._under_way else 0.0

    async def generate(self, key_arn: str, context: Mapping[str, str]) -> GeneratedKey:
        """Return a new data key of 256 bits that opens with this context only. Raises `KeyRefused`."""

        async def call() -> GeneratedKey:
            client = await self._outlets.kms(region_of(key_arn))
            made = await client.generate_data_key(KeyId=key_arn, KeySpec="AES_256", EncryptionContext=context)
            # An alias may lead to another key tomorrow: what is kept is the name of the key itself.
            return GeneratedKey(made["KeyId"], made["CiphertextBlob"], made["Plaintext"])

        return await self._insist(key_arn, call)

    async def decrypt(self, key_arn: str, encrypted: bytes, context: Mapping[str, str]) -> bytes | None:
        """Return the data key in clear; `None` where it was not made under that key and context, or was altered.

        Raises:
            KeyRefused: we may not use that key, or nobody may now.
        """

        async def call() -> bytes | None:
            client = await self._outlets.kms(region_of(key_arn))
            try:
                opened = await client.decrypt(KeyId=key_arn, CiphertextBlob=encrypted, EncryptionContext=context)
            except ClientError as error:
                if error_code(error) in _NOT_ITS_OWN:
                    return None
                raise
            return opened["Plaintext"]

        return await self._insist(key_arn, call)

    async def _insist(self, key_arn: str, call: Callable[[], Awaitable[T]]) -> T:
        self._under_way += 1
        try:
            return await self._patience.insist(call)
        except ClientError as error:
            # It answers: what it refuses is no sign that this node cannot reach it.
            self._patience.reachability.succeeded()
            raise KeyRefused(f"{key_arn}: {error}") from error
        finally:
            self._under_way -= 1


def region_of(key_arn: str) -> str | None:
    """Return the region that an ARN names; `None` for our own."""
    parts = key_arn.split(":", _ARN_PARTS - 1)
    return parts[3] if len(parts) == _ARN_PARTS and parts[3] else None
