"""What each channel sends, how large it gets, and what it makes of the answers of the service behind it."""

import asyncio
import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import pytest
import structlog
from notices import ASKED, COMPLETED, FAILED, NOON, PlayedOutlets, about, completed_with
from structlog.testing import capture_logs

from actors import ManualClock, settle
from orchestrator.aws.outlets import ENTRIES_MAX, REQUEST_BYTES_MAX, Bus, CallFailed, Tasks
from orchestrator.notifications import EVENTS, LOG, TASK_TOKEN, NotDelivered, notification_id
from orchestrator.notifications.channels import Channels
from orchestrator.notifications.document import DOCUMENT_BYTES_MAX, document_of, size_of
from orchestrator.notifications.eventbridge import LOOK_AGAIN_SECONDS, EventBridgeChannel, entry_of
from orchestrator.notifications.log import LogChannel
from orchestrator.notifications.sns import SUBJECT_LENGTH_MAX, subject_of, text_of
from orchestrator.notifications.stepfunctions import (
    CAUSE_LENGTH_MAX,
    ERROR_LENGTH_MAX,
    OUTPUT_BYTES_MAX,
    StepFunctionsChannel,
    failure_of,
    output_of,
)
from orchestrator.notifications.tries import BACKOFF_MAX, GIVEN_UP_AFTER, Tries, after_failure, recorded, tries_in
from orchestrator.session.events import Recorded, SessionCompleted, SessionContinued, SessionStarted
from orchestrator.session.state import SessionState, replay
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import ErrorRecord, Json
from tests.simulation.dynamodb import refused
from tests.simulation.outlets import SimOutlets, Told

LOG_LINES = structlog.get_logger()


