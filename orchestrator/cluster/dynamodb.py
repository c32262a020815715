"""HEAD items and node registrations on DynamoDB. Every HEAD write but the insert requires that HEAD exists (rule 1).

A write whose answer was lost is read back: "as I wish it to be, under my nonce" is success, anything else is not.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from heapq import nsmallest
from typing import Final

from orchestrator.aws.items import PARTITION_KEY, SORT_KEY, Insert, Item, Key, Update, Value
from orchestrator.aws.provision import BY_DUE, BY_OWNER, BY_STATE
from orchestrator.aws.table import ConditionUnmet, Table
from orchestrator.cluster import DUE_SHARDS, STATE_SHARDS, Head, NodeFenced, NodeRecord, NotOwner, Page, UnreadableHead
from orchestrator.payloads import parse_json
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import Json, compact_json, format_instant

HEAD: Final = "HEAD"
NODES: Final = "NODES"
TOMBSTONE_LIFE: Final = timedelta(days=1)
_SESSION_PREFIX: Final = "SESSION#"
_NODE_PREFIX: Final = "NODE#"


class DynamoDBHeads:
    """`Heads` on the table."""

    def __init__(self, table: Table) -> None:
        self._table = table

    async def create(self, head: Head) -> Head:
        """See `Heads.create`."""
        try:
            await self._table.write(Insert(_present(_item(head))))
        except ConditionUnmet as unmet:
            return _head(_standing(unmet))
        return head

    async def get(self, session_id: str) -> Head | None:
        """See `Heads.get`."""
        item = await self._table.get(_key(session_id))
        return None if item is None else _head(item)

    async def claim(self, head: Head, *, node_id: str, nonce: str, at: datetime, from_dead_owner: bool) -> Head:
        """See `Heads.claim`."""
        wanted = replace(
            head,
            owner=node_id,
            epoch=head.epoch + 1,
            claim_nonce=nonce,
            status=SessionStatus.RUNNING,
            takeovers=head.takeovers + (1 if from_dead_owner else 0),
            wake_at=None,
            updated_at=at,
        )
        return await self._change(head, wanted, expected={"owner": head.owner, "epoch": head.epoch})

    async def settle_takeovers(self, head: Head) -> Head:
        """See `Heads.settle_takeovers`."""
        if head.takeovers == 1:
            return head
        return await self._change(head, replace(head, takeovers=1), expected={"epoch": head.epoch})

    async def end(self, head: Head, status: SessionStatus, *, last_seq: int, at: datetime) -> Head:
        """See `Heads.end`."""
        wanted = replace(head, status=status, owner=None, last_seq=last_seq, wake_at=None, updated_at=at)
        return await self._change(head, wanted, expected=_unmoved(head))

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
            yield _session_id(item)

    async def due(self, before: datetime) -> AsyncIterator[str]:
        """See `Heads.due`."""
        until = ("wake_at", format_instant(before))
        for shard in range(DUE_SHARDS):
            async for item in self._table.index(BY_DUE, ("due_shard", f"DUE#{shard}"), until=until):
                yield _session_id(item)

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
                head = _head(item)
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
        changed = _changes(head, wanted)
        update = Update(
            key=_key(head.session_id),
            sets={name: value for name, value in changed.items() if value is not None},
            removes=tuple(name for name, value in changed.items() if value is None),
            expected=expected,
        )
        try:
            item = await self._table.write(update)
        except ConditionUnmet as unmet:
            standing = None if unmet.item is None else _head(unmet.item)
            if standing is None or not _is_our_write(standing, wanted):
                raise NotOwner(f"HEAD of {head.session_id} moved on: {standing}") from None
            return standing
        # A delivery may have moved the inbox version since HEAD was read: what stands there now is what counts.
        return wanted if item is None else _head(item)


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
        }
        try:
            await self._table.write(Insert(_present(item)))
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


def _present(item: Item) -> Item:
    return {name: value for name, value in item.items() if value is not None}


def _key(session_id: str) -> Key:
    return Key(f"{_SESSION_PREFIX}{session_id}", HEAD)


def _node_key(node_id: str) -> dict[str, str]:
    return {PARTITION_KEY: NODES, SORT_KEY: f"{_NODE_PREFIX}{node_id}"}


def _session_id(item: Item) -> str:
    return str(item[PARTITION_KEY]).removeprefix(_SESSION_PREFIX)


def _shard(session_id: str, shards: int) -> int:
    return hashlib.blake2b(session_id.encode(), digest_size=2).digest()[0] % shards


def _item(head: Head) -> Item:
    return {
        PARTITION_KEY: f"{_SESSION_PREFIX}{head.session_id}",
        SORT_KEY: HEAD,
        "session_type": head.session_type,
        "tenant": head.tenant,
        "state": head.status,
        "state_key": f"{head.status}#{_shard(head.session_id, STATE_SHARDS)}",
        "owner": head.owner,
        "epoch": head.epoch,
        "last_seq": head.last_seq,
        "wake_at": None if head.wake_at is None else format_instant(head.wake_at),
        "due_shard": None if head.wake_at is None else f"DUE#{_shard(head.session_id, DUE_SHARDS)}",
        "inbox_version": head.inbox_version,
        "claim_nonce": head.claim_nonce,
        "takeovers": head.takeovers,
        "continued_as": head.continued_as,
        "created_at": format_instant(head.created_at),
        "updated_at": format_instant(head.updated_at),
        "attributes": compact_json(head.attributes) if head.attributes else None,
    }


def _changes(before: Head, after: Head) -> Item:
    """Return the attributes by which the items of two HEADs of one session differ; `None` for one that goes."""
    changed: Item = {}
    if after.status != before.status:
        changed["state"] = after.status
        changed["state_key"] = f"{after.status}#{_shard(after.session_id, STATE_SHARDS)}"
    if after.wake_at != before.wake_at:
        changed["wake_at"] = None if after.wake_at is None else format_instant(after.wake_at)
        changed["due_shard"] = None if after.wake_at is None else f"DUE#{_shard(after.session_id, DUE_SHARDS)}"
    if after.updated_at != before.updated_at:
        changed["updated_at"] = format_instant(after.updated_at)
    if after.attributes != before.attributes:
        changed["attributes"] = compact_json(after.attributes) if after.attributes else None
    for name in ("owner", "epoch", "last_seq", "claim_nonce", "takeovers"):
        value = getattr(after, name)
        if value != getattr(before, name):
            changed[name] = value
    return changed


def _head(item: Item) -> Head:
    """Return the HEAD of an item. Raises `UnreadableHead` for one that this version did not write."""
    try:
        return _parsed(item)
    except (KeyError, ValueError, TypeError) as error:
        raise UnreadableHead(f"HEAD of {_session_id(item)}: {type(error).__name__}: {error}") from None


def _parsed(item: Item) -> Head:
    """Return the HEAD of an item; an index holds only some attributes, the others take their neutral value."""
    wake_at, owner, continued_as = item.get("wake_at"), item.get("owner"), item.get("continued_as")
    return Head(
        session_id=_session_id(item),
        session_type=str(item["session_type"]),
        tenant=str(item["tenant"]),
        status=SessionStatus(str(item["state"])),
        owner=None if owner is None else str(owner),
        epoch=_int(item.get("epoch")),
        last_seq=_int(item.get("last_seq")),
        inbox_version=_int(item.get("inbox_version")),
        claim_nonce=str(item.get("claim_nonce", "")),
        takeovers=_int(item.get("takeovers")),
        created_at=datetime.fromisoformat(str(item["created_at"])),
        updated_at=datetime.fromisoformat(str(item["updated_at"])),
        wake_at=None if wake_at is None else datetime.fromisoformat(str(wake_at)),
        continued_as=None if continued_as is None else str(continued_as),
        attributes=json.loads(str(item.get("attributes") or "{}")),
    )


def _node(item: Item) -> NodeRecord:
    process, dead = item.get("process"), item.get("declared_dead_at")
    return NodeRecord(
        node_id=str(item[SORT_KEY]).removeprefix(_NODE_PREFIX),
        beat=_int(item.get("beat")),
        address=str(item.get("address", "")),
        started_at=_instant(item.get("started_at")) or datetime.min.replace(tzinfo=UTC),
        version=str(item.get("version", "")),
        process=None if process is None else str(process),
        sessions=_int(item.get("sessions")),
        # Any mark counts, readable or not: it is the presence that says dead.
        declared_dead_at=None if dead is None else _instant(dead) or datetime.min.replace(tzinfo=UTC),
    )


def _instant(value: Value) -> datetime | None:
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        return None


def _int(value: Value) -> int:
    return value if isinstance(value, int) else 0


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
