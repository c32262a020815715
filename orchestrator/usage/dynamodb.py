"""Usage on DynamoDB, in the tenant's partition: what of each session was counted, the sums of each month, the caps.

`USED#<session id>` and `USAGE#<month>` change in one transaction. The index `by-state` lists the tenants of a month,
and those with caps (`BUDGET`); it does not hold the sums, so that counting does not write to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from orchestrator.aws.items import EXPIRES_AT, PARTITION_KEY, SORT_KEY, Insert, Item, Key, Tally, Update, Value
from orchestrator.aws.provision import BY_STATE
from orchestrator.aws.table import ConditionUnmet, Table
from orchestrator.session.spending import month_of
from orchestrator.session.values import SESSION_LIFE_MAX, format_instant
from orchestrator.usage import COUNTS, MICROS, MILLIS, NO_CAPS, NOTHING, Caps, Total

_TENANT_PREFIX: Final = "TENANT#"
_USED_PREFIX: Final = "USED#"
_MONTH_PREFIX: Final = "USAGE#"
_BUDGET: Final = "BUDGET"
_CAPPED: Final = "TENANT_BUDGET"
"""Partition of `by-state` in which the tenants stand for whom caps were set."""
_CAPS: Final = ("tokens_max", "cost_micros_max", "agent_calls_max", "agent_millis_max")


class DynamoDBUsage:
    """`Usage` on the table."""

    def __init__(self, table: Table, *, retention: timedelta) -> None:
        """What was counted of a session is known for as long as its journal is kept."""
        self._table = table
        self._retention = retention

    async def count(self, tenant: str, session_id: str, total: Total, *, at: datetime) -> None:
        """See `Usage.count`."""
        await self._add(tenant, session_id, total, None, at)

    async def take(self, tenant: str, session_id: str, total: Total, *, calls_max: int, at: datetime) -> int | None:
        """See `Usage.take`."""
        return await self._add(tenant, session_id, total, calls_max, at)

    async def _add(self, tenant: str, session_id: str, total: Total, calls_max: int | None, at: datetime) -> int | None:
        """Add what is new, if that leaves no more calls than may be; see `Usage.take`."""
        key, month = _used_key(tenant, session_id), month_of(at)
        while True:
            # A write whose answer was lost is found here by whoever repeats it, and adds nothing.
            noted = await self._table.get(key)
            counted = _total(noted)
            new = total.beyond(counted)
            if new == NOTHING:
                return None
            counts: Item = dict(zip(COUNTS, (counted + new).counts, strict=True))
            note = self._note(key, noted, counts, at)
            tally = _tally(_month_key(tenant, month), new, calls_max)
            try:
                await self._table.write_all([note, tally])
            except ConditionUnmet as unmet:
                # Somebody else counted since; or the month has just begun; or it does not fit.
                if unmet.key == tally.key:
                    calls = (await self.month(tenant, month)).agent_calls + new.agent_calls
                    if calls_max is not None and calls > calls_max:
                        return calls - 1
                    await self._begin(tenant, month, at)
            else:
                return None

    async def month(self, tenant: str, month: str) -> Total:
        """See `Usage.month`."""
        return _total(await self._table.get(_month_key(tenant, month)))

    async def tenants(self, month: str) -> AsyncIterator[str]:
        """See `Usage.tenants`."""
        async for item in self._table.index(BY_STATE, ("state_key", f"{_MONTH_PREFIX}{month}")):
            yield str(item[PARTITION_KEY]).removeprefix(_TENANT_PREFIX)

    async def caps(self, tenant: str) -> Caps:
        """See `Usage.caps`."""
        item = await self._table.get(_key(tenant, _BUDGET)) or {}
        tokens, micros, calls, millis = (_optional(item.get(name)) for name in _CAPS)
        return Caps(
            tokens=tokens,
            cost=None if micros is None else micros / MICROS,
            agent_calls=calls,
            agent_seconds=None if millis is None else millis / MILLIS,
        )

    async def set_caps(self, tenant: str, caps: Caps, *, at: datetime) -> None:
        """See `Usage.set_caps`."""
        key = _key(tenant, _BUDGET)
        limits = (
            caps.tokens,
            None if caps.cost is None else round(caps.cost * MICROS),
            caps.agent_calls,
            None if caps.agent_seconds is None else round(caps.agent_seconds * MILLIS),
        )
        named: Item = dict(zip(_CAPS, limits, strict=True))
        own: Item = {
            **{name: limit for name, limit in named.items() if limit is not None},
            "updated_at": format_instant(at),
            "state_key": None if caps == NO_CAPS else _CAPPED,
        }
        kept: Item = {name: value for name, value in own.items() if value is not None}
        try:
            await self._table.write(Insert({PARTITION_KEY: key.pk, SORT_KEY: key.sk, **kept}))
        except ConditionUnmet:
            removed = tuple(name for name in (*_CAPS, "state_key") if name not in kept)
            await self._table.write(Update(key, kept, removes=removed))

    async def capped(self) -> AsyncIterator[str]:
        """See `Usage.capped`."""
        async for item in self._table.index(BY_STATE, ("state_key", _CAPPED)):
            yield str(item[PARTITION_KEY]).removeprefix(_TENANT_PREFIX)

    def _note(self, key: Key, noted: Item | None, counts: Item, at: datetime) -> Insert | Update:
        """Return the write that notes what is counted by then, if nobody has noted anything since."""
        expires_at = int((at + SESSION_LIFE_MAX + self._retention).timestamp())
        if noted is None:
            return Insert({PARTITION_KEY: key.pk, SORT_KEY: key.sk, EXPIRES_AT: expires_at, **counts})
        return Update(key, {**counts, EXPIRES_AT: expires_at}, expected={name: noted.get(name) for name in COUNTS})

    async def _begin(self, tenant: str, month: str, at: datetime) -> None:
        """Make the item of a month, so that the index lists it; from here on it is only added to."""
        key = _month_key(tenant, month)
        listed: Item = {"state_key": f"{_MONTH_PREFIX}{month}", "updated_at": format_instant(at), "tenant": tenant}
        with suppress(ConditionUnmet):
            await self._table.write(Insert({PARTITION_KEY: key.pk, SORT_KEY: key.sk, **listed}))


def _key(tenant: str, sort: str) -> Key:
    return Key(f"{_TENANT_PREFIX}{tenant}", sort)


def _used_key(tenant: str, session_id: str) -> Key:
    return _key(tenant, f"{_USED_PREFIX}{session_id}")


def _month_key(tenant: str, month: str) -> Key:
    return _key(tenant, f"{_MONTH_PREFIX}{month}")


def _tally(month: Key, new: Total, calls_max: int | None) -> Tally:
    """Return what adds to a month that has begun: with a cap on new calls, if they fit under it."""
    adds = {name: n for name, n in zip(COUNTS, new.counts, strict=True) if n}
    has_begun = f"attribute_exists({SORT_KEY})"
    if calls_max is None or not new.agent_calls:
        return Tally(month, adds, has_begun)
    left = calls_max - new.agent_calls
    # One without a number has spent nothing: only a cap below what is asked for refuses that.
    fits = "(attribute_not_exists(#agent_calls) OR #agent_calls <= :left)" if left >= 0 else "#agent_calls <= :left"
    return Tally(month, adds, f"{has_begun} AND {fits}", values={"left": left})


def _total(item: Item | None) -> Total:
    return Total(*(_optional((item or {}).get(name)) or 0 for name in COUNTS))


def _optional(value: Value) -> int | None:
    """Return a whole number of the table; `None` for what is none, as somebody may have changed it by hand."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
