"""The nodes: berths in each of which a scheduler keeps a real `orchestrator serve` process, whatever becomes of it.

Each berth has its own line to AWS, so that one node can be cut off while the others go on.
"""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from actors.signals import Signal
from orchestrator.aws.provision import BY_OWNER
from orchestrator.machine import EXIT_FENCED
from tests.chaos.app import RECORDS, VERSION
from tests.chaos.load import NODES, RAN
from tests.chaos.wire import Weather
from tests.contract.fault_proxy import fault_proxy
from tests.integration.deployment import Deployment, Worker, WorkerEnded

APP: Final = "tests.chaos.app:app"
HEARTBEAT_SECONDS: Final = 0.7
NODE_TIMEOUT_SECONDS: Final = 4.0
DRAIN_SECONDS: Final = 2.0
RESTART_SECONDS_MAX: Final = 2.0
"""How long a scheduler takes to notice that a task ended."""
STARTS_MAX: Final = 10_000
READY_SECONDS_MAX: Final = 180.0
ENVIRONMENT: Final = {
    "ORCHESTRATOR_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
    "ORCHESTRATOR_NODE_TIMEOUT_SECONDS": str(NODE_TIMEOUT_SECONDS),
    "ORCHESTRATOR_DRAIN_SECONDS": str(DRAIN_SECONDS),
    "ORCHESTRATOR_PASSIVATE_AFTER_SECONDS": "1",
    "ORCHESTRATOR_INLINE_LIMIT_BYTES": "8192",
    # Dying is the normal case here: no session may end for having seen many nodes die.
    "ORCHESTRATOR_MAX_FRUITLESS_RESUMES": "1000",
}


@dataclass(slots=True)
class Berth:
    """A place for one node at a time. `worker` and `node_id` are of the one that is ready; `None` while there is none.

    `is_taken` while somebody does something to it: one misfortune at a time for each.
    """

    weather: Weather
    worker: Worker | None = None
    node_id: str | None = None
    is_taken: bool = False

    def signal(self, number: signal.Signals) -> None:
        """Send the node a signal, if there still is one."""
        if self.worker is not None:
            with suppress(ProcessLookupError):
                self.worker.signal(number)


@dataclass(slots=True)
class Fleet:
    """All berths. `exits` counts how nodes ended, by exit code; `deploys` is the version of the code that starts."""

    deployment: Deployment
    folder: Path
    berths: list[Berth]
    chance: Random
    deploys: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    logs: list[str] = field(default_factory=list)
    _changed: Signal = field(default_factory=Signal)

    async def keep(self, berth: Berth) -> None:
        """Keep a node in the berth, until cancelled."""
        for _ in range(STARTS_MAX):
            version = {VERSION: str(self.deploys), RECORDS: str(self.folder / RAN)}
            line = {"AWS_ENDPOINT_URL": berth.weather.endpoint_url}
            worker = await self.deployment.start(APP, wait=False, **ENVIRONMENT, **version, **line)
            while worker.process.returncode is None and berth.worker is None:
                # In bad weather, or on a busy machine, a start takes long.
                with suppress(WorkerEnded, TimeoutError):
                    ready = (await worker.logged("node_ready"))[0]
                    worker.base_url, berth.node_id = f"http://{ready['address']}", str(ready["node"])
                    self._enter(berth, worker)
            code = await worker.process.wait()
            self.exits[code] += 1
            self._enter(berth, None)
            if code not in {0, EXIT_FENCED, -signal.SIGKILL}:
                self.logs.append("\n".join([f"exit {code} of a node:", *worker.raw[-30:]]))
            self.keep_log(worker)
            await asyncio.sleep(self.chance.uniform(0.0, RESTART_SECONDS_MAX))

    def keep_log(self, worker: Worker) -> None:
        (self.folder / f"node-{worker.process.pid}.log").write_text("\n".join(worker.raw))
        # A long run has hundreds of them.
        worker.lines.clear()
        worker.raw.clear()

    def _enter(self, berth: Berth, worker: Worker | None) -> None:
        berth.worker = worker
        nodes = [each.worker.base_url for each in self.berths if each.worker is not None]
        # Whole or not at all: the load reads it at any moment.
        fresh = self.folder / f"{NODES}.new"
        fresh.write_text(json.dumps(nodes))
        fresh.replace(self.folder / NODES)
        self._changed.fire()

    async def until_ready(self, *berths: Berth) -> None:
        """Return once each of the berths (all, where none is named) has a node that is ready."""
        async with asyncio.timeout(READY_SECONDS_MAX):
            await self._changed.until(lambda: all(berth.worker is not None for berth in berths or self.berths))

    async def owned(self, node_id: str) -> dict[str, int]:
        """Return the sessions that a node owns, with their epochs."""
        table, dynamodb = self.deployment.settings.table, self.deployment.clients.dynamodb
        listed = await dynamodb.query(
            TableName=table,
            IndexName=BY_OWNER,
            KeyConditionExpression="#owner = :owner",
            ExpressionAttributeNames={"#owner": "owner"},
            ExpressionAttributeValues={":owner": {"S": node_id}},
        )
        owned: dict[str, int] = {}
        for item in listed["Items"]:
            key = {"PK": item["PK"], "SK": {"S": "HEAD"}}
            head = (await dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True)).get("Item", {})
            if head.get("owner") == {"S": node_id}:
                owned[item["PK"]["S"].removeprefix("SESSION#")] = int(head["epoch"]["N"])
        return owned


@asynccontextmanager
async def fleet(deployment: Deployment, upstream: str, folder: Path, *, size: int, seed: int) -> AsyncIterator[Fleet]:
    """Keep a fleet of that many nodes while the block runs."""
    berths = [Berth(Weather(upstream, Random(f"{seed}:line {number}"))) for number in range(size)]
    running = Fleet(deployment, folder, berths, Random(f"{seed}:scheduler"))
    keepers: list[asyncio.Task[None]] = []
    async with AsyncExitStack() as lines:
        for berth in berths:
            await lines.enter_async_context(fault_proxy(upstream, berth.weather))
        try:
            keepers += [asyncio.create_task(running.keep(berth)) for berth in berths]
            yield running
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            deployment.kill_all()
            for berth in berths:
                if berth.worker is not None:
                    running.keep_log(berth.worker)
