"""What people and systems are told of sessions. `Notifications` is the protocol; `log` writes it to the node's log."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from orchestrator.session.values import Json


@dataclass(frozen=True, slots=True)
class ApprovalNotice:
    """A person is asked for an approval: `POST url` with the token answers it, and so does the command line."""

    session_id: str
    session_type: str
    tenant: str
    name: str
    subject: Json
    approvers: Json
    times_out_at: datetime | None
    callback_id: str
    url: str
    token: str = field(repr=False)


class Notifications(Protocol):
    """Tells the world. Each notice may go out more than once; its id is the same each time."""

    async def approval_requested(self, notice: ApprovalNotice) -> None:
        """Return when whoever is to answer can be expected to hear of it."""
        ...
