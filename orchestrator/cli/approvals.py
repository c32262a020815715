"""The commands by which a person answers an approval. Who may write to the table needs no token: one is issued."""

from __future__ import annotations

import click

from orchestrator.calls import REASON_LENGTH_MAX
from orchestrator.cli.arguments import text_argument
from orchestrator.cli.client import Client
from orchestrator.cli.output import as_json, print_json, tell
from orchestrator.cli.process import with_client
from orchestrator.session.values import PERSON_LENGTH_MAX, JsonObject

by_option = click.option("--by", required=True, help="Who answers; one of the approvers, where the session names them.")
comment_option = click.option("--comment", default=None, help="Why; it stands in the journal.")


@click.command("approve")
@click.argument("session_id", metavar="ID")
@click.argument("name", metavar="NAME")
@by_option
@comment_option
@as_json
def approve_command(session_id: str, name: str, by: str, comment: str | None, json_output: bool) -> None:
    """Say yes to what a session asks for.

    `orchestrator status ID` shows what that is.
    """
    _answer(session_id, name, True, by, comment, json_output=json_output)


@click.command("reject")
@click.argument("session_id", metavar="ID")
@click.argument("name", metavar="NAME")
@by_option
@comment_option
@as_json
def reject_command(session_id: str, name: str, by: str, comment: str | None, json_output: bool) -> None:
    """Say no to what a session asks for."""
    _answer(session_id, name, False, by, comment, json_output=json_output)


def _answer(session_id: str, name: str, approved: bool, by: str, comment: str | None, *, json_output: bool) -> None:
    text_argument(by, "--by", length_max=PERSON_LENGTH_MAX, is_required=True)
    if comment is not None:
        text_argument(comment, "--comment", length_max=REASON_LENGTH_MAX)
    answer: JsonObject = {"approved": approved, "by": by, "comment": comment}

    async def send(client: Client) -> None:
        callback_id, token = await client.token_for_approval(session_id, name, by)
        await client.send(
            {"kind": "callback", "callback_id": callback_id, "token": token, "status": "SUCCESS", "result": answer}
        )

    with_client(send)
    if json_output:
        print_json({"session_id": session_id, "name": name, **answer})
    else:
        word = "approval" if approved else "rejection"
        tell(f"{word} of {name} by {by} sent to {session_id}")
