"""Remote agents by A2A, the agent-to-agent protocol, at an address: `A2AAgent`.

`run` follows one task from here, `sdk` and `legacy` speak the generations of the protocol, `tasks` reads what they say,
`http` carries it. Nothing of the SDK is imported before a node runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TypeAlias
from urllib.parse import urlsplit

from orchestrator.agents import Agent, Connections
from orchestrator.errors import RegistrationError

Headers: TypeAlias = Mapping[str, str] | Callable[[], Awaitable[Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class A2AAgent:
    """A remote agent: `app.agent("analyst")(A2AAgent("https://agents.example.com/analyst"))`.

    Args:
        url: where its card is (`/.well-known/agent-card.json` under it), or, without one, the agent itself.
        headers: what authorises us: names and values, or an async function that returns them, asked once a run.
        origins: other origins (`https://host:port`) that the headers are sent to, where the card leads there. To any
            other they are not.
        push: let the agent tell of a task's end, if its card says that it can, instead of asking again and again; the
            run is parked meanwhile, and its session may leave memory. For tasks of hours, of agents that can reach
            `ORCHESTRATOR_PUBLIC_URL`.
        asks_people: let a person answer what the agent asks in the middle of a task, by an approval: its comment is the
            answer. Otherwise the run fails (`AGENT_INPUT_REQUIRED`).

    Raises:
        RegistrationError: `url` is no HTTP address, or the SDK is not installed.
    """

    url: str
    headers: Headers = field(default_factory=dict, repr=False)
    origins: tuple[str, ...] = ()
    push: bool = False
    asks_people: bool = False

    def __post_init__(self) -> None:
        for address in (self.url, *self.origins):
            if not _is_address(address):
                raise RegistrationError("A2AAgent: its address is not like https://host/path")
        if find_spec("a2a") is None:
            raise RegistrationError("A2AAgent needs a2a-sdk: pip install 'session-orchestrator[a2a]'")

    @property
    def service(self) -> None:
        """It is no service of AWS that it is called through."""

    def connected(self, connections: Connections) -> Agent:
        """Return the agent as a node runs it."""
        # Here, because it imports the SDK: a second that whoever only declares an agent need not wait.
        from orchestrator.agents.a2a.run import A2ARun  # noqa: PLC0415

        return A2ARun(self, connections)


def _is_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
        # To ask for the port is to parse it. What names a person would stand in logs.
        is_reachable = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        return parts.scheme in {"http", "https"} and is_reachable
    except ValueError:
        return False
