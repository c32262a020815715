"""Bad weather on one node's line to AWS: what share of which requests meets which fault, drawn from a seed.

Emulators never throttle, reset, lose an answer, deliver twice or show an index late; AWS does all of it. A new kind of
weather is one more entry of `STORMS`, made of the faults of `fault_proxy`.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import aiohttp

from tests.contract.fault_proxy import (
    BATCH,
    CUT,
    Answer,
    Fault,
    FaultProxy,
    Forward,
    Request,
    garbled,
    half_an_answer,
    html_page,
    lost_answer,
    refusal,
    reset,
    statements_fail,
)
from tests.contract.waiting import Log

TABLE: Final = frozenset(
    {"PutItem", "GetItem", "Query", "UpdateItem", "DeleteItem", "TransactWriteItems", "BatchGetItem", BATCH}
)
QUEUE: Final = frozenset(
    {"ReceiveMessage", "SendMessage", "DeleteMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"}
)
BUCKET: Final = frozenset({"GET", "PUT", "POST", "DELETE", "HEAD"})
WRITES: Final = frozenset({"PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems", BATCH, "SendMessage", "PUT"})
EVERYTHING: Final = TABLE | QUEUE | BUCKET
REPEATED_INDEX_QUERY: Final = "a question to an index that was put before"

VISIBILITY_SECONDS: Final = 5
"""What we make of the half minute for which a node hides a message, so that a short run sees many deliveries of one."""
LATE_SECONDS_MAX: Final = 1.5


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault, its name in the figures, and which share of which operations meets it."""

    name: str
    share: float
    operations: frozenset[str]
    fault: Callable[["Weather"], Fault]


def _always(fault: Fault) -> Callable[["Weather"], Fault]:
    return lambda _: fault


def _late(weather: "Weather") -> Fault:
    async def late(_request: Request, raw: bytes, forward: Forward) -> Answer:
        await asyncio.sleep(weather.chance.uniform(0.0, LATE_SECONDS_MAX))
        return await forward(raw)

    return late


def _late_answer(weather: "Weather") -> Fault:
    async def late(_request: Request, raw: bytes, forward: Forward) -> Answer:
        answer = await forward(raw)
        await asyncio.sleep(weather.chance.uniform(0.0, LATE_SECONDS_MAX))
        return answer

    return late


def _some_statements(weather: "Weather") -> Fault:
    code = weather.chance.choice(["ThrottlingError", "TransactionConflict", "InternalServerError"])

    async def answer(request: Request, raw: bytes, forward: Forward) -> Answer:
        hit = {json.dumps(statement) for statement in request.statements if weather.chance.random() < 0.5}
        return await statements_fail(code, lambda statement: json.dumps(statement) in hit)(request, raw, forward)

    return answer


async def _not_deleted(request: Request, _raw: bytes, _forward: Forward) -> Answer:
    """Say that the messages are deleted, and deliver them again: SQS promises no more than at least once."""
    entries = [{"Id": entry["Id"]} for entry in request.body.get("Entries", [])]
    return _sqs_answer({"Successful": entries, "Failed": []})


