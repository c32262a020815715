"""A journal folded into its session's state, for whoever activates a session or shows one."""

from __future__ import annotations

from orchestrator.journal import Journal, UnreadableEvent
from orchestrator.session.events import Recorded, SessionStarted
from orchestrator.session.state import SessionState, begin, evolve


async def first_event(journal: Journal, session_id: str) -> Recorded:
    """Return event 1 of a session that was accepted."""
    async for first in journal.read(session_id):
        return first
    raise AssertionError(f"event 1 of {session_id} vanished: events are never deleted early")


async def read_state(journal: Journal, session_id: str) -> SessionState | None:
    """Return the state after the last event; `None` for an empty journal.

    Raises:
        UnreadableEvent: this version cannot read an event, or the journal does not begin with a start, as each does.
    """
    state: SessionState | None = None
    async for recorded in journal.read(session_id):
        if isinstance(recorded.event, SessionStarted) != (state is None):
            raise UnreadableEvent(f"event {recorded.seq} of {session_id} is out of place: the journal was changed")
        try:
            state = begin(session_id, recorded) if state is None else evolve(state, recorded)
        except (AssertionError, KeyError) as error:
            # Each event can be read, and they contradict each other: no version of ours wrote them in this order.
            raise UnreadableEvent(f"event {recorded.seq} of {session_id} cannot follow: {error}") from error
    return state
