"""The commands that run a node."""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click
import structlog

from orchestrator.app import Orchestrator
from orchestrator.aws.clients import connect
from orchestrator.aws.provision import provision
from orchestrator.cli.loading import load_app
from orchestrator.cli.output import Exit, fail, tell
from orchestrator.cli.process import leave, log_format, settings_of_process
from orchestrator.cli.process import run as run_to_end
from orchestrator.cli.streams import keep_streams_from_stopping_us
from orchestrator.errors import Unavailable
from orchestrator.local import EMULATOR_PORT, Emulator, emulator
from orchestrator.service import Ready, serve
from orchestrator.session.values import compact_json
from orchestrator.settings import ENV_PREFIX, Settings, unknown_variables
from orchestrator.stopping import Stop, stop_signals
from orchestrator.telemetry.logs import configure_logging

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

NO_APP: Final = "which application? Give MODULE:APP, such as 'my_agents:app', or set ORCHESTRATOR_APP"
STATE_FOLDER: Final = Path(".orchestrator")

log: FilteringBoundLogger = structlog.get_logger("orchestrator")


@click.command("serve")
@click.argument("target", metavar="MODULE:APP", required=False)
def serve_command(target: str | None) -> None:
    """Run one node until SIGTERM, then drain it."""
    keep_streams_from_stopping_us()
    settings = settings_of_process()
    configure_logging(log_format(settings))
    _warn_of_misspelt()
    app = load_app(target or settings.app or fail(NO_APP, Exit.USAGE))

    async def run() -> None:
        async with stop_signals() as stop:
            await serve(app, settings, stop=stop)
        leave()

    run_to_end(run())


@click.command("dev")
@click.argument("target", metavar="MODULE:APP")
@click.option("--emulator-port", type=int, default=None, help=f"Port of the AWS emulator (default {EMULATOR_PORT}).")
def dev_command(target: str, emulator_port: int | None) -> None:
    """Run a node with a local AWS emulator, in .orchestrator/."""
    keep_streams_from_stopping_us()
    settings = settings_of_process()
    configure_logging(log_format(settings))
    _warn_of_misspelt()
    app = load_app(target)
    if "ORCHESTRATOR_HOST" not in os.environ:
        # A development node is nobody else's, in a container too.
        settings = settings.model_copy(update={"host": "127.0.0.1"})
    port = emulator_port or _loopback_port(os.environ.get("AWS_ENDPOINT_URL")) or EMULATOR_PORT
    run_to_end(_develop(app, settings, port))


async def _develop(app: Orchestrator, settings: Settings, port: int) -> None:
    async with stop_signals() as stop, emulator(port=port, state=STATE_FOLDER / "emulator") as local:
        os.environ.update(local.environment)
        async with connect() as clients:
            await provision(clients, settings)
        environment = STATE_FOLDER / "dev.env"
        lines = (f"export {name}={shlex.quote(value)}\n" for name, value in (local.environment | _own_names()).items())
        environment.write_text("".join(lines))
        types = [declared.name for declared in app.session_types] or ["TYPE"]
        example = compact_json(app.session_types[0].input_type.example()) if app.session_types else "null"

        def show(ready: Ready) -> None:
            word = click.style("ready", fg="green", bold=True)
            tell(f"{word}  HTTP  http://{ready.address}   AWS  {local.endpoint_url}")
            tell(f"session types: {', '.join(types)}")
            tell("next, in another terminal:", dim=True)
            tell(f"  source {environment}")
            tell(f"  orchestrator submit {types[0]} --input '{example}' --wait")

        watching = asyncio.create_task(_end_with(local, stop), name="emulator")
        try:
            await serve(app, settings, stop=stop, on_ready=show)
        finally:
            watching.cancel()
            await asyncio.wait({watching})
        if not watching.cancelled():
            raise Unavailable("the emulator has ended; `orchestrator dev` goes on from what it saved last")
    leave()


async def _end_with(local: Emulator, stop: Stop) -> None:
    """End the node at once when the emulator has ended: its table and its queue are gone."""
    log.error("emulator_ended", exit_code=await local.wait())
    # Asked, and insisted upon.
    stop.tell()
    stop.tell()


def _warn_of_misspelt() -> None:
    names = unknown_variables()
    if names:
        log.warning("unknown_settings", names=names)


def _own_names() -> dict[str, str]:
    """Return the settings by which commands elsewhere find this node, its table and its queue, where they are set."""
    names = [f"{ENV_PREFIX}{setting.upper()}" for setting in ("queue", "table", "bucket", "port")]
    return {name: os.environ[name] for name in names if name in os.environ}


def _loopback_port(url: str | None) -> int | None:
    parts = urlsplit(url or "")
    return parts.port if parts.hostname in {"127.0.0.1", "localhost"} else None
