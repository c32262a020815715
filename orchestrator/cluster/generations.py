"""From any generation of a session to its latest one: a year of daily generations in a few reads."""

from __future__ import annotations

from orchestrator.cluster import Head, Heads
from orchestrator.session.ending import next_generation


async def latest_of(heads: Heads, head: Head) -> Head:
    """Return HEAD of the latest generation that has begun, from that of any; that one itself where none follows.

    Generations begin one after the other, and their HEADs stay: so it is looked for in growing steps as long as they
    land on one, then in shrinking ones.
    """
    step, is_beyond = 1, False
    while step and head.continued_as is not None:
        found = await heads.get(next_generation(head.session_id, step))
        if found is not None:
            head = found
        is_beyond = is_beyond or found is None
        step = step // 2 if is_beyond else 2 * step
    return head
