"""Signed requests without the SDK's pipeline, for the calls that a busy node makes all the time.

An SDK call costs the client twenty times the CPU of the bytes it sends (see `docs/performance.md`). Credentials and the
endpoint still come from the SDK; errors leave as its `ClientError`, so that nobody behind this door sees a difference.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
from botocore.exceptions import ClientError
from pydantic_core import from_json

from orchestrator.aws.exchange import Exchange
from orchestrator.session.values import Json, JsonObject, json_bytes

if TYPE_CHECKING:
    from aiobotocore.credentials import AioCredentials

DYNAMODB: Final = "DynamoDB_20120810"
SQS: Final = "AmazonSQS"
CONTENT_TYPE: Final = "application/x-amz-json-1.0"
ALGORITHM: Final = "AWS4-HMAC-SHA256"
OK: Final = 200


class SigningKey:
    """The key of one day, region and service (AWS General Reference, "Signature Version 4 signing process")."""

    def __init__(self, region: str, service: str) -> None:
        self._scope = f"{region}/{service}/aws4_request"
        self._parts = (region, service, "aws4_request")
        self._made_for: tuple[str, str] | None = None
        self._key = b""

    def sign(self, date: str, secret: str, text: str) -> str:
        """Return the signature of a string to sign; the key is derived anew when day or secret change."""
        if self._made_for != (date, secret):
            key = hmac.digest(f"AWS4{secret}".encode(), date.encode(), "sha256")
            for part in self._parts:
                key = hmac.digest(key, part.encode(), "sha256")
            self._made_for, self._key = (date, secret), key
        return hmac.digest(self._key, text.encode(), "sha256").hex()

    def scope(self, date: str) -> str:
        """Return the credential scope of that day."""
        return f"{date}/{self._scope}"


class SignedClient:
    """POSTs JSON operations of one service to its endpoint, signed, over kept connections. One attempt each."""

    def __init__(
        self, exchange: Exchange, credentials: AioCredentials, *, url: str, region: str, service: str, target: str
    ) -> None:
        """`url` is the endpoint that the exchange posts to; `target` is the prefix of its operations' names."""
        self._exchange = exchange
        self._credentials = credentials
        self._host = urlsplit(url).netloc
        self._path = urlsplit(url).path
        self._key = SigningKey(region, service)
        self._target = target

    async def call(self, operation: str, request: Mapping[str, object]) -> JsonObject:
        """Return the answer's JSON object.

        Raises:
            ClientError: the service answered with an error.
            aiohttp.ClientError, TimeoutError: no answer, or half of one.
        """
        body = json_bytes(request)
        headers = await self._headers(f"{self._target}.{operation}", body, time.gmtime())
        status, answered, raw = await self._exchange.post(headers, body)
        if status != OK:
            raise _error(operation, status, answered.get("x-amzn-query-error"), raw)
        try:
            parsed: Json = from_json(raw) if raw else {}
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise aiohttp.ClientPayloadError(f"{operation}: the answer is no JSON object")
        return parsed

    async def _headers(self, target: str, body: bytes, now: time.struct_time) -> dict[str, str]:
        credentials = await self._credentials.get_frozen_credentials()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", now)
        date = stamp[:8]
        # In the order of their names, as they must be signed.
        headers = {"content-type": CONTENT_TYPE, "host": self._host, "x-amz-date": stamp}
        if credentials.token:
            headers["x-amz-security-token"] = credentials.token
        headers["x-amz-target"] = target
        names = ";".join(headers)
        lines = "".join([f"{name}:{value}\n" for name, value in headers.items()])
        digest = hashlib.sha256(body).hexdigest()
        canonical = f"POST\n{self._path}\n\n{lines}\n{names}\n{digest}"
        scope = self._key.scope(date)
        to_sign = f"{ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = self._key.sign(date, str(credentials.secret_key), to_sign)
        headers["authorization"] = (
            f"{ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return headers


def _error(operation: str, status: int, query_error: str | None, raw: bytes) -> ClientError:
    """Return the error answer as the SDK would raise it; a body that is no JSON counts by its status alone."""
    try:
        body = from_json(raw)
    except ValueError:
        body = {}
    fields = body if isinstance(body, dict) else {}
    # SQS keeps the codes of its older protocol in a header, and its callers know only those.
    code = (query_error or "").partition(";")[0] or str(fields.get("__type", status)).rpartition("#")[2]
    message = str(fields.get("message") or fields.get("Message") or raw[:200].decode("utf-8", "replace"))
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        operation,
    )
