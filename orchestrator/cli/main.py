"""The commands, their options and their exit codes. What they do is in the rooms behind them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

import click
import uvloop
from click.shell_completion import get_completion_class

from orchestrator.app import Orchestrator
from orchestrator.aws.clients import UNREACHABLE, connect
from orchestrator.aws.faults import RequestFailed
from orchestrator.aws.provision import provision
from orchestrator.cli.client import Client, open_client
from orchestrator.cli.loading import load_app
from orchestrator.cli.output import Exit, fail, people, print_fields, print_json, print_rows
from orchestrator.errors import OrchestratorError, RegistrationError, SettingsError, Unavailable
from orchestrator.local import EMULATOR_PORT, emulator
from orchestrator.payloads import parse_json
from orchestrator.service import Ready, serve, stop_signals
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import (
    SESSION_TYPE_PATTERN,
    TENANT_DEFAULT,
    Json,
    JsonObject,
    compact_json,
    derive_session_id,
    is_valid_id,
)
from orchestrator.settings import Settings, load
from orchestrator.telemetry import configure_logging
from orchestrator.views import UnknownSession

if TYPE_CHECKING:
    from typing import Literal

T = TypeVar("T")

STATE_FOLDER: Final = Path(".orchestrator")
WAIT_SECONDS_DEFAULT: Final = 3_600.0
SESSION_SECONDS_MAX: Final = 400 * 86_400.0
HEALTH_SECONDS_MAX: Final = 4.0
as_json = click.option("--json", "json_output", is_flag=True, help="Print JSON instead of text.")


def main() -> None:
    """Run the command line."""
    commands(prog_name="orchestrator")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="session-orchestrator")
def commands() -> None:
    """Durable agent sessions on SQS, DynamoDB and containers."""


# --- run ---------------------------------------------------------------------------------------------------------


@commands.command("serve")
@click.argument("target", metavar="MODULE:APP")
def serve_command(target: str) -> None:
    """Run one node until SIGTERM, then drain it."""
    settings = _settings()
    configure_logging(_log_format(settings))
    app = load_app(target)

    async def run() -> None:
        async with stop_signals() as stop:
            await serve(app, settings, stop=stop)

    _run(run())
    _leave()


@commands.command("dev")
@click.argument("target", metavar="MODULE:APP")
@click.option("--emulator-port", type=int, default=None, help=f"Port of the AWS emulator (default {EMULATOR_PORT}).")
def dev_command(target: str, emulator_port: int | None) -> None:
    """Run a node with a local AWS emulator; its state stays in .orchestrator/."""
    settings = _settings()
    configure_logging(_log_format(settings))
    app = load_app(target)
    if "ORCHESTRATOR_HOST" not in os.environ:
        # A development node is nobody else's, in a container too.
        settings = settings.model_copy(update={"host": "127.0.0.1"})
    port = emulator_port or _loopback_port(os.environ.get("AWS_ENDPOINT_URL")) or EMULATOR_PORT
    _run(_develop(app, settings, port))
    _leave()


async def _develop(app: Orchestrator, settings: Settings, port: int) -> None:
    async with stop_signals() as stop, emulator(port=port, state=STATE_FOLDER / "emulator") as local:
        os.environ.update(local.environment)
        async with connect() as clients:
            await provision(clients, settings)
        variables = "\n".join(f"export {name}={value}" for name, value in local.environment.items())
        environment = STATE_FOLDER / "dev.env"
        environment.write_text(f"{variables}\n")
        types = [declared.name for declared in app.session_types] or ["TYPE"]
        example = compact_json(app.session_types[0].input_type.example()) if app.session_types else "null"

        def show(ready: Ready) -> None:
            people.print(f"[bold green]ready[/]  HTTP  http://{ready.address}   AWS  {local.endpoint_url}")
            people.print(f"session types: {', '.join(types)}")
            people.print("next, in another terminal:", style="dim")
            people.print(f"  source {environment}")
            people.print(f"  orchestrator submit {types[0]} --input '{example}' --wait", markup=False)

        await serve(app, settings, stop=stop, on_ready=show)


@commands.command("provision")
@as_json
def provision_command(json_output: bool) -> None:
    """Create the table, the queues and the bucket where they are missing."""
    settings = _settings()

    async def run() -> tuple[str, ...]:
        async with connect() as clients:
            return await provision(clients, settings)

    created = _run(run())
    if json_output:
        print_json({"created": list(created)})
    else:
        people.print("\n".join(f"created {name}" for name in created) or "everything is there")


# --- use ---------------------------------------------------------------------------------------------------------


@commands.command("submit")
@click.argument("session_type", metavar="TYPE")
@click.option("--input", "input_text", default="null", help="JSON, @file with JSON, or - for standard input.")
@click.option("--key", default=None, help="Idempotency key: the same key and input start one session.")
@click.option("--tenant", default=None, help=f"Tenant (default {TENANT_DEFAULT}).")
@click.option("--wait", is_flag=True, help="Wait for the end and print the result.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, max=SESSION_SECONDS_MAX),
    default=WAIT_SECONDS_DEFAULT,
    show_default=True,
    help="Seconds to wait at most.",
)
@as_json
def submit_command(  # noqa: PLR0913, PLR0917 - one parameter an option
    session_type: str,
    input_text: str,
    key: str | None,
    tenant: str | None,
    wait: bool,
    timeout: float,
    json_output: bool,
) -> None:
    """Start a session through the queue."""
    value = _input(input_text)
    if SESSION_TYPE_PATTERN.fullmatch(session_type) is None:
        fail(f"TYPE: {session_type!r:.100} is no session type (1 to 64 of A-Z a-z 0-9 _ . -)", Exit.USAGE)
    if tenant is not None and not is_valid_id(tenant):
        fail(f"--tenant: {tenant!r:.100} is not an id (1 to 128 of A-Z a-z 0-9 _ . : -)", Exit.USAGE)
    if key is None:
        session_id = f"{session_type}-{uuid.uuid4().hex}"
    else:
        session_id = derive_session_id(tenant or TENANT_DEFAULT, session_type, key)
    body: JsonObject = {
        "kind": "start",
        "session_type": session_type,
        "input": value,
        "session_id": session_id,
        "tenant": tenant,
    }

    async def run(client: Client) -> JsonObject | None:
        message_id = await client.submit(compact_json(body))
        if not wait:
            return None
        if not json_output:
            people.print(f"{session_id} submitted; waiting", style="dim")
        return await client.wait_for_end(session_id, message_id, seconds_max=timeout)

    ended = _with_client(run)
    if ended is None and not wait:
        print_json({"session_id": session_id}) if json_output else click.echo(session_id)
    elif ended is None:
        fail(
            f"{session_id} did not end within {timeout:g} s; `orchestrator status {session_id}` tells more. "
            "If it is not found, the message waits in the queue or lies in the dead-letter queue",
            Exit.FAILED,
        )
    else:
        _show_end(ended, json_output=json_output)


@commands.command("status")
@click.argument("session_id", metavar="ID")
@as_json
def status_command(session_id: str, json_output: bool) -> None:
    """Show one session."""
    view = _with_client(lambda client: client.view(session_id))
    print_json(view) if json_output else print_fields(view)


@commands.command("events")
@click.argument("session_id", metavar="ID")
@click.option("--follow", is_flag=True, help="Go on until the session ends.")
@as_json
def events_command(session_id: str, follow: bool, json_output: bool) -> None:
    """Show a session's journal, one event a line."""

    def show(event: JsonObject) -> None:
        if json_output:
            print_json(event)
        else:
            operation = event["operation"] or ""
            click.echo(
                f"{event['seq']:>5}  {event['at']}  {event['status']:<32} {operation!s:<24} {_short(event['data'])}"
            )

    _with_client(lambda client: client.events(session_id, show, follow=follow))


