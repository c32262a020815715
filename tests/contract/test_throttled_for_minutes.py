"""What a node says of a table or a queue that answers "not now" for minutes, and of one that does not answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from orchestrator.health import UNREACHABLE_SECONDS_MAX
from tests.contract.fault_proxy import BATCH, Fault, FaultProxy, refusal, reset, statements_fail
from tests.contract.intake_stage import Scripted, sqs_stage
from tests.contract.stage import OpenTable, append, events_of, open_table, patience_of, recorded
from tests.contract.waiting import WatchedClock
from tests.emulators import Emulator

MINUTES = 5
WAITING = ("session-1", "session-2")
EACH: Fault = statements_fail("ThrottlingError", lambda _: True)
THROTTLED: dict[str, Fault] = {
    "throttled": refusal("ThrottlingException"),
    "over its throughput": refusal("ProvisionedThroughputExceededException"),
    "each statement throttled": EACH,
}
AWAY: dict[str, Fault] = {"reset": reset, "failing": refusal("InternalServerError", status=500)}


@asynccontextmanager
async def writing(emulator: Emulator, proxy: FaultProxy, clock: WatchedClock, fault: Fault) -> AsyncIterator[OpenTable]:
    """Open a table that does so to all that is asked of it, while two sessions want to begin; they do at the end."""
    patience = patience_of(clock=clock, draw=1.0)
    async with open_table(emulator, through=proxy.endpoint_url, patience=patience) as opened:
        proxy.arm(BATCH, fault, times=1_000_000)
        # A write that travels alone is no statement of a batch.
        proxy.arm("PutItem", THROTTLED["throttled"] if fault is EACH else fault, times=1_000_000)
        async with asyncio.TaskGroup() as tasks:
            for session_id in WAITING:
                tasks.create_task(append(opened.journal(), recorded(1), session_id=session_id))
            yield opened
            proxy.disarm()
            clock.advance(10)
        for session_id in WAITING:
            assert 1 == len(await events_of(opened.journal(), session_id))


async def longest(unreachable_for: Callable[[], float], clock: WatchedClock) -> float:
    """Let the minutes pass, retry by retry; return the longest time for which it passed for out of reach."""
    worst, begun = 0.0, clock.monotonic()
    await clock.sleeps.count(1)
    while clock.monotonic() - begun < MINUTES * 60:
        pauses = len(clock.sleeps.entries)
        worst = max(worst, unreachable_for())
        clock.advance(clock.next_due() or 0.0)
        # Whoever was woken asks, is refused, and pauses again.
        await clock.sleeps.count(pauses + 1)
    return worst


@pytest.mark.parametrize("fault", THROTTLED.values(), ids=THROTTLED)
async def test_a_table_that_throttles_for_minutes_is_not_out_of_reach(
    ministack: Emulator, proxy: FaultProxy, fault: Fault
) -> None:
    """It answers: a restart would mend nothing, and what waits to be written is written when there is room."""
    clock = WatchedClock()
    async with writing(ministack, proxy, clock, fault) as opened:
        assert 0.0 == await longest(opened.patience.reachability.unreachable_for, clock)


@pytest.mark.parametrize("fault", AWAY.values(), ids=AWAY)
async def test_a_table_that_gives_no_useful_answer_for_minutes_is(
    ministack: Emulator, proxy: FaultProxy, fault: Fault
) -> None:
    """A node that cannot reach it may be better off elsewhere; and what waits is written when it is back."""
    clock = WatchedClock()
    async with writing(ministack, proxy, clock, fault) as opened:
        assert await longest(opened.patience.reachability.unreachable_for, clock) > UNREACHABLE_SECONDS_MAX


async def test_a_queue_that_throttles_for_minutes_is_not_out_of_reach(
    ministack: Emulator, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver waits longer and longer, and takes what is there as soon as it may."""
    monkeypatch.setattr("orchestrator.intake.sqs.POLL_SECONDS", 1)
    clock, handle = WatchedClock(), Scripted()
    async with sqs_stage(ministack, through=proxy.endpoint_url, clock=clock) as stage:
        proxy.arm("ReceiveMessage", refusal("RequestThrottled"), times=1_000_000)
        async with stage.running(handle):
            assert 0.0 == await longest(stage.intake.unreachable_for, clock)
            proxy.disarm()
            clock.advance(10)
            await stage.put("body")
            await handle.handled.count(1)
