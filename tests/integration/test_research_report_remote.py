"""The research report by remote agents over A2A: answers by push, long texts, an approval by mail, events."""

import re
from contextlib import AsyncExitStack
from typing import Any, Final

from yarl import URL

from examples.research_report.texts import analyse, draft_of, questions_on, quoting, write
from orchestrator.local import free_port
from orchestrator.session.values import JsonObject
from tests.integration.bus import Tap, arn_of, client, tapped
from tests.integration.deployment import Deployment, agents_serving

APP: Final = "examples.research_report.remote:app"
SESSION: Final = "report-1"
DRAFT: Final = draft_of("tea", analyse(quoting(questions_on("tea"))))
INLINE_BYTES: Final = 204_800
TOKEN: Final = re.compile(r'"token": "([^"]+)"')
ANSWER_AT: Final = re.compile(r"http://\S+/callbacks/[^\s']+")


async def test_remote_agents_are_asked_once_each_and_the_world_hears_of_the_report(deployment: Deployment) -> None:
    """Their answers come by push, the approval by mail to a node that is killed meanwhile, the end as an event."""
    async with (
        AsyncExitStack() as stack,
        tapped(deployment.settings.event_bus) as told,
        agents_serving("examples.research_report.remote_agents") as (agents_url, _),
    ):
        topic, mails = await approvers(stack)
        environment: dict[str, Any] = {
            "AGENTS_URL": agents_url,
            "ORCHESTRATOR_APPROVAL_TOPIC_ARN": topic,
            # Where the agents push to: the same for every node, as a load balancer's address is.
            "ORCHESTRATOR_PORT": (port := str(free_port())),
            "ORCHESTRATOR_HEARTBEAT_SECONDS": "0.4",
            "ORCHESTRATOR_PASSIVATE_AFTER_SECONDS": "0",
        }
        url = f"http://127.0.0.1:{port}"
        first = await deployment.start(APP, **environment)
        start: JsonObject = {"session_type": "research-report", "session_id": SESSION, "input": {"topic": "tea"}}
        assert [202, 200] == [await posted(deployment, f"{url}/sessions", start) for _ in range(2)]
        (mail,) = await mails.events(1)
        (asked,) = await told.events(1)
        assert ("Approval Requested", "publish") == (asked["detail-type"], asked["detail"]["name"])
        assert DRAFT == await fetched(deployment, asked["detail"]["subject"]["draft"])
        first.process.kill()
        await first.ended()
        second = await deployment.start(APP, **environment)
        answer: JsonObject = {"status": "SUCCESS", "result": {"approved": True, "by": "ann"}}
        token, address = TOKEN.search(mail["Message"]), ANSWER_AT.search(mail["Message"])
        assert token is not None
        assert address is not None
        assert 200 == await posted(deployment, address[0], {"token": token[1], **answer})
        await second.logged("session_ended", session_id=SESSION, status="COMPLETED")

        status = await shown(deployment, f"{url}/sessions/{SESSION}")
        outcome = status["result"]
        assert ("COMPLETED", "COMPLETED", "ann") == (status["state"], outcome["status"], outcome["by"])
        assert write(DRAFT) == await fetched(deployment, outcome["url"])
        (ended,) = await told.events(1)
        assert ("Session Completed", outcome) == (ended["detail-type"], ended["detail"]["result"])
        asked_of = await shown(deployment, f"{agents_url}/told")
        assert {"researcher": 1, "analyst": 1, "writer": 1} == {name: len(ids) for name, ids in asked_of.items()}
        events = await shown(deployment, f"{url}/sessions/{SESSION}/events")
        results = [event["data"]["result"] for event in events["events"] if event["status"] == "AGENT_COMPLETED"]
        assert 3 == len(results)
        assert all(result["artifact"].startswith("s3://") and result["bytes"] > INLINE_BYTES for result in results)


async def approvers(stack: AsyncExitStack) -> tuple[str, Tap]:
    """Return a topic, and a mailbox that has subscribed to it."""
    sqs, sns = await client(stack, "sqs"), await client(stack, "sns")
    url = (await sqs.create_queue(QueueName="mailbox"))["QueueUrl"]
    topic: str = (await sns.create_topic(Name="approvals"))["TopicArn"]
    await sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=await arn_of(sqs, url))
    return topic, Tap(sqs, url)


async def posted(deployment: Deployment, url: str, body: JsonObject) -> int:
    """Return the status that a POST is answered with."""
    async with deployment.http.post(url, json=body) as response:
        return response.status


async def shown(deployment: Deployment, url: str) -> dict[str, Any]:
    """Return the JSON that a GET is answered with."""
    async with deployment.http.get(url) as response:
        found: dict[str, Any] = await response.json()
        return found


async def fetched(deployment: Deployment, url: str) -> str:
    """Return what anybody gets there, without credentials."""
    async with deployment.http.get(URL(url, encoded=True)) as response:
        assert 200 == response.status, await response.text()
        return await response.text()
