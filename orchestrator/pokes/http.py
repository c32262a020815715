"""Pokes over HTTP: `POST /nodes/<node id>/wake` at the address that stands in the node's registration.

One poke to a node is under way at a time; who asks meanwhile has one more sent when that is done. As many pokes as
messages would be waste, for one look takes all notes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import aiohttp

from actors import Signal
from orchestrator.cluster import NodeRecord
from orchestrator.cluster.directory import Directory
from orchestrator.errors import OrchestratorError
from orchestrator.pokes import signature

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

POKES_AT_ONCE_MAX: Final = 16
POKE_SECONDS_MAX: Final = 1.0
"""After that the node has looked by itself."""
WANTED_MAX: Final = 1_000
POKE_SCHEME: Final = "Poke"
"""What stands before the signature in `Authorization`."""
GONE: Final = frozenset({403, 404})
"""What another node answers, or no node of ours: the address has a new owner."""


class HttpPokes:
    """`Pokes` to the addresses that a directory knows."""

    def __init__(self, directory: Directory, log: FilteringBoundLogger) -> None:
        self._directory = directory
        self._log = log
        self._wanted: dict[str, None] = {}
        self._under_way: set[str] = set()
        self._unreached: set[str] = set()
        self._changed = Signal()

    async def poke(self, node_id: str) -> None:
        """See `Pokes.poke`."""
        if len(self._wanted) < WANTED_MAX:
            self._wanted[node_id] = None
            self._changed.fire()

    async def run(self) -> None:
        """See `Pokes.run`."""
        timeout = aiohttp.ClientTimeout(total=POKE_SECONDS_MAX)
        cookies = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=cookies) as http, asyncio.TaskGroup() as tasks:
            while True:
                await self._changed.until(lambda: self._next() is not None)
                node_id = self._next()
                assert node_id is not None, "looked at in the line before"
                del self._wanted[node_id]
                self._under_way.add(node_id)
                tasks.create_task(self._carry(http, node_id), name=f"poke {node_id}")

    async def settled(self) -> None:
        """Return once no poke that was asked for is still to be sent, or answered; `run` carries them meanwhile."""
        await self._changed.until(lambda: not self._wanted and not self._under_way)

    def _next(self) -> str | None:
        if len(self._under_way) >= POKES_AT_ONCE_MAX:
            return None
        return next((node_id for node_id in self._wanted if node_id not in self._under_way), None)

    async def _carry(self, http: aiohttp.ClientSession, node_id: str) -> None:
        try:
            async with asyncio.timeout(POKE_SECONDS_MAX):
                node = await self._directory.find(node_id)
                if node is not None and node.poke_key is not None:
                    await self._send(http, node, node.poke_key)
        except (aiohttp.ClientError, OrchestratorError, OSError, TimeoutError, ValueError) as error:
            # It looks by itself every second: nothing is lost but that.
            self._missed(node_id, type(error).__name__)
        finally:
            self._under_way.discard(node_id)
            self._changed.fire()

    async def _send(self, http: aiohttp.ClientSession, node: NodeRecord, key: str) -> None:
        url = f"http://{node.address}/nodes/{node.node_id}/wake"
        headers = {"Authorization": f"{POKE_SCHEME} {signature(key, node.node_id)}"}
        async with http.post(url, headers=headers, allow_redirects=False) as answer:
            if answer.status in GONE:
                self._directory.forget(node.node_id)
            if answer.ok:
                self._unreached.discard(node.node_id)
            else:
                self._missed(node.node_id, f"HTTP {answer.status}")

    def _missed(self, node_id: str, error: str) -> None:
        """Say that a node is not reached, once until it is: a closed port would fill the log."""
        if node_id not in self._unreached and len(self._unreached) < WANTED_MAX:
            self._unreached.add(node_id)
            self._log.warning("node_not_reached", other_node=node_id, error=error)
