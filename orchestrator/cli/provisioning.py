"""The command that prepares an account for nodes. It runs none, and so imports no server and no engine."""

from __future__ import annotations

import click

from orchestrator.aws.clients import connect
from orchestrator.aws.provision import provision
from orchestrator.cli.output import as_json, print_json, tell
from orchestrator.cli.process import run as run_to_end
from orchestrator.cli.process import settings_of_process


@click.command("provision")
@as_json
def provision_command(json_output: bool) -> None:
    """Create the table, queues, bucket and event bus if missing."""
    settings = settings_of_process()

    async def run() -> tuple[str, ...]:
        async with connect() as clients:
            return await provision(clients, settings)

    created = run_to_end(run())
    if json_output:
        print_json({"created": list(created)})
    else:
        tell("\n".join(f"created {name}" for name in created) or "everything is there")
