"""A node's line to the tables: what a test can hold, lose or cut of what the engine asks of them.

To change it: an adapter at the end of a line carries each call through it, and decides nothing.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any

from actors.signals import Signal
from orchestrator.cluster import Head, Heads
from orchestrator.inbox import Inbox, InboxItem
from orchestrator.journal import Journal
from orchestrator.session.events import (
    Recorded,
)
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import Json
from orchestrator.tenants import Quotas

PATIENCE_SECONDS = 5.0
"""How long a test waits for what must happen; only a failing test waits that long."""


class PowerCut(Exception):
    """The node has no power: whatever it asks of the table, the table does not hear."""


class Line:
    """A node's line to the table. It can be cut for good, or held, as a frozen process holds its own requests."""

    def __init__(self, changed: Signal) -> None:
        self._changed = changed
        self._held: asyncio.Event | None = None
        self._held_call = ""
        self._held_answer = ""
        self._is_cut = False
        self._cut_before: Counter[str] = Counter()
        self._cut_after = ""
        self._faults: dict[str, tuple[int, Exception]] = {}
        self.calls = 0
        self._cut_at = 0
        self._reached = asyncio.Event()

    def cut(self) -> None:
        """Let nothing pass any more, in neither direction."""
        self._is_cut = True
        self.thaw()

    def cut_before(self, name: str, *, calls: int = 1) -> None:
        """Cut the line when the table is called `name` (append, read, create, claim, end, release) that often."""
        self._cut_before[name] = calls

    def cut_at(self, call: int) -> None:
        """Cut the line at the call of that number, whatever it is: the table does not hear it."""
        self._cut_at = call

    def cut_after(self, name: str) -> None:
        """Cut the line once the table did what it was called for: the answer is lost."""
        self._cut_after = name

    def fail_once(self, name: str, error: Exception, *, after: int = 0) -> None:
        """Raise `error` instead of carrying the call of that name, after so many that pass."""
        self._faults[name] = (after, error)

    def hold(self) -> None:
        """Keep every request on its way until `thaw`."""
        self.hold_on("")

    def hold_on(self, name: str) -> None:
        """Keep calls of that name on their way until `thaw`."""
        self._held, self._held_call = asyncio.Event(), name
        self._reached.clear()

    def hold_answer(self, name: str) -> None:
        """Keep the answers to calls of that name on their way until `thaw`: the table did what it was asked."""
        self._held_answer = name
        self.hold_on("no request")

    async def until_held(self) -> None:
        """Return once somebody waits on the held line."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._reached.wait()

    def thaw(self) -> None:
        """Let pass what was held."""
        held, self._held = self._held, None
        if held is not None:
            held.set()

    async def out(self, name: str) -> None:
        """Carry a request to the table."""
        self.calls += 1
        self._is_cut |= self.calls == self._cut_at
        if self._held is not None and self._held_call in {"", name}:
            self._reached.set()
            await self._held.wait()
        if self._cut_before[name]:
            self._cut_before[name] -= 1
            self._is_cut |= self._cut_before[name] == 0
        self._check()
        if name in self._faults:
            passing, error = self._faults.pop(name)
            if not passing:
                raise error
            self._faults[name] = (passing - 1, error)

    async def back(self, name: str) -> None:
        """Carry the answer back."""
        self._changed.fire()
        if self._held is not None and self._held_answer == name:
            self._reached.set()
            await self._held.wait()
        self._is_cut |= self._cut_after == name
        self._check()

    def _check(self) -> None:
        if self._is_cut:
            raise PowerCut


class LinedJournal:
    """A `Journal` at the end of a line."""

    def __init__(self, journal: Journal, line: Line) -> None:
        self._journal = journal
        self._line = line

    async def append(self, session_id: str, events: Sequence[Recorded], *, started_at: datetime) -> None:
        """See `Journal.append`."""
        await self._line.out("append")
        await self._journal.append(session_id, events, started_at=started_at)
        await self._line.back("append")

    async def read(self, session_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """See `Journal.read`."""
        await self._line.out("read")
        async for recorded in self._journal.read(session_id, after=after):
            yield recorded


class LinedHeads:
    """`Heads` at the end of a line: what the engine itself calls; listings are the rescuer's."""

    def __init__(self, heads: Heads, line: Line, standing: dict[str, Head]) -> None:
        self._heads = heads
        self._line = line
        self._standing = standing

    async def create(self, head: Head) -> Head:
        """See `Heads.create`."""
        return await self._carried("create", self._heads.create(head))

    async def get(self, session_id: str) -> Head | None:
        """See `Heads.get`."""
        await self._line.out("get")
        return await self._heads.get(session_id)

    async def claim(self, head: Head, *, node_id: str, nonce: str, at: datetime, from_dead_owner: bool) -> Head:
        """See `Heads.claim`."""
        write = self._heads.claim(head, node_id=node_id, nonce=nonce, at=at, from_dead_owner=from_dead_owner)
        return await self._carried("claim", write)

    async def settle_takeovers(self, head: Head) -> Head:
        """See `Heads.settle_takeovers`."""
        return await self._carried("settle_takeovers", self._heads.settle_takeovers(head))

    async def end(
        self,
        head: Head,
        status: SessionStatus,
        *,
        last_seq: int,
        at: datetime,
        outbox: tuple[str, ...] = (),
        wake_at: datetime | None = None,
        continued_as: str | None = None,
    ) -> Head:
        """See `Heads.end`."""
        write = self._heads.end(
            head, status, last_seq=last_seq, at=at, outbox=outbox, wake_at=wake_at, continued_as=continued_as
        )
        return await self._carried("end", write)

    async def release(
        self,
        head: Head,
        status: SessionStatus,
        *,
        last_seq: int,
        at: datetime,
        wake_at: datetime | None,
        attributes: Mapping[str, Json] | None = None,
    ) -> Head:
        """See `Heads.release`."""
        write = self._heads.release(head, status, last_seq=last_seq, at=at, wake_at=wake_at, attributes=attributes)
        return await self._carried("release", write)

    async def settle_outbox(self, head: Head, outbox: tuple[str, ...]) -> Head:
        """See `Heads.settle_outbox`."""
        return await self._carried("settle_outbox", self._heads.settle_outbox(head, outbox))

    async def bump_inbox(self, session_id: str) -> Head | None:
        """See `Heads.bump_inbox`."""
        await self._line.out("bump_inbox")
        bumped = await self._heads.bump_inbox(session_id)
        await self._line.back("bump_inbox")
        return bumped

    def __getattr__(self, name: str) -> Any:
        """Pass the listings through: no engine test cuts them."""
        return getattr(self._heads, name)

    async def _carried(self, name: str, write: Coroutine[Any, Any, Head]) -> Head:
        try:
            await self._line.out(name)
        except BaseException:
            write.close()
            raise
        head = await write
        self._standing[head.session_id] = head
        await self._line.back(name)
        return head


