"""Agents: whatever answers a prompt, behind one protocol. One file per technology.

An adapter turns what its technology answers into an `AgentReply`; it never journals, retries or times out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from orchestrator.session.values import Json, JsonObject


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
