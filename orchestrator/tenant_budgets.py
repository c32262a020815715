"""What tenants have spent, as a node counts it, and whether one may spend more this month.

Only a capped tenant's sessions are counted while they run, each before it begins an agent run; everybody's are counted
at their end. Which tenants are capped is asked again now and then, so a tenant without a cap costs a read in a while.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from actors import Clock
from orchestrator.session import messages as m
from orchestrator.session.budget import TENANT_CAPS
from orchestrator.session.ending import first_generation
from orchestrator.session.spending import month_of
from orchestrator.session.state import SessionState
from orchestrator.session.values import JsonObject, truncate_to_millis
from orchestrator.usage import Caps, Usage, spent_under, total_of, usage_view

CAPS_KEPT_SECONDS: Final = 2.0
"""So late a node may hear of a cap that was set."""
TENANTS_KEPT_MAX: Final = 10_000


class TenantBudgets:
    """The budgets of all tenants, as this node counts and asks. `defaults` are the caps where a tenant has no own."""

    def __init__(self, usage: Usage, clock: Clock, *, defaults: Caps) -> None:
        self._usage = usage
        self._clock = clock
        self._defaults = defaults
        self._kept: dict[str, tuple[float, Caps]] = {}

    async def count(self, state: SessionState) -> None:
        """Count what an ended session has spent."""
        await self._count(state, at=state.updated_at)

    async def refusal(self, state: SessionState, operation: str, attempt: int) -> m.TenantCapReached | None:
        """Return why an agent run may not begin; `None` where it may. What the session spent so far is counted."""
        tenant = state.started.tenant
        caps = await self._caps(tenant)
        if not caps.any:
            return None
        now = truncate_to_millis(self._clock.now())
        month = month_of(now)
        await self._count(state, at=now)
        if state.spent.excused_month == month:
            return None
        spent = dict(spent_under(await self._usage.month(tenant, month)))
        # The run that asks has been counted as it was ordered.
        spent["agent_calls"] -= 1
        for cap, used in spent.items():
            limit = getattr(caps, cap)
            if limit and used >= limit:
                return m.TenantCapReached(operation, attempt, cap, limit, used, month)
        return None

    async def report(self, *, tenant: str | None = None, month: str | None = None) -> list[JsonObject]:
        """Return what each tenant that spent anything, or `tenant` alone, has spent in a month: in this one if `None`.

        Beside it, what the tenant may spend in one (`caps`; `None` is no cap).
        """
        month = month_of(self._clock.now()) if month is None else month
        tenants = [each async for each in self._usage.tenants(month)] if tenant is None else [tenant]
        rows = list[JsonObject]()
        for each in sorted(tenants):
            spent = usage_view(await self._usage.month(each, month))
            rows.append({"tenant": each, "month": month, **spent, "caps": await self.caps_view(each)})
        return rows

    async def caps_view(self, tenant: str) -> JsonObject:
        """Return what the tenant may spend in a month, by cap; `None` is no cap."""
        caps = (await self._usage.caps(tenant)).over(self._defaults)
        return {cap: getattr(caps, cap) or None for cap in TENANT_CAPS}

    async def _count(self, state: SessionState, *, at: datetime) -> None:
        tenant = state.started.tenant
        await self._usage.count(tenant, first_generation(state.session_id), total_of(state), at=at)

    async def _caps(self, tenant: str) -> Caps:
        kept, now = self._kept.get(tenant), self._clock.monotonic()
        if kept is not None and now - kept[0] < CAPS_KEPT_SECONDS:
            return kept[1]
        caps = (await self._usage.caps(tenant)).over(self._defaults)
        if len(self._kept) >= TENANTS_KEPT_MAX:
            self._kept.clear()
        self._kept[tenant] = now, caps
        return caps
