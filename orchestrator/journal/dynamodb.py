"""The journal on DynamoDB: one immutable item an event, inserted on condition that its place is free (I1).

The attribute names are the contract's. The journal is the lock of its session: who inserts event n+1 is the writer.
With a payload key, `data` holds marks in place of payloads, and `encrypted` the payloads, for that item alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from orchestrator.aws.items import PARTITION_KEY, SORT_KEY, Insert, Item
from orchestrator.aws.table import ConditionUnmet, Table
from orchestrator.encryption import Altered
from orchestrator.encryption.cipher import PayloadCipher
from orchestrator.errors import Unavailable
from orchestrator.journal import AlteredEvent, JournalConflict, UnreadableEvent
from orchestrator.journal.codec import decode, encode, encode_apart, operation_of, type_name
from orchestrator.session.events import Recorded
from orchestrator.session.values import SESSION_LIFE_MAX, compact_json, format_instant, instant_of

EVENT_PREFIX: Final = "EVENT#"
LAST_EVENT: Final = f"{EVENT_PREFIX}9999999999"
ENCRYPTED: Final = "encrypted"


def partition_of(session_id: str) -> str:
    """Return the partition key of a session's items."""
    return f"SESSION#{session_id}"


class DynamoDBJournal:
    """A `Journal` on the table."""

    def __init__(
        self, table: Table, *, retention: timedelta, cipher: PayloadCipher | None = None, shows_marks: bool = False
    ) -> None:
        """Without `cipher` it can read no event that is encrypted.

        With `shows_marks`, an event whose key is refused is read with the marks that stand for its payloads: for people
        to look at, never for a session to be run by.
        """
        self._table = table
        self._cipher = cipher
        self._shows_marks = shows_marks
        # So no open session loses its first event (rule 15).
        self._life_seconds = (SESSION_LIFE_MAX + retention).total_seconds()

    async def append(self, session_id: str, events: Sequence[Recorded], *, started_at: datetime) -> None:
        """See `Journal.append`."""
        expires_at = int(started_at.timestamp() + self._life_seconds)
        if self._cipher is not None and self._cipher.is_encrypting:
            cipher = self._cipher
            writes = [Insert(await _encrypted_item(session_id, recorded, expires_at, cipher)) for recorded in events]
        else:
            writes = [Insert(_item(session_id, recorded, expires_at)) for recorded in events]
        if len(writes) > 1:
            with suppress(ConditionUnmet):
                await self._table.write_all(writes)
                return
            # What stands there is ours, after a lost answer, or somebody else's: one by one they tell.
        for write, recorded in zip(writes, events, strict=True):
            await self._append_one(session_id, write, recorded)

    async def _append_one(self, session_id: str, write: Insert, recorded: Recorded) -> None:
        try:
            await self._table.write(write)
        except ConditionUnmet as unmet:
            existing = _standing(unmet)
            # Our own event stands there if the answer to an earlier attempt of this very append was lost.
            if str(existing.get("event_id")) != recorded.event_id:
                raise JournalConflict(session_id, await self._read_item(existing)) from None

    async def read(self, session_id: str, *, after: int = 0) -> AsyncIterator[Recorded]:
        """See `Journal.read`."""
        expected = after
        rows = self._table.partition(partition_of(session_id), sk_after=_place(after), sk_until=LAST_EVENT)
        async for item in rows:
            # What is not encrypted is read as if nothing ever were.
            recorded = await self._read_item(item) if ENCRYPTED in item else _recorded(item)
            expected += 1
            if recorded.seq != expected:
                raise UnreadableEvent(f"the journal of {session_id} lacks event {expected}: it was changed or expired")
            yield recorded

    async def _read_item(self, item: Item) -> Recorded:
        encrypted = item.get(ENCRYPTED)
        if not isinstance(encrypted, bytes):
            return _recorded(item)
        payloads = await self._payloads(item, encrypted)
        return _recorded(item, payloads, shows_marks=payloads is None)

    async def _payloads(self, item: Item, encrypted: bytes) -> bytes | None:
        """Return what is encrypted in the item; `None` where its marks are to be shown."""
        if self._cipher is None:
            raise UnreadableEvent(f"the item {item[SORT_KEY]!s} is encrypted, and this reader has no keys")
        try:
            return await self._cipher.decrypt(_bound_to(item), encrypted)
        except Altered as altered:
            raise AlteredEvent(f"the payload of {item[SORT_KEY]!s} cannot be decrypted: {altered}") from None
        except Unavailable:
            if not self._shows_marks:
                raise
            return None


def _standing(unmet: ConditionUnmet) -> Item:
    assert unmet.item is not None, f"{unmet.key.pk} {unmet.key.sk} vanished: events are never deleted early"
    return unmet.item


def _place(seq: int) -> str:
    return f"{EVENT_PREFIX}{seq:010d}"


async def _encrypted_item(session_id: str, recorded: Recorded, expires_at: int, cipher: PayloadCipher) -> Item:
    data, payloads = encode_apart(recorded.event)
    item = _item(session_id, recorded, expires_at, data)
    if payloads is not None:
        item[ENCRYPTED] = await cipher.encrypt(_bound_to(item), payloads)
    return item


def _bound_to(item: Item) -> str:
    """Return what an event's ciphertext belongs to: its place, and all of it that stands there in clear."""
    names = (PARTITION_KEY, SORT_KEY, "status", "operation", "at", "epoch", "node", "event_id", "data")
    return compact_json([str(item.get(name, "")) for name in names])


def _item(session_id: str, recorded: Recorded, expires_at: int, data: str | None = None) -> Item:
    event, operation = recorded.event, operation_of(recorded.event)
    item: Item = {
        PARTITION_KEY: partition_of(session_id),
        SORT_KEY: _place(recorded.seq),
        "status": type_name(event),
        "at": format_instant(recorded.at),
        "data": encode(event) if data is None else data,
        "epoch": recorded.epoch,
        "node": recorded.node,
        "event_id": recorded.event_id,
        "expires_at": expires_at,
    }
    if operation is not None:
        item["operation"] = operation
    return item


def _recorded(item: Item, payloads: bytes | None = None, *, shows_marks: bool = False) -> Recorded:
    """Return the event that an item holds, with the payloads that were encrypted in it.

    Raises:
        UnreadableEvent: an attribute is missing or of another kind, or `decode` cannot read it.
    """
    operation, place = item.get("operation"), str(item[SORT_KEY])
    try:
        epoch = item["epoch"]
        if not isinstance(epoch, int) or isinstance(epoch, bool):
            raise TypeError(f"its epoch is {type(epoch).__name__}")
        return Recorded(
            seq=int(place.removeprefix(EVENT_PREFIX)),
            event=decode(
                str(item["status"]),
                None if operation is None else str(operation),
                str(item["data"]),
                payloads,
                shows_marks=shows_marks,
            ),
            at=instant_of(str(item["at"])),
            epoch=epoch,
            node=str(item["node"]),
            event_id=str(item["event_id"]),
        )
    except KeyError as missing:
        raise UnreadableEvent(f"the item {place} lacks {missing}: it was changed") from None
    except (TypeError, ValueError) as error:
        raise UnreadableEvent(f"the item {place} cannot be read: {error}") from None
