"""What a node tells the ECS agent, over HTTP, as its work comes and goes, whatever the agent answers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field

import pytest
import structlog
from aiohttp import web
from structlog.testing import capture_logs

from actors import BusySignal, ManualClock, settle
from actors.clock import Cancellable
from orchestrator.protection import (
    BACKOFF_FIRST_SECONDS,
    EXPIRES_MINUTES,
    LINGER_SECONDS,
    RENEW_SECONDS,
    TaskProtection,
)
from orchestrator.session.values import Json
from tests.contract.waiting import SECONDS_MAX, START, Log

ON: Json = {"ProtectionEnabled": True, "ExpiresInMinutes": EXPIRES_MINUTES}
OFF: Json = {"ProtectionEnabled": False}
TASK = "arn:aws:ecs:eu-central-1:111122223333:task/cluster/0123456789abcdef"


class AlarmClock(ManualClock):
    """A clock that stands still and tells which alarms are set."""

    def __init__(self) -> None:
        super().__init__(START)
        self.alarms: Log[float] = Log()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Cancellable:
        """See `Clock.call_later`."""
        timer = super().call_later(seconds, callback)
        self.alarms.add(seconds)
        return timer


@dataclass
class Agent:
    """The agent's endpoint: it keeps what it was asked, and answers as ECS would, or as it is told to, in turn."""

    url: str = ""
    asked: Log[Json] = field(default_factory=Log)
    faults: list[tuple[int, Json]] = field(default_factory=list)

    async def put(self, request: web.Request) -> web.Response:
        """Set the protection, or answer with the next fault."""
        body = await request.json()
        self.asked.add(body)
        if self.faults:
            status, fault = self.faults.pop(0)
            return web.json_response(fault, status=status)
        return web.json_response({"protection": {"ProtectionEnabled": body["ProtectionEnabled"], "TaskArn": TASK}})


@dataclass
class Stage:
    """A node's busy signal, the protection that follows it, and the agent that hears of it."""

    agent: Agent
    clock: AlarmClock
    busy: BusySignal
    protection: TaskProtection
    running: asyncio.Task[None]
    lines: list[structlog.typing.EventDict]

    def work(self) -> AbstractContextManager[None]:
        """Be busy while the block runs."""
        return self.busy.track()

    async def next_alarm(self, number: int) -> float:
        """Return the seconds of the n-th alarm, once it is set."""
        return (await self.clock.alarms.count(number))[number - 1]

    async def ended(self) -> None:
        """Return when `run` has."""
        async with asyncio.timeout(SECONDS_MAX):
            await asyncio.shield(self.running)

    def logged(self) -> list[str]:
        """Return the names of the log lines."""
        return [line["event"] for line in self.lines]


@asynccontextmanager
async def listening(agent: Agent) -> AsyncIterator[Agent]:
    """Serve the agent's endpoint under a path like the one that ECS hands out."""
    app = web.Application()
    app.router.add_put("/api/1234/task-protection/v1/state", agent.put)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        agent.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/1234"
        yield agent
    finally:
        await runner.cleanup()


@asynccontextmanager
async def following(agent: Agent) -> AsyncIterator[Stage]:
    """Follow a busy signal while the block runs; then drain, and wait for the end."""
    clock = AlarmClock()
    busy = BusySignal(clock)
    protection = TaskProtection(agent.url, busy=busy, clock=clock, draw=lambda: 1.0, log=structlog.get_logger())
    async with asyncio.TaskGroup() as tasks:
        with capture_logs() as lines:
            stage = Stage(agent, clock, busy, protection, tasks.create_task(protection.run()), lines)
            yield stage
            protection.drain()
            await stage.ended()


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with listening(Agent()) as opened:
        yield opened


async def test_a_busy_node_is_protected_and_an_idle_one_is_not(agent: Agent) -> None:
    """Set with the first work; lifted after the last, and a while in which more might come."""
    async with following(agent) as stage:
        with stage.work():
            await agent.asked.count(1)
            assert RENEW_SECONDS == await stage.next_alarm(1)
        assert LINGER_SECONDS == await stage.next_alarm(2)
        stage.clock.advance(LINGER_SECONDS)
        await agent.asked.count(2)
    assert [ON, OFF] == agent.asked.entries
    assert ["task_protected", "task_protection_released"] == stage.logged()


async def test_the_protection_of_long_work_is_renewed_long_before_it_ends(agent: Agent) -> None:
    """Three times within its life: two renewals may fail, and hours of work are one line in the log."""
    assert 3 * RENEW_SECONDS <= EXPIRES_MINUTES * 60
    async with following(agent) as stage:
        with stage.work():
            for renewals in range(1, 6):
                stage.clock.advance(await stage.next_alarm(renewals))
                await agent.asked.count(renewals + 1)
            await stage.next_alarm(6)
    assert [ON] * 6 + [OFF] == agent.asked.entries
    assert ["task_protected", "task_protection_released"] == stage.logged()


