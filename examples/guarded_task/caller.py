"""Asks for a task, and again when no answer comes: `python -m examples.guarded_task.caller ann 'What is tea?'`.

Stands in for an SDK, a gateway or a Lambda function that retries by itself. The key makes all its tries one task, and
the user is the session's tenant, whose limit counts.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from http import HTTPStatus
from typing import Any, Final

import aiohttp

URL: Final = os.environ.get("ORCHESTRATOR_PUBLIC_URL", "http://127.0.0.1:8080")
TRIES: Final = 4
PATIENCE: Final = aiohttp.ClientTimeout(total=5.0)
PAUSE_SECONDS: Final = 0.5


async def submit(http: aiohttp.ClientSession, url: str, user: str, key: str, prompt: str) -> str:
    """Ask for the task until somebody says that it is accepted; return its session id."""
    body = {"session_type": "guarded-task", "tenant": user, "input": {"prompt": prompt}}
    for attempt in range(1, TRIES + 1):
        try:
            async with http.post(f"{url}/sessions", json=body, headers={"Idempotency-Key": key}) as answer:
                if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    answer.raise_for_status()
                    accepted: dict[str, Any] = await answer.json()
                    return str(accepted["session_id"])
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            print(f"try {attempt}: {error!r}", file=sys.stderr)
        await asyncio.sleep(PAUSE_SECONDS * attempt)
    raise SystemExit(f"nobody accepted the task {key} in {TRIES} tries")


async def main(user: str, prompt: str, key: str) -> None:
    async with aiohttp.ClientSession(timeout=PATIENCE) as http:
        session_id = await submit(http, URL, user, key, prompt)
        async with http.get(f"{URL}/sessions/{session_id}") as answer:
            print(json.dumps(await answer.json(), indent=2))


if __name__ == "__main__":
    if len(sys.argv) not in {3, 4}:
        raise SystemExit("usage: python -m examples.guarded_task.caller USER PROMPT [KEY]")
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) == 4 else uuid.uuid4().hex))
