"""Callbacks on DynamoDB: one item each, decided by one conditional update that keeps the answer itself (rule 10).

An answer whose own confirmation was lost finds itself standing there, which is what a first one is told as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from actors import Clock
from orchestrator.aws.items import EXPIRES_AT, PARTITION_KEY, SORT_KEY, Insert, Item, Key, Update
from orchestrator.aws.table import ConditionUnmet, Table
from orchestrator.callbacks import TOKENS_MAX, Callback, UnreadableCallback
from orchestrator.encryption import Altered
from orchestrator.encryption.cipher import PayloadCipher
from orchestrator.session.values import compact_json, format_instant, instant_of

CALLBACK: Final = "CALLBACK"
ISSUE_TRIES_MAX: Final = 10
"""A try is lost where another node, or DynamoDB, deals with the same expired item in the same instant."""

_CALLBACK_PREFIX: Final = "CALLBACK#"


class DynamoDBCallbacks:
    """`Callbacks` on the table. With a payload key, an answer is stored as ciphertext, in bytes."""

    def __init__(self, table: Table, *, clock: Clock, cipher: PayloadCipher | None = None) -> None:
        """Without `cipher` it can read no answer that is encrypted."""
        self._table = table
        self._cipher = cipher
        self._clock = clock

    async def issue(self, callback: Callback, *, expires_at: datetime) -> Callback:
        """See `Callbacks.issue`."""
        item = _item(callback, expires_at)
        write: Insert | Update = Insert(item)
        for _ in range(ISSUE_TRIES_MAX):
            try:
                await self._table.write(write)
            except ConditionUnmet as unmet:
                standing = await self._unless_expired(unmet.item)
                if standing is not None:
                    return await self._joined(standing, callback)
                write = Insert(item) if unmet.item is None else _replacement(unmet.item, item)
            else:
                return callback
        raise AssertionError(f"callback {callback.callback_id} came and went {ISSUE_TRIES_MAX} times")

    async def get(self, callback_id: str) -> Callback | None:
        """See `Callbacks.get`."""
        return await self._unless_expired(await self._table.get(_key(callback_id)))

    async def add_tokens(self, callback_id: str, token_sha256: Iterable[str]) -> Callback | None:
        """See `Callbacks.add_tokens`."""
        tokens = frozenset(token_sha256)
        if not tokens:
            # DynamoDB knows no empty set.
            return await self.get(callback_id)
        update = Update(_key(callback_id), sets={}, joins={"token_sha256": tokens}, alive_at=self._now())
        return await self._changed(update)

    async def decide(self, callback_id: str, answer: str) -> Callback | None:
        """See `Callbacks.decide`."""
        expected: Item = {"answer": None}
        stored: str | bytes = answer
        if self._cipher is not None and self._cipher.is_encrypting:
            stored = await self._cipher.encrypt(_bound_to(callback_id), answer.encode())
        update = Update(_key(callback_id), sets={"answer": stored}, expected=expected, alive_at=self._now())
        return await self._changed(update)

    async def _joined(self, standing: Callback, callback: Callback) -> Callback:
        is_same = (standing.session_id, standing.operation) == (callback.session_id, callback.operation)
        assert is_same, f"callback {callback.callback_id} is of two operations"
        if len(standing.token_sha256) >= TOKENS_MAX:
            return standing
        joined = await self.add_tokens(callback.callback_id, callback.token_sha256)
        # One that expired in this very moment is of no use to anybody.
        return standing if joined is None else joined

    async def _changed(self, update: Update) -> Callback | None:
        """Return the callback as it stands after the update, whether that took effect or not."""
        try:
            return await self._unless_expired(await self._table.write(update))
        except ConditionUnmet as unmet:
            return await self._unless_expired(unmet.item)

    async def _unless_expired(self, item: Item | None) -> Callback | None:
        if item is None or not self._is_alive(item):
            return None
        encrypted = item.get("answer")
        if not isinstance(encrypted, bytes):
            return _callback(item)
        return _callback({**item, "answer": await self._opened(str(item[PARTITION_KEY]), encrypted)})

    async def _opened(self, pk: str, encrypted: bytes) -> str:
        if self._cipher is None:
            raise UnreadableCallback(f"the answer in {pk} is encrypted, and this reader has no keys")
        try:
            return (await self._cipher.decrypt(_bound_to(pk.removeprefix(_CALLBACK_PREFIX)), encrypted)).decode()
        except Altered as altered:
            raise UnreadableCallback(f"the answer in {pk} cannot be decrypted: {altered}") from None

    def _is_alive(self, item: Item) -> bool:
        expires_at = item.get(EXPIRES_AT)
        return isinstance(expires_at, int) and expires_at > self._now()

    def _now(self) -> int:
        return int(self._clock.now().timestamp())


def _key(callback_id: str) -> Key:
    return Key(f"{_CALLBACK_PREFIX}{callback_id}", CALLBACK)


def _bound_to(callback_id: str) -> str:
    return compact_json(["callback", callback_id])


def _replacement(expired: Item, item: Item) -> Update:
    """Return the update that makes the one item of the other, unless somebody else did so first."""
    attributes = {name: value for name, value in item.items() if name not in {PARTITION_KEY, SORT_KEY}}
    return Update(
        Key(str(item[PARTITION_KEY]), str(item[SORT_KEY])),
        sets={name: value for name, value in attributes.items() if value is not None},
        removes=tuple(name for name, value in attributes.items() if value is None and name in expired),
        # A node whose clock is behind may still have decided it since it was read.
        expected={EXPIRES_AT: expired.get(EXPIRES_AT), "answer": expired.get("answer")},
    )


def _item(callback: Callback, expires_at: datetime) -> Item:
    key = _key(callback.callback_id)
    return {
        PARTITION_KEY: key.pk,
        SORT_KEY: key.sk,
        "session_id": callback.session_id,
        "operation": callback.operation,
        "token_sha256": callback.token_sha256 or None,
        "answer": callback.answer,
        "times_out_at": None if callback.times_out_at is None else format_instant(callback.times_out_at),
        EXPIRES_AT: int(expires_at.timestamp()),
    }


def _callback(item: Item) -> Callback:
    """Return the callback of an item. Raises `UnreadableCallback` for one that this version did not write."""
    try:
        return _parsed(item)
    except (KeyError, ValueError) as error:
        raise UnreadableCallback(f"the item {item[PARTITION_KEY]!s} cannot be read: {error}") from None


def _parsed(item: Item) -> Callback:
    tokens, answer, times_out_at = item.get("token_sha256"), item.get("answer"), item.get("times_out_at")
    return Callback(
        callback_id=str(item[PARTITION_KEY]).removeprefix(_CALLBACK_PREFIX),
        session_id=str(item["session_id"]),
        operation=str(item["operation"]),
        token_sha256=tokens if isinstance(tokens, frozenset) else frozenset(),
        times_out_at=None if times_out_at is None else instant_of(str(times_out_at)),
        answer=None if answer is None else str(answer),
    )
