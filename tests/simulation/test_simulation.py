"""The whole cluster, from seeds: whatever goes wrong, each invariant holds when all has come to rest.

`SIMULATION_SEEDS=500-900` plays others than the 200 that are played by default; `make simulate SEEDS=10000` plays many.
"""

import os
import subprocess
import sys
from random import Random

import pytest

from tests.simulation.cluster import Cluster, Theme
from tests.simulation.dynamodb import SimTable
from tests.simulation.network import Cloud, Weather
from tests.simulation.s3 import SimBucket
from tests.simulation.simulate import simulate
from tests.simulation.sqs import SimQueue
from tests.simulation.story import Story
from tests.simulation.world import World

SEEDS = os.environ.get("SIMULATION_SEEDS", "0-199")
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


def test_a_node_that_starts_while_the_queue_is_out_of_reach_waits_for_it() -> None:
    """As it waits for the table: whoever would start it again could do no better."""
    world, weather = World(0), Weather(service="queue", reset=1.0)
    table = SimTable(world, lambda: 0.0, pytest.fail)
    cloud = Cloud(world, weather, table, SimQueue(world, lambda: False), SimBucket())
    cluster = Cluster(cloud, Story(lambda *_: None), Random(0), Theme("anything", sizes=(1,)))
    cluster.fill()
    try:
        world.run(lambda: False, 30.0)
        assert not cluster.nodes[0].takes
        weather.calm()
        assert world.run(lambda: cluster.nodes[0].takes, 30.0)
        assert 1 == len(cluster.nodes)
    finally:
        cluster.unwind()


def test_time_that_passes_in_a_simulation_is_free() -> None:
    """Minutes of a cluster's life, with hundreds of requests, without waiting for any of it."""
    outcome = simulate(0)
    assert outcome.seconds > 1
    assert outcome.requests > 100
