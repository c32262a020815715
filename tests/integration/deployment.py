"""A whole deployment for one test: its own account on the emulator, and workers as real processes.

Nothing here sleeps: a test waits for a line of a worker's log, which is what an operator would watch too.
"""

import asyncio
import atexit
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypedDict

import aiohttp

from orchestrator.aws.clients import Clients, connect
from orchestrator.aws.provision import provision
from orchestrator.local import free_port
from orchestrator.session.values import Json, JsonObject
from orchestrator.settings import Settings
from tests.emulators import REGION, Emulator, access_key, fresh_account
from tests.integration.warm import WarmProcess, WarmStart

WAIT_SECONDS_MAX: Final = 40.0
APP: Final = "tests.integration.sample_app:app"
WARM: Final = WarmStart()
"""One for this process of pytest, with which it ends."""
atexit.register(WARM.close)

Line = dict[str, Json]


class _Grouped(TypedDict, total=False):
    MessageGroupId: str


class WorkerEnded(Exception):
    """A worker ended while a test waited for its log; the text is its log."""


@dataclass
class Worker:
    """One `orchestrator serve` process and what it has logged."""

    process: WarmProcess
    lines: list[Line] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    base_url: str = ""
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def follow(self) -> None:
        """Read the log until the process closes it."""
        async for each in self.process.stderr:
            text = each.decode(errors="replace").rstrip()
            self.raw.append(text)
            if text.startswith("{"):
                self.lines.append(json.loads(text))
            async with self._news:
                self._news.notify_all()
        await self.process.stdout.read()
        await self.process.wait()
        async with self._news:
            self._news.notify_all()

    async def logged(self, event: str, *, times: int = 1, **fields: Json) -> list[Line]:
        """Return the log lines of that event with those fields, once there are so many."""

        def found() -> list[Line]:
            return [
                line
                for line in self.lines
                if line.get("event") == event and all(line.get(name) == value for name, value in fields.items())
            ]

        async with asyncio.timeout(WAIT_SECONDS_MAX), self._news:
            await self._news.wait_for(lambda: len(found()) >= times or self.process.returncode is not None)
        if len(found()) < times:
            raise WorkerEnded(f"exit {self.process.returncode} before {event} {fields}:\n" + "\n".join(self.raw[-40:]))
        return found()

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Return the exit code, once the process has ended."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            return await self.process.wait()


