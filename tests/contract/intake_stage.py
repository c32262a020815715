"""What the intake suites stand on: a scripted handle, a capacity, and an intake per implementation with its outside.

To add an implementation: one more function that returns an `IntakeStage`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog

from actors import Clock, SystemClock, settle
from orchestrator.aws.clients import Clients
from orchestrator.aws.queue import Queue, find_queue
from orchestrator.intake import Envelope, Intake
from orchestrator.intake.memory import MemoryIntake
from orchestrator.intake.sqs import SQSIntake
from tests.contract.stage import clients_of, patience_of
from tests.contract.waiting import SECONDS_MAX, Log, WatchedClock
from tests.emulators import Emulator, access_key, fresh_account

QUEUE: Final = "sessions"
DEAD_LETTERS: Final = "sessions-dlq"

DeadLetter = tuple[str, str, str]
"""A body, an error code and an error message."""


class Scripted:
    """A handle that raises what the script says for a body, in turn, and else handles; `gate` holds everything up."""

    def __init__(self, script: Mapping[str, Sequence[Exception]] | None = None) -> None:
        self._script = {body: list(errors) for body, errors in (script or {}).items()}
        self.entered: Log[Envelope] = Log()
        self.handled: Log[Envelope] = Log()
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def in_hand(self) -> int:
        """How many envelopes are being handled now."""
        return len(self.entered.entries) - len(self.handled.entries)

    async def __call__(self, envelope: Envelope) -> None:
        """Handle one envelope."""
        self.entered.add(envelope)
        await self.gate.wait()
        errors = self._script.get(envelope.body)
        if errors:
            raise errors.pop(0)
        self.handled.add(envelope)


class Room:
    """A `Capacity` that a test sets; `on_change` is told when it grows."""

    def __init__(self, free: int = 1_000) -> None:
        self._free = free
        self.on_change: Callable[[], None] = lambda: None

    def free(self) -> int:
        """See `Capacity.free`."""
        return self._free

    def take(self) -> None:
        """Take one place: a session came to live here."""
        self._free -= 1

    def leave(self, places: int = 1) -> None:
        """Give places back, and tell."""
        self._free += places
        self.on_change()


@dataclass(slots=True)
class IntakeStage:
    """One implementation of `Intake`, and its outside: put a body, see what became of it."""

    intake: Intake
    put: Callable[[str], Awaitable[str]]
    left_count: Callable[[], Awaitable[int]]
    """How many messages are not acknowledged."""
    acknowledged: Callable[[], Awaitable[list[str]]]
    """Which ones are; on SQS it empties the queue to find out, so it is for afterwards."""
    dead_letters: Callable[[int], Awaitable[list[DeadLetter]]]
    hurry: Callable[[], None]
    """Let short waits pass from now on, where time stands still."""

    def stop(self) -> None:
        """Stop the intake, and let what it waits for on its way out pass."""
        self.intake.stop()
        self.hurry()

    @asynccontextmanager
    async def running(self, handle: Scripted) -> AsyncIterator[asyncio.Task[None]]:
        """Run the intake while the block runs; then stop it and wait for its end."""
        # An intake that fails takes the test down with it, at once and by its own error.
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.intake.run(handle), name="intake")
            yield task
            self.stop()
            async with asyncio.timeout(SECONDS_MAX):
                await asyncio.shield(task)


def memory_stage() -> IntakeStage:
    """Return a stage in memory."""
    intake = MemoryIntake()
    sent: list[str] = []

    async def put(body: str) -> str:
        sent.append(f"message-{len(sent) + 1}")
        intake.put(Envelope(sent[-1], body))
        return sent[-1]

    async def left_count() -> int:
        return len(sent) - len(intake.acknowledged)

    async def acknowledged() -> list[str]:
        return list(intake.acknowledged)

    async def dead_letters(wanted: int) -> list[DeadLetter]:
        await settle()
        assert wanted <= len(intake.dead_letters)
        return [(envelope.body, reason, "nobody registered it") for envelope, reason in intake.dead_letters]

    return IntakeStage(intake, put, left_count, acknowledged, dead_letters, hurry=lambda: None)


@dataclass(slots=True)
class SQSStage(IntakeStage):
    """SQS, with what only it has; `raw` means: by a client past the product and past the proxy."""

    sqs_intake: SQSIntake
    raw: Clients
    queue_url: str
    dead_letters_url: str
    room: Room
    stored: dict[str, str] = field(default_factory=dict)

    async def counts(self) -> tuple[int, int]:
        """Return how many messages wait in the queue, and how many are handed out and not deleted."""
        return await _counts(self.raw, self.queue_url)


@asynccontextmanager
async def sqs_stage(
    emulator: Emulator, *, through: str | None = None, clock: Clock | None = None, room: Room | None = None
) -> AsyncIterator[SQSStage]:
    """Create both queues in an account of their own; `through` is a proxy's address for the product alone."""
    key = access_key(emulator, fresh_account())
    clock = clock or SystemClock()
    room = room or Room()
    stored: dict[str, str] = {}
    sent: list[str] = []

    async def store_body(message_id: str, body: str) -> str:
        stored[message_id] = body
        return f'{{"artifact": "s3://bucket/{message_id}"}}'

    async with clients_of(emulator.endpoint_url, key) as raw:
        for name in (QUEUE, DEAD_LETTERS):
            await raw.sqs.create_queue(QueueName=name)
        async with clients_of(through or emulator.endpoint_url, key) as clients:
            chores = patience_of("queue chores")
            queue, dead = [await find_queue(clients, name, chores) for name in (QUEUE, DEAD_LETTERS)]
            intake = SQSIntake(
                queue=queue,
                dead_letters=dead,
                store_body=store_body,
                capacity=room,
                patience=patience_of("queue", clock=clock, draw=1.0),
                clock=clock,
                log=structlog.get_logger("test"),
            )
            room.on_change = intake.room_changed

            async def put(body: str) -> str:
                message_id = (await raw.sqs.send_message(QueueUrl=queue.url, MessageBody=body))["MessageId"]
                sent.append(message_id)
                return message_id

            async def left_count() -> int:
                return sum(await _counts(raw, queue.url))

            async def acknowledged() -> list[str]:
                left = await _drain(raw, queue)
                return [message_id for message_id in sent if message_id not in left]

            async def dead_letters(wanted: int) -> list[DeadLetter]:
                return await _dead_letters(raw, dead, wanted)

            yield SQSStage(
                intake=intake,
                put=put,
                left_count=left_count,
                acknowledged=acknowledged,
                dead_letters=dead_letters,
                hurry=clock.hurry if isinstance(clock, WatchedClock) else lambda: None,
                sqs_intake=intake,
                raw=raw,
                queue_url=queue.url,
                dead_letters_url=dead.url,
                room=room,
                stored=stored,
            )


