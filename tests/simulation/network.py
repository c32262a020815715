"""The way from a process to the services and back: what is slow, throttled, lost, repeated, or half done.

To change it: faults of the way and of the services' answers. A `Weather` says how likely each is, and `Trap`s make
something happen at one chosen call: before it leaves, when it took effect, or some callbacks after its answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, Protocol, TypeAlias, cast

import aiohttp

from orchestrator.aws.clients import READ_SECONDS_MAX, Clients
from tests.simulation.dynamodb import SimTable, canceled, refused
from tests.simulation.kms import SimKeys
from tests.simulation.loops import SimLoop, settle
from tests.simulation.outlets import BUS, TASKS, SimOutlets
from tests.simulation.s3 import SimBucket
from tests.simulation.sqs import SimQueue
from tests.simulation.world import World

Request: TypeAlias = Mapping[str, Any]
Phase: TypeAlias = Literal["unsent", "sent", "done", "answered"]

WAY_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.009)
SLOW_SECONDS = (0.05, 0.3, 1.2, 4.0)
LATE_SECONDS = (READ_SECONDS_MAX + 1.0, READ_SECONDS_MAX + 15.0)
"""A request that arrives when its sender has given it up, and perhaps repeated it."""
THROTTLES = {
    "table": ("ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded"),
    "queue": ("RequestThrottled", "OverLimit"),
    "bucket": ("SlowDown",),
}
STATEMENT_ERRORS = ("ThrottlingError", "ProvisionedThroughputExceeded", "TransactionConflict", "InternalServerError")


@dataclass(slots=True)
class Weather:
    """How likely each fault of a call is, from 0 to 1. `lag` is how far the indexes are behind at most, in seconds."""

    throttle: float = 0.0
    error: float = 0.0
    error_after: float = 0.0
    reset: float = 0.0
    lost_answer: float = 0.0
    partial: float = 0.0
    conflict: float = 0.0
    slow: float = 0.0
    late: float = 0.0
    repeats: float = 0.0
    lag: float = 0.01
    service: str = ""
    """The service that the faults are of; empty: all of them."""

    def calm(self) -> None:
        """Let nothing go wrong any more."""
        self.take(Weather())

    def take(self, other: Weather) -> None:
        """Become like another."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))


@dataclass(slots=True)
class Cloud:
    """The services of an account, and the weather over all but the outlets. `faults` counts what went wrong."""

    world: World
    weather: Weather
    table: SimTable
    queue: SimQueue
    bucket: SimBucket
    outlets: SimOutlets = field(default_factory=lambda: SimOutlets(Random(0)))
    keys: SimKeys = field(default_factory=SimKeys)
    faults: Counter[str] = field(default_factory=Counter)
    requests: int = 0

    def perform(self, service: str, operation: str, request: Request) -> dict[str, Any]:
        """Return what the service answers. Raises `ClientError`."""
        match service:
            case "table":
                return self.table.perform(operation, request)
            case "queue":
                return self.queue.perform(operation, request)
            case "keys":
                return self.keys.perform(operation, request)
            case _:
                return self.bucket.perform(operation, request)


MOMENTS = {
    "a claim": "claim_nonce",
    "a resumption": "SESSION_RESUMED",
    "an end": "AGENT_BACKGROUND_TASK_",
    "an outbox": "outbox",
    "a message": "INBOX#",
}
"""The calls at which ownership and messages change hands, and what stands in their requests."""


@dataclass(slots=True)
class Trap:
    """Something that happens at the n-th call of an operation from now, in a phase of it.

    An operation is one of the service's, or one of `MOMENTS`; empty: any. `handles` is how many callbacks run between
    the answer and `spring`, in the phase `answered`.
    """

    operation: str
    nth: int
    phase: Phase
    spring: Callable[[], None]
    handles: int = 0


