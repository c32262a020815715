"""Runs the trade matching example for real, kills its worker in the middle, and checks what came of it. `make demo`.

A local AWS emulator, a bucket that notifies a queue, every notification delivered twice, a worker as a process of its
own, `kill -9` while sessions are in flight, and a second worker that finds the rest. Exit code 0 means that each
document had exactly one session, and each session the end that was expected. Everything started here ends with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from examples.trade_matching.app import TRADES
from examples.trade_matching.demo_report import Session, summary, table, unexpected, unrecorded
from orchestrator.aws.provision import provision
from orchestrator.cli.client import Client, open_client
from orchestrator.errors import OrchestratorError
from orchestrator.local import emulator, free_port
from orchestrator.session.transitions import ENDED, SessionStatus
from orchestrator.session.values import JsonObject
from orchestrator.settings import load

T = TypeVar("T")

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = Path(__file__).parent / "documents"
APPLICATION: Final = "examples.trade_matching.app:app"
BUCKET: Final = "confirmations"

ENDED_BEFORE_KILL: Final = 4
POLL_SECONDS: Final = 0.25
NOTIFY_SECONDS_MAX: Final = 30.0
MIDDLE_SECONDS_MAX: Final = 60.0
END_SECONDS_MAX: Final = 90.0
"""Where the system does not tell that a process is gone (not Linux), 15 s of this pass before its beat is missed."""
STOP_SECONDS_MAX: Final = 30.0
"""A stop waits for the poll of the queue that is under way, 5 s at most, so that no message is lost in it."""
HOLD_SECONDS: Final = 60
SESSIONS_MAX: Final = 1_000
LOG_LINES_SHOWN: Final = 20
STOPPED: Final = 130
"""What a shell says of a program that Ctrl-C ended."""


class DemoFailed(Exception):
    """Something did not happen within its time; the text says what."""


@dataclass(slots=True)
class Screen:
    """What people see: a line for each thing that happened and, on a terminal, how many sessions have ended."""

    console: Console = field(default_factory=lambda: Console(highlight=False))
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not self.console.is_terminal:
            self.console.width = 140

    def say(self, text: str) -> None:
        self.console.print(f"[dim]{self.seconds:5.1f} s[/]  {text}", soft_wrap=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def progress(self) -> Progress:
        columns = (SpinnerColumn(), TextColumn("sessions ended"), BarColumn(), MofNCompleteColumn())
        return Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)


# --- the story ---------------------------------------------------------------------------------------------------


async def demonstrate(screen: Screen, folder: Path) -> bool:
    """Return whether everything came out as expected."""
    _forget_other_accounts()
    async with emulator(port=free_port(), state=None) as local:
        os.environ |= local.environment | {
            "ORCHESTRATOR_HOST": "127.0.0.1",
            "ORCHESTRATOR_PORT": "0",
            "ORCHESTRATOR_LOG_FORMAT": "json",
        }
        async with open_client(load()) as client:
            return await _with_emulator(screen, client, folder)


async def _with_emulator(screen: Screen, client: Client, folder: Path) -> bool:
    queue_url = await prepare(client)
    screen.say("a local AWS emulator runs, with the orchestrator's table and queues, and a bucket that tells the queue")
    documents = await upload(client)
    screen.say(f"uploaded {len(documents)} confirmations")
    deliveries = await deliver_twice(client, queue_url, documents)
    screen.say(f"S3 told the queue of each, and each message was doubled: {deliveries} deliveries")
    with screen.progress() as progress:
        ended = progress.add_task("", total=len(documents))
        watch = Watch(client, queue_url, lambda count: progress.update(ended, completed=count))
        interrupted = await kill_in_the_middle(screen, watch, folder)
        await finish(screen, watch, len(documents), folder)
    duplicates = absorbed(folder)
    sessions = [await read(client, session_id, duplicates[session_id]) for session_id in await watch.states()]
    sessions.sort(key=lambda session: (session.trade, session.document))
    screen.console.print(table(sessions))
    problems = [*unexpected(sessions, documents, interrupted), *unrecorded(sessions, await trades(client))]
    for problem in problems:
        screen.console.print(f"[bold red]unexpected[/] {escape(problem)}", soft_wrap=True)
    screen.console.print(summary(sessions, deliveries, interrupted, screen.seconds), soft_wrap=True)
    return not problems


async def prepare(client: Client) -> str:
    """Create what the orchestrator needs, the example's table, and a bucket that notifies the queue; return its URL."""
    await provision(client.clients, client.settings)
    await client.clients.dynamodb.create_table(
        TableName=TRADES,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "trade_reference", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "trade_reference", "KeyType": "HASH"}],
    )
    queue = await client.clients.sqs.get_queue_url(QueueName=client.settings.queue)
    named = await client.clients.sqs.get_queue_attributes(QueueUrl=queue["QueueUrl"], AttributeNames=["QueueArn"])
    await client.clients.s3.create_bucket(Bucket=BUCKET)
    await client.clients.s3.put_bucket_notification_configuration(
        Bucket=BUCKET,
        NotificationConfiguration={
            "QueueConfigurations": [
                {
                    "QueueArn": named["Attributes"]["QueueArn"],
                    "Events": ["s3:ObjectCreated:*"],
                    "Filter": {"Key": {"FilterRules": [{"Name": "suffix", "Value": ".pdf"}]}},
                }
            ]
        },
    )
    return queue["QueueUrl"]


