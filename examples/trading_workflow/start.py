"""Asks for a rebalance and is gone: `python -m examples.trading_workflow.start growth`."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from aiobotocore.session import get_session

from examples.trading_workflow.chain import DESK, REQUESTED


async def start(portfolio: str) -> str:
    """Put the request on the bus; return the event's id. Nothing is waited for, and nobody needs to be there."""
    bus = os.environ.get("ORCHESTRATOR_EVENT_BUS", "orchestrator")
    entry = {
        "Source": DESK,
        "DetailType": REQUESTED,
        "Detail": json.dumps({"portfolio": portfolio}),
        "EventBusName": bus,
    }
    async with get_session().create_client("events", region_name=os.environ["AWS_REGION"]) as events:
        answer = await events.put_events(Entries=[entry])
    # 200 may hide that it failed.
    if answer["FailedEntryCount"]:
        raise SystemExit(f"the bus did not take it: {answer['Entries'][0]}")
    return str(answer["Entries"][0]["EventId"])


if __name__ == "__main__":
    print(asyncio.run(start(sys.argv[1])))
