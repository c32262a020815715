"""Agents: whatever answers a prompt, behind one protocol. One file per technology.

An adapter turns what its technology answers into an `AgentReply`; it never journals, retries or times out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from actors import Clock
from orchestrator.session.values import Json, JsonObject

if TYPE_CHECKING:
    from orchestrator.aws.agents import AgentRuntimes, LambdaFunctions


@dataclass(frozen=True, slots=True)
class AgentReply:
    """What an agent answered; `usage` holds the counts it reported (tokens, calls), `None` if it reported none."""

    result: Json
    usage: JsonObject | None = None


class Agent(Protocol):
    """One way of running agents."""

    async def run(self, prompt: Json, kwargs: Mapping[str, Json]) -> AgentReply:
        """Return the agent's answer; raises whatever the agent raises, and stops when cancelled."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """What a node lends to agents that run elsewhere: its clock, and services of AWS by region.

    `draw` returns a float from [0, 1).
    """

    clock: Clock
    draw: Callable[[], float]
    functions: Mapping[str, LambdaFunctions] = field(default_factory=dict)
    runtimes: Mapping[str, AgentRuntimes] = field(default_factory=dict)
