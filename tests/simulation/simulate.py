"""One simulation, from its seed to its verdict.

To change it: the order of a run stands here. A run has two parts: things go wrong, then nothing does any more; what is
open then must end (I8), and what has ended must be in order (the rest).
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from random import Random
from typing import Final

import structlog
from structlog.typing import EventDict

from orchestrator.aws.items import Item
from tests.simulation.checker import STATE_OF_END, Record, violations
from tests.simulation.cluster import THEMES, Cluster, Mayhem
from tests.simulation.dynamodb import SimTable
from tests.simulation.loops import NeverAtRest
from tests.simulation.network import Cloud, Weather
from tests.simulation.outlets import TASK_PREFIX, SimOutlets, Told
from tests.simulation.people import People
from tests.simulation.s3 import SimBucket
from tests.simulation.sqs import DeadLetter, SimQueue
from tests.simulation.story import Story, mail_plot, plot
from tests.simulation.world import Moment, World

SECONDS_MAX: Final = 600.0
"""How long a run may take after nothing goes wrong any more: more than any pause of the product's."""
SESSIONS: Final = (1, 2, 3, 4, 10)
SESSION_TYPES: Final = ("main", "main", "main", "failing", "deployed")
ENDS: Final = tuple(STATE_OF_END)
SEEDS_WITH_BUS: Final = 0.5
SEEDS_WITH_OPERATOR: Final = 0.4
OUTLET_FAULTS: Final = (0.01, 0.1, 0.5)
EXPECTED_ERRORS: Final = frozenset({"node_fenced"})
ROOT: Final = f"{Path(__file__).parents[2]}/"


@dataclass(slots=True)
class Outcome:
    """What came of a seed. `digest` is the same for the same history."""

    seed: int
    wrong: list[str]
    timeline: list[Moment]
    digest: str
    events: int
    sessions: int
    requests: int
    seconds: float
    faults: Counter[str] = field(default_factory=Counter)


def simulate(seed: int, *, has_bus: bool | None = None, has_operator: bool | None = None) -> Outcome:
    """Play the seed, and return what came of it. `has_bus`: whether ends are told; left out, the seed says so.

    `has_operator`: whether somebody pauses, resumes and kills sessions; as above.
    """
    with _collector_resting():
        return _played(seed, has_bus, has_operator)


def _played(seed: int, has_bus: bool | None, has_operator: bool | None) -> Outcome:
    world = World(seed)
    run = _Run(world, has_bus, has_operator)
    with _logs_of(world, run.saw_line) as errors:
        try:
            has_ended = run.play()
        except NeverAtRest as error:
            has_ended = True
            errors.append(f"I8: {error}")
        finally:
            run.unwind()
    return run.outcome(errors, has_ended=has_ended)


