"""Why a session does not go on: what it waits for, since when, on which node, and the commands that answer or mend it.

`facts` gathers what is known, `explaining` and `waits` turn that into words and decide nothing; they read no clock. A
state that a session can hang in and that is not told of here is a bug.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from orchestrator.cluster import Head, NodeRecord
from orchestrator.session.state import SessionState
from orchestrator.session.values import Json, JsonObject, format_instant


@dataclass(frozen=True, slots=True)
class UnderWay:
    """What the node that has a session sees in its memory.

    `operations` work for it there (`()`: its handler's own code, `None`: nothing, it only waits); `signals` are its
    waits that no event tells of.
    """

    operations: tuple[str, ...] | None
    signals: tuple[str, ...] = ()
    is_stuck: bool = False

    @property
    def view(self) -> JsonObject:
        """As JSON."""
        operations: Json = None if self.operations is None else [*self.operations]
        return {"operations": operations, "signals": [*self.signals], "is_stuck": self.is_stuck}


@dataclass(frozen=True, slots=True)
class Owner:
    """The node that HEAD names. `beats` says whether its beat was seen to move; `None` where nobody looked twice."""

    node_id: str
    record: NodeRecord | None
    beats: bool | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session stands in its tenant's queue; `ahead` is `None` where it is further back than was read."""

    limit: int
    used: int
    queued: int
    ahead: int | None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that an explanation is made of, as of `now`. `unreadable` is why there is no `state`, where there is none.

    `living` counts the nodes that are registered and not marked dead; `children` holds what is known of the sessions
    that this one waits for (`None`: they were never accepted).
    """

    head: Head
    state: SessionState | None
    now: datetime
    living: int
    unreadable: str | None = None
    owner: Owner | None = None
    under_way: UnderWay | None = None
    place: Place | None = None
    children: Mapping[str, Facts | None] = field(default_factory=dict)

    @property
    def node(self) -> str | None:
        """The node that has the session, unless it is known to be gone: then another one will have it."""
        owner = self.owner
        if owner is None:
            return self.head.owner
        is_gone = owner.record is None or owner.record.declared_dead_at is not None or owner.beats is False
        return None if is_gone else owner.node_id


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing that a session waits for: in words, since and until when, where, and what to do about it."""

    what: str
    says: str
    since: datetime
    until: datetime | None = None
    operation: str | None = None
    node: str | None = None
    commands: tuple[str, ...] = ()
    child: Explanation | None = None

    @property
    def view(self) -> JsonObject:
        """As JSON."""
        commands: list[Json] = [*self.commands]
        return {
            "what": self.what,
            "says": self.says,
            "operation": self.operation,
            "since": format_instant(self.since),
            "until": None if self.until is None else format_instant(self.until),
            "node": self.node,
            "commands": commands,
            "child": None if self.child is None else self.child.view,
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """What there is to say of a session: sentences about it as a whole, and what it waits for."""

    session_id: str
    state: str
    node: str | None
    sentences: tuple[str, ...]
    waits_for: tuple[Wait, ...] = ()

    @property
    def view(self) -> JsonObject:
        """As JSON."""
        sentences: list[Json] = [*self.sentences]
        return {
            "session_id": self.session_id,
            "state": self.state,
            "node": self.node,
            "sentences": sentences,
            "waits_for": [wait.view for wait in self.waits_for],
        }

    def lines(self, indent: str = "") -> list[str]:
        """As people read it: a sentence a line, commands and children set in."""
        lines = [f"{indent}{sentence}" for sentence in self.sentences]
        for wait in self.waits_for:
            lines.append(f"{indent}- {wait.says}")
            lines += [f"{indent}    {command}" for command in wait.commands]
            if wait.child is not None:
                lines += wait.child.lines(f"{indent}    ")
        return lines


def lasting(time: timedelta) -> str:
    """Return a duration in its two greatest units: `3 h 12 min`, `4 s`; nothing is below a second."""
    seconds = max(0, int(time.total_seconds()))
    units = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    parts = []
    for size, unit in units:
        count, seconds = divmod(seconds, size)
        parts.append((count, unit))
    first = next((i for i, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "less than a second"


def for_how_long(since: datetime, now: datetime) -> str:
    """Return since when, and how long that is."""
    return f"since {format_instant(since)} ({lasting(now - since)})"
