"""The research report, for real: agents that answer by callback, a person, and a worker killed at every event."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import aiohttp
import pytest
from yarl import URL

from examples.research_report.texts import analyse, draft_of, questions_on, research, write
from orchestrator.local import free_port
from orchestrator.session.values import Json, JsonObject
from tests.emulators import Emulator
from tests.integration.deployment import WAIT_SECONDS_MAX, Deployment, agents_serving, deployed
from tests.integration.journal_reaper import reaping

APP: Final = "examples.research_report:app"
SESSION: Final = "report-1"
DRAFT: Final = draft_of("tea", analyse(research(questions_on("tea"))))
STORY: Final = [
    "AGENT_INVOCATION_STARTED",
    "STEP_COMPLETED init",
    "CALLBACK_CREATED research",
    "STEP_COMPLETED research.submit",
    "CALLBACK_COMPLETED research",
    "CALLBACK_CREATED analysis",
    "STEP_COMPLETED analysis.submit",
    "CALLBACK_COMPLETED analysis",
    "STEP_COMPLETED artifact:draft.md",
    "APPROVAL_REQUESTED publish",
    "CALLBACK_COMPLETED publish",
    "CALLBACK_CREATED writing",
    "STEP_COMPLETED writing.submit",
    "CALLBACK_COMPLETED writing",
    "STEP_COMPLETED artifact:report.md",
    "AGENT_BACKGROUND_TASK_COMPLETED",
]
KILLS: Final = {
    "after SESSION_RESUMED",
    *(f"after {event}" for event in STORY),
    *(f"before {event}" for event in STORY if event.endswith(".submit")),
}


@dataclass(frozen=True)
class Agents:
    """The agents' service, a process of its own."""

    url: str
    http: aiohttp.ClientSession
    lines: asyncio.StreamReader

    async def settled(self, assignments: int) -> None:
        """Return when so many have been answered: the worker that takes an answer may be killed before it says so."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            for _ in range(assignments):
                assert await self.lines.readline()

    async def assignments(self) -> dict[str, JsonObject]:
        """Return every assignment by its key."""
        async with self.http.get(f"{self.url}/assignments") as answer:
            found: dict[str, JsonObject] = await answer.json()
            return found


@asynccontextmanager
async def agents_running(http: aiohttp.ClientSession) -> AsyncIterator[Agents]:
    """Run the agents' service while the block runs; it answers from the first line on."""
    async with agents_serving("examples.research_report.agents") as (url, lines):
        yield Agents(url, http, lines)


