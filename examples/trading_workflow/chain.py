"""How one application follows another: by the event that tells of the end of a session."""

from __future__ import annotations

from typing import Any, Final

from orchestrator import Event

DESK: Final = "acme.desk"
"""The source of requests."""
TOLD_BY: Final = "session-orchestrator"
"""The source of what is told of sessions."""
REQUESTED: Final = "Rebalance Requested"


def after(session_type: str) -> dict[str, Any]:
    """Return the arguments of `on_event` for a session that goes on with the result of another one."""
    return {
        "source": TOLD_BY,
        "detail_type": "Session Completed",
        "match": {"detail": {"session_type": [session_type]}},
        "transform": result_of,
        "key": notification_of,
    }


def result_of(told: Event) -> object:
    """Return what the session came to."""
    return told.detail["result"]


def notification_of(told: Event) -> str:
    """Return what stays the same when the end is told again: each time is another event to EventBridge."""
    return str(told.detail["notification_id"])
