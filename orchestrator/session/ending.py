"""The part of `decide` for how a session ends: by its handler, by a cancel, by its time limit, by its length.

A session that is to end lets its handler know first: the handler cleans up and compensates, within a grace time. Its
end is recorded when the handler has ended knowing of it, or when it was waited for long enough.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final, TypeAlias, assert_never

from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.budget import end_of, wall_time_over_at
from orchestrator.session.decision import NOTHING, Decision
from orchestrator.session.state import SessionState, Stop
from orchestrator.session.values import DELAY_SECONDS_MAX, ErrorRecord, next_milli

GRACE: Final = timedelta(seconds=60)
"""How long a handler may take to end after it was asked to; then it is stopped."""
LAST_GRACE: Final = timedelta(minutes=15)
"""How long its undo steps may take after that; then the session ends without the rest of them."""
_GENERATION: Final = re.compile(r"(?P<root>.+):g(?P<number>\d+)")


def decide_stop(
    state: SessionState,
    message: m.CancelAsked | m.KillAsked | m.Dismissed | m.TimeLimitReached | m.GraceOver,
    now: datetime,
) -> Decision:
    """Decide about a request to end. An alarm that is early or rings twice decides nothing, as a timer's does."""
    match message:
        case m.CancelAsked():
            if state.mail.is_known(message):
                return NOTHING
            return (e.CancelRequested(message.reason, message_id=message.message_id),)
        case m.KillAsked():
            if state.mail.is_known(message):
                return NOTHING
            return (e.CancelRequested(message.reason, e.KILL, message.message_id), e.SessionCancelled(message.reason))
        case m.Dismissed():
            # The handler never ran: nobody has to hear of it first, and there is nothing to undo.
            return (
                e.CancelRequested(message.reason, message.cause, message.message_id),
                e.SessionCancelled(message.reason),
            )
        case m.TimeLimitReached():
            limit = time_limit_at(state)
            if state.stop is not None or limit is None or now < limit:
                return NOTHING
            reason = f"the session did not end within {timedelta(seconds=state.started.time_limit or 0)}"
            return (e.CancelRequested(reason, cause="time_limit"),)
        case m.GraceOver():
            return NOTHING if state.stop is None or now < grace_over_at(state.stop) else _grace_over(state.stop)
        case _:
            assert_never(message)


Ended: TypeAlias = m.HandlerReturned | m.HandlerRaised | m.HandlerContinued


def decide_end(state: SessionState, message: Ended) -> Decision:
    """Decide about the end of the handler."""
    if state.stop is not None:
        # A handler that ended before it heard of the request runs again, from its journal, to do what is left to do.
        return (_stopped(state.stop),) if message.knew_of_stop else NOTHING
    match message:
        case m.HandlerReturned():
            return (e.SessionCompleted(result=message.result),)
        case m.HandlerRaised():
            return (e.SessionFailed(error=message.error),)
        case m.HandlerContinued():
            return (e.SessionContinued(message.input, next_generation(state.session_id)),)
        case _:
            assert_never(message)


def next_generation(session_id: str, steps: int = 1) -> str:
    """Return the id of the journal in which such a session goes on, so many steps on: `<id>:g2`, then `<id>:g3`."""
    match _generation(session_id):
        case None:
            return f"{session_id}:g{1 + steps}"
        case found:
            return f"{found['root']}:g{int(found['number']) + steps}"


def previous_generation(session_id: str) -> str | None:
    """Return the id of the journal that such a session continues; `None` for the first."""
    found = _generation(session_id)
    if found is None:
        return None
    number = int(found["number"]) - 1
    return found["root"] if number == 1 else f"{found['root']}:g{number}"


def first_generation(session_id: str) -> str:
    """Return the id that such a session was accepted under."""
    found = _generation(session_id)
    return session_id if found is None else found["root"]


def _generation(session_id: str) -> re.Match[str] | None:
    # Most sessions are their own first one, which is seen at a tenth of the price.
    return _GENERATION.fullmatch(session_id) if ":g" in session_id else None


def time_limit_at(state: SessionState) -> datetime | None:
    """Return when the session has lived as long as it may; `None` where nothing limits it."""
    limit = state.started.time_limit
    if limit is None:
        return None
    return next_milli(state.started_at + timedelta(seconds=min(max(limit, 0.0), DELAY_SECONDS_MAX)))


def time_is_up_at(state: SessionState) -> datetime | None:
    """Return when time alone next stops the session, or has people asked; `None` where it never does."""
    over_at = None if state.spent.asking is not None else wall_time_over_at(state)
    return min((at for at in (time_limit_at(state), over_at) if at is not None), default=None)


def grace_over_at(stop: Stop) -> datetime:
    """Return when the handler has had its time to end, or its undo steps theirs."""
    return stop.at + GRACE if stop.forced_at is None else stop.forced_at + LAST_GRACE


def _grace_over(stop: Stop) -> Decision:
    if stop.forced_at is None:
        return (e.CancelRequested(stop.reason, cause="grace"),)
    return (_stopped(stop),)


def journal_too_long(reason: str) -> ErrorRecord:
    """Return what such a session failed with."""
    return ErrorRecord("JournalTooLong", "JOURNAL_TOO_LONG", reason)


def _stopped(stop: Stop) -> e.SessionCancelled | e.SessionFailed:
    if stop.cause == "time_limit":
        return e.SessionFailed(ErrorRecord("SessionTimedOut", "SESSION_TIMED_OUT", stop.reason))
    if stop.cause == "journal":
        return e.SessionFailed(journal_too_long(stop.reason))
    spent = end_of(stop.cause, stop.reason)
    if spent is not None:
        return e.SessionFailed(spent)
    return e.SessionCancelled(stop.reason)