class Bench:
    """The played services, with every request that came; `faults` are what the next ones meet."""

    def __init__(self, *faults: str | Exception) -> None:
        self.services = SimOutlets(Random(0))
        self.faults = list(faults)
        self.requests: list[tuple[str, Mapping[str, Any]]] = []
        self.clock = ManualClock(NOON)
        self.gate = asyncio.Event()
        self.gate.set()
        outlets = PlayedOutlets(self._perform)
        self.bus = EventBridgeChannel(Bus(outlets, "bus"), self.clock, LOG_LINES, is_named=False)
        self.tasks = StepFunctionsChannel(Tasks(outlets), self.clock, LOG_LINES, heartbeat_seconds=60)

    async def _perform(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        self.requests.append((operation, request))
        await self.gate.wait()
        fault = self.faults.pop(0) if self.faults else ""
        if isinstance(fault, Exception):
            raise fault
        return self.services.perform(operation, request, fault)

    def sizes(self) -> list[int]:
        """Return how many events each request to the bus held."""
        return [len(request["Entries"]) for operation, request in self.requests if operation == "PutEvents"]


# --- what is sent --------------------------------------------------------------------------------------------------


def test_an_event_says_what_ended_and_how_and_keeps_every_token_to_itself() -> None:
    """Under the id that it has on every channel, in the trace of whoever started the session."""
    entry = entry_of(COMPLETED)
    detail = json.loads(entry.detail)
    assert "Session Completed" == entry.detail_type
    assert (notification_id("order-17"), "COMPLETED") == (detail["notification_id"], detail["state"])
    assert ({"url": "https://example.test/report"}, False) == (detail["result"], detail["result_omitted"])
    assert "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=b7ad6b7169203331;Sampled=1" == entry.trace_header
    texts = repr([entry, entry_of(ASKED), entry_of(FAILED)])
    assert not any(token in texts for token in (str(COMPLETED.task_token), ASKED.token))


def test_every_end_has_a_name_that_rules_can_match() -> None:
    """A child's end, a failure and a cancel are told apart by the detail-type alone."""
    kinds = [replace(COMPLETED, state=state).kind for state in SessionStatus if state.value in _ENDS]
    assert ["Session Completed", "Session Failed", "Session Cancelled", "Session Continued"] == kinds


_ENDS = ("COMPLETED", "FAILED", "CANCELLED", "CONTINUED")


@pytest.mark.parametrize("size", [DOCUMENT_BYTES_MAX - 2_000, DOCUMENT_BYTES_MAX, 1_000_000])
def test_no_event_is_larger_than_a_bus_takes(size: int) -> None:
    """What is too large is left out, and a flag says so; the limit counts bytes, not characters."""
    for notice in (completed_with("é" * (size // 2)), replace(ASKED, subject="é" * (size // 2))):
        document, field = document_of(notice), "result" if notice.kind == "Session Completed" else "subject"
        assert entry_of(notice).size < 256 * 1024
        assert (size > DOCUMENT_BYTES_MAX - 1_000) is document[f"{field}_omitted"]
        assert document[f"{field}_omitted"] is (document[field] is None)
    assert size_of(document_of(replace(ASKED, approvers=["x" * size]))) <= DOCUMENT_BYTES_MAX
    endless = replace(FAILED, error=ErrorRecord("E", "E", "x" * size))
    assert size_of(document_of(endless)) < 10_000


def test_a_mail_tells_a_person_what_to_do() -> None:
    """What is asked, until when, by whom it may be answered, and two ways to answer that work as they are copied."""
    text = text_of(ASKED)
    assert "until: 2026-01-01T12:00:00.000Z" in text
    assert '"title": "Tea"' in text
    assert "ann, bob" in text
    assert "orchestrator approve order-17 publish --by" in text
    command = shlex.split(text[text.index("curl") :].replace("\\\n", "").split("\n\n")[0])
    assert ASKED.url in command
    body = json.loads(command[command.index("-d") + 1])
    assert ({"approved": True, "by": "YOUR NAME"}, ASKED.token) == (body["result"], body["token"])


def test_the_line_of_a_mail_is_one_that_sns_takes() -> None:
    """Fewer than a hundred printable ASCII characters, whatever the approval is called."""
    subject = subject_of(replace(ASKED, name="größer\n" + "x" * 200))
    assert len(subject) < SUBJECT_LENGTH_MAX
    assert subject.isascii()
    assert subject.isprintable()
    assert len(text_of(replace(ASKED, subject="x" * 1_000_000, approvers=["y"] * 100_000)).encode()) < 256 * 1024


# --- the bus -------------------------------------------------------------------------------------------------------


async def test_events_that_come_together_travel_together() -> None:
    """Up to ten in a request, and as many bytes as one takes; each is answered for itself."""
    for result, count, sizes in (
        (None, 25, [1, ENTRIES_MAX, ENTRIES_MAX, 4]),
        ("x" * (REQUEST_BYTES_MAX // 3), 4, [1, 2, 1]),
    ):
        bench = Bench()
        bench.gate.clear()
        notices = [replace(about(number), result=result) for number in range(count)]
        telling = [asyncio.ensure_future(bench.bus.tell(notice)) for notice in notices]
        await settle()
        bench.gate.set()
        await asyncio.gather(*telling)
        assert sizes == bench.sizes()


async def test_an_event_that_failed_in_a_request_that_did_not_is_not_delivered() -> None:
    """`FailedEntryCount`: 200 is an answer to the request, not to each entry. The others are."""
    bench = Bench("", "some_entries")
    bench.gate.clear()
    telling = [asyncio.ensure_future(bench.bus.tell(about(number))) for number in range(11)]
    told: list[str] = []
    bench.services.on_told = lambda each: told.append(str(each.detail["session_id"]))
    await settle()
    bench.gate.set()
    ends = await asyncio.gather(*telling, return_exceptions=True)
    failed = [f"s{number}" for number, end in enumerate(ends) if isinstance(end, NotDelivered)]
    assert {"InternalFailure"} == {end.reason for end in ends if isinstance(end, NotDelivered)}
    assert 0 < len(failed) < 10
    assert sorted(told + failed) == sorted(f"s{number}" for number in range(11))


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("throttle", "ThrottlingException"),
        ("error", "InternalFailure"),
        ("lost_answer", "ServerDisconnectedError"),
        (refused("AccessDeniedException", "PutEvents"), "AccessDeniedException"),
        (TimeoutError(), "TimeoutError"),
    ],
)
async def test_a_request_that_fails_fails_for_all_who_wait_and_nobody_waits_for_ever(
    fault: str | Exception, code: str
) -> None:
    """A bus that hangs takes its time once, not once for each of hundreds of sessions."""
    bench = Bench(fault)
    bench.gate.clear()
    telling = [asyncio.ensure_future(bench.bus.tell(about(number))) for number in range(200)]
    await settle()
    bench.gate.set()
    ends = await asyncio.gather(*telling, return_exceptions=True)
    assert {code} == {end.reason for end in ends if isinstance(end, NotDelivered)}
    assert [1] == bench.sizes()


async def test_who_is_cancelled_while_it_sends_for_others_leaves_them_their_turn() -> None:
    """A session that is stopped takes no other's event with it, and leaves its own untold."""
    bench = Bench()
    told: list[str] = []

    def take(event: Told) -> None:
        told.append(str(event.detail["session_id"]))
        bench.gate.clear()

    bench.services.on_told = take
    bench.gate.clear()
    telling = [asyncio.ensure_future(bench.bus.tell(about(number))) for number in range(4)]
    await settle()
    bench.gate.set()
    await settle()
    assert [1, 3] == bench.sizes(), "the second sends for the rest"
    telling[1].cancel()
    await settle()
    bench.gate.set()
    await asyncio.gather(*telling, return_exceptions=True)
    assert ["s0", "s2", "s3"] == told


async def test_a_bus_that_is_not_there_is_owed_nothing_until_it_is() -> None:
    """One line says so, however often it is looked for, and no session waits for it."""
    missing = refused("ResourceNotFoundException", "DescribeEventBus")
    bench = Bench(missing, missing)
    ended = ended_session()
    channels = Channels(log=LogChannel(LOG_LINES), tasks=bench.tasks, bus=bench.bus)
    assert (EVENTS,) == channels.of_end(ended), "until it was looked for"
    with capture_logs() as lines:
        looking = asyncio.ensure_future(channels.run())
        await settle()
        assert ((), (LOG,)) == (channels.of_end(ended), channels.of_approval())
        for _ in range(2):
            bench.clock.advance(LOOK_AGAIN_SECONDS)
            await settle()
        await looking
    assert (EVENTS,) == channels.of_end(ended)
    assert [("event_bus_missing", "NO_SUCH_BUS")] == [(line["event"], line["reason"]) for line in lines]


@pytest.mark.parametrize("fault", [refused("AccessDeniedException", "DescribeEventBus"), TimeoutError()])
@pytest.mark.parametrize("is_named", [True, False])
async def test_only_a_bus_that_somebody_chose_is_insisted_on_where_we_cannot_look(
    fault: Exception, is_named: bool
) -> None:
    """A role or a network of before there were events must fill no outboxes; a missing permission must be heard of."""
    bench = Bench(fault)
    bus = EventBridgeChannel(bench.bus._bus, bench.clock, LOG_LINES, is_named=is_named)
    looking = asyncio.ensure_future(bus.run())
    await settle()
    assert is_named is bus.is_on
    looking.cancel()


def ended_session(*, task_token: str | None = None, goes_on: bool = False) -> SessionState:
    """Return the state of a session that has ended."""
    started = SessionStarted("main", "acme", None, "", None, task_token=task_token)
    end = SessionContinued(None, "s:g2") if goes_on else SessionCompleted(result=None)
    state = replay("s", [Recorded(seq, event, NOON, 1, "n", f"e{seq}") for seq, event in enumerate([started, end], 1)])
    assert state is not None
    return state


# --- Step Functions ------------------------------------------------------------------------------------------------


def test_only_an_end_that_is_one_answers_a_task() -> None:
    """A session that goes on hands the token to its next generation."""
    channels = Channels(log=LogChannel(LOG_LINES), tasks=Bench().tasks)
    assert (TASK_TOKEN,) == channels.of_end(ended_session(task_token="t"))
    assert () == channels.of_end(ended_session(task_token="t", goes_on=True))
    assert () == channels.of_end(ended_session())


async def test_a_task_is_answered_with_the_result_or_the_error() -> None:
    """As a state machine reads it."""
    bench = Bench()
    await bench.tasks.tell(COMPLETED)
    await bench.tasks.tell(replace(FAILED, task_token="other"))
    (_, success), (_, failure) = bench.requests
    assert {"taskToken": "the task's token", "output": '{"url":"https://example.test/report"}'} == success
    assert {"taskToken": "other", "error": "STEP_FAILED", "cause": "no tea"} == failure


@pytest.mark.parametrize("result", ["é" * (OUTPUT_BYTES_MAX // 2), {"a": "x" * OUTPUT_BYTES_MAX}])
def test_an_answer_keeps_to_the_limits_of_step_functions(result: Json) -> None:
    """Over them, it says which session to ask."""
    output = json.loads(output_of(completed_with(result)))
    assert {"session_id": "order-17", "state": "COMPLETED", "result_omitted": True} == output
    fitting = "x" * (OUTPUT_BYTES_MAX - 2)
    assert fitting == json.loads(output_of(completed_with(fitting)))
    code, cause = failure_of(replace(FAILED, error=ErrorRecord("E", "C" * 1_000, "x" * 100_000)))
    assert (ERROR_LENGTH_MAX, CAUSE_LENGTH_MAX) == (len(code), len(cause))


@pytest.mark.parametrize("code", ["TaskTimedOut", "TaskDoesNotExist", "InvalidToken"])
async def test_a_task_that_is_over_is_taken_as_answered(code: str) -> None:
    """Nobody waits for it, whatever ended it: it is noted, and never tried again, and no beat is sent any more."""
    bench = Bench(refused(code, "SendTaskSuccess"), refused(code, "SendTaskHeartbeat"))
    with capture_logs() as lines:
        await bench.tasks.tell(COMPLETED)
        await bench.tasks.keep("the task's token")
    assert [("task_was_over", code), ("task_heartbeat_failed", code)] == [
        (each["event"], each["code"]) for each in lines
    ]
    assert "the task's token" not in repr(lines)


async def test_a_throttled_answer_is_not_delivered() -> None:
    """It is tried again later."""
    bench = Bench("throttle")
    with pytest.raises(NotDelivered, match="ThrottlingException"):
        await bench.tasks.tell(COMPLETED)


async def test_a_task_hears_a_beat_at_every_interval() -> None:
    """One that fails is not the last."""
    beats = 0

    async def perform(operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal beats
        assert ("SendTaskHeartbeat", {"taskToken": "t"}) == (operation, request)
        beats += 1
        if beats == 2:
            raise refused("ThrottlingException", operation)
        return {}

    clock = ManualClock(NOON)
    tasks = StepFunctionsChannel(Tasks(PlayedOutlets(perform)), clock, LOG_LINES, heartbeat_seconds=60)
    keeping = asyncio.ensure_future(tasks.keep("t"))
    for _ in range(3):
        await settle()
        clock.advance(60)
    await settle()
    keeping.cancel()
    assert 4 == beats
    await StepFunctionsChannel(Tasks(PlayedOutlets(perform)), clock, LOG_LINES, heartbeat_seconds=None).keep("t")
    assert 4 == beats, "without an interval, none are sent"


# --- trying again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_pauses_between_tries_grow_to_an_hour_and_end_after_a_week(jitter: float) -> None:
    """Each is at least half of its bound, so that no target is tried again at once."""
    tries, now, pauses = None, NOON, list[timedelta]()
    while (tries := after_failure(tries, NotDelivered("TIMEOUT"), now, jitter)).next_at is not None:
        pauses.append(tries.next_at - now)
        now = tries.next_at
    assert timedelta(seconds=1) <= pauses[0] <= timedelta(seconds=2)
    assert BACKOFF_MAX / 2 <= max(pauses) <= BACKOFF_MAX
    assert GIVEN_UP_AFTER <= now - NOON <= GIVEN_UP_AFTER + BACKOFF_MAX
    assert tries.attempts == len(pauses) + 1 < 400


def test_what_became_of_tries_is_read_as_it_was_written() -> None:
    """And what this version cannot read is tried as if for the first time."""
    tries = {"webhook": Tries(3, NOON, NOON, "TIMEOUT"), "events": Tries(9, NOON, None, "AccessDeniedException")}
    attributes = recorded({"slot": True, "undelivered": {"old": 1}}, tries, frozenset({7, 3}))
    assert {"slot": True, "told": [3, 7]} == {name: attributes[name] for name in ("slot", "told")}
    assert tries == tries_in(attributes)
    assert {} == tries_in({"undelivered": {"webhook": {"attempts": 1}, "topic": None, "events": {"since": "noon"}}})
    assert {"slot": True} == recorded(attributes, {}, frozenset())


async def test_a_channel_that_a_deployment_does_not_have_delivers_nothing() -> None:
    """What it owes is kept for code or settings that have it."""
    channels = Channels(log=LogChannel(LOG_LINES), tasks=Bench().tasks)
    for name in ("webhook", "topic", EVENTS, LOG, "pigeon"):
        with pytest.raises(NotDelivered, match="NO_SUCH_CHANNEL"):
            await channels.tell(COMPLETED, name)


async def test_a_call_that_fails_says_why_in_a_word() -> None:
    """Without the text, which may quote what was sent."""
    bench = Bench(refused("SomethingElse", "PutEvents"))
    with pytest.raises(CallFailed, match=r"^SomethingElse$"):
        await bench.bus._bus.put([entry_of(COMPLETED)])
