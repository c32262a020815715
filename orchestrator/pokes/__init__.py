"""How a node hears at once of a note that another one left for it: a poke to its address, signed with its own key.

`Pokes` is the protocol; `http` and `memory` carry them, and one suite of tests holds both to it. A poke says nothing
but "look at your wake-ups now": lost, late, doubled or replayed, it changes when a node looks, never what it finds
(ADR 0016).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from orchestrator.errors import OrchestratorError
from orchestrator.inbox import WakeUps


class UnknownNode(OrchestratorError):
    """The poke is for a node that does not live here: another one had this address before."""

    code = "UNKNOWN_NODE"


class WrongSignature(OrchestratorError):
    """The poke is not signed with this node's key: who sent it cannot read the table."""

    code = "WRONG_SIGNATURE"


class Pokes(Protocol):
    """Pokes to other nodes."""

    async def poke(self, node_id: str) -> None:
        """Have the node poked, if it can be done: returns at once, and nobody learns what comes of it."""
        ...

    async def run(self) -> None:
        """Carry the pokes until cancelled."""
        ...


class PokingWakeUps:
    """`WakeUps` that poke whom a note is left for."""

    def __init__(self, wake_ups: WakeUps, pokes: Pokes) -> None:
        self._wake_ups = wake_ups
        self._pokes = pokes

    async def put(self, node_id: str, session_id: str) -> None:
        """See `WakeUps.put`."""
        await self._wake_ups.put(node_id, session_id)
        # Behind the note: a node that looks for it before finds nothing.
        await self._pokes.poke(node_id)

    def take(self, node_id: str) -> AsyncIterator[str]:
        """See `WakeUps.take`."""
        return self._wake_ups.take(node_id)


class Doorbell:
    """Where a node is poked. `key` stands in its registration: who may read the table may poke."""

    def __init__(self, node_id: str, key: str, ring: Callable[[], None]) -> None:
        self._node_id = node_id
        self._expected = signature(key, node_id).encode()
        self._ring = ring

    def push(self, node_id: str, signed: str) -> None:
        """Have this node look at its wake-ups now.

        Raises:
            UnknownNode: the poke is for another node. WrongSignature: it is from nobody who may poke.
        """
        if node_id != self._node_id:
            raise UnknownNode(f"node {node_id!r:.150} is not here")
        if not hmac.compare_digest(self._expected, signed.encode("utf-8", "surrogateescape")):
            raise WrongSignature("Authorization: a poke is signed with the key in the node's registration")
        self._ring()


def signature(key: str, node_id: str) -> str:
    """Return the signature of a poke to that node, whose key it is made with."""
    return hmac.new(key.encode(), f"wake {node_id}".encode(), hashlib.sha256).hexdigest()