async def upload(client: Client) -> set[str]:
    """Put every document into the bucket, and return their keys."""
    files = {file.relative_to(DOCUMENTS).as_posix(): file for file in DOCUMENTS.glob("*/*.pdf")}
    for key, file in files.items():
        await client.clients.s3.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes())
    return set(files)


async def deliver_twice(client: Client, queue_url: str, documents: set[str]) -> int:
    """Double every notification, as S3 or SQS may do on a bad day; return how many messages stand in the queue."""
    sqs = client.clients.sqs
    held: dict[str, str] = {}

    async def all_told() -> bool:
        # Held back until all of them are here, so that none is received, and doubled, a second time.
        answer = await sqs.receive_message(
            QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=1, VisibilityTimeout=HOLD_SECONDS
        )
        held.update({message["ReceiptHandle"]: message["Body"] for message in answer.get("Messages", [])})
        return documents == {key for body in held.values() for key in _keys(body)}

    await until("S3 told the queue of every document", all_told, seconds_max=NOTIFY_SECONDS_MAX)
    notifications = [body for body in held.values() if _keys(body)]
    for body in notifications:
        await sqs.send_message(QueueUrl=queue_url, MessageBody=body)
    for receipt in held:
        await sqs.change_message_visibility(QueueUrl=queue_url, ReceiptHandle=receipt, VisibilityTimeout=0)
    return 2 * len(notifications)


async def kill_in_the_middle(screen: Screen, watch: Watch, folder: Path) -> set[str]:
    """Run a worker until some sessions have ended and others not, kill it, and return those that it left behind."""
    async with worker(folder / "worker-1.log") as first:
        screen.say(f"started a worker, process {first.pid}")

        async def in_the_middle() -> bool:
            # Once nothing is in the queue, every session is accepted. A message that is being delivered at the kill
            # would come again as well, but only after its 30 s of invisibility: not worth the wait in a demonstration.
            _check_alive(first)
            return await watch.ended() >= ENDED_BEFORE_KILL and await watch.messages() == 0

        await until("some sessions ended", in_the_middle, seconds_max=MIDDLE_SECONDS_MAX)
        first.kill()
        await first.wait()
    states = await watch.states()
    interrupted = {session_id for session_id, state in states.items() if state not in ENDED}
    if not interrupted:
        raise DemoFailed("the first worker had done everything before it could be killed")
    screen.say(
        f"[bold red]kill -9[/] worker {first.pid}: "
        f"{len(states) - len(interrupted)} sessions have ended, {len(interrupted)} were in flight"
    )
    return interrupted


async def finish(screen: Screen, watch: Watch, documents: int, folder: Path) -> None:
    """Run another worker until every session has ended, then stop it in order."""
    async with worker(folder / "worker-2.log") as second:
        screen.say(f"started another worker, process {second.pid}")

        async def all_ended() -> bool:
            _check_alive(second)
            return await watch.ended() >= documents and await watch.messages() == 0

        await until("every session ended", all_ended, seconds_max=END_SECONDS_MAX)
        screen.say("every session has ended; asking the worker to stop")
        second.terminate()
        try:
            code = await asyncio.wait_for(second.wait(), STOP_SECONDS_MAX)
        except TimeoutError:
            raise DemoFailed(f"the second worker did not stop within {STOP_SECONDS_MAX:g} s of SIGTERM") from None
    if code != 0:
        raise DemoFailed(f"the second worker answered SIGTERM with exit code {code}")
    screen.say("the worker drained and stopped with exit code 0")


# --- what came of it ---------------------------------------------------------------------------------------------


async def trades(client: Client) -> dict[str, dict[str, str]]:
    """Return the example's own table: trade → attributes."""
    answer = await client.clients.dynamodb.scan(TableName=TRADES, ConsistentRead=True)
    items = [{name: value["S"] for name, value in item.items()} for item in answer["Items"]]
    return {item["trade_reference"][-4:]: item for item in items}


