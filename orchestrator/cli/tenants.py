"""The commands about tenants: how many of a tenant's sessions may run at once. They work while no node runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

import click

from actors import SystemClock
from orchestrator.aws.clients import connect
from orchestrator.aws.faults import Patience, Reachability
from orchestrator.aws.table import Table
from orchestrator.cli.client import ANSWER_SECONDS_MAX
from orchestrator.cli.output import Exit, fail, people, print_fields, print_json, print_rows
from orchestrator.cluster import Heads, NotOwner
from orchestrator.cluster.dynamodb import DynamoDBHeads
from orchestrator.rescuer import DUE_EVERY_SECONDS
from orchestrator.session.values import JsonObject, is_valid_id, truncate_to_millis
from orchestrator.settings import Settings
from orchestrator.tenants import LIMIT_MAX, Quota, Quotas
from orchestrator.tenants.dynamodb import DynamoDBQuotas

T = TypeVar("T")
as_json = click.option("--json", "json_output", is_flag=True, help="Print JSON instead of text.")


class Run(Protocol):
    """Runs what a command does, and turns every known fault into one line and its exit code."""

    def __call__(self, work: Awaitable[T]) -> T:
        """Return what the work returns."""
        ...


@dataclass(frozen=True, slots=True)
class Tenancy:
    """The table, as these commands use it."""

    quotas: Quotas
    heads: Heads
    clock: SystemClock

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


def tenants_group(settings: Callable[[], Settings], run: Run) -> click.Group:
    """Return the commands."""

    @click.group("tenants")
    def tenants() -> None:
        """Limit how many sessions of a tenant run at once."""

    @tenants.command("set")
    @click.argument("tenant", metavar="ID")
    @click.option("--limit", type=click.IntRange(0, LIMIT_MAX), required=True, help="Sessions at once; 0 for no limit.")
    @as_json
    def set_command(tenant: str, limit: int, json_output: bool) -> None:
        """Set a tenant's own limit, instead of ORCHESTRATOR_TENANT_LIMIT."""
        _check(tenant)
        quota = run(_using(settings(), lambda tenancy: tenancy.set_limit(tenant, limit)))
        if json_output:
            print_json(_view(quota))
        else:
            people.print(f"{tenant}: {f'at most {limit} sessions at once' if limit else 'no limit'}", markup=False)

    @tenants.command("get")
    @click.argument("tenant", metavar="ID")
    @as_json
    def get_command(tenant: str, json_output: bool) -> None:
        """Show a tenant's limit, its slots in use and how many sessions wait for one."""
        _check(tenant)
        view = _view(run(_using(settings(), lambda tenancy: tenancy.quotas.get(tenant))))
        print_json(view) if json_output else print_fields(view)

    @tenants.command("list")
    @as_json
    def list_command(json_output: bool) -> None:
        """List the tenants that have a limit of their own."""
        views = [_view(quota) for quota in run(_using(settings(), lambda tenancy: tenancy.all()))]
        if json_output:
            for view in views:
                print_json(view)
        else:
            print_rows(views, ("tenant", "limit", "used", "queued"))

    return tenants


def _check(tenant: str) -> None:
    if not is_valid_id(tenant):
        fail(f"ID: {tenant!r:.100} is not an id (1 to 128 of A-Z a-z 0-9 _ . : -)", Exit.USAGE)


def _view(quota: Quota) -> JsonObject:
    return {
        "tenant": quota.tenant,
        "limit": quota.limit,
        "is_default": not quota.is_own,
        "used": quota.used,
        "queued": quota.queued,
    }


async def _using(settings: Settings, use: Callable[[Tenancy], Awaitable[T]]) -> T:
    async with _open(settings) as tenancy:
        return await use(tenancy)


@asynccontextmanager
async def _open(settings: Settings) -> AsyncIterator[Tenancy]:
    clock = SystemClock()
    patience = Patience(clock, Reachability("table", clock), random.random, seconds_max=ANSWER_SECONDS_MAX)
    async with connect() as clients:
        table = Table(clients.dynamodb, settings.table, patience, signed=None)
        quotas = DynamoDBQuotas(table, limit_default=settings.tenant_limit)
        try:
            async with asyncio.TaskGroup() as tasks:
                carrier = tasks.create_task(table.run(), name="table")
                yield Tenancy(quotas, DynamoDBHeads(table), clock)
                carrier.cancel()
        except BaseExceptionGroup as group:
            # The command's own error: the group around it is none of its reader's business.
            raise group.exceptions[0] from None