async def test_short_tasks_one_after_another_share_one_protection(agent: Agent) -> None:
    """A hundred tasks of a second with pauses between them: what is asked is renewals alone."""
    async with following(agent) as stage:
        with stage.work():
            await stage.next_alarm(1)
        for _ in range(100):
            await settle()
            stage.clock.advance(LINGER_SECONDS - 1)
            await settle()
            with stage.work():
                stage.clock.advance(1)
        with stage.work():
            await agent.asked.until(lambda asked: len(asked) > 1)
            assert OFF not in agent.asked.entries
            assert len(agent.asked.entries) <= 1 + 100 * LINGER_SECONDS / RENEW_SECONDS
    assert OFF == agent.asked.entries[-1]


async def test_work_that_comes_while_it_lingers_keeps_the_protection(agent: Agent) -> None:
    """Nothing is asked for it, and the time to linger begins anew at its end."""
    async with following(agent) as stage:
        with stage.work():
            await stage.next_alarm(1)
        await stage.next_alarm(2)
        stage.clock.advance(LINGER_SECONDS - 1)
        with stage.work():
            await stage.next_alarm(3)
        assert LINGER_SECONDS == await stage.next_alarm(4)
        assert [ON] == agent.asked.entries


async def test_a_drain_gives_the_protection_up_at_once(agent: Agent) -> None:
    """However busy the node is: whoever stops it, or deploys over it, waits for nothing else."""
    async with following(agent) as stage:
        with stage.work():
            await stage.next_alarm(1)
            stage.protection.drain()
            await stage.ended()
    assert [ON, OFF] == agent.asked.entries


async def test_a_node_that_was_never_busy_asks_nothing(agent: Agent) -> None:
    """And its drain has nothing to wait for."""
    async with following(agent):
        pass
    assert [] == agent.asked.entries


async def test_an_agent_that_fails_is_asked_again_and_told_of_once(agent: Agent) -> None:
    """Refusals, throttling, no JSON: growing pauses, one line in the log, and one when it works."""
    agent.faults += [
        (403, {"error": {"Arn": TASK, "Code": "AccessDeniedException", "Message": "no ecs:UpdateTaskProtection"}}),
        (400, {"error": {"Code": "ThrottlingException", "Message": "Rate exceeded"}, "requestID": "1"}),
        (200, {"failure": {"Arn": TASK, "Reason": "DEPLOYMENT_BLOCKED", "Detail": None}}),
        (500, "no object"),
    ]
    async with following(agent) as stage:
        with stage.work():
            for failures in range(1, 5):
                pause = await stage.next_alarm(failures)
                assert BACKOFF_FIRST_SECONDS * 2**failures == pause
                stage.clock.advance(pause)
            await stage.next_alarm(5)
    assert [ON] * 5 + [OFF] == agent.asked.entries
    failed, works = stage.lines[:2]
    assert ("task_protection_failed", True) == (failed["event"], failed["wanted"])
    assert "status 403: AccessDeniedException: no ecs:UpdateTaskProtection" == failed["error"]
    assert ("task_protection_works_again", 4) == (works["event"], works["failures"])
    assert ["task_protected", "task_protection_released"] == stage.logged()[2:]


async def test_an_agent_that_is_not_there_stops_nothing() -> None:
    """No connection is a failure like any other, and a drain does not wait for it."""
    async with following(Agent("http://127.0.0.1:1/api/1234")) as stage:
        with stage.work():
            for failures in range(1, 4):
                stage.clock.advance(await stage.next_alarm(failures))
    assert ["task_protection_failed"] == stage.logged()


async def test_a_failed_release_at_the_drain_is_not_insisted_on(agent: Agent) -> None:
    """The task ends, and its protection with it."""
    async with following(agent) as stage:
        with stage.work():
            await stage.next_alarm(1)
            agent.faults.append((500, {"error": {"Code": "ServerException", "Message": "no"}}))
    assert [ON, OFF] == agent.asked.entries
    assert ["task_protected", "task_protection_failed"] == stage.logged()


async def test_a_task_that_no_service_started_is_left_alone(agent: Agent) -> None:
    """ECS says once that it cannot be protected; it is told so in one line, and never asked again."""
    agent.faults.append((200, {"failure": {"Arn": TASK, "Reason": "TASK_NOT_VALID", "Detail": None}}))
    async with following(agent) as stage:
        with stage.work():
            await stage.ended()
        with stage.work():
            pass
    assert [ON] == agent.asked.entries
    assert ["task_protection_off"] == stage.logged()
