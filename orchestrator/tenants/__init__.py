"""How many sessions of a tenant may run at once: slots, their count, and who waits for one in which order.

`Quotas` is the protocol; `dynamodb` and `memory` keep it, and one contract suite holds both to it. Whatever changes who
has a slot or waits for one changes HEAD, the slot and both counts in one transaction: no crash makes them drift (I10).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol

from orchestrator.cluster import ENDS_NOW, Head, claimed
from orchestrator.session.transitions import SessionStatus

SLOT: Final = "slot"
"""Attribute of a HEAD whose session has a slot: its end owes it back."""
DISMISSED: Final = "dismissed"
"""Attribute of a HEAD whose session was cancelled while it was queued: its handler never runs."""
LIMIT_MAX: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Quota:
    """A tenant's counts. `limit` 0 is none; `is_own` says whether it was set for this tenant, or is the default."""

    tenant: str
    limit: int
    is_own: bool = False
    used: int = 0
    queued: int = 0

    @property
    def has_room(self) -> bool:
        """Whether a slot is free; those who are queued have the first right to it."""
        return self.limit == 0 or self.used < self.limit


def promoted(head: Head, *, node_id: str | None, nonce: str, at: datetime) -> Head:
    """Return what `Quotas.promote` makes of a HEAD."""
    head = replace(head, attributes={**head.attributes, SLOT: True})
    return _taken(head, node_id=node_id, nonce=nonce, at=at)


def dismissed(head: Head, *, node_id: str | None, nonce: str, at: datetime) -> Head:
    """Return what `Quotas.dismiss` makes of a HEAD."""
    head = replace(head, attributes={**head.attributes, DISMISSED: True})
    taken = _taken(head, node_id=node_id, nonce=nonce, at=at)
    # It only has to be ended: whoever sees it first does that, however full.
    return taken if node_id is not None else replace(taken, wake_at=ENDS_NOW)


def _taken(head: Head, *, node_id: str | None, nonce: str, at: datetime) -> Head:
    assert head.status is SessionStatus.QUEUED, f"{head.session_id} is not queued"
    taken = claimed(head, node_id=node_id or "", nonce=nonce, at=at, from_dead_owner=False)
    return taken if node_id is not None else replace(taken, owner=None, wake_at=at)


class Quotas(Protocol):
    """The tenants' limits, slots and queues. HEADs that a transaction concerns are written by it and nobody else."""

    @property
    def limit_default(self) -> int:
        """The limit of a tenant for whom none was set; 0 is none."""
        ...

    async def get(self, tenant: str) -> Quota:
        """Return the tenant's counts as of now (a consistent read)."""
        ...

    async def set_limit(self, tenant: str, limit: int, *, at: datetime) -> Quota:
        """Set the tenant's own limit; 0 is none. Who runs goes on, who is queued is not promoted by this alone."""
        ...

    def tenants(self, *, limited: bool) -> AsyncIterator[str]:
        """Yield the tenants for whom a limit was set, or (`limited` false) that there is none; may be late."""
        ...

    async def admit(self, head: Head) -> Head | None:
        """Insert a HEAD together with its session's slot; return it, or the one that already stands there.

        `None`: nothing was inserted, because no slot is free, or because others wait for it.
        """
        ...

    async def enqueue(self, head: Head) -> Head | None:
        """Insert a HEAD that is QUEUED, behind the others; return it, or the one that already stands there.

        `None`: nothing was inserted, because a slot is free and nobody waits for it.
        """
        ...

    async def oldest(self, tenant: str, count: int) -> tuple[str, ...]:
        """Return the ids of those who have been queued longest (a consistent read), in order of arrival."""
        ...

    async def promote(self, head: Head, *, node_id: str | None, nonce: str, at: datetime) -> Head | None:
        """Give a queued session a slot and claim it (`node_id` `None`: due at `at` for whoever has room); return HEAD.

        `None`: no slot is free, and it is queued as before.

        Raises:
            NotOwner: it is not queued any more, or a message came in since HEAD was read.
        """
        ...

    async def dismiss(self, head: Head, *, node_id: str | None, nonce: str, at: datetime) -> Head:
        """Take a queued session out of the queue without a slot, to end it, and claim it as `promote` does.

        Raises:
            NotOwner: as for `promote`.
        """
        ...

    async def free(self, tenant: str, session_id: str) -> None:
        """Give a session's slot back, once: nothing happens where it has none."""
        ...
