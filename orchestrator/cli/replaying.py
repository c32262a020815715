"""The command that plays a live journal against today's handler: what a deployment would meet, before it is one."""

from __future__ import annotations

import asyncio

import click

from orchestrator.cli.arguments import id_argument
from orchestrator.cli.client import Client
from orchestrator.cli.loading import load_app
from orchestrator.cli.output import Exit, as_json, fail, print_json, tell
from orchestrator.cli.process import with_client
from orchestrator.inbox import UnknownSession
from orchestrator.replaying import Replayed, ReplayFailed, replay_journal
from orchestrator.session.values import JsonObject


@click.command("replay")
@click.argument("session_id", metavar="ID")
@click.argument("target", metavar="MODULE:APP")
@as_json
def replay_command(session_id: str, target: str, json_output: bool) -> None:
    """Play a session's journal against today's handler.

    Nothing is run and nothing is written: no step, no agent. Exit code 1: they do not match, and the first
    difference is told.
    """
    id_argument(session_id, "ID")
    app = load_app(target)

    async def replay(client: Client) -> Replayed | ReplayFailed:
        journal = [recorded async for recorded in client.journal.read(session_id)]
        if not journal:
            raise UnknownSession(session_id)
        try:
            return await replay_journal(session_id, journal, app, artifacts=client.artifacts)
        except ReplayFailed as failed:
            return failed

    # asyncio's own loop, because it can be asked whether it is at rest.
    _tell(session_id, with_client(replay, new_loop=asyncio.SelectorEventLoop), json_output=json_output)


def _tell(session_id: str, replayed: Replayed | ReplayFailed, *, json_output: bool) -> None:
    if isinstance(replayed, Replayed):
        if json_output:
            print_json(_document(session_id, replayed))
        else:
            tell(f"matches ({replayed.events} events, {replayed.operations} operations)")
        return
    if json_output:
        print_json({"session_id": session_id, "matches": False, "difference": replayed.difference})
        raise SystemExit(int(Exit.FAILED))
    fail(str(replayed), Exit.FAILED)


def _document(session_id: str, replayed: Replayed) -> JsonObject:
    return {
        "session_id": session_id,
        "matches": True,
        "events": replayed.events,
        "operations": replayed.operations,
        "difference": None,
    }
