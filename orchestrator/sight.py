"""One session as it is seen in the memory of the node that has it: what works for it there, and what it hangs on.

A journal records a step when it ends, and handler code never: only its node knows what is under way right now. Nothing
is kept up for this: it is put together, when somebody looks, from what the run needs anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from orchestrator.cluster import SIGNALS_AWAITED
from orchestrator.handler import HandlerRun
from orchestrator.in_flight import InFlight
from orchestrator.owned_head import OwnedHead, Rest
from orchestrator.passages import RESULT_SUFFIX
from orchestrator.session.state import SessionState
from orchestrator.session.values import Json

SIGNALS_MAX: Final = 20
"""Waits that HEAD names: it is one item (I12), and people read it."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is under way for a session. All are operation ids.

    `steps` run inside the handler's tasks, `efforts` beside it (agent runs, children being started); `awaited` is what
    the handler awaits, `signals` the waits for signals among that. `only_waits`: no code of the handler's own runs, as
    far as can be told.
    """

    state: SessionState
    steps: tuple[str, ...]
    efforts: tuple[str, ...]
    awaited: tuple[str, ...]
    signals: tuple[str, ...]
    only_waits: bool

    def hangs_on(self, now: datetime) -> tuple[str, ...] | None:
        """Return the operations that must end here for the session to go on; `()` where that is handler code.

        `None` where it waits as it said it would: for an instant, a person, a signal, another session.
        """
        under_way = (*self.steps, *self.efforts)
        if under_way:
            return tuple(each for each in under_way if not self._is_due_later(each, now)) or None
        if self.only_waits:
            return None
        # Neither begun nor ended, as far as the journal knows: what became of it is being recorded.
        return self._unrecorded()

    def quiet_since(self, now: datetime) -> datetime:
        """Return since when nothing was recorded; a pause before another attempt, which was announced, left out."""
        known = (self.state.operations.get(each) for each in (*self.steps, *self.efforts))
        due = (each.next_attempt_at for each in known if each is not None and each.next_attempt_at is not None)
        return max([self.state.updated_at, *(instant for instant in due if instant <= now)])

    def signals_awaited(self) -> tuple[str, ...]:
        """Return the waits for signals that have no time limit: no event tells of them before the signal comes."""
        # What else no event tells of has been asked for, and may not begin yet: a session at its cap, or paused.
        return tuple(each for each in self.signals if each not in self.state.operations)

    def _unrecorded(self) -> tuple[str, ...]:
        """Return what the handler awaits and no event tells of; the answer to a callback is told of by its order."""
        known = self.state.operations
        return tuple(each for each in self.awaited if each.removesuffix(RESULT_SUFFIX) not in known)

    def _is_due_later(self, operation_id: str, now: datetime) -> bool:
        operation = self.state.operations.get(operation_id)
        due = None if operation is None or operation.is_settled else operation.next_attempt_at
        return due is not None and due > now


def showing_signals(rest: Rest, sight: Sight | None, head: OwnedHead) -> Rest:
    """Return how a session that only waits is left: with the signals in HEAD that no event tells of."""
    before = head.current.attributes if rest.attributes is None else rest.attributes
    awaited: list[Json] = [] if sight is None else [*sight.signals_awaited()[:SIGNALS_MAX]]
    if before.get(SIGNALS_AWAITED, []) == awaited:
        return rest
    others = {name: value for name, value in before.items() if name != SIGNALS_AWAITED}
    return replace(rest, attributes=others | ({SIGNALS_AWAITED: awaited} if awaited else {}))


def sight_of(state: SessionState | None, run: HandlerRun | None, in_flight: InFlight) -> Sight | None:
    """Return what is under way; `None` before the handler has begun, and once the session has ended."""
    if state is None or run is None or state.has_ended:
        return None
    steps, awaited = run.under_way()
    return Sight(state, steps, in_flight.efforts(), awaited, run.signals_awaited, only_waits=run.only_waits)
