"""What a raise means: who decides, what can be decided, and how an actor's end is told.

To change it: values and decisions only. Carrying a decision out is `cell.py`'s business.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import structlog
from structlog.typing import FilteringBoundLogger

from actors.clock import Clock

Phase = Literal["activate", "receive", "deactivate", "background"]

log: FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """Actor code raised `error`. `restarts` counts this actor's restarts so far.

    Phase "background" is a raise of an `on_done` or of a death watch's `make_message`. When a child's failure
    escalated to this actor, `cause` is the child's.
    """

    actor_id: str
    error: BaseException
    phase: Phase
    restarts: int
    cause: "Failure | None" = None


class Directive(Enum):
    """What to do with an actor that failed."""

    RESTART = "restart"
    """Build a new actor, keep the mailbox. The failing message is dropped; children and background work are ended."""
    STOP = "stop"
    """End the actor, without `deactivate`: what failed half-way cannot be trusted to tidy up."""
    ESCALATE = "escalate"
    """End the actor like STOP, then let its parent's supervisor decide about the parent; at the top, the system."""


Supervisor = Callable[[Failure], Directive]


class StopReason(Enum):
    """Why an actor ended."""

    STOPPED = "stopped"
    PASSIVATED = "passivated"
    FAILED = "failed"
    ESCALATED = "escalated"
    DRAINED = "drained"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Terminated:
    """The end of an actor. `unhandled`: what it accepted and never finished to receive, oldest first.

    `error` is set when the reason is FAILED or ESCALATED. A message whose `receive` was cancelled half-way counts as
    unhandled, one whose `receive` raised does not.
    """

    actor_id: str
    reason: StopReason
    error: BaseException | None
    unhandled: tuple[object, ...]


def judge(supervisor: Supervisor, failure: Failure) -> Directive:
    """Return what is to be done, and log it. A failed `deactivate` is not restarted: it is STOP then."""
    try:
        directive = supervisor(failure)
    except Exception as error:
        # A supervisor that cannot decide leaves it to the one above, so that its bug does not pass unseen.
        log.error("supervisor_failed", actor_id=failure.actor_id, exc_info=error)
        directive = Directive.ESCALATE
    if failure.phase == "deactivate" and directive is Directive.RESTART:
        directive = Directive.STOP
    log.error(
        "actor_failed",
        actor_id=failure.actor_id,
        phase=failure.phase,
        directive=directive.value,
        restarts=failure.restarts,
        exc_info=failure.error,
    )
    return directive


def stop_on_failure(failure: Failure) -> Directive:
    """Return STOP, whatever happened."""
    return Directive.STOP


def restart_with_limit(restarts_max: int, within: float, clock: Clock) -> Supervisor:
    """Return a supervisor: RESTART up to `restarts_max` times within `within` seconds per actor id, then ESCALATE."""
    recent: dict[str, deque[float]] = {}

    def decide(failure: Failure) -> Directive:
        now = clock.monotonic()
        _forget_before(recent, now - within)
        restarts = recent.setdefault(failure.actor_id, deque())
        if len(restarts) >= restarts_max:
            del recent[failure.actor_id]
            return Directive.ESCALATE
        restarts.append(now)
        return Directive.RESTART

    return decide


def _forget_before(recent: dict[str, deque[float]], horizon: float) -> None:
    # One supervisor may serve any number of actors: those that have kept quiet must not stay in memory.
    for actor_id, restarts in tuple(recent.items()):
        while restarts and restarts[0] <= horizon:
            restarts.popleft()
        if not restarts:
            del recent[actor_id]
