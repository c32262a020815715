"""The bench's surroundings: an emulator on one core, a worker on another, a sender of its own; and looking at them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import worker as launcher
from orchestrator.aws.clients import Clients, connect
from orchestrator.aws.provision import provision
from orchestrator.local import emulator, free_port
from orchestrator.settings import load

ROOT = Path(__file__).parent.parent
ENDED = "session_ended"
ACCEPTED = "session_accepted"
READY = "node_ready"
LOOK_SECONDS = 0.02
WAIT_SECONDS_MAX = 180.0
SETTLE_SECONDS = 0.3
"""After the last end: the last acknowledgements leave within a twentieth of a second."""
_CORES = sorted(os.sched_getaffinity(0))
WORKERS_CORE, OTHERS_CORE = _CORES[0], _CORES[-1]
"""The same one where there is only one."""
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def move_off_the_workers_core() -> None:
    """Leave the worker's core to the worker; what we start from now on comes with us."""
    os.sched_setaffinity(0, {OTHERS_CORE})


def size(name: str, default: int) -> int:
    """Return a size that `BENCH_<name>` may set."""
    return int(os.environ.get(f"BENCH_{name}", default))


@dataclass(frozen=True, slots=True)
class Rig:
    """A provisioned emulator. `folder` takes logs and dumps and goes with it."""

    clients: Clients
    queue_url: str
    table: str
    folder: Path

    async def fill(
        self, session_type: str, prefix: str, count: int, result_bytes: int, *, tenant: str = "default"
    ) -> None:
        """Put so many starts on the queue from another process; return when they are there."""
        arguments = (self.queue_url, session_type, prefix, str(count), str(result_bytes), tenant)
        child = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.sender", *arguments, cwd=ROOT)
        assert await child.wait() == 0, "the sender failed"

    async def rows(self) -> list[dict[str, Any]]:
        """Return all items of the table, in their wire form."""
        found: list[dict[str, Any]] = []
        async for page in self.clients.dynamodb.get_paginator("scan").paginate(TableName=self.table):
            found += page["Items"]
        return found


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    """Run an emulator of its own for a figure; its addresses are in our environment meanwhile."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with emulator(port=free_port(), state=None) as local:
            os.environ.update(local.environment)
            settings = load()
            async with connect() as clients:
                await provision(clients, settings)
                queue = await clients.sqs.get_queue_url(QueueName=settings.queue)
                yield Rig(clients, queue["QueueUrl"], settings.table, Path(folder))


@dataclass(slots=True)
class Worker:
    """A running `orchestrator serve`, seen from outside."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    mark: Path
    started_at: float
    counts: Counter[str] = field(default_factory=Counter)
    ends: dict[str, str] = field(default_factory=dict)
    _read_to: int = 0

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process so far, all threads, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND

    def memory(self) -> dict[str, int]:
        """Return the process's memory in KB: `Pss` and `Rss`."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("Pss:", "Rss:"))}

    def marked(self) -> dict[str, float]:
        """Return the CPU seconds and the time of the first poll of the queue."""
        mark: dict[str, float] = json.loads(self.mark.read_text())
        return mark

    def look(self) -> None:
        """Take up what the worker has logged since the last look."""
        with self.log.open("rb") as file:
            file.seek(self._read_to)
            chunk = file.read()
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            if line.startswith(b"{"):
                entry = json.loads(line)
                self.counts[entry["event"]] += 1
                if entry["event"] == ENDED:
                    self.ends[entry["session_id"]] = entry["at"]

    async def until(self, event: str, count: int, *, every: float = LOOK_SECONDS) -> None:
        """Return when the worker has logged the event so often."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while self.counts[event] < count:
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text()[-2_000:]
                raise RuntimeError(f"{event}: {self.counts[event]} of {count}, exit {self.process.poll()}\n{tail}")
            await asyncio.sleep(every)
            self.look()

    async def dump(self) -> None:
        """Have the worker write what it was asked to keep so far; return when it has."""
        await asyncio.sleep(SETTLE_SECONDS)
        self.mark.with_suffix(".dumped").unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR2)
        await asyncio.to_thread(self._await_dump, self.mark.with_suffix(".dumped"))

    def _await_dump(self, dumped: Path) -> None:
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not dumped.exists():
            assert time.monotonic() < deadline, "the worker does not answer SIGUSR2"
            time.sleep(LOOK_SECONDS)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the worker and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait)


def launch(bench: Rig, variables: Mapping[str, object] | None = None, *, name: str = "worker") -> Worker:
    """Start a worker on its core; `variables` go into its environment."""
    port, log, mark = free_port(), bench.folder / f"{name}.log", bench.folder / f"{name}.mark"
    environment = {
        **os.environ,
        launcher.CORE: str(WORKERS_CORE),
        launcher.MARK: str(mark),
        launcher.DUMPED: str(mark.with_suffix(".dumped")),
        "ORCHESTRATOR_PORT": str(port),
        "ORCHESTRATOR_LOG_FORMAT": "json",
        # What an end costs that nobody outside hears of; the rest is in docs/operations.md.
        "ORCHESTRATOR_EVENT_BUS": "",
        **{key: str(value) for key, value in (variables or {}).items()},
    }
    with log.open("wb") as errors:
        started_at = time.time()
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker"], cwd=ROOT, env=environment, stderr=errors, start_new_session=True
        )
    return Worker(process, port, log, mark, started_at)


@asynccontextmanager
async def working(
    bench: Rig, variables: Mapping[str, object] | None = None, *, name: str = "worker"
) -> AsyncIterator[Worker]:
    """Run a worker; killed at the end unless it ended before."""
    running = launch(bench, variables, name=name)
    try:
        await running.until(READY, 1)
        yield running
    finally:
        await running.end(signal.SIGKILL)


async def child_number(*arguments: str) -> float:
    """Run a module on the worker's core and return the number that it prints."""
    return float(await _output_of(*arguments))


async def child_numbers(*arguments: str) -> dict[str, float]:
    """Run a module on the worker's core and return the numbers that it prints as JSON, each with its name."""
    numbers: dict[str, float] = json.loads(await _output_of(*arguments))
    return numbers


async def _output_of(*arguments: str) -> str:
    environment = {**os.environ, launcher.CORE: str(WORKERS_CORE)}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await child.communicate()
    assert child.returncode == 0, f"{arguments} failed"
    return output.decode()
