"""`make demo` ends by itself and well: a worker is killed in the middle, and nothing is lost or done twice."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DEMO_SECONDS_MAX: Final = 110.0
ROW: Final = re.compile(
    r"(?P<document>03\d\d (bank|counterparty)) +…(?P<session>\w{6}) +(?P<state>[A-Z]+) +(?P<outcome>.+?)"
    r" +(?P<steps>\d+) +(?P<duplicates>\d+) +(?P<resumed>\d+) *"
)
OUTCOMES: Final = {
    "0301": ["COMPLETED awaits", "COMPLETED matches"],
    "0302": ["COMPLETED awaits", "COMPLETED matches"],
    "0303": ["COMPLETED awaits", "COMPLETED matches"],
    "0304": ["COMPLETED amount 2000000.00 ≠ 2100000.00", "COMPLETED awaits"],
    "0305": ["COMPLETED awaits", "COMPLETED value_date 2026-03-12 ≠ 2026-03-13"],
    "0306": ["COMPLETED awaits", "COMPLETED currency EUR ≠ USD"],
    "0307": ["COMPLETED awaits", "COMPLETED matches"],
    "0308": ["COMPLETED awaits"],
    "0309": ["COMPLETED awaits", "FAILED broken PDF: Stream has ended unexpectedly"],
    "0310": ["COMPLETED awaits", "FAILED no text in the PDF: a scan or a fax, perhaps"],
}
"""Which of a trade's two documents is the second, and compares them, is open; that one of them is, is not."""


def test_the_demo_ends_as_expected_and_says_so() -> None:
    """It kills a worker with sessions in flight, shows one end for each document, and answers with exit code 0."""
    ended = subprocess.run(
        [sys.executable, "-m", "examples.trade_matching.demo"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=DEMO_SECONDS_MAX,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"kill -9 worker \d+: \d+ sessions have ended, [1-9]\d* were in flight", ended.stdout)
    assert "19 documents, 38 deliveries" in ended.stdout
    assert "19 sessions, 19 ends" in ended.stdout
    rows = [found for line in ended.stdout.splitlines() if (found := ROW.fullmatch(line))]
    assert 19 == len(rows) == len({row["document"] for row in rows}) == len({row["session"] for row in rows})
    assert all(int(row["duplicates"]) >= 1 for row in rows)
    assert any(int(row["resumed"]) >= 1 for row in rows)
    for trade, expected in OUTCOMES.items():
        shown = [f"{row['state']} {_core(row['outcome'])}" for row in rows if row["document"].startswith(trade)]
        assert sorted(expected) == sorted(shown)


def _core(outcome: str) -> str:
    """Return what an outcome says, without saying of which side."""
    return re.sub(r"^(awaits|matches) the .*", r"\1", outcome)
