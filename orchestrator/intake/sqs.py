"""Envelopes from SQS: as many polls as the node has room for, none beyond; deleted in tens, and only when handled (I3).

What the node has no room for stays in the queue. A message that can never succeed goes to the dead-letter queue with
its reason; one whose handling takes long is hidden for longer; an outage of the queue is waited out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from actors import Clock
from orchestrator.aws.clients import UNREACHABLE
from orchestrator.aws.faults import Patience, RequestFailed
from orchestrator.aws.queue import BATCH_MAX, MESSAGE_BYTES_MAX, Queue, QueueMessage
from orchestrator.errors import OrchestratorError, Poison
from orchestrator.intake import Capacity, Envelope, Handle, TryAgainSoon
from orchestrator.intake.dead_letters import dead_letter_attributes
from orchestrator.telemetry.port import SILENT, Telemetry

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

RECEIVERS_MAX: Final = 8
POLL_SECONDS: Final = 5
"""A stop waits for the polls under way, because a poll that is cut swallows what the queue hands it until that is
visible again. Short enough for a stop, long enough that an idle node costs some twenty cents a month in requests."""
VISIBILITY_SECONDS: Final = 30
PROLONG_EVERY_SECONDS: Final = 10
PAUSE_SECONDS_FIRST: Final = 1
"""The first pause of a message that is to come again soon; each further one is twice as long."""
DELETE_LINGER_SECONDS: Final = 0.05
"""How long a lone acknowledgement waits for company: ten deletions cost the same request as one."""
ERROR_MESSAGE_MAX: Final = 1_000
ATTRIBUTES_BYTES: Final = 4_096

StoreBody = Callable[[str, str], Awaitable[str]]
"""Keeps a body too long for the dead-letter queue, and returns the text to send there instead."""


class SQSIntake:
    """An `Intake` over one queue and its dead-letter queue."""

    def __init__(  # noqa: PLR0913 - the ports of the room, each named
        self,
        *,
        queue: Queue,
        dead_letters: Queue,
        store_body: StoreBody,
        capacity: Capacity,
        patience: Patience,
        clock: Clock,
        telemetry: Telemetry = SILENT,
        log: FilteringBoundLogger,
    ) -> None:
        self._queue = queue
        self._dead_letters = dead_letters
        self._store_body = store_body
        self._capacity = capacity
        self._patience = patience
        self._clock = clock
        self._telemetry = telemetry
        self._log = log
        self._stopping = asyncio.Event()
        self._room_changed = asyncio.Event()
        self._reserved = 0
        self._receivers = 0
        self._under_way: dict[str, float] = {}
        self._acknowledged: list[str] = []
        self._acknowledgement = asyncio.Event()
        self._handlers_done = asyncio.Event()

    def stop(self) -> None:
        """See `Intake.stop`."""
        self._stopping.set()
        self._room_changed.set()

    def unreachable_for(self) -> float:
        """See `Intake.unreachable_for`."""
        return self._patience.reachability.unreachable_for()

    def room_changed(self) -> None:
        """Look again whether there is room: a session left this node."""
        self._room_changed.set()

    async def run(self, handle: Handle) -> None:
        """See `Intake.run`."""
        async with asyncio.TaskGroup() as chores:
            prolonging = chores.create_task(self._prolong_for_ever())
            deleting = chores.create_task(self._delete_for_ever())
            async with asyncio.TaskGroup() as receivers:
                self._add_receiver(receivers, handle)
                await self._stopping.wait()
            prolonging.cancel()
            self._handlers_done.set()
            self._acknowledgement.set()
            await deleting

    # --- receiving -----------------------------------------------------------------------------------------------

    def _add_receiver(self, tasks: asyncio.TaskGroup, handle: Handle) -> None:
        self._receivers += 1
        tasks.create_task(self._receive(tasks, handle), name="sqs receiver")

    async def _receive(self, tasks: asyncio.TaskGroup, handle: Handle) -> None:
        failures = 0
        try:
            while not self._stopping.is_set():
                room = await self._reserve()
                if not room:
                    continue
                messages = await self._poll(room)
                if messages is None:
                    failures += 1
                    await self._clock.sleep(self._patience.backoff(failures))
                    continue
                failures = 0
                for message in messages:
                    tasks.create_task(self._deliver(message, handle), name=f"message {message.message_id}")
                if len(messages) == room and self._receivers < RECEIVERS_MAX:
                    self._add_receiver(tasks, handle)
                elif not messages and self._receivers > 1:
                    return
        finally:
            self._receivers -= 1

    async def _reserve(self) -> int:
        """Reserve room for one poll's messages; 0 after waiting, to look again."""
        room = min(BATCH_MAX, self._capacity.free() - self._reserved)
        if room > 0:
            self._reserved += room
            return room
        self._room_changed.clear()
        await self._room_changed.wait()
        return 0

    async def _poll(self, room: int) -> tuple[QueueMessage, ...] | None:
        """Return what one poll brought, keeping its reservations; `None` when the queue did not answer."""
        messages: tuple[QueueMessage, ...] = ()
        try:
            messages = await self._queue.receive(
                messages_max=room, wait_seconds=POLL_SECONDS, visibility_seconds=VISIBILITY_SECONDS
            )
            self._patience.reachability.succeeded()
            if messages:
                self._telemetry.messages("received", len(messages))
        except (RequestFailed, *UNREACHABLE) as error:
            self._patience.note(error)
            self._log.warning("queue_unreachable", error=str(error)[:300])
            return None
        finally:
            self._release(room - len(messages))
        return messages

    def _release(self, places: int) -> None:
        self._reserved -= places
        self._room_changed.set()

    # --- one message ---------------------------------------------------------------------------------------------

    async def _deliver(self, message: QueueMessage, handle: Handle) -> None:
        self._under_way[message.receipt] = self._clock.monotonic()
        try:
            await self._handle(message, handle)
        except OrchestratorError as error:
            self._log.warning(
                "message_deferred", message_id=message.message_id, code=error.code, error=str(error)[:300]
            )
            if isinstance(error, TryAgainSoon):
                await self._quietly(self._queue.prolong([message.receipt], seconds=pause_after(message.receive_count)))
            return
        except Exception as error:
            # Supervision of one message: our bug must not take the others down; SQS brings it again, at last to the
            # dead-letter queue.
            self._log.error("message_failed", message_id=message.message_id, exc_info=error)
            return
        finally:
            del self._under_way[message.receipt]
            self._release(1)
        self._acknowledged.append(message.receipt)
        self._acknowledgement.set()

    async def _handle(self, message: QueueMessage, handle: Handle) -> None:
        try:
            await handle(_envelope(message))
        except Poison as poison:
            await self._dead_letter(message, poison.reason, str(poison))

    async def _dead_letter(self, message: QueueMessage, code: str, text: str) -> None:
        body, attributes = message.body, dead_letter_attributes(message, code, printable(text))
        beside = sum(len(name.encode()) + len(text.encode()) for name, text in attributes.items())
        if len(body.encode()) + max(ATTRIBUTES_BYTES, 2 * beside) > MESSAGE_BYTES_MAX:
            body = await self._store_body(message.message_id, body)
        await self._dead_letters.send(
            body, attributes=attributes, tenant=message.group, trace_header=message.trace_header
        )
        self._telemetry.messages("dead_lettered", 1)
        self._log.warning("message_dead_lettered", message_id=message.message_id, code=code)

    # --- chores --------------------------------------------------------------------------------------------------

    async def _prolong_for_ever(self) -> None:
        while True:
            await self._clock.sleep(PROLONG_EVERY_SECONDS)
            horizon = self._clock.monotonic() - PROLONG_EVERY_SECONDS / 2
            slow = [receipt for receipt, since in self._under_way.items() if since < horizon]
            for start in range(0, len(slow), BATCH_MAX):
                await self._quietly(self._queue.prolong(slow[start : start + BATCH_MAX], seconds=VISIBILITY_SECONDS))

    async def _delete_for_ever(self) -> None:
        while not (self._handlers_done.is_set() and not self._acknowledged):
            self._acknowledgement.clear()
            if not self._acknowledged:
                await self._acknowledgement.wait()
                continue
            if len(self._acknowledged) < BATCH_MAX and not self._handlers_done.is_set():
                await self._clock.sleep(DELETE_LINGER_SECONDS)
            batch, self._acknowledged = self._acknowledged[:BATCH_MAX], self._acknowledged[BATCH_MAX:]
            await self._quietly(self._queue.delete(batch))
            self._telemetry.messages("deleted", len(batch))

    async def _quietly(self, call: Awaitable[None]) -> None:
        """Await a chore whose failure is harmless: the message comes again and is recognised."""
        try:
            await call
        except (RequestFailed, *UNREACHABLE) as error:
            self._log.warning("queue_chore_failed", error=str(error)[:300])


def pause_after(receive_count: int) -> int:
    """Return the seconds until a message that was received so often comes again: 1, 2, 4 … up to the visibility."""
    return min(VISIBILITY_SECONDS, PAUSE_SECONDS_FIRST << min(receive_count - 1, VISIBILITY_SECONDS))


def printable(text: str) -> str:
    """Return the text as an SQS attribute takes it: not empty, no control characters, at most 1,000 characters."""
    kept = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return kept[:ERROR_MESSAGE_MAX] or "no message"


def _envelope(message: QueueMessage) -> Envelope:
    return Envelope(
        message_id=message.message_id,
        body=message.body,
        receive_count=message.receive_count,
        attributes=message.attributes,
        xray_header=message.trace_header,
        sent_at=message.sent_at,
    )
