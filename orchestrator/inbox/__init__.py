"""Where messages for a session wait in the table until its owner has journaled them, and how the owner hears of them.

`Inbox` and `WakeUps` are the protocols; `dynamodb` and `memory` keep them, and one contract suite holds both to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.errors import OrchestratorError


class MessageConflict(OrchestratorError):
    """Another message of that id waits there; the first one is untouched."""

    code = "MESSAGE_CONFLICT"

    def __init__(self, session_id: str, message_id: str) -> None:
        super().__init__(f"session {session_id} has a message {message_id!r:.150} of another content; use another id")
        self.session_id = session_id
        self.message_id = message_id


class UnknownSession(OrchestratorError):
    """No session of that id was accepted."""

    code = "UNKNOWN_SESSION"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"no session {session_id!r:.150} was accepted")


class SessionEnded(OrchestratorError):
    """The session has its terminal event: it takes no message any more."""

    code = "SESSION_ENDED"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id!r:.150} has ended")


@dataclass(frozen=True, slots=True)
class InboxItem:
    """One message that waits. `position` orders them: the inbox version its sender saw + 1; `body` is JSON text."""

    message_id: str
    position: int
    body: str


class UnreadableMessage(OrchestratorError):
    """A message that waits holds what this version cannot read: newer code wrote it, or it was changed by hand."""

    code = "UNREADABLE_MESSAGE"


class Inbox(Protocol):
    """The messages of sessions that are not journaled yet."""

    async def put(self, session_id: str, item: InboxItem) -> None:
        """Store the message; one of the same id and body that waits already stays as it is.

        Raises:
            MessageConflict: one of the same id with another body waits there.
        """
        ...

    async def read(self, session_id: str) -> tuple[InboxItem, ...]:
        """Return what waits now (consistent reads), by position, then by id; `()` for nothing."""
        ...

    async def delete(self, session_id: str, message_ids: Sequence[str]) -> None:
        """Remove these; one that is not there is no error."""
        ...


class WakeUps(Protocol):
    """Notes to a node that one of its sessions has new messages."""

    async def put(self, node_id: str, session_id: str) -> None:
        """Leave a note; a second one for the same session changes nothing."""
        ...

    def take(self, node_id: str) -> AsyncIterator[str]:
        """Yield the ids of sessions with a note, each note removed before its session is yielded.

        In that order a message that comes in between leaves a new note; in the other one its note would be lost.
        """
        ...
