"""The long run: `python -m tests.chaos --minutes 30 --seed 7`. Prints the figures; exits 1 where anything is wrong."""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import Outcome, run
from tests.emulators import Emulator, running_ministack


async def _run(emulator: Emulator, folder: Path, asked: argparse.Namespace) -> Outcome:
    # A stop is a cancellation: what was started is ended.
    running = asyncio.current_task()
    assert running is not None, "a coroutine runs in a task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    return await run(
        emulator,
        os.environ.__setitem__,
        folder,
        seed=asked.seed,
        seconds=60 * asked.minutes,
        a_second=asked.a_second,
        nodes=asked.nodes,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--a-second", type=float, default=2.0, help="sessions started a second")
    parser.add_argument("--keep", type=Path, help="a folder for the records, kept")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary, running_ministack() as emulator:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = asyncio.run(_run(emulator, folder, asked))
    print(outcome.text())
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
