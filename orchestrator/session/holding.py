"""The part of `decide` for a session that is held: paused by a person, and let go again.

Held, a session begins nothing new: what its handler asks for is not answered, and asked again when it is let go. What
had begun goes on to its end, retries included. A stop overrides every hold: a handler that is to end may clean up.
"""

from __future__ import annotations

from typing import assert_never

from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.decision import NOTHING, Decision
from orchestrator.session.state import SessionState


def decide_hold(state: SessionState, message: m.PauseAsked | m.ResumeAsked) -> Decision:
    """Decide about a request to hold the session, or to let it go. Each is journaled once, needed or not (I9)."""
    if state.mail.is_known(message):
        return NOTHING
    match message:
        case m.PauseAsked():
            return (e.PauseRequested(message.reason, message.message_id),)
        case m.ResumeAsked():
            return (e.ResumeRequested(message.reason, message.message_id),)
        case _:
            assert_never(message)


def is_held_back(state: SessionState, message: m.Message) -> bool:
    """Return whether the message asks to begin something that a held session does not begin."""
    if not state.is_held or not isinstance(message, m.REQUESTS):
        return False
    if isinstance(message, m.CallbackRequested | m.ApprovalAsked) and message.agent_run is not None:
        # The agent run had begun.
        return False
    return message.operation not in state.operations
