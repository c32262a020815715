"""Keeps this node known as living, finds nodes that are not, and activates what they or nobody owns (I8).

Nothing here compares clocks of two nodes: a node is dead when its beat stood still for the node timeout by our own
monotonic clock, or when its process is provably gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from actors import Clock, Signal
from orchestrator.capacity import NodeCapacity
from orchestrator.cluster import DUE_EVERY_SECONDS, ENDS_NOW, Heads, NodeFenced, NodeRecord, Nodes
from orchestrator.cluster.directory import Directory
from orchestrator.cluster.shares import Turns, first_taker
from orchestrator.inbox import WakeUps
from orchestrator.pokes import Doorbell
from orchestrator.process_identity import is_gone
from orchestrator.router import Router
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import truncate_to_millis

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

AUDIT_EVERY_BEATS: Final = 3
QUIET_BEATS_MAX: Final = 2
"""A node that misses more beats claims nothing either, whether it is dead or not: it gets no share."""
SHARES_FOR_BEATS: Final = 2
"""So long each survivor claims its own share of a dead node's sessions: everybody has seen the tombstone by then."""
POKED_EVERY_SECONDS: Final = 0.05
"""So far apart are the looks that pokes ask for: however many come, or are replayed, they cost 20 queries a second."""
CLAIMS_AT_ONCE_MAX: Final = 32
BLOCKED_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class RescuerPorts:
    """What the rescuer needs. `on_fenced(reason)` must not return: the process ends (rule 3).

    `may_retry(session_id)` says whether a session whose actor failed here may be tried again already.
    """

    node: NodeRecord
    nodes: Nodes
    directory: Directory
    heads: Heads
    wake_ups: WakeUps
    router: Router
    capacity: NodeCapacity
    clock: Clock
    may_retry: Callable[[str], bool]
    on_fenced: Callable[[str], None]
    log: FilteringBoundLogger


