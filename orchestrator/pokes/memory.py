"""Pokes between nodes of one process: the same protocol, the same silence. Shipped for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class MemoryPokes:
    """`Pokes` of one process."""

    def __init__(self) -> None:
        self._bells: dict[str, Callable[[], None]] = {}

    def answer(self, node_id: str, ring: Callable[[], None]) -> None:
        """Call `ring` whenever that node is poked."""
        self._bells[node_id] = ring

    async def poke(self, node_id: str) -> None:
        """See `Pokes.poke`."""
        await asyncio.sleep(0)
        ring = self._bells.get(node_id)
        if ring is not None:
            ring()

    async def run(self) -> None:
        """See `Pokes.run`: they carry themselves."""
        await asyncio.get_running_loop().create_future()
