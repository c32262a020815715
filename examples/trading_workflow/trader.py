"""The last of three: places the trades. `orchestrator serve examples.trading_workflow.trader:app`."""

from __future__ import annotations

import os
from typing import Final

from aiobotocore.session import get_session
from pydantic import BaseModel

from examples.trading_workflow.chain import after
from examples.trading_workflow.planner import Plan, Trade
from orchestrator import Orchestrator, RetryPolicy, SessionContext, current_invocation

BROKER: Final = "broker"
"""The table that stands in for a broker: an order for each client order id, its key."""
RETRY: Final = RetryPolicy(max_attempts=10)

app = Orchestrator()
aws = get_session()


class Report(BaseModel):
    portfolio: str
    orders: tuple[str, ...]


@app.on_event(**after("plan-rebalance"))
@app.session("execute-trades")
async def execute_trades(ctx: SessionContext, plan: Plan) -> Report:
    """Place one order after the other, so that sales pay for purchases."""
    orders = [await ctx.step("order", place, trade, retry=RETRY) for trade in plan.trades]
    return Report(portfolio=plan.portfolio, orders=tuple(orders))


async def place(trade: Trade) -> str:
    """Place an order under an id of ours, by which a broker knows one that it has already; return what was placed."""
    order = f"{'buy' if trade.pieces > 0 else 'sell'} {abs(trade.pieces)} {trade.symbol}"
    async with aws.create_client("dynamodb", region_name=os.environ["AWS_REGION"]) as dynamodb:
        await dynamodb.update_item(
            TableName=BROKER,
            Key={"client_order_id": {"S": current_invocation().idempotency_key}},
            UpdateExpression="SET #order = if_not_exists(#order, :order) ADD asked :once",
            ExpressionAttributeNames={"#order": "order"},
            ExpressionAttributeValues={":order": {"S": order}, ":once": {"N": "1"}},
        )
    return order
