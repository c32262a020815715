"""A remote agent on the real `a2a-sdk` server: `python -m tests.contract.a2a_server PORT` (0 is any).

It prints the port that it listens at.

It speaks protocol 1.0 at `/jsonrpc` and `/rest`, and 0.3 at `/older`; the first word of a prompt says how to behave.
`GET /told` tells what it was asked, `POST /release/GATE` lets those go on who wait at it.
"""

import asyncio
import socket
import sys
from collections import defaultdict
from collections.abc import Mapping

import httpx
import uvicorn
from a2a.helpers.proto_helpers import new_data_part, new_text_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandlerV2
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import (
    BasePushNotificationSender,
    InMemoryPushNotificationConfigStore,
    InMemoryTaskStore,
    TaskUpdater,
)
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Message, Task, TaskState, TaskStatus
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

SPEAKS = {"jsonrpc": ("JSONRPC", "1.0"), "rest": ("HTTP+JSON", "1.0"), "older": ("JSONRPC", "0.3")}


class Analyst(AgentExecutor):
    """Does as the prompt says."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cancelled: list[str] = []
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """See `AgentExecutor`."""
        assert context.message is not None
        assert context.task_id is not None
        assert context.context_id is not None
        prompt, message = context.get_user_input() or "data", context.message
        self.asked.append(message.message_id)
        if prompt == "at once":
            await event_queue.enqueue_event(new_text_message("an answer, no task", context_id=context.context_id))
            return
        if context.current_task is None:
            submitted = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
            await event_queue.enqueue_event(
                Task(id=context.task_id, context_id=context.context_id, status=submitted, history=[message])
            )
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.start_work(said("thinking"))
        await self._behave(prompt, message, updater)

    async def _behave(self, prompt: str, message: Message, updater: TaskUpdater) -> None:
        match prompt.split():
            case ["large", megabytes]:
                await updater.add_artifact([new_text_part("x" * int(megabytes) * 1024 * 1024)])
                await updater.complete()
            case ["wait", gate]:
                await self.gates[gate].wait()
                await updater.complete(said("waited"))
            case ["fail"]:
                await updater.failed(said("no tea"))
            case ["reject"]:
                await updater.reject(said("not today"))
            case ["ask"]:
                await updater.requires_input(said("green or black?"))
            case ["green"]:
                await updater.complete(said("green it is"))
            case ["authorise"]:
                await updater.requires_auth(said("who are you?"))
            case _:
                parts = [new_text_part(f"heard {prompt}"), new_data_part({"parts": len(message.parts), "half": 0.5})]
                usage = {"usage": {"total_tokens": 7}}
                await updater.add_artifact(parts, name="answer")
                await updater.update_status(TaskState.TASK_STATE_COMPLETED, message=said("done", usage))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """See `AgentExecutor`."""
        assert context.task_id is not None
        assert context.context_id is not None
        self.cancelled.append(context.task_id)
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def said(text: str, metadata: Mapping[str, object] | None = None) -> Message:
    """Return what the agent says."""
    message = new_text_message(text)
    if metadata is not None:
        message.metadata.update(metadata)
    return message


def application(port: int) -> Starlette:
    """Return the agent behind all its interfaces."""
    analyst, mounts, pushing = Analyst(), list[Mount](), httpx.AsyncClient(trust_env=False)
    for path, (binding, version) in SPEAKS.items():
        card = AgentCard(
            name="analyst",
            description="does as it is told",
            version="1",
            supported_interfaces=[
                AgentInterface(
                    url=f"http://127.0.0.1:{port}/{path}/", protocol_binding=binding, protocol_version=version
                )
            ],
            capabilities=AgentCapabilities(streaming=True, push_notifications=True),
            default_input_modes=["text/plain"],
            default_output_modes=["text/plain"],
            skills=[AgentSkill(id="analysis", name="analysis", description="any", tags=["any"])],
        )
        addresses = InMemoryPushNotificationConfigStore()
        handler = DefaultRequestHandlerV2(
            analyst,
            InMemoryTaskStore(),
            card,
            push_config_store=addresses,
            push_sender=BasePushNotificationSender(pushing, addresses),
        )
        routes = (
            create_rest_routes(handler)
            if binding == "HTTP+JSON"
            else create_jsonrpc_routes(handler, "/", enable_v0_3_compat=version == "0.3")
        )
        mounts.append(Mount(f"/{path}", routes=[*create_agent_card_routes(card), *routes]))

    async def told(_: Request) -> JSONResponse:
        return JSONResponse({"asked": analyst.asked, "cancelled": analyst.cancelled})

    async def release(request: Request) -> JSONResponse:
        analyst.gates[request.path_params["gate"]].set()
        return JSONResponse({})

    own = [Route("/told", told), Route("/release/{gate}", release, methods=["POST"])]
    return Starlette(routes=[*own, *mounts])


if __name__ == "__main__":
    # Bound and listening before anybody is told of it: whoever connects then waits, and is not refused.
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    listening = listener.getsockname()[1]
    sys.stdout.write(f"{listening}\n")
    sys.stdout.flush()
    uvicorn.Server(uvicorn.Config(application(listening), log_level="error")).run(sockets=[listener])
