"""Gathers what an explanation is made of, from the tables, and from a node's memory where there is one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from actors import Clock
from orchestrator.cluster import Head, Heads, Nodes
from orchestrator.cluster.generations import latest_of
from orchestrator.inbox import UnknownSession
from orchestrator.journal import Journal, UnreadableEvent
from orchestrator.journal.folding import read_state
from orchestrator.session import events as e
from orchestrator.session.state import SessionState
from orchestrator.session.transitions import ENDED, SessionStatus
from orchestrator.session.values import Json
from orchestrator.tenants import Quotas
from orchestrator.why import Facts, Owner, Place, UnderWay

DEPTH_MAX: Final = 5
"""Generations of children that one explanation follows."""
CHILDREN_MAX: Final = 10
"""Children of one session that it follows: a thousand would be no explanation."""
PLACES_MAX: Final = 1_000

Look: TypeAlias = Callable[[Head, Owner], Awaitable[tuple[UnderWay | None, bool | None]]]
"""Returns what the session's node sees in its memory, and whether it beats; `None` where that cannot be told."""


@dataclass(frozen=True, slots=True)
class Gathering:
    """Where the facts are. `look` asks the node that has a session."""

    heads: Heads
    journal: Journal
    nodes: Nodes
    quotas: Quotas
    clock: Clock
    look: Look

    async def facts(self, session_id: str) -> Facts:
        """Return what is known of the session's latest generation. Raises `UnknownSession`."""
        facts = await self._facts(session_id, DEPTH_MAX)
        if facts is None:
            raise UnknownSession(session_id)
        return facts

    async def _facts(self, session_id: str, depth: int) -> Facts | None:
        first = await self.heads.get(session_id)
        if first is None:
            return None
        head = await latest_of(self.heads, first)
        unreadable: str | None = None
        state: SessionState | None = None
        try:
            state = await read_state(self.journal, head.session_id)
        except UnreadableEvent as error:
            unreadable = str(error)
        has_ended = head.status in ENDED or (state is not None and state.has_ended)
        owner = None if has_ended or head.owner is None else Owner(head.owner, await self.nodes.get(head.owner))
        under_way: UnderWay | None = None
        if owner is not None and owner.record is not None and owner.record.declared_dead_at is None:
            under_way, beats = await self.look(head, owner)
            owner = replace(owner, beats=beats)
        return Facts(
            head=head,
            state=state,
            now=self.clock.now(),
            living=sum([1 async for node in self.nodes.all() if node.declared_dead_at is None]),
            unreadable=unreadable,
            owner=owner,
            under_way=under_way,
            place=await self._place(head) if head.status is SessionStatus.QUEUED else None,
            children={} if state is None or has_ended or not depth else await self._children(state, depth),
        )

    async def _place(self, head: Head) -> Place:
        quota = await self.quotas.get(head.tenant)
        oldest = await self.quotas.oldest(head.tenant, PLACES_MAX)
        ahead = oldest.index(head.session_id) if head.session_id in oldest else None
        return Place(quota.limit, quota.used, quota.queued, ahead)

    async def _children(self, state: SessionState, depth: int) -> dict[str, Facts | None]:
        orders = (operation.order for operation in state.open_operations.values())
        ids = [order.child_id for order in orders if isinstance(order, e.ChildStarted)]
        return {child_id: await self._facts(child_id, depth - 1) for child_id in ids[:CHILDREN_MAX]}


def under_way_in(view: Json) -> UnderWay | None:
    """Return what a node said that it sees; `None` where it sees nothing, or said what this version cannot read."""
    match view:
        case {"operations": list() | None as operations, "signals": list(signals), "is_stuck": bool(is_stuck)}:
            named = None if operations is None else tuple(str(each) for each in operations)
            return UnderWay(named, tuple(str(each) for each in signals), is_stuck)
        case _:
            return None