class _Run:
    """The parts of one simulation."""

    def __init__(self, world: World, has_bus: bool | None, has_operator: bool | None) -> None:
        draws = Random(world.chance.random())
        self._world = world
        self._wrong: list[str] = []
        self._read: dict[str, dict[str, int]] = {}
        weather = Weather()
        table = SimTable(world, lambda: world.chance.random() * weather.lag, self._wrong.append)
        table.on_event = self._saw_event
        self._queue = SimQueue(world, lambda: world.chance.random() < weather.repeats)
        # Of a chance of its own: half of the seeds have a bus, and the others are what they would be without any.
        self._outlets = outlets = SimOutlets(Random(f"outlets {world.seed}"), on_told=self._saw_told)
        outlets.has_bus = outlets.chance.random() < SEEDS_WITH_BUS if has_bus is None else has_bus
        outlets.likely = outlets.chance.choice(OUTLET_FAULTS) if outlets.has_bus else 0.0
        self._cloud = Cloud(world, weather, table, self._queue, SimBucket(), outlets)
        self._story = Story(self._ran)
        self._theme = theme = draws.choice(THEMES)
        self._cluster = Cluster(self._cloud, self._story, Random(draws.random()), theme)
        self._mayhem = Mayhem(self._cluster, self._cloud, Random(draws.random()), theme)
        self._loop = world.loop("people")
        operator = Random(f"operator {world.seed}")
        is_there = operator.random() < SEEDS_WITH_OPERATOR
        self._people = People(
            self._cloud,
            self._loop,
            lambda: self._cluster.nodes,
            self._story,
            Random(draws.random()),
            signal_pauses=theme.signal_pauses,
            operator=operator if (is_there if has_operator is None else has_operator) else None,
        )
        self._draws = draws
        self._outcomes: dict[tuple[str, str], int] = {}
        self._resumed: dict[tuple[str, str], int] = {}
        self.events = 0

    def play(self) -> bool:
        """Return whether everything came to its end."""
        for number in range(self._draws.choice(SESSIONS)):
            session_type = self._draws.choice(SESSION_TYPES)
            acts = mail_plot(self._draws) if self._theme.name == "mail" else plot(self._draws, 2, is_root=True)
            self._people.begin(self._people.see_through(f"s{number}", session_type, acts))
        if self._draws.random() < 0.3:
            self._people.begin(self._people.send_rubbish(self._draws.randint(1, 3)))
        self._people.begin(self._people.answer_for_ever(), for_ever=True)
        self._mayhem.plan()
        self._cluster.fill()
        self._world.run(lambda: False, self._mayhem.until)
        return self._world.run(self._is_at_rest, SECONDS_MAX)

    def _is_at_rest(self) -> bool:
        return self._people.are_done and self._queue.is_empty and self._cloud.table.is_quiet

    def unwind(self) -> None:
        """Let go of every task."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            self._cluster.unwind()
            self._loop.unwind()
        self._story.close()

    def outcome(self, errors: list[str], *, has_ended: bool) -> Outcome:
        """Return the verdict."""
        world, queue = self._world, self._queue
        records = list(self._people.records)
        records += map(_dead_lettered, queue.dead_letters)
        found = self._wrong + errors + self._people.errors()
        if not has_ended and not self._people.are_done:
            found.append("I8: somebody was never answered")
        items = self._cloud.table.items()
        records += starmap(_answered, self._outlets.answered.items())
        found += violations(items, records, objects=self._cloud.bucket.keys(), has_bus=self._outlets.has_bus)
        history = "\n".join(map(str, world.timeline)).encode()
        return Outcome(
            seed=world.seed,
            wrong=found,
            timeline=world.timeline,
            digest=hashlib.sha256(history).hexdigest()[:16],
            events=self.events,
            sessions=sum(item["SK"] == "HEAD" for item in items),
            requests=self._cloud.requests,
            seconds=world.time,
            faults=self._cloud.faults + self._mayhem.counts + self._outlets.faults,
        )

    # --- what is seen while it runs ------------------------------------------------------------------------------

    def _saw_event(self, session_id: str, item: Item) -> None:
        self.events += 1
        status, node, seq = str(item["status"]), str(item["node"]), int(str(item["SK"]).removeprefix("EVENT#"))
        operation = str(item.get("operation", ""))
        self._world.note(
            self._name_of(node), f"{session_id} {seq} {status} {operation} (epoch {item['epoch']!s})", session_id
        )
        if status in {"STEP_COMPLETED", "STEP_FAILED", "AGENT_COMPLETED", "AGENT_FAILED"}:
            self._outcomes[session_id, operation] = seq
            self._resumed.setdefault((session_id, node), seq)
        if status == "SESSION_RESUMED":
            self._resumed[session_id, node] = seq

    def _name_of(self, node_id: str) -> str:
        for node in self._cluster.nodes:
            if node.node_id == node_id:
                return node.name
        return node_id

    def _ran(self, session_id: str, operation: str, attempt: int, epoch: int, value: str, detail: str) -> None:
        who = self._world.turning
        node = next((node for node in self._cluster.nodes if node.name == who), None)
        if node is None or not node.is_alive:
            return
        self._world.note(who, f"{session_id} runs {operation}, attempt {attempt}", session_id)
        if not self._is_ordered(session_id, operation, detail):
            detail = "early"
        recorded = self._outcomes.get((session_id, operation))
        resumed = self._resumed.get((session_id, node.node_id))
        if recorded is not None and resumed is not None and resumed > recorded:
            detail = "read"
        self._people.records.append(Record("ran", session_id, operation, attempt, epoch, value, detail=detail))

    def _is_ordered(self, session_id: str, operation: str, detail: str) -> bool:
        """Return whether the event that orders the run stands in the table."""
        wanted = "STEP_STARTED" if detail == "once" else "AGENT_STARTED" if "agent" in operation else ""
        return not wanted or self._stands(session_id, operation, wanted)

    def _stands(self, session_id: str, operation: str, status: str) -> bool:
        events = self._cloud.table.partition(f"SESSION#{session_id}", "EVENT#")
        return any(item["status"] == status and item.get("operation", "") == operation for item in events)

    def _saw_told(self, told: Told) -> None:
        detail = told.detail
        session_id, operation = str(detail["session_id"]), str(detail.get("name", ""))
        wanted = ENDS if not operation else ("APPROVAL_REQUESTED",)
        is_early = not any(self._stands(session_id, operation, status) for status in wanted)
        self._world.note("bus", f"takes {told.detail_type} of {session_id} {operation}", session_id)
        self._people.records.append(
            Record(
                "announced",
                session_id,
                operation,
                value=str(detail.get("state", "")),
                message_id=str(detail["notification_id"]),
                detail="early" if is_early else "",
            )
        )

    def saw_line(self, event: EventDict) -> None:
        """Take what a node tells people: without a topic, they read the log."""
        if event["event"] == "approval_requested":
            session_id, operation = str(event["session_id"]), str(event["operation"])
            detail = "" if self._stands(session_id, operation, "APPROVAL_REQUESTED") else "early"
            callback_id = str(event["callback_id"])
            self._people.records.append(
                Record("notified", session_id, operation, message_id=callback_id, detail=detail)
            )


def _answered(token: str, end: str) -> Record:
    return Record("answered", token.removeprefix(TASK_PREFIX), value=end)


def _dead_lettered(dead: DeadLetter) -> Record:
    try:
        body = json.loads(dead.body)
    except (ValueError, RecursionError):
        body = None
    told = body if isinstance(body, dict) else {}
    session_id, message_id = str(told.get("session_id", "")), str(told.get("message_id", ""))
    return Record("dead-lettered", session_id, value=dead.message_id, message_id=message_id, detail=dead.code)


@contextmanager
def _logs_of(world: World, saw: Callable[[EventDict], None]) -> Iterator[list[str]]:
    """Collect what nodes log; yield the list that gets what they call an error."""
    errors: list[str] = []

    def take(_: object, method: str, event: EventDict) -> EventDict:
        about = str(event.get("session_id", ""))
        text = " ".join(f"{key}={value}" for key, value in event.items() if key not in {"event", "exc_info"})
        # A history is the same wherever its code lies.
        world.note(world.turning, f"{event['event']} {text}".replace(ROOT, ""), about)
        saw(event)
        if method in {"error", "critical", "exception"} and event["event"] not in EXPECTED_ERRORS:
            errors.append(f"logged: {event['event']}: {text} {event.get('exc_info', '')!r}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[take],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=False,
    )
    try:
        yield errors
    finally:
        structlog.configure(**before)


@contextmanager
def _collector_resting() -> Iterator[None]:
    """Keep the cyclic collector from running code of dead processes in the middle of others' turns."""
    gc.disable()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            # What a killed process was about to begin is never awaited.
            warnings.simplefilter("ignore", RuntimeWarning)
            gc.collect()
        gc.enable()
