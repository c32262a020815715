"""The agents as A2A servers, on the real `a2a-sdk`: `python -m examples.research_report.remote_agents`.

Each has a card at its own path, and pushes what becomes of a task to whoever asked for that. The researcher quotes at
length: its notes are some 240 KB. `GET /told` says which messages each agent was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import httpx
import uvicorn
from a2a.helpers.proto_helpers import new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandlerV2
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import (
    BasePushNotificationSender,
    InMemoryPushNotificationConfigStore,
    InMemoryTaskStore,
    TaskUpdater,
)
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Task, TaskState, TaskStatus
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from examples.research_report.app import AGENTS_URL
from examples.research_report.texts import AGENTS, quoting

WORK_SECONDS: Final = 0.5
LENGTHY: Final = {"researcher": quoting}


class Working(AgentExecutor):
    """One agent: works for a while, and gives its text as the task's artifact."""

    def __init__(self, work: Callable[[str], str]) -> None:
        self._work = work
        self.told: list[str] = []

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """See `AgentExecutor`."""
        message, task_id, context_id = context.message, context.task_id, context.context_id
        assert message is not None
        assert task_id is not None
        assert context_id is not None
        self.told.append(message.message_id)
        submitted = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
        await event_queue.enqueue_event(Task(id=task_id, context_id=context_id, status=submitted))
        updater = TaskUpdater(event_queue, task_id, context_id)
        await updater.start_work()
        await asyncio.sleep(WORK_SECONDS)
        await updater.add_artifact([new_text_part(self._work(context.get_user_input()))])
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """See `AgentExecutor`."""
        assert context.task_id is not None
        assert context.context_id is not None
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def application(url: str) -> Starlette:
    """Return all agents behind one address, each at a path of its own."""
    pushing, working, mounts = httpx.AsyncClient(trust_env=False), dict[str, Working](), list[Mount]()
    for name, work in AGENTS.items():
        working[name] = Working(LENGTHY.get(name, work))
        addresses = InMemoryPushNotificationConfigStore()
        card = card_of(name, f"{url}/{name}/")
        handler = DefaultRequestHandlerV2(
            working[name],
            InMemoryTaskStore(),
            card,
            push_config_store=addresses,
            push_sender=BasePushNotificationSender(pushing, addresses),
        )
        mounts.append(Mount(f"/{name}", routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")]))

    async def told(_: Request) -> JSONResponse:
        return JSONResponse({name: agent.told for name, agent in working.items()})

    return Starlette(routes=[Route("/told", told), *mounts])


def card_of(name: str, url: str) -> AgentCard:
    """Return what the agent says of itself."""
    return AgentCard(
        name=name,
        description=f"the {name} of the research report",
        version="1",
        supported_interfaces=[AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")],
        capabilities=AgentCapabilities(push_notifications=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id=name, name=name, description="its part of a report", tags=["report"])],
    )


if __name__ == "__main__":
    address = urlsplit(AGENTS_URL)
    assert address.hostname is not None
    assert address.port is not None
    print(f"{', '.join(AGENTS)}: waiting for tasks at {AGENTS_URL}", flush=True)
    uvicorn.run(application(AGENTS_URL), host=address.hostname, port=address.port, log_level="error")
