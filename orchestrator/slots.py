"""Who of a limited tenant runs and who waits: slots are taken, waited for in order of arrival, and passed on.

A tenant without a limit comes by here and costs nothing: which tenants are limited is known from the last `refresh`.
Whoever gives a slot back promotes the next; besides, everybody who waits is looked at again now and then, so that a
promoter that dies delays it, no more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from orchestrator.capacity import Guards, NodeCapacity
from orchestrator.cluster import Head, NotOwner
from orchestrator.session.notices import FreeSlot
from orchestrator.session.state import SessionState
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import truncate_to_millis
from orchestrator.session_ports import SessionPorts
from orchestrator.tenants import SLOT, Quota

LOOK_AFTER: Final = timedelta(seconds=30)
"""How soon somebody who waits is looked at again. Every look serves the whole queue, so a long one needs fewer each."""
LOOKS_A_SECOND_MAX: Final = 20
PROMOTIONS_PAGE: Final = 25


class Slots:
    """The slots of all tenants, as this node takes and passes them on.

    `guards` keeps it to one thing at a time for a session, `takes` says whether this node takes sessions, and
    `bring_up` brings a claimed one to life.
    """

    def __init__(
        self,
        ports: SessionPorts,
        guards: Guards,
        capacity: NodeCapacity,
        *,
        takes: Callable[[], bool],
        bring_up: Callable[[Head, SessionState | None], Awaitable[None]],
    ) -> None:
        self._ports = ports
        self._quotas = ports.quotas
        self._guards = guards
        self._capacity = capacity
        self._takes = takes
        self._bring_up = bring_up
        self._promoting = Guards()
        # Transactions of one tenant meet at its count, and those that meet are refused: a node makes one at a time.
        self._counting = Guards()
        self._exceptions: frozenset[str] = frozenset()

    async def refresh(self) -> None:
        """Learn which tenants are limited though others are not, or the other way round."""
        limited = self._quotas.limit_default == 0
        self._exceptions = frozenset([tenant async for tenant in self._quotas.tenants(limited=limited)])

    def limits(self, tenant: str) -> bool:
        """Return whether sessions of the tenant need a slot, as far as this node has heard of it."""
        return (tenant in self._exceptions) is (self._quotas.limit_default == 0)

    async def seat(self, head: Head) -> Head:
        """Insert the HEAD of a new session with a slot, or as one that waits for it; return the HEAD that stands."""
        seated = replace(head, attributes={**head.attributes, SLOT: True})
        waiting = replace(head, status=SessionStatus.QUEUED, owner=None, wake_at=self._now() + LOOK_AFTER)
        async with self._counting.holding(head.tenant):
            standing: Head | None = None
            while standing is None:
                # Each is refused where the other is not; a slot that comes or goes in between asks for one more turn.
                standing = await self._quotas.admit(seated) or await self._quotas.enqueue(waiting)
        if standing.status is SessionStatus.QUEUED and standing.claim_nonce == head.claim_nonce:
            known = {"session_id": head.session_id, "epoch": standing.epoch, "tenant": head.tenant}
            self._ports.log.info("session_queued", **known)
        return standing

    async def look_at(self, head: Head) -> bool:
        """See whether a session that waits may run by now, and else look again later; return whether it may."""
        quota = await self._quotas.get(head.tenant)
        promoted = await self.promote(head.tenant) if quota.has_room else frozenset[str]()
        if head.session_id in promoted:
            return True
        with suppress(NotOwner):
            await self._ports.heads.make_due(head, at=self._now() + _pause(quota))
        return False

    async def free(self, notice: FreeSlot) -> None:
        """Give a session's slot back, and let those run who waited for it."""
        async with self._counting.holding(notice.tenant):
            await self._quotas.free(notice.tenant, notice.session_id)
        if (await self._quotas.get(notice.tenant)).queued:
            await self.promote(notice.tenant)

    async def promote(self, tenant: str) -> frozenset[str]:
        """Let those run who have waited longest, as far as slots are free; return their ids."""
        promoted: set[str] = set()
        async with self._promoting.holding(tenant):
            while True:
                before = len(promoted)
                for session_id in await self._quotas.oldest(tenant, PROMOTIONS_PAGE):
                    if not await self._has_left_queue(session_id, promoted):
                        return frozenset(promoted)
                if len(promoted) == before:
                    # Nobody waits, or others have promoted them meanwhile.
                    return frozenset(promoted)

    async def dismiss(self, head: Head) -> bool:
        """Take one that waits out of the queue, so that it ends without a slot; return whether it still waited."""
        async with self._guards.holding(head.session_id):
            with self._capacity.place() as has_place:
                takes_it = has_place and self._takes()
                node_id = self._ports.node_id if takes_it else None
                try:
                    async with self._counting.holding(head.tenant):
                        dismissed = await self._quotas.dismiss(
                            head, node_id=node_id, nonce=self._ports.new_id(), at=self._now()
                        )
                except NotOwner:
                    return False
                if takes_it:
                    await self._bring_up(dismissed, None)
                return True

    async def _has_left_queue(self, session_id: str, promoted: set[str]) -> bool:
        """Promote it if it still waits; return False where no slot is free."""
        async with self._guards.holding(session_id):
            while True:
                head = await self._ports.heads.get(session_id)
                if head is None or head.status is not SessionStatus.QUEUED:
                    return True
                # A message that comes in right now moves HEAD on: it is looked at again.
                with suppress(NotOwner):
                    return await self._promoted(head, promoted)

    async def _promoted(self, head: Head, promoted: set[str]) -> bool:
        with self._capacity.place() as has_place:
            # A full or draining node passes the slot on all the same, and leaves the session to one that has room.
            takes_it = has_place and self._takes()
            node_id = self._ports.node_id if takes_it else None
            async with self._counting.holding(head.tenant):
                claimed = await self._quotas.promote(head, node_id=node_id, nonce=self._ports.new_id(), at=self._now())
            if claimed is None:
                return False
            promoted.add(head.session_id)
            waited = (self._now() - head.created_at).total_seconds()
            known = {"session_id": head.session_id, "epoch": claimed.epoch, "tenant": head.tenant}
            self._ports.log.info("session_promoted", waited=waited, **known)
            if takes_it:
                await self._bring_up(claimed, None)
            return True

    def _now(self) -> datetime:
        return truncate_to_millis(self._ports.clock.now())


def _pause(quota: Quota) -> timedelta:
    return max(LOOK_AFTER, timedelta(seconds=quota.queued / LOOKS_A_SECOND_MAX))
