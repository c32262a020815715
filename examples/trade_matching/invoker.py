"""A function with a time limit that waits for the outcome of a document, and the platform that calls it again.

Stands in for a Lambda function that is invoked asynchronously: cut off at its limit, it is called twice more with the
same event. What it starts is one session, and each call is answered with its id.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import aiohttp

from examples.trade_matching.app import Document, Outcome, content_of

LIMIT_SECONDS: Final = 60.0
CALLS_MAX: Final = 3
POLL_SECONDS: Final = 0.2


@dataclass(slots=True)
class Call:
    """One call of the function: what it was told, and the outcome where that came within the limit."""

    status: int = 0
    session_id: str = ""
    outcome: Outcome | None = None


async def invoked(
    http: aiohttp.ClientSession,
    url: str,
    document: Document,
    *,
    limit_seconds: float = LIMIT_SECONDS,
    calls_max: int = CALLS_MAX,
) -> list[Call]:
    """Call the function until it comes to its end within the limit, so many times at most; return the calls."""
    calls: list[Call] = []
    while len(calls) < calls_max and not (calls and calls[-1].outcome):
        calls.append(Call())
        try:
            await asyncio.wait_for(handler(http, url, document, calls[-1]), limit_seconds)
        except TimeoutError:
            continue
    return calls


async def handler(http: aiohttp.ClientSession, url: str, document: Document, call: Call) -> None:
    """Start the document's session, or find it started, and wait for its end."""
    start = {"session_type": "confirm-trade", "input": document.model_dump()}
    async with http.post(
        f"{url}/sessions", json=start, headers={"Idempotency-Key": content_of(document)}, raise_for_status=True
    ) as answer:
        call.status, call.session_id = answer.status, (await answer.json())["session_id"]
    while True:
        async with http.get(f"{url}/sessions/{call.session_id}", raise_for_status=True) as answer:
            view = await answer.json()
        if view["result"] is not None or view["error"] is not None:
            call.outcome = Outcome.model_validate(view["result"])
            return
        await asyncio.sleep(POLL_SECONDS)
