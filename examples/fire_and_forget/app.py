"""Fire and forget: an analysis takes minutes, and whoever starts it holds nothing open meanwhile.

The agent is asked once and runs in the background of its node, which is HEALTHY_BUSY until it has answered.
"""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import Final

from pydantic import BaseModel

from orchestrator import NonRetryable, Orchestrator, SessionContext

AGENT_SECONDS: Final = float(os.environ.get("AGENT_SECONDS", "164"))

app = Orchestrator()


class Order(BaseModel):
    order: str
    amount: int


class Analysis(BaseModel):
    order: str
    risk: str


@app.session("analyse-order")
async def analyse_order(ctx: SessionContext, order: Order) -> Analysis:
    return Analysis.model_validate(await ctx.invoke_agent("analyst", order, timeout=timedelta(hours=1)))


@app.agent("analyst")
async def analyst(prompt: dict[str, object]) -> Analysis:
    """Stand in for a model that takes its time."""
    order = Order.model_validate(prompt)
    await asyncio.sleep(AGENT_SECONDS)
    if order.amount <= 0:
        raise NonRetryable(f"order {order.order}: nothing to analyse in an amount of {order.amount}")
    return Analysis(order=order.order, risk="high" if order.amount > 1_000 else "low")
