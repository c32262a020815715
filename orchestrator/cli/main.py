"""The command line as a whole: every command by its name, what it does in a line, and the module that does it.

A command's module is imported when the command runs, and for nothing else: the list of commands, and the container's
probe, wait for no SDK. A new command is written beside its like and added here; the tests hold the lines together.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import Final, NamedTuple, NoReturn

import click


class Place(NamedTuple):
    """Where a command is (`<name>_command` of that module), and the first line of its help."""

    module: str
    help: str


PLACES: Final = {
    "serve": Place("running", "Run one node until SIGTERM, then drain it."),
    "dev": Place("running", "Run a node with a local AWS emulator, in .orchestrator/."),
    "provision": Place("provisioning", "Create the table, queues, bucket and event bus if missing."),
    "health": Place("health", "Ask a node whether it is well; a container's probe."),
    "submit": Place("sessions", "Start a session through the queue."),
    "status": Place("sessions", "Show one session."),
    "why": Place("why", "Explain what a session waits for, since when, and where."),
    "events": Place("sessions", "Show a session's journal, one event a line."),
    "list": Place("sessions", "List sessions, the latest change first."),
    "signal": Place("messages", "Send a session a signal."),
    "callback": Place("messages", "Answer a callback."),
    "cancel": Place("controls", "Ask a session to end."),
    "pause": Place("controls", "Let a session begin nothing new."),
    "resume": Place("controls", "Let a paused session go on."),
    "kill": Place("controls", "End a session now, whatever its handler does."),
    "approve": Place("approvals", "Say yes to what a session asks for."),
    "reject": Place("approvals", "Say no to what a session asks for."),
    "replay": Place("replaying", "Play a session's journal against today's handler."),
    "doctor": Place("doctor", "Check a deployment, and say what to mend."),
    "redrive": Place("redriving", "Put dead letters back on the queue."),
    "usage": Place("usage", "Show what tenants have spent in a month."),
    "tenants": Place("tenants", "Limit what a tenant runs, and spends in a month."),
    "completion": Place("completion", "Print a shell's completion script."),
}


class Commands(click.Group):
    """A group that knows its commands by name and help, and imports the one that is run."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See `click.Group.resolve_command`."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, None if listed is None else imported(str(listed.name)), rest


def imported(name: str) -> click.Command:
    """Return the command itself."""
    command = getattr(import_module(f"orchestrator.cli.{PLACES[name].module}"), f"{name}_command")
    assert isinstance(command, click.Command), f"{name} is one"
    return command


@click.group(
    cls=Commands,
    commands=[click.Command(name, help=place.help) for name, place in PLACES.items()],
    context_settings={
        "help_option_names": ["-h", "--help"],
        # As rich does (no-color.org); click by itself asks only whether it writes to a terminal.
        "color": False if os.environ.get("NO_COLOR") else None,
    },
)
@click.version_option(package_name="session-orchestrator")
def commands() -> None:
    """Durable agent sessions on SQS, DynamoDB and containers."""


NODES: Final = ("serve", "dev")
"""The commands that run until they are told to stop, so that to be told so is no failure."""


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] in ([name] for name in NODES):
        # The first process of a container is not even told of a signal that it does not handle, and to import an
        # application may take long: a stop that comes meanwhile would be lost.
        signal.signal(signal.SIGTERM, _end)
    commands(prog_name="orchestrator")


def _end(_: int, __: FrameType | None) -> NoReturn:
    # An exception might come up where nobody lets it through: in a finalizer, or in what is being imported.
    os._exit(0)
