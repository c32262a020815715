"""Slots and queues in memory: the same protocol, the same refusals. Shipped for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime

from orchestrator.cluster import Head, NotOwner
from orchestrator.cluster.memory import MemoryHeads
from orchestrator.session.transitions import SessionStatus
from orchestrator.tenants import Quota, dismissed, promoted


@dataclass(slots=True)
class _Tenant:
    limit: int | None = None
    slots: set[str] = field(default_factory=set)
    queue: dict[str, datetime] = field(default_factory=dict)


class MemoryQuotas:
    """`Quotas` of one process, beside the HEADs that they change."""

    def __init__(self, heads: MemoryHeads, *, limit_default: int = 0) -> None:
        self._heads = heads
        self._tenants: dict[str, _Tenant] = {}
        self.limit_default = limit_default

    async def get(self, tenant: str) -> Quota:
        """See `Quotas.get`."""
        await asyncio.sleep(0)
        return self._quota(tenant)

    async def set_limit(self, tenant: str, limit: int, *, at: datetime) -> Quota:
        """See `Quotas.set_limit`."""
        await asyncio.sleep(0)
        self._of(tenant).limit = limit
        return self._quota(tenant)

    async def tenants(self, *, limited: bool) -> AsyncIterator[str]:
        """See `Quotas.tenants`."""
        for name, tenant in tuple(self._tenants.items()):
            if tenant.limit is not None and (tenant.limit > 0) is limited:
                yield name

    async def admit(self, head: Head) -> Head | None:
        """See `Quotas.admit`."""
        await asyncio.sleep(0)
        standing = self._heads.standing(head.session_id)
        if standing is not None:
            return standing
        if not self._lets_in(head.tenant):
            return None
        self._of(head.tenant).slots.add(head.session_id)
        return self._heads.put(head)

    async def enqueue(self, head: Head) -> Head | None:
        """See `Quotas.enqueue`."""
        assert head.status is SessionStatus.QUEUED, f"{head.session_id} is not queued"
        await asyncio.sleep(0)
        standing = self._heads.standing(head.session_id)
        if standing is not None:
            return standing
        if self._lets_in(head.tenant):
            return None
        self._of(head.tenant).queue[head.session_id] = head.created_at
        return self._heads.put(head)

    async def oldest(self, tenant: str, count: int) -> tuple[str, ...]:
        """See `Quotas.oldest`."""
        await asyncio.sleep(0)
        waiting = sorted((since, session_id) for session_id, since in self._of(tenant).queue.items())
        return tuple(session_id for _, session_id in waiting[:count])

    async def promote(self, head: Head, *, node_id: str | None, nonce: str, at: datetime) -> Head | None:
        """See `Quotas.promote`."""
        wanted = promoted(head, node_id=node_id, nonce=nonce, at=at)
        await asyncio.sleep(0)
        self._check(head)
        if not self._quota(head.tenant).has_room:
            return None
        tenant = self._of(head.tenant)
        del tenant.queue[head.session_id]
        tenant.slots.add(head.session_id)
        return self._heads.put(wanted)

    async def dismiss(self, head: Head, *, node_id: str | None, nonce: str, at: datetime) -> Head:
        """See `Quotas.dismiss`."""
        wanted = dismissed(head, node_id=node_id, nonce=nonce, at=at)
        await asyncio.sleep(0)
        self._check(head)
        del self._of(head.tenant).queue[head.session_id]
        return self._heads.put(wanted)

    async def free(self, tenant: str, session_id: str) -> None:
        """See `Quotas.free`."""
        await asyncio.sleep(0)
        self._of(tenant).slots.discard(session_id)

    def _of(self, tenant: str) -> _Tenant:
        return self._tenants.setdefault(tenant, _Tenant())

    def _quota(self, tenant: str) -> Quota:
        found = self._of(tenant)
        limit = self.limit_default if found.limit is None else found.limit
        return Quota(tenant, limit, found.limit is not None, len(found.slots), len(found.queue))

    def _lets_in(self, tenant: str) -> bool:
        quota = self._quota(tenant)
        return quota.has_room and not quota.queued

    def _check(self, head: Head) -> None:
        standing = self._heads.standing(head.session_id)
        seen = (SessionStatus.QUEUED, head.epoch, head.inbox_version)
        if standing is None or (standing.status, standing.epoch, standing.inbox_version) != seen:
            raise NotOwner(f"HEAD of {head.session_id} moved on: {standing}")