async def _half_deleted(request: Request, _raw: bytes, forward: Forward) -> Answer:
    """Delete some of a batch, and say so."""
    entries = request.body["Entries"]
    kept = entries[: (len(entries) + 1) // 2]
    failed = [{"Id": e["Id"], "SenderFault": False, "Code": "InternalError", "Message": "injected"} for e in kept]
    if len(kept) == len(entries):
        return _sqs_answer({"Successful": [], "Failed": failed})
    answer = await forward(json.dumps({**request.body, "Entries": entries[len(kept) :]}).encode())
    told = json.loads(answer.body)
    return _sqs_answer({"Successful": told.get("Successful", []), "Failed": told.get("Failed", []) + failed})


def _sqs_answer(body: dict[str, Any]) -> Answer:
    return Answer(200, json.dumps(body).encode(), {"Content-Type": "application/x-amz-json-1.0"})


def _stale(weather: "Weather") -> Fault:
    async def answer(_request: Request, raw: bytes, _forward: Forward) -> Answer:
        return weather.index_answers[raw]

    return answer


_CONFLICT: Final = refusal(
    "TransactionCanceledException",
    CancellationReasons=[{"Code": "TransactionConflict", "Message": "injected"}],
)
_SLOW_DOWN: Final = Answer(
    503, b"<Error><Code>SlowDown</Code><Message>injected</Message></Error>", {"Content-Type": "application/xml"}
)


async def _slow_down(_request: Request, _raw: bytes, _forward: Forward) -> Answer:
    return _SLOW_DOWN


STORMS: Final[dict[str, tuple[Trouble, ...]]] = {
    "throttled": (
        Trouble("throttled", 0.3, TABLE, _always(refusal("ProvisionedThroughputExceededException"))),
        Trouble("throttled", 0.2, TABLE, _always(refusal("ThrottlingException"))),
        Trouble("throttled", 0.2, QUEUE, _always(refusal("RequestThrottled", status=403))),
        Trouble("throttled", 0.3, BUCKET, _always(_slow_down)),
        Trouble("part of a batch", 0.4, frozenset({BATCH}), _some_statements),
    ),
    "failing": (
        Trouble("500", 0.2, TABLE | QUEUE, _always(refusal("InternalServerError", status=500))),
        Trouble("503 page", 0.1, EVERYTHING, _always(html_page)),
        Trouble("transaction conflict", 0.4, frozenset({"TransactWriteItems"}), _always(_CONFLICT)),
        Trouble("part of a batch", 0.3, frozenset({BATCH}), _some_statements),
    ),
    "cut": (
        Trouble("reset", 0.15, EVERYTHING, _always(reset)),
        Trouble("lost answer", 0.3, WRITES, _always(lost_answer)),
        Trouble("lost answer", 0.1, EVERYTHING - WRITES, _always(lost_answer)),
        Trouble("half an answer", 0.05, EVERYTHING, _always(half_an_answer)),
        Trouble("garbled answer", 0.03, TABLE | QUEUE, _always(garbled)),
    ),
    "slow": (
        Trouble("late", 0.2, EVERYTHING, _late),
        Trouble("late answer", 0.2, EVERYTHING, _late_answer),
        Trouble("stale index", 0.5, frozenset({REPEATED_INDEX_QUERY}), _stale),
    ),
    "repeating": (
        Trouble("message again", 0.5, frozenset({"DeleteMessageBatch"}), _always(_not_deleted)),
        Trouble("message again", 0.5, frozenset({"DeleteMessageBatch"}), _always(_half_deleted)),
        Trouble("lost answer", 0.2, frozenset({"ReceiveMessage"}), _always(lost_answer)),
        Trouble("stale index", 0.3, frozenset({REPEATED_INDEX_QUERY}), _stale),
    ),
    "down": (Trouble("table down", 1.0, TABLE, _always(refusal("InternalServerError", status=500))),),
}
"""In each, the first trouble that is drawn takes the request."""


class _Unkept(Log[Request]):
    """A log that keeps nothing: a run has millions of requests."""

    def add(self, entry: Request) -> None:
        """Forget it."""


class Weather(FaultProxy):
    """One node's line to AWS. `injected` counts the faults so far by name."""

    def __init__(self, upstream: str, chance: Random) -> None:
        super().__init__(upstream)
        self.chance = chance
        self.injected: Counter[str] = Counter()
        self._storm: tuple[Trouble, ...] = ()
        self.index_answers: dict[bytes, Answer] = {}
        self.requests = self.answered = _Unkept()

    def turn(self, storm: str | None) -> None:
        """Have this storm from now on; `None`: calm."""
        self._storm = STORMS[storm] if storm is not None else ()

    async def _treat(self, request: Request, raw: bytes, forward: Forward) -> Answer:
        if request.operation == "ReceiveMessage":
            raw = json.dumps({**request.body, "VisibilityTimeout": VISIBILITY_SECONDS}).encode()
        try:
            return await self._treat_now(request, raw, forward)
        except aiohttp.ClientError:
            # The emulator drops connections when it is busy: one more thing that happens on a wire.
            return CUT

    async def _treat_now(self, request: Request, raw: bytes, forward: Forward) -> Answer:
        trouble = self._drawn({request.operation, *([REPEATED_INDEX_QUERY] if raw in self.index_answers else [])})
        if trouble is not None:
            self.injected[trouble.name] += 1
            return await trouble.fault(self)(request, raw, forward)
        answer = await forward(raw)
        if "IndexName" in request.body:
            self._keep_answer(raw, answer)
        return answer

    def _drawn(self, kinds: set[str]) -> Trouble | None:
        for trouble in self._storm:
            if kinds & trouble.operations and self.chance.random() < trouble.share:
                return trouble
        return None

    def _keep_answer(self, raw: bytes, answer: Answer) -> None:
        # A late index is late by little: what is older than the last few questions is of no use.
        while len(self.index_answers) >= 64:
            del self.index_answers[next(iter(self.index_answers))]
        self.index_answers.pop(raw, None)
        self.index_answers[raw] = answer
