"""The agents, as a service of their own: `python -m examples.research_report.agents`.

Stands in for whatever works elsewhere. It takes an assignment, answers 202 at once, works on it, and posts what came of
it to the assignment's callback until somebody has taken it: the orchestrator may be down just then. An assignment
that comes again, under the same key, is the same one. It is kept in memory only: one that must survive this process
too would stand in a table, or this would be a session of its own.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from pydantic import ValidationError

from examples.research_report.app import AGENTS_URL
from examples.research_report.texts import AGENTS, Text

WORK_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 0.5
ANSWER_SECONDS_MAX: Final = aiohttp.ClientTimeout(total=10.0)


class Work(Text):
    """An assignment as it is handed over: what to work on, and where to answer."""

    url: str
    token: str


@dataclass(slots=True)
class Assignment:
    """An assignment and what became of it; `work` is as it was handed over last."""

    agent: str
    work: Work
    handed_over: int = 0
    worked: int = 0
    status: str = "WORKING"


class AgentService:
    """Takes assignments, and carries each out once, in a task of the group."""

    def __init__(self, http: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> None:
        self._http = http
        self._tasks = tasks
        self._assignments: dict[str, Assignment] = {}

    async def take(self, request: web.Request) -> web.Response:
        """`POST /agents/{agent}`, with an `Idempotency-Key`."""
        agent, key = request.match_info["agent"], request.headers.get("Idempotency-Key")
        if agent not in AGENTS or not key:
            raise web.HTTPNotFound(text=f"no agent {agent!r}, or no Idempotency-Key")
        try:
            work = Work.model_validate_json(await request.read())
        except ValidationError as error:
            raise web.HTTPUnprocessableEntity(text=str(error)) from error
        assignment = self._assignments.get(key)
        if assignment is None:
            assignment = self._assignments[key] = Assignment(agent, work)
            self._tasks.create_task(self._carry_out(key, assignment), name=key)
        # Who hands it over again may listen elsewhere by now.
        assignment.work = work
        assignment.handed_over += 1
        return web.Response(status=HTTPStatus.ACCEPTED)

    async def show(self, _: web.Request) -> web.Response:
        """`GET /assignments`: each by its key."""
        return web.json_response(
            {
                key: {"agent": a.agent, "handed_over": a.handed_over, "worked": a.worked, "status": a.status}
                for key, a in self._assignments.items()
            }
        )

    async def _carry_out(self, key: str, assignment: Assignment) -> None:
        await asyncio.sleep(WORK_SECONDS)
        assignment.worked += 1
        result = Text(text=AGENTS[assignment.agent](assignment.work.text))
        while True:
            if await self._answered(assignment, result):
                print(f"{key}: {assignment.status}", flush=True)
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _answered(self, assignment: Assignment, result: Text) -> bool:
        """Tell the session; `False` if nobody listened. A refusal is an answer too: it would be no other tomorrow."""
        work = assignment.work
        answer = {"token": work.token, "status": "SUCCESS", "result": result.model_dump()}
        try:
            async with self._http.post(work.url, json=answer) as response:
                if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    return False
                assignment.status = "ANSWERED" if response.ok else f"REFUSED {response.status}"
                return True
        except (aiohttp.ClientError, TimeoutError):
            return False


async def serve(url: str) -> None:
    """Run the service at that address until it is cancelled."""
    address = urlsplit(url)
    async with aiohttp.ClientSession(timeout=ANSWER_SECONDS_MAX) as http, asyncio.TaskGroup() as tasks:
        service = AgentService(http, tasks)
        application = web.Application()
        application.add_routes([web.post("/agents/{agent}", service.take), web.get("/assignments", service.show)])
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, address.hostname, address.port).start()
            print(f"{', '.join(AGENTS)}: waiting for work at {url}", flush=True)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(AGENTS_URL))
