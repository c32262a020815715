"""The commands that start and show sessions."""

from __future__ import annotations

import json
import math
import sys
import uuid
from typing import Final

import click

from orchestrator.cli.arguments import id_argument, json_argument
from orchestrator.cli.client import Client
from orchestrator.cli.output import Exit, as_json, fail, print_fields, print_json, tell
from orchestrator.cli.process import with_client
from orchestrator.cli.tables import print_rows
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import (
    DELAY_SECONDS_MAX,
    SESSION_TYPE_PATTERN,
    TENANT_DEFAULT,
    Json,
    JsonObject,
    derive_session_id,
    payload_digest,
)

WAIT_SECONDS_DEFAULT: Final = 3_600.0


@click.command("submit")
@click.argument("session_type", metavar="TYPE")
@click.option("--input", "input_text", default="null", help="JSON, @file with JSON, or - for standard input.")
@click.option("--key", default=None, help="Idempotency key: the same key and input start one session.")
@click.option("--tenant", default=None, help=f"Tenant (default {TENANT_DEFAULT}).")
@click.option("--wait", is_flag=True, help="Wait for the end and print the result.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, max=DELAY_SECONDS_MAX),
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
    value = json_argument(input_text, "--input")
    if math.isnan(timeout):
        # It lies in every range, and no time is over before it.
        fail("--timeout: 'nan' is no number of seconds", Exit.USAGE)
    if SESSION_TYPE_PATTERN.fullmatch(session_type) is None:
        fail(f"TYPE: {session_type!r:.100} is no session type (1 to 64 of A-Z a-z 0-9 _ . -)", Exit.USAGE)
    if tenant is not None:
        id_argument(tenant, "--tenant")
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
        message_id = await client.send(body, tenant=tenant or TENANT_DEFAULT)
        if not wait:
            return None
        if not json_output:
            tell(f"{session_id} submitted; waiting", dim=True)
        digest = payload_digest(session_type, tenant or TENANT_DEFAULT, value)
        return await client.wait_for_end(session_id, message_id, digest, seconds_max=timeout)

    ended = with_client(run)
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


@click.command("status")
@click.argument("session_id", metavar="ID")
@as_json
def status_command(session_id: str, json_output: bool) -> None:
    """Show one session."""
    view = with_client(lambda client: client.view(session_id))
    print_json(view) if json_output else _show_session(view)


@click.command("events")
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

    with_client(lambda client: client.events(session_id, show, follow=follow))


@click.command("list")
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
    rows = with_client(
        lambda client: client.listing(status=status, session_type=session_type, tenant=tenant, limit=limit)
    )
    if json_output:
        for row in rows:
            print_json(row)
    else:
        print_rows(rows, ("session_id", "session_type", "tenant", "state", "created_at", "updated_at"))


def _show_end(view: JsonObject, *, json_output: bool) -> None:
    completed = view["state"] == SessionStatus.COMPLETED
    if json_output:
        print_json(view)
    elif completed:
        click.echo(json.dumps(view["result"], ensure_ascii=False, indent=2))
    else:
        error = view["error"]
        reason = f"{error['type']}: {error['message']}" if isinstance(error, dict) else ""
        tell(f"{view['session_id']} {view['state']} {reason}")
    sys.exit(Exit.DONE if completed else Exit.FAILED)


def _show_session(view: JsonObject) -> None:
    """Print a session's fields, and below them what it does, waits for, and still has to tell: each on a line."""
    operations, undelivered = view.pop("current_operations", None), view.pop("undelivered", None)
    print_fields(view)
    _show_rows(operations, ("operation", "kind", "phase", "attempt", "since", "until", "waits_for"))
    _show_rows(undelivered, ("notification", "attempts", "since", "next_try_at", "last_error"))


def _show_rows(value: Json, columns: tuple[str, ...]) -> None:
    rows = [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
    if rows:
        click.echo()
        print_rows(rows, columns)


def _short(data: Json) -> str:
    text = json.dumps(data, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
