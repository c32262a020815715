"""Remote agents that speak the first generation of A2A alone: `tasks/send`, `tasks/get` and `tasks/cancel`.

The sender names the task, so that sending it again starts no second one where the other side looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Final

import httpx

from orchestrator.agents.a2a.http import WORK_SECONDS_MAX, translated
from orchestrator.agents.a2a.tasks import Outgoing, PushAddress, RemoteTask, task_of
from orchestrator.agents.payload import json_of
from orchestrator.remote import AgentRefused, AgentTaskLost, AgentUnreadable, AgentUnwell, quoted
from orchestrator.session.values import Json, JsonObject

DIALECT: Final = "tasks/send"
_TASK_NOT_FOUND: Final = -32001
_INTERNAL: Final = -32603


@dataclass(frozen=True, slots=True)
class LegacyPeer:
    """A peer that is spoken to by JSON-RPC at one address."""

    http: httpx.AsyncClient
    url: str
    dialect: str = DIALECT
    pushes: bool = False

    async def submit(self, message: Outgoing) -> RemoteTask:
        """See `Peer.submit`."""
        part: JsonObject = (
            {"type": "text", "text": message.prompt}
            if isinstance(message.prompt, str)
            else {"type": "data", "data": message.prompt}
        )
        asked: JsonObject = {"id": message.task_id or message.message_id, "message": {"role": "user", "parts": [part]}}
        if message.context_id is not None:
            asked["sessionId"] = message.context_id
        if message.metadata:
            asked["metadata"] = message.metadata
        return task_of(await self._call("tasks/send", asked, seconds=WORK_SECONDS_MAX))

    async def get(self, task_id: str) -> RemoteTask:
        """See `Peer.get`."""
        return task_of(await self._call("tasks/get", {"id": task_id, "historyLength": 0}))

    async def subscribe(self, task_id: str, address: PushAddress) -> None:
        """See `Peer.subscribe`."""
        raise AgentRefused("an agent of the first generation is not asked to push")

    async def cancel(self, task_id: str) -> None:
        """See `Peer.cancel`."""
        await self._call("tasks/cancel", {"id": task_id})

    async def _call(self, method: str, parameters: JsonObject, *, seconds: float | None = None) -> Json:
        request: JsonObject = {"jsonrpc": "2.0", "id": next(_numbers), "method": method, "params": parameters}
        timeout = self.http.timeout if seconds is None else httpx.Timeout(seconds)
        with translated():
            response = await self.http.post(self.url, json=request, timeout=timeout)
            response.raise_for_status()
        match json_of(response.content):
            case {"error": dict(error)}:
                raise _fault_of(error)
            case {"result": result}:
                return result
            case _:
                raise AgentUnreadable("its answer is no JSON-RPC")


_numbers: Final = count(1)


def _fault_of(error: JsonObject) -> Exception:
    code, text = error.get("code"), quoted(error.get("message", ""))
    if code == _TASK_NOT_FOUND:
        return AgentTaskLost(text)
    return AgentUnwell(text) if code == _INTERNAL else AgentRefused(f"{code}: {text}")
