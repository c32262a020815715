"""An application for the tests: well-behaved handlers, and one of every kind that is not.

A step that tests count leaves a line in the file that its input names; a gate is a file that lets a step on.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from orchestrator import (
    Approval,
    Budget,
    Callback,
    NonRetryable,
    Orchestrator,
    RetryPolicy,
    S3Object,
    SessionCancelled,
    SessionContext,
    current_invocation,
)

app = Orchestrator()


class Order(BaseModel):
    """What `order` is started with."""

    item: str
    amount: int
    trail: str | None = None
    gate: str | None = None


@dataclass
class Receipt:
    """What `order` ends with."""

    number: str
    total: int


def leave_trail(order: Order) -> None:
    """Add a line to the trail: one a run."""
    if order.trail is not None:
        append(order.trail, current_invocation().idempotency_key)


def append(path: str, line: str) -> None:
    """Add a line to a file."""
    with Path(path).open("a") as lines:
        lines.write(f"{line}\n")


async def price(order: Order) -> int:
    leave_trail(order)
    return order.amount * 2


async def pass_gate(order: Order) -> bool:
    leave_trail(order)
    if order.gate is not None:
        await opened(Path(order.gate))
    return True


async def opened(gate: Path) -> None:
    """Return once the file is there."""
    while not await asyncio.to_thread(gate.exists):
        await asyncio.to_thread(time.sleep, 0.02)


def stamp(order: Order) -> str:
    leave_trail(order)
    return f"{current_invocation().session_id}/{order.item}"


@app.agent("clerk")
class Clerk:
    async def invoke_async(self, prompt: object, **kwargs: object) -> object:
        current_invocation().progress("reading", 50)
        return {"seen": prompt, "usage": {"inputTokens": 3, "outputTokens": 4}}


@app.session("order")
async def order(ctx: SessionContext, order: Order) -> Receipt:
    total = await ctx.step("price", price, order)
    await ctx.step("gate", pass_gate, order)
    number = await ctx.step("stamp", stamp, order)
    await ctx.invoke_agent("clerk", {"item": order.item})
    ctx.logger.info("receipt_written")
    return Receipt(number, total)


@app.session("frugal", budget=Budget(agent_calls=1, on_reached="ask"))
async def frugal(ctx: SessionContext) -> str:
    for _ in range(2):
        await ctx.invoke_agent("clerk", "tea")
    return "done"


@app.session("echo")
async def echo(ctx: SessionContext, value: object) -> object:
    return value


@app.session("raises")
async def raises(ctx: SessionContext) -> None:
    raise RuntimeError("the handler's own reason")


@app.session("not-json")
async def not_json(ctx: SessionContext) -> object:
    return object()


@app.session("never-returns")
async def never_returns(ctx: SessionContext) -> None:
    await asyncio.Event().wait()


@app.session("swallows-cancellation")
async def swallows_cancellation(ctx: SessionContext) -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


def block(seconds: float) -> None:
    time.sleep(seconds)


@app.session("blocks-the-loop")
async def blocks_the_loop(ctx: SessionContext, seconds: float) -> str:
    # A handler's own mistake: this runs on the event loop.
    block(seconds)
    return "done"


async def flaky(trail: str) -> int:
    """Fail twice, then tell the attempt."""
    append(trail, "try")
    if current_invocation().attempt < 3:
        raise ConnectionError("not yet")
    return current_invocation().attempt


@app.session("flaky")
async def flaky_session(ctx: SessionContext, trail: str) -> int:
    policy = RetryPolicy(max_attempts=5, initial_delay=timedelta(milliseconds=20))
    return await ctx.step("try", flaky, trail, retry=policy)


def refuse() -> None:
    raise NonRetryable("will never work")


@app.session("refused")
async def refused(ctx: SessionContext) -> None:
    await ctx.step("refuse", refuse, retry=RetryPolicy(max_attempts=10))


@app.on_s3_object(prefix="in/", suffix=".txt")
@app.session("file")
async def file(ctx: SessionContext, created: S3Object) -> str:
    return f"{created.bucket}/{created.key}"


async def large(size: int) -> str:
    return "x" * size


@app.session("large-result")
async def large_result(ctx: SessionContext, size: int) -> int:
    return len(await ctx.step("large", large, size))


async def leave(code: int) -> None:
    raise SystemExit(code)


@app.session("exits-in-a-task")
async def exits_in_a_task(ctx: SessionContext) -> None:
    await asyncio.gather(leave(3), asyncio.Event().wait())


# --- those that wait -------------------------------------------------------------------------------------------------


@app.session("takes-signals")
async def takes_signals(ctx: SessionContext, count: int) -> list[object]:
    return [await ctx.wait_for_signal("nudge") for _ in range(count)]


class Promise(BaseModel):
    """What `promises` is started with: the file that gets the callback, and how long that is open, in seconds."""

    handed_to: str
    timeout: float = 3_600.0


@app.session("promises")
async def promises(ctx: SessionContext, promise: Promise) -> object:
    def hand_out(callback: Callback) -> None:
        append(promise.handed_to, json.dumps({"id": callback.id, "token": callback.token, "url": callback.url}))

    return await ctx.wait_for_callback("answer", hand_out, timeout=promise.timeout)


@app.session("asks")
async def asks(ctx: SessionContext, approvers: list[str] | None) -> Approval:
    return await ctx.request_approval("publish", {"draft": 1}, approvers=approvers, timeout=timedelta(hours=1))


@app.session("cleans-up")
async def cleans_up(ctx: SessionContext, trail: str) -> None:
    ctx.on_failure("undo", append, trail, ctx.session_id)
    try:
        await ctx.sleep(timedelta(days=30))
    except SessionCancelled:
        await ctx.step("clean", append, trail, ctx.session_id)
        raise


class Nap(BaseModel):
    """What `naps` is started with."""

    seconds: float
    trail: str


@app.session("naps")
async def naps(ctx: SessionContext, nap: Nap) -> None:
    await ctx.sleep(nap.seconds)
    await ctx.step("awake", append, nap.trail, ctx.session_id)


@app.session("generations")
async def generations(ctx: SessionContext, number: int) -> object:
    if number < 3:
        ctx.continue_as_new(number + 1)
    return await ctx.wait_for_signal("nudge", timeout=timedelta(hours=1))


@app.session("branches-out")
async def branches_out(ctx: SessionContext, seconds: float) -> None:
    await ctx.gather(ctx.step("left", abs, -1), ctx.step("right", abs, -2), ctx.run_session("echo", 3, key="child"))
    await ctx.sleep(seconds)


@app.session("waits-for-everything")
async def waits_for_everything(ctx: SessionContext) -> None:
    await ctx.gather(
        ctx.sleep(timedelta(days=1)),
        ctx.create_callback("answer", timeout=timedelta(hours=2)),
        ctx.request_approval("publish", {"draft": 1}, approvers=["ann"]),
        ctx.request_approval("pay", None),
        ctx.wait_for_signal("nudge", timeout=timedelta(hours=3)),
        ctx.run_session("takes-signals", 1, key="child"),
    )
