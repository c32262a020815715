"""What S3, EventBridge and SNS send to the queue, by their own ways, each of which may be set up besides the others."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiobotocore.session import get_session

from tests.emulators import REGION
from tests.integration.deployment import Deployment

if TYPE_CHECKING:
    from types_aiobotocore_events import EventBridgeClient
    from types_aiobotocore_events.type_defs import PutEventsRequestEntryTypeDef
    from types_aiobotocore_sns import SNSClient

LETTERS = (
    ("INVALID_JSON", "Message: the body is not JSON: "),
    ("NO_TRIGGER", "no trigger matches source 'acme.unknown', detail-type 'Order Placed'"),
    ("TRIGGER_FAILED", "on_event(source='acme.shop', detail_type='Order *') of session type 'order': transform raised"),
)
KEY = "in/Zürich a+b%2B 日本.txt"


@dataclass(frozen=True)
class Ways:
    """A bus and topics, before the queue of a deployment."""

    deployment: Deployment
    queue: str
    events: "EventBridgeClient"
    sns: "SNSClient"

    async def rule(self, name: str, **pattern: object) -> None:
        """Let events that match reach the queue."""
        await self.events.put_rule(Name=name, EventPattern=json.dumps(pattern))
        await self.events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": self.queue}])

    async def topic(self, name: str, *, raw: bool = False) -> str:
        """Return a topic that tells the queue what it is told."""
        arn = (await self.sns.create_topic(Name=name))["TopicArn"]
        attributes = {"RawMessageDelivery": str(raw).lower()}
        await self.sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=self.queue, Attributes=attributes)
        return arn


@asynccontextmanager
async def ways_to(deployment: Deployment) -> AsyncIterator[Ways]:
    """Yield the ways into the deployment, whose account and endpoint the environment names."""
    attributes = await deployment.clients.sqs.get_queue_attributes(
        QueueUrl=deployment.queue_url, AttributeNames=["QueueArn"]
    )
    async with AsyncExitStack() as stack:
        session = get_session()
        events = await stack.enter_async_context(session.create_client("events", region_name=REGION))
        sns = await stack.enter_async_context(session.create_client("sns", region_name=REGION))
        yield Ways(deployment, attributes["Attributes"]["QueueArn"], events, sns)


async def test_what_s3_eventbridge_and_sns_tell_starts_a_session_once(deployment: Deployment) -> None:
    """Of an object, whichever ways lead to the queue; of an event, one for each trigger. The rest says what is wrong.

    A key of all kinds of characters is read as it was written. What was deleted before anybody read it is told to the
    handler by S3, and that is an outcome like any other.
    """
    async with ways_to(deployment) as ways:
        await put_objects(ways)
        await publish_events(ways)
    worker = await deployment.start("tests.integration.events_app:app")

    ended = await worker.logged("session_ended", times=4, status="COMPLETED")
    results = [await deployment.result(str(line["session_id"])) for line in ended]
    assert sorted([f"{KEY}: tea", "in/gone.txt: NoSuchKey", "tea", "heard"]) == sorted(map(str, results))

    letters = sorted((each["ErrorCode"], each["ErrorMessage"]) for _, each in await deployment.dead_letters(3))
    assert [*LETTERS] == [(code, said[: len(start)]) for (code, said), (_, start) in zip(letters, LETTERS, strict=True)]
    # The object that was told twice, and the tea that three told of.
    absorbed = await worker.logged("duplicate_absorbed", times=3)
    assert [3, 2] == [len(absorbed), len({line["session_id"] for line in absorbed})]


async def put_objects(ways: Ways) -> None:
    """Write two objects, into buckets that tell of them differently; the second one is deleted at once."""
    s3 = ways.deployment.clients.s3
    await ways.rule("objects", source=["aws.s3"])
    topic = await ways.topic("objects")
    for bucket in ("direct", "told"):
        await s3.create_bucket(Bucket=bucket)
    await s3.put_bucket_notification_configuration(
        Bucket="direct",
        NotificationConfiguration={
            "QueueConfigurations": [{"QueueArn": ways.queue, "Events": ["s3:ObjectCreated:*"]}],
            "EventBridgeConfiguration": {},
        },
    )
    await s3.put_bucket_notification_configuration(
        Bucket="told",
        NotificationConfiguration={"TopicConfigurations": [{"TopicArn": topic, "Events": ["s3:ObjectCreated:*"]}]},
    )
    await s3.put_object(Bucket="direct", Key=KEY, Body=b"tea")
    await s3.put_object(Bucket="told", Key="in/gone.txt", Body=b"tea")
    await s3.delete_object(Bucket="told", Key="in/gone.txt")


async def publish_events(ways: Ways) -> None:
    """Publish events by the bus and by topics, raw and not: three tell of tea, the others can start nothing."""
    await ways.rule("orders", source=[{"prefix": "acme."}])
    entries: list[PutEventsRequestEntryTypeDef] = [
        {"Source": source, "DetailType": "Order Placed", "Detail": json.dumps(detail)}
        for source, detail in (
            ("acme.shop", {"item": "tea"}),
            ("acme.shop", {"count": 2}),
            ("acme.unknown", {"item": "milk"}),
        )
    ]
    assert 0 == (await ways.events.put_events(Entries=entries))["FailedEntryCount"]
    sold = {"id": "e-1", "source": "acme.till", "detail-type": "Sold", "detail": {"item": "tea"}}
    plain, raw = await ways.topic("plain"), await ways.topic("raw", raw=True)
    for topic, message in ((plain, json.dumps(sold)), (raw, json.dumps(sold)), (plain, "{bad")):
        await ways.sns.publish(TopicArn=topic, Message=message)
