"""`docs/runbook.md` shows commands that there are, for every alarm of the deployment and every state of a session."""

import re
import shlex
from pathlib import Path

import click
import pytest

from orchestrator.artifacts import ArtifactAltered, ArtifactForeign, ArtifactMissing
from orchestrator.aws.faults import Refused
from orchestrator.aws.keys import KeyRefused
from orchestrator.cli.main import commands, imported
from orchestrator.inbox import UnreadableMessage
from orchestrator.journal import AlteredEvent, UnreadableEvent
from orchestrator.session.transitions import ENDED, SessionStatus
from orchestrator.why.explaining import MENDING

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "runbook.md").read_text()

BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`(orchestrator [^`]+)`")
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)


def lines() -> list[str]:
    """Return every command of ours on the page, without what is said beside it."""
    shown = [line for block in BLOCK.findall(PAGE) for line in block.splitlines()]
    return sorted({line for line in [*shown, *INLINE.findall(PAGE)] if line.startswith("orchestrator ")})


def anchor(heading: str) -> str:
    """Return what a link to that heading ends in."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("line", lines())
def test_every_command_of_the_page_parses(line: str) -> None:
    """With its arguments and options, as they stand there; it is not run."""
    _, name, *arguments = shlex.split(line, comments=True)
    command: click.Command = imported(name)
    if isinstance(command, click.Group):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    with command.make_context(name, list(arguments), parent=click.Context(commands)) as context:
        assert command is context.command


def test_the_page_has_a_section_for_every_state_that_goes_on() -> None:
    """One that has ended waits for nothing."""
    headings = {heading for heading in HEADING.findall(PAGE) if heading.isupper()}
    assert {status.value for status in SessionStatus if status not in ENDED} == headings


def test_every_link_within_the_page_leads_to_a_section() -> None:
    """A heading that was renamed is linked to under its new name."""
    anchors = {anchor(heading) for heading in HEADING.findall(PAGE)}
    assert set() == set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) - anchors


def test_every_section_of_an_alarm_or_a_state_shows_a_command() -> None:
    """What shows why, or mends it."""
    sections = re.split(r"^#{1,2} ", PAGE, flags=re.MULTILINE)
    without = [text.splitlines()[0] for text in sections if text.strip() and "orchestrator " not in text]
    # Titles over the sections, and a table of what stands in them.
    assert {"Runbook", "Alarms", "States", "Nodes without what they need"} >= set(without)


def test_the_page_and_why_say_what_mends_each_code_that_blocks_a_session() -> None:
    """The same codes in both, and those of whatever cannot be read among them."""
    blocked = PAGE.split("\n## BLOCKED\n")[1].split("\n## ")[0]
    codes = {
        code for row in re.findall(r"^\| (`.+?) \|", blocked, re.MULTILINE) for code in re.findall(r"`(\w+)`", row)
    }
    unreadable = UnreadableEvent, AlteredEvent, UnreadableMessage, ArtifactMissing, ArtifactAltered, ArtifactForeign
    assert set() == {each.code for each in (*unreadable, Refused, KeyRefused)} - codes
    assert set(MENDING) == codes
