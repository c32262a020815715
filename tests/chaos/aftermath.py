"""What a run has left: waits until all is at rest, reads the table, the bucket and the records, and judges them.

The invariants are judged by the checker that the simulation uses too; what only these sessions can tell is judged here.
"""

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from orchestrator.aws.items import from_wire
from orchestrator.aws.provision import BY_DUE, BY_STATE
from orchestrator.cluster import DUE_SHARDS, STATE_SHARDS
from orchestrator.session.transitions import ENDED, SessionStatus
from tests.chaos.app import NUDGE
from tests.chaos.load import RAN, TOLD
from tests.chaos.mayhem import Mayhem
from tests.chaos.records import Line, Tail
from tests.integration.deployment import Deployment
from tests.simulation.checker import STATE_OF_END, Item, Record, root_of, violations

REST_SECONDS_MAX: Final = 150.0
"""After the last fault: a poll that a kill cut gives its messages back late, and a blocked session retries late."""
LOOK_SECONDS: Final = 1.0
TABLE: Final = "table.jsonl"
"""The whole table as it was left, beside the records and the nodes' logs, for whoever looks into a failure."""
COMPLETED: Final = "AGENT_BACKGROUND_TASK_COMPLETED"
RESULTS: Final = frozenset({"STEP_COMPLETED", "AGENT_COMPLETED"})
FROM_OUTSIDE: Final = (NUDGE, "answer", "child-", "same")


@dataclass(frozen=True, slots=True)
class Takeover:
    """A session that a lost node owned got a new owner so many seconds later."""

    way: str
    seconds: float
    is_calm: bool


@dataclass(frozen=True, slots=True)
class Aftermath:
    """All there is to look at when a run is over."""

    items: tuple[Item, ...]
    objects: frozenset[str]
    lines: tuple[Line, ...]
    dead_letters: tuple[tuple[str, str], ...]

    def journals(self) -> dict[str, list[Item]]:
        """Return each session's events, in order."""
        found: dict[str, list[Item]] = defaultdict(list)
        for item in self.items:
            if str(item["SK"]).startswith("EVENT#"):
                found[str(item["PK"]).removeprefix("SESSION#")].append(item)
        return {session_id: sorted(events, key=lambda e: str(e["SK"])) for session_id, events in found.items()}

    def records(self) -> list[Record]:
        """Return what the checker is to hold against the table."""
        kinds = {"accepted", "told", "ran", "bad"}
        names = ("kind", "session_id", "operation", "attempt", "epoch", "value", "message_id", "detail")
        told = [Record(**{n: line[n] for n in names if n in line}) for line in self.lines if line["kind"] in kinds]
        dead = [Record("dead-lettered", value=message_id, detail=code) for message_id, code in self.dead_letters]
        return told + dead

    def wrong(self) -> list[str]:
        """Return everything that breaks a promise; each text begins with an invariant's number."""
        return [
            *violations(self.items, self.records(), objects=self.objects),
            *(line["detail"] for line in self.lines if line["kind"] == "wrong"),
            *self._seen_otherwise(),
        ]

    def _seen_otherwise(self) -> Iterator[str]:
        """Yield what a session has seen and nobody ran, or the journal records otherwise."""
        ran: dict[tuple[str, str], set[str]] = defaultdict(set)
        recorded: dict[tuple[str, str], Any] = {}
        for line in self.lines:
            if line["kind"] == "ran":
                ran[root_of(line["session_id"]), line["operation"]].add(line["value"])
        journals = self.journals()
        for session_id, events in journals.items():
            for event in events:
                if event["status"] in RESULTS:
                    result = json.loads(str(event["data"]))["result"]
                    recorded[root_of(session_id), str(event["operation"])] = result
        for session_id, events in journals.items():
            if events[-1]["status"] != COMPLETED:
                continue
            for operation, value in json.loads(str(events[-1]["data"]))["result"].items():
                key = (root_of(session_id), operation)
                if operation == "same" and value is not True:
                    yield f"I12: {session_id} read another file than it put"
                if operation.startswith(FROM_OUTSIDE) or value is None:
                    continue
                if value not in ran[key]:
                    yield f"I5: {session_id} saw {value} of {operation}, and nobody ran it"
                elif isinstance(recorded[key], str) and recorded[key] != value:
                    yield f"I5: {session_id} saw {value} of {operation}, and recorded is {recorded[key]}"


async def at_rest(deployment: Deployment) -> list[str]:
    """Return when every session has ended, all is told and the queue is empty; after a long wait, what is not so."""
    deadline = time.monotonic() + REST_SECONDS_MAX
    while await _has_more_to_do(deployment):
        if time.monotonic() > deadline:
            return [*_open(await scanned(deployment))] or ["I11: messages are still on the queue"]
        await asyncio.sleep(LOOK_SECONDS)
    return []


async def _has_more_to_do(deployment: Deployment) -> bool:
    """Return whether a session is open or owes something, or a message waits; the indexes tell without a scan."""
    partitions = [(BY_DUE, "due_shard", f"DUE#{shard}") for shard in range(DUE_SHARDS)]
    partitions += [
        (BY_STATE, "state_key", f"{status}#{shard}")
        for status in SessionStatus
        if status not in ENDED
        for shard in range(STATE_SHARDS)
    ]
    for index, attribute, value in partitions:
        found = await deployment.clients.dynamodb.query(
            TableName=deployment.settings.table,
            IndexName=index,
            KeyConditionExpression="#of = :of",
            ExpressionAttributeNames={"#of": attribute},
            ExpressionAttributeValues={":of": {"S": value}},
            Limit=1,
        )
        if found["Items"]:
            return True
    return bool(await deployment.queue_depth())


