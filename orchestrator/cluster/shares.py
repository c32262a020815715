"""Who claims first what all nodes see at once: each session falls to one of them by hash (ADR 0015).

It only saves requests. Whoever comes second to a claim is refused by HEAD, and what nobody claimed falls to everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

PASSED_OVER_MAX: Final = 10_000


def first_taker(session_id: str, takers: Sequence[str]) -> str:
    """Return the one of these nodes to which the session falls (rendezvous hashing).

    When a node comes or goes, no session moves but those that fall to it, or fell.
    """
    assert takers, "somebody asks, so somebody is there"
    if len(takers) == 1:
        return takers[0]
    session = session_id.encode()
    return max(takers, key=lambda node_id: blake2b(session, digest_size=8, key=node_id.encode()[-64:]).digest())


class Turns:
    """One node's turns at a list that all nodes look at again and again.

    At the first look at a session its own turn has whom it falls to by hash; from the next look on, everybody.
    """

    def __init__(self, own_id: str) -> None:
        self._own_id = own_id
        self._passed_over: set[str] = set()

    def look(self, takers: Sequence[str]) -> Callable[[str], bool]:
        """Begin a look; the function returns whether it is this node's turn to claim a session that is listed."""
        before, now = self._passed_over, set[str]()
        self._passed_over = now

        def is_our_turn(session_id: str) -> bool:
            if session_id in before or first_taker(session_id, takers) == self._own_id:
                return True
            if len(now) < PASSED_OVER_MAX:
                now.add(session_id)
            return False

        return is_our_turn
