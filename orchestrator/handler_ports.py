"""What one run of a handler needs of its surroundings: its actor, time, chance, threads, stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors import Clock
from orchestrator import user_code
from orchestrator.artifacts.payloads import PayloadStore
from orchestrator.callbacks import Callbacks
from orchestrator.calls import SessionArtifacts
from orchestrator.errors import OrchestratorError
from orchestrator.session import messages as m
from orchestrator.session.frozen import quick
from orchestrator.user_code import Caller

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from structlog.typing import FilteringBoundLogger


@quick
@dataclass(frozen=True, slots=True)
class HandlerPorts:
    """What a run needs of its surroundings. `tell` reaches its actor, `draw` returns a float from [0, 1).

    `new_token` returns an unguessable text, `callback_url` the address that completes a callback. `on_waiting` is
    called whenever the handler begins or ends to wait for what comes from outside, `call` for every attempt of a step,
    and `began(session_id, operation)` before it.
    """

    tell: Callable[[m.Message], None]
    block: Callable[[OrchestratorError], None]
    clock: Clock
    draw: Callable[[], float]
    threads: Executor
    payloads: PayloadStore
    artifacts: SessionArtifacts
    callbacks: Callbacks
    new_token: Callable[[], str]
    callback_url: Callable[[str], str]
    on_waiting: Callable[[], None]
    began: Callable[[str, str], None]
    log: FilteringBoundLogger
    call: Caller = user_code.call
