"""Plays seeds: `python -m tests.simulation --seeds 10000`, or one of them with its timeline: `--seed 17`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.simulate import Outcome, simulate

WRONG_SHOWN = 20


def main() -> int:
    """Play what the command line asks for; return 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this seed and print its timeline")
    parser.add_argument("--about", help="print only the lines of the timeline about this session, and about nobody")
    parser.add_argument("--seeds", type=int, default=200, help="play so many seeds (200)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="play so many at once")
    wanted = parser.parse_args()
    if wanted.seed is not None:
        return _show(simulate(wanted.seed), wanted.about)
    return _play_all(range(wanted.first, wanted.first + wanted.seeds), wanted.processes)


def _show(outcome: Outcome, about: str | None) -> int:
    for moment in outcome.timeline:
        if about is None or moment.about in {"", about}:
            print(moment)
    print(f"{outcome.events} events, {outcome.sessions} sessions, {outcome.requests} requests, {outcome.seconds:.0f} s")
    print(f"history {outcome.digest}")
    for wrong in outcome.wrong:
        print(f"WRONG: {wrong}")
    return 1 if outcome.wrong else 0


def _play_all(seeds: Iterable[int], processes: int) -> int:
    begun, failed, faults = time.monotonic(), 0, Counter[str]()
    events = sessions = requests = played = 0
    with ProcessPoolExecutor(processes) as pool:
        for outcome in pool.map(_played, seeds, chunksize=4):
            played += 1
            events, sessions = events + outcome.events, sessions + outcome.sessions
            requests, faults = requests + outcome.requests, faults + outcome.faults
            if outcome.wrong:
                failed += 1
                print(f"seed {outcome.seed}: python -m tests.simulation --seed {outcome.seed}", flush=True)
                for wrong in outcome.wrong[:WRONG_SHOWN]:
                    print(f"  {wrong[:500]}", flush=True)
    print(f"{played} seeds, {failed} wrong, in {time.monotonic() - begun:.0f} s on {processes} processes")
    print(f"{sessions} sessions, {events} events, {requests} requests; what went wrong around them:")
    for kind, times in sorted(faults.items()):
        print(f"  {times:8} {kind}")
    return 1 if failed else 0


def _played(seed: int) -> Outcome:
    outcome = simulate(seed)
    # What is not shown need not travel.
    outcome.timeline.clear()
    return outcome


if __name__ == "__main__":
    sys.exit(main())
