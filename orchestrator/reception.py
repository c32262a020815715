"""What is done about an envelope: sessions are started, running ones are told. To add a message, add an arm here.

Nothing here waits for a session: returning means that what the envelope asks is durable, and may be acknowledged (I3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from orchestrator.deliveries import (
    CallbackAnswered,
    CallbackExpired,
    Deliveries,
    NotAnApprover,
    UnknownCallback,
    WrongToken,
)
from orchestrator.errors import Poison
from orchestrator.inbox import MessageConflict, SessionEnded, UnknownSession
from orchestrator.intake import CallbackAnswer, Cancel, Envelope, Signal, Start, TryAgainSoon
from orchestrator.intake.formats import Reader
from orchestrator.router import FIRST_EPOCH, IdempotencyConflict, NotYetThere, Router
from orchestrator.telemetry import trace_ids

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

UNKNOWN_RECEIVES_MAX: Final = 6
"""Deliveries of a message to a session that nobody knows, before it goes to the dead-letter queue. The pauses between
them (31 s) are longer than a start stays hidden whose node died with it."""
REFUSALS: Final = (
    *(SessionEnded, MessageConflict),
    *(UnknownCallback, WrongToken, NotAnApprover, CallbackAnswered, CallbackExpired),
)
"""What a message from the queue can never succeed after."""


class Reception:
    """Handles the envelopes of a node, one at a time or many at once."""

    def __init__(self, router: Router, deliveries: Deliveries, reader: Reader, log: FilteringBoundLogger) -> None:
        self._router = router
        self._deliveries = deliveries
        self._reader = reader
        self._log = log

    async def handle(self, envelope: Envelope) -> None:
        """Do what an envelope asks; returning means that it is durable.

        Raises:
            Poison: it never can be.
            TryAgainSoon: it may be in a moment.
        """
        for request in self._reader.read(envelope):
            if isinstance(request, Start):
                await self._start(request, envelope)
            else:
                await self._deliver(request, envelope)

    async def _start(self, request: Start, envelope: Envelope) -> None:
        try:
            accepted = await self._router.start(request)
        except IdempotencyConflict as conflict:
            raise Poison(conflict.code, str(conflict)) from None
        known = {"session_id": accepted.session_id, "message_id": envelope.message_id, **trace_ids(request.trace)}
        if accepted.is_new:
            self._log.info("session_accepted", epoch=FIRST_EPOCH, session_type=request.session_type, **known)
        else:
            self._log.info("duplicate_absorbed", **known)

    async def _deliver(self, request: Signal | Cancel | CallbackAnswer, envelope: Envelope) -> None:
        try:
            told = await self._tell(request)
        except UnknownSession as unknown:
            if envelope.receive_count < UNKNOWN_RECEIVES_MAX:
                # Its start may be on its way: a standard queue keeps no order.
                raise TryAgainSoon(str(unknown)) from None
            raise Poison(unknown.code, str(unknown)) from None
        except NotYetThere as not_yet:
            raise TryAgainSoon(str(not_yet)) from None
        except REFUSALS as refusal:
            raise Poison(refusal.code, str(refusal)) from None
        self._log.info("message_delivered", message_id=envelope.message_id, **told)

    async def _tell(self, request: Signal | Cancel | CallbackAnswer) -> dict[str, str]:
        """Tell the session; return what the log may say of it: no payload, and no token."""
        tell = self._deliveries
        match request:
            case Signal(session_id=session_id, name=name):
                await tell.signal(session_id, name, request.data, request.message_id)
                return {"kind": "signal", "session_id": session_id, "signal": name}
            case Cancel(session_id=session_id):
                await tell.cancel(session_id, request.reason, request.message_id)
                return {"kind": "cancel", "session_id": session_id}
            case CallbackAnswer(callback_id=callback_id):
                await tell.callback(callback_id, request.token, request.status, request.result, request.error)
                return {"kind": "callback", "callback_id": callback_id}
            case _:
                assert_never(request)
