"""What the commands do with sessions: straight to the queue and the table, so that they work while no node runs."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from actors import SystemClock
from orchestrator.aws.clients import Clients, connect
from orchestrator.aws.faults import Patience, Reachability
from orchestrator.aws.queue import BATCH_MAX, find_queue
from orchestrator.aws.table import Table
from orchestrator.cluster import Heads
from orchestrator.cluster.dynamodb import DynamoDBHeads
from orchestrator.errors import OrchestratorError
from orchestrator.journal import Journal
from orchestrator.journal.dynamodb import DynamoDBJournal
from orchestrator.session.transitions import ENDED, SessionStatus
from orchestrator.session.values import JsonObject, is_valid_id
from orchestrator.settings import Settings
from orchestrator.views import UnknownSession, event_view, head_view, session_view

POLL_SECONDS_FIRST: Final = 0.1
POLL_SECONDS_MAX: Final = 2.0
ANSWER_SECONDS_MAX: Final = 15.0
PAGE: Final = 200


REFUSAL_LOOKS_AFTER: Final = 0.3
"""Seconds between two looks at the session from which on the dead letters are looked at, too."""


class SubmissionRefused(OrchestratorError):
    """The start message can never succeed; the text is what stands with it in the dead-letter queue."""

    code = "SUBMISSION_REFUSED"


@dataclass(frozen=True, slots=True)
class Client:
    """The queue and the table as a command uses them."""

    clients: Clients
    settings: Settings
    patience: Patience
    heads: Heads
    journal: Journal

    async def submit(self, body: str) -> str:
        """Put a start message on the queue and return its message id."""
        queue = await find_queue(self.clients, self.settings.queue, self.patience)
        return await queue.send(body)

    async def check_refusal(self, message_id: str) -> None:
        """Return if the message is not among the first dead letters. Raises `SubmissionRefused` if it is."""
        dead_letters = await find_queue(self.clients, self.settings.dead_letter_queue_name, self.patience)
        # Not hidden from anybody: looking at a letter must not take it away.
        for letter in await dead_letters.receive(messages_max=BATCH_MAX, wait_seconds=0, visibility_seconds=0):
            if letter.attributes.get("OriginalMessageId") == message_id:
                reason = letter.attributes.get("ErrorCode", ""), letter.attributes.get("ErrorMessage", "")
                raise SubmissionRefused(f"{reason[0]}: {reason[1]}")

    async def view(self, session_id: str) -> JsonObject:
        """Return one session. Raises `UnknownSession`."""
        _check(session_id)
        return await session_view(self.heads, self.journal, session_id)

    async def wait_for_end(self, session_id: str, message_id: str, *, seconds_max: float) -> JsonObject | None:
        """Return the session once it has ended; `None` if it has not within that time.

        Raises:
            SubmissionRefused: the message that asked for it was dead-lettered.
        """
        pause = POLL_SECONDS_FIRST
        deadline = self.patience.clock.monotonic() + seconds_max
        while self.patience.clock.monotonic() < deadline:
            head = await self.heads.get(session_id)
            if head is not None and head.status in ENDED:
                return await self.view(session_id)
            if head is None and pause > REFUSAL_LOOKS_AFTER:
                await self.check_refusal(message_id)
            await self.patience.clock.sleep(pause)
            pause = min(pause * 1.5, POLL_SECONDS_MAX)
        return None

    async def events(self, session_id: str, show: Callable[[JsonObject], None], *, follow: bool) -> None:
        """Show the session's events; with `follow`, until its last one. Raises `UnknownSession`."""
        _check(session_id)
        if await self.heads.get(session_id) is None:
            raise UnknownSession(session_id)
        seen, pause = 0, POLL_SECONDS_FIRST
        while True:
            before = seen
            async for recorded in self.journal.read(session_id, after=seen):
                seen = recorded.seq
                show(event_view(recorded))
            if not follow:
                return
            head = await self.heads.get(session_id)
            if head is not None and head.status in ENDED and before == seen:
                return
            pause = POLL_SECONDS_FIRST if seen > before else min(pause * 1.5, POLL_SECONDS_MAX)
            await self.patience.clock.sleep(pause)

    async def listing(
        self, *, status: SessionStatus | None, session_type: str | None, tenant: str | None, limit: int
    ) -> list[JsonObject]:
        """Return up to `limit` sessions, the latest change first."""
        rows: list[JsonObject] = []
        cursor: str | None = None
        while len(rows) < limit:
            page = await self.heads.listing(
                status=status,
                session_type=session_type,
                tenant=tenant,
                cursor=cursor,
                limit=min(PAGE, limit - len(rows)),
            )
            rows += [head_view(head) for head in page.heads]
            cursor = page.cursor
            if cursor is None:
                break
        return rows


def _check(session_id: str) -> None:
    """Return if there can be such a session. Raises `UnknownSession`."""
    if not is_valid_id(session_id):
        raise UnknownSession(session_id)


@asynccontextmanager
async def open_client(settings: Settings) -> AsyncIterator[Client]:
    """Yield a client; its writes and reads give up instead of insisting for ever.

    Raises:
        Unavailable: AWS, the table or the queue cannot be reached.
    """
    clock = SystemClock()
    patience = Patience(clock, Reachability("table", clock), random.random, seconds_max=ANSWER_SECONDS_MAX)
    async with connect() as clients:
        table = Table(clients.dynamodb, settings.table, patience, signed=None)
        journal = DynamoDBJournal(table, retention=timedelta(days=settings.retention_days))
        yield Client(clients, settings, patience, DynamoDBHeads(table), journal)
