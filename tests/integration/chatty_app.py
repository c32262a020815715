"""An application that prints a lot, wants to write a file, and has a thread that never returns."""

import asyncio
import threading
from pathlib import Path

from orchestrator import Orchestrator, SessionContext

app = Orchestrator()
LINES = 500


def chat() -> int:
    for number in range(LINES):
        print("so much to say", number)
    return LINES


def write(file: str) -> str:
    try:
        Path(file).write_text("more than nothing")
    except OSError as error:
        return type(error).__name__
    return "written"


@app.session("chatty")
async def chatty(ctx: SessionContext, topic: str) -> int:
    for number in range(LINES):
        ctx.logger.info("something_said", number=number)
    return await ctx.step("chat", chat)


@app.session("writes")
async def writes(ctx: SessionContext, file: str) -> str:
    return await ctx.step("write", write, file)


async def wait_in_a_thread() -> None:
    await asyncio.to_thread(threading.Event().wait)


@app.session("waits")
async def waits(ctx: SessionContext) -> None:
    await ctx.step("wait", wait_in_a_thread)
