"""What the SDK alone costs: per session five conditional inserts of 1 KB, one by one, or in batches of 25.

`python -m bench.floor lone|batched SESSIONS` prints milliseconds of its own CPU per session.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from itertools import count

import uvloop

from bench.worker import CORE
from orchestrator.aws.clients import Clients, connect
from orchestrator.aws.items import Insert, batch_statement, lone_put
from orchestrator.settings import load

WRITES = 5
IN_FLIGHT = 200
BATCH_MAX = 25
BATCHES_IN_FLIGHT = 3


def insert(session: int, seq: int) -> Insert:
    return Insert({"PK": f"FLOOR#{uuid.uuid4().hex}", "SK": f"EVENT#{seq:010d}", "session": session, "data": "x" * 900})


async def lone(clients: Clients, table: str, sessions: int) -> None:
    numbers = iter(range(sessions))

    async def one_session_after_another() -> None:
        for session in numbers:
            for seq in range(WRITES):
                await clients.dynamodb.put_item(**lone_put(table, insert(session, seq)))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.create_task(one_session_after_another())


async def batched(clients: Clients, table: str, sessions: int) -> None:
    firsts = iter(range(0, sessions * WRITES, BATCH_MAX))
    seqs = count(1)

    async def one_batch_after_another() -> None:
        for first in firsts:
            statements = [batch_statement(table, insert(first, next(seqs))) for _ in range(BATCH_MAX)]
            await clients.dynamodb.batch_execute_statement(Statements=statements)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(BATCHES_IN_FLIGHT):
            tasks.create_task(one_batch_after_another())


async def main() -> None:
    how, sessions = sys.argv[1], int(sys.argv[2])
    async with connect() as clients:
        work = lone if how == "lone" else batched
        await work(clients, load().table, 50)
        begun = time.process_time()
        await work(clients, load().table, sessions)
        print((time.process_time() - begun) / sessions * 1_000)


if __name__ == "__main__":
    if CORE in os.environ:
        os.sched_setaffinity(0, {int(os.environ[CORE])})
    uvloop.run(main())
