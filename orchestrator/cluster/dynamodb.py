"""HEAD items and node registrations on DynamoDB. Every HEAD write but the insert requires that HEAD exists (rule 1).

A write whose answer was lost is read back: "as I wish it to be, under my nonce" is success, anything else is not.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from heapq import nsmallest
from typing import Final

from orchestrator.aws.items import PARTITION_KEY, SORT_KEY, Insert, Item, Key, Update, Value
from orchestrator.aws.provision import BY_DUE, BY_OWNER, BY_STATE
from orchestrator.aws.table import ConditionUnmet, Table
from orchestrator.cluster import (
    DUE_SHARDS,
    ENDS_NOW,
    STATE_SHARDS,
    Head,
    NodeFenced,
    NodeRecord,
    NotOwner,
    Page,
    UnreadableHead,
    claimed,
    settled,
)
from orchestrator.cluster.head_items import (
    attributes_text,
    changes,
    due_attributes,
    head_key,
    head_of,
    insert_of,
    int_of,
    outbox_text,
    present,
    session_id_of,
    update_of,
)
from orchestrator.payloads import parse_json
from orchestrator.session.frozen import replace
from orchestrator.session.transitions import ENDED, SessionStatus
from orchestrator.session.values import Json, format_instant, instant_of

NODES: Final = "NODES"
TOMBSTONE_LIFE: Final = timedelta(days=1)
_NODE_PREFIX: Final = "NODE#"


class DynamoDBHeads:
    """`Heads` on the table."""

    def __init__(self, table: Table) -> None:
        self._table = table

    async def create(self, head: Head) -> Head:
        """See `Heads.create`."""
        try:
            await self._table.write(insert_of(head))
        except ConditionUnmet as unmet:
            return head_of(_standing(unmet))
        return head

    async def get(self, session_id: str) -> Head | None:
        """See `Heads.get`."""
        item = await self._table.get(head_key(session_id))
        return None if item is None else head_of(item)

    async def claim(self, head: Head, *, node_id: str, nonce: str, at: datetime, from_dead_owner: bool) -> Head:
        """See `Heads.claim`."""
        wanted = claimed(head, node_id=node_id, nonce=nonce, at=at, from_dead_owner=from_dead_owner)
        changed = changes(head, wanted)
        if head.owner is None:
            # Somebody may have made it due since HEAD was read, which changes no epoch.
            changed |= due_attributes(head.session_id, wanted.wake_at)
        taken = await self._write(head, wanted, changed, expected={"owner": head.owner, "epoch": head.epoch})
        if taken is not wanted:
            return taken
        # It travelled in a batch, which returns no item. A message that came since HEAD was read left its note with the
        # former owner: only the inbox version as it stands tells the new one of it (rule 5).
        standing = await self.get(head.session_id)
        if standing is None or not _is_our_write(standing, wanted):
            raise NotOwner(f"HEAD of {head.session_id} moved on: {standing}")
        return standing

    async def settle_takeovers(self, head: Head) -> Head:
        """See `Heads.settle_takeovers`."""
        if head.takeovers == 1:
            return head
        return await self._change(head, replace(head, takeovers=1), expected={"epoch": head.epoch})

    async def end(  # noqa: PLR0913 - see the protocol
        self,
        head: Head,
        status: SessionStatus,
        *,
        last_seq: int,
        at: datetime,
        outbox: tuple[str, ...] = (),
        wake_at: datetime | None = None,
        continued_as: str | None = None,
    ) -> Head:
        """See `Heads.end`."""
        assert (wake_at is not None) == bool(outbox), f"{head.session_id}: an outbox is due, and nothing else of an end"
        wanted = replace(
            head,
            status=status,
            owner=None,
            last_seq=last_seq,
            wake_at=wake_at,
            updated_at=at,
            continued_as=continued_as,
            outbox=outbox,
        )
        return await self._change(head, wanted, expected=_unmoved(head))

    async def annotate(self, head: Head, attributes: Mapping[str, Json]) -> Head:
        """See `Heads.annotate`."""
        wanted = replace(head, attributes=attributes)
        changed: Item = {"attributes": attributes_text(attributes)}
        return await self._write(head, wanted, changed, expected={"epoch": head.epoch})

    async def settle_outbox(
        self,
        head: Head,
        outbox: tuple[str, ...],
        *,
        wake_at: datetime | None = None,
        attributes: Mapping[str, Json] | None = None,
    ) -> Head:
        """See `Heads.settle_outbox`."""
        assert head.status in ENDED, f"{head.session_id} is open: an outbox is of an end"
        assert (wake_at is not None) == bool(outbox), f"{head.session_id}: an outbox is due, and nothing else of an end"
        # All of it is written, whatever HEAD held when it was read: a claim has removed the wake-up since, or not.
        changed: Item = {"outbox": outbox_text(outbox), "owner": None, **due_attributes(head.session_id, wake_at)}
        if attributes is not None:
            changed["attributes"] = attributes_text(attributes)
        wanted = settled(head, outbox, wake_at=wake_at, attributes=attributes)
        return await self._write(head, wanted, changed, expected={"epoch": head.epoch})

    async def bump_inbox(self, session_id: str) -> Head | None:
        """See `Heads.bump_inbox`."""
        try:
            item = await self._table.write(Update(key=head_key(session_id), sets={}, adds={"inbox_version": 1}))
        except ConditionUnmet:
            return None
        assert item is not None, "an update that travels alone returns its item"
        return head_of(item)

    async def make_due(self, head: Head, *, at: datetime) -> Head:
        """See `Heads.make_due`."""
        expected: Item = {"owner": head.owner, "epoch": head.epoch}
        due = due_attributes(head.session_id, at)
        if at != ENDS_NOW:
            expected["wake_at"] = due_attributes(head.session_id, head.wake_at)["wake_at"]
        delivered = {} if head.owner is None else {"inbox_version": 1}
        update = Update(key=head_key(head.session_id), sets=due, adds=delivered, expected=expected)
        try:
            item = await self._table.write(update)
        except ConditionUnmet as unmet:
            standing = None if unmet.item is None else head_of(unmet.item)
            # A lost answer hid that it is due by then, or somebody else said the same.
            if standing is None or (standing.owner, standing.epoch, standing.wake_at) != (head.owner, head.epoch, at):
                raise NotOwner(f"HEAD of {head.session_id} moved on: {standing}") from None
            return standing
        assert item is not None, "an update that travels alone returns its item"
        return head_of(item)

    async def release(
        self,
        head: Head,
        status: SessionStatus,
        *,
        last_seq: int,
        at: datetime,
        wake_at: datetime | None,
        attributes: Mapping[str, Json] | None = None,
    ) -> Head:
        """See `Heads.release`."""
        wanted = replace(
            head,
            status=status,
            owner=None,
            last_seq=last_seq,
            wake_at=wake_at,
            updated_at=at,
            attributes=head.attributes if attributes is None else attributes,
        )
        return await self._change(head, wanted, expected=_unmoved(head))

    async def owned_by(self, node_id: str) -> AsyncIterator[str]:
        """See `Heads.owned_by`."""
        async for item in self._table.index(BY_OWNER, ("owner", node_id)):
            yield session_id_of(item)

    async def due(self, before: datetime) -> AsyncIterator[str]:
        """See `Heads.due`."""
        until = ("wake_at", format_instant(before))
        for shard in range(DUE_SHARDS):
            async for item in self._table.index(BY_DUE, ("due_shard", f"DUE#{shard}"), until=until):
                yield session_id_of(item)

    async def listing(
        self,
        *,
        status: SessionStatus | None,
        session_type: str | None,
        tenant: str | None,
        cursor: str | None,
        limit: int,
    ) -> Page:
        """See `Heads.listing`."""
        start = None if cursor is None else _parse_cursor(cursor)
        found: list[Head] = []
        for wanted in SessionStatus if status is None else (status,):
            for shard in range(STATE_SHARDS):
                found += await self._newest(f"{wanted}#{shard}", start, session_type, tenant, limit + 1)
        page = nsmallest(limit + 1, found, key=_rank)
        return Page(tuple(page[:limit]), _cursor(page[limit - 1]) if len(page) > limit else None)

    async def _newest(
        self, state_key: str, start: tuple[float, str] | None, session_type: str | None, tenant: str | None, limit: int
    ) -> list[Head]:
        until = None if start is None else ("updated_at", format_instant(datetime.fromtimestamp(-start[0], UTC)))
        found: list[Head] = []
        async for item in self._table.index(BY_STATE, ("state_key", state_key), until=until, newest_first=True):
            try:
                head = head_of(item)
            except UnreadableHead:
                # What a newer version wrote is listed by newer versions.
                continue
            if (session_type or head.session_type) != head.session_type or (tenant or head.tenant) != head.tenant:
                continue
            # The index orders sessions of one instant its own way: all of them are read, or a page would lose some.
            if len(found) >= limit and head.updated_at != found[-1].updated_at:
                break
            if start is None or _rank(head) > start:
                found.append(head)
        return found

    async def _change(self, head: Head, wanted: Head, *, expected: Item) -> Head:
        return await self._write(head, wanted, changes(head, wanted), expected)

    async def _write(self, head: Head, wanted: Head, changed: Item, expected: Item) -> Head:
        """Set and remove (`None`) what changes if HEAD is as expected; return HEAD then. Raises `NotOwner`."""
        try:
            item = await self._table.write(update_of(head.session_id, changed, expected))
        except ConditionUnmet as unmet:
            standing = None if unmet.item is None else head_of(unmet.item)
            if standing is None or not _is_our_write(standing, wanted):
                raise NotOwner(f"HEAD of {head.session_id} moved on: {standing}") from None
            return standing
        # A delivery may have moved the inbox version since HEAD was read: what stands there now is what counts.
        return wanted if item is None else head_of(item)


class DynamoDBNodes:
    """`Nodes` on the table."""

    def __init__(self, table: Table) -> None:
        self._table = table

    async def register(self, node: NodeRecord) -> None:
        """See `Nodes.register`."""
        item: Item = {
            **_node_key(node.node_id),
            "beat": node.beat,
            "address": node.address,
            "started_at": format_instant(node.started_at),
            "version": node.version,
            "process": node.process,
            "sessions": node.sessions,
            "poke_key": node.poke_key,
        }
        try:
            await self._table.write(Insert(present(item)))
        except ConditionUnmet as unmet:
            if unmet.item is None or unmet.item.get("started_at") != item["started_at"]:
                raise NodeFenced(f"node id {node.node_id} is taken") from None

    async def beat(self, node_id: str, *, sessions: int) -> None:
        """See `Nodes.beat`."""
        key = _node_key(node_id)
        update = Update(
            key=Key(key[PARTITION_KEY], key[SORT_KEY]),
            sets={"sessions": sessions},
            adds={"beat": 1},
            expected={"declared_dead_at": None},
        )
        try:
            await self._table.write(update)
        except ConditionUnmet as unmet:
            state = "gone" if unmet.item is None else f"marked dead at {unmet.item.get('declared_dead_at')!r}"
            raise NodeFenced(f"the registration of {node_id} is {state}") from None

    async def declare_dead(self, node_id: str, *, at: datetime, beat: int | None) -> bool:
        """See `Nodes.declare_dead`."""
        key = _node_key(node_id)
        expected: Item = {"declared_dead_at": None}
        if beat is not None:
            expected["beat"] = beat
        update = Update(
            key=Key(key[PARTITION_KEY], key[SORT_KEY]),
            sets={
                "declared_dead_at": format_instant(at),
                "expires_at": int((at + TOMBSTONE_LIFE).timestamp()),
            },
            expected=expected,
        )
        try:
            await self._table.write(update)
        except ConditionUnmet as unmet:
            return unmet.item is None or unmet.item.get("declared_dead_at") is not None
        return True

    async def get(self, node_id: str) -> NodeRecord | None:
        """See `Nodes.get`."""
        key = _node_key(node_id)
        item = await self._table.get(Key(key[PARTITION_KEY], key[SORT_KEY]))
        return None if item is None else _node(item)

    async def all(self) -> AsyncIterator[NodeRecord]:
        """See `Nodes.all`."""
        async for item in self._table.partition(NODES, sk_after=_NODE_PREFIX, sk_until=f"{_NODE_PREFIX}~"):
            yield _node(item)


def _standing(unmet: ConditionUnmet) -> Item:
    assert unmet.item is not None, f"{unmet.key.pk} {unmet.key.sk} vanished: a HEAD is never deleted early"
    return unmet.item


def _unmoved(head: Head) -> Item:
    """Return the condition of rule 8: same epoch, and no delivery since HEAD was read."""
    return {"epoch": head.epoch, "inbox_version": head.inbox_version}


def _is_our_write(standing: Head, wanted: Head) -> bool:
    """Return whether a lost answer hid our own success: the nonce is drawn anew for every claim."""
    return (standing.claim_nonce, standing.epoch, standing.owner, standing.status) == (
        wanted.claim_nonce,
        wanted.epoch,
        wanted.owner,
        wanted.status,
    )


def _node_key(node_id: str) -> dict[str, str]:
    return {PARTITION_KEY: NODES, SORT_KEY: f"{_NODE_PREFIX}{node_id}"}


def _node(item: Item) -> NodeRecord:
    process, dead, poke_key = item.get("process"), item.get("declared_dead_at"), item.get("poke_key")
    return NodeRecord(
        node_id=str(item[SORT_KEY]).removeprefix(_NODE_PREFIX),
        beat=int_of(item.get("beat")),
        address=str(item.get("address", "")),
        started_at=_instant(item.get("started_at")) or datetime.min.replace(tzinfo=UTC),
        version=str(item.get("version", "")),
        process=None if process is None else str(process),
        sessions=int_of(item.get("sessions")),
        # Any mark counts, readable or not: it is the presence that says dead.
        declared_dead_at=None if dead is None else _instant(dead) or datetime.min.replace(tzinfo=UTC),
        poke_key=None if poke_key is None else str(poke_key),
    )


def _instant(value: Value) -> datetime | None:
    try:
        return instant_of(str(value))
    except ValueError:
        return None


def _rank(head: Head) -> tuple[float, str]:
    """Return the place of a session in a listing: newest change first, then by id."""
    return -head.updated_at.timestamp(), head.session_id


def _cursor(head: Head) -> str:
    return urlsafe_b64encode(json.dumps(_rank(head)).encode()).decode()


def _parse_cursor(cursor: str) -> tuple[float, str]:
    try:
        match parse_json(urlsafe_b64decode(cursor.encode()).decode()):
            case [int() | float() as stamp, str() as session_id]:
                datetime.fromtimestamp(-stamp, UTC)
                return float(stamp), session_id
    except (ValueError, OverflowError, OSError, RecursionError):
        pass
    raise ValueError("cursor: not one that a listing returned")
