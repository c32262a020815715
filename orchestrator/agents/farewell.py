"""The last word to an agent elsewhere that nobody waits for any more: it may stop, and nothing depends on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from orchestrator.errors import OrchestratorError

FAREWELL_SECONDS_MAX: Final = 4.0
"""Less than an actor that leaves waits for what it cancelled."""


async def outcome_of(farewell: Awaitable[None]) -> str | None:
    """Return the code of what went wrong with it, `None` for nothing; within `FAREWELL_SECONDS_MAX`."""
    try:
        async with asyncio.timeout(FAREWELL_SECONDS_MAX):
            await farewell
    except TimeoutError:
        return "TIMED_OUT"
    except OrchestratorError as error:
        return error.code
    return None