class Line:
    """One process' way to the services."""

    def __init__(self, cloud: Cloud, loop: SimLoop) -> None:
        self._cloud = cloud
        self._world = cloud.world
        self._loop = loop
        self._traps: list[Trap] = []
        self.is_cut = False
        self.cut_off_until = 0.0

    def set(self, trap: Trap) -> None:
        """Have something happen at a call to come."""
        self._traps.append(trap)

    def clients(self) -> Clients:
        """Return what the product takes for its clients of AWS."""
        return Clients(
            dynamodb=cast("Any", _Client(self, "table", self._cloud.table.exceptions)),
            sqs=cast("Any", _Client(self, "queue", None)),
            s3=cast("Any", _Client(self, "bucket", None)),
            signed_dynamodb=cast("Any", _Signed(self, "table")),
            signed_sqs=cast("Any", _Signed(self, "queue")),
            outlets=_Outlets(self),
            region="eu-central-1",
        )

    async def call(self, service: str, operation: str, request: Request) -> dict[str, Any]:
        """Send a request and return its answer. Raises `ClientError` and what a connection raises."""
        answered: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        if not self.is_cut:
            self._send(service, operation, dict(request), answered)
        return await answered

    # --- the way there -------------------------------------------------------------------------------------------

    def _send(self, service: str, operation: str, request: Request, answered: asyncio.Future[dict[str, Any]]) -> None:
        self._cloud.requests += 1
        traps = self._due_traps(operation, request)
        if self._sprung(traps, "unsent"):
            return
        if service in {BUS, TASKS}:
            self._send_out(operation, request, answered, traps)
            return
        fault, way = self._fault(service, operation), self._way(service)
        if self._world.time < self.cut_off_until:
            # Nothing gets through: it is refused, or waits on the way until something does.
            fault, way = self._world.chance.choice(
                [("reset", way), (fault, self.cut_off_until - self._world.time + way)]
            )
        if way > READ_SECONDS_MAX:
            self._world.after(float(READ_SECONDS_MAX), lambda: self._give_up(answered))
        if fault == "reset":
            self._world.after(way, lambda: self._fail(answered, aiohttp.ServerDisconnectedError()))
        else:
            self._world.after(way, lambda: self._arrive(service, operation, request, answered, fault, traps))
        self._sprung(traps, "sent")

    def _send_out(
        self, operation: str, request: Request, answered: asyncio.Future[dict[str, Any]], traps: list[Trap]
    ) -> None:
        """Carry a call to a service that notices go to: its faults are its own, unless we are cut off."""
        outlets = self._cloud.outlets
        fault = outlets.fault()
        is_cut_off = self._world.time < self.cut_off_until

        def arrive() -> None:
            try:
                answer: dict[str, Any] | Exception = outlets.perform(
                    operation, request, "reset" if is_cut_off else fault
                )
            except Exception as error:
                answer = error
            if not self._sprung(traps, "done"):
                self._world.after(outlets.way(""), lambda: self._answer(answered, answer, traps))

        self._world.after(outlets.way(fault), arrive)
        self._sprung(traps, "sent")

    def _fault(self, service: str, operation: str) -> str:
        """Return the kind of the call's fault; empty for none."""
        weather = self._cloud.weather
        if weather.service not in {"", service}:
            return ""
        roll, kinds = self._world.chance.random(), ["throttle", "error", "error_after", "reset", "lost_answer"]
        kinds += {"BatchExecuteStatement": ["partial"], "TransactWriteItems": ["conflict"]}.get(operation, [])
        for kind in kinds:
            likely: float = getattr(weather, kind)
            if roll < likely:
                self._cloud.faults[kind] += 1
                return kind
            roll -= likely
        return ""

    def _way(self, service: str) -> float:
        chance, weather = self._world.chance, self._cloud.weather
        if weather.service in {"", service}:
            roll = chance.random()
            if roll < weather.late and service != "queue":
                self._cloud.faults["late"] += 1
                return chance.choice(LATE_SECONDS)
            if roll < weather.late + weather.slow:
                self._cloud.faults["slow"] += 1
                return chance.choice(SLOW_SECONDS)
        return chance.choice(WAY_SECONDS)

    # --- there ---------------------------------------------------------------------------------------------------

    def _arrive(
        self,
        service: str,
        operation: str,
        request: Request,
        answered: asyncio.Future[dict[str, Any]],
        fault: str,
        traps: list[Trap],
    ) -> None:
        if fault in {"throttle", "error", "conflict"}:
            self._back(lambda: self._fail(answered, self._error(fault, service, operation, request)))
            return
        if operation == "ReceiveMessage":
            self._cloud.queue.receive(request, lambda answer: self._polled(answered, answer, fault))
            return
        try:
            perform = self._perform_in_part if fault == "partial" else self._cloud.perform
            answer: dict[str, Any] | Exception = perform(service, operation, request)
        except Exception as error:
            answer = error
        if self._sprung(traps, "done"):
            return
        if fault == "error_after":
            answer = refused("InternalServerError", operation)
        elif fault == "lost_answer":
            answer = aiohttp.ServerDisconnectedError()
        self._back(lambda: self._answer(answered, answer, traps))

    def _polled(self, answered: asyncio.Future[dict[str, Any]], answer: dict[str, Any], fault: str) -> None:
        if fault in {"error_after", "lost_answer"}:
            self._back(lambda: self._fail(answered, aiohttp.ServerDisconnectedError()))
        else:
            self._back(lambda: self._answer(answered, answer, []))

    def _perform_in_part(self, service: str, operation: str, request: Request) -> dict[str, Any]:
        """Carry out some statements of a batch, in any order, and answer for some that they failed."""
        chance, statements = self._world.chance, request["Statements"]
        answers: dict[int, Any] = {}
        for number in chance.sample(range(len(statements)), len(statements)):
            code = chance.choice((*STATEMENT_ERRORS, "", ""))
            if not code or (code == "InternalServerError" and chance.random() < 0.5):
                one = {**request, "Statements": [statements[number]]}
                answers[number] = self._cloud.perform(service, operation, one)["Responses"][0]
            if code:
                answers[number] = {"Error": {"Code": code, "Message": "simulated"}}
        return {"Responses": [answers[number] for number in range(len(statements))]}

    def _error(self, fault: str, service: str, operation: str, request: Request) -> Exception:
        chance = self._world.chance
        if fault == "throttle":
            return refused(chance.choice(THROTTLES[service]), operation)
        if fault == "conflict":
            count = len(request["TransactItems"])
            reasons = [{"Code": "None"} for _ in range(count)]
            reasons[chance.randrange(count)] = {"Code": "TransactionConflict"}
            return canceled(reasons)
        return refused("InternalServerError" if service != "bucket" else "InternalError", operation)

    # --- and back ------------------------------------------------------------------------------------------------

    def _back(self, deliver: Callable[[], None]) -> None:
        self._world.after(self._world.chance.choice(WAY_SECONDS), deliver)

    def _answer(
        self, answered: asyncio.Future[dict[str, Any]], answer: dict[str, Any] | Exception, traps: list[Trap]
    ) -> None:
        if isinstance(answer, Exception):
            self._fail(answered, answer)
        elif not self.is_cut:
            self._loop.call_soon(settle, answered, answer, None)
        for trap in traps:
            if trap.phase == "answered" and not self.is_cut:
                self._loop.after, self._loop.countdown = trap.spring, trap.handles

    def _fail(self, answered: asyncio.Future[dict[str, Any]], error: Exception) -> None:
        if not self.is_cut:
            self._loop.call_soon(settle, answered, None, error)

    def _give_up(self, answered: asyncio.Future[dict[str, Any]]) -> None:
        if not answered.done():
            self._fail(answered, TimeoutError("no answer"))

    # --- traps ---------------------------------------------------------------------------------------------------

    def _due_traps(self, operation: str, request: Request) -> list[Trap]:
        due: list[Trap] = []
        for trap in self._traps:
            if trap.operation in {"", operation} or MOMENTS.get(trap.operation, "\0") in repr(request):
                trap.nth -= 1
                if trap.nth <= 0:
                    due.append(trap)
        for trap in due:
            self._traps.remove(trap)
        return due

    def _sprung(self, traps: list[Trap], phase: Phase) -> bool:
        for trap in traps:
            if trap.phase == phase:
                trap.spring()
        return self.is_cut