class Rescuer:
    """One node's part in keeping every open session in somebody's hands."""

    def __init__(self, ports: RescuerPorts, *, heartbeat_seconds: float, node_timeout_seconds: float) -> None:
        self._ports = ports
        self._heartbeat = heartbeat_seconds
        self._timeout = node_timeout_seconds
        self._tombstones: dict[str, int] = {}
        self._turns = Turns(ports.node.node_id)
        self._poked = Signal()
        self._is_poked = False
        self._claims = asyncio.Semaphore(CLAIMS_AT_ONCE_MAX)
        self._is_draining = False

    @property
    def doorbell(self) -> Doorbell:
        """Where other nodes poke this one."""
        node = self._ports.node
        assert node.poke_key is not None, "who is poked has a key that pokes are signed with"
        return Doorbell(node.node_id, node.poke_key, self.poked)

    async def enter(self, *, address: str = "") -> None:
        """Learn which tenants are limited, and register the node at that address; from here on others may see it."""
        await self._ports.router.slots.refresh()
        await self._ports.nodes.register(replace(self._ports.node, address=address))

    def poked(self) -> None:
        """Look at the wake-ups now, or as soon as the last look that a poke asked for is long enough ago."""
        self._is_poked = True
        self._poked.fire()

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
            tasks.create_task(self._wake_for_ever(tasks), name="wake-ups")
            tasks.create_task(self._claim_due_for_ever(tasks), name="due")
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
                        await self._rescue(dead, tasks)
                    await self._audit_itself(tasks)
            rounds += 1
            await self._ports.clock.sleep(self._heartbeat)

    async def _look_around(self, tasks: asyncio.TaskGroup) -> None:
        """Look at every registration; what is registered no longer is forgotten, so that nothing is kept for ever."""
        registered = {node.node_id: node async for node in self._ports.nodes.all()}
        now = self._ports.clock.monotonic()
        self._ports.directory.saw(registered.values(), at=now, quiet_seconds_max=QUIET_BEATS_MAX * self._heartbeat)
        self._tombstones = {dead: looks + 1 for dead, looks in self._tombstones.items() if dead in registered}
        for node in registered.values():
            await self._look_at(node, now, tasks)

    async def _look_at(self, node: NodeRecord, now: float, tasks: asyncio.TaskGroup) -> None:
        if node.node_id == self._ports.node.node_id:
            return
        if node.node_id in self._tombstones:
            if self._tombstones[node.node_id] == SHARES_FOR_BEATS:
                await self._rescue(node.node_id, tasks)
            return
        if node.declared_dead_at is None:
            has_exited = is_gone(node.process)
            if not has_exited and not self._has_stopped(node.node_id, now):
                return
            if not await self._ports.nodes.declare_dead(node.node_id, at=self._now(), beat=node.beat):
                return
            self._ports.log.warning("node_declared_dead", dead_node=node.node_id, process_gone=has_exited)
        self._tombstones[node.node_id] = 0
        await self._rescue(node.node_id, tasks)

    def _has_stopped(self, node_id: str, now: float) -> bool:
        return self._ports.directory.has_stopped(node_id, at=now, timeout=self._timeout, heartbeat=self._heartbeat)

    async def _rescue(self, dead: str, tasks: asyncio.TaskGroup) -> None:
        """Claim the dead node's sessions: at first our share of them, later whatever is left."""
        owned, takers = self._ports.heads.owned_by(dead), self._ports.directory.takers
        if self._tombstones[dead] < SHARES_FOR_BEATS:
            own_id = self._ports.node.node_id
            owned = _only(owned, lambda session_id: first_taker(session_id, takers) == own_id)
        await self._activate_all(owned, tasks, owners=(dead,))

    async def _audit_itself(self, tasks: asyncio.TaskGroup) -> None:
        """Take up what HEAD says is ours and has no actor here: a claim whose answer was lost, an actor that failed."""
        mine = self._ports.heads.owned_by(self._ports.node.node_id)
        await self._activate_all(_only(mine, self._ports.may_retry), tasks, owners=(self._ports.node.node_id,))

    # --- the due -------------------------------------------------------------------------------------------------

    async def _wake_for_ever(self, tasks: asyncio.TaskGroup) -> None:
        """Look at the wake-ups every second, and when poked."""
        is_early = False
        while True:
            # Before the look: a poke that comes meanwhile may be for a note that the look does not find.
            self._is_poked = False
            with self._keeping_on("wake-ups"):
                await self._take_wake_ups(tasks, is_early=is_early)
            if is_early:
                await self._ports.clock.sleep(POKED_EVERY_SECONDS)
            is_early = await self._poked.until(lambda: self._is_poked, self._ports.clock, within=DUE_EVERY_SECONDS)

    async def _take_wake_ups(self, tasks: asyncio.TaskGroup, *, is_early: bool) -> None:
        taken = 0
        async for session_id in self._ports.wake_ups.take(self._ports.node.node_id):
            tasks.create_task(self._wake(session_id), name=f"wake {session_id}")
            taken += 1
        if taken:
            self._ports.log.info("wake_ups_taken", sessions=taken, poked=is_early)

    async def _claim_due_for_ever(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            with self._keeping_on("limits"):
                await self._ports.router.slots.refresh()
            with self._keeping_on("due"):
                # What is only to be ended is taken on a full node too, and from a dead owner, whosever share that is.
                is_full = self._ports.capacity.free() <= 0
                until = ENDS_NOW if is_full else self._now()
                due = _only(self._ports.heads.due(until), self._turns.look(self._ports.directory.takers))
                dead = tuple(self._tombstones)
                await self._activate_all(due, tasks, owners=dead, due_before=until, needs_room=not is_full)
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
                await self._activate_all(blocked, tasks)
                cursor = page.cursor
                if cursor is None:
                    return

    async def _activate_all(
        self,
        session_ids: AsyncIterator[str],
        tasks: asyncio.TaskGroup,
        *,
        owners: Collection[str] = (),
        due_before: datetime | None = None,
        needs_room: bool = True,
    ) -> None:
        """Claim them, many at once, as far as this node has room; what it has no room for is left to the next round."""
        async for session_id in session_ids:
            await self._claims.acquire()
            if self._is_draining or (needs_room and self._ports.capacity.free() <= 0):
                self._claims.release()
                return
            claim = self._claim(session_id, owners=owners, due_before=due_before)
            tasks.create_task(claim, name=f"claim {session_id}")

    async def _claim(self, session_id: str, *, owners: Collection[str], due_before: datetime | None) -> None:
        try:
            with self._keeping_on("claim"):
                met = await self._ports.router.claim(session_id, owners=owners, due_before=due_before)
                if met is not None:
                    dead_owner = None if met.owner == self._ports.node.node_id else met.owner
                    known = {"session_id": session_id, "epoch": met.epoch + 1}
                    self._ports.log.info("session_claimed", dead_owner=dead_owner, **known)
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
