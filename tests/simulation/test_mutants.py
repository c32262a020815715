"""The simulation is shown to catch what it is for: each guard of the product is taken out once, and must be missed."""

from pathlib import Path
from typing import Final

import pytest

from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.simulate import simulate

PAGE: Final = Path(__file__).parents[2] / "docs/proofs.md"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_guard_that_is_taken_out_is_missed(mutant: Mutant) -> None:
    """Within the seeds that the mutant states, and under the number of an invariant that it breaks."""
    named = tuple(f"{invariant}:" for invariant in mutant.breaks)
    with mutant.applied():
        for seed in mutant.seeds:
            if any(wrong.startswith(named) for wrong in _wrong_of(mutant, seed)):
                return
    pytest.fail(f"nothing of {', '.join(mutant.breaks)} was found within {mutant.seeds}")


def _wrong_of(mutant: Mutant, seed: int) -> list[str]:
    return simulate(seed, has_bus=mutant.has_bus, has_operator=mutant.has_operator).wrong


def test_every_invariant_has_a_mutant() -> None:
    """A simulation that cannot miss a guard proves nothing about its invariant."""
    broken = {invariant for mutant in MUTANTS for invariant in mutant.breaks}
    assert {f"I{number}" for number in range(1, 13)} == broken


def test_the_documents_list_every_mutant() -> None:
    """With the invariants that each of them breaks."""
    listed = PAGE.read_text()
    assert [] == [m.name for m in MUTANTS if f"| {m.name} | {', '.join(m.breaks)} |" not in listed]
