"""A small asyncio actor runtime: one task per actor, bounded mailboxes, supervision, passivation, drain.

To change it: generic, on the standard library and structlog alone. What is not named here is private, but for
`actors.testing`.
"""

from actors.actor import Actor
from actors.background import (
    Background,
    BackgroundTask,
    BusySignal,
    Cancelled,
    Failed,
    Outcome,
    Succeeded,
)
from actors.clock import Cancellable, Clock, ManualClock, SystemClock
from actors.context import ActorContext, Factory
from actors.errors import (
    ActorError,
    ActorStopped,
    AskTimeout,
    DuplicateActor,
    StrayCancellation,
    SystemDraining,
)
from actors.mailbox import Mailbox
from actors.ref import ActorRef, Reply
from actors.signals import Signal
from actors.supervision import (
    Directive,
    Failure,
    StopReason,
    Supervisor,
    Terminated,
    restart_with_limit,
    stop_on_failure,
)
from actors.system import ActorSystem, DrainReport
from actors.testing import settle

__all__ = [
    "Actor",
    "ActorContext",
    "ActorError",
    "ActorRef",
    "ActorStopped",
    "ActorSystem",
    "AskTimeout",
    "Background",
    "BackgroundTask",
    "BusySignal",
    "Cancellable",
    "Cancelled",
    "Clock",
    "Directive",
    "DrainReport",
    "DuplicateActor",
    "Factory",
    "Failed",
    "Failure",
    "Mailbox",
    "ManualClock",
    "Outcome",
    "Reply",
    "Signal",
    "StopReason",
    "StrayCancellation",
    "Succeeded",
    "Supervisor",
    "SystemClock",
    "SystemDraining",
    "Terminated",
    "restart_with_limit",
    "settle",
    "stop_on_failure",
]
