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


def _product() -> list[Path]:
    return sorted([*(ROOT / "orchestrator").rglob("*.py"), *(ROOT / "actors").rglob("*.py")])
