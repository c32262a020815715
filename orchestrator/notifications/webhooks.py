"""Notices by `POST` to an address, signed as Standard Webhooks are (https://www.standardwebhooks.com).

The receiver is anybody's server: it gets little time, is not followed elsewhere, and its answer is not read.
"""

from __future__ import annotations

import asyncio
from datetime import UTC
from typing import TYPE_CHECKING, Final

import aiohttp
from standardwebhooks.webhooks import Webhook

from actors import Clock
from orchestrator.notifications import SEND_SECONDS_MAX, ApprovalNotice, NotDelivered, WorldNotice
from orchestrator.notifications.document import document_of
from orchestrator.session.values import JsonObject, compact_json, format_instant

if TYPE_CHECKING:
    from datetime import datetime

SENDS_AT_ONCE_MAX: Final = 64
GONE: Final = 410
"""The receiver wants no more of it (Standard Webhooks, "Status codes")."""


class WebhookChannel:
    """One address, and the secret that it knows us by. `clock` gives the time that is signed."""

    def __init__(self, url: str, secret: str, clock: Clock, *, seconds_max: float = SEND_SECONDS_MAX) -> None:
        self._url = url
        self._webhook = Webhook(secret)
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=seconds_max)
        self._places = asyncio.Semaphore(SENDS_AT_ONCE_MAX)
        self._under_way = 0
        self._hangs = False

    async def tell(self, notice: WorldNotice) -> None:
        """Return when the receiver answered 2xx. Raises `NotDelivered`.

        A receiver that hangs is asked by one session at a time: the others would wait in memory only to hear the same.
        """
        async with self._places:
            if self._hangs and self._under_way:
                raise NotDelivered("TARGET_HANGS")
            self._under_way += 1
            try:
                await self._post(notice)
            finally:
                self._under_way -= 1

    async def _post(self, notice: WorldNotice) -> None:
        body = compact_json(body_of(notice))
        headers = self._headers(notice.notification_id, self._clock.now(), body)
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()) as http,
                http.post(self._url, data=body.encode(), headers=headers, allow_redirects=False) as answer,
            ):
                status = answer.status
        except TimeoutError:
            self._hangs = True
            raise NotDelivered("TIMEOUT") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotDelivered(type(error).__name__) from None
        self._hangs = False
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
