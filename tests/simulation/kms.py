"""KMS, as the product sees it: keys that make data keys and open them, until they are disabled or nobody answers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import aiohttp
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.simulation.dynamodb import refused

NONCE_BYTES = 12


class SimKeys:
    """The keys of one account. `disabled` holds those that it refuses; while it `is_down` nothing answers."""

    def __init__(self) -> None:
        self._keys: dict[str, AESGCM] = {}
        self.disabled: set[str] = set()
        self.is_down = False
        self.requests = 0

    def create(self) -> str:
        """Return the ARN of a new key."""
        arn = f"arn:aws:kms:eu-central-1:000000000000:key/{len(self._keys) + 1}"
        self._keys[arn] = AESGCM(os.urandom(32))
        return arn

    def perform(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request. Raises `ClientError` for an error answer."""
        self.requests += 1
        if self.is_down:
            raise aiohttp.ServerDisconnectedError
        arn, context = request["KeyId"], json.dumps(request["EncryptionContext"], sort_keys=True).encode()
        if arn in self.disabled:
            raise refused("DisabledException", operation, f"{arn} is disabled")
        if operation == "GenerateDataKey":
            secret, nonce = os.urandom(32), os.urandom(NONCE_BYTES)
            sealed = nonce + self._keys[arn].encrypt(nonce, secret, context)
            return {"KeyId": arn, "CiphertextBlob": sealed, "Plaintext": secret}
        assert "Decrypt" == operation
        blob = request["CiphertextBlob"]
        try:
            return {"KeyId": arn, "Plaintext": self._keys[arn].decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], context)}
        except InvalidTag:
            raise refused("InvalidCiphertextException", operation) from None