@pytest.mark.timeout(240)
async def test_a_report_is_written_once_though_the_worker_is_killed_at_every_event(
    ministack: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after each event, once each, and before some: one end, one approval, each agent worked once."""
    port = str(free_port())
    async with (
        deployed(ministack, monkeypatch.setenv) as deployment,
        agents_running(deployment.http) as agents,
        reaping(ministack.endpoint_url) as (reaper, proxy),
        asyncio.TaskGroup() as tasks,
    ):
        environment = {
            "AGENTS_URL": agents.url,
            "AWS_ENDPOINT_URL_DYNAMODB": proxy.endpoint_url,
            # Where the agents answer: it must be the same for every worker, as a load balancer's address is.
            "ORCHESTRATOR_PORT": port,
            "ORCHESTRATOR_HEARTBEAT_SECONDS": "0.4",
        }
        scheduler = tasks.create_task(reaper.keep_running(deployment, APP, environment))
        for _ in range(2):
            # The first worker dies with half of the session created; whoever was not answered asks again.
            await reaper.ready()
            with suppress(aiohttp.ClientError):
                await start(deployment, port)
        await reaper.told("APPROVAL_REQUESTED publish", "SESSION_RESUMED")
        answer: JsonObject = {"approved": True, "by": "ann", "comment": "print it"}
        with suppress(aiohttp.ClientError):
            # The worker that takes the answer is killed with it.
            await approve(deployment, port, answer)
        await reaper.ended()
        assert [200, 409] == [await approve(deployment, port, a) for a in (answer, {**answer, "approved": False})]
        scheduler.cancel()

        assert KILLS == set(reaper.kills)
        events = [event for event in await story(deployment) if event != "SESSION_RESUMED"]
        assert STORY[-1] == events[-1]
        # An agent's answer may overtake the record that it was asked, when that takes another worker.
        assert Counter(STORY) == Counter(events)
        outcome = await result(deployment, port)
        assert ("COMPLETED", "ann", "print it") == (outcome["status"], outcome["by"], outcome["comment"])
        assert write(DRAFT) == await fetched(deployment, outcome["url"])
        assert "604800" == URL(str(outcome["url"])).query["X-Amz-Expires"]
        await agents.settled(3)
        assignments = await agents.assignments()
        assert {f"{SESSION}/{name}.submit" for name in ("research", "analysis", "writing")} == set(assignments)
        for assignment in assignments.values():
            assert (1, "ANSWERED") == (assignment["worked"], assignment["status"])
            assert int(str(assignment["handed_over"])) >= 2


async def test_a_rejected_draft_ends_the_session_with_who_and_why(
    ministack: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The approver reads the draft by its link; nobody writes a report, and the result says REJECTED."""
    async with deployed(ministack, monkeypatch.setenv) as deployment, agents_running(deployment.http) as agents:
        worker = await deployment.start(APP, AGENTS_URL=agents.url)
        port = worker.base_url.rpartition(":")[2]
        assert 202 == await start(deployment, port)
        await worker.logged("approval_requested", session_id=SESSION, operation="publish")
        assert DRAFT == await fetched(deployment, await draft_link(deployment, port))
        assert 200 == await approve(deployment, port, {"approved": False, "by": "bob", "comment": "too thin"})
        await worker.logged("session_ended", session_id=SESSION, status="COMPLETED")

        outcome = await result(deployment, port)
        assert ("REJECTED", "bob", "too thin") == (outcome["status"], outcome["by"], outcome["comment"])
        assert DRAFT == await fetched(deployment, outcome["url"])
        assert {"researcher", "analyst"} == {each["agent"] for each in (await agents.assignments()).values()}


async def start(deployment: Deployment, port: str) -> int:
    """Start the session, and return the HTTP status."""
    body = {"session_type": "research-report", "session_id": SESSION, "input": {"topic": "tea"}}
    async with deployment.http.post(f"http://127.0.0.1:{port}/sessions", json=body) as response:
        return response.status


async def approve(deployment: Deployment, port: str, answer: JsonObject) -> int:
    """Answer the approval, and return the HTTP status."""
    url = f"http://127.0.0.1:{port}/sessions/{SESSION}/approvals/publish"
    async with deployment.http.post(url, json=answer) as response:
        return response.status


async def result(deployment: Deployment, port: str) -> JsonObject:
    """Return the session's result."""
    async with deployment.http.get(f"http://127.0.0.1:{port}/sessions/{SESSION}") as response:
        view = await response.json()
    assert ("COMPLETED", None) == (view["state"], view["error"])
    outcome: JsonObject = view["result"]
    return outcome


async def draft_link(deployment: Deployment, port: str) -> Json:
    """Return the link that the approver is shown."""
    async with deployment.http.get(f"http://127.0.0.1:{port}/sessions/{SESSION}/events") as response:
        events = (await response.json())["events"]
    links: list[Json] = [e["data"]["subject"]["draft"] for e in events if e["status"] == "APPROVAL_REQUESTED"]
    assert 1 == len(links)
    return links[0]


async def fetched(deployment: Deployment, url: Json) -> str:
    """Return what anybody gets there, without credentials."""
    async with deployment.http.get(URL(str(url), encoded=True)) as response:
        assert 200 == response.status, await response.text()
        return await response.text()


async def story(deployment: Deployment) -> list[str]:
    """Return the journal as people read it."""
    events = [item for item in await deployment.items(SESSION) if item["SK"].startswith("EVENT#")]
    return [" ".join(filter(None, [event["status"], event.get("operation")])) for event in events]