class LinedInbox:
    """An `Inbox` at the end of a line."""

    def __init__(self, inbox: Inbox, line: Line) -> None:
        self._inbox = inbox
        self._line = line

    async def put(self, session_id: str, item: InboxItem) -> None:
        """See `Inbox.put`."""
        await self._line.out("inbox_put")
        await self._inbox.put(session_id, item)
        await self._line.back("inbox_put")

    async def read(self, session_id: str) -> tuple[InboxItem, ...]:
        """See `Inbox.read`."""
        await self._line.out("inbox_read")
        return await self._inbox.read(session_id)

    async def delete(self, session_id: str, message_ids: Sequence[str]) -> None:
        """See `Inbox.delete`."""
        await self._line.out("inbox_delete")
        await self._inbox.delete(session_id, message_ids)
        await self._line.back("inbox_delete")


class LinedQuotas:
    """`Quotas` at the end of a line: what changes HEADs and slots."""

    def __init__(self, quotas: Quotas, line: Line, standing: dict[str, Head]) -> None:
        self._quotas = quotas
        self._line = line
        self._standing = standing

    async def admit(self, head: Head) -> Head | None:
        """See `Quotas.admit`."""
        return await self._carried("admit", self._quotas.admit(head))

    async def enqueue(self, head: Head) -> Head | None:
        """See `Quotas.enqueue`."""
        return await self._carried("enqueue", self._quotas.enqueue(head))

    async def promote(self, head: Head, *, node_id: str | None, nonce: str, at: datetime) -> Head | None:
        """See `Quotas.promote`."""
        return await self._carried("promote", self._quotas.promote(head, node_id=node_id, nonce=nonce, at=at))

    async def dismiss(self, head: Head, *, node_id: str | None, nonce: str, at: datetime) -> Head:
        """See `Quotas.dismiss`."""
        dismissed = await self._carried("dismiss", self._quotas.dismiss(head, node_id=node_id, nonce=nonce, at=at))
        assert dismissed is not None
        return dismissed

    async def free(self, tenant: str, session_id: str) -> None:
        """See `Quotas.free`."""
        await self._line.out("free")
        await self._quotas.free(tenant, session_id)
        await self._line.back("free")

    def __getattr__(self, name: str) -> Any:
        """Pass on what only reads."""
        return getattr(self._quotas, name)

    async def _carried(self, name: str, write: Coroutine[Any, Any, Head | None]) -> Head | None:
        try:
            await self._line.out(name)
        except BaseException:
            write.close()
            raise
        head = await write
        if head is not None:
            self._standing[head.session_id] = head
        await self._line.back(name)
        return head
