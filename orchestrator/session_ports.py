"""What a session's actor can be told, and what the actors of a node share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors import Clock, Reply
from orchestrator.app import Orchestrator, SessionType
from orchestrator.artifacts.payloads import PayloadStore
from orchestrator.callbacks import Callbacks
from orchestrator.calls import SessionArtifacts
from orchestrator.cluster import Heads
from orchestrator.errors import OrchestratorError, Unavailable, describe
from orchestrator.handler_ports import HandlerPorts
from orchestrator.inbox import Inbox
from orchestrator.journal import Journal
from orchestrator.performer import Performer
from orchestrator.session import messages as m
from orchestrator.session.values import ErrorRecord, JsonObject
from orchestrator.telemetry.port import Telemetry
from orchestrator.tenants import Quotas

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


@dataclass(frozen=True, slots=True)
class BlockedFound:
    """The session cannot go on: its handler and its journal do not match, or (`is_refusal`) AWS refuses us for now."""

    error: ErrorRecord
    is_refusal: bool = False


def blocked_by(error: OrchestratorError) -> BlockedFound:
    """Return what the actor is told of a session that stands before that error."""
    return BlockedFound(describe(error), is_refusal=isinstance(error, Unavailable))


@dataclass(frozen=True, slots=True)
class InboxChanged:
    """There is news in the session's inbox."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """A message from outside that came to the owner itself; `reply` is set when it is durable."""

    message: m.Delivered
    reply: Reply[None]


@dataclass(frozen=True, slots=True)
class Record:
    """An agent run has something to record; `done` is set when it is durable, or decided nothing."""

    message: m.Message
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class LeaveSoon:
    """The node is about to stop: a session that only waits need not keep it."""


@dataclass(frozen=True, slots=True)
class Settle:
    """See whether the session has rested for long enough to leave memory.

    With `said`, the handler had sent so many messages when this was asked: all of them have been heard by now.
    """

    said: int | None = None


ActorMessage = m.Message | BlockedFound | InboxChanged | Deliver | Record | LeaveSoon | Settle


@dataclass(frozen=True, slots=True)
class SessionPorts:
    """What every session actor of a node shares. `draw` returns a float from [0, 1), `new_id` a unique id.

    `new_token` returns an unguessable text, `callback_url` the address of a callback. `budget_default` is what a
    session may spend whose type declares no budget; `None` is no limit.
    """

    node_id: str
    app: Orchestrator
    journal: Journal
    heads: Heads
    inbox: Inbox
    callbacks: Callbacks
    quotas: Quotas
    payloads: PayloadStore
    artifacts: SessionArtifacts
    performer: Performer
    clock: Clock
    threads: Executor
    draw: Callable[[], float]
    new_id: Callable[[], str]
    new_token: Callable[[], str]
    callback_url: Callable[[str], str]
    budget_default: JsonObject | None
    fruitless_resumes_max: int
    passivate_after: float
    telemetry: Telemetry
    log: FilteringBoundLogger

    def budget_of(self, session_type: SessionType | None) -> JsonObject | None:
        """Return what a new session of that type may spend; `None` where nothing limits it."""
        declared = None if session_type is None else session_type.budget
        return self.budget_default if declared is None else declared.spec

    def for_handler(
        self, tell: Callable[[ActorMessage], None], on_waiting: Callable[[], None], log: FilteringBoundLogger
    ) -> HandlerPorts:
        """Return what one run of a handler needs, whose actor is reached by `tell`."""
        return HandlerPorts(
            tell=tell,
            block=lambda error: tell(blocked_by(error)),
            clock=self.clock,
            draw=self.draw,
            threads=self.threads,
            payloads=self.payloads,
            artifacts=self.artifacts,
            callbacks=self.callbacks,
            new_token=self.new_token,
            callback_url=self.callback_url,
            on_waiting=on_waiting,
            began=self.telemetry.began,
            log=log,
        )
