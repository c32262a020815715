"""Notices by EventBridge, SNS and Step Functions as an emulator plays them, to where a receiver finds them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from actors import SystemClock
from orchestrator.aws.clients import Clients
from orchestrator.aws.outlets import Bus, Tasks, Topic
from orchestrator.aws.provision import provision
from orchestrator.notifications import ApprovalNotice, EndNotice, notification_id
from orchestrator.notifications.eventbridge import EventBridgeChannel
from orchestrator.notifications.sns import SNSChannel
from orchestrator.notifications.stepfunctions import OUTPUT_BYTES_MAX, StepFunctionsChannel
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import ErrorRecord
from orchestrator.settings import Settings
from tests.contract.stage import clients_of
from tests.emulators import Emulator, fresh_account

NOW: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
PATIENCE_SECONDS: Final = 5.0
LOG: Final = structlog.get_logger()

ENDED: Final = EndNotice(
    notification_id=notification_id("order-17"),
    session_id="order-17",
    session_type="research",
    tenant="acme",
    state=SessionStatus.COMPLETED,
    started_at=NOW,
    ended_at=NOW,
    result={"url": "https://example.test"},
    error=None,
    continued_as=None,
    parent=None,
    trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    task_token=None,
)
ASKED: Final = ApprovalNotice(
    notification_id=notification_id("order-17", "publish"),
    session_id="order-17",
    session_type="research",
    tenant="acme",
    name="publish",
    subject={"title": "Tee für zwei"},
    approvers=None,
    requested_at=NOW,
    times_out_at=None,
    callback_id="approval-1",
    url="https://orchestrator.test/callbacks/approval-1",
    trace=None,
    token="secret",
)
WAITING: Final = {
    "StartAt": "Wait",
    "States": {
        "Wait": {
            "Type": "Task",
            "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
            "Parameters": {"QueueUrl.$": "$.queue", "MessageBody": {"task_token.$": "$$.Task.Token"}},
            "TimeoutSeconds": 60,
            "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Tell"}],
            "Next": "Tell",
        },
        "Tell": {
            "Type": "Task",
            "Resource": "arn:aws:states:::sqs:sendMessage",
            "Parameters": {"QueueUrl.$": "$$.Execution.Input.queue", "MessageBody.$": "$"},
            "End": True,
        },
    },
}
"""A state machine that waits for a session, and tells how that ended."""


@dataclass(frozen=True, slots=True)
class Desk:
    """An account of one test, with a queue that hears what is told."""

    clients: Clients
    queue_url: str
    queue_arn: str

    async def heard(self) -> dict[str, Any]:
        """Return the body of the next message."""
        answer = await self.clients.sqs.receive_message(QueueUrl=self.queue_url, WaitTimeSeconds=10)
        (message,) = answer["Messages"]
        body: dict[str, Any] = json.loads(message["Body"])
        return body


@asynccontextmanager
async def desk_on(emulator: Emulator) -> AsyncIterator[Desk]:
    """Yield a desk in an account of its own."""
    async with clients_of(emulator.endpoint_url, fresh_account()) as clients:
        queue = await clients.sqs.create_queue(QueueName="heard")
        about = await clients.sqs.get_queue_attributes(QueueUrl=queue["QueueUrl"], AttributeNames=["QueueArn"])
        yield Desk(clients, queue["QueueUrl"], about["Attributes"]["QueueArn"])


async def test_an_event_reaches_a_rule_on_the_provisioned_bus(ministack: Emulator) -> None:
    """With the source, the detail-type and the id that rules and receivers go by."""
    async with desk_on(ministack) as desk:
        assert "event bus sessions" in await provision(desk.clients, Settings(event_bus="sessions"))
        assert () == await provision(desk.clients, Settings(event_bus="sessions")), "safe to repeat"
        events = await desk.clients.outlets.events()
        pattern = {"source": ["session-orchestrator"], "detail-type": ["Session Completed"]}
        await events.put_rule(Name="ends", EventBusName="sessions", EventPattern=json.dumps(pattern))
        await events.put_targets(Rule="ends", EventBusName="sessions", Targets=[{"Id": "queue", "Arn": desk.queue_arn}])
        bus = EventBridgeChannel(Bus(desk.clients.outlets, "sessions"), SystemClock(), LOG, is_named=True)
        await bus.run()
        failed = replace(ENDED, state=SessionStatus.FAILED, error=ErrorRecord("E", "E", "e"))
        await asyncio.gather(bus.tell(failed), bus.tell(ASKED), bus.tell(ENDED))
        event = await desk.heard()
    assert ("session-orchestrator", "Session Completed") == (event["source"], event["detail-type"])
    assert (ENDED.notification_id, ENDED.result) == (event["detail"]["notification_id"], event["detail"]["result"])


async def test_a_bus_that_is_not_there_is_found_missing(ministack: Emulator) -> None:
    """Sending to it succeeds all the same, as on AWS: nobody would ever know."""
    async with desk_on(ministack) as desk:
        assert not await Bus(desk.clients.outlets, "nowhere").exists()


async def test_an_approval_reaches_a_subscriber_of_the_topic_with_attributes_to_filter_by(ministack: Emulator) -> None:
    """As a text that says what to do."""
    async with desk_on(ministack) as desk:
        sns = await desk.clients.outlets.sns()
        arn = (await sns.create_topic(Name="approvals"))["TopicArn"]
        policy = json.dumps({"tenant": ["acme"]})
        await sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=desk.queue_arn, Attributes={"FilterPolicy": policy})
        channel = SNSChannel(Topic(desk.clients.outlets, arn))
        await channel.tell(replace(ASKED, tenant="other"))
        await channel.tell(ASKED)
        message = await desk.heard()
    assert "Approval requested: publish (research)" == message["Subject"]
    assert "Tee für zwei" in message["Message"]
    attributes = {name: each["Value"] for name, each in message["MessageAttributes"].items()}
    assert (ASKED.notification_id, "acme") == (attributes["notification_id"], attributes["tenant"])


async def test_a_state_machine_that_waits_goes_on_with_the_end_of_its_session(ministack: Emulator) -> None:
    """Completed, failed, and with a result too large for an output; who is too late is taken as answered."""
    failed = replace(ENDED, state=SessionStatus.FAILED, error=ErrorRecord("E", "NO_TEA", "none left"))
    ended = []
    async with desk_on(ministack) as desk:
        states = await desk.clients.outlets.stepfunctions()
        machine = await states.create_state_machine(
            name="waiting", definition=json.dumps(WAITING), roleArn=f"arn:aws:iam::{'0' * 12}:role/states"
        )
        tasks = StepFunctionsChannel(Tasks(desk.clients.outlets), SystemClock(), LOG, heartbeat_seconds=60)
        for notice in (ENDED, replace(ENDED, result="x" * OUTPUT_BYTES_MAX), failed):
            await states.start_execution(
                stateMachineArn=machine["stateMachineArn"], input=json.dumps({"queue": desk.queue_url})
            )
            answer = replace(notice, task_token=(await desk.heard())["task_token"])
            await tasks.tell(answer)
            ended.append(await desk.heard())
            await tasks.tell(answer)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await tasks.keep(str(answer.task_token))
    assert [
        {"url": "https://example.test"},
        {"session_id": "order-17", "state": "COMPLETED", "result_omitted": True},
        {"Error": "NO_TEA", "Cause": "none left"},
    ] == ended
