"""The application of the environment's tests: sessions that wait for all there is. To change it: no test logic here."""

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta

from pydantic import BaseModel

from orchestrator import (
    AgentFailed,
    Approval,
    CallbackFailed,
    ChildSessionFailed,
    OperationTimedOut,
    Orchestrator,
    RetryPolicy,
    SessionCancelled,
    SessionContext,
)

WEEK = timedelta(days=7)
TWICE = RetryPolicy(max_attempts=2, initial_delay=timedelta(minutes=1))
app = Orchestrator()


class Request(BaseModel):
    topic: str


@dataclass
class Report:
    text: str


@app.agent("researcher")
class Researcher:
    async def invoke_async(self, prompt: dict[str, str], **kwargs: object) -> str:
        return f"all about {prompt['topic']}"


@app.session("research")
async def research(ctx: SessionContext, request: Request) -> Report:
    notes = await ctx.invoke_agent("researcher", {"topic": request.topic}, timeout=timedelta(hours=4))
    await ctx.sleep(WEEK)
    return Report(await ctx.step("outline", shout, str(notes)))


def shout(text: str) -> str:
    return text.upper()


@app.session("slow")
async def slow(ctx: SessionContext) -> list[str]:
    started = ctx.now()
    await ctx.step("thread", nap)
    await ctx.sleep(timedelta(hours=1))
    await ctx.step("coroutine", doze)
    await ctx.sleep(timedelta(hours=1))
    return [str(ctx.now() - started)]


def nap() -> None:
    time.sleep(0.05)


async def doze() -> None:
    await asyncio.sleep(0.05)


@app.session("nudged")
async def nudged(ctx: SessionContext) -> object:
    first = await ctx.wait_for_signal("nudge")
    return [first, await ctx.wait_for_signal("nudge", timeout=timedelta(days=1))]


@app.session("paid")
async def paid(ctx: SessionContext) -> object:
    callback = await ctx.create_callback("payment", timeout=timedelta(days=3))
    try:
        return await callback.result()
    except (CallbackFailed, OperationTimedOut) as failed:
        return f"{failed.code}: {failed.error.message}"


@app.session("published")
async def published(ctx: SessionContext) -> object:
    await ctx.sleep(timedelta(hours=1))
    answer: Approval = await ctx.request_approval("publish", "a draft", approvers=["ann", "bob"])
    return [answer.approved, answer.by, answer.comment]


@app.session("parent")
async def parent(ctx: SessionContext, children: list[str]) -> object:
    try:
        return await ctx.gather(*(ctx.run_session(child, {"topic": "tea"}, name=child) for child in children))
    except ChildSessionFailed as failed:
        return failed.error.message


@app.session("failing")
async def failing(ctx: SessionContext) -> None:
    await ctx.sleep(1)
    raise ValueError("no tea")


@app.session("tidy")
async def tidy(ctx: SessionContext) -> None:
    try:
        await ctx.sleep(WEEK)
    except SessionCancelled:
        await ctx.step("tidy-up", str)
        raise


@app.session("again")
async def again(ctx: SessionContext, left: int) -> str:
    await ctx.sleep(WEEK)
    if left:
        ctx.continue_as_new(left - 1)
    return ctx.session_id


@app.session("patient")
async def patient(ctx: SessionContext) -> object:
    try:
        return await ctx.invoke_agent("researcher", {"topic": "tea"}, timeout=timedelta(hours=4), retry=TWICE)
    except (AgentFailed, OperationTimedOut) as failed:
        return failed.code


@app.session("steps")
async def steps(ctx: SessionContext, names: list[str]) -> list[str]:
    done = []
    for name in names:
        done.append(await ctx.step(name, RAN.append_and_return, name))
        await ctx.sleep(1)
    return done


class Ran(list[str]):
    def append_and_return(self, name: str) -> str:
        self.append(name)
        return name


RAN = Ran()
