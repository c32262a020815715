"""The first of three: what speaks for another portfolio? `orchestrator serve examples.trading_workflow.signals:app`."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from pydantic import BaseModel

from examples.trading_workflow.chain import DESK, REQUESTED
from orchestrator import Event, NonRetryable, Orchestrator, SessionContext

MODEL_SECONDS: Final = 0.2
TARGETS: Final = {"growth": {"ACME": 60, "GLOBEX": 0, "INITECH": 40}, "income": {"ACME": 10, "GLOBEX": 90}}

app = Orchestrator()


class Request(BaseModel):
    portfolio: str


class Signals(BaseModel):
    """What a portfolio should hold: symbol → pieces."""

    portfolio: str
    targets: dict[str, int]


def request_of(event: Event) -> object:
    return event.detail


@app.on_event(source=DESK, detail_type=REQUESTED, transform=request_of)
@app.session("find-signals")
async def find_signals(ctx: SessionContext, request: Request) -> Signals:
    return Signals.model_validate(await ctx.invoke_agent("analyst", request, timeout=timedelta(hours=1)))


@app.agent("analyst")
async def analyst(prompt: dict[str, str]) -> Signals:
    """Stand in for a model that reads the news."""
    portfolio = Request.model_validate(prompt).portfolio
    await asyncio.sleep(MODEL_SECONDS)
    if portfolio not in TARGETS:
        raise NonRetryable(f"no portfolio {portfolio!r}")
    return Signals(portfolio=portfolio, targets=TARGETS[portfolio])
