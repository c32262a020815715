"""The commands about tenants: what one may run at once, and spend in a month. They work while no node runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, TypeVar

import click

from actors import Clock
from orchestrator.cli.arguments import cap_argument, id_argument
from orchestrator.cli.client import open_table
from orchestrator.cli.output import Exit, as_json, fail, print_fields, print_json, tell
from orchestrator.cli.process import run, settings_of_process
from orchestrator.cli.tables import print_rows
from orchestrator.cluster import DUE_EVERY_SECONDS, Heads, NotOwner
from orchestrator.cluster.dynamodb import DynamoDBHeads
from orchestrator.session.values import JsonObject, truncate_to_millis
from orchestrator.tenant_budgets import CAPS_KEPT_SECONDS, TenantBudgets
from orchestrator.tenants import LIMIT_MAX, Quota, Quotas
from orchestrator.tenants.dynamodb import DynamoDBQuotas
from orchestrator.usage import Caps, Usage
from orchestrator.usage.dynamodb import DynamoDBUsage

T = TypeVar("T")

_CAP: Final = "N|default"


@dataclass(frozen=True, slots=True)
class Tenancy:
    """The table, as these commands use it."""

    quotas: Quotas
    usage: Usage
    budgets: TenantBudgets
    heads: Heads
    clock: Clock

    async def set_limit(self, tenant: str, limit: int) -> Quota:
        """Set the limit and return when running nodes have had the time to hear of it; who waits may run then."""
        # A read gives up where nothing answers; a write never does.
        await self.quotas.get(tenant)
        now = truncate_to_millis(self.clock.now())
        quota = await self.quotas.set_limit(tenant, limit, at=now)
        for session_id in await self.quotas.oldest(tenant, 1):
            head = await self.heads.get(session_id)
            if head is not None:
                # Any look at the queue serves all of it. One that was promoted since needs none.
                with suppress(NotOwner):
                    await self.heads.make_due(head, at=now)
        await self.clock.sleep(2 * DUE_EVERY_SECONDS)
        return quota

    async def set_caps(self, tenant: str, changed: Mapping[str, Any]) -> None:
        """Set these caps, and return when running nodes have had the time to hear of it."""
        caps = await self.usage.caps(tenant)
        await self.usage.set_caps(tenant, replace(caps, **changed), at=truncate_to_millis(self.clock.now()))
        await self.clock.sleep(CAPS_KEPT_SECONDS)

    async def all(self) -> list[JsonObject]:
        """Return the tenants for whom anything was set."""
        names = {name for limited in (True, False) async for name in self.quotas.tenants(limited=limited)}
        names |= {name async for name in self.usage.capped()}
        return [await self.view(name) for name in sorted(names)]

    async def view(self, tenant: str) -> JsonObject:
        """Return what a tenant may run and spend."""
        quota = await self.quotas.get(tenant)
        return {
            "tenant": quota.tenant,
            "limit": quota.limit,
            "is_default": not quota.is_own,
            "used": quota.used,
            "queued": quota.queued,
            "caps": await self.budgets.caps_view(tenant),
        }


@click.group("tenants")
def tenants_command() -> None:
    """Limit what a tenant runs, and spends in a month."""


@tenants_command.command("set")
@click.argument("tenant", metavar="ID")
@click.option("--limit", type=click.IntRange(0, LIMIT_MAX), help="Sessions at once; 0 for no limit.")
@click.option("--tokens", metavar=_CAP, help="Tokens in a calendar month; 0 for no cap.")
@click.option("--cost", metavar=_CAP, help="Cost in a calendar month.")
@click.option("--agent-calls", metavar=_CAP, help="Attempts of agent runs in a calendar month.")
@click.option("--agent-seconds", metavar=_CAP, help="Time of agent runs in a calendar month.")
@as_json
def set_command(tenant: str, limit: int | None, json_output: bool, **options: str | None) -> None:
    """Set what a tenant may run and spend, instead of ORCHESTRATOR_TENANT_LIMIT and ORCHESTRATOR_TENANT_BUDGET.

    What is not named stays as it is. A cap that is set to "default" is again as the setting says.
    """
    id_argument(tenant, "ID")
    caps = {name: cap_argument(name, text) for name, text in options.items() if text is not None}
    if limit is None and not caps:
        fail("name a limit or a cap, such as --limit 5 or --tokens 1000000", Exit.USAGE)

    async def changed(tenancy: Tenancy) -> JsonObject:
        if limit is not None:
            await tenancy.set_limit(tenant, limit)
        if caps:
            await tenancy.set_caps(tenant, caps)
        return await tenancy.view(tenant)

    view = with_tenancy(changed)
    if json_output:
        print_json(view)
    else:
        tell(f"{tenant}: {_in_words(view)}")


@tenants_command.command("get")
@click.argument("tenant", metavar="ID")
@as_json
def get_command(tenant: str, json_output: bool) -> None:
    """Show what a tenant may run and spend, its slots in use and how many sessions wait for one."""
    id_argument(tenant, "ID")
    view = with_tenancy(lambda tenancy: tenancy.view(tenant))
    print_json(view) if json_output else print_fields(view)


@tenants_command.command("list")
@as_json
def list_command(json_output: bool) -> None:
    """List the tenants for whom a limit or a cap was set."""
    views = with_tenancy(lambda tenancy: tenancy.all())
    if json_output:
        for view in views:
            print_json(view)
    else:
        print_rows(views, ("tenant", "limit", "used", "queued", "caps"))


def with_tenancy(use: Callable[[Tenancy], Awaitable[T]]) -> T:
    """Return what `use` makes of the table."""
    settings = settings_of_process()

    async def used() -> T:
        async with open_table(settings) as (_, table, patience):
            quotas = DynamoDBQuotas(table, limit_default=settings.tenant_limit)
            usage = DynamoDBUsage(table, retention=timedelta(days=settings.retention_days))
            budgets = TenantBudgets(usage, patience.clock, defaults=Caps(**(settings.tenant_budget or {})))
            return await use(Tenancy(quotas, usage, budgets, DynamoDBHeads(table), patience.clock))

    return run(used())


def _in_words(view: JsonObject) -> str:
    caps = view["caps"]
    assert isinstance(caps, dict), "a tenant's caps are an object"
    limit = f"at most {view['limit']} sessions at once" if view["limit"] else "no limit"
    capped = [f"{cap.replace('_', ' ')} {limit}" for cap, limit in caps.items() if limit is not None]
    return f"{limit}; a month: {', '.join(capped) or 'no caps'}"
