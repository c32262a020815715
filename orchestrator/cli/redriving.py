"""The command that empties the dead-letter queue: back to where the letters came from, or away."""

from __future__ import annotations

from datetime import datetime

import click

from orchestrator.aws.queue import find_queue
from orchestrator.cli.client import Client
from orchestrator.cli.output import Exit, as_json, fail, print_json, tell
from orchestrator.cli.process import with_client
from orchestrator.redrive import LETTERS_MAX, Choice, Done, Redrive
from orchestrator.why import lasting

WORDS = {
    "redriven": ("put back", "would be put back"),
    "discarded": ("thrown away", "would be thrown away"),
    "left": ("left: it would only come back (--all takes it, and so does its --error-code)",) * 2,
    "unreadable": ("left: its body is not in the bucket as it was",) * 2,
}
"""Outcome → how it is told, done and in a dry run."""


@click.command("redrive")
@click.option("--dry-run", "is_dry", is_flag=True, help="Show what would happen, and change nothing.")
@click.option("--error-code", "codes", multiple=True, help="Only letters with this code (may be repeated).")
@click.option("--message-id", "message_ids", multiple=True, help="Only this letter (may be repeated).")
@click.option("--limit", type=click.IntRange(1, LETTERS_MAX), default=LETTERS_MAX, show_default=True)
@click.option("--all", "every", is_flag=True, help="Also what would only come back.")
@click.option("--discard", "discards", is_flag=True, help="Throw them away instead of putting them back.")
@as_json
def redrive_command(  # noqa: PLR0913, PLR0917 - one parameter an option
    is_dry: bool,
    codes: tuple[str, ...],
    message_ids: tuple[str, ...],
    limit: int,
    every: bool,
    discards: bool,
    json_output: bool,
) -> None:
    """Put dead letters back on the queue.

    Mend first what they were refused for: what is refused anew comes back. A letter that can never succeed is left
    where it is, unless --error-code or --message-id names it, or --all.
    """
    if discards and not (codes or message_ids or every):
        fail("--discard: name what to throw away by --error-code or --message-id, or say --all", Exit.USAGE)
    choice = Choice(frozenset(codes), frozenset(message_ids), every, limit)

    async def run(client: Client) -> tuple[int, int]:
        settings, patience, told = client.settings, client.patience, 0

        def show(done: Done) -> None:
            nonlocal told
            told += 1
            _show(done, patience.clock.now(), is_dry=is_dry, json_output=json_output)

        redrive = Redrive(
            await find_queue(client.clients, settings.queue, patience),
            await find_queue(client.clients, settings.dead_letter_queue_name, patience),
            client.artifacts,
        )
        return await redrive.run(choice, show, discards=discards, is_dry=is_dry), told

    taken, told = with_client(run)
    if not json_output:
        tell(f"{told} letter{'' if told == 1 else 's'}{', nothing was changed' if is_dry else f', {taken} taken'}")


def _show(done: Done, now: datetime, *, is_dry: bool, json_output: bool) -> None:
    letter = done.letter
    if json_output:
        print_json({**done.view(now), "dry_run": is_dry})
        return
    age = "" if letter.sent_at is None else f", {lasting(now - letter.sent_at)} old"
    click.echo(f"{letter.message_id}  {letter.code}{age}: {WORDS[done.outcome][is_dry]}")
    click.echo(f"    {letter.reason}")
