"""Slots and queues on DynamoDB: all of a tenant is one partition, and every change of it one transaction.

QUOTA's counts say how many SLOT and QUEUED items stand beside it. A queue is read there, in order and consistently;
the index `by-state` shows the same sessions to people, a little later.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final

from orchestrator.aws.items import PARTITION_KEY, SORT_KEY, Delete, Insert, Item, Key, Tally, Update
from orchestrator.aws.provision import BY_STATE
from orchestrator.aws.table import ConditionUnmet, Table
from orchestrator.cluster import Head, NotOwner
from orchestrator.cluster.head_items import changes, head_of, insert_of, int_of, update_of
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import format_instant
from orchestrator.tenants import LIMIT_MAX, Quota, dismissed, promoted

QUOTA: Final = "QUOTA"
_TENANT_PREFIX: Final = "TENANT#"
_SLOT_PREFIX: Final = "SLOT#"
_QUEUED_PREFIX: Final = "QUEUED#"
_WITH_LIMIT: Final = "TENANT_LIMITED"
_WITHOUT_LIMIT: Final = "TENANT_UNLIMITED"
"""Partitions of `by-state` in which the tenants stand for whom a limit was set."""

_NONE_USED: Final = "attribute_not_exists(#used)"
_HAS_ROOM: Final = (
    f"((attribute_exists(#limit) AND (#limit = :zero OR {_NONE_USED} OR #used < #limit))"
    f" OR (attribute_not_exists(#limit) AND ({_NONE_USED} OR #used < :limit_default)))"
)
_LETS_IN: Final = f"({_HAS_ROOM} AND (attribute_not_exists(#queued) OR #queued <= :zero))"


class DynamoDBQuotas:
    """`Quotas` on the table."""

    def __init__(self, table: Table, *, limit_default: int) -> None:
        self._table = table
        self.limit_default = limit_default

    async def get(self, tenant: str) -> Quota:
        """See `Quotas.get`."""
        return self._quota(tenant, await self._table.get(_key(tenant)) or {})

    async def set_limit(self, tenant: str, limit: int, *, at: datetime) -> Quota:
        """See `Quotas.set_limit`."""
        key = _key(tenant)
        own: Item = {
            "limit": limit,
            "tenant": tenant,
            "state_key": _WITH_LIMIT if limit else _WITHOUT_LIMIT,
            "updated_at": format_instant(at),
        }
        try:
            await self._table.write(Insert({PARTITION_KEY: key.pk, SORT_KEY: key.sk, **own}))
        except ConditionUnmet:
            await self._table.write(Update(key=key, sets=own))
        return await self.get(tenant)

    async def tenants(self, *, limited: bool) -> AsyncIterator[str]:
        """See `Quotas.tenants`."""
        async for item in self._table.index(BY_STATE, ("state_key", _WITH_LIMIT if limited else _WITHOUT_LIMIT)):
            yield str(item[PARTITION_KEY]).removeprefix(_TENANT_PREFIX)

    async def admit(self, head: Head) -> Head | None:
        """See `Quotas.admit`."""
        slot = Insert(_marker(_slot_key(head.tenant, head.session_id)))
        return await self._inserted(head, slot, self._tally(head.tenant, _LETS_IN, used=1))

    async def enqueue(self, head: Head) -> Head | None:
        """See `Quotas.enqueue`."""
        assert head.status is SessionStatus.QUEUED, f"{head.session_id} is not queued"
        place = Insert(_marker(_place_key(head)))
        return await self._inserted(head, place, self._tally(head.tenant, f"NOT {_LETS_IN}", queued=1))

    async def oldest(self, tenant: str, count: int) -> tuple[str, ...]:
        """See `Quotas.oldest`."""
        found: list[str] = []
        # The character after "#" bounds the prefix, whatever the ids behind it are made of.
        until = _QUEUED_PREFIX.replace("#", "$")
        async for item in self._table.partition(_key(tenant).pk, sk_after=_QUEUED_PREFIX, sk_until=until):
            found.append(str(item[SORT_KEY]).split("#", 2)[2])
            if len(found) >= count:
                break
        return tuple(found)

    async def promote(self, head: Head, *, node_id: str | None, nonce: str, at: datetime) -> Head | None:
        """See `Quotas.promote`."""
        wanted = promoted(head, node_id=node_id, nonce=nonce, at=at)
        tally = self._tally(head.tenant, _HAS_ROOM, used=1, queued=-1)
        slot = Insert(_marker(_slot_key(head.tenant, head.session_id)))
        try:
            await self._table.write_all([_taking(head, wanted), tally, slot, Delete(_place_key(head))])
        except ConditionUnmet as unmet:
            if unmet.key == tally.key:
                return None
            return _ours(unmet, wanted)
        return wanted

    async def dismiss(self, head: Head, *, node_id: str | None, nonce: str, at: datetime) -> Head:
        """See `Quotas.dismiss`."""
        wanted = dismissed(head, node_id=node_id, nonce=nonce, at=at)
        tally = self._tally(head.tenant, f"attribute_exists({SORT_KEY})", queued=-1)
        try:
            await self._table.write_all([_taking(head, wanted), tally, Delete(_place_key(head))])
        except ConditionUnmet as unmet:
            return _ours(unmet, wanted)
        return wanted

    async def free(self, tenant: str, session_id: str) -> None:
        """See `Quotas.free`."""
        slot = Delete(_slot_key(tenant, session_id))
        try:
            await self._table.write_all([slot, self._tally(tenant, f"attribute_exists({SORT_KEY})", used=-1)])
        except ConditionUnmet as unmet:
            # Gone: somebody gave it back before, or we did and the answer was lost.
            assert unmet.key == slot.key, f"a slot of {tenant} is not counted"

    async def _inserted(self, head: Head, beside: Insert, tally: Tally) -> Head | None:
        insert = insert_of(head)
        try:
            await self._table.write_all([insert, tally, beside])
        except ConditionUnmet as unmet:
            if unmet.key == tally.key:
                return None
            assert unmet.key == insert.key, f"{unmet.key.sk} of {head.session_id} stands without its HEAD"
            assert unmet.item is not None, f"HEAD of {head.session_id} vanished: it is never deleted early"
            return head_of(unmet.item)
        return head

    def _tally(self, tenant: str, condition: str, *, used: int = 0, queued: int = 0) -> Tally:
        adds = {name: n for name, n in (("used", used), ("queued", queued)) if n}
        known: Item = {"zero": 0, "limit_default": self.limit_default or LIMIT_MAX}
        return Tally(
            key=_key(tenant),
            adds=adds,
            condition=condition,
            names=tuple(name for name in ("limit", "used", "queued") if f"#{name}" in condition),
            values={name: value for name, value in known.items() if f":{name}" in condition},
        )

    def _quota(self, tenant: str, item: Item) -> Quota:
        own = item.get("limit")
        return Quota(
            tenant=tenant,
            limit=int_of(own) if own is not None else self.limit_default,
            is_own=own is not None,
            used=int_of(item.get("used")),
            queued=int_of(item.get("queued")),
        )


def _taking(head: Head, wanted: Head) -> Update:
    """Return the claim of a HEAD that must still be queued, with no message since it was read (rule 9)."""
    expected: Item = {"state": head.status, "epoch": head.epoch, "inbox_version": head.inbox_version}
    return update_of(head.session_id, changes(head, wanted), expected)


def _ours(unmet: ConditionUnmet, wanted: Head) -> Head:
    """Return the HEAD that stands there if it is what we wrote and had no answer to. Raises `NotOwner`."""
    standing = head_of(unmet.item) if unmet.item is not None and "claim_nonce" in unmet.item else None
    if standing is None or standing.claim_nonce != wanted.claim_nonce:
        raise NotOwner(f"HEAD of {wanted.session_id} moved on: {standing}") from None
    return standing


def _key(tenant: str) -> Key:
    return Key(f"{_TENANT_PREFIX}{tenant}", QUOTA)


def _slot_key(tenant: str, session_id: str) -> Key:
    return Key(_key(tenant).pk, f"{_SLOT_PREFIX}{session_id}")


def _place_key(head: Head) -> Key:
    return Key(_key(head.tenant).pk, f"{_QUEUED_PREFIX}{format_instant(head.created_at)}#{head.session_id}")


def _marker(key: Key) -> Item:
    return {PARTITION_KEY: key.pk, SORT_KEY: key.sk}
