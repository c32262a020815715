"""A provisioned deployment behind the wire, as an operator's commands see it: what they look at, and break at will."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from actors import Clock, SystemClock
from orchestrator.artifacts.s3 import S3Artifacts
from orchestrator.aws.bucket import Bucket
from orchestrator.aws.clients import Clients
from orchestrator.aws.inspection import Inspection
from orchestrator.aws.provision import provision
from orchestrator.aws.queue import find_queue
from orchestrator.cluster import Nodes
from orchestrator.cluster.memory import MemoryNodes
from orchestrator.doctor import Finding, Level
from orchestrator.doctor.examination import examine
from orchestrator.redrive import Choice, Done, Redrive
from orchestrator.settings import Settings
from tests.contract.stage import clients_of, patience_of
from tests.emulators import Emulator, access_key, fresh_account

Check: TypeAlias = Callable[[Inspection], AsyncIterator[Finding]]


@dataclass(frozen=True, slots=True)
class Operated:
    """A deployment of a test's own, with what a test does to it and looks at besides."""

    clients: Clients
    settings: Settings

    async def url(self, name: str) -> str:
        """Return the URL of a queue."""
        return (await self.clients.sqs.get_queue_url(QueueName=name))["QueueUrl"]

    async def dead(self, body: str, *, group: str | None = None, trace: str | None = None, **told: str) -> str:
        """Put a letter on the dead-letter queue, and return its id there."""
        queue = await find_queue(self.clients, self.settings.dead_letter_queue_name, patience_of())
        return await queue.send(body, attributes=told, tenant=group, trace_header=trace)

    async def redrive(
        self, choice: Choice | None = None, *, discards: bool = False, is_dry: bool = False
    ) -> list[Done]:
        """Return what became of each letter."""
        found: list[Done] = []
        redrive = Redrive(
            await find_queue(self.clients, self.settings.queue, patience_of()),
            await find_queue(self.clients, self.settings.dead_letter_queue_name, patience_of()),
            S3Artifacts(Bucket(self.clients.s3, self.settings.bucket, patience_of())),
        )
        await redrive.run(choice or Choice(), found.append, discards=discards, is_dry=is_dry)
        return found

    async def held(self, name: str) -> Sequence[Mapping[str, object]]:
        """Take what a queue holds, and return it."""
        url, taken = await self.url(name), list[Mapping[str, object]]()
        while True:
            answer = await self.clients.sqs.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=10,
                WaitTimeSeconds=0,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["All"],
            )
            if not answer.get("Messages"):
                return taken
            taken += [dict(message) for message in answer["Messages"]]

    @property
    def inspection(self) -> Inspection:
        """The deployment, as a doctor looks at it."""
        return Inspection(self.clients, self.settings)

    async def findings(self, nodes: Nodes | None = None, *, clock: Clock | None = None) -> list[Finding]:
        """Return all that a doctor says."""
        found = examine(self.inspection, nodes or MemoryNodes(), clock or SystemClock())
        return [each async for each in found]

    async def found_by(self, check: Check) -> list[Finding]:
        """Return what one check says."""
        return [each async for each in check(self.inspection)]

    async def arn(self, name: str) -> str:
        """Return the ARN of a queue."""
        answer = await self.clients.sqs.get_queue_attributes(QueueUrl=await self.url(name), AttributeNames=["QueueArn"])
        return answer["Attributes"]["QueueArn"]


def wrong(findings: Sequence[Finding], level: Level = Level.ERROR) -> list[tuple[str, str]]:
    """Return what is wrong: check and words."""
    return [(each.check, each.says) for each in findings if each.level is level]


@asynccontextmanager
async def operated(emulator: Emulator, *, through: str | None = None) -> AsyncIterator[Operated]:
    """Yield a deployment in an account of its own."""
    account = fresh_account()
    settings = Settings(bucket=f"artifacts-{account}", heartbeat_seconds=0.4)
    async with clients_of(through or emulator.endpoint_url, access_key(emulator, account)) as clients:
        await provision(clients, settings)
        yield Operated(clients, settings)
