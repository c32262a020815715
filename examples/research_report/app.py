"""Research report: agents elsewhere work for hours, a person answers within a day, and a process may die at any line.

The handler reads from top to bottom. Whatever it waits for, it waits in the table: no process needs to live meanwhile,
and the one that goes on repeats nothing that is recorded. `README.md` takes you through it.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Final, Literal, Protocol

import aiohttp
from pydantic import BaseModel

from examples.research_report.texts import Text, draft_of, questions_on
from orchestrator import Callback, Orchestrator, RetryPolicy, SessionContext, current_invocation

AGENTS_URL: Final = os.environ.get("AGENTS_URL", "http://127.0.0.1:8090")
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
UNTIL_THEY_TAKE_IT: Final = RetryPolicy(max_attempts=200, max_delay=timedelta(seconds=10))

app = Orchestrator()


class Request(BaseModel):
    topic: str


class Outcome(BaseModel):
    """How it ended: `url` leads to the report, or to the draft that was rejected, for seven days."""

    status: Literal["COMPLETED", "REJECTED"]
    url: str
    by: str
    comment: str | None


class Ask(Protocol):
    """How an agent is given work, and its answer waited for; `remote.py` has another way."""

    async def __call__(self, ctx: SessionContext, name: str, agent: str, text: str, *, timeout: timedelta) -> str:
        """Return the agent's answer."""
        ...


@app.session("research-report")
async def research_report(ctx: SessionContext, request: Request) -> Outcome:
    return await report(ctx, request, ask)


async def report(ctx: SessionContext, request: Request, ask: Ask) -> Outcome:
    questions = await ctx.step("init", questions_on, request.topic)
    notes = await ask(ctx, "research", "researcher", questions, timeout=4 * HOUR)
    analysis = await ask(ctx, "analysis", "analyst", notes, timeout=2 * HOUR)

    draft = await ctx.artifacts.put("draft.md", draft_of(request.topic, analysis))
    link = await ctx.artifacts.presigned_url(draft, expires=DAY)
    verdict = await ctx.request_approval("publish", {"topic": request.topic, "draft": link}, timeout=DAY)
    if not verdict.approved:
        url = await ctx.artifacts.presigned_url(draft, expires=7 * DAY)
        return Outcome(status="REJECTED", url=url, by=verdict.by, comment=verdict.comment)

    text = await ask(ctx, "writing", "writer", draft_of(request.topic, analysis), timeout=HOUR)
    stored = await ctx.artifacts.put("report.md", text)
    url = await ctx.artifacts.presigned_url(stored, expires=7 * DAY)
    return Outcome(status="COMPLETED", url=url, by=verdict.by, comment=verdict.comment)


async def ask(ctx: SessionContext, name: str, agent: str, text: str, *, timeout: timedelta) -> str:
    """Give an agent work that it answers by callback, and return the answer; nothing runs here while it works."""
    callback = await ctx.create_callback(name, timeout=timeout)
    await ctx.step(f"{name}.submit", submit, agent, text, callback, retry=UNTIL_THEY_TAKE_IT)
    return Text.model_validate(await callback.result()).text


async def submit(agent: str, text: str, callback: Callback) -> None:
    """Hand the work over, with where to answer. A crash may do it twice: the key tells the agent that it is one."""
    work = {"text": text, "url": callback.url, "token": callback.token}
    key = current_invocation().idempotency_key
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{AGENTS_URL}/agents/{agent}", json=work, headers={"Idempotency-Key": key}) as answer,
    ):
        answer.raise_for_status()
