"""Puts starts on the queue, from a process of its own: `bench.sender QUEUE_URL TYPE PREFIX COUNT BYTES TENANT`."""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop

from orchestrator.aws.clients import UNREACHABLE, Clients, connect

BATCH_MAX = 10
TENANT = "default"
SENDERS = 4
TRIES_MAX = 10


def body_of(session_type: str, session_id: str, size: int, tenant: str = TENANT) -> str:
    """Return the message that starts a session."""
    start = {"kind": "start", "session_type": session_type, "session_id": session_id, "tenant": tenant}
    return json.dumps({**start, "input": {"bytes": size}})


async def send_batch(clients: Clients, queue_url: str, entries: list[dict[str, str]]) -> None:
    """Send up to ten messages; a batch sent twice is ten duplicates, which the product absorbs."""
    for attempt in range(TRIES_MAX):
        try:
            answer = await clients.sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)  # type: ignore[arg-type]
        except UNREACHABLE:
            # The emulator drops connections when it is busy.
            await asyncio.sleep(0.1 * attempt)
        else:
            assert not answer.get("Failed"), answer
            return
    raise RuntimeError(f"the queue did not take a batch in {TRIES_MAX} tries")


async def send(  # noqa: PLR0917 - what the command line says
    clients: Clients, queue_url: str, session_type: str, prefix: str, count: int, size: int, tenant: str
) -> None:
    starts = iter(range(0, count, BATCH_MAX))

    async def one_sender() -> None:
        for first in starts:
            entries = [
                {
                    "Id": str(i),
                    "MessageBody": body_of(session_type, f"{prefix}-{i}", size, tenant),
                    "MessageGroupId": tenant,
                }
                for i in range(first, min(count, first + BATCH_MAX))
            ]
            await send_batch(clients, queue_url, entries)

    async with asyncio.TaskGroup() as senders:
        for _ in range(SENDERS):
            senders.create_task(one_sender())


async def main() -> None:
    queue_url, session_type, prefix, count, size, tenant = sys.argv[1:]
    async with connect() as clients:
        await send(clients, queue_url, session_type, prefix, int(count), int(size), tenant)


if __name__ == "__main__":
    uvloop.run(main())
