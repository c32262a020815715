"""How often a notice was tried on a channel, and when it is tried again: kept in HEAD, and shown to people.

The schedule: after 2 s, then twice as long each time, up to an hour; each pause shortened by up to half by chance. What
is not delivered within seven days of its first try is given up, with a line in the log, and stays on record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from orchestrator.notifications import NotDelivered
from orchestrator.session.values import Json, JsonObject, format_instant, instant_of, next_milli

BACKOFF_BASE: Final = timedelta(seconds=2)
BACKOFF_MAX: Final = timedelta(hours=1)
GIVEN_UP_AFTER: Final = timedelta(days=7)
UNDELIVERED: Final = "undelivered"
"""Attribute of a HEAD: the tries of what was not delivered, by the name under which it is owed."""
TOLD: Final = "told"
"""Attribute of an open session's HEAD: the events that ordered approvals of which everybody was told."""
APPROVAL: Final = "approval:"
"""What the names of approvals begin with: `approval:<seq of the event that asks>:<channel>`."""
TRIES_MAX: Final = 100
TOLD_MAX: Final = 1_000
"""So many entries are kept, for HEAD is one item (I12): who forgets the rest tells it once more."""


@dataclass(frozen=True, slots=True)
class Tries:
    """What became of a notice on a channel so far. `next_at` is `None` where it was given up."""

    attempts: int
    since: datetime
    next_at: datetime | None
    error: str

    def is_due(self, now: datetime) -> bool:
        """Return whether to try again."""
        return self.next_at is not None and self.next_at <= now


def after_failure(before: Tries | None, failure: NotDelivered, now: datetime, jitter: float) -> Tries:
    """Return the tries after one more that failed; `jitter` is drawn from [0, 1)."""
    attempts = 1 if before is None else before.attempts + 1
    since = now if before is None else before.since
    if failure.is_final or now - since >= GIVEN_UP_AFTER:
        return Tries(attempts, since, None, failure.reason)
    bound = min(BACKOFF_MAX, BACKOFF_BASE * 2 ** min(attempts - 1, 16))
    return Tries(attempts, since, next_milli(now + bound * (1 - jitter / 2)), failure.reason)


def tries_in(attributes: Mapping[str, Json]) -> dict[str, Tries]:
    """Return the tries on record in a HEAD; what this version cannot read is tried as if for the first time."""
    kept = attributes.get(UNDELIVERED)
    if not isinstance(kept, dict):
        return {}
    read = ((name, _tries(value)) for name, value in kept.items())
    return {name: tries for name, tries in read if tries is not None}


def told_in(attributes: Mapping[str, Json]) -> frozenset[int]:
    """Return the events that ordered approvals of which everybody was told."""
    kept = attributes.get(TOLD)
    return frozenset(seq for seq in kept if isinstance(seq, int)) if isinstance(kept, list) else frozenset()


def recorded(attributes: Mapping[str, Json], tries: Mapping[str, Tries], told: frozenset[int]) -> dict[str, Json]:
    """Return a HEAD's attributes with these in the place of those that it has."""
    others = {name: value for name, value in attributes.items() if name not in {UNDELIVERED, TOLD}}
    kept: JsonObject = {name: tries_view(each) for name, each in [*tries.items()][:TRIES_MAX]}
    seqs: list[Json] = [*sorted(told)[-TOLD_MAX:]]
    return others | ({UNDELIVERED: kept} if kept else {}) | ({TOLD: seqs} if seqs else {})


def tries_view(tries: Tries) -> JsonObject:
    """Return them as they are kept, and as people see them."""
    return {
        "attempts": tries.attempts,
        "since": format_instant(tries.since),
        "next_try_at": None if tries.next_at is None else format_instant(tries.next_at),
        "last_error": tries.error,
    }


def _tries(value: Json) -> Tries | None:
    match value:
        case {"attempts": int(attempts), "since": str(since), "next_try_at": next_at, "last_error": str(error)}:
            try:
                return Tries(attempts, instant_of(since), None if next_at is None else instant_of(str(next_at)), error)
            except ValueError:
                return None
        case _:
            return None
