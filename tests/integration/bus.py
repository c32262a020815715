"""A tap on an event bus: a queue that a rule fills, so that a test sees what anybody who listens would see."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiobotocore.session import get_session

from orchestrator.session.values import JsonObject
from tests.integration.deployment import WAIT_SECONDS_MAX

if TYPE_CHECKING:
    from types_aiobotocore_events import EventBridgeClient
    from types_aiobotocore_sqs import SQSClient

OURS: Final[JsonObject] = {"source": ["session-orchestrator"]}


def client(stack: AsyncExitStack, service: Any) -> Any:
    """Return what opens a client of a service, in the environment of the deployment, for as long as the stack."""
    return stack.enter_async_context(get_session().create_client(service, region_name=os.environ["AWS_REGION"]))


@dataclass(frozen=True)
class Tap:
    """The queue of one rule."""

    sqs: "SQSClient"
    url: str

    async def events(self, count: int) -> list[dict[str, Any]]:
        """Return that many events, once they have come."""
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while len(found) < count:
                found += await self._received(1)
        return found

    async def rest(self) -> list[dict[str, Any]]:
        """Return what is there and was not taken yet."""
        found: list[dict[str, Any]] = []
        while more := await self._received(0):
            found += more
        return found

    async def _received(self, wait_seconds: int) -> list[dict[str, Any]]:
        answer = await self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10, WaitTimeSeconds=wait_seconds)
        messages = answer.get("Messages", [])
        for message in messages:
            await self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return [json.loads(message["Body"]) for message in messages]


async def arn_of(sqs: "SQSClient", url: str) -> str:
    """Return the ARN of a queue."""
    answer = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return answer["Attributes"]["QueueArn"]


async def rule(events: "EventBridgeClient", bus: str, name: str, pattern: JsonObject, target: str) -> None:
    """Send what matches the pattern to the target, as it is."""
    await events.put_rule(Name=name, EventBusName=bus, EventPattern=json.dumps(pattern))
    await events.put_targets(Rule=name, EventBusName=bus, Targets=[{"Id": name, "Arn": target}])


@asynccontextmanager
async def tapped(bus: str, pattern: JsonObject = OURS, *, name: str = "tap") -> AsyncIterator[Tap]:
    """Yield a tap for what matches the pattern from now on."""
    async with AsyncExitStack() as stack:
        sqs, events = await client(stack, "sqs"), await client(stack, "events")
        url = (await sqs.create_queue(QueueName=name))["QueueUrl"]
        await rule(events, bus, name, pattern, await arn_of(sqs, url))
        yield Tap(sqs, url)
