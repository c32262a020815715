"""Lets several branches of a handler wait for one outcome: one of them asks for it, the others come after it.

A stop of the session that strikes the one who asks strikes them all: each of them awaits something.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from orchestrator.errors import SessionCancelled

T = TypeVar("T")


@dataclass(slots=True)
class _Asking:
    """Somebody asks. `stop` is the stop of the session that he heard of instead."""

    ended: asyncio.Event = field(default_factory=asyncio.Event)
    stop: SessionCancelled | None = None


class SharedWaits:
    """The outcomes that one run of a handler asks for in several branches, by key."""

    def __init__(self) -> None:
        self._asking: dict[str, _Asking] = {}

    async def get(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Return what `ask()` returns, once nobody else asks for it.

        Raises:
            SessionCancelled: the session is to end, and whoever asked before us was told.
        """
        while (before := self._asking.get(key)) is not None:
            await before.ended.wait()
            if before.stop is not None:
                raise SessionCancelled(str(before.stop))
        asking = self._asking[key] = _Asking()
        try:
            return await ask()
        except SessionCancelled as stop:
            asking.stop = stop
            raise
        finally:
            del self._asking[key]
            asking.ended.set()
