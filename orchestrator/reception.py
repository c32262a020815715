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
from orchestrator.intake import (
    UNKNOWN_RECEIVES_MAX,
    CallbackAnswer,
    Cancel,
    Envelope,
    Signal,
    Start,
    Triggered,
    TryAgainSoon,
)
from orchestrator.intake.formats import Reader
from orchestrator.intake.triggering import together
from orchestrator.objects import LatestWrites, is_older
from orchestrator.router import FIRST_EPOCH, Accepted, IdempotencyConflict, NotYetThere, Router
from orchestrator.telemetry.context import trace_ids

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

REFUSALS: Final = (
    *(SessionEnded, MessageConflict),
    *(UnknownCallback, WrongToken, NotAnApprover, CallbackAnswered, CallbackExpired),
)
"""What a message from the queue can never succeed after."""


class Reception:
    """Handles the envelopes of a node, one at a time or many at once."""

    def __init__(
        self,
        router: Router,
        deliveries: Deliveries,
        reader: Reader,
        writes: LatestWrites,
        log: FilteringBoundLogger,
    ) -> None:
        self._router = router
        self._deliveries = deliveries
        self._reader = reader
        self._writes = writes
        self._telemetry = router.ports.telemetry
        self._clock = router.ports.clock
        self._log = log

    async def handle(self, envelope: Envelope) -> None:
        """Do what an envelope asks; returning means that it is durable.

        Raises:
            Poison: it never can be.
            TryAgainSoon: it may be in a moment.
        """
        received_at = self._clock.monotonic()
        if envelope.sent_at is not None and envelope.receive_count == 1:
            self._telemetry.queued(max(0.0, (self._clock.now() - envelope.sent_at).total_seconds()))
        refusals: list[Poison] = []
        for request in self._reader.read(envelope):
            match request:
                case Start():
                    try:
                        await self._start(request, envelope)
                    except IdempotencyConflict as conflict:
                        raise Poison(conflict.code, str(conflict)) from None
                case Triggered():
                    await self._set_off(request, envelope)
                    refusals += request.refusals
                case _:
                    await self._deliver(request, envelope)
        if refusals:
            # Not before: what can be started is. Who puts the letter back starts the rest, and that is absorbed.
            raise together(refusals)
        self._telemetry.accepted(self._clock.monotonic() - received_at)

    async def _set_off(self, request: Triggered, envelope: Envelope) -> None:
        """Start what an event asks for, but not what a later one of the same object has overtaken."""
        starts = request.starts
        if request.write is not None:
            # Before the start: whoever dies in between is told of the same write again, and nobody of an older one.
            latest = await self._writes.note(request.write)
            if is_older(request.write.sequencer, than=latest):
                write = {"bucket": request.write.bucket, "key": request.write.key, "sequencer": request.write.sequencer}
                self._log.info("older_event_dropped", latest=latest, message_id=envelope.message_id, **write)
            else:
                starts += request.ordered
        for start in starts:
            try:
                await self._start(start, envelope)
            except IdempotencyConflict:
                # On another way, or under the key that its trigger gave it, it was told in other words.
                self._log.info("duplicate_absorbed", session_id=start.session_id, message_id=envelope.message_id)

    async def _start(self, request: Start, envelope: Envelope) -> None:
        accepted = await self._router.start(request)
        log_start(self._log, request, accepted, message_id=envelope.message_id)

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


def log_start(log: FilteringBoundLogger, start: Start, accepted: Accepted, **known: str) -> None:
    """Say that a session was accepted, or that it was before."""
    known |= {"session_id": accepted.session_id, **trace_ids(start.trace)}
    if accepted.is_new:
        log.info("session_accepted", epoch=FIRST_EPOCH, session_type=start.session_type, **known)
    else:
        log.info("duplicate_absorbed", **known)
