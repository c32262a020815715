"""What one session tells the world outside: its end, and the approvals that it asks for.

A notice that a channel does not take is tried again, further and further apart, and never stands in the way: an ended
session leaves memory with it in its outbox, and one that waits leaves with it in HEAD's attributes. Each is fetched
back when the next try is due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.errors import Stale
from orchestrator.notifications import ApprovalNotice, NotDelivered, WorldNotice, end_notice
from orchestrator.notifications.tries import APPROVAL, after_failure, recorded, told_in, tries_in
from orchestrator.owned_head import OwnedHead, Rest
from orchestrator.performer import Performer
from orchestrator.session import messages as m
from orchestrator.session.notices import Announce
from orchestrator.session.owed import Publish, next_instant, owed
from orchestrator.session.state import SessionState
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import Json, format_instant, truncate_to_millis

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


@dataclass(frozen=True, slots=True)
class Left:
    """What an end still owes: the outbox, when it is due, and the attributes if they change."""

    outbox: tuple[str, ...]
    wake_at: datetime | None
    attributes: Mapping[str, Json] | None


class Telling:
    """What is told of one session, and what became of it so far."""

    def __init__(self, head: OwnedHead, performer: Performer) -> None:
        self._head = head
        self._performer = performer
        self._tries = tries_in(head.current.attributes)
        self._told = told_in(head.current.attributes)

    # --- the end -------------------------------------------------------------------------------------------------

    async def announce(self, owed: Sequence[Announce], log: FilteringBoundLogger) -> Left:
        """Tell the world of the end, on every channel that is due; return what is left to be told."""
        # What its approvals came to is nobody's business any more.
        self._told = frozenset()
        self._tries = {name: tries for name, tries in self._tries.items() if not name.startswith(APPROVAL)}
        if owed:
            due = [each.channel for each in owed if self._is_due(each.channel)]
            await self._tell(end_notice(owed[0].ended), {channel: channel for channel in due}, log)
        left = tuple(each.channel for each in owed if self._is_open(each.channel))
        before = self._head.current.attributes
        after = recorded(before, self._tries, self._told)
        return Left(left, self._next_at(left), None if after == before else after)

    # --- approvals -----------------------------------------------------------------------------------------------

    async def publish(
        self, state: SessionState, effect: Publish, rests: Callable[[], None], log: FilteringBoundLogger
    ) -> m.CallbackAnswered | None:
        """Ask people until every channel has heard of it; return the answer where one was decided already.

        Calls `rests` when all that is left is to wait for the next try: the session may leave memory meanwhile.
        """
        seq = state.operations[effect.operation].started_seq
        names = {f"{APPROVAL}{seq}:{each}": each for each in self._performer.notifications.of_approval()}
        # Where some are on record as failed, the others have heard of it.
        left = {name: channel for name, channel in names.items() if name in self._tries} or names
        if seq in self._told or left is not names:
            # People know of it: their answer may be there, and whoever was to bring it may have died.
            answered = await self._performer.outside().answer_to(effect)
            if answered is not None or seq in self._told:
                return answered
        notice: ApprovalNotice | None = None
        while True:
            due = {name: channel for name, channel in left.items() if self._is_due(name)}
            if due and notice is None:
                asked = await self._performer.outside().ask(state, effect)
                if isinstance(asked, m.CallbackAnswered):
                    return asked
                notice = asked
            if due and notice is not None:
                await self._tell(notice, due, log)
                left = {name: channel for name, channel in left.items() if name not in due or self._is_open(name)}
                await self._keep_record()
            next_at = self._next_at(left)
            if next_at is None:
                self._told |= {seq}
                return None
            rests()
            await self._performer.sleep_until(next_at)

    def suspended(self, state: SessionState) -> Rest:
        """Return how a session that only waits is left: due when time asks something of it, or a notice is tried."""
        self._forget_settled(state)
        instants = (next_instant(owed(state)), self._next_at(self._tries))
        wake_at = min((each for each in instants if each is not None), default=None)
        status = SessionStatus.PAUSED if state.is_paused else SessionStatus.SUSPENDED
        return self.kept(Rest(status, wake_at), state)

    def kept(self, rest: Rest, state: SessionState | None) -> Rest:
        """Return how the session is left, with what became of its notices; `state` is `None` where none can be read."""
        if state is None:
            return rest
        self._forget_settled(state)
        before = self._head.current.attributes if rest.attributes is None else rest.attributes
        attributes = recorded(before, self._tries, self._told)
        return rest if attributes == before else replace(rest, attributes=attributes)

    def _forget_settled(self, state: SessionState) -> None:
        """Forget the approvals that wait for nobody any more."""
        if self._tries or self._told:
            seqs = {operation.started_seq for operation in state.open_operations.values()}
            self._told &= seqs
            self._tries = {name: tries for name, tries in self._tries.items() if _seq_of(name) in seqs}

    # --- both ----------------------------------------------------------------------------------------------------

    async def _tell(self, notice: WorldNotice, due: Mapping[str, str], log: FilteringBoundLogger) -> None:
        """Try these channels, each by its name in the record, all at once: none waits for another."""
        async with asyncio.TaskGroup() as tasks:
            for name, channel in due.items():
                tasks.create_task(self._try(notice, name, channel, log), name=f"tell {channel}")

    async def _try(self, notice: WorldNotice, name: str, channel: str, log: FilteringBoundLogger) -> None:
        try:
            await self._performer.notifications.tell(notice, channel)
        except NotDelivered as failure:
            tries = after_failure(self._tries.get(name), failure, self._now(), self._performer.draw())
            self._tries[name] = tries
            self._performer.telemetry.undelivered(f"{notice.notification_id}:{channel}", tries.since, tries.next_at)
            about = {"notification": name, "notification_id": notice.notification_id, "code": failure.reason}
            if tries.next_at is None:
                log.error("notification_given_up", **about, attempts=tries.attempts)
            else:
                next_try_at = format_instant(tries.next_at)
                log.warning("notification_failed", **about, attempts=tries.attempts, next_try_at=next_try_at)
        else:
            if self._tries.pop(name, None) is not None:
                self._performer.telemetry.delivered(f"{notice.notification_id}:{channel}")

    async def _keep_record(self) -> None:
        """Show in HEAD what is undelivered, if that is not what it shows."""
        before = self._head.current.attributes
        attributes = recorded(before, self._tries, told_in(before))
        if attributes != before:
            # Whoever has the session by now tells people itself.
            with suppress(Stale):
                await self._head.annotate(attributes)

    def _is_due(self, name: str) -> bool:
        tries = self._tries.get(name)
        return tries is None or tries.is_due(self._now())

    def _is_open(self, name: str) -> bool:
        tries = self._tries.get(name)
        return tries is not None and tries.next_at is not None

    def _next_at(self, names: Iterable[str]) -> datetime | None:
        """Return when to try again what of these has failed; `None` for nothing."""
        tries = [self._tries[name] for name in names if name in self._tries]
        return min((each.next_at for each in tries if each.next_at is not None), default=None)

    def _now(self) -> datetime:
        return truncate_to_millis(self._performer.clock.now())


def _seq_of(name: str) -> int:
    """Return the event that ordered the approval; 0 for what is of an end."""
    seq = name.removeprefix(APPROVAL).partition(":")[0]
    return int(seq) if seq.isdecimal() else 0
