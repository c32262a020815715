"""Commands by which an operator stops a session, or holds it: straight to the table, past whatever waits in the queue.

The node that has the session is poked, where it can be reached from here, and looks for such messages every second
anyway; a session that nobody has is due at once, and one that is to end now takes no place on a full node.
"""

from __future__ import annotations

import logging
import uuid
from typing import Final

import click

from orchestrator.building import deliveries_of_no_node
from orchestrator.calls import REASON_LENGTH_MAX
from orchestrator.cli.arguments import text_argument
from orchestrator.cli.client import Client, checked
from orchestrator.cli.output import as_json, print_json, tell
from orchestrator.cli.process import log_format, with_client
from orchestrator.deliveries import Control, Deliveries
from orchestrator.machine import this_machine
from orchestrator.session.values import JsonObject
from orchestrator.telemetry.logs import configure_logging

reason_option: Final = click.option("--reason", default=None, help="Why; it stands in the journal.")


@click.command("cancel")
@click.argument("session_id", metavar="ID")
@reason_option
@as_json
def cancel_command(session_id: str, reason: str | None, json_output: bool) -> None:
    """Ask a session to end.

    Its handler may clean up, and its undo steps run.
    """
    _control("cancel", session_id, reason, json_output=json_output)


@click.command("pause")
@click.argument("session_id", metavar="ID")
@reason_option
@as_json
def pause_command(session_id: str, reason: str | None, json_output: bool) -> None:
    """Let a session begin nothing new.

    What had begun goes on to its end, retries included; signals and answers are kept.
    """
    _control("pause", session_id, reason, json_output=json_output)


@click.command("resume")
@click.argument("session_id", metavar="ID")
@reason_option
@as_json
def resume_command(session_id: str, reason: str | None, json_output: bool) -> None:
    """Let a paused session go on."""
    _control("resume", session_id, reason, json_output=json_output)


@click.command("kill")
@click.argument("session_id", metavar="ID")
@reason_option
@as_json
def kill_command(session_id: str, reason: str | None, json_output: bool) -> None:
    """End a session now, whatever its handler does.

    It is not asked, and nothing is undone; its child sessions are killed too. `cancel` is the gentle way.
    """
    _control("kill", session_id, reason, json_output=json_output)


def _control(word: str, session_id: str, reason: str | None, *, json_output: bool) -> None:
    if reason is not None:
        text_argument(reason, "--reason", length_max=REASON_LENGTH_MAX)
    message_id = uuid.uuid4().hex

    async def deliver(client: Client) -> None:
        # A node that is out of reach from here is none of an operator's faults: it looks by itself.
        configure_logging(log_format(client.settings), level=logging.ERROR)
        with this_machine() as machine:
            leaving = deliveries_of_no_node(client.settings, client.table, client.bucket, client.cipher, machine)
            async with leaving as deliveries:
                await _delivery(word, deliveries)(checked(session_id), reason, message_id)

    with_client(deliver)
    message: JsonObject = {"kind": word, "session_id": session_id, "reason": reason, "message_id": message_id}
    if json_output:
        print_json(message)
    else:
        tell(f"{word} sent to {session_id}")


def _delivery(word: str, deliveries: Deliveries) -> Control:
    match word:
        case "cancel":
            return deliveries.cancel
        case "pause":
            return deliveries.pause
        case "resume":
            return deliveries.resume
        case _:
            return deliveries.kill
