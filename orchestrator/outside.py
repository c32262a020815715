"""How a session reaches other sessions, and what it asks of people: the `Outside` of a node's performer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from orchestrator.answers import message_of
from orchestrator.artifacts import ArtifactUnreadable
from orchestrator.callbacks import expiry_of, issued_with
from orchestrator.inbox import MessageConflict, SessionEnded, UnknownSession
from orchestrator.intake import Start
from orchestrator.journal.folding import read_state
from orchestrator.notifications import ApprovalNotice, approval_notice
from orchestrator.payloads import InvalidPayload
from orchestrator.router import IdempotencyConflict, NotYetThere, Router
from orchestrator.session import messages as m
from orchestrator.session.events import ChildStarted, SessionStarted
from orchestrator.session.notices import FreeSlot, StartNext, child_ended
from orchestrator.session.owed import Publish, StartChild
from orchestrator.session.state import SessionState
from orchestrator.session.tracing import span_id, traceparent_of
from orchestrator.session.values import ID_LENGTH_MAX, ErrorRecord, Json
from orchestrator.tenants import SLOT

LARGE: Final = 1 << 30
"""Longer than any inline payload: what was in the bucket goes there again."""
POLL_SECONDS: Final = 2.0
POLL_SECONDS_MAX: Final = 60.0


class NodeOutside:
    """Other sessions by the router, people by a callback of theirs."""

    def __init__(self, router: Router, new_token: Callable[[], str]) -> None:
        self._router = router
        self._ports = router.ports
        self._new_token = new_token

    async def start_child(self, state: SessionState, effect: StartChild) -> m.ChildEnded | None:
        """See `Outside.start_child`."""
        order = effect.order
        declared = self._ports.app.session_type(order.session_type)
        if declared is None:
            return _refused(effect, "UNKNOWN_SESSION_TYPE", f"no session type {order.session_type!r} is declared")
        payload = await self._ports.payloads.open(order.input)
        try:
            declared.input_type.load(payload)
            accepted = await self._router.start(_start_of(state.session_id, state.started, order, payload))
        except (InvalidPayload, IdempotencyConflict) as error:
            return _refused(effect, error.code, str(error))
        if accepted.is_begun:
            return None
        # The journal may be of another session that asked for the same child: even one that nobody accepted before us.
        return await self._end_of_shared(state, effect)

    async def end_child(self, parent: str, started: SessionStarted, order: ChildStarted, message: m.Ending) -> None:
        """See `Outside.end_child`."""
        async for first in self._ports.journal.read(order.child_id):
            if not isinstance(first.event, SessionStarted) or first.event.parent != parent:
                return
            break
        if await self._ports.heads.get(order.child_id) is None:
            # Its creation may still be on its way, from here or from a node that stood still: whoever comes with it
            # after this finds a session that ends without ever having run.
            with suppress(ArtifactUnreadable, IdempotencyConflict):
                payload = await self._ports.payloads.open(order.input)
                await self._router.start(_start_of(parent, started, order, payload), is_dismissed=True)
        await self.deliver(order.child_id, message)

    async def start_next(self, notice: StartNext) -> None:
        """See `Outside.start_next`."""
        marks = (SLOT,) if notice.has_slot else ()
        await self._router.begin(notice.session_id, self._router.renewed(notice.started), marks=marks)
        await self._router.hand_over(notice)

    async def deliver(self, session_id: str, message: m.Delivered) -> None:
        """See `Outside.deliver`."""
        # Nobody waits for it any more, or has it already.
        with suppress(SessionEnded, UnknownSession, MessageConflict):
            await self._router.deliver(session_id, message)

    async def free_slot(self, notice: FreeSlot) -> None:
        """See `Outside.free_slot`."""
        await self._router.slots.free(notice)

    async def ask(self, state: SessionState, effect: Publish) -> ApprovalNotice | m.CallbackAnswered:
        """See `Outside.ask`."""
        order, token = effect.order, self._new_token()
        issued = issued_with(token, order.callback_id, state.session_id, effect.operation, order.times_out_at)
        standing = await self._ports.callbacks.issue(issued, expires_at=expiry_of(self._ports.clock.now()))
        if standing.answer is not None:
            return message_of(standing)
        return approval_notice(state, order, url=self._ports.callback_url(order.callback_id), token=token)

    async def answer_to(self, effect: Publish) -> m.CallbackAnswered | None:
        """See `Outside.answer_to`."""
        standing = await self._ports.callbacks.get(effect.order.callback_id)
        return None if standing is None or standing.answer is None else message_of(standing)

    async def _end_of_shared(self, state: SessionState, effect: StartChild) -> m.ChildEnded | None:
        """Return the end of a child that tells somebody else of it: another session asked for the same one first."""
        child_id, pause = effect.order.child_id, POLL_SECONDS
        while True:
            child = await self._latest_state(child_id)
            started = None if child is None else child.started
            if started is not None and (started.parent, started.parent_operation) == (
                state.session_id,
                effect.operation,
            ):
                return None
            # The journal leads: HEAD may not show yet that this generation continues as the next one.
            if child is not None and child.has_ended and child.continued_as is None:
                return child_ended(child, effect.operation)
            await self._ports.clock.sleep(pause)
            pause = min(POLL_SECONDS_MAX, 2 * pause)

    async def _latest_state(self, session_id: str) -> SessionState | None:
        try:
            head = await self._router.latest(session_id)
        except (UnknownSession, NotYetThere):
            return None
        return await read_state(self._ports.journal, head.session_id)


def _start_of(parent: str, started: SessionStarted, order: ChildStarted, payload: Json) -> Start:
    return Start(
        session_type=order.session_type,
        session_id=order.child_id,
        tenant=started.tenant,
        input=payload,
        trace=traceparent_of(started.trace, span_id(parent, order.operation)),
        input_bytes=LARGE if payload is not order.input else 0,
        parent=parent,
        parent_operation=order.operation,
    )


def _refused(effect: StartChild, code: str, text: str) -> m.ChildEnded:
    child_id, error = effect.order.child_id, ErrorRecord("ChildSessionFailed", code, text)
    return m.ChildEnded(f"child:{child_id}"[:ID_LENGTH_MAX], effect.operation, child_id, error=error)
