"""The sessions that chaos runs: of everything a session can wait for one kind. Each run of user code leaves a record.

A record is a line of the file that CHAOS_RECORDS names, written before the code does anything else; its value is unique
and is what the code returns. A session ends with what it has seen, by operation.
"""

import asyncio
import json
import os
import uuid
from datetime import timedelta
from typing import Final

from pydantic import BaseModel

from orchestrator import (
    Callback,
    Orchestrator,
    RetryPolicy,
    SessionContext,
    StepInterrupted,
    current_invocation,
)
from orchestrator.session.values import Json
from tests.chaos.parent import die_with_parent

RECORDS: Final = "CHAOS_RECORDS"
VERSION: Final = "CHAOS_VERSION"
"""Which deploy of this code runs: from 1 on a link of a chain is one step more."""
NUDGE: Final = "nudge"
LISTENS_FOR: Final = 3
GENERATIONS: Final = 3
FOREVER: Final = timedelta(days=30)
SOON: Final = RetryPolicy(max_attempts=4, initial_delay=timedelta(milliseconds=100))
CHANGE: Final = "a-step-more"

die_with_parent()
app = Orchestrator()
deploys = int(os.environ.get(VERSION, "0"))


class Plan(BaseModel):
    """What a session is started with: how many operations, how long each takes, how many characters each returns."""

    count: int = 3
    seconds: float = 0.2
    size: int = 0


Seen = dict[str, object]