@commands.command("list")
@click.option("--state", type=click.Choice([status.value for status in SessionStatus], case_sensitive=False))
@click.option("--type", "session_type", default=None, help="Only this session type.")
@click.option("--tenant", default=None, help="Only this tenant.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@as_json
def list_command(
    state: str | None, session_type: str | None, tenant: str | None, limit: int, json_output: bool
) -> None:
    """List sessions, the latest change first."""
    status = None if state is None else SessionStatus(state.upper())
    rows = _with_client(
        lambda client: client.listing(status=status, session_type=session_type, tenant=tenant, limit=limit)
    )
    if json_output:
        for row in rows:
            print_json(row)
    else:
        print_rows(rows, ("session_id", "session_type", "tenant", "state", "created_at", "updated_at"))


@commands.command("health")
@click.option("--url", default=None, help="Base address of the node (default: this host, ORCHESTRATOR_PORT).")
@as_json
def health_command(url: str | None, json_output: bool) -> None:
    """Ask a node whether it is well: the probe of the container's health check."""
    address = (url or f"http://127.0.0.1:{_settings().port}").rstrip("/")
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


# --- plumbing ----------------------------------------------------------------------------------------------------


def _settings() -> Settings:
    try:
        return load()
    except SettingsError as error:
        fail(str(error), Exit.USAGE)


def _log_format(settings: Settings) -> Literal["json", "console"]:
    return settings.log_format or ("console" if sys.stderr.isatty() else "json")


def _with_client(use: Callable[[Client], Awaitable[T]]) -> T:
    settings = _settings()

    async def run() -> T:
        async with open_client(settings) as client:
            return await use(client)

    return _run(run())


def _run(work: Awaitable[T]) -> T:
    """Run to the end on uvloop; every known fault becomes one line and its exit code."""

    async def awaited() -> T:
        return await work

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(awaited())
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(int(Exit.DONE)) from None
    except UnknownSession as error:
        fail(str(error), Exit.NOT_FOUND)
    except (SettingsError, RegistrationError) as error:
        fail(str(error), Exit.USAGE)
    except (Unavailable, *UNREACHABLE) as error:
        fail(str(error), Exit.UNREACHABLE)
    except (OrchestratorError, RequestFailed) as error:
        fail(str(error), Exit.FAILED)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _leave() -> None:
    """End the process without waiting for the threads of sync steps: one that never returns would hold it for ever."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(Exit.DONE)


def _input(text: str) -> Json:
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text()
        return parse_json(text)
    except (OSError, ValueError, RecursionError) as error:
        fail(f"--input: {error}", Exit.USAGE)


def _show_end(view: JsonObject, *, json_output: bool) -> None:
    completed = view["state"] == SessionStatus.COMPLETED
    if json_output:
        print_json(view)
    elif completed:
        click.echo(json.dumps(view["result"], ensure_ascii=False, indent=2))
    else:
        error = view["error"]
        reason = f"{error['type']}: {error['message']}" if isinstance(error, dict) else ""
        people.print(f"{view['session_id']} {view['state']} {reason}", markup=False)
    sys.exit(Exit.DONE if completed else Exit.FAILED)


def _short(data: Json) -> str:
    text = json.dumps(data, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _loopback_port(url: str | None) -> int | None:
    parts = urlsplit(url or "")
    return parts.port if parts.hostname in {"127.0.0.1", "localhost"} else None
