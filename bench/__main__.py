"""`python -m bench [FIGURE ...]`: measure all figures, or those named."""

from __future__ import annotations

import asyncio
import signal
import sys
import time

from bench import (
    branches,
    cost,
    cpu,
    crash,
    drain,
    flood,
    idle,
    latency,
    memory,
    operations,
    profiling,
    replay,
    startup,
    suspended,
    telemetry,
    wake,
)
from bench.report import Figure, keep, show
from bench.rig import OTHERS_CORE, WORKERS_CORE, move_off_the_workers_core

FIGURES = {
    "cost": cost.measure,
    "cpu": cpu.measure,
    "latency": latency.measure,
    "memory": memory.measure,
    "startup": startup.measure,
    "crash": crash.measure,
    "branches": branches.measure,
    "replay": replay.measure,
    "suspended": suspended.measure,
    "telemetry": telemetry.measure,
    "wake": wake.measure,
    "operations": operations.measure,
    "flood": flood.measure,
    "drain": drain.measure,
    "idle": idle.measure,
}
ON_REQUEST = {"profile": profiling.measure}


async def measure(names: list[str]) -> dict[str, Figure]:
    """Measure one figure after another, each with an emulator of its own."""
    # Cancelled, so that the emulator and the worker are not left behind.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    figures: dict[str, Figure] = {}
    for name in names:
        begun = time.monotonic()
        figures[name] = await {**FIGURES, **ON_REQUEST}[name]()
        show(figures[name], time.monotonic() - begun)
        keep(figures)
    return figures


def main() -> None:
    """Measure what the command line names."""
    names = sys.argv[1:] or list(FIGURES)
    unknown = set(names) - FIGURES.keys() - ON_REQUEST.keys()
    if unknown:
        sys.exit(f"no figure {', '.join(unknown)}; there are {', '.join([*FIGURES, *ON_REQUEST])}")
    shared = ", the same one: CPU figures are of little use here" if WORKERS_CORE == OTHERS_CORE else ""
    print(f"worker on core {WORKERS_CORE}, everything else on core {OTHERS_CORE}{shared}")
    move_off_the_workers_core()
    try:
        asyncio.run(measure(names))
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.exit("cut short")


if __name__ == "__main__":
    main()
