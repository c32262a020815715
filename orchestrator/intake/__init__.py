"""Where messages come from. An envelope is a message with its delivery, acknowledged when what it asks is durable.

`formats` turns bodies into messages, with a module for each format that is not ours; `sqs` and `memory` deliver them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, Protocol, TypeAlias

from orchestrator.errors import OrchestratorError, Poison
from orchestrator.objects import ObjectWrite
from orchestrator.session.frozen import quick
from orchestrator.session.values import Json

UNKNOWN_RECEIVES_MAX: Final = 6
"""Deliveries of a message to a session that nobody knows, before it goes to the dead-letter queue. The pauses between
them (31 s) are longer than a start stays hidden whose node died with it."""


@quick
@dataclass(frozen=True, slots=True)
class Start:
    """Start a session, once. `trace` is a W3C `traceparent`, `input_bytes` the length of the input's JSON.

    `parent` and `parent_operation` name the session and its operation that wait for the end.
    """

    session_type: str
    session_id: str
    tenant: str
    input: Json
    trace: str | None = None
    task_token: str | None = None
    input_bytes: int = 0
    parent: str | None = None
    parent_operation: str | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a session a signal, once by its message id."""

    session_id: str
    name: str
    data: Json
    message_id: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ask a session to end, once by its message id."""

    session_id: str
    reason: str | None
    message_id: str


@dataclass(frozen=True, slots=True)
class CallbackAnswer:
    """Complete a callback."""

    callback_id: str
    token: str
    status: Literal["SUCCESS", "FAILURE"]
    result: Json = None
    error: Json = None


@dataclass(frozen=True, slots=True)
class Triggered:
    """What an event from outside sets off: its starts, and why other triggers that match it can start nothing.

    Those in `ordered` begin only if `write` is no older than what was seen of its object. The event may come on several
    ways, told a little differently on each: who finds its session accepted before is done.
    """

    starts: tuple[Start, ...] = ()
    ordered: tuple[Start, ...] = ()
    write: ObjectWrite | None = None
    refusals: tuple[Poison, ...] = ()


Request: TypeAlias = Start | Signal | Cancel | CallbackAnswer | Triggered


@quick
@dataclass(frozen=True, slots=True)
class Envelope:
    """One delivery of a body. `receive_count` starts at 1; `attributes` and `xray_header` come from the sender.

    `sent_at` is when it came into the queue; `None` where that is not known.
    """

    message_id: str
    body: str
    receive_count: int = 1
    attributes: Mapping[str, str] = field(default_factory=dict)
    xray_header: str | None = None
    sent_at: datetime | None = None


class TryAgainSoon(OrchestratorError):
    """What the envelope is about is not there yet: it comes again before long, after pauses that grow."""

    code = "TRY_AGAIN_SOON"


class Capacity(Protocol):
    """How many more sessions this node takes."""

    def free(self) -> int:
        """Return how many more fit now; may be negative for a moment."""
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
