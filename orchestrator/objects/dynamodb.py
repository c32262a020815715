"""Latest writes on DynamoDB: one item for each object, put where none stands, else replaced if it is as it was read."""

from __future__ import annotations

import hashlib
from typing import Final

from actors import Clock
from orchestrator.aws.items import EXPIRES_AT, PARTITION_KEY, SORT_KEY, Insert, Item, Key, Update
from orchestrator.aws.table import ConditionUnmet, Table
from orchestrator.objects import KEPT, ObjectWrite, is_older
from orchestrator.session.values import canonical_json

SEQUENCER: Final = "SEQUENCER"
NOTE_TRIES_MAX: Final = 100
"""A try is lost where somebody else notes a write of the same object in the same instant."""


class DynamoDBLatestWrites:
    """`LatestWrites` on the table."""

    def __init__(self, table: Table, *, clock: Clock) -> None:
        self._table = table
        self._clock = clock

    async def note(self, write: ObjectWrite) -> str:
        """See `LatestWrites.note`."""
        now = int(self._clock.now().timestamp())
        fields: Item = {
            "sequencer": write.sequencer,
            "bucket": write.bucket,
            "key": write.key,
            EXPIRES_AT: now + int(KEPT.total_seconds()),
        }
        key = _key(write)
        insert = Insert({PARTITION_KEY: key.pk, SORT_KEY: key.sk, **fields})
        change: Insert | Update = insert
        for _ in range(NOTE_TRIES_MAX):
            try:
                await self._table.write(change)
            except ConditionUnmet as unmet:
                latest = _latest(unmet.item, now)
                if latest is not None and (latest == write.sequencer or is_older(write.sequencer, than=latest)):
                    return latest
                change = insert if unmet.item is None else Update(key, sets=fields, expected=_read(unmet.item))
            else:
                return write.sequencer
        raise AssertionError(f"{key.pk} changed {NOTE_TRIES_MAX} times while one write was noted")


def _latest(item: Item | None, now: int) -> str | None:
    """Return the sequencer that stands; `None` for one that has expired, or that this version did not write."""
    sequencer, expires_at = (None, None) if item is None else (item.get("sequencer"), item.get(EXPIRES_AT))
    if not isinstance(sequencer, str) or not isinstance(expires_at, int) or expires_at <= now:
        return None
    return sequencer


def _read(item: Item) -> Item:
    return {name: item.get(name) for name in ("sequencer", EXPIRES_AT)}


def _key(write: ObjectWrite) -> Key:
    # A key of S3 may be as long as the whole sort key of an item.
    digest = hashlib.sha256(canonical_json([write.bucket, write.key]).encode()).hexdigest()
    return Key(f"OBJECT#{digest}", SEQUENCER)
