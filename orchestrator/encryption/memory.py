"""A key service in memory: the same protocol and the same refusals as KMS. Shipped for tests."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from itertools import count

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orchestrator.errors import Unavailable

KEY_BYTES = 32
NONCE_BYTES = 12


class MemoryKeys:
    """The `KeyService` of one process. `refused` holds the keys that it does not let anybody use."""

    def __init__(self) -> None:
        self._keys: dict[str, AESGCM] = {}
        self._numbers = count(1)
        self.refused: set[str] = set()
        self.calls: list[str] = []
        """What was asked for, in order: `generate` and `decrypt`."""

    def create(self) -> str:
        """Return the ARN of a new key."""
        arn = f"arn:aws:kms:eu-central-1:000000000000:key/{next(self._numbers)}"
        self._keys[arn] = AESGCM(os.urandom(KEY_BYTES))
        return arn

    async def generate(self, key_arn: str, context: Mapping[str, str]) -> tuple[str, bytes, bytes]:
        """See `KeyService.generate`."""
        await asyncio.sleep(0)
        self.calls.append("generate")
        secret, nonce = os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES)
        return key_arn, nonce + self._key(key_arn).encrypt(nonce, secret, _bound(context)), secret

    async def decrypt(self, key_arn: str, encrypted: bytes, context: Mapping[str, str]) -> bytes | None:
        """See `KeyService.decrypt`."""
        await asyncio.sleep(0)
        self.calls.append("decrypt")
        try:
            return self._key(key_arn).decrypt(encrypted[:NONCE_BYTES], encrypted[NONCE_BYTES:], _bound(context))
        except InvalidTag:
            return None

    def _key(self, key_arn: str) -> AESGCM:
        if key_arn in self.refused or key_arn not in self._keys:
            raise Unavailable(f"{key_arn}: refused")
        return self._keys[key_arn]


def _bound(context: Mapping[str, str]) -> bytes:
    return json.dumps(context, sort_keys=True).encode()
