"""The house is tidy: files and functions of a readable length, no traces of a workshop, one word per thing."""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 60
# With a class of one letter in each, so that this file is none of what it looks for.
TRACES = re.compile(r"/[h]ome/[a-z]|/[r]oot/|[T]ODO|[F]IXME")
NAMED_FILE = re.compile(r"`((?:actors|bench|docs|examples|orchestrator|tests)/[\w./-]+\.(?:py|md))`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
NAMED_TEST = re.compile(r"^(?:async )?def (test_[a-z0-9_]+)", re.MULTILINE)
OTHER_WORDS = re.compile(r"\bworkflow|\bexecutor_id|\bjob\b", re.IGNORECASE)


def test_files_of_the_product_are_short() -> None:
    """A longer file holds two things."""
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in _product()}
    assert {} == {name: lines for name, lines in long.items() if lines > FILE_LINES_MAX}


def test_functions_of_the_product_fit_a_screen() -> None:
    """A longer function lacks a name for one of its parts."""
    long = [
        f"{path.relative_to(ROOT)}:{node.name}"
        for path in _product()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno > FUNCTION_LINES_MAX
    ]
    assert [] == long


def test_no_file_holds_traces_of_a_workshop() -> None:
    """No machine's paths, no registry's names, nothing left for later."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    found = [
        f"{name}: {line.strip()[:80]}"
        for name in tracked
        if Path(name).suffix in {".py", ".md", ".toml", ".txt", ".yaml"}
        for line in (ROOT / name).read_text().splitlines()
        if TRACES.search(line)
    ]
    assert [] == found


def test_the_product_speaks_of_sessions_only() -> None:
    """Other words for a session are other systems'."""
    found = [f"{path.name}: {match.group()}" for path in _product() for match in OTHER_WORDS.finditer(path.read_text())]
    assert [] == found


def test_what_the_documents_point_at_is_there() -> None:
    """Files of the tree that they name, and the targets of their links."""
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    # What one name stands for under another is looked at where it is.
    pages = [ROOT / name for name in tracked.split() if not (ROOT / name).is_symlink()]
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages
        for name, base in (
            *((found, ROOT) for found in NAMED_FILE.findall(page.read_text())),
            *((found, page.parent) for found in LINK.findall(page.read_text())),
        )
        if not (base / name).exists()
    ]
    assert [] == missing


def test_every_test_that_a_document_names_is_there() -> None:
    """A guarantee that cites a test which was renamed cites nothing."""
    known = {name for path in (ROOT / "tests").rglob("*.py") for name in NAMED_TEST.findall(path.read_text())}
    cited = {
        name: page.name
        for page in (ROOT / "docs").rglob("*.md")
        for name in re.findall(r"`(test_[a-z0-9_]+)`", page.read_text())
    }
    assert {} == {name: page for name, page in cited.items() if name not in known}
    assert cited, "some are cited"


def test_every_rule_that_a_comment_cites_is_listed() -> None:
    """Whoever meets "rule 5" finds in `docs/architecture.md` what it says."""
    listed = set(re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE))
    code = [*_product(), *(ROOT / "tests").rglob("*.py")]
    cited = {number for path in code for number in re.findall(r"\b[Rr]ules? (\d+)", path.read_text())}
    assert set() == cited - listed
    assert cited, "some are cited"


def _product() -> list[Path]:
    return sorted([*(ROOT / "orchestrator").rglob("*.py"), *(ROOT / "actors").rglob("*.py")])
