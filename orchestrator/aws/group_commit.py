"""Group commit: the writes of all actors that arrive while a request is in flight leave together in the next one.

A write is tried until DynamoDB decides it. Never do two writes to one partition key share a batch: the statements of a
batch fail each alone and in no order. A session has one write in flight, so waiting and repeating reorder nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from botocore.exceptions import ClientError

from orchestrator.aws.faults import CONNECTION_FAULTS, Patience, give_way
from orchestrator.aws.items import Insert, Item, Write

BATCH_WRITES_MAX: Final = 25
"""Statements of one `BatchExecuteStatement` (DynamoDB, quotas)."""
BATCH_BYTES_MAX: Final = 900_000
"""A batch that is too large as a whole would fail its small statements too."""
FLIGHTS_MAX: Final = 3
"""Requests at once: few, so that batches fill while they are out; more than one, so that a slow one delays not all."""


@dataclass(frozen=True, slots=True)
class Done:
    """The write is durable. `item` is the new item where the request returned it."""

    item: Item | None = None


@dataclass(frozen=True, slots=True)
class Unmet:
    """The write's condition does not hold. `item` is what stands there, where the answer said so."""

    item: Item | None = None


@dataclass(frozen=True, slots=True)
class Undecided:
    """Throttled, lost or failed inside the service: the same write is to be repeated."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Rejected:
    """The write is malformed or forbidden, and would be again."""

    error: BaseException


Fate: TypeAlias = Done | Unmet | Undecided | Rejected
Send: TypeAlias = Callable[[Sequence[Write]], Awaitable[Sequence[Fate]]]


@dataclass(slots=True)
class _Pending:
    write: Write
    partition: str
    size: int
    decided: asyncio.Future[Done | Unmet]
    attempt: int = 0


class GroupCommit:
    """Gathers writes into batches. `run` does the work for as long as its owner wants it."""

    def __init__(self, send: Send, patience: Patience, *, batch_writes_max: int = BATCH_WRITES_MAX) -> None:
        self._send = send
        self._patience = patience
        self._loop: asyncio.AbstractEventLoop | None = None
        self._batch_writes_max = batch_writes_max
        self._pending: deque[_Pending] = deque()
        self._arrived = asyncio.Event()
        self._seats = asyncio.Semaphore(FLIGHTS_MAX)

    def submit(self, write: Write) -> asyncio.Future[Done | Unmet]:
        """Take the write and return what will say how DynamoDB decided it; a `ClientError` where it never will.

        A cancelled caller leaves its write behind: whether it took effect is for a later reader to see.
        """
        if self._loop is None:
            # Asked for once: to ask takes a system call each time.
            self._loop = asyncio.get_running_loop()
        decided: asyncio.Future[Done | Unmet] = self._loop.create_future()
        self._pending.append(_Pending(write, write.partition, _size(write), decided))
        self._arrived.set()
        return decided

    async def run(self) -> None:
        """Send what arrives until cancelled; then what is in flight is cut and its callers are cancelled."""
        try:
            async with asyncio.TaskGroup() as flights:
                while True:
                    await self._arrived.wait()
                    await self._seats.acquire()
                    await give_way()
                    batch = self._take_batch()
                    if batch:
                        flights.create_task(self._fly(batch, flights))
                    else:
                        self._seats.release()
        finally:
            for pending in self._pending:
                pending.decided.cancel()

    def _take_batch(self) -> list[_Pending]:
        """Remove and return the oldest writes that may travel together; the rest keep their order."""
        batch: list[_Pending] = []
        left: list[_Pending] = []
        partitions: set[str] = set()
        size = 0
        while self._pending and len(batch) < self._batch_writes_max and len(left) < BATCH_WRITES_MAX:
            pending = self._pending.popleft()
            fits = not batch or (pending.write.is_batchable and batch[0].write.is_batchable)
            if fits and pending.partition not in partitions and (not batch or size + pending.size <= BATCH_BYTES_MAX):
                batch.append(pending)
                partitions.add(pending.partition)
                size += pending.size
            else:
                left.append(pending)
        self._pending.extendleft(reversed(left))
        if not self._pending:
            self._arrived.clear()
        return batch

    async def _fly(self, batch: list[_Pending], flights: asyncio.TaskGroup) -> None:
        try:
            fates = await self._attempt([pending.write for pending in batch])
        except asyncio.CancelledError:
            for pending in batch:
                pending.decided.cancel()
            raise
        except Exception as error:
            # Supervision of one request: whoever waits for these writes must learn of our bug, and others go on.
            fates = [Rejected(error) for _ in batch]
        finally:
            self._seats.release()
        for pending, fate in zip(batch, fates, strict=True):
            self._settle(pending, fate, flights)

    async def _attempt(self, writes: list[Write]) -> Sequence[Fate]:
        began = self._patience.clock.monotonic()
        try:
            fates = await self._send(writes)
        except (ClientError, *CONNECTION_FAULTS) as error:
            if self._patience.note(error):
                # Each statement's effect is unknown; each is repeated, and a duplicate recognises itself.
                return [Undecided(error) for _ in writes]
            if len(writes) == 1:
                return [Rejected(error)]
        except ValueError as error:
            # It never left: something in it has no JSON, or no UTF-8.
            if len(writes) == 1:
                return [Rejected(error)]
        else:
            self._patience.telemetry.appended(self._patience.clock.monotonic() - began, len(writes))
            return fates
        # One malformed statement fails a whole batch: apart, it fails alone.
        return [fate for write in writes for fate in await self._attempt([write])]

    def _settle(self, pending: _Pending, fate: Fate, flights: asyncio.TaskGroup) -> None:
        if isinstance(fate, Undecided):
            pending.attempt += 1
            flights.create_task(self._repeat_later(pending))
        elif pending.decided.done():
            return
        elif isinstance(fate, Rejected):
            pending.decided.set_exception(fate.error)
        else:
            pending.decided.set_result(fate)

    async def _repeat_later(self, pending: _Pending) -> None:
        try:
            await self._patience.clock.sleep(self._patience.backoff(pending.attempt))
        except asyncio.CancelledError:
            pending.decided.cancel()
            raise
        if not pending.decided.done():
            self._pending.append(pending)
            self._arrived.set()


def _size(write: Write) -> int:
    """Return about how many bytes the write adds to a request; an event's data and a message's body can be long."""
    if isinstance(write, Insert):
        data = write.item.get("encrypted") or write.item.get("data") or write.item.get("body")
    else:
        data = write.sets.get("attributes") or write.sets.get("outbox")
    # Bytes travel as base64.
    return 1_000 + (len(data) if isinstance(data, str) else 2 * len(data) if isinstance(data, bytes) else 0)
