"""Guarded task: a model answers a user's prompt, unless its guardrail blocks it. A user has so many tasks at once.

That a task failed is one event of its journal. What follows from it (the notification, the slot that goes back to the
user) follows from that event alone, so that neither a retry nor a crash can make it happen again. More in `README.md`.
"""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Final

from pydantic import BaseModel

from orchestrator import Orchestrator, RetryPolicy, SessionContext

MODEL_SECONDS: Final = 0.2
DENIED: Final = re.compile(r"\b(password|exploit)s?\b", re.IGNORECASE)
RETRY: Final = RetryPolicy(max_attempts=3, initial_delay=timedelta(seconds=0.25))
"""A guardrail is a model too, and errs: a block is looked at again, after a pause that grows."""

app = Orchestrator()


class Task(BaseModel):
    prompt: str


class Answer(BaseModel):
    text: str


class PromptBlocked(Exception):
    """The guardrail intervened; the text says over what."""


@app.session("guarded-task")
async def guarded_task(ctx: SessionContext, task: Task) -> Answer:
    return await ctx.step("ask", ask, task.prompt, retry=RETRY)


async def ask(prompt: str) -> Answer:
    """Stands in for a call of a model behind a guardrail, such as `Converse` of Bedrock with a `guardrailConfig`."""
    await asyncio.sleep(MODEL_SECONDS)
    denied = DENIED.search(prompt)
    if denied is not None:
        raise PromptBlocked(f"guardrail_intervened: {denied[0].lower()!r}")
    return Answer(text=f"You asked: {prompt}")
