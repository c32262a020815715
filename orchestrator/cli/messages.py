"""Commands that tell a session something by a message on the queue: any node that lives, now or later, takes it."""

from __future__ import annotations

import uuid
from typing import Final

import click

from orchestrator.cli.arguments import STDIN, id_argument, json_argument, secret_argument, text_argument
from orchestrator.cli.client import Client
from orchestrator.cli.output import Exit, as_json, fail, print_json, tell
from orchestrator.cli.process import with_client
from orchestrator.errors import MESSAGE_LENGTH_MAX
from orchestrator.session.values import Json, JsonObject

TOKEN_VARIABLE: Final = "ORCHESTRATOR_CALLBACK_TOKEN"


@click.command("signal")
@click.argument("session_id", metavar="ID")
@click.argument("name", metavar="NAME")
@click.option("--data", "data_text", default="null", help="JSON, @file with JSON, or - for standard input.")
@click.option("--message-id", default=None, help="The same id again delivers nothing new (default: a random one).")
@as_json
def signal_command(session_id: str, name: str, data_text: str, message_id: str | None, json_output: bool) -> None:
    """Send a session a signal."""
    message: JsonObject = {
        "kind": "signal",
        "session_id": session_id,
        "name": id_argument(name, "NAME"),
        "message_id": uuid.uuid4().hex if message_id is None else id_argument(message_id, "--message-id"),
        "data": json_argument(data_text, "--data"),
    }
    _tell_session(session_id, message)
    _show(message, f"signal {name} sent to {session_id}", json_output=json_output)


@click.command("callback")
@click.argument("callback_id", metavar="CALLBACK_ID")
@click.option(
    "--token",
    required=True,
    envvar=TOKEN_VARIABLE,
    show_envvar=True,
    help="The callback's token, or - for the first line of standard input, which no history keeps.",
)
@click.option("--success", default=None, help="Succeed with this result: JSON, @file with JSON, or - for input.")
@click.option("--failure", default=None, help="Fail with this text.")
@as_json
def callback_command(callback_id: str, token: str, success: str | None, failure: str | None, json_output: bool) -> None:
    """Answer a callback."""
    if (success is None) == (failure is None):
        fail("give --success JSON or --failure MESSAGE", Exit.USAGE)
    if (token, success) == (STDIN, STDIN):
        fail("--token, --success: only one of them can be on standard input", Exit.USAGE)
    token = secret_argument(token, "--token")
    answer: JsonObject
    if failure is None:
        answer = {"status": "SUCCESS", "result": json_argument(str(success), "--success")}
    else:
        error: Json = {"message": text_argument(failure, "--failure", length_max=MESSAGE_LENGTH_MAX)}
        answer = {"status": "FAILURE", "error": error}
    message: JsonObject = {"kind": "callback", "callback_id": callback_id, **answer}

    async def send(client: Client) -> None:
        await client.check_callback(callback_id, token)
        await client.send({**message, "token": token})

    with_client(send)
    _show(message, f"{answer['status']} sent to {callback_id}", json_output=json_output)


def _tell_session(session_id: str, message: JsonObject) -> None:
    async def send(client: Client) -> None:
        await client.open_head(session_id)
        await client.send(message)

    with_client(send)


def _show(message: JsonObject, words: str, *, json_output: bool) -> None:
    if json_output:
        print_json(message)
    else:
        tell(words)
