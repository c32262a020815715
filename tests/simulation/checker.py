"""Reads a table and what was written down outside it, when all has come to rest, and says which invariants are broken.

It knows nothing of how the run was made: the simulation and the runs with real kills are judged by the same lines. Each
finding begins with the number of its invariant (`I5: …`). To change it: what a run proves, proves it here.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from orchestrator.aws.items import Value

Item: TypeAlias = Mapping[str, Value]

ITEM_BYTES_MAX = 400 * 1024
"""DynamoDB, quotas: the largest item."""

CONTINUED = "AGENT_BACKGROUND_TASK_CONTINUED"
STATE_OF_END = {
    "AGENT_BACKGROUND_TASK_COMPLETED": "COMPLETED",
    "AGENT_BACKGROUND_TASK_FAILED": "FAILED",
    "AGENT_BACKGROUND_TASK_CANCELLED": "CANCELLED",
    CONTINUED: "CONTINUED",
}
OUTCOMES = frozenset({"STEP_COMPLETED", "STEP_FAILED", "AGENT_COMPLETED", "AGENT_FAILED"})
ONCE = OUTCOMES | {
    *("TIMER_FIRED", "CALLBACK_COMPLETED", "CALLBACK_FAILED", "CALLBACK_TIMED_OUT", "CHILD_COMPLETED", "CHILD_FAILED"),
    *("CALLBACK_CREATED", "APPROVAL_REQUESTED", "TIMER_STARTED", "CHILD_STARTED", "AGENT_STARTED"),
}
"""What is recorded at most once for an operation."""
BEGINNINGS = frozenset(
    {
        *("STEP_STARTED", "AGENT_STARTED", "TIMER_STARTED", "CALLBACK_CREATED", "APPROVAL_REQUESTED", "CHILD_STARTED"),
    }
)
"""What begins an operation, where it is the first event of it."""
SENT = frozenset({"signal", "cancel", "pause", "resume", "kill"})
RECEIVED = frozenset({"SIGNAL_RECEIVED", "CANCEL_REQUESTED", "PAUSE_REQUESTED", "RESUME_REQUESTED"})
_GENERATION = re.compile(r":g\d+$")


@dataclass(frozen=True, slots=True)
class Record:
    """Something that happened outside the table, as whoever saw it wrote it down.

    `accepted`: a client was told that the session is accepted (`value`: the digest of what it asked for, as event 1
    holds it; `detail`: `not durable` where event 1 or HEAD was missing at that moment).
    `conflict`: a client was told that the key is taken by another payload (`value`: the digest of its own).
    `told`: a message was acknowledged (`detail`: its kind).
    `ran`: the code of a step or an agent began (`epoch`: 0 where unknown; `detail`: `read` where its node had read the
    outcome already, `early` where the event that orders it was not written, `once` for a step that is `at_most_once`).
    `announced`: the bus took an event of a session's end (`value`: its state), or of an approval (`operation`);
    `message_id` is the notification's id, `detail` `early` where that was not recorded yet.
    `answered`: the task that waited for the session was answered (`value`: `COMPLETED`, or the error).
    `notified`: people were asked for an approval (`detail`: `early`, as there).
    `bad`: a message that can never succeed was sent (`value`: the message's id).
    `dead-lettered`: a message was found in the dead-letter queue (`value`: its id; `detail`: the error code;
    `session_id` and `message_id`: whom it was for, and as what).
    """

    kind: str
    session_id: str = ""
    operation: str = ""
    attempt: int = 0
    epoch: int = 0
    value: str = ""
    message_id: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it stands in the table."""

    seq: int
    status: str
    epoch: int
    node: str
    operation: str
    data: dict[str, Any]


@dataclass(slots=True)
class Session:
    """One journal and its HEAD."""

    session_id: str
    events: list[Event]
    head: Item | None

    @property
    def end(self) -> Event | None:
        """Its terminal event; `None` while it is open."""
        return next((event for event in reversed(self.events) if event.status in STATE_OF_END), None)


def violations(
    items: Iterable[Item], records: Sequence[Record], *, objects: Collection[str] = (), has_bus: bool = False
) -> list[str]:
    """Return what is wrong with a run at rest: nobody sends anything any more, and nothing goes wrong any more.

    `has_bus`: ends are told on a bus, and the records hold what it took.
    """
    items = list(items)
    sessions = _sessions(items)
    told = _Told(records)
    found: list[str] = []
    for session in sessions.values():
        found += _journal(session)
        found += _ownership(session)
        found += _pauses(session)
        found += _rest(session)
        found += _results(session, told.ran[session.session_id])
        found += _relatives(session, sessions)
    found += _acceptance(sessions, told)
    found += _messages(sessions, told)
    found += _notifications(sessions, told)
    found += _announcements(sessions, told, has_bus=has_bus)
    found += _quotas(items, sessions)
    found += _dead_letters(sessions, told)
    found += _sizes(items, set(objects))
    return found


class _Told:
    """The records by what they are about."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.by_kind: defaultdict[str, list[Record]] = defaultdict(list)
        self.ran: defaultdict[str, list[Record]] = defaultdict(list)
        for record in records:
            self.by_kind[record.kind].append(record)
            if record.kind == "ran":
                self.ran[record.session_id].append(record)


def _sessions(items: Sequence[Item]) -> dict[str, Session]:
    sessions: dict[str, Session] = {}
    for item in items:
        pk, sk = str(item["PK"]), str(item["SK"])
        if pk.startswith("SESSION#") and (sk == "HEAD" or sk.startswith("EVENT#")):
            session_id = pk.removeprefix("SESSION#")
            session = sessions.setdefault(session_id, Session(session_id, [], None))
            if sk == "HEAD":
                session.head = item
            else:
                session.events.append(_event(item))
    for session in sessions.values():
        session.events.sort(key=lambda event: event.seq)
    return sessions


def _event(item: Item) -> Event:
    return Event(
        seq=int(str(item["SK"]).removeprefix("EVENT#")),
        status=str(item["status"]),
        epoch=int(str(item["epoch"])),
        node=str(item["node"]),
        operation=str(item.get("operation", "")),
        data=json.loads(str(item["data"])),
    )


# --- one journal ---------------------------------------------------------------------------------------------------


def _journal(session: Session) -> Iterator[str]:
    """I1: no gap. I2: one end, the last event. I5: one outcome an operation."""
    session_id, events = session.session_id, session.events
    seqs = [event.seq for event in events]
    if seqs != list(range(1, len(events) + 1)):
        yield f"I1: {session_id} has the events {seqs}"
    if events and events[0].status != "AGENT_INVOCATION_STARTED":
        yield f"I1: {session_id} begins with {events[0].status}"
    ends = [event.seq for event in events if event.status in STATE_OF_END]
    if len(ends) > 1 or (ends and ends[0] != len(events)):
        yield f"I2: {session_id} has ends at {ends} of {len(events)} events"
    outcomes = Counter((event.operation, event.status) for event in events if event.status in ONCE)
    for (operation, status), times in outcomes.items():
        if times > 1:
            yield f"I5: {session_id} records {status} of {operation} {times} times"
    settled: set[str] = set()
    for event in events:
        if event.status in OUTCOMES:
            if event.operation in settled:
                yield f"I5: {session_id} records two outcomes of {event.operation}"
            settled.add(event.operation)


def _pauses(session: Session) -> Iterator[str]:
    """I9: a pause that is journaled holds: nothing new begins before the session is let go, or is to end."""
    begun: set[str] = set()
    is_paused = False
    for event in session.events:
        if event.status == "PAUSE_REQUESTED":
            is_paused = True
        elif event.status in {"RESUME_REQUESTED", "CANCEL_REQUESTED"}:
            is_paused = False
        elif event.status in BEGINNINGS and event.operation not in begun and is_paused:
            yield f"I9: {session.session_id} begins {event.operation} though it is paused ({event.status})"
        begun.add(event.operation)


def _ownership(session: Session) -> Iterator[str]:
    """I7: epochs never fall, each has one writer, and begins with its SESSION_RESUMED."""
    writers: dict[int, str] = {}
    before = 0
    # Who wrote event 1 need not be who owns the session: that is whoever wrote HEAD.
    for event in session.events[1:]:
        if event.epoch < before:
            yield f"I7: {session.session_id} falls from epoch {before} to {event.epoch} at event {event.seq}"
        if event.epoch > max(before, 1) and event.status != "SESSION_RESUMED":
            yield f"I7: epoch {event.epoch} of {session.session_id} begins with {event.status}"
        if writers.setdefault(event.epoch, event.node) != event.node:
            yield f"I7: {session.session_id} has two writers in epoch {event.epoch}"
        before = max(before, event.epoch)


def _rest(session: Session) -> Iterator[str]:
    """I8: it has ended. I2, I6: its HEAD says so, and owes nothing."""
    session_id, end = session.session_id, session.end
    head = None if session.head is None else {name: _shown(value) for name, value in session.head.items()}
    if head is None:
        # An event 1 without HEAD was never accepted.
        if len(session.events) > 1:
            yield f"I3: {session_id} runs without a HEAD"
        return
    if not session.events:
        yield f"I3: {session_id} has a HEAD and no event 1"
        return
    if end is None:
        yield f"I8: {session_id} never ended: {head.get('state')}, after {session.events[-1].status}"
        return
    if head.get("state") != STATE_OF_END[end.status]:
        yield f"I2: HEAD of {session_id} says {head.get('state')}, its journal {end.status}"
    if head.get("last_seq") != str(end.seq):
        yield f"I2: HEAD of {session_id} says {head.get('last_seq')} events, its journal {end.seq}"
    if head.get("outbox") or head.get("owner") or head.get("wake_at"):
        yield f"I6: {session_id} still owes {head.get('outbox')} (owner {head.get('owner')}, due {head.get('wake_at')})"


def _results(session: Session, ran: Sequence[Record]) -> Iterator[str]:
    """I5: what is recorded was computed, what the session saw was recorded, and nobody who knew it ran it again."""
    session_id = session.session_id
    computed: defaultdict[str, set[str]] = defaultdict(set)
    tries: Counter[tuple[str, int, int]] = Counter()
    recorded = {event.operation: event for event in session.events if event.status in OUTCOMES}
    for record in ran:
        computed[record.operation].add(record.value)
        if record.detail == "read":
            yield f"I5: {session_id} ran {record.operation} again, whose outcome that node had read"
        if record.detail == "early":
            yield f"I6: {session_id} ran {record.operation} before the event that orders it was written"
        outcome = recorded.get(record.operation)
        if record.epoch and outcome is not None and record.epoch > outcome.epoch:
            yield f"I5: {session_id} ran {record.operation} in epoch {record.epoch}, recorded in {outcome.epoch}"
        if record.epoch:
            tries[record.operation, record.attempt, record.epoch] += 1
    for (operation, attempt, epoch), times in tries.items():
        if times > 1:
            yield f"I5: {session_id} ran attempt {attempt} of {operation} {times} times in epoch {epoch}"
    once = Counter(record.operation for record in ran if record.detail == "once")
    for operation, times in once.items():
        if times > 1:
            yield f"I5: {session_id} ran {operation} {times} times, which is at_most_once"
    for operation, event in recorded.items():
        result = event.data.get("result")
        if isinstance(result, str) and operation in computed and result not in computed[operation]:
            yield f"I5: {session_id} records a result of {operation} that nobody computed: {result:.80}"
    yield from _seen(session, recorded)


def _seen(session: Session, recorded: Mapping[str, Event]) -> Iterator[str]:
    """I5: a result that tells what it `seen` tells only what is recorded."""
    end = session.end
    result = None if end is None else end.data.get("result")
    seen = result.get("seen") if isinstance(result, dict) else None
    known = {str(event.data.get("result")) for event in recorded.values()}
    for value in seen if isinstance(seen, list) else ():
        if value not in known:
            yield f"I5: {session.session_id} saw {value!r:.80}, which its journal does not hold"


def _shown(value: Value) -> str:
    return "" if value is None else str(value)


def _relatives(session: Session, sessions: Mapping[str, Session]) -> Iterator[str]:
    """I6: what an end sets off has happened: the parent was told, and the next generation has begun."""
    end = session.end
    if end is None:
        return
    if end.status == CONTINUED:
        following = sessions.get(_next_id(session.session_id))
        if following is None or following.head is None:
            yield f"I6: {session.session_id} continues, and its next generation never began"
        return
    if not session.events:
        return
    first = session.events[0].data
    parent = sessions.get(str(first.get("parent")))
    operation = first.get("parent_operation")
    if parent is None or parent.end is None or operation is None:
        return
    told = [e for e in parent.events if e.operation == operation and e.status in {"CHILD_COMPLETED", "CHILD_FAILED"}]
    for event in told:
        if end.status == "AGENT_BACKGROUND_TASK_COMPLETED" and event.data.get("result") != end.data.get("result"):
            yield f"I6: {parent.session_id} was told another end of {session.session_id} than its journal's"


def root_of(session_id: str) -> str:
    """Return the id to which all generations of a session answer."""
    return _GENERATION.sub("", session_id)


def _next_id(session_id: str) -> str:
    found = _GENERATION.search(session_id)
    if found is None:
        return f"{session_id}:g2"
    return f"{session_id[: found.start()]}:g{int(found.group().removeprefix(':g')) + 1}"


# --- all of them ---------------------------------------------------------------------------------------------------


def _acceptance(sessions: Mapping[str, Session], told: _Told) -> Iterator[str]:
    """I3: what was accepted is there, and was at that moment. I4: with the payload that was accepted."""
    for record in told.by_kind["accepted"]:
        session = sessions.get(record.session_id)
        if record.detail == "not durable":
            yield f"I3: {record.session_id} was acknowledged before event 1 and HEAD were durable"
        if session is None or session.head is None or not session.events:
            yield f"I3: {record.session_id} was accepted, and is not there"
            continue
        if record.value and session.events[0].data.get("payload_sha256") != record.value:
            yield f"I4: {record.session_id} was accepted with another payload than it runs with"
    for record in told.by_kind["conflict"]:
        session = sessions.get(record.session_id)
        if session is not None and session.events and session.events[0].data.get("payload_sha256") == record.value:
            yield f"I4: {record.session_id} refused the payload that it runs with"


def _messages(sessions: Mapping[str, Session], told: _Told) -> Iterator[str]:
    """I9: what was acknowledged is journaled exactly once, unless the session's end came first."""
    journaled = _journaled(sessions)
    for root, counts in journaled.items():
        for message_id, times in counts.items():
            if times > 1:
                yield f"I9: {root} journals the message {message_id} {times} times"
    for record in told.by_kind["told"]:
        if record.detail in SENT and not journaled[record.session_id][record.message_id]:
            last = _latest(record.session_id, sessions)
            if last is None or last.end is None:
                yield f"I9: {record.session_id} lost the {record.detail} {record.message_id}, which was acknowledged"


def _journaled(sessions: Mapping[str, Session]) -> defaultdict[str, Counter[str]]:
    """Return how often each message stands in the journals of a session, all its generations together."""
    journaled: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for session in sessions.values():
        root = root_of(session.session_id)
        for event in session.events:
            message_id = event.data.get("message_id")
            if isinstance(message_id, str) and event.status in RECEIVED:
                journaled[root][message_id] += 1
    return journaled


def _latest(session_id: str, sessions: Mapping[str, Session]) -> Session | None:
    session = sessions.get(session_id)
    while session is not None and session.end is not None and session.end.status == CONTINUED:
        session = sessions.get(_next_id(session.session_id))
    return session


def _notifications(sessions: Mapping[str, Session], told: _Told) -> Iterator[str]:
    """I6: people are asked only for what is recorded, under one id."""
    for record in told.by_kind["notified"]:
        session = sessions.get(record.session_id)
        asked = [e for e in session.events if e.status == "APPROVAL_REQUESTED"] if session is not None else []
        if record.detail == "early":
            yield f"I6: people were asked for {record.operation} of {record.session_id} before that was written"
        if record.operation not in {event.operation for event in asked}:
            yield f"I6: people were asked for {record.operation} of {record.session_id}, which is not recorded"
        elif record.message_id not in {str(event.data.get("callback_id")) for event in asked}:
            yield f"I6: people were asked for {record.operation} of {record.session_id} under another id"


def _announcements(sessions: Mapping[str, Session], told: _Told, *, has_bus: bool) -> Iterator[str]:
    """I6: each end is told at least once, under one id, as what it is and after it was recorded."""
    ids: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for record in told.by_kind["announced"]:
        ids[record.session_id, record.operation].add(record.message_id)
        session = sessions.get(record.session_id)
        end = None if session is None else session.end
        if record.detail == "early":
            yield f"I6: {record.session_id} {record.operation} was announced before it was recorded"
        if not record.operation and (end is None or STATE_OF_END[end.status] != record.value):
            yield f"I6: {record.session_id} was announced as {record.value}, which is not its end"
    for (session_id, operation), used in ids.items():
        if len(used) > 1:
            yield f"I6: {session_id} {operation} was announced under {len(used)} ids"
    for session in sessions.values() if has_bus else ():
        if session.end is not None and session.head is not None and (session.session_id, "") not in ids:
            yield f"I6: nobody was told of the end of {session.session_id}"
    yield from _task_answers(sessions, told)


def _task_answers(sessions: Mapping[str, Session], told: _Told) -> Iterator[str]:
    """I6: a task that waits for a session is answered with the end of its last generation."""
    answers = {record.session_id: record.value for record in told.by_kind["answered"]}
    for session in sessions.values():
        is_first = root_of(session.session_id) == session.session_id
        if not is_first or session.head is None or not session.events or not session.events[0].data.get("task_token"):
            continue
        last = _latest(session.session_id, sessions)
        if last is None or last.end is None:
            continue
        answer, state = answers.get(session.session_id), STATE_OF_END[last.end.status]
        if answer is None or (answer == "COMPLETED") is not (state == "COMPLETED"):
            yield f"I6: the task of {session.session_id} was answered {answer}, which ended {state}"


def _quotas(items: Sequence[Item], sessions: Mapping[str, Session]) -> Iterator[str]:
    """I10: a tenant's count is that of its slots, and its slots are those of its open roots."""
    slots: defaultdict[str, set[str]] = defaultdict(set)
    queued: Counter[str] = Counter()
    counts: dict[str, Item] = {}
    for item in items:
        pk, sk = str(item["PK"]), str(item["SK"])
        if pk.startswith("TENANT#"):
            if sk.startswith("SLOT#"):
                slots[pk].add(sk.removeprefix("SLOT#"))
            elif sk.startswith("QUEUED#"):
                queued[pk] += 1
            elif sk == "QUOTA":
                counts[pk] = item
    for tenant in slots.keys() | queued.keys() | counts.keys():
        quota = counts.get(tenant, {})
        if (quota.get("used", 0), quota.get("queued", 0)) != (len(slots[tenant]), queued[tenant]):
            yield f"I10: {tenant} counts {quota}, with {len(slots[tenant])} slots and {queued[tenant]} queued"
        for session_id in slots[tenant]:
            last = _latest(session_id, sessions)
            if last is None or last.end is not None:
                yield f"I10: {tenant} keeps a slot for {session_id}, which has ended"


def _dead_letters(sessions: Mapping[str, Session], told: _Told) -> Iterator[str]:
    """I11: what can never succeed is in the dead-letter queue, with its reason, and nothing else is."""
    journaled = _journaled(sessions)
    dead = {record.value: record for record in told.by_kind["dead-lettered"]}
    bad = {record.value for record in told.by_kind["bad"]}
    for value in bad - dead.keys():
        yield f"I11: the bad message {value} is not in the dead-letter queue"
    for value in dead.keys() - bad:
        record = dead[value]
        # One that came in time, and that the session left unread at its end, comes too late when it comes again.
        was_unread = record.detail == "SESSION_ENDED" and not journaled[record.session_id][record.message_id]
        if not was_unread:
            why = record.detail or "after too many tries"
            yield f"I11: the good message {value} is in the dead-letter queue: {why}"
    for value in bad & dead.keys():
        if not dead[value].detail:
            yield f"I11: the bad message {value} went to the dead-letter queue without a reason"


def _sizes(items: Sequence[Item], objects: set[str]) -> Iterator[str]:
    """I12: no item is too large, and no reference points at nothing."""
    for item in items:
        size = sum(len(name) + len(str(value)) for name, value in item.items())
        if size > ITEM_BYTES_MAX:
            yield f"I12: {_place(item)} has {size} bytes"
        text = str(item.get("data", ""))
        if '"artifact"' in text:
            for reference in _references(json.loads(text)):
                if reference.split("/", 3)[3] not in objects:
                    yield f"I12: {_place(item)} refers to {reference}, where nothing is"


def _place(item: Item) -> str:
    return f"{_shown(item['PK'])} {_shown(item['SK'])}"


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        reference = value.get("artifact")
        if isinstance(reference, str) and reference.startswith("s3://"):
            yield reference
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)
