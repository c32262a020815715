"""The command line as a whole: every command by its name. A new one is written beside its like and added here."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from typing import Final

import click
from click.shell_completion import get_completion_class

from orchestrator.cli.approvals import approve_command, reject_command
from orchestrator.cli.arguments import as_json
from orchestrator.cli.messages import callback_command, cancel_command, signal_command
from orchestrator.cli.output import Exit, fail, print_fields, print_json
from orchestrator.cli.process import run, settings_of_process
from orchestrator.cli.replaying import replay_command
from orchestrator.cli.running import dev_command, provision_command, serve_command
from orchestrator.cli.sessions import events_command, list_command, status_command, submit_command
from orchestrator.cli.tenants import tenants_group

HEALTH_SECONDS_MAX: Final = 4.0


def main() -> None:
    """Run the command line."""
    commands(prog_name="orchestrator")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="session-orchestrator")
def commands() -> None:
    """Durable agent sessions on SQS, DynamoDB and containers."""


@commands.command("health")
@click.option("--url", default=None, help="Base address of the node (default: this host, ORCHESTRATOR_PORT).")
@as_json
def health_command(url: str | None, json_output: bool) -> None:
    """Ask a node whether it is well: the probe of the container's health check."""
    address = (url or f"http://127.0.0.1:{settings_of_process().port}").rstrip("/")
    if not address.startswith(("http://", "https://")):
        fail(f"--url: {address!r} is not an http address", Exit.USAGE)
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=HEALTH_SECONDS_MAX) as answer:
            body = json.loads(answer.read())
            code = Exit.DONE
    except urllib.error.HTTPError as error:
        text = error.read()
        body = json.loads(text) if text.startswith(b"{") else {"status": "UNHEALTHY", "checks": {"http": str(error)}}
        code = Exit.FAILED
    except (OSError, ValueError) as error:
        fail(f"{address} does not answer: {error}", Exit.UNREACHABLE)
    print_json(body) if json_output else print_fields(body)
    sys.exit(code)


@commands.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script of a shell, such as: source <(orchestrator completion bash)."""
    completion = get_completion_class(shell)
    assert completion is not None, f"click knows {shell}"
    click.echo(completion(commands, {}, "orchestrator", "_ORCHESTRATOR_COMPLETE").source())


for command in (
    *(serve_command, dev_command, provision_command),
    *(submit_command, status_command, events_command, list_command),
    *(signal_command, callback_command, cancel_command),
    *(approve_command, reject_command),
    replay_command,
    tenants_group(settings_of_process, run),
):
    commands.add_command(command)
