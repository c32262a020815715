"""What the commands do with sessions: straight to the queue and the table, so that they work while no node runs."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from actors import SystemClock
from orchestrator.answers import TIMED_OUT
from orchestrator.artifacts import Artifacts
from orchestrator.artifacts.payloads import PayloadStore
from orchestrator.artifacts.s3 import S3Artifacts
from orchestrator.aws.bucket import Bucket
from orchestrator.aws.clients import Clients, connect
from orchestrator.aws.faults import Patience, Reachability
from orchestrator.aws.keys import MasterKeys
from orchestrator.aws.queue import BATCH_MAX, MESSAGE_BYTES_MAX, find_queue
from orchestrator.aws.table import Table
from orchestrator.callbacks import TOKEN_BYTES, Callback, Callbacks, expiry_of, issued_with
from orchestrator.callbacks.dynamodb import DynamoDBCallbacks
from orchestrator.cluster import Head, Heads
from orchestrator.cluster.dynamodb import DynamoDBHeads
from orchestrator.deliveries import (
    CallbackAnswered,
    CallbackExpired,
    UnknownCallback,
    approvals_waited_for,
    check_approver,
    check_token,
    was_heard,
)
from orchestrator.encryption.cipher import PayloadCipher
from orchestrator.encryption.kms import payload_cipher
from orchestrator.errors import OrchestratorError
from orchestrator.inbox import SessionEnded, UnknownSession
from orchestrator.journal import Journal
from orchestrator.journal.codec import ENCRYPTED_TEXT
from orchestrator.journal.dynamodb import DynamoDBJournal
from orchestrator.journal.folding import read_state
from orchestrator.session import events as e
from orchestrator.session.budget import approval_meant
from orchestrator.session.transitions import ENDED, SessionStatus
from orchestrator.session.values import JsonObject, compact_json, is_valid_id
from orchestrator.settings import Settings
from orchestrator.telemetry.context import TRACEPARENT, trace_of_environment
from orchestrator.views import event_view, head_view, latest_head, session_view

POLL_SECONDS_FIRST: Final = 0.1
POLL_SECONDS_MAX: Final = 2.0
ANSWER_SECONDS_MAX: Final = 15.0
PAGE: Final = 200
REFUSAL_LOOKS_AFTER: Final = 0.3
"""Seconds between two looks at the session from which on the dead letters are looked at, too."""


class MessageTooLong(OrchestratorError):
    """The queue takes no message of that length."""

    code = "MESSAGE_TOO_LONG"


class NoOpenApproval(OrchestratorError):
    """The session does not wait for such an approval; the text names those that it waits for."""

    code = "NO_OPEN_APPROVAL"

    def __init__(self, session_id: str, name: str, names: Sequence[str]) -> None:
        waits_for = f"it waits for {', '.join(names)}" if names else "it waits for none"
        super().__init__(f"session {session_id} waits for no approval {name!r:.150}; {waits_for}")


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
    shown: Journal
    """The same for people to look at: with a mark for each payload that is encrypted under a key refused to us."""
    callbacks: Callbacks
    artifacts: Artifacts
    payloads: PayloadStore
    table: Table
    bucket: Bucket
    cipher: PayloadCipher

    async def send(self, message: JsonObject, *, tenant: str | None = None) -> str:
        """Put a message on the queue and return the id that the queue gives it; a start, in its tenant's turn.

        What it sets off belongs to the trace that this command was started under, if there is one.
        """
        body = compact_json(message)
        size = len(body.encode())
        if size > MESSAGE_BYTES_MAX:
            raise MessageTooLong(f"the message is {size} bytes long; the queue takes {MESSAGE_BYTES_MAX}")
        queue = await find_queue(self.clients, self.settings.queue, self.patience)
        trace = trace_of_environment(os.environ)
        return await queue.send(body, attributes={} if trace is None else {TRACEPARENT: trace}, tenant=tenant)

    async def open_head(self, session_id: str) -> Head:
        """Return HEAD of the latest generation of a session that takes messages.

        Raises:
            UnknownSession: it was never accepted. SessionEnded: it takes none any more.
        """
        checked(session_id)
        head = await latest_head(self.heads, session_id)
        if _has_ended(head):
            raise SessionEnded(session_id)
        return head

    async def check_callback(self, callback_id: str, token: str) -> None:
        """Return if an answer with this token can succeed, as far as the table tells now.

        Raises:
            UnknownCallback, WrongToken, CallbackExpired: it cannot. SessionEnded: nobody waits for it any more.
        """
        callback = await self.callbacks.get(callback_id) if is_valid_id(callback_id) else None
        if callback is None:
            raise UnknownCallback(callback_id)
        check_token(callback, token)
        self._check_time(callback)
        state = await read_state(self.shown, callback.session_id)
        if state is not None and state.has_ended and not was_heard(state, callback):
            raise SessionEnded(callback.session_id)

    async def token_for_approval(self, session_id: str, name: str, by: str) -> tuple[str, str]:
        """Return the callback id of an approval that the session waits for, and a token issued for `by` to answer it.

        Raises:
            UnknownSession, SessionEnded: see `open_head`. NoOpenApproval: it waits for no such approval.
            NotAnApprover: it is for others. CallbackAnswered, CallbackExpired: too late.
        """
        head = await self.open_head(session_id)
        state = await read_state(self.journal, head.session_id)
        waited_for = {} if state is None else approvals_waited_for(state)
        operation = name if state is None else approval_meant(state, name)
        asked = waited_for.get(operation)
        if asked is None:
            raise NoOpenApproval(session_id, name, sorted(waited_for))
        check_approver(asked, by)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        issued = issued_with(token, asked.callback_id, head.session_id, operation, asked.times_out_at)
        # Where the node that asks has not come to it yet, this is the item's first token, and its own the second.
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            standing = await self.callbacks.issue(issued, expires_at=expiry_of(self.patience.clock.now()))
        if standing.answer is not None:
            raise CallbackAnswered(asked.callback_id)
        self._check_time(standing)
        return asked.callback_id, token

    def _check_time(self, callback: Callback) -> None:
        due = callback.times_out_at
        if callback.answer == TIMED_OUT or (due is not None and due <= self.patience.clock.now()):
            raise CallbackExpired(callback.callback_id)

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
        checked(session_id)
        return await session_view(self.heads, self.shown, session_id)

    async def wait_for_end(
        self, session_id: str, message_id: str, payload_sha256: str, *, seconds_max: float
    ) -> JsonObject | None:
        """Return the session once its last generation has ended, its result fetched; `None` if not within that time.

        Raises:
            SubmissionRefused: the message that asked for it was dead-lettered, or will be: another payload has the id.
        """
        pause, is_ours = POLL_SECONDS_FIRST, False
        deadline = self.patience.clock.monotonic() + seconds_max
        while self.patience.clock.monotonic() < deadline:
            try:
                head = await latest_head(self.heads, session_id)
                if not is_ours:
                    # Before the first one's end is taken for this one's: it may have ended long ago.
                    await self._check_payload(session_id, payload_sha256)
                    is_ours = True
                if _has_ended(head):
                    return await session_view(self.heads, self.shown, session_id, opened=self.payloads.open)
            except UnknownSession:
                if pause > REFUSAL_LOOKS_AFTER:
                    await self.check_refusal(message_id)
            await self.patience.clock.sleep(pause)
            pause = min(pause * 1.5, POLL_SECONDS_MAX)
        return None

    async def _check_payload(self, session_id: str, payload_sha256: str) -> None:
        async for recorded in self.shown.read(session_id):
            first = recorded.event
            if isinstance(first, e.SessionStarted) and first.payload_sha256 not in {payload_sha256, ENCRYPTED_TEXT}:
                raise SubmissionRefused(
                    f"IDEMPOTENCY_CONFLICT: session {session_id} was accepted with another payload; use another key"
                )
            return

    async def events(self, session_id: str, show: Callable[[JsonObject], None], *, follow: bool) -> None:
        """Show the session's events; with `follow`, until the last one of its last generation.

        Raises:
            UnknownSession: it was never accepted.
        """
        checked(session_id)
        if await self.heads.get(session_id) is None:
            raise UnknownSession(session_id)
        seen, pause = 0, POLL_SECONDS_FIRST
        while True:
            before = seen
            async for recorded in self.shown.read(session_id, after=seen):
                seen = recorded.seq
                show(event_view(session_id, recorded))
            if not follow:
                return
            head = await self.heads.get(session_id)
            if head is not None and head.status in ENDED and before == seen:
                if head.continued_as is None:
                    return
                session_id, seen, pause = head.continued_as, 0, POLL_SECONDS_FIRST
                continue
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


def checked(session_id: str) -> str:
    """Return the id, if there can be such a session. Raises `UnknownSession`."""
    if not is_valid_id(session_id):
        raise UnknownSession(session_id)
    return session_id


def _has_ended(head: Head) -> bool:
    """Return whether nothing follows: a session that continues does so in its next generation."""
    return head.status in ENDED and head.status is not SessionStatus.CONTINUED


@asynccontextmanager
async def open_client(settings: Settings) -> AsyncIterator[Client]:
    """Yield a client; its writes and reads give up instead of insisting for ever.

    Raises:
        Unavailable: AWS, the table or the queue cannot be reached.
    """
    async with open_table(settings) as (clients, table, patience):
        bucket, retention = Bucket(clients.s3, settings.bucket, patience), timedelta(days=settings.retention_days)
        cipher = payload_cipher(settings, MasterKeys(clients.outlets, patience), patience.clock)
        artifacts = S3Artifacts(bucket, cipher)
        yield Client(
            clients=clients,
            settings=settings,
            patience=patience,
            heads=DynamoDBHeads(table),
            journal=DynamoDBJournal(table, retention=retention, cipher=cipher),
            shown=DynamoDBJournal(table, retention=retention, cipher=cipher, shows_marks=True),
            callbacks=DynamoDBCallbacks(table, clock=patience.clock, cipher=cipher),
            artifacts=artifacts,
            payloads=PayloadStore(artifacts, inline_bytes_max=settings.inline_limit_bytes),
            table=table,
            bucket=bucket,
            cipher=cipher,
        )


@asynccontextmanager
async def open_table(settings: Settings) -> AsyncIterator[tuple[Clients, Table, Patience]]:
    """Yield the table alone, with what it is reached by; see `open_client`."""
    clock = SystemClock()
    patience = Patience(clock, Reachability("table", clock), random.random, seconds_max=ANSWER_SECONDS_MAX)
    async with connect() as clients:
        table = Table(clients.dynamodb, clients.signed_dynamodb, settings.table, patience)
        try:
            async with asyncio.TaskGroup() as tasks:
                carrier = tasks.create_task(table.run(), name="table")
                yield clients, table, patience
                carrier.cancel()
        except BaseExceptionGroup as group:
            # The command's own error: the group around it is none of its reader's business.
            raise group.exceptions[0] from None