@dataclass
class Deployment:
    """A queue, a table and a bucket of one test, and the processes on them."""

    environment: Mapping[str, str]
    settings: Settings
    clients: Clients
    http: aiohttp.ClientSession
    queue_url: str
    dead_letter_url: str
    _readers: asyncio.TaskGroup
    _workers: list[Worker] = field(default_factory=list)

    async def start(self, app: str = APP, *, wait: bool = True, **environment: str) -> Worker:
        """Start a worker; return once it is ready, unless told not to wait."""
        process = await WARM.start(
            ["serve", app], {**os.environ, **self.environment, "ORCHESTRATOR_PORT": "0", **environment}
        )
        worker = Worker(process)
        self._workers.append(worker)
        self._readers.create_task(worker.follow())
        if wait:
            ready = await worker.logged("node_ready")
            worker.base_url = f"http://{ready[0]['address']}"
        return worker

    async def stop(self, worker: Worker) -> int:
        """Let a worker drain, and return its exit code."""
        worker.signal(signal.SIGTERM)
        await worker.logged("node_draining")
        # It waits for the poll that is under way, lest a message be lost in it; one to receive ends that wait.
        await self.send({"Event": "s3:TestEvent"})
        return await worker.ended()

    async def cli(self, *arguments: str, stdin: str | None = None, **environment: str) -> tuple[int, str, str]:
        """Run a command; return its exit code, standard output and standard error."""
        everything = {**os.environ, **self.environment, **environment}
        process = await WARM.start(arguments, everything, stdin=(stdin or "").encode())
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            out, err = await process.printed()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def send(self, body: str | JsonObject, *, group: str | None = None, **attributes: str) -> str:
        """Put a message on the queue; return its message id."""
        grouped: _Grouped = {} if group is None else {"MessageGroupId": group}
        answer = await self.clients.sqs.send_message(
            QueueUrl=self.queue_url,
            MessageBody=body if isinstance(body, str) else json.dumps(body),
            MessageAttributes={name: {"DataType": "String", "StringValue": text} for name, text in attributes.items()},
            **grouped,
        )
        return answer["MessageId"]

    async def ask(
        self, worker: Worker, method: str, path: str, body: Json = None, **headers: str
    ) -> tuple[int, JsonObject]:
        """Return the status and the body of a worker's answer; `_` in a header's name stands for `-`."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        async with self.http.request(method, f"{worker.base_url}{path}", json=body, headers=named) as answer:
            found = await answer.json(content_type=None)
            assert isinstance(found, dict)
            return answer.status, found

    async def idle(self, worker: Worker) -> str:
        """Return the worker's health once it works on nothing; to tell of an end is work, too, after it was logged."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while True:
                status, health = await self.ask(worker, "GET", "/health")
                if (status, health["status"]) != (200, "HEALTHY_BUSY"):
                    return str(health["status"])

    async def dead_letters(self, count: int) -> list[tuple[str, dict[str, str]]]:
        """Return that many dead letters: body and message attributes."""
        letters: list[tuple[str, dict[str, str]]] = []
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while len(letters) < count:
                answer = await self.clients.sqs.receive_message(
                    QueueUrl=self.dead_letter_url,
                    MaxNumberOfMessages=10,
                    WaitTimeSeconds=5,
                    MessageAttributeNames=["All"],
                )
                for message in answer.get("Messages", []):
                    attributes = {
                        name: value.get("StringValue", "")
                        for name, value in message.get("MessageAttributes", {}).items()
                    }
                    letters.append((message["Body"], attributes))
                    await self.clients.sqs.delete_message(
                        QueueUrl=self.dead_letter_url, ReceiptHandle=message["ReceiptHandle"]
                    )
        return letters

    async def queue_depth(self) -> int:
        """Return how many messages the queue holds, visible or in flight."""
        answer = await self.clients.sqs.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=["All"])
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        counts = {str(name): int(value) for name, value in answer["Attributes"].items() if name in names}
        return sum(counts.values())

    async def everything(self) -> str:
        """Return all items of the table, as text."""
        answer = await self.clients.dynamodb.scan(TableName=self.settings.table, ConsistentRead=True)
        assert "LastEvaluatedKey" not in answer, "one page holds all"
        return json.dumps(answer["Items"], default=str)

    async def result(self, session_id: str) -> Json:
        """Return what a session that completed ended with."""
        last = [item for item in await self.items(session_id) if item["SK"].startswith("EVENT#")][-1]
        assert "AGENT_BACKGROUND_TASK_COMPLETED" == last["status"], last
        found: Json = json.loads(last["data"])["result"]
        return found

    async def items(self, session_id: str) -> list[dict[str, str]]:
        """Return a session's items, HEAD last, each attribute as text."""
        answer = await self.clients.dynamodb.query(
            TableName=self.settings.table,
            KeyConditionExpression="PK = :pk",
            ExpressionAttributeValues={":pk": {"S": f"SESSION#{session_id}"}},
            ConsistentRead=True,
        )
        return [{name: str(next(iter(value.values()))) for name, value in item.items()} for item in answer["Items"]]

    async def statuses(self, session_id: str) -> list[str]:
        """Return the event types of a session's journal, in order."""
        return [item["status"] for item in await self.items(session_id) if item["SK"].startswith("EVENT#")]

    async def head(self, session_id: str) -> dict[str, str]:
        """Return a session's HEAD, each attribute as text."""
        return next(item for item in await self.items(session_id) if item["SK"] == "HEAD")

    def kill_all(self) -> None:
        """End every worker that still runs."""
        for worker in self._workers:
            if worker.process.returncode is None:
                worker.process.kill()


def start_message(session_type: str, value: Json = None, **fields: Json) -> JsonObject:
    """Return a start message."""
    return {"kind": "start", "session_type": session_type, "input": value, **fields}


@asynccontextmanager
async def deployed(emulator: Emulator, set_environment: Callable[[str, str], None]) -> AsyncIterator[Deployment]:
    """Provision an account of its own, and yield the deployment; its workers end with the block."""
    account = fresh_account()
    environment = {
        "AWS_ENDPOINT_URL": emulator.endpoint_url,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": access_key(emulator, account),
        "AWS_SECRET_ACCESS_KEY": "test",
        "ORCHESTRATOR_HOST": "127.0.0.1",
        "ORCHESTRATOR_BUCKET": f"artifacts-{account}",
        "ORCHESTRATOR_LOG_FORMAT": "json",
        "ORCHESTRATOR_DRAIN_SECONDS": "2",
    }
    for name, value in environment.items():
        set_environment(name, value)
    settings = Settings()
    async with AsyncExitStack() as stack:
        clients = await stack.enter_async_context(connect())
        await provision(clients, settings)
        queue = await clients.sqs.get_queue_url(QueueName=settings.queue_name)
        dead = await clients.sqs.get_queue_url(QueueName=settings.dead_letter_queue_name)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        readers = await stack.enter_async_context(asyncio.TaskGroup())
        deployment = Deployment(environment, settings, clients, http, queue["QueueUrl"], dead["QueueUrl"], readers)
        stack.callback(deployment.kill_all)
        yield deployment


@asynccontextmanager
async def agents_serving(module: str) -> AsyncIterator[tuple[str, asyncio.StreamReader]]:
    """Run that module's agents while the block runs; yield their address, which answers, and the lines they print."""
    url = f"http://127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module),
        env={"AGENTS_URL": url},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            assert url in (await process.stdout.readline()).decode()
        yield url, process.stdout
    finally:
        process.kill()
        await process.wait()
