"""The whole cluster, from seeds: whatever goes wrong, each invariant holds when all has come to rest.

`SIMULATION_SEEDS=500-900` plays others than the 300 that are played by default; `make simulate SEEDS=10000` plays many.
"""

import os
import subprocess
import sys

import pytest

from tests.simulation.simulate import simulate

SEEDS = os.environ.get("SIMULATION_SEEDS", "0-299")
SEEDS_A_TEST = 20


def some_seeds() -> list[range]:
    """Return the seeds to play, so many for each test."""
    first, _, last = SEEDS.partition("-")
    return [
        range(number, min(number + SEEDS_A_TEST, int(last or first) + 1))
        for number in range(int(first), int(last or first) + 1, SEEDS_A_TEST)
    ]


@pytest.mark.parametrize("seeds", some_seeds(), ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_every_invariant_holds_whatever_happens_to_the_cluster(seeds: range) -> None:
    """I1 to I12, by the table and what was written down outside it."""
    for seed in seeds:
        wrong = simulate(seed).wrong
        assert [] == wrong, f"python -m tests.simulation --seed {seed}\n" + "\n".join(wrong)


def test_a_seed_is_one_history() -> None:
    """Another process, with its own order of sets and addresses, plays the very same one."""
    here = simulate(3).digest
    command = [sys.executable, "-m", "tests.simulation", "--seed", "3"]
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        there = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert f"history {here}" in there.stdout


def test_time_that_passes_in_a_simulation_is_free() -> None:
    """Minutes of a cluster's life, with hundreds of requests, without waiting for any of it."""
    outcome = simulate(0)
    assert outcome.seconds > 1
    assert outcome.requests > 100
