"""Finds sessions that hang: nothing of theirs was recorded for many times as long as usual, though something runs.

Every node looks at the sessions in its own memory, now and then, and learns from them what is usual; nothing is done at
an event. A session that waits for a person, an instant, a signal or another session is not stuck, however long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from actors import ActorSystem, Clock
from orchestrator.session.values import format_instant
from orchestrator.session_actor import SessionActor
from orchestrator.sight import Sight
from orchestrator.why import UnderWay

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

LOOK_EVERY_SECONDS: Final = 30.0
LOOKS_BEFORE_STUCK: Final = 4
"""A short limit is looked at more often: a session is found at most a quarter of it late."""
KINDS_MAX: Final = 1_000
"""Operations of which a node remembers what is usual; the one that was not seen for longest is forgotten."""
DECAY: Final = 0.95
"""How much of what was usual is left after a quicker one: a slow day is forgotten after some dozens of quick ones."""
GROWTH_MAX: Final = 2.0
"""How much slower than usual one may count: a session that hung for a day must not make days usual."""
NAMED_MAX: Final = 10
HANDLER: Final = ""
"""Stands for the handler's own code where the name of an operation does."""
_COUNTER: Final = re.compile(r"#\d+(?=/|$)")


class Kind(NamedTuple):
    """What sessions hang on, told apart: a session type, and an operation's name without the counters in it."""

    session_type: str
    name: str


