"""The second of three: which trades lead there? `orchestrator serve examples.trading_workflow.planner:app`."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from examples.trading_workflow.chain import after
from examples.trading_workflow.signals import Signals
from orchestrator import Orchestrator, SessionContext

HELD: Final = {"growth": {"ACME": 50, "GLOBEX": 30, "INITECH": 40, "HOOLI": 5}}
"""What portfolios hold, where a bank's books would be."""

app = Orchestrator()


class Trade(BaseModel):
    """So many pieces to buy, or to sell where it is negative."""

    symbol: str
    pieces: int


class Plan(BaseModel):
    portfolio: str
    trades: tuple[Trade, ...]


@app.on_event(**after("find-signals"))
@app.session("plan-rebalance")
async def plan_rebalance(ctx: SessionContext, signals: Signals) -> Plan:
    return await ctx.step("plan", plan, signals)


def plan(signals: Signals) -> Plan:
    """Return the trades that lead from what is held to the targets, sales first."""
    held = HELD.get(signals.portfolio, {})
    missing = {symbol: signals.targets.get(symbol, 0) - held.get(symbol, 0) for symbol in {*held, *signals.targets}}
    trades = [Trade(symbol=symbol, pieces=pieces) for symbol, pieces in missing.items() if pieces]
    return Plan(
        portfolio=signals.portfolio, trades=tuple(sorted(trades, key=lambda trade: (trade.pieces, trade.symbol)))
    )
