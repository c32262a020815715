"""The sessions that use one operation each, and those that wait: what the figures on waiting and on cost run.

To add an operation to the cost table: a session type here that uses it once, and a line in `operations.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import TypedDict

from orchestrator import Orchestrator, SessionContext
from orchestrator.calls import Callback

TOKENS = "BENCH_TOKENS"
"""The variable that names the file to which handlers append the callbacks they were given: session, id, token."""
NAP_SECONDS = 0.05
LONG_NAP_SECONDS = 2.0
RESULT = "x" * 100


class Spec(TypedDict):
    """`bytes`: as the sender names its number; for `due` the unix time at which to go on, else of no meaning."""

    bytes: int


async def produce() -> str:
    return RESULT


async def note_time() -> float:
    return time.time()


async def echo(prompt: str) -> str:
    return prompt


def hand_out(session_id: str, callback: Callback) -> None:
    """Tell the bench of a callback. Outside of any step, so that nothing but the callback is paid for."""
    file = os.open(os.environ[TOKENS], os.O_APPEND | os.O_WRONLY | os.O_CREAT)
    os.write(file, f"{session_id} {callback.id} {callback.token}\n".encode())
    os.close(file)


async def empty(ctx: SessionContext, spec: Spec) -> int:
    return 0


async def step(ctx: SessionContext, spec: Spec) -> object:
    return len(await ctx.step("op", produce))


async def agent(ctx: SessionContext, spec: Spec) -> object:
    return await ctx.invoke_agent("echo", RESULT, name="op") and 0


async def nap(ctx: SessionContext, spec: Spec) -> object:
    await ctx.sleep(NAP_SECONDS, name="op")
    return 0


async def long_nap(ctx: SessionContext, spec: Spec) -> object:
    await ctx.sleep(LONG_NAP_SECONDS, name="op")
    return 0


async def callback(ctx: SessionContext, spec: Spec) -> object:
    promised = await ctx.create_callback("op")
    hand_out(ctx.session_id, promised)
    return await promised.result() and 0


async def approval(ctx: SessionContext, spec: Spec) -> object:
    return (await ctx.request_approval("op", RESULT)).approved and 0


async def signal(ctx: SessionContext, spec: Spec) -> object:
    return await ctx.wait_for_signal("op") and 0


async def child(ctx: SessionContext, spec: Spec) -> object:
    return await ctx.run_session("empty", {"bytes": 0}, name="op")


async def progress(ctx: SessionContext, spec: Spec) -> object:
    await ctx.progress("half", 50.0)
    return 0


async def patched(ctx: SessionContext, spec: Spec) -> object:
    return int(ctx.patched("change")) * 0


async def continued(ctx: SessionContext, spec: Spec) -> object:
    if spec["bytes"]:
        ctx.continue_as_new({"bytes": 0})
    return 0


async def artifact(ctx: SessionContext, spec: Spec) -> object:
    return await ctx.artifacts.put("op", RESULT.encode()) and 0


async def due(ctx: SessionContext, spec: Spec) -> object:
    """Sleep until a time that many sessions share."""
    await ctx.sleep(max(0.001, spec["bytes"] - ctx.now().timestamp()))
    return 0


async def awaited(ctx: SessionContext, spec: Spec) -> object:
    """A callback, and a step behind it that says when it began."""
    promised = await ctx.create_callback("op")
    hand_out(ctx.session_id, promised)
    await promised.result()
    return await ctx.step("next", note_time)


Handler = Callable[[SessionContext, Spec], Awaitable[object]]
HANDLERS: tuple[Handler, ...] = (
    *(empty, step, agent, nap, long_nap, callback, approval, signal, child, progress, patched, continued, artifact),
    *(due, awaited),
)


def declare(app: Orchestrator) -> None:
    """Give an application these session types, each under its handler's name."""
    app.agent("echo")(echo)
    for handler in HANDLERS:
        app.session(handler.__name__)(handler)
