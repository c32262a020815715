"""What the README shows runs as it stands, and what it names exists."""

import re
from pathlib import Path

import pytest

from docs.diagrams import PAGE, page
from orchestrator.cli.main import commands
from tests.emulators import Emulator
from tests.integration.deployment import deployed

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("[A-Z]*.md"))]


async def test_the_handler_of_the_readme_runs_as_it_stands(
    ministack: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its code block, saved as `research.py`, gives the result to the command that stands below it."""
    (tmp_path / "research.py").write_text(_block("python"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with deployed(ministack, monkeypatch.setenv) as deployment:
        await deployment.start("research:app")
        submit = re.search(r"orchestrator submit (.*)", _block("sh", containing="submit"))
        assert submit is not None
        command = ["submit", "research", "--input", '{"topic": "tea"}', "--key", "first", "--wait"]
        assert 'research --input \'{"topic": "tea"}\' --key first --wait' == submit.group(1)
        code, out, err = await deployment.cli(*command)
        assert (0, '"ALL ABOUT TEA"') == (code, out.strip()), err


def test_every_command_that_a_document_names_exists() -> None:
    """`orchestrator NAME` in a code span or block is a command, `make NAME` a target."""
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        text = _code(document)
        assert set() == set(re.findall(r"\borchestrator ([a-z]+)", text)) - set(commands.commands), document
        assert set() == set(re.findall(r"\bmake ([a-z]+)", text)) - targets, document


def test_every_link_between_documents_leads_somewhere() -> None:
    """A relative link names a file that is there."""
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.resolve().parent / link).exists(), f"{document.name}: {link}"


def test_the_state_diagrams_are_those_of_the_code() -> None:
    """`make docs` would change nothing."""
    assert page() == PAGE.read_text()


def _code(document: Path) -> str:
    text = document.read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return "\n".join([*blocks, *spans])


def _block(language: str, *, containing: str = "") -> str:
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return next(block for block in blocks if containing in block)
