"""The commands about tenants: how many of a tenant's sessions may run at once. They work while no node runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import click

from actors import Clock
from orchestrator.cli.arguments import id_argument
from orchestrator.cli.client import open_table
from orchestrator.cli.output import as_json, print_fields, print_json, tell
from orchestrator.cli.process import run, settings_of_process
from orchestrator.cli.tables import print_rows
from orchestrator.cluster import DUE_EVERY_SECONDS, Heads, NotOwner
from orchestrator.cluster.dynamodb import DynamoDBHeads
from orchestrator.session.values import JsonObject, truncate_to_millis
from orchestrator.tenants import LIMIT_MAX, Quota, Quotas
from orchestrator.tenants.dynamodb import DynamoDBQuotas

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tenancy:
    """The table, as these commands use it."""

    quotas: Quotas
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

    async def all(self) -> list[Quota]:
        """Return the tenants for whom a limit was set."""
        names = [name for limited in (True, False) async for name in self.quotas.tenants(limited=limited)]
        return [await self.quotas.get(name) for name in sorted(names)]


@click.group("tenants")
def tenants_command() -> None:
    """Limit how many sessions of a tenant run at once."""


@tenants_command.command("set")
@click.argument("tenant", metavar="ID")
@click.option("--limit", type=click.IntRange(0, LIMIT_MAX), required=True, help="Sessions at once; 0 for no limit.")
@as_json
def set_command(tenant: str, limit: int, json_output: bool) -> None:
    """Set a tenant's own limit, instead of ORCHESTRATOR_TENANT_LIMIT."""
    id_argument(tenant, "ID")
    quota = _with_tenancy(lambda tenancy: tenancy.set_limit(tenant, limit))
    if json_output:
        print_json(_view(quota))
    else:
        tell(f"{tenant}: {f'at most {limit} sessions at once' if limit else 'no limit'}")


@tenants_command.command("get")
@click.argument("tenant", metavar="ID")
@as_json
def get_command(tenant: str, json_output: bool) -> None:
    """Show a tenant's limit, its slots in use and how many sessions wait for one."""
    id_argument(tenant, "ID")
    view = _view(_with_tenancy(lambda tenancy: tenancy.quotas.get(tenant)))
    print_json(view) if json_output else print_fields(view)


@tenants_command.command("list")
@as_json
def list_command(json_output: bool) -> None:
    """List the tenants that have a limit of their own."""
    views = [_view(quota) for quota in _with_tenancy(lambda tenancy: tenancy.all())]
    if json_output:
        for view in views:
            print_json(view)
    else:
        print_rows(views, ("tenant", "limit", "used", "queued"))


def _with_tenancy(use: Callable[[Tenancy], Awaitable[T]]) -> T:
    settings = settings_of_process()

    async def used() -> T:
        async with open_table(settings) as (_, table, patience):
            quotas = DynamoDBQuotas(table, limit_default=settings.tenant_limit)
            return await use(Tenancy(quotas, DynamoDBHeads(table), patience.clock))

    return run(used())


def _view(quota: Quota) -> JsonObject:
    return {
        "tenant": quota.tenant,
        "limit": quota.limit,
        "is_default": not quota.is_own,
        "used": quota.used,
        "queued": quota.queued,
    }
