"""Notices by `POST` to an address, signed as Standard Webhooks are (https://www.standardwebhooks.com).

The receiver is anybody's server: it gets little time, is not followed elsewhere, and its answer is not read.
"""

from __future__ import annotations

import binascii
from datetime import UTC
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
from standardwebhooks.webhooks import Webhook

from actors import Clock
from orchestrator.notifications import SEND_SECONDS_MAX, ApprovalNotice, NotDelivered, WorldNotice
from orchestrator.notifications.document import document_of
from orchestrator.session.values import JsonObject, compact_json, format_instant

if TYPE_CHECKING:
    from datetime import datetime

GONE: Final = 410
"""The receiver wants no more of it (Standard Webhooks, "Status codes")."""
SECRET_PREFIX: Final = "whsec_"
SECRET_BYTES: Final = range(24, 65)
"""Standard Webhooks, "Signature scheme": between 24 and 64 bytes."""
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class WebhookChannel:
    """One address, and the secret that it knows us by. `clock` gives the time that is signed."""

    def __init__(self, url: str, secret: str, clock: Clock, *, seconds_max: float = SEND_SECONDS_MAX) -> None:
        self._url = url
        self._webhook = Webhook(secret)
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=seconds_max)

    async def tell(self, notice: WorldNotice) -> None:
        """Return when the receiver answered 2xx. Raises `NotDelivered`."""
        body = compact_json(body_of(notice))
        headers = self._headers(notice.notification_id, self._clock.now(), body)
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()) as http,
                http.post(self._url, data=body.encode(), headers=headers, allow_redirects=False) as answer,
            ):
                status = answer.status
        except TimeoutError:
            raise NotDelivered("TIMEOUT") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotDelivered(type(error).__name__) from None
        if not 200 <= status < 300:
            raise NotDelivered(f"HTTP_{status}", is_final=status == GONE)

    def _headers(self, notification_id: str, now: datetime, body: str) -> dict[str, str]:
        at = now.astimezone(UTC)
        return {
            "Content-Type": "application/json",
            "webhook-id": notification_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": self._webhook.sign(notification_id, at, body),
        }


def body_of(notice: WorldNotice) -> JsonObject:
    """Return what is sent: `type`, `timestamp`, `data`; with its token where somebody is to answer."""
    data = document_of(notice)
    if isinstance(notice, ApprovalNotice):
        data |= {"token": notice.token}
    return {"type": notice.kind.lower().replace(" ", "."), "timestamp": format_instant(notice.at), "data": data}


def check_url(url: str) -> None:
    """Return if notices may be sent there. Raises `ValueError`: its text says what was expected."""
    parts = urlsplit(url)
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise ValueError("not an https address")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValueError("must be https, unless it leads to this machine")


def check_secret(secret: str) -> None:
    """Return if a webhook can be signed with it. Raises `ValueError`."""
    try:
        key = binascii.a2b_base64(secret.removeprefix(SECRET_PREFIX) + "==", strict_mode=False)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) not in SECRET_BYTES:
        raise ValueError(f"expected {SECRET_PREFIX} and 24 to 64 bytes in base64, as of `openssl rand -base64 32`")
