"""One run: fleet, load, mayhem; then rest, and judgement. The test and `python -m tests.chaos` both call it."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from orchestrator.machine import EXIT_FENCED
from tests.chaos.aftermath import aftermath, at_rest, figures, takeovers
from tests.chaos.fleet import NODE_TIMEOUT_SECONDS, fleet
from tests.chaos.load import RAN, SMALL_TENANT, SMALL_TENANTS_LIMIT, TOLD
from tests.chaos.mayhem import Mayhem
from tests.emulators import Emulator
from tests.integration.deployment import Deployment, deployed

RECEIVES_MAX: Final = 100
"""Deliveries before the queue gives a message up: its visibility is shorter here, so they are that many more."""
LOAD_ENDS_SECONDS_MAX: Final = 150.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was wrong (nothing, one hopes), and the figures."""

    wrong: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]

    def text(self) -> str:
        width = max(len(name) for name, _ in self.rows)
        return "\n".join([f"{name:{width}}  {value}" for name, value in self.rows] + [*self.wrong])


async def run(
    emulator: Emulator,
    set_environment: Callable[[str, str], None],
    folder: Path,
    *,
    seed: int,
    seconds: float,
    a_second: float,
    nodes: int = 4,
) -> Outcome:
    """Let mayhem rage for that long over nodes under load, and return what is left of it."""
    for records in (RAN, TOLD):
        # Of a run before this one, in a folder that was kept.
        (folder / records).unlink(missing_ok=True)
    async with deployed(emulator, set_environment) as deployment:
        await _suit_the_weather(deployment)
        async with fleet(deployment, emulator.endpoint_url, folder, size=nodes, seed=seed) as running:
            await running.until_ready()
            mayhem = Mayhem(running, Random(f"{seed}:mayhem"))
            async with _load(deployment, folder, seed, seconds, a_second) as load:
                await mayhem.rage(seconds)
                stuck = [] if await _ends(load) else ["I8: the load waits in vain for some of its sessions"]
            await running.until_ready()
            stuck += await at_rest(deployment)
            found = await aftermath(deployment, folder)
        times = takeovers(found.journals(), mayhem)
        wrong = [*stuck, *mayhem.complaints, *running.logs, *found.wrong()]
        rows = [*figures(found, times), ("node timeout", f"{NODE_TIMEOUT_SECONDS} s"), *_injected(mayhem)]
        return Outcome(tuple(wrong), (("seed", str(seed)), *rows))


def _injected(mayhem: Mayhem) -> list[tuple[str, str]]:
    running = mayhem.fleet
    faults = sum((berth.weather.injected for berth in running.berths), start=Counter[str]())
    return [
        *((name, str(times)) for name, times in sorted(mayhem.done.items())),
        ("nodes that fenced themselves", str(running.exits[EXIT_FENCED])),
        ("nodes started", str(sum(running.exits.values()) + len(running.berths))),
        ("faults injected", str(sum(faults.values()))),
        *((f"  {name}", str(times)) for name, times in faults.most_common()),
    ]


async def _suit_the_weather(deployment: Deployment) -> None:
    """Set the small tenant's limit, and let the queue deliver as often as the weather wants."""
    code, _, err = await deployment.cli("tenants", "set", SMALL_TENANT, "--limit", str(SMALL_TENANTS_LIMIT))
    assert code == 0, err
    queue = await deployment.clients.sqs.get_queue_attributes(QueueUrl=deployment.queue_url, AttributeNames=["All"])
    redrive = queue["Attributes"]["RedrivePolicy"].replace(
        '"maxReceiveCount": 10', f'"maxReceiveCount": {RECEIVES_MAX}'
    )
    assert str(RECEIVES_MAX) in redrive, redrive
    await deployment.clients.sqs.set_queue_attributes(
        QueueUrl=deployment.queue_url, Attributes={"RedrivePolicy": redrive}
    )


@asynccontextmanager
async def _load(
    deployment: Deployment, folder: Path, seed: int, seconds: float, a_second: float
) -> AsyncIterator[asyncio.subprocess.Process]:
    arguments = (str(folder), deployment.queue_url, str(seed), str(seconds), str(a_second))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.load", *arguments, env={**os.environ, **deployment.environment}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _ends(load: asyncio.subprocess.Process) -> bool:
    """Return whether the load ends by itself, in time."""
    try:
        async with asyncio.timeout(LOAD_ENDS_SECONDS_MAX):
            return await load.wait() == 0
    except TimeoutError:
        return False
