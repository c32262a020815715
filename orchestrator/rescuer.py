"""Keeps this node known as living, finds nodes that are not, and activates what they or nobody owns (I8).

Nothing here compares clocks of two nodes: a node is dead when its beat stood still for the node timeout by our own
monotonic clock, or when its process is provably gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from actors import Clock
from orchestrator.capacity import NodeCapacity
from orchestrator.cluster import DUE_EVERY_SECONDS, Heads, NodeFenced, NodeRecord, Nodes
from orchestrator.inbox import WakeUps
from orchestrator.process_identity import is_gone
from orchestrator.router import Router
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import truncate_to_millis

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

AUDIT_EVERY_BEATS: Final = 3
CLAIMS_AT_ONCE_MAX: Final = 32
BLOCKED_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class RescuerPorts:
    """What the rescuer needs. `on_fenced(reason)` must not return: the process ends (rule 3).

    `may_retry(session_id)` says whether a session whose actor failed here may be tried again already.
    """

    node: NodeRecord
    nodes: Nodes
    heads: Heads
    wake_ups: WakeUps
    router: Router
    capacity: NodeCapacity
    clock: Clock
    may_retry: Callable[[str], bool]
    on_fenced: Callable[[str], None]
    log: FilteringBoundLogger


@dataclass(slots=True)
class _Sighting:
    beat: int
    since: float


class Rescuer:
    """One node's part in keeping every open session in somebody's hands."""

    def __init__(self, ports: RescuerPorts, *, heartbeat_seconds: float, node_timeout_seconds: float) -> None:
        self._ports = ports
        self._heartbeat = heartbeat_seconds
        self._timeout = node_timeout_seconds
        self._seen: dict[str, _Sighting] = {}
        self._tombstones: set[str] = set()
        self._claims = asyncio.Semaphore(CLAIMS_AT_ONCE_MAX)
        self._is_draining = False

    async def enter(self) -> None:
        """Learn which tenants are limited, and register the node; from here on others may see it."""
        await self._ports.router.slots.refresh()
        await self._ports.nodes.register(self._ports.node)

    def drain(self) -> None:
        """Claim nothing any more; go on beating."""
        self._is_draining = True

    async def leave(self) -> None:
        """Mark the registration drained, so that nobody waits for its beat."""
        await self._ports.nodes.declare_dead(self._ports.node.node_id, at=self._now(), beat=None)

    async def run(self) -> None:
        """Beat, watch, audit and wake what is due, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat_for_ever(), name="beat")
            tasks.create_task(self._watch_for_ever(tasks), name="watch")
            tasks.create_task(self._wake_for_ever(tasks), name="due")
            tasks.create_task(self._try_blocked(tasks), name="blocked")

    # --- living --------------------------------------------------------------------------------------------------

    async def _beat_for_ever(self) -> None:
        last = self._ports.clock.monotonic()
        while True:
            await self._ports.clock.sleep(self._heartbeat)
            pause = self._ports.clock.monotonic() - last
            if pause > self._timeout:
                # Frozen or starved that long, others may have taken us for dead: whoever starts next is a new node.
                self._ports.on_fenced(f"no turn for {pause:.1f} s, over the node timeout")
            with self._keeping_on("beat"):
                await self._beat()
            last = self._ports.clock.monotonic()

    async def _beat(self) -> None:
        try:
            await self._ports.nodes.beat(self._ports.node.node_id, sessions=self._ports.capacity.held())
        except NodeFenced as fenced:
            self._ports.on_fenced(str(fenced))

    # --- the dead ------------------------------------------------------------------------------------------------

    async def _watch_for_ever(self, tasks: asyncio.TaskGroup) -> None:
        rounds = 1
        while True:
            with self._keeping_on("watch"):
                await self._look_around(tasks)
            if rounds % AUDIT_EVERY_BEATS == 0:
                with self._keeping_on("audit"):
                    for dead in tuple(self._tombstones):
                        await self._rescue_all(dead, tasks)
                    await self._audit_itself(tasks)
            rounds += 1
            await self._ports.clock.sleep(self._heartbeat)

    async def _look_around(self, tasks: asyncio.TaskGroup) -> None:
        """Look at every registration; what is registered no longer is forgotten, so that nothing is kept for ever."""
        registered: set[str] = set()
        async for node in self._ports.nodes.all():
            registered.add(node.node_id)
            await self._look_at(node, tasks)
        self._tombstones &= registered
        for gone in self._seen.keys() - registered:
            del self._seen[gone]

    async def _look_at(self, node: NodeRecord, tasks: asyncio.TaskGroup) -> None:
        if node.node_id == self._ports.node.node_id or node.node_id in self._tombstones:
            return
        if node.declared_dead_at is not None:
            self._tombstones.add(node.node_id)
            await self._rescue_all(node.node_id, tasks)
            return
        now = self._ports.clock.monotonic()
        sighting = self._seen.get(node.node_id)
        if sighting is None or sighting.beat != node.beat:
            self._seen[node.node_id] = _Sighting(node.beat, now)
            sighting = self._seen[node.node_id]
        has_exited = is_gone(node.process)
        if not has_exited and now - sighting.since <= self._timeout:
            return
        if await self._ports.nodes.declare_dead(node.node_id, at=self._now(), beat=node.beat):
            self._ports.log.warning("node_declared_dead", dead_node=node.node_id, process_gone=has_exited)
            self._tombstones.add(node.node_id)
            await self._rescue_all(node.node_id, tasks)

    async def _rescue_all(self, dead: str, tasks: asyncio.TaskGroup) -> None:
        await self._activate_all(self._ports.heads.owned_by(dead), tasks, dead_owner=dead)

    async def _audit_itself(self, tasks: asyncio.TaskGroup) -> None:
        """Take up what HEAD says is ours and has no actor here: a claim whose answer was lost, an actor that failed."""
        mine = self._ports.heads.owned_by(self._ports.node.node_id)
        await self._activate_all(_only(mine, self._ports.may_retry), tasks)

    # --- the due -------------------------------------------------------------------------------------------------

    async def _wake_for_ever(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            with self._keeping_on("wake-ups"):
                async for session_id in self._ports.wake_ups.take(self._ports.node.node_id):
                    tasks.create_task(self._wake(session_id), name=f"wake {session_id}")
            with self._keeping_on("limits"):
                await self._ports.router.slots.refresh()
            with self._keeping_on("due"):
                now = self._now()
                await self._activate_all(self._ports.heads.due(now), tasks, only_unowned=True, due_before=now)
            await self._ports.clock.sleep(DUE_EVERY_SECONDS)

    async def _wake(self, session_id: str) -> None:
        with self._keeping_on("wake"):
            await self._ports.router.wake(session_id)

    async def _try_blocked(self, tasks: asyncio.TaskGroup) -> None:
        """Give every blocked session a try at the start: this node may run the code that matches."""
        with self._keeping_on("blocked"):
            cursor: str | None = None
            while True:
                page = await self._ports.heads.listing(
                    status=SessionStatus.BLOCKED, session_type=None, tenant=None, cursor=cursor, limit=BLOCKED_PAGE
                )
                blocked = _each(tuple(head.session_id for head in page.heads))
                await self._activate_all(blocked, tasks, only_unowned=True)
                cursor = page.cursor
                if cursor is None:
                    return

    async def _activate_all(
        self,
        session_ids: AsyncIterator[str],
        tasks: asyncio.TaskGroup,
        *,
        dead_owner: str | None = None,
        only_unowned: bool = False,
        due_before: datetime | None = None,
    ) -> None:
        """Claim them, many at once, as far as this node has room; what it has no room for is left to the next round."""
        async for session_id in session_ids:
            await self._claims.acquire()
            if self._is_draining or self._ports.capacity.free() <= 0:
                self._claims.release()
                return
            claim = self._ports.router.claim(
                session_id, dead_owner=dead_owner, only_unowned=only_unowned, due_before=due_before
            )
            tasks.create_task(self._carry_out(claim, session_id, dead_owner), name=f"claim {session_id}")

    async def _carry_out(self, claim: Coroutine[object, object, bool], session_id: str, dead_owner: str | None) -> None:
        try:
            with self._keeping_on("claim"):
                if await claim:
                    self._ports.log.info("session_claimed", session_id=session_id, dead_owner=dead_owner)
        finally:
            self._claims.release()

    @contextmanager
    def _keeping_on(self, chore: str) -> Iterator[None]:
        """Supervise one chore: whatever goes wrong is logged, and the next round tries again.

        One item that this version cannot read, or one refusal of AWS, must not end the rescue of all others.
        """
        try:
            yield
        except Exception as error:
            self._ports.log.error("rescue_failed", chore=chore, error=f"{type(error).__name__}: {error}"[:300])

    def _now(self) -> datetime:
        return truncate_to_millis(self._ports.clock.now())


async def _only(ids: AsyncIterator[str], wanted: Callable[[str], bool]) -> AsyncIterator[str]:
    async for session_id in ids:
        if wanted(session_id):
            yield session_id


async def _each(ids: tuple[str, ...]) -> AsyncIterator[str]:
    for session_id in ids:
        yield session_id
