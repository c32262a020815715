"""Writes to a HEAD as the suites over `Heads` make them, and its listing as they read it.

To change it: no test logic here.
"""

from collections.abc import Awaitable
from datetime import timedelta

from orchestrator.cluster import Head, Heads, Page
from orchestrator.session.transitions import SessionStatus
from tests.contract.waiting import START

LATER = START + timedelta(minutes=5)
HOUR = timedelta(hours=1)


def claim(heads: Heads, seen: Head) -> Awaitable[Head]:
    return heads.claim(seen, node_id="node-b", nonce="nonce-2", at=LATER, from_dead_owner=False)


def end(heads: Heads, seen: Head) -> Awaitable[Head]:
    return heads.end(seen, SessionStatus.COMPLETED, last_seq=9, at=LATER)


def release(heads: Heads, seen: Head) -> Awaitable[Head]:
    return heads.release(seen, SessionStatus.SUSPENDED, last_seq=5, at=LATER, wake_at=LATER + HOUR)


async def listed(heads: Heads, *, cursor: str | None = None, limit: int = 100, **only: str) -> Page:
    status = only.get("status")
    return await heads.listing(
        status=None if status is None else SessionStatus(status),
        session_type=only.get("session_type"),
        tenant=only.get("tenant"),
        cursor=cursor,
        limit=limit,
    )


async def all_pages(heads: Heads, limit: int, **only: str) -> list[str]:
    page = await listed(heads, limit=limit, **only)
    found = [each.session_id for each in page.heads]
    for _ in range(100):
        if page.cursor is None:
            return found
        page = await listed(heads, limit=limit, cursor=page.cursor, **only)
        found += [each.session_id for each in page.heads]
    raise AssertionError("the listing has no end")
