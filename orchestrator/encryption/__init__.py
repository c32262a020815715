"""Payloads encrypted before they leave this process, under data keys of KMS (`ORCHESTRATOR_PAYLOAD_KEY_ARN`).

`KeyService` is the protocol; `aws.keys` and `memory` keep it. `key_ring` makes and remembers data keys, `cipher`
encrypts and decrypts by them. What is encrypted names the key that it stands under, so it is read with any setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from orchestrator.errors import OrchestratorError


class Altered(OrchestratorError):
    """What was encrypted is not what stands there: altered, cut short, or moved here from another place."""

    code = "CIPHERTEXT_ALTERED"


class KeyService(Protocol):
    """Makes and opens data keys under keys that never leave it."""

    async def generate(self, key_arn: str, context: Mapping[str, str]) -> tuple[str, bytes, bytes]:
        """Return a new data key of 256 bits: the name of its key, and itself encrypted and in clear.

        Waits while the service cannot be reached, or has no room.

        Raises:
            Unavailable: it refuses, and would again.
        """
        ...

    async def decrypt(self, key_arn: str, encrypted: bytes, context: Mapping[str, str]) -> bytes | None:
        """Return the data key in clear; `None` where it was not made under that key and context, or was altered.

        Raises:
            Unavailable: it refuses, and would again.
        """
        ...
