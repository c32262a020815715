"""What the rooms of a node tell of their work, for whoever makes metrics and traces of it.

`Telemetry` takes it all and forgets it: a node without an exporter pays a call each, and no more. `otel` keeps it.
Nothing here waits, fails or does I/O: a session is never slowed by who looks at it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from orchestrator.session.events import Recorded
from orchestrator.session.state import Operation, SessionState

BLOCKED: Final = "orchestrator.sessions.blocked"
STUCK: Final = "orchestrator.sessions.stuck"
MAILBOX: Final = "orchestrator.mailbox.depth"
UNHEALTHY: Final = "orchestrator.node.unhealthy"
GAUGES: Final = {
    BLOCKED: ("{session}", "Sessions of the whole table that cannot go on; told by one node"),
    STUCK: ("{session}", "Sessions on this node without an event for long"),
    MAILBOX: ("{message}", "Messages in the fullest mailbox"),
    UNHEALTHY: ("1", "1 while the node calls itself unhealthy"),
}
"""Gauge → its unit, and what it says."""


class Telemetry:
    """Takes what it is told, and forgets it."""

    is_exporting: bool = False
    """Whether anybody sees it: what costs requests to find out is asked only then."""

    # --- one session ---------------------------------------------------------------------------------------------

    def trace_for(self, session_id: str, trace: str | None, at: datetime) -> str | None:
        """Return the `traceparent` that a session is accepted under; `trace` is that of whoever submitted it.

        Its last flag says whether the session's spans are kept: decided here once, and journaled with event 1.
        """
        return trace

    def began(self, session_id: str, operation: str) -> None:
        """Note that the first attempt at a step begins now: the journal holds its end alone."""

    def recorded(
        self, before: SessionState | None, state: SessionState, recorded: Recorded, operation: Operation | None
    ) -> None:
        """Note an event that this node made durable, with the state before and after it.

        `operation` is what it is an event of, as it stands after it; `None` for those of the session itself.
        """

    def entered(self, state: SessionState) -> None:
        """Note that the session is in this node's memory now."""

    def took_over(self, before: SessionState) -> None:
        """Note that the session was taken from an owner that did not hand it over, as the journal stood then."""

    def left(self, state: SessionState, how: str, at: datetime) -> None:
        """Note that the session has left this node's memory: `suspended`, `handed_over` or `blocked`."""

    def forget(self, session_id: str) -> None:
        """Drop what was noted of a session that left silently: another epoch has it."""

    # --- the node ------------------------------------------------------------------------------------------------

    def accepted(self, seconds: float) -> None:
        """Note how long it took until a message was durable, from its receipt on."""

    def queued(self, seconds: float) -> None:
        """Note how long a message was in the queue before it was received for the first time."""

    def messages(self, what: str, count: int) -> None:
        """Note how many messages of the queue were `received`, `deleted` or `dead_lettered`."""

    def appended(self, seconds: float, writes: int) -> None:
        """Note one request that carried so many writes to the table."""

    def conflict(self) -> None:
        """Note that an append met another epoch's event."""

    def throttled(self, service: str) -> None:
        """Note that AWS turned a request away for coming too fast."""

    def loop_lag(self, seconds: float) -> None:
        """Note how late the event loop was."""

    def undelivered(self, notice: str, since: datetime, next_at: datetime | None) -> None:
        """Note that a channel did not take a notice; `next_at` is when it is tried again, `None` for never."""

    def delivered(self, notice: str) -> None:
        """Note that a channel took a notice that it had not taken before."""

    def measured(self, name: str, value: float) -> None:
        """Note what a gauge stands at now; `name` is one of `GAUGES`."""

    async def flush(self) -> None:
        """Export what was noted so far, or give up after some seconds."""


SILENT: Final = Telemetry()