async def _counts(raw: Clients, queue_url: str) -> tuple[int, int]:
    answer = await raw.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])
    numbers = {str(name): text for name, text in answer["Attributes"].items()}
    return int(numbers["ApproximateNumberOfMessages"]), int(numbers["ApproximateNumberOfMessagesNotVisible"])


async def _drain(raw: Clients, queue: Queue) -> set[str]:
    """Return the ids of all messages that the queue still holds, handed out or not: one is visible in a second."""
    held = sum(await _counts(raw, queue.url))
    found: set[str] = set()
    while len(found) < held:
        messages = await raw.sqs.receive_message(
            QueueUrl=queue.url, MaxNumberOfMessages=10, WaitTimeSeconds=5, VisibilityTimeout=5
        )
        found |= {message["MessageId"] for message in messages.get("Messages", [])}
    return found


async def _dead_letters(raw: Clients, dead: Queue, wanted: int) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    while True:
        messages = await raw.sqs.receive_message(
            QueueUrl=dead.url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=5 if len(found) < wanted else 0,
            MessageAttributeNames=["All"],
        )
        for message in messages.get("Messages", []):
            attributes = message["MessageAttributes"]
            code, text = (attributes[name]["StringValue"] for name in ("ErrorCode", "ErrorMessage"))
            found.append((message["Body"], code, text))
        if len(found) >= wanted and not messages.get("Messages"):
            return found
