"""The command that shows what tenants have spent in a month. It works while no node runs."""

from __future__ import annotations

import re

import click

from orchestrator.cli.arguments import id_argument
from orchestrator.cli.output import Exit, as_json, fail, print_json
from orchestrator.cli.tables import print_rows
from orchestrator.cli.tenants import Tenancy, with_tenancy
from orchestrator.session.spending import MONTH_PATTERN
from orchestrator.session.values import JsonObject

COLUMNS = ("tenant", "month", "input_tokens", "output_tokens", "total_tokens", "cost", "agent_calls", "agent_seconds")


@click.command("usage")
@click.option("--tenant", default=None, help="This tenant alone, whether it spent anything or not.")
@click.option("--month", default=None, metavar="YYYY-MM", help="A calendar month in UTC (default: this one).")
@as_json
def usage_command(tenant: str | None, month: str | None, json_output: bool) -> None:
    """Show what tenants have spent in a month.

    A session is counted when it ends; one of a tenant with a budget also before each run of an agent.
    """
    if tenant is not None:
        id_argument(tenant, "--tenant")
    if month is not None and re.fullmatch(MONTH_PATTERN, month) is None:
        fail(f"--month: {month!r:.100} is no month, such as 2026-01", Exit.USAGE)

    async def report(tenancy: Tenancy) -> list[JsonObject]:
        return await tenancy.budgets.report(tenant=tenant, month=month)

    rows = with_tenancy(report)
    if json_output:
        for row in rows:
            print_json(row)
    else:
        print_rows(rows, COLUMNS)
