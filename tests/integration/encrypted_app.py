"""An application whose sessions hold a secret in every kind of payload there is."""

import asyncio
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from orchestrator import Orchestrator, SessionContext, StepFailed, current_invocation

app = Orchestrator()


class Case(BaseModel):
    """What `vault` is started with."""

    secret: str
    gate: str


@app.agent("echo")
async def echo(prompt: dict[str, str], style: str) -> dict[str, str]:
    """Answer with the question, and say so meanwhile."""
    current_invocation().progress(f"thinking of {prompt['q']}", data={"q": prompt["q"]})
    return {"answer": f"{prompt['q']} {style}"}


async def fail(secret: str) -> None:
    """Raise what quotes the secret, as a parser does."""
    raise ValueError(f"cannot read {secret!r}")


async def wait_at(gate: str) -> str:
    """Return once the file is there."""
    while not await asyncio.to_thread(Path(gate).exists):
        await asyncio.to_thread(time.sleep, 0.02)
    return "open"


@app.session("double")
async def double(ctx: SessionContext, secret: str) -> str:
    """Be a child."""
    return secret * 2


@app.session("vault", redact=("secret", "card.number"))
async def vault(ctx: SessionContext, case: Case) -> dict[str, object]:
    """Let the secret go through everything that a session can do."""
    secret = case.secret
    ctx.logger.info("vault_opened", case=case, card={"number": secret, "kind": "debit"}, note=f"about {secret}")
    made = await ctx.step("make", lambda: {"made": secret})
    long = await ctx.step("long", lambda: [secret] * 500)
    with suppress(StepFailed):
        await ctx.step("fail", fail, secret)
    answer = await ctx.invoke_agent("echo", {"q": secret}, style=secret)
    child = await ctx.run_session("double", secret)
    told = await ctx.wait_for_signal("tell")
    approval = await ctx.request_approval("release", subject={"secret": secret}, approvers=[f"boss-{secret}"])
    callback = await ctx.create_callback("outside", timeout=timedelta(hours=1))
    file = await ctx.artifacts.put("file.txt", f"file of {secret}")
    await ctx.step("gate", wait_at, case.gate)
    content = (await ctx.artifacts.get(file)).decode()
    return {
        "made": made,
        "long": len(long),
        "answer": answer,
        "child": child,
        "told": told,
        "comment": approval.comment,
        "callback": callback.id,
        "content": content,
    }
