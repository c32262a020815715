"""Marks of schedules on DynamoDB: one item each, put where none stands, else changed if it is as it was read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from orchestrator.aws.items import EXPIRES_AT, PARTITION_KEY, SORT_KEY, Insert, Item, Key, Update
from orchestrator.aws.table import ConditionUnmet, Table
from orchestrator.schedules import ScheduleName
from orchestrator.session.values import format_instant, instant_of

MARK: Final = "seen_to"
CHANGE_TRIES_MAX: Final = 100
"""A try is lost where another node moves the same mark in the same instant."""


class DynamoDBSchedules:
    """`Schedules` on the table."""

    def __init__(self, table: Table) -> None:
        self._table = table

    async def begin(self, schedule: ScheduleName, *, now: datetime, expires_at: datetime) -> datetime:
        """See `Schedules.begin`."""

        def stands(item: Item) -> bool:
            expires = item.get(EXPIRES_AT)
            return _mark(item) is not None and isinstance(expires, int) and expires > now.timestamp()

        item = await self._changed(schedule, now, expires_at, stands)
        return now if item is None else _mark(item) or now

    async def seen_to(self, schedule: ScheduleName, until: datetime, *, expires_at: datetime) -> None:
        """See `Schedules.seen_to`."""

        def stands(item: Item) -> bool:
            mark = _mark(item)
            return mark is not None and mark >= until

        await self._changed(schedule, until, expires_at, stands)

    async def _changed(
        self, schedule: ScheduleName, mark: datetime, expires_at: datetime, stands: Callable[[Item], bool]
    ) -> Item | None:
        """Set the mark, unless an item is there that `stands`; return that one, or `None` where the mark was set."""
        key = Key(f"SCHEDULE#{schedule.session_type}", schedule.name)
        fields: Item = {MARK: format_instant(mark), EXPIRES_AT: int(expires_at.timestamp())}
        standing = await self._table.get(key)
        for _ in range(CHANGE_TRIES_MAX):
            if standing is not None and stands(standing):
                return standing
            change: Insert | Update = Insert({PARTITION_KEY: key.pk, SORT_KEY: key.sk, **fields})
            if standing is not None:
                read = {name: standing.get(name) for name in (MARK, EXPIRES_AT)}
                change = Update(key, sets=fields, expected=read)
            try:
                await self._table.write(change)
            except ConditionUnmet as unmet:
                standing = unmet.item
            else:
                return None
        raise AssertionError(f"{key.pk} {key.sk} changed {CHANGE_TRIES_MAX} times while it was marked")


def _mark(item: Item) -> datetime | None:
    """Return the mark of an item; `None` where it is none that this version wrote."""
    try:
        return instant_of(str(item.get(MARK)))
    except ValueError:
        return None
