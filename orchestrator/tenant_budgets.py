"""What tenants have spent, as a node counts it, and whether one may spend more this month.

Only a capped tenant's sessions are counted while they run, each before it begins an agent run; everybody's are counted
at their end. Which tenants are capped is asked again now and then, so a tenant without a cap costs a read in a while.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Final

from actors import Clock
from orchestrator.session import messages as m
from orchestrator.session.budget import TENANT_CAPS
from orchestrator.session.ending import first_generation
from orchestrator.session.owed import EffectKey
from orchestrator.session.spending import TENANTS, month_of
from orchestrator.session.state import SessionState
from orchestrator.session.transitions import OperationKind
from orchestrator.session.values import JsonObject, truncate_to_millis
from orchestrator.usage import Caps, Total, Usage, spent_under, total_of, usage_view

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
        left_out = _refused(state)
        asking = state.spent.asking
        was_asked = asking is not None and asking.cap.startswith(TENANTS)
        if was_asked or (state.error is not None and state.error.code == REFUSED):
            # Each run that began was counted before the cap was met: what is open else never began.
            left_out += sum(op.kind is OperationKind.AGENT for op in state.open_operations.values())
        await self._count(state, left_out, at=state.updated_at)

    async def refusal(
        self, state: SessionState, run: EffectKey, begun: Collection[EffectKey]
    ) -> m.TenantCapReached | None:
        """Return why an agent run may not begin; `None` where it may. What the session spent so far is counted.

        `begun` are the runs of the session that were let begin on this node.
        """
        tenant = state.started.tenant
        caps = await self._caps(tenant)
        if not caps.any:
            return None
        now = truncate_to_millis(self._clock.now())
        month = month_of(now)
        if state.spent.excused_month == month:
            await self._count(state, _refused(state), at=now)
            return None
        refused_by = await self._cap_reached(state, run, begun, caps, now)
        if refused_by is None:
            return None
        cap, limit, used = refused_by
        return m.TenantCapReached(*run, cap, limit, used, month)

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

    async def _cap_reached(
        self, state: SessionState, run: EffectKey, begun: Collection[EffectKey], caps: Caps, now: datetime
    ) -> tuple[str, float, float] | None:
        """Count what has begun, and the run where it may begin; return the cap in its way, with its limit and use."""
        tenant = state.started.tenant
        not_begun = _refused(state) + sum(
            op.kind is OperationKind.AGENT and (name, op.attempt) not in begun
            for name, op in state.open_operations.items()
        )
        others = {cap: limit for cap in TENANT_CAPS if cap != CALLS and (limit := getattr(caps, cap))}
        if others:
            await self._count(state, not_begun, at=now)
            spent = spent_under(await self._usage.month(tenant, month_of(now)))
            for cap, limit in others.items():
                if spent[cap] >= limit:
                    return cap, limit, spent[cap]
        if not caps.agent_calls:
            # Once it runs, it is counted, whatever becomes of it and of this node.
            await self._count(state, not_begun - (run not in begun), at=now)
            return None
        calls_before = await self._take(state, run, caps.agent_calls, now)
        if calls_before is None:
            return None
        # One that began while its tenant had no cap was not taken, and nobody asks for it any more.
        await self._count(state, not_begun, at=now)
        return CALLS, caps.agent_calls, calls_before

    async def _take(self, state: SessionState, run: EffectKey, calls_max: int, now: datetime) -> int | None:
        """Count what the session spent up to this run's order; return the calls before it where it does not fit.

        What was ordered behind it stays out, so that of runs that are ordered at once as many begin as fit.
        """
        ordered_at = state.operations[run[0]].changed_seq
        behind = sum(
            other.kind is OperationKind.AGENT and other.changed_seq > ordered_at
            for other in state.open_operations.values()
        )
        return await self._usage.take(
            state.started.tenant,
            first_generation(state.session_id),
            _total(state, _refused(state) + behind),
            calls_max=calls_max,
            at=now,
        )

    async def _count(self, state: SessionState, left_out: int, *, at: datetime) -> None:
        tenant = state.started.tenant
        await self._usage.count(tenant, first_generation(state.session_id), _total(state, left_out), at=at)

    async def _caps(self, tenant: str) -> Caps:
        kept, now = self._kept.get(tenant), self._clock.monotonic()
        if kept is not None and now - kept[0] < CAPS_KEPT_SECONDS:
            return kept[1]
        caps = (await self._usage.caps(tenant)).over(self._defaults)
        if len(self._kept) >= TENANTS_KEPT_MAX:
            self._kept.clear()
        self._kept[tenant] = now, caps
        return caps


def _refused(state: SessionState) -> int:
    """Return how many agent runs failed because their tenant's budget was spent."""
    failed = (op.error for op in state.operations.values() if op.kind is OperationKind.AGENT and op.order is not None)
    return sum(error is not None and error.code == REFUSED for error in failed)


def _total(state: SessionState, left_out: int) -> Total:
    """Return what a session has spent up to now, without that many agent calls."""
    total = total_of(state)
    return replace(total, agent_calls=total.agent_calls - left_out)