class _Way(Protocol):
    async def call(self, service: str, operation: str, request: Request) -> dict[str, Any]: ...


class _Client:
    """A client of the SDK: `client.put_item(TableName=…)`."""

    def __init__(self, line: _Way, service: str, exceptions: object) -> None:
        self._line = line
        self._service = service
        self.exceptions = exceptions

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, dict[str, Any]]]:
        operation = "".join(part.capitalize() for part in name.split("_"))

        def call(**request: Any) -> Coroutine[Any, Any, dict[str, Any]]:
            return self._line.call(self._service, operation, request)

        return call


class _Outlets:
    """The clients of the services that notices go to."""

    def __init__(self, line: _Way) -> None:
        self._line = line

    async def events(self) -> Any:
        return _Client(self._line, BUS, None)

    async def sns(self) -> Any:
        return _Client(self._line, "topic", None)

    async def stepfunctions(self) -> Any:
        return _Client(self._line, TASKS, None)

    async def kms(self, region: str | None = None) -> Any:
        return _Client(self._line, "keys", None)


class _Signed:
    """A `SignedClient`."""

    def __init__(self, line: _Way, service: str) -> None:
        self._line = line
        self._service = service

    async def call(self, operation: str, request: Request) -> dict[str, Any]:
        return await self._line.call(self._service, operation, request)


def clients_at_once(table: SimTable) -> tuple[Any, Any]:
    """Return clients of a table for whom no time passes and nothing goes wrong: an SDK's, and a signed one."""
    way = _AtOnce(table)
    return _Client(way, "table", table.exceptions), _Signed(way, "table")


class _AtOnce:
    def __init__(self, table: SimTable) -> None:
        self._table = table

    async def call(self, service: str, operation: str, request: Request) -> dict[str, Any]:
        await asyncio.sleep(0)
        return self._table.perform(operation, request)
