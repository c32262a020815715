"""The command that explains a session: from the table, from the node that has it, and from the dead letters."""

from __future__ import annotations

from typing import Final

import aiohttp
import click

from orchestrator.aws.queue import find_queue
from orchestrator.cli.client import Client, checked
from orchestrator.cli.output import Exit, as_json, print_json
from orchestrator.cli.process import with_client
from orchestrator.cluster import Head
from orchestrator.cluster.dynamodb import DynamoDBNodes
from orchestrator.inbox import UnknownSession
from orchestrator.redrive import letter_about
from orchestrator.session.values import Json
from orchestrator.tenants.dynamodb import DynamoDBQuotas
from orchestrator.why import Explanation, Owner, UnderWay
from orchestrator.why.explaining import explain, unknown
from orchestrator.why.facts import Gathering, under_way_in

ASK_SECONDS_MAX: Final = 2.0
"""A node that answers at all does so at once; one that cannot be reached from here must not hold up the rest."""
LOOK_EVERY_SECONDS: Final = 0.5
LETTERS_MAX: Final = 200
"""Dead letters that are looked through for the start of a session that nobody knows."""


@click.command("why")
@click.argument("session_id", metavar="ID")
@as_json
def why_command(session_id: str, json_output: bool) -> None:
    """Explain what a session waits for, since when, and where.

    It asks the table, and the session's node for what runs there (with a key of ORCHESTRATOR_API_KEYS, where they are
    set). Exit code 3: it was never accepted; then the dead letters are looked through for its start.
    """
    explanation = with_client(lambda client: _explained(client, session_id))
    if json_output:
        print_json(explanation.view)
    else:
        click.echo("\n".join(explanation.lines()))
    if explanation.state == "UNKNOWN":
        raise SystemExit(int(Exit.NOT_FOUND))


async def _explained(client: Client, session_id: str) -> Explanation:
    nodes = DynamoDBNodes(client.table)
    quotas = DynamoDBQuotas(client.table, limit_default=client.settings.tenant_limit)
    look = _Look(client, nodes)
    gathering = Gathering(client.heads, client.shown, nodes, quotas, client.patience.clock, look.at)
    try:
        return explain(await gathering.facts(checked(session_id)))
    except UnknownSession:
        dead = await _letter_about(client, session_id)
        queue = await find_queue(client.clients, client.settings.queue, client.patience)
        return unknown(session_id, dead=dead, queued=await queue.depth())


async def _letter_about(client: Client, session_id: str) -> str | None:
    """Return why the session's start is a dead letter; `None` where none of those that were looked at starts it."""
    queue = await find_queue(client.clients, client.settings.dead_letter_queue_name, client.patience)
    found = await letter_about(queue, session_id, most=LETTERS_MAX)
    return None if found is None else f"{found.code}: {found.reason} (message {found.message_id})"


class _Look:
    """Asks nodes what they see of their sessions, and whether they beat: each beat is watched once."""

    def __init__(self, client: Client, nodes: DynamoDBNodes) -> None:
        self._client = client
        self._nodes = nodes
        self._beats: dict[str, bool] = {}

    async def at(self, head: Head, owner: Owner) -> tuple[UnderWay | None, bool | None]:
        """See `Look`."""
        told = await self._asked(head, owner)
        if told is not None:
            return told, True
        if owner.node_id not in self._beats:
            self._beats[owner.node_id] = await self._beats_on(owner)
        return None, self._beats[owner.node_id]

    async def _asked(self, head: Head, owner: Owner) -> UnderWay | None:
        assert owner.record is not None, "who is not registered is not asked"
        keys = self._client.settings.api_keys
        headers = {"Authorization": f"Bearer {keys[0].get_secret_value()}"} if keys else {}
        url = f"http://{owner.record.address}/sessions/{head.session_id}/why"
        timeout = aiohttp.ClientTimeout(total=ASK_SECONDS_MAX)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url, headers=headers) as answer:
                told: Json = await answer.json(content_type=None)
        except (TimeoutError, aiohttp.ClientError, ValueError):
            return None
        return under_way_in(told.get("under_way")) if isinstance(told, dict) else None

    async def _beats_on(self, owner: Owner) -> bool:
        """Return whether the node's beat moves within two heartbeats."""
        assert owner.record is not None, "who is not registered does not beat"
        clock, patience = self._client.patience.clock, 2 * self._client.settings.heartbeat_seconds
        deadline = clock.monotonic() + patience
        while clock.monotonic() < deadline:
            await clock.sleep(LOOK_EVERY_SECONDS)
            record = await self._nodes.get(owner.node_id)
            if record is not None and record.beat != owner.record.beat:
                return True
        return False
