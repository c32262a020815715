"""The trading chain, for real: three applications that are never there at once, and one that is killed at its work."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest

from examples.trading_workflow import deploy, start
from examples.trading_workflow.trader import BROKER
from orchestrator.session.values import Json
from tests.emulators import Emulator
from tests.integration.bus import Tap, arn_of, client, tapped
from tests.integration.deployment import Deployment, Worker, deployed
from tests.integration.journal_reaper import reaping

ORDERS: Final = ["sell 30 GLOBEX", "sell 5 HOOLI", "buy 10 ACME"]
KILLED: Final = "after STEP_COMPLETED order"
OFTEN: Final = {"ORCHESTRATOR_HEARTBEAT_SECONDS": "0.4"}


async def test_each_process_takes_over_from_one_that_is_gone_and_the_mail_comes_from_the_end(
    ministack: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No two applications ever run together, the last is killed between its orders: one order each, two mails."""
    async with (
        deployed(ministack, monkeypatch.setenv) as deployment,
        tapped(bus := deployment.settings.event_bus) as told,
        reaping(ministack.endpoint_url, only={KILLED}) as (reaper, proxy),
        AsyncExitStack() as stack,
        asyncio.TaskGroup() as tasks,
    ):
        mails = await mailbox(stack, await deploy.deploy(bus))
        # Whoever starts it is gone before anybody is there.
        for portfolio in ("growth", "no such portfolio"):
            await start.start(portfolio)

        signals = await running(deployment, "signals")
        ends = {end["detail-type"]: end["detail"] for end in await told.events(2)}
        assert {"Session Completed", "Session Failed"} == set(ends)
        assert {"find-signals"} == {end["session_type"] for end in ends.values()}
        signals.process.kill()
        await signals.ended()

        planner = await running(deployment, "planner")
        (planned,) = await told.events(1)
        assert ORDERS == [said(trade) for trade in planned["detail"]["result"]["trades"]]
        planner.process.kill()
        await planner.ended()

        await deliver_again(deployment, planned, "trader")

        environment = deploy.settings_of("trader") | {"AWS_ENDPOINT_URL_DYNAMODB": proxy.endpoint_url}
        scheduler = tasks.create_task(reaper.keep_running(deployment, app_of("trader"), environment | OFTEN))
        (end,) = await told.events(1)
        scheduler.cancel()
        assert [KILLED] == reaper.kills
        assert {"portfolio": "growth", "orders": ORDERS} == end["detail"]["result"]
        assert [(order, 1) for order in ORDERS] == await placed(deployment)

        failed, completed = sorted([str(mail) for mail in await mails.events(2)], reverse=True)
        assert failed.startswith(f"Session Failed: {ends['Session Failed']['session_id']} ")
        assert "no such portfolio" in failed
        assert completed.startswith(f"Session Completed: {end['detail']['session_id']} ")
        assert "sell 30 GLOBEX" in completed
        assert ([], []) == (await told.rest(), await mails.rest())


async def running(deployment: Deployment, stage: str) -> Worker:
    """Start one of the applications."""
    environment: dict[str, Any] = deploy.settings_of(stage)
    return await deployment.start(app_of(stage), **environment)


def app_of(stage: str) -> str:
    """Return where an application is."""
    return f"examples.trading_workflow.{stage}:app"


async def deliver_again(deployment: Deployment, told: dict[str, Any], stage: str) -> None:
    """Put a session's end into an application's queue as if it had been told once more, as another event."""
    queue = await deployment.clients.sqs.get_queue_url(QueueName=deploy.settings_of(stage)["ORCHESTRATOR_QUEUE"])
    body = json.dumps({**told, "id": "00000000-0000-0000-0000-000000000000"})
    await deployment.clients.sqs.send_message(QueueUrl=queue["QueueUrl"], MessageBody=body)


async def placed(deployment: Deployment) -> list[tuple[str, int]]:
    """Return the broker's orders in the order of their ids, and how often each was asked for."""
    answer = await deployment.clients.dynamodb.scan(TableName=BROKER)
    items = sorted(answer["Items"], key=lambda item: item["client_order_id"]["S"])
    return [(item["order"]["S"], int(item["asked"]["N"])) for item in items]


async def mailbox(stack: AsyncExitStack, topic: str) -> Tap:
    """Subscribe to the topic, as a mailbox does."""
    sqs, sns = await client(stack, "sqs"), await client(stack, "sns")
    url = (await sqs.create_queue(QueueName="mailbox"))["QueueUrl"]
    await sns.subscribe(
        TopicArn=topic,
        Protocol="sqs",
        Endpoint=await arn_of(sqs, url),
        Attributes={"RawMessageDelivery": "true"},
    )
    return Tap(sqs, url)


def said(trade: dict[str, Json]) -> str:
    """Return a trade as the broker's order says it."""
    pieces = int(str(trade["pieces"]))
    return f"{'buy' if pieces > 0 else 'sell'} {abs(pieces)} {trade['symbol']}"
