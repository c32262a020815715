"""Usage in memory: the same protocol, the same sums. Shipped for tests."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import datetime

from orchestrator.session.spending import month_of
from orchestrator.usage import NO_CAPS, NOTHING, Caps, Total


class MemoryUsage:
    """`Usage` of one process."""

    def __init__(self) -> None:
        self._counted: dict[tuple[str, str], Total] = {}
        self._months: dict[str, dict[str, Total]] = defaultdict(dict)
        self._caps: dict[str, Caps] = {}

    async def count(self, tenant: str, session_id: str, total: Total, *, at: datetime) -> None:
        """See `Usage.count`."""
        await asyncio.sleep(0)
        self._add(tenant, session_id, total, at)

    async def take(self, tenant: str, session_id: str, total: Total, *, calls_max: int, at: datetime) -> int | None:
        """See `Usage.take`."""
        counted = self._counted.get((tenant, session_id), NOTHING)
        new = total.beyond(counted).agent_calls
        calls = self._months.get(month_of(at), {}).get(tenant, NOTHING).agent_calls + new
        if new and calls > calls_max:
            await asyncio.sleep(0)
            return calls - 1
        self._add(tenant, session_id, total, at)
        await asyncio.sleep(0)
        return None

    async def month(self, tenant: str, month: str) -> Total:
        """See `Usage.month`."""
        await asyncio.sleep(0)
        return self._months.get(month, {}).get(tenant, NOTHING)

    async def tenants(self, month: str) -> AsyncIterator[str]:
        """See `Usage.tenants`."""
        for tenant in sorted(self._months.get(month, {})):
            yield tenant

    async def caps(self, tenant: str) -> Caps:
        """See `Usage.caps`."""
        await asyncio.sleep(0)
        return self._caps.get(tenant, NO_CAPS)

    async def set_caps(self, tenant: str, caps: Caps, *, at: datetime) -> None:
        """See `Usage.set_caps`."""
        await asyncio.sleep(0)
        self._caps[tenant] = caps

    async def capped(self) -> AsyncIterator[str]:
        """See `Usage.capped`."""
        for tenant, caps in sorted(self._caps.items()):
            if caps != NO_CAPS:
                yield tenant

    def _add(self, tenant: str, session_id: str, total: Total, at: datetime) -> None:
        counted = self._counted.get((tenant, session_id), NOTHING)
        new = total.beyond(counted)
        if new == NOTHING:
            return
        self._counted[tenant, session_id] = counted + new
        months = self._months[month_of(at)]
        months[tenant] = months.get(tenant, NOTHING) + new
