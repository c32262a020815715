"""HEAD items and node registrations in memory: the same protocol, the same refusals. Shipped for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime

from orchestrator.cluster import ENDS_NOW, Head, NodeFenced, NodeRecord, NotOwner, Page, claimed, settled
from orchestrator.session.transitions import ENDED, SessionStatus
from orchestrator.session.values import Json


class MemoryHeads:
    """`Heads` of one process."""

    def __init__(self) -> None:
        self._heads: dict[str, Head] = {}

    def all(self) -> tuple[Head, ...]:
        """Return every HEAD, in the order of their creation."""
        return tuple(self._heads.values())

    async def create(self, head: Head) -> Head:
        """See `Heads.create`."""
        await asyncio.sleep(0)
        return self._heads.setdefault(head.session_id, head)

    async def get(self, session_id: str) -> Head | None:
        """See `Heads.get`."""
        await asyncio.sleep(0)
        return self._heads.get(session_id)

    async def claim(self, head: Head, *, node_id: str, nonce: str, at: datetime, from_dead_owner: bool) -> Head:
        """See `Heads.claim`."""
        await asyncio.sleep(0)
        standing = self._heads.get(head.session_id)
        if standing is None or (standing.owner, standing.epoch) != (head.owner, head.epoch):
            raise NotOwner(f"HEAD of {head.session_id} moved on: {standing}")
        return self.put(claimed(standing, node_id=node_id, nonce=nonce, at=at, from_dead_owner=from_dead_owner))

    async def settle_takeovers(self, head: Head) -> Head:
        """See `Heads.settle_takeovers`."""
        await asyncio.sleep(0)
        standing = self._heads.get(head.session_id)
        if standing is None or standing.epoch != head.epoch:
            raise NotOwner(f"HEAD of {head.session_id} moved on: {standing}")
        return self.put(replace(standing, takeovers=1))

    async def end(  # noqa: PLR0913 - see the protocol
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
        assert (wake_at is not None) == bool(outbox), f"{head.session_id}: an outbox is due, and nothing else of an end"
        ended = await self.release(head, status, last_seq=last_seq, at=at, wake_at=wake_at)
        return self.put(replace(ended, continued_as=continued_as, outbox=outbox))

    async def annotate(self, head: Head, attributes: Mapping[str, Json]) -> Head:
        """See `Heads.annotate`."""
        await asyncio.sleep(0)
        standing = self._heads.get(head.session_id)
        if standing is None or standing.epoch != head.epoch:
            raise NotOwner(f"HEAD of {head.session_id} moved on: {standing}")
        return self.put(replace(standing, attributes=attributes))

    async def settle_outbox(
        self,
        head: Head,
        outbox: tuple[str, ...],
        *,
        wake_at: datetime | None = None,
        attributes: Mapping[str, Json] | None = None,
    ) -> Head:
        """See `Heads.settle_outbox`."""
        assert head.status in ENDED, f"{head.session_id} is open: an outbox is of an end"
        assert (wake_at is not None) == bool(outbox), f"{head.session_id}: an outbox is due, and nothing else of an end"
        await asyncio.sleep(0)
        standing = self._heads.get(head.session_id)
        if standing is None or standing.epoch != head.epoch:
            raise NotOwner(f"HEAD of {head.session_id} moved on: {standing}")
        return self.put(settled(standing, outbox, wake_at=wake_at, attributes=attributes))

    async def bump_inbox(self, session_id: str) -> Head | None:
        """See `Heads.bump_inbox`."""
        await asyncio.sleep(0)
        standing = self._heads.get(session_id)
        return None if standing is None else self.put(replace(standing, inbox_version=standing.inbox_version + 1))

    async def make_due(self, head: Head, *, at: datetime) -> Head:
        """See `Heads.make_due`."""
        await asyncio.sleep(0)
        standing = self._heads.get(head.session_id)
        if standing is None or (standing.owner, standing.epoch) != (head.owner, head.epoch):
            raise NotOwner(f"HEAD of {head.session_id} moved on: {standing}")
        if at != ENDS_NOW and standing.wake_at not in {head.wake_at, at}:
            raise NotOwner(f"HEAD of {head.session_id} was made due since: {standing}")
        delivered = standing.inbox_version + (standing.owner is not None)
        return self.put(replace(standing, wake_at=at, inbox_version=delivered))

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
        await asyncio.sleep(0)
        standing = self._heads.get(head.session_id)
        if standing is None or (standing.epoch, standing.inbox_version) != (head.epoch, head.inbox_version):
            raise NotOwner(f"HEAD of {head.session_id} moved on: {standing}")
        return self.put(
            replace(
                standing,
                status=status,
                owner=None,
                last_seq=last_seq,
                wake_at=wake_at,
                updated_at=at,
                attributes=standing.attributes if attributes is None else attributes,
            )
        )

    async def owned_by(self, node_id: str) -> AsyncIterator[str]:
        """See `Heads.owned_by`."""
        for head in tuple(self._heads.values()):
            if head.owner == node_id:
                yield head.session_id

    async def due(self, before: datetime) -> AsyncIterator[str]:
        """See `Heads.due`."""
        waiting = [(head.wake_at, head.session_id) for head in self._heads.values() if head.wake_at is not None]
        for wake_at, session_id in sorted(waiting):
            if wake_at <= before:
                yield session_id

    async def listing(
        self,
        *,
        status: SessionStatus | None,
        session_type: str | None,
        tenant: str | None,
        cursor: str | None,
        limit: int,
    ) -> Page:
        """See `Heads.listing`; the cursor is a position."""
        if cursor is not None and not cursor.isdecimal():
            raise ValueError("cursor: not one that a listing returned")
        start = int(cursor or "0")
        wanted = [
            head
            for head in sorted(self._heads.values(), key=lambda h: (-h.updated_at.timestamp(), h.session_id))
            if status in {None, head.status}
            and session_type in {None, head.session_type}
            and tenant in {None, head.tenant}
        ]
        page = wanted[start : start + limit]
        return Page(tuple(page), str(start + limit) if len(wanted) > start + limit else None)

    def standing(self, session_id: str) -> Head | None:
        """Return HEAD at once; for what changes it together with something else."""
        return self._heads.get(session_id)

    def put(self, head: Head) -> Head:
        """Write HEAD at once, whatever stands there, and return it; see `standing`."""
        self._heads[head.session_id] = head
        return head


class MemoryNodes:
    """`Nodes` of one process."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeRecord] = {}

    async def register(self, node: NodeRecord) -> None:
        """See `Nodes.register`."""
        standing = self._nodes.setdefault(node.node_id, node)
        if standing.started_at != node.started_at:
            raise NodeFenced(f"node id {node.node_id} is taken")

    async def beat(self, node_id: str, *, sessions: int) -> None:
        """See `Nodes.beat`."""
        node = self._nodes.get(node_id)
        if node is None or node.declared_dead_at is not None:
            raise NodeFenced(f"the registration of {node_id} is gone or marked dead")
        self._nodes[node_id] = replace(node, beat=node.beat + 1, sessions=sessions)

    async def declare_dead(self, node_id: str, *, at: datetime, beat: int | None) -> bool:
        """See `Nodes.declare_dead`."""
        node = self._nodes.get(node_id)
        if node is None or node.declared_dead_at is not None:
            return True
        if beat is not None and node.beat != beat:
            return False
        self._nodes[node_id] = replace(node, declared_dead_at=at)
        return True

    async def get(self, node_id: str) -> NodeRecord | None:
        """See `Nodes.get`."""
        await asyncio.sleep(0)
        return self._nodes.get(node_id)

    async def all(self) -> AsyncIterator[NodeRecord]:
        """See `Nodes.all`."""
        for node in tuple(self._nodes.values()):
            yield node
