"""The agents of an application: objects with `invoke_async`, async functions, and sync callables in threads.

Those that run elsewhere are lent this node's connections.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from actors import Clock
from orchestrator.agents import Agent, AgentReply, Connections
from orchestrator.agents.limits import LimitedAgent
from orchestrator.agents.strands import StrandsAgent, is_strands_agent, reply_in
from orchestrator.agents.usage import usage_of
from orchestrator.app import AgentTarget, InvokableAgent, Orchestrator, RemoteAgent
from orchestrator.artifacts import ARTIFACT_BYTES_MAX
from orchestrator.errors import RegistrationError
from orchestrator.payloads import to_json
from orchestrator.remote import AgentNotConnected
from orchestrator.session.values import Json
from orchestrator.user_code import call

if TYPE_CHECKING:
    from strands import Agent as StrandsLibraryAgent

T = TypeVar("T")


class LocalAgents:
    """The agents of an application as this node runs them; limits hold for the node, over all its sessions."""

    def __init__(
        self,
        app: Orchestrator,
        threads: Executor,
        clock: Clock,
        *,
        target_named: Callable[[str], AgentTarget | None] | None = None,
        connections: Connections | None = None,
    ) -> None:
        """`target_named` finds who runs in an agent's name, `None` for nobody: the agent itself unless given.

        Without `connections`, agents that run elsewhere fail.
        """
        self._app = app
        self._target_named = app.agent_named if target_named is None else target_named
        self._threads = threads
        self._clock = clock
        # All of them at once: what one imports must not hold up the sessions that run already.
        self._connected = (
            {}
            if connections is None
            else {name: agent.connected(connections) for name, agent in app.remote_agents().items()}
        )
        self._limited: dict[str, LimitedAgent] = {}

    def named(self, name: str) -> Agent | None:
        """Return the agent of that name; `None` where none is declared."""
        target, limits = self._target_named(name), self._app.agent_limits(name)
        if target is None:
            return None
        if limits is None:
            return self._agent(name, target)
        if name not in self._limited:
            self._limited[name] = LimitedAgent(self._agent(name, target), limits, self._clock)
        return self._limited[name]

    def _agent(self, name: str, target: AgentTarget) -> Agent:
        if isinstance(target, RemoteAgent):
            return self._connected.get(name) or UnconnectedAgent()
        return adapted(target, self._threads)


class UnconnectedAgent:
    """An `Agent` elsewhere that nothing leads to from here."""

    async def run(self, prompt: Json, kwargs: Mapping[str, Json]) -> AgentReply:
        """See `Agent.run`."""
        raise AgentNotConnected("this agent runs elsewhere, and nothing connects it here: give it a stand-in")


def adapted(target: InvokableAgent | Callable[..., object], threads: Executor) -> Agent:
    """Return the adapter for what was registered.

    A function without parameters cannot take a prompt: it makes the agent, one for each run.
    """
    if is_strands_agent(target):
        # Within the run: one that cannot be run so fails it, and not its session.
        return MadeAgent(partial(_durable, target), threads)
    return MadeAgent(target, threads) if makes_agents(target) else LocalAgent(target, threads)


def makes_agents(target: object) -> TypeGuard[Callable[[], object]]:
    """Return whether it is a function without parameters."""
    return inspect.isfunction(target) and not inspect.signature(target).parameters


class MadeAgent:
    """An `Agent` that is made anew for each run."""

    def __init__(self, make: Callable[[], object], threads: Executor) -> None:
        self._make = make
        self._threads = threads

    async def run(self, prompt: Json, kwargs: Mapping[str, Json]) -> AgentReply:
        """See `Agent.run`."""
        made = await call(self._make, (), {}, threads=self._threads)
        if not (isinstance(made, InvokableAgent) or callable(made)):
            raise RegistrationError(f"{self._make!r:.100} made {made!r:.100}: no invoke_async, and cannot be called")
        # One of Strands' was made for this run alone: it needs no copy.
        target = StrandsAgent(partial(_itself, made)) if is_strands_agent(made) else made
        return await LocalAgent(target, self._threads).run(prompt, kwargs)


async def _durable(agent: StrandsLibraryAgent) -> StrandsAgent:
    return StrandsAgent(agent)


async def _itself(agent: T) -> T:
    return agent


class LocalAgent:
    """An `Agent` over a registered object or function."""

    def __init__(self, target: InvokableAgent | Callable[..., object], threads: Executor) -> None:
        self._target = target
        self._threads = threads

    async def run(self, prompt: Json, kwargs: Mapping[str, Json]) -> AgentReply:
        """See `Agent.run`."""
        answer = await self._invoke(prompt, kwargs)
        if isinstance(answer, AgentReply):
            return answer
        if (reply := reply_in(answer)) is not None:
            return reply
        return AgentReply(result=to_json(answer, "result", bytes_max=ARTIFACT_BYTES_MAX), usage=usage_of(answer))

    async def _invoke(self, prompt: Json, kwargs: Mapping[str, Json]) -> object:
        target = self._target.invoke_async if isinstance(self._target, InvokableAgent) else self._target
        return await call(target, (prompt,), kwargs, threads=self._threads)
