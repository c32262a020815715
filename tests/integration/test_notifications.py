"""A deployment that tells the world: a person answers from the mail alone, and a webhook that fails is told again."""

import asyncio
import json
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from orchestrator.notifications import notification_id
from tests.integration.deployment import WAIT_SECONDS_MAX, Deployment, start_message

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver:
    """A webhook's target that refuses each notification once, and notes what came: type, id and the answer."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[tuple[str, str, int]] = asyncio.Queue()
        self.url = ""
        self.refuses = asyncio.Event()
        self._seen: set[str] = set()

    async def handle(self, request: web.Request) -> web.Response:
        """Answer 503 the first time, and 204 when it is let."""
        number, body = request.headers["webhook-id"], await request.json()
        status = 204 if number in self._seen else 503
        if status == 204:
            await self.refuses.wait()
        self._seen.add(number)
        self.came.put_nowait((body["type"], number, status))
        return web.Response(status=status)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Run a target for one test."""
    target, app = Receiver(), web.Application()
    app.router.add_post("/", target.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    target.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        yield target
    finally:
        await runner.cleanup()


async def heard(deployment: Deployment, queue_url: str, count: int) -> list[dict[str, Any]]:
    """Return the bodies of so many messages."""
    bodies: list[dict[str, Any]] = []
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while len(bodies) < count:
            answer = await deployment.clients.sqs.receive_message(
                QueueUrl=queue_url, WaitTimeSeconds=5, MaxNumberOfMessages=10, VisibilityTimeout=600
            )
            bodies += [json.loads(message["Body"]) for message in answer.get("Messages", [])]
    return bodies


async def test_people_and_systems_hear_of_a_session_and_can_answer_it(deployment: Deployment) -> None:
    """By mail, by event and by webhook, each under one id; `status` shows what a target would not take."""
    queue = await deployment.clients.sqs.create_queue(QueueName="heard")
    about = await deployment.clients.sqs.get_queue_attributes(QueueUrl=queue["QueueUrl"], AttributeNames=["QueueArn"])
    arn = about["Attributes"]["QueueArn"]
    sns, events = await deployment.clients.outlets.sns(), await deployment.clients.outlets.events()
    topic = (await sns.create_topic(Name="approvals"))["TopicArn"]
    await sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    pattern = json.dumps({"source": ["session-orchestrator"]})
    await events.put_rule(Name="all", EventBusName="orchestrator", EventPattern=pattern)
    await events.put_targets(Rule="all", EventBusName="orchestrator", Targets=[{"Id": "queue", "Arn": arn}])
    asked, ended = notification_id("order-17", "publish"), notification_id("order-17")
    async with receiving() as target:
        await deployment.start(
            ORCHESTRATOR_APPROVAL_TOPIC_ARN=topic,
            ORCHESTRATOR_WEBHOOK_URL=target.url,
            ORCHESTRATOR_WEBHOOK_SECRET=SECRET,
        )
        await deployment.send(start_message("asks", ["ann"], session_id="order-17"))
        requested = await heard(deployment, queue["QueueUrl"], 2)
        (mail,) = [body["Message"] for body in requested if "Message" in body]
        command = shlex.split(re.search(r"curl (.*\\\n.*)", mail)[1].replace("\\\n", ""))  # type: ignore[index]
        url, body = command[2], json.loads(command[-1])
        body["result"]["by"] = "ann"
        async with deployment.http.post(url, json=body) as answer:
            assert 200 == answer.status, await answer.text()
        (end,) = await heard(deployment, queue["QueueUrl"], 1)
        assert ("Session Completed", ended) == (end["detail-type"], end["detail"]["notification_id"])
        assert {asked} == {body["detail"]["notification_id"] for body in requested if "detail" in body}
        came = [await target.came.get() for _ in range(2)]
        assert [("approval.requested", asked, 503), ("session.completed", ended, 503)] == came
        _, out, _ = await deployment.cli("status", "order-17", "--json")
        (undelivered,) = json.loads(out)["undelivered"]
        assert ("webhook", "HTTP_503") == (undelivered["notification"], undelivered["last_error"])
        target.refuses.set()
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            # What was asked may have been on its way once more when the answer came.
            while await target.came.get() != ("session.completed", ended, 204):
                pass