async def read(client: Client, session_id: str, duplicates: int) -> Session:
    """Return the session with all its events."""
    events: list[JsonObject] = []
    await client.events(session_id, events.append, follow=False)
    return Session(session_id, events, duplicates)


def absorbed(folder: Path) -> Counter[str]:
    """Return how often the workers' logs say of each session that a delivery was a duplicate of it."""
    entries = [_entry(line) for log in folder.glob("worker-*.log") for line in log.read_text().splitlines()]
    return Counter(str(entry["session_id"]) for entry in entries if entry.get("event") == "duplicate_absorbed")


def _entry(line: str) -> JsonObject:
    try:
        entry = json.loads(line)
    except ValueError:
        # The line that the kill cut off, or what an interpreter in trouble prints: not one of ours.
        return {}
    return entry if isinstance(entry, dict) else {}


# --- the means ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Watch:
    """Looks at the sessions and the queue from outside; tells `on_ended` how many sessions have ended."""

    client: Client
    queue_url: str
    on_ended: Callable[[int], None]

    async def states(self) -> dict[str, str]:
        """Return every session and its state."""
        rows = await self.client.listing(status=None, session_type=None, tenant=None, limit=SESSIONS_MAX)
        # The latest change comes first; one that changed state under our eyes may come again, as it was before.
        return {str(row["session_id"]): str(row["state"]) for row in reversed(rows)}

    async def ended(self) -> int:
        """Return how many sessions have ended."""
        count = 0
        for status in (SessionStatus.COMPLETED, SessionStatus.FAILED):
            count += len(await self.client.listing(status=status, session_type=None, tenant=None, limit=SESSIONS_MAX))
        self.on_ended(count)
        return count

    async def messages(self) -> int:
        """Return how many messages are in the queue, or received from it and not yet deleted."""
        answer = await self.client.clients.sqs.get_queue_attributes(
            QueueUrl=self.queue_url,
            AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
        )
        return sum(int(count) for count in answer["Attributes"].values())


@asynccontextmanager
async def worker(log: Path) -> AsyncIterator[Process]:
    """Run a worker while the block runs; one that is still there at its end is killed."""
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "orchestrator", "serve", APPLICATION),
            cwd=ROOT,
            stdin=DEVNULL,
            stdout=output,
            stderr=output,
            # Of its own group, so that Ctrl-C reaches us alone, and we end it.
            start_new_session=True,
        )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def until(what: str, holds: Callable[[], Awaitable[bool]], *, seconds_max: float) -> None:
    """Return once it holds; raise `DemoFailed` when it does not within that time."""
    deadline = time.monotonic() + seconds_max
    while not await holds():
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited {seconds_max:g} s in vain until {what}")
        await asyncio.sleep(POLL_SECONDS)


def _check_alive(child: Process) -> None:
    if child.returncode is not None:
        raise DemoFailed(f"worker {child.pid} ended by itself, with exit code {child.returncode}")


def _keys(body: str) -> list[str]:
    """Return the keys that an S3 notification tells of; none for the test event that S3 sends at first."""
    records = json.loads(body).get("Records", [])
    return [str(record["s3"]["object"]["key"]) for record in records]


def _forget_other_accounts() -> None:
    """Drop the user's own AWS and orchestrator settings: nothing here may reach an account."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "ORCHESTRATOR_"))]:
        del os.environ[name]


def _show_logs(screen: Screen, folder: Path) -> None:
    for log in sorted(folder.glob("worker-*.log")):
        screen.console.print(f"[bold]the end of {log.name}[/]")
        lines = log.read_text().splitlines()[-LOG_LINES_SHOWN:]
        screen.console.print("\n".join(lines), markup=False, soft_wrap=True)


async def run(screen: Screen) -> int:
    """Return the exit code."""
    task = asyncio.current_task()
    assert task is not None, "run() is the main task"
    # Ctrl-C cancels us already. A SIGTERM must as well, or the processes that we started would outlive us.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with TemporaryDirectory(prefix="trade-matching-") as folder:
        try:
            return 0 if await demonstrate(screen, Path(folder)) else 1
        except (DemoFailed, OrchestratorError) as error:
            screen.console.print(f"[bold red]failed[/] {escape(str(error))}", soft_wrap=True)
            _show_logs(screen, Path(folder))
            return 1


def main() -> None:
    try:
        code = asyncio.run(run(Screen()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped, and so is everything that was started", file=sys.stderr)
        code = STOPPED
    sys.exit(code)


if __name__ == "__main__":
    main()
