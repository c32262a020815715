"""Kills a worker between every two events of its one session: when an event is durable, and some just before.

It stands on the worker's line to the table, so that nothing is left to chance. What is killed is decided by what the
event says, once each; the resumption after every kill is let through but for the first, or nothing would ever go on.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, Final

from actors.signals import Signal
from tests.contract.fault_proxy import CUT, Answer, FaultProxy, Forward, Request, fault_proxy
from tests.integration.deployment import Deployment, Worker, WorkerEnded

ALWAYS: Final = 1_000_000
SECONDS_MAX: Final = 110.0
HANDED_OVER: Final = ".submit"
"""What such an event records has reached somebody outside, and stands nowhere yet: worth a kill of its own."""


class JournalReaper:
    """A fault that is a `kill -9`. `story` is the journal as people read it, `kills` where a worker died.

    `only`: nowhere but there.
    """

    def __init__(self, only: Collection[str] | None = None) -> None:
        self._only = only
        self.story: list[str] = []
        self.kills: list[str] = []
        self.heads: list[str] = []
        self._worker: Worker | None = None
        self._is_ready = False
        self._grown = Signal()

    async def __call__(self, request: Request, raw: bytes, forward: Forward) -> Answer:
        """Answer one request to the table, or end whoever sent it."""
        for event in _events(_written(request)):
            if event.endswith(HANDED_OVER) and self._kills(f"before {event}"):
                return CUT
        answer = await forward(raw)
        if answer.status != HTTPStatus.OK:
            return answer
        items = list(_taken(request, answer))
        events = _events(items)
        self.story += events
        self.heads += [item["state"] for item in items if "state" in item]
        self._grown.fire()
        dies = [self._kills(f"after {event}") for event in events]
        return CUT if any(dies) else answer

    async def told(self, *events: str) -> None:
        """Return once these stand in the journal, one after the other, with anything between."""

        def has_come() -> bool:
            rest = iter(self.story)
            return all(event in rest for event in events)

        await self._until(has_come)

    async def ended(self) -> None:
        """Return once HEAD shows the end too, and whoever wrote that lives."""
        await self._until(lambda: "COMPLETED" in self.heads)

    async def keep_running(self, deployment: Deployment, app: str, environment: dict[str, str]) -> None:
        """Start a worker whenever there is none, as a scheduler does, until cancelled."""
        while True:
            self._worker = worker = await deployment.start(app, wait=False, **environment)
            with suppress(WorkerEnded):
                await worker.logged("node_ready")
                self._is_ready = worker.process.returncode is None
                self._grown.fire()
            await worker.process.wait()
            self._is_ready = False

    async def ready(self) -> None:
        """Return once a worker takes requests."""
        await self._until(lambda: self._is_ready)

    def _kills(self, place: str) -> bool:
        if place in self.kills or self._worker is None or not (self._only is None or place in self._only):
            return False
        self.kills.append(place)
        self._is_ready = False
        self._worker.process.kill()
        return True

    async def _until(self, met: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS_MAX):
            await self._grown.until(met)


@asynccontextmanager
async def reaping(
    upstream: str, *, only: Collection[str] | None = None
) -> AsyncIterator[tuple[JournalReaper, FaultProxy]]:
    """Yield a reaper, and the proxy by which a worker must reach its table, while the block runs."""
    reaper = JournalReaper(only)
    async with fault_proxy(upstream) as proxy:
        proxy.arm("*", reaper, times=ALWAYS)
        yield reaper, proxy


def _events(items: Iterable[dict[str, str]]) -> list[str]:
    return [" ".join(filter(None, [i["status"], i.get("operation")])) for i in items if "status" in i]


def _taken(request: Request, answer: Answer) -> Iterator[dict[str, str]]:
    """Yield what of a request took effect: of a batch each statement is refused alone, such as a start told again."""
    if request.operation != "BatchExecuteStatement":
        yield from _written(request)
        return
    for item, response in zip(_written(request), json.loads(answer.body)["Responses"], strict=True):
        if "Error" not in response:
            yield item


def _written(request: Request) -> Iterator[dict[str, str]]:
    """Yield the attributes of each event or HEAD that the request writes, as texts."""
    match request.operation:
        case "PutItem":
            yield _texts(request.body["Item"])
        case "UpdateItem":
            names = request.body.get("ExpressionAttributeNames", {})
            values = _texts(request.body.get("ExpressionAttributeValues", {}))
            pairs = re.findall(r"(\S+) ?= ?(:\w+)", request.body.get("UpdateExpression", ""))
            yield {names.get(name, name): values[value] for name, value in pairs if value in values}
        case "TransactWriteItems":
            for write in request.body["TransactItems"]:
                yield from [_texts(write["Put"]["Item"])] if "Put" in write else []
        case "BatchExecuteStatement":
            for statement in request.statements:
                names = re.findall(r"""['"](\w+)['"] ?[:=] ?\?""", statement["Statement"])
                parameters = [str(next(iter(value.values()))) for value in statement.get("Parameters", [])]
                yield dict(zip(names, parameters, strict=False))


def _texts(item: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: str(next(iter(value.values()))) for name, value in item.items()}
