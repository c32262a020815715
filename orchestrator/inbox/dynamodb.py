"""Waiting messages and wake-ups on DynamoDB: one item each, inserted on condition that its place is free (rule 11).

An item that vanished between a refused insert and the look at it was consumed: nothing is owed for its id any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from actors import Clock
from orchestrator.aws.items import EXPIRES_AT, PARTITION_KEY, SORT_KEY, Insert, Item, Key
from orchestrator.aws.table import ConditionUnmet, Table
from orchestrator.encryption import Altered
from orchestrator.encryption.cipher import PayloadCipher
from orchestrator.inbox import InboxItem, MessageConflict, UnreadableMessage
from orchestrator.session.values import SESSION_LIFE_MAX, compact_json

WAKE_UP_LIFE: Final = timedelta(days=1)
"""As long as the tombstone of a dead node: after that, nobody asks for its notes."""
DELETES_AT_ONCE_MAX: Final = 25

_INBOX_PREFIX: Final = "INBOX#"
_WAKE_PREFIX: Final = "WAKE#"


class DynamoDBInbox:
    """An `Inbox` on the table. With a payload key, a body is stored as ciphertext, in bytes."""

    def __init__(
        self, table: Table, *, clock: Clock, retention: timedelta, cipher: PayloadCipher | None = None
    ) -> None:
        """Without `cipher` it can read no message that is encrypted."""
        self._table = table
        self._cipher = cipher
        self._clock = clock
        self._life = SESSION_LIFE_MAX + retention

    async def put(self, session_id: str, item: InboxItem) -> None:
        """See `Inbox.put`."""
        key = _message_key(session_id, item.message_id)
        message: Item = {
            PARTITION_KEY: key.pk,
            SORT_KEY: key.sk,
            "body": await self._stored(key, item.body),
            "position": item.position,
            EXPIRES_AT: _expires_at(self._clock, self._life),
        }
        try:
            await self._table.write(Insert(message))
        except ConditionUnmet as unmet:
            # Our own message stands there if the answer to an earlier attempt was lost.
            if unmet.item is not None and (await self._message(unmet.item)).body != item.body:
                raise MessageConflict(session_id, item.message_id) from None

    async def read(self, session_id: str) -> tuple[InboxItem, ...]:
        """See `Inbox.read`."""
        pk = _message_key(session_id, "").pk
        waiting = [await self._message(item) async for item in _all_with_prefix(self._table, pk, _INBOX_PREFIX)]
        return tuple(sorted(waiting, key=lambda item: (item.position, item.message_id)))

    async def delete(self, session_id: str, message_ids: Sequence[str]) -> None:
        """See `Inbox.delete`."""
        for start in range(0, len(message_ids), DELETES_AT_ONCE_MAX):
            try:
                async with asyncio.TaskGroup() as deletions:
                    for message_id in message_ids[start : start + DELETES_AT_ONCE_MAX]:
                        deletions.create_task(self._table.delete(_message_key(session_id, message_id)))
            except ExceptionGroup as failed:
                # What the table refuses has a name of its own, which callers know.
                raise failed.exceptions[0] from None

    async def _stored(self, key: Key, body: str) -> str | bytes:
        if self._cipher is None or not self._cipher.is_encrypting:
            return body
        return await self._cipher.encrypt(_bound_to(key), body.encode())

    async def _message(self, item: Item) -> InboxItem:
        encrypted = item.get("body")
        if not isinstance(encrypted, bytes):
            return _message(item)
        key = Key(str(item[PARTITION_KEY]), str(item[SORT_KEY]))
        return _message({**item, "body": await self._opened(key, encrypted)})

    async def _opened(self, key: Key, encrypted: bytes) -> str:
        if self._cipher is None:
            raise UnreadableMessage(f"inbox message {key.sk} is encrypted, and this reader has no keys")
        try:
            return (await self._cipher.decrypt(_bound_to(key), encrypted)).decode()
        except Altered as altered:
            raise UnreadableMessage(f"inbox message {key.sk} cannot be decrypted: {altered}") from None


class DynamoDBWakeUps:
    """`WakeUps` on the table."""

    def __init__(self, table: Table, *, clock: Clock) -> None:
        self._table = table
        self._clock = clock

    async def put(self, node_id: str, session_id: str) -> None:
        """See `WakeUps.put`."""
        key = _note_key(node_id, session_id)
        note: Item = {PARTITION_KEY: key.pk, SORT_KEY: key.sk, EXPIRES_AT: _expires_at(self._clock, WAKE_UP_LIFE)}
        # One that stands there is taken after this moment, and the inbox read after that.
        with suppress(ConditionUnmet):
            await self._table.write(Insert(note))

    async def take(self, node_id: str) -> AsyncIterator[str]:
        """See `WakeUps.take`.

        Each note goes alone: one removed before its turn would be lost if the caller stopped half-way. A caller that is
        cancelled inside the removal loses that note; only a node that ends does so, and who takes its sessions reads
        their inboxes.
        """
        pk = _note_key(node_id, "").pk
        async for item in _all_with_prefix(self._table, pk, _WAKE_PREFIX):
            sk = str(item[SORT_KEY])
            await self._table.delete(Key(pk, sk))
            yield sk.removeprefix(_WAKE_PREFIX)


def _all_with_prefix(table: Table, pk: str, prefix: str) -> AsyncIterator[Item]:
    # The character after "#" bounds the prefix, whatever the ids behind it are made of.
    return table.partition(pk, sk_after=prefix, sk_until=prefix.replace("#", "$"))


def _message_key(session_id: str, message_id: str) -> Key:
    return Key(f"SESSION#{session_id}", f"{_INBOX_PREFIX}{message_id}")


def _bound_to(key: Key) -> str:
    return compact_json(["inbox", key.pk, key.sk])


def _note_key(node_id: str, session_id: str) -> Key:
    return Key(f"NODE#{node_id}", f"{_WAKE_PREFIX}{session_id}")


def _expires_at(clock: Clock, life: timedelta) -> int:
    return int((clock.now() + life).timestamp())


def _message(item: Item) -> InboxItem:
    """Return the message of an item; a body that is none is refused by whoever decodes it."""
    position = item.get("position")
    return InboxItem(
        message_id=str(item[SORT_KEY]).removeprefix(_INBOX_PREFIX),
        position=position if isinstance(position, int) else 0,
        body=str(item.get("body", "")),
    )
