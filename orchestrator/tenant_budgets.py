"""What tenants have spent, as a node counts it, and whether one may spend more this month.

Only a capped tenant's sessions are counted while they run, each before it begins an agent run; everybody's are counted
at their end. Which tenants are capped is asked again now and then, so a tenant without a cap costs a read in a while.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final

from actors import Clock
from orchestrator.session import messages as m
from orchestrator.session.budget import TENANT_CAPS
from orchestrator.session.ending import first_generation
from orchestrator.session.spending import month_of
from orchestrator.session.state import SessionState
from orchestrator.session.transitions import OperationKind
from orchestrator.session.values import JsonObject, truncate_to_millis
from orchestrator.usage import Caps, Usage, spent_under, total_of, usage_view

CAPS_KEPT_SECONDS: Final = 2.0
"""So late a node may hear of a cap that was set."""
CALLS: Final = "agent_calls"
REFUSED: Final = "TENANT_BUDGET_EXCEEDED"
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
        total = total_of(state)
        if state.error is not None and state.error.code == REFUSED:
            # Each run that began was counted before it did: what is open else was refused, and must not fill the cap.
            refused = sum(op.kind is OperationKind.AGENT and not op.is_settled for op in state.operations.values())
            total = replace(total, agent_calls=total.agent_calls - refused)
        await self._usage.count(state.started.tenant, first_generation(state.session_id), total, at=state.updated_at)

    async def refusal(self, state: SessionState, operation: str, attempt: int) -> m.TenantCapReached | None:
        """Return why an agent run may not begin; `None` where it may. What the session spent so far is counted."""
        tenant = state.started.tenant
        caps = await self._caps(tenant)
        if not caps.any:
            return None
        now = truncate_to_millis(self._clock.now())
        month = month_of(now)
        if state.spent.excused_month == month:
            await self._count(state, at=now)
            return None
        calls_before = await self._take(state, operation, caps, now)
        if calls_before is not None:
            return m.TenantCapReached(operation, attempt, CALLS, caps.agent_calls or 0, calls_before, month)
        for cap, used in spent_under(await self._usage.month(tenant, month)).items():
            limit = getattr(caps, cap)
            if cap != CALLS and limit and used >= limit:
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

    async def _take(self, state: SessionState, operation: str, caps: Caps, now: datetime) -> int | None:
        """Count what the session spent up to this run's order; return the calls before it where it does not fit.

        What was ordered behind it stays out, so that of runs that are ordered at once as many begin as fit.
        """
        total = total_of(state)
        if not caps.agent_calls:
            await self._count(state, at=now)
            return None
        ordered_at = state.operations[operation].changed_seq
        behind = sum(
            other.kind is OperationKind.AGENT and other.changed_seq > ordered_at
            for other in state.open_operations.values()
        )
        return await self._usage.take(
            state.started.tenant,
            first_generation(state.session_id),
            replace(total, agent_calls=total.agent_calls - behind),
            calls_max=caps.agent_calls,
            at=now,
        )

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
