"""HEAD of one session as its owner keeps it: every write under the owner's epoch, redone when only the inbox moved on.

A write that finds another owner raises `Stale`: the session is somebody else's (I7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from orchestrator.cluster import BLOCKED_ERROR, ENDS_NOW, Head, Heads, NotOwner
from orchestrator.errors import Stale
from orchestrator.session.ending import time_is_up_at
from orchestrator.session.state import SessionState
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import ErrorRecord, Json
from orchestrator.tenants import DISMISSED, SLOT

BLOCKED_DELAY_BASE: Final = timedelta(seconds=30)
BLOCKED_DELAY_MAX: Final = timedelta(hours=1)
BLOCKED_TIMES: Final = "blocked_times"
BLOCKED_SEQ: Final = "blocked_seq"
OUTBOX_GRACE: Final = timedelta(seconds=30)
"""How long the writer of an end has for telling of it, before another node takes that over (rule 13)."""


@dataclass(frozen=True, slots=True)
class Rest:
    """How a session is left: its status, when it is due again, and its attributes if they change."""

    status: SessionStatus
    wake_at: datetime | None
    attributes: Mapping[str, Json] | None = None


class OwnedHead:
    """The HEAD of a session that this node owns, as last read or written.

    `was_owned` tells that it was claimed from an owner that had not given it up.
    """

    def __init__(self, heads: Heads, head: Head, node_id: str, *, was_owned: bool = False) -> None:
        self._heads = heads
        self._node_id = node_id
        self.current = head
        self.was_owned = was_owned

    @property
    def has_slot(self) -> bool:
        """Whether the session runs in a slot of its tenant."""
        return SLOT in self.current.attributes

    @property
    def is_dismissed(self) -> bool:
        """Whether the session was cancelled while it waited for a slot."""
        return DISMISSED in self.current.attributes

    async def refresh(self) -> Head:
        """Return HEAD as it stands now. Raises `Stale` when it is ours no longer."""
        head = await self._heads.get(self.current.session_id)
        if head is None or head.epoch != self.current.epoch or head.owner != self._node_id:
            raise Stale(f"HEAD of {self.current.session_id} is no longer ours: {head}")
        self.current = head
        return head

    async def settle_takeovers(self, state: SessionState) -> None:
        """Count takeovers from one again if the owner before us left more than its arrival in the journal (rule 12)."""
        # An epoch that the journal does not show died before its SESSION_RESUMED: it made nothing of its turn.
        made_progress = state.epoch == self.current.epoch - 1 and state.fruitless_resumes == 0
        if not made_progress or self.current.takeovers <= 1:
            return
        try:
            self.current = await self._heads.settle_takeovers(self.current)
        except NotOwner as error:
            raise Stale(str(error)) from None

    async def release(self, rest: Rest, *, last_seq: int, at: datetime) -> None:
        """Give the session up, whatever came into its inbox meanwhile: it is due soon, or its message woke somebody."""
        while not await self.released(rest, last_seq=last_seq, at=at):
            known = self.current.wake_at
            if (await self.refresh()).wake_at == ENDS_NOW != known:
                # Somebody killed it meanwhile: whoever comes next has to hear of that, however full.
                rest = replace(rest, wake_at=ENDS_NOW)

    async def released(self, rest: Rest, *, last_seq: int, at: datetime) -> bool:
        """Give the session up and return True; False when a message came in since HEAD was read (rule 5)."""
        try:
            self.current = await self._heads.release(
                self.current, rest.status, last_seq=last_seq, at=at, wake_at=rest.wake_at, attributes=rest.attributes
            )
        except NotOwner:
            return False
        return True

    async def end(self, state: SessionState, outbox: tuple[str, ...]) -> None:
        """Bring HEAD to the recorded end, with what is still to be told of it."""
        while True:
            try:
                self.current = await self._heads.end(
                    self.current,
                    state.status,
                    last_seq=state.last_seq,
                    at=state.updated_at,
                    outbox=outbox,
                    wake_at=state.updated_at + OUTBOX_GRACE if outbox else None,
                    continued_as=state.continued_as,
                )
            except NotOwner:
                await self.refresh()
            else:
                return

    async def annotate(self, attributes: Mapping[str, Json]) -> None:
        """Keep these attributes, while whatever else goes on with HEAD goes on. Raises `Stale`."""
        try:
            await self._heads.annotate(self.current, attributes)
        except NotOwner as error:
            raise Stale(str(error)) from None
        # Nothing else of what stands there: an inbox version that nobody has read behind would lose a message (rule 5).
        self.current = replace(self.current, attributes=attributes)

    async def settle_outbox(
        self, outbox: tuple[str, ...], wake_at: datetime | None = None, attributes: Mapping[str, Json] | None = None
    ) -> None:
        """Keep what is still to be told, and when, and give the session up."""
        try:
            self.current = await self._heads.settle_outbox(self.current, outbox, wake_at=wake_at, attributes=attributes)
        except NotOwner as error:
            raise Stale(str(error)) from None

    def blocked(self, error: ErrorRecord, state: SessionState | None, now: datetime) -> Rest:
        """Return how a session that cannot go on is left: looked at again after a delay that grows, or at its end."""
        times = self._times_blocked(state) + 1
        delay = min(BLOCKED_DELAY_MAX, BLOCKED_DELAY_BASE * 2 ** min(times - 1, 16))
        attributes: dict[str, Json] = {
            **self.current.attributes,
            BLOCKED_TIMES: times,
            BLOCKED_SEQ: 0 if state is None else state.last_seq,
            BLOCKED_ERROR: f"{error.code}: {error.message}",
        }
        limit = None if state is None or state.stop is not None else time_is_up_at(state)
        wake_at = now + delay if limit is None or limit <= now else min(limit, now + delay)
        return Rest(SessionStatus.BLOCKED, wake_at, attributes)

    def _times_blocked(self, state: SessionState | None) -> int:
        """Return how often in a row the session was blocked: a new event other than its resumption begins anew."""
        times, seq = self.current.attributes.get(BLOCKED_TIMES), self.current.attributes.get(BLOCKED_SEQ)
        if not isinstance(times, int) or not isinstance(seq, int):
            return 0
        return 0 if state is not None and state.last_seq > seq + 1 else times
