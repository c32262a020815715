"""Agents in this process: objects with `invoke_async`, async functions, and sync callables in threads."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Final

from orchestrator.agents import AgentReply
from orchestrator.app import AgentTarget, InvokableAgent
from orchestrator.errors import NotSerializable
from orchestrator.payloads import PayloadTooLarge, to_json
from orchestrator.session.values import Json, JsonObject
from orchestrator.user_code import call

USAGE_BYTES_MAX: Final = 8_192
"""Counts are few; the item has to hold the result beside them (I12)."""


class LocalAgent:
    """An `Agent` over a registered object or function."""

    def __init__(self, target: AgentTarget, threads: Executor, *, payload_bytes_max: int) -> None:
        self._target = target
        self._threads = threads
        self._payload_bytes_max = payload_bytes_max

    async def run(self, prompt: Json, kwargs: Mapping[str, Json]) -> AgentReply:
        """See `Agent.run`."""
        answer = await self._invoke(prompt, kwargs)
        return AgentReply(result=to_json(answer, "result", bytes_max=self._payload_bytes_max), usage=_usage_of(answer))

    async def _invoke(self, prompt: Json, kwargs: Mapping[str, Json]) -> object:
        target = self._target.invoke_async if isinstance(self._target, InvokableAgent) else self._target
        return await call(target, (prompt,), kwargs, threads=self._threads)


def _usage_of(answer: object) -> JsonObject | None:
    """Return the answer's `usage`, as an attribute or a key; `None` where it names none."""
    usage = answer.get("usage") if isinstance(answer, dict) else getattr(answer, "usage", None)
    if not isinstance(usage, Mapping):
        return None
    try:
        counts = to_json(dict(usage), "usage", bytes_max=USAGE_BYTES_MAX)
    except (NotSerializable, PayloadTooLarge):
        # Something else by that name: the answer is whole without it.
        return None
    return counts if isinstance(counts, dict) else None
