"""Agents in this process: objects with `invoke_async`, async functions, and sync callables in threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Final

from actors import Clock
from orchestrator.agents import Agent, AgentReply
from orchestrator.agents.limits import LimitedAgent
from orchestrator.app import AgentTarget, InvokableAgent, Orchestrator
from orchestrator.artifacts import ARTIFACT_BYTES_MAX
from orchestrator.errors import NotSerializable
from orchestrator.payloads import PayloadTooLarge, to_json
from orchestrator.session.values import Json, JsonObject
from orchestrator.user_code import call

USAGE_BYTES_MAX: Final = 8_192
"""Counts are few; the item has to hold the result beside them (I12)."""


class LocalAgents:
    """The agents of an application as this node runs them; limits hold for the node, over all its sessions."""

    def __init__(
        self,
        app: Orchestrator,
        threads: Executor,
        clock: Clock,
        *,
        target_named: Callable[[str], AgentTarget | None] | None = None,
    ) -> None:
        """`target_named` finds who runs in an agent's name, `None` for nobody: the agent itself unless given."""
        self._app = app
        self._target_named = app.agent_named if target_named is None else target_named
        self._threads = threads
        self._clock = clock
        self._limited: dict[str, LimitedAgent] = {}

    def named(self, name: str) -> Agent | None:
        """Return the agent of that name; `None` where none is declared."""
        target, limits = self._target_named(name), self._app.agent_limits(name)
        if target is None:
            return None
        if limits is None:
            return LocalAgent(target, self._threads)
        if name not in self._limited:
            self._limited[name] = LimitedAgent(LocalAgent(target, self._threads), limits, self._clock)
        return self._limited[name]


class LocalAgent:
    """An `Agent` over a registered object or function."""

    def __init__(self, target: AgentTarget, threads: Executor) -> None:
        self._target = target
        self._threads = threads

    async def run(self, prompt: Json, kwargs: Mapping[str, Json]) -> AgentReply:
        """See `Agent.run`."""
        answer = await self._invoke(prompt, kwargs)
        return AgentReply(result=to_json(answer, "result", bytes_max=ARTIFACT_BYTES_MAX), usage=_usage_of(answer))

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
