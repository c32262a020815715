"""Callbacks in memory: the same protocol, the same winner. Shipped for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from actors import Clock
from orchestrator.callbacks import TOKENS_MAX, Callback


class MemoryCallbacks:
    """The `Callbacks` of one process."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._callbacks: dict[str, tuple[Callback, datetime]] = {}

    async def issue(self, callback: Callback, *, expires_at: datetime) -> Callback:
        """See `Callbacks.issue`."""
        await asyncio.sleep(0)
        standing = self._standing(callback.callback_id)
        if standing is None:
            self._callbacks[callback.callback_id] = (callback, expires_at)
            return callback
        is_same = (standing.session_id, standing.operation) == (callback.session_id, callback.operation)
        assert is_same, f"callback {callback.callback_id} is of two operations"
        if len(standing.token_sha256) >= TOKENS_MAX:
            return standing
        return self._put(replace(standing, token_sha256=standing.token_sha256 | callback.token_sha256))

    async def get(self, callback_id: str) -> Callback | None:
        """See `Callbacks.get`."""
        await asyncio.sleep(0)
        return self._standing(callback_id)

    async def add_tokens(self, callback_id: str, token_sha256: Iterable[str]) -> Callback | None:
        """See `Callbacks.add_tokens`."""
        await asyncio.sleep(0)
        standing = self._standing(callback_id)
        if standing is None:
            return None
        return self._put(replace(standing, token_sha256=standing.token_sha256.union(token_sha256)))

    async def decide(self, callback_id: str, answer: str) -> Callback | None:
        """See `Callbacks.decide`."""
        await asyncio.sleep(0)
        standing = self._standing(callback_id)
        if standing is None or standing.answer is not None:
            return standing
        return self._put(replace(standing, answer=answer))

    def _standing(self, callback_id: str) -> Callback | None:
        callback, expires_at = self._callbacks.get(callback_id, (None, None))
        return callback if expires_at is not None and expires_at > self._clock.now() else None

    def _put(self, callback: Callback) -> Callback:
        _, expires_at = self._callbacks[callback.callback_id]
        self._callbacks[callback.callback_id] = (callback, expires_at)
        return callback
