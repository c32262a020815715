"""What a node takes from the machine that it runs on: time, chance, ids, threads, and its own end.

Nothing else of a node knows where it runs: on another machine than this one, a whole cluster of nodes lives in one
process on virtual time (`tests/simulation`).
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, NoReturn

import structlog

from actors import Clock, SystemClock
from orchestrator.aws.xray import signed_session
from orchestrator.callbacks import TOKEN_BYTES
from orchestrator.memory_pressure import used_share
from orchestrator.process_identity import own_process
from orchestrator.telemetry.port import SILENT, Telemetry
from orchestrator.telemetry.wanted import is_wanted
from orchestrator.user_code import step_threads

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

EXIT_FENCED: Final = 70
"""The exit code of a node that fenced itself (sysexits: internal software error); its supervisor starts a new one."""
STEP_THREADS_MAX: Final = 64
ECS_AGENT_URI: Final = "ECS_AGENT_URI"
"""The variable by which ECS tells a container where its agent listens."""

log: FilteringBoundLogger = structlog.get_logger("orchestrator")


async def _silent(_: str) -> Telemetry:
    return SILENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine with one process of ours.

    `draw` returns a float from [0, 1), `new_hex` 32 hexadecimal digits that were never returned before, `new_token` an
    unguessable text. `process` names the process (`None` where that cannot be told). `fence(reason)` and `abandon()`
    end the process and do not return; `guard(watch)` runs a function beside the event loop, for as long as that takes.
    `ecs_agent_uri` is where the agent of ECS listens, where there is one; `used_memory` returns how much is used of the
    memory that there is, from 0 to 1, or `None` where that cannot be told. `telemetry_of(node_id)` opens what takes a
    node's metrics and traces.
    """

    clock: Clock
    draw: Callable[[], float]
    new_hex: Callable[[], str]
    new_token: Callable[[], str]
    threads: Executor
    process: str | None
    fence: Callable[[str], NoReturn]
    abandon: Callable[[], NoReturn]
    guard: Callable[[Callable[[], None]], None]
    ecs_agent_uri: str | None = None
    used_memory: Callable[[], float | None] = lambda: None
    telemetry_of: Callable[[str], Awaitable[Telemetry]] = _silent


@contextmanager
def this_machine() -> Iterator[Machine]:
    """Yield the machine that this process runs on; its threads end with the block."""
    with step_threads(STEP_THREADS_MAX) as threads:
        yield Machine(
            clock=SystemClock(),
            draw=random.SystemRandom().random,
            new_hex=lambda: uuid.uuid4().hex,
            new_token=lambda: secrets.token_urlsafe(TOKEN_BYTES),
            threads=threads,
            process=own_process(),
            fence=fence,
            abandon=abandon,
            guard=in_a_thread,
            ecs_agent_uri=os.environ.get(ECS_AGENT_URI) or None,
            used_memory=used_share,
            telemetry_of=telemetry_of_process,
        )


async def telemetry_of_process(node_id: str) -> Telemetry:
    """Open the telemetry that the environment asks for (`docs/telemetry.md`)."""
    if not is_wanted(os.environ):
        return SILENT
    # Imported where it is wanted: the SDK and its exporters would be a third of what an idle node holds.
    from orchestrator.telemetry.otel import open_telemetry  # noqa: PLC0415

    # In a thread: it asks the container's metadata endpoint.
    return await asyncio.to_thread(
        open_telemetry, node_id, version("session-orchestrator"), SystemClock(), session_for=signed_session
    )


def fence(reason: str) -> NoReturn:
    """End this process before it does anything else: others may own its sessions by now (rule 3)."""
    log.critical("node_fenced", reason=reason)
    os._exit(EXIT_FENCED)


def abandon() -> NoReturn:
    """End this process, in order but for code that will not end."""
    os._exit(0)


def in_a_thread(watch: Callable[[], None]) -> None:
    """Run the function in a thread that keeps no process alive."""
    threading.Thread(target=watch, name="loop watch", daemon=True).start()