@dataclass(frozen=True, slots=True)
class Quiet:
    """A session whose last event is `since`, and what it hangs on: operation ids, or `()` for handler code."""

    session_id: str
    session_type: str
    epoch: int
    since: datetime
    operations: tuple[str, ...]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What it hangs on, as it is learned about."""
        names = {_COUNTER.sub("", operation) for operation in self.operations} or {HANDLER}
        return tuple(Kind(self.session_type, name) for name in sorted(names))

    def is_as(self, other: Quiet | None) -> bool:
        """Return whether nothing happened in between."""
        return other is not None and (self.epoch, self.since) == (other.epoch, other.since)


class Usual:
    """For how long sessions are usually quiet, by what they hang on: a maximum that decays."""

    def __init__(self) -> None:
        self._seconds: dict[Kind, float] = {}

    def learn(self, kind: Kind, seconds: float) -> None:
        """Take in that one was quiet for so long, and went on."""
        usual = self._seconds.pop(kind, None)
        if usual is None:
            learned = seconds
        elif seconds >= usual:
            learned = min(seconds, GROWTH_MAX * usual)
        else:
            learned = max(seconds, DECAY * usual)
        self._seconds[kind] = learned
        if len(self._seconds) > KINDS_MAX:
            del self._seconds[next(iter(self._seconds))]

    def seconds(self, kinds: tuple[Kind, ...], default: float) -> float:
        """Return what is usual for the slowest of them; one that nothing is known of counts as `default`."""
        return max(self._seconds.get(kind, default) for kind in kinds)


class StuckWatch:
    """Looks at the sessions of one node. `stuck` are those that hang, by session id, as of the last look."""

    def __init__(
        self, system: ActorSystem, clock: Clock, log: FilteringBoundLogger, *, factor: float, seconds_min: float
    ) -> None:
        """A session is stuck after `factor` times as long as usual, and never sooner than `seconds_min`.

        Where nothing is known yet, `seconds_min` itself counts as usual.
        """
        self._system = system
        self._clock = clock
        self._log = log
        self._factor = factor
        self._seconds_min = seconds_min
        self._usual = Usual()
        self._quiet: dict[str, Quiet] = {}
        self._looked_at = clock.now()
        self.stuck: dict[str, Quiet] = {}

    @property
    def count(self) -> int:
        """How many sessions of this node hang."""
        return len(self.stuck)

    async def run(self) -> None:
        """Look until cancelled."""
        pause = min(LOOK_EVERY_SECONDS, self._seconds_min / LOOKS_BEFORE_STUCK)
        while True:
            await self._clock.sleep(pause)
            self.look()

    def look(self) -> None:
        """Look at every session once: learn from those that went on, and tell of those that hang."""
        now = self._clock.now()
        quiet = {each.session_id: each for each in self._quiet_since(now)}
        for before in self._quiet.values():
            if not before.is_as(quiet.get(before.session_id)):
                self._went_on(before)
        self._quiet, self._looked_at = quiet, now
        for each in quiet.values():
            if each.session_id not in self.stuck and self._hangs(each, now):
                self._found(each, now)

    def under_way(self, session_id: str) -> UnderWay | None:
        """Return what an explanation needs of a session; `None` where this node does not have it, or nothing runs."""
        sight = self.sight(session_id)
        if sight is None:
            return None
        return UnderWay(sight.hangs_on(self._clock.now()), sight.signals_awaited(), session_id in self.stuck)

    def sight(self, session_id: str) -> Sight | None:
        """Return what is under way for a session; `None` where this node does not have it, or nothing is."""
        actor = self._system.seen(session_id)
        return actor.sight() if isinstance(actor, SessionActor) else None

    def _quiet_since(self, now: datetime) -> Iterator[Quiet]:
        """Yield the sessions that have been quiet for long enough to be told of, or learned from, some day."""
        horizon = now - timedelta(seconds=self._seconds_min / self._factor)
        for session_id in self._system.ids():
            sight = self.sight(session_id)
            if sight is None or sight.state.updated_at > horizon:
                continue
            operations = sight.hangs_on(now)
            if operations is not None:
                state = sight.state
                yield Quiet(session_id, state.started.session_type, state.epoch, sight.quiet_since(now), operations)

    def _hangs(self, quiet: Quiet, now: datetime) -> bool:
        # Never sooner than the least time: what took less than its share of that is never looked at, nor learned.
        usual = self._usual.seconds(quiet.kinds, self._seconds_min)
        return (now - quiet.since).total_seconds() >= self._factor * usual

    def _found(self, quiet: Quiet, now: datetime) -> None:
        self.stuck[quiet.session_id] = quiet
        self._log.warning(
            "session_stuck",
            **_told(quiet),
            since=format_instant(quiet.since),
            quiet_seconds=round((now - quiet.since).total_seconds(), 1),
            usual_seconds=round(self._usual.seconds(quiet.kinds, self._seconds_min), 1),
            advice=f"orchestrator why {quiet.session_id}",
        )

    def _went_on(self, before: Quiet) -> None:
        """Learn from what came to its end, and tell if the session had hung."""
        until, ended = self._end_of(before)
        seconds = max(0.0, (until - before.since).total_seconds())
        for kind in () if ended is None else replace(before, operations=ended).kinds:
            self._usual.learn(kind, seconds)
        if self.stuck.pop(before.session_id, None) is not None:
            self._log.info("session_unstuck", **_told(before), quiet_seconds=round(seconds, 1))

    def _end_of(self, before: Quiet) -> tuple[datetime, tuple[str, ...] | None]:
        """Return until when it was quiet, as far as one can tell, and the operations that came to their end by then.

        `()` is handler code; `None`: all go on, and something else happened.
        """
        sight = self.sight(before.session_id)
        if sight is None:
            # It has ended or left since the last look.
            return self._looked_at, before.operations
        under_way, known = {*sight.steps, *sight.efforts}, sight.state.operations
        ended = tuple(each for each in before.operations if each not in under_way)
        changes = [known[each].changed_at for each in ended if each in known]
        until = min((at for at in changes if at > before.since), default=sight.state.updated_at)
        return until, ended if ended or not before.operations else None


def _told(quiet: Quiet) -> dict[str, object]:
    """Return what the log says of it."""
    named = [*quiet.operations[:NAMED_MAX]]
    return {"session_id": quiet.session_id, "session_type": quiet.session_type, "operations": named or "handler code"}
