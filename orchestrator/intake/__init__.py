"""Where messages come from. An envelope is a message with its delivery, acknowledged when what it asks is durable.

`formats` turns bodies into messages, `sqs` and `memory` deliver them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from orchestrator.session.values import Json


@dataclass(frozen=True, slots=True)
class Start:
    """Start a session, once. `trace` is a W3C `traceparent`; the input is not yet checked against the session type."""

    session_type: str
    session_id: str
    tenant: str
    input: Json
    trace: str | None = None
    task_token: str | None = None


Request: TypeAlias = Start


@dataclass(frozen=True, slots=True)
class Envelope:
    """One delivery of a body. `receive_count` starts at 1; `attributes` and `xray_header` come from the sender."""

    message_id: str
    body: str
    receive_count: int = 1
    attributes: Mapping[str, str] = field(default_factory=dict)
    xray_header: str | None = None


class Capacity(Protocol):
    """How many more sessions this node takes."""

    def free(self) -> int:
        """Return how many more fit now; may be negative for a moment."""
        ...

    async def wait(self) -> None:
        """Return when `free()` is positive."""
        ...


Handle: TypeAlias = Callable[[Envelope], Awaitable[None]]
"""Returns when the envelope may be acknowledged; raises `Poison` for one that never can; others bring it again."""


class Intake(Protocol):
    """A source of envelopes."""

    async def run(self, handle: Handle) -> None:
        """Deliver envelopes until `stop`; returns when those under way are handled and acknowledged."""
        ...

    def stop(self) -> None:
        """Take nothing new from now on."""
        ...

    def unreachable_for(self) -> float:
        """Return for how many seconds the source has not answered; 0 while it does."""
        ...
