"""HEAD as an item of the table, and the writes that make and change it; who changes more besides puts them together.

An attribute of HEAD that is new is written in `_item` and `changes` and read in `_parsed`: in all three or in none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from orchestrator.aws.items import PARTITION_KEY, SORT_KEY, Insert, Item, Key, Update, Value
from orchestrator.cluster import DUE_SHARDS, STATE_SHARDS, Head, UnreadableHead
from orchestrator.payloads import stored_json
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import Json, compact_json, format_instant, instant_of

HEAD: Final = "HEAD"
_SESSION_PREFIX: Final = "SESSION#"


def insert_of(head: Head) -> Insert:
    """Return the write that makes a HEAD where none stands."""
    return Insert(present(_item(head)))


def update_of(session_id: str, changed: Item, expected: Item) -> Update:
    """Return the write that sets and removes (`None`) what changes, if HEAD is as expected."""
    return Update(
        key=head_key(session_id),
        sets={name: value for name, value in changed.items() if value is not None},
        removes=tuple(name for name, value in changed.items() if value is None),
        expected=expected,
    )


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
        **due_attributes(head.session_id, head.wake_at),
        "inbox_version": head.inbox_version,
        "claim_nonce": head.claim_nonce,
        "takeovers": head.takeovers,
        "continued_as": head.continued_as,
        "created_at": format_instant(head.created_at),
        "updated_at": format_instant(head.updated_at),
        "attributes": attributes_text(head.attributes),
        "outbox": outbox_text(head.outbox),
    }


def due_attributes(session_id: str, wake_at: datetime | None) -> Item:
    """Return what makes a session due at that instant; `None`: never."""
    if wake_at is None:
        return {"wake_at": None, "due_shard": None}
    return {"wake_at": format_instant(wake_at), "due_shard": f"DUE#{_shard(session_id, DUE_SHARDS)}"}


def attributes_text(attributes: Mapping[str, Json]) -> str | None:
    """Return the attributes as they are stored; `None` where there are none."""
    return compact_json(attributes) if attributes else None


def outbox_text(outbox: tuple[str, ...]) -> str | None:
    """Return the outbox as it is stored; `None` for an empty one."""
    return compact_json(list(outbox)) if outbox else None


def changes(before: Head, after: Head) -> Item:
    """Return the attributes by which the items of two HEADs of one session differ; `None` for one that goes."""
    changed: Item = {}
    if after.status != before.status:
        changed["state"] = after.status
        changed["state_key"] = f"{after.status}#{_shard(after.session_id, STATE_SHARDS)}"
    if after.wake_at != before.wake_at:
        changed |= due_attributes(after.session_id, after.wake_at)
    if after.updated_at != before.updated_at:
        changed["updated_at"] = format_instant(after.updated_at)
    if after.attributes != before.attributes:
        changed["attributes"] = attributes_text(after.attributes)
    if after.outbox != before.outbox:
        changed["outbox"] = outbox_text(after.outbox)
    for name in ("owner", "epoch", "last_seq", "claim_nonce", "takeovers", "continued_as"):
        value = getattr(after, name)
        if value != getattr(before, name):
            changed[name] = value
    return changed


def head_of(item: Item) -> Head:
    """Return the HEAD of an item. Raises `UnreadableHead` for one that this version did not write."""
    try:
        return _parsed(item)
    except (KeyError, ValueError, TypeError) as error:
        raise UnreadableHead(f"HEAD of {session_id_of(item)}: {type(error).__name__}: {error}") from None


def _parsed(item: Item) -> Head:
    """Return the HEAD of an item; an index holds only some attributes, the others take their neutral value."""
    wake_at, owner, continued_as = item.get("wake_at"), item.get("owner"), item.get("continued_as")
    return Head(
        session_id=session_id_of(item),
        session_type=str(item["session_type"]),
        tenant=str(item["tenant"]),
        status=SessionStatus(str(item["state"])),
        owner=None if owner is None else str(owner),
        epoch=int_of(item.get("epoch")),
        last_seq=int_of(item.get("last_seq")),
        inbox_version=int_of(item.get("inbox_version")),
        claim_nonce=str(item.get("claim_nonce", "")),
        takeovers=int_of(item.get("takeovers")),
        created_at=instant_of(str(item["created_at"])),
        updated_at=instant_of(str(item["updated_at"])),
        wake_at=None if wake_at is None else instant_of(str(wake_at)),
        continued_as=None if continued_as is None else str(continued_as),
        attributes=_object(item.get("attributes")),
        outbox=_ids(item.get("outbox")),
    )


def _object(value: Value) -> dict[str, Json]:
    read = stored_json(str(value or "{}"))
    if not isinstance(read, dict):
        raise TypeError("its attributes are no object")
    return read


def _ids(value: Value) -> tuple[str, ...]:
    read = stored_json(str(value or "[]"))
    if not isinstance(read, list):
        raise TypeError("its outbox is no list")
    return tuple(map(str, read))


def head_key(session_id: str) -> Key:
    """Return the key of a session's HEAD."""
    return Key(f"{_SESSION_PREFIX}{session_id}", HEAD)


def session_id_of(item: Item) -> str:
    """Return the session whose item it is."""
    return str(item[PARTITION_KEY]).removeprefix(_SESSION_PREFIX)


def present(item: Item) -> Item:
    """Return the item without what is absent."""
    return {name: value for name, value in item.items() if value is not None}


def int_of(value: Value) -> int:
    """Return the value as a whole number; 0 for what is none."""
    return value if isinstance(value, int) else 0