def _open(items: Sequence[Item]) -> Iterator[str]:
    for item in items:
        if item["SK"] == "HEAD" and (item["state"] not in ENDED or "outbox" in item):
            shown = {name: value for name, value in item.items() if name not in {"PK", "SK", "state_key", "attributes"}}
            yield f"I8: {item['PK']!s} is not at rest: {shown}"


async def scanned(deployment: Deployment) -> tuple[Item, ...]:
    """Return all items of the table."""
    pages = deployment.clients.dynamodb.get_paginator("scan")
    table = deployment.settings.table
    return tuple([from_wire(i) async for page in pages.paginate(TableName=table) for i in page["Items"]])


async def aftermath(deployment: Deployment, folder: Path) -> Aftermath:
    """Return what there is to look at, now that all is at rest."""
    pages = deployment.clients.s3.get_paginator("list_objects_v2")
    listed = [
        o["Key"] async for page in pages.paginate(Bucket=deployment.settings.bucket) for o in page.get("Contents", [])
    ]
    lines = [line for name in (TOLD, RAN) for line in Tail(folder / name).look()]
    items = await scanned(deployment)
    (folder / TABLE).write_text("\n".join(json.dumps(item, default=str) for item in items))
    return Aftermath(items, frozenset(listed), tuple(lines), await _dead_letters(deployment))


async def _dead_letters(deployment: Deployment) -> tuple[tuple[str, str], ...]:
    """Return the message ids, as they were on the queue, of all dead letters, and their error codes."""
    found: list[tuple[str, str]] = []
    while True:
        answer = await deployment.clients.sqs.receive_message(
            QueueUrl=deployment.dead_letter_url,
            MaxNumberOfMessages=10,
            VisibilityTimeout=3_600,
            MessageAttributeNames=["All"],
        )
        if not answer.get("Messages"):
            return tuple(found)
        for message in answer["Messages"]:
            sent = {name: value["StringValue"] for name, value in message.get("MessageAttributes", {}).items()}
            found.append((sent.get("OriginalMessageId", message["MessageId"]), sent.get("ErrorCode", "")))


def takeovers(journals: Mapping[str, Sequence[Item]], mayhem: Mayhem) -> list[Takeover]:
    """Return how long each session of a lost node waited for its next owner, but for times when there was no node.

    Calm is one during which there was no storm and no other node was lost: who takes over may be the next to go.
    """
    found: list[Takeover] = []
    for loss in mayhem.losses:
        for session_id, epoch in loss.sessions.items():
            resumed = (
                datetime.fromisoformat(str(event["at"])).timestamp()
                for event in journals.get(session_id, ())
                if event["status"] == "SESSION_RESUMED" and int(str(event["epoch"])) > epoch
            )
            at = next(resumed, None)
            if at is None or any(loss.at <= dark <= at for dark in mayhem.black_outs):
                continue
            storms = any(begun <= at and loss.at <= over for begun, over in mayhem.storms)
            losses = any(loss.at < other.at <= at for other in mayhem.losses)
            found.append(Takeover(loss.way, at - loss.at, is_calm=not storms and not losses))
    return found


def figures(found: Aftermath, times: Sequence[Takeover]) -> list[tuple[str, str]]:
    """Return what the run came to, for people."""
    journals = found.journals()
    ends = Counter(str(events[-1]["status"]).rpartition("_")[2].lower() for events in journals.values())
    recorded = sum(event["status"] in RESULTS for events in journals.values() for event in events)
    ran = sum(line["kind"] == "ran" for line in found.lines)
    resumed = sum(event["status"] == "SESSION_RESUMED" for events in journals.values() for event in events)
    accepted = {line["session_id"] for line in found.lines if line["kind"] == "accepted"}
    told = {(line["session_id"], line["message_id"]) for line in found.lines if line["kind"] == "told"}
    bad = sum(line["kind"] == "bad" for line in found.lines)
    lost = sum(journals.get(id_, [{"status": ""}])[-1]["status"] not in STATE_OF_END for id_ in accepted)
    doubled = sum(sum(event["status"] in STATE_OF_END for event in events) > 1 for events in journals.values())
    rows = [
        ("sessions", f"{len(journals)} ({', '.join(f'{n} {end}' for end, n in sorted(ends.items()))})"),
        ("of them accepted from clients", str(len(accepted))),
        ("events", str(sum(map(len, journals.values())))),
        ("results recorded, and runs of user code", f"{recorded}, {ran}"),
        ("messages told", str(len(told))),
        ("bad messages, and dead letters", f"{bad}, {len(found.dead_letters)}"),
        ("changes of owner", str(resumed)),
        ("lost", str(lost)),
        ("doubled", str(doubled)),
    ]
    for way in sorted({each.way for each in times}):
        all_ = sorted(each.seconds for each in times if each.way == way)
        calm = sorted(each.seconds for each in times if each.way == way and each.is_calm)
        for name, of in ((way, all_), (f"{way}, in calm weather", calm)):
            if of:
                rows.append(
                    (f"takeover after {name}", f"{median(of):.2f} s median, {of[-1]:.2f} s worst, of {len(of)}")
                )
    return rows