def note(**fields: Json) -> None:
    """Add a line to the records; one write, so that neither a kill nor another node tears it."""
    line = json.dumps({**fields, "pid": os.getpid()}) + "\n"
    records = os.open(os.environ[RECORDS], os.O_APPEND | os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(records, line.encode())
    finally:
        os.close(records)


def begin(epoch: int, detail: str = "") -> str:
    """Record that this run began, and return its unique value; `once` in `detail` where nobody may run it again."""
    run, value = current_invocation(), uuid.uuid4().hex
    note(
        kind="ran",
        session_id=run.session_id,
        operation=run.operation,
        attempt=run.attempt,
        epoch=epoch,
        value=value,
        detail=detail,
    )
    return value


async def work(epoch: int, plan: Plan) -> str:
    value = begin(epoch)
    await asyncio.sleep(plan.seconds)
    return value


async def work_once(epoch: int, plan: Plan) -> str:
    value = begin(epoch, "once")
    await asyncio.sleep(plan.seconds)
    return value


async def stumble(epoch: int) -> str:
    """Fail on the first two attempts."""
    value = begin(epoch)
    if current_invocation().attempt < 3:
        raise ConnectionError("not yet")
    return value


async def swell(epoch: int, size: int) -> dict[str, str]:
    """Return a result too long for the table; random, so that compression does not make it short."""
    return {"value": begin(epoch), "filler": os.urandom(size // 2).hex()}


@app.agent("clerk")
async def clerk(prompt: dict[str, float]) -> object:
    value = begin(0)
    await asyncio.sleep(prompt["seconds"])
    return value


@app.session("chain")
async def chain(ctx: SessionContext, plan: Plan) -> Seen:
    """Steps, one after the other."""
    seen: Seen = {}
    for name in (f"link-{number}" for number in range(plan.count)):
        seen[name] = await ctx.step(name, work, ctx.epoch, plan)
        if deploys and ctx.patched(CHANGE):
            seen[f"{name}-more"] = await ctx.step(f"{name}-more", work, ctx.epoch, plan)
    return seen


@app.session("careful")
async def careful(ctx: SessionContext, plan: Plan) -> Seen:
    """Steps that nobody may run twice."""
    seen: Seen = {}
    for name in (f"once-{number}" for number in range(plan.count)):
        try:
            seen[name] = await ctx.step(name, work_once, ctx.epoch, plan, semantics="at_most_once")
        except StepInterrupted:
            seen[name] = None
    return seen


@app.session("stumbling")
async def stumbling(ctx: SessionContext, plan: Plan) -> Seen:
    """A step that is tried again."""
    return {"stumble": await ctx.step("stumble", stumble, ctx.epoch, retry=SOON)}


@app.session("clerks")
async def clerks(ctx: SessionContext, plan: Plan) -> Seen:
    """Agents in the background, at once."""
    names = [f"clerk-{number}" for number in range(plan.count)]
    results = await ctx.gather(*(ctx.invoke_agent("clerk", {"seconds": plan.seconds}, name=name) for name in names))
    return dict(zip(names, results, strict=True))


@app.session("sleepy")
async def sleepy(ctx: SessionContext, plan: Plan) -> Seen:
    """Timers long enough to leave memory."""
    seen: Seen = {}
    for name in (f"awake-{number}" for number in range(plan.count)):
        await ctx.sleep(plan.seconds * 10)
        seen[name] = await ctx.step(name, work, ctx.epoch, plan)
    return seen


@app.session("listening")
async def listening(ctx: SessionContext, plan: Plan) -> Seen:
    """Signals, a step after each."""
    seen: Seen = {}
    for number in range(LISTENS_FOR):
        seen[f"{NUDGE}-{number}"] = await ctx.wait_for_signal(NUDGE)
        seen[f"heard-{number}"] = await ctx.step(f"heard-{number}", work, ctx.epoch, plan)
    return seen


def hand_out(callback: Callback) -> None:
    note(
        kind="callback",
        session_id=current_invocation().session_id,
        callback_id=callback.id,
        token=callback.token,
    )


@app.session("promising")
async def promising(ctx: SessionContext, plan: Plan) -> Seen:
    """A callback that somebody outside answers."""
    answer = await ctx.wait_for_callback("answer", hand_out, timeout=FOREVER)
    return {"answer": answer, "after": await ctx.step("after", work, ctx.epoch, plan)}


@app.session("family")
async def family(ctx: SessionContext, plan: Plan) -> Seen:
    """Children, at once, of several kinds."""
    names = ("chain", "clerks", "sleepy")
    results = await ctx.gather(*(ctx.run_session(kind, plan, name=f"child-{kind}") for kind in names))
    return {f"child-{kind}": result for kind, result in zip(names, results, strict=True)}


class Line(BaseModel):
    """What a generation is started with: what those before it have seen."""

    seen: dict[str, object] = {}


@app.session("dynasty")
async def dynasty(ctx: SessionContext, line: Line) -> Seen:
    """Generations, each of which hears one signal; signals for the last may come to the first."""
    number = len(line.seen) // 2 + 1
    seen = {**line.seen, f"reigned-{number}": await ctx.step(f"reigned-{number}", work, ctx.epoch, Plan(seconds=0.1))}
    seen[f"{NUDGE}-{number}"] = await ctx.wait_for_signal(NUDGE)
    if number < GENERATIONS:
        ctx.continue_as_new(Line(seen=seen))
    return seen


@app.session("failing")
async def failing(ctx: SessionContext, plan: Plan) -> Seen:
    """An undo step, and the end that calls for it."""
    ctx.on_failure("undo", work, ctx.epoch, plan)
    await ctx.step("do", work, ctx.epoch, plan)
    raise RuntimeError("as planned")


@app.session("cancelled")
async def cancelled(ctx: SessionContext, plan: Plan) -> Seen:
    """Waits until somebody ends it."""
    ctx.on_failure("undo", work, ctx.epoch, plan)
    await ctx.step("do", work, ctx.epoch, plan)
    await ctx.sleep(FOREVER)
    return {}


@app.session("bulky")
async def bulky(ctx: SessionContext, plan: Plan) -> Seen:
    """Results and files that live in the bucket."""
    swollen = await ctx.step("swell", swell, ctx.epoch, plan.size)
    reference = await ctx.artifacts.put("file", swollen["filler"].encode())
    read = (await ctx.artifacts.get(reference)).decode()
    return {"swell": swollen["value"], "same": read == swollen["filler"]}
