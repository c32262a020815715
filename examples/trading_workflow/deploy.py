"""Creates what the three applications need: `python -m examples.trading_workflow.deploy`.

Each application has a queue and a table of its own; the bus is all that they share, and a rule for each queue says what
comes in. The mail is a rule too, from terminal events to a topic: no code sends it. In an account the queues and the
topic need policies that let EventBridge send, and all of it belongs into your template.
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack
from typing import Final

from aiobotocore.session import get_session

from examples.trading_workflow.chain import DESK, REQUESTED, TOLD_BY
from examples.trading_workflow.trader import BROKER
from orchestrator.aws.clients import connect
from orchestrator.aws.provision import provision
from orchestrator.session.values import Json, JsonObject
from orchestrator.settings import Settings

ENDS: Final[dict[str, tuple[str, ...]]] = {
    "Session Completed": ("execute-trades",),
    "Session Failed": ("find-signals", "plan-rebalance", "execute-trades"),
}
"""What the desk gets a mail about."""


def completed(session_type: str) -> JsonObject:
    return {"source": [TOLD_BY], "detail-type": ["Session Completed"], "detail": {"session_type": [session_type]}}


STAGES: Final[dict[str, JsonObject]] = {
    "signals": {"source": [DESK], "detail-type": [REQUESTED]},
    "planner": completed("find-signals"),
    "trader": completed("plan-rebalance"),
}
"""Application → what comes into its queue."""


def settings_of(stage: str) -> dict[str, str]:
    """Return the environment that an application needs besides the usual one."""
    return {"ORCHESTRATOR_QUEUE": f"trading-{stage}", "ORCHESTRATOR_TABLE": f"trading-{stage}"}


async def deploy(bus: str) -> str:
    """Return the ARN of the topic that the desk subscribes to."""
    session, region = get_session(), os.environ["AWS_REGION"]
    async with AsyncExitStack() as stack:
        clients = await stack.enter_async_context(connect())
        events = await stack.enter_async_context(session.create_client("events", region_name=region))
        sns = await stack.enter_async_context(session.create_client("sns", region_name=region))
        for stage, pattern in STAGES.items():
            names = {name.removeprefix("ORCHESTRATOR_").lower(): value for name, value in settings_of(stage).items()}
            settings = Settings(event_bus=bus, **names)  # type: ignore[arg-type]
            await provision(clients, settings)
            url = (await clients.sqs.get_queue_url(QueueName=settings.queue))["QueueUrl"]
            queue = await clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
            await events.put_rule(Name=f"trading-{stage}", EventBusName=bus, EventPattern=json.dumps(pattern))
            target = queue["Attributes"]["QueueArn"]
            await events.put_targets(Rule=f"trading-{stage}", EventBusName=bus, Targets=[{"Id": stage, "Arn": target}])
        await clients.dynamodb.create_table(
            TableName=BROKER,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "client_order_id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "client_order_id", "KeyType": "HASH"}],
        )
        topic: str = (await sns.create_topic(Name="trading-desk"))["TopicArn"]
        for kind, session_types in ENDS.items():
            name = f"mail-{kind.lower().replace(' ', '-')}"
            types: list[Json] = [*session_types]
            ends: JsonObject = {"source": [TOLD_BY], "detail-type": [kind], "detail": {"session_type": types}}
            about = {"kind": "$.detail-type", "session": "$.detail.session_id", "id": "$.detail.notification_id"}
            said = "result" if kind == "Session Completed" else "error"
            mail = {
                "InputPathsMap": {**about, "said": f"$.detail.{said}"},
                "InputTemplate": '"<kind>: <session> (<id>). <said>"',
            }
            await events.put_rule(Name=name, EventBusName=bus, EventPattern=json.dumps(ends))
            await events.put_targets(
                Rule=name,
                EventBusName=bus,
                Targets=[{"Id": "mail", "Arn": topic, "InputTransformer": mail}],
            )
        return topic


if __name__ == "__main__":
    print(asyncio.run(deploy(os.environ.get("ORCHESTRATOR_EVENT_BUS", "orchestrator"))))
