"""What people and systems outside tell a running session: signals, cancels, answers to callbacks and approvals.

`Deliveries` is the protocol; its errors name the situation, and their codes go out over HTTP as they are.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from orchestrator.answers import TIMED_OUT, error_of, failure, message_of, success
from orchestrator.artifacts.payloads import payload_key
from orchestrator.callbacks import Callback, expiry_of, is_approval
from orchestrator.calls import REASON_LENGTH_MAX
from orchestrator.errors import OrchestratorError, Poison
from orchestrator.inbox import SessionEnded
from orchestrator.journal.folding import read_state
from orchestrator.payloads import size_of
from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.budget import approval_meant
from orchestrator.session.mail import Mail
from orchestrator.session.state import SessionState
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import ID_PATTERN, ID_SAYS, PERSON_LENGTH_MAX, Json, JsonObject, canonical_json

if TYPE_CHECKING:
    # The command line checks by the same rules, and runs no sessions.
    from orchestrator.router import Router

CallbackStatus: TypeAlias = Literal["SUCCESS", "FAILURE"]
Control: TypeAlias = Callable[[str, str | None, str | None], Awaitable[str]]
"""`Deliveries.cancel`, `pause`, `resume` or `kill`: session id, reason, message id; returns the message id."""


class UnknownCallback(OrchestratorError):
    """No session promised such a callback (`UnknownApproval`: or asked for such an approval)."""

    code = "UNKNOWN_CALLBACK"

    def __init__(self, callback_id: str) -> None:
        super().__init__(f"no callback {callback_id!r:.150} was created")


class UnknownApproval(UnknownCallback):
    """The session asked for no such approval."""

    def __init__(self, session_id: str, name: str) -> None:
        OrchestratorError.__init__(self, f"session {session_id!r:.150} asked for no approval {name!r:.150}")


class WrongToken(OrchestratorError):
    """The token is none of those that were issued for the callback. The text never holds a token."""

    code = "WRONG_TOKEN"

    def __init__(self, callback_id: str) -> None:
        super().__init__(f"the token is not one of callback {callback_id!r:.150}")


class CallbackAnswered(OrchestratorError):
    """The callback was answered before, and differently; the first answer stands."""

    code = "CALLBACK_ANSWERED"

    def __init__(self, callback_id: str) -> None:
        super().__init__(f"callback {callback_id!r:.150} has another answer already")


class CallbackExpired(OrchestratorError):
    """The callback timed out before it was answered."""

    code = "CALLBACK_EXPIRED"

    def __init__(self, callback_id: str) -> None:
        super().__init__(f"callback {callback_id!r:.150} has timed out")


class NotAnApprover(OrchestratorError):
    """The approval names who may answer it, and this is somebody else."""

    code = "NOT_AN_APPROVER"

    def __init__(self, by: str) -> None:
        super().__init__(f"{by!r:.150} is not one of the approvers")


class Deliveries(Protocol):
    """Delivers messages to sessions, wherever they live. Returning means that the message is durable.

    Each may raise `Poison` for what can never succeed, and `MessageConflict` for a message id that was used before
    with another content.
    """

    async def signal(self, session_id: str, name: str, data: Json, message_id: str | None) -> str:
        """Deliver a signal; return its message id, a random one where none is given.

        Raises:
            UnknownSession: it was never accepted.
            SessionEnded: nobody is there to take it.
        """
        ...

    async def cancel(self, session_id: str, reason: str | None, message_id: str | None) -> str:
        """Ask the session to end; return the message id. Raises `UnknownSession` and `SessionEnded`."""
        ...

    async def pause(self, session_id: str, reason: str | None, message_id: str | None) -> str:
        """Let the session begin nothing new until it is resumed; what had begun goes on. As `cancel` otherwise."""
        ...

    async def resume(self, session_id: str, reason: str | None, message_id: str | None) -> str:
        """Let a paused session go on. As `cancel` otherwise."""
        ...

    async def kill(self, session_id: str, reason: str | None, message_id: str | None) -> str:
        """End the session now, whatever its handler does: it is not asked, nothing is undone. As `cancel` otherwise."""
        ...

    async def callback(self, callback_id: str, token: str, status: CallbackStatus, result: Json, error: Json) -> None:
        """Answer a callback; the same answer again is no error.

        Raises:
            UnknownCallback: there is none of that id.
            WrongToken: the token was not issued for it.
            NotAnApprover: it is an approval, for others to answer.
            CallbackAnswered: another answer came first.
            CallbackExpired: it has timed out.
            SessionEnded: nobody waits for it any more.
        """
        ...

    async def approve(self, session_id: str, name: str, approved: bool, by: str, comment: str | None) -> None:
        """Answer an approval in a person's name; the same answer again is no error.

        Raises:
            UnknownSession: it was never accepted.
            UnknownApproval: it asked for no such one.
            NotAnApprover: the approval is for others.
            CallbackAnswered, CallbackExpired, SessionEnded: as for a callback.
        """
        ...


class SessionDeliveries:
    """The `Deliveries` of a node. `new_id` returns a unique text."""

    def __init__(self, router: Router, new_id: Callable[[], str]) -> None:
        self._router = router
        self._ports = router.ports
        self._new_id = new_id

    async def signal(self, session_id: str, name: str, data: Json, message_id: str | None) -> str:
        """See `Deliveries.signal`."""
        signal = m.SignalSent(self._message_id(message_id), _checked("name", name), data)
        if 2 * size_of(data) > self._ports.payloads.inline_bytes_max:
            # It may go to the bucket, and must not for a session that takes no message (rule 1).
            await self._check_takes(session_id, signal)
        key = payload_key(session_id, f"signal.{signal.message_id}")
        sealed = m.SignalSent(signal.message_id, name, await self._ports.payloads.seal(key, data))
        await self._deliver(session_id, sealed, has_new_id=message_id is None)
        return signal.message_id

    async def cancel(self, session_id: str, reason: str | None, message_id: str | None) -> str:
        """See `Deliveries.cancel`."""
        return await self._control(m.CancelAsked, session_id, reason or "cancelled", message_id)

    async def pause(self, session_id: str, reason: str | None, message_id: str | None) -> str:
        """See `Deliveries.pause`."""
        return await self._control(m.PauseAsked, session_id, reason or "paused", message_id)

    async def resume(self, session_id: str, reason: str | None, message_id: str | None) -> str:
        """See `Deliveries.resume`."""
        return await self._control(m.ResumeAsked, session_id, reason or "resumed", message_id)

    async def kill(self, session_id: str, reason: str | None, message_id: str | None) -> str:
        """See `Deliveries.kill`."""
        return await self._control(m.KillAsked, session_id, reason or "killed", message_id)

    async def _control(self, kind: type[m.Control], session_id: str, reason: str, message_id: str | None) -> str:
        message = kind(self._message_id(message_id), reason[:REASON_LENGTH_MAX])
        await self._deliver(session_id, message, has_new_id=message_id is None)
        return message.message_id

    async def callback(self, callback_id: str, token: str, status: CallbackStatus, result: Json, error: Json) -> None:
        """See `Deliveries.callback`."""
        callback = await self._ports.callbacks.get(callback_id)
        if callback is None:
            raise UnknownCallback(callback_id)
        check_token(callback, token)
        if status == "FAILURE":
            answer = failure(error_of(error))
        elif is_approval(callback_id):
            answer = success(await self._approved(callback, result))
        else:
            answer = success(await self._sealed(callback, result))
        await self._answer(callback, answer)

    async def approve(self, session_id: str, name: str, approved: bool, by: str, comment: str | None) -> None:
        """See `Deliveries.approve`."""
        head = await self._router.latest(session_id)
        state = await read_state(self._ports.journal, head.session_id)
        operation = name if state is None else approval_meant(state, name)
        order = None if state is None else _approval_order(state, operation)
        if order is None:
            raise UnknownApproval(session_id, name)
        check_approver(order, by)
        # Whoever may call this needs no token: its item may not have been written yet.
        issued = Callback(order.callback_id, head.session_id, operation, frozenset({_nobody()}), order.times_out_at)
        callback = await self._ports.callbacks.issue(issued, expires_at=expiry_of(self._ports.clock.now()))
        await self._answer(callback, success(_approval({"approved": approved, "by": by, "comment": comment})))

    async def _deliver(self, session_id: str, message: m.SignalSent | m.Control, *, has_new_id: bool) -> None:
        """Deliver it; one that the session took before it ended has come once more, and asks for nothing."""
        try:
            await self._router.deliver(session_id, message, has_new_id=has_new_id)
        except SessionEnded:
            mail = await self._mail_of_ended(session_id)
            if mail is None or not mail.is_known(message) or mail.contradicts(message):
                raise

    async def _check_takes(self, session_id: str, signal: m.SignalSent) -> None:
        """Return if the session takes the signal, or has taken it. Raises `UnknownSession` and `SessionEnded`."""
        try:
            await self._router.open_head(session_id)
        except SessionEnded:
            mail = await self._mail_of_ended(session_id)
            if mail is None or not mail.is_known(signal):
                raise

    async def _mail_of_ended(self, session_id: str) -> Mail | None:
        """Return what the session's last generation was told."""
        head = await self._router.latest(session_id)
        state = await read_state(self._ports.journal, head.session_id)
        return None if state is None else state.mail

    async def _order(self, session_id: str, operation: str) -> e.ApprovalRequested | None:
        """Return the approval as it was asked for; `None` where it was not."""
        state = await read_state(self._ports.journal, session_id)
        return None if state is None else _approval_order(state, operation)

    async def _answer(self, callback: Callback, answer: str) -> None:
        """Have the answer decided at the callback's item, and deliver the one that won (rule 10)."""
        is_late = callback.times_out_at is not None and callback.times_out_at <= self._ports.clock.now()
        decided = await self._ports.callbacks.decide(callback.callback_id, TIMED_OUT if is_late else answer)
        if decided is None:
            raise UnknownCallback(callback.callback_id)
        has_ended = await self._has_ended_with(callback.session_id, message_of(decided))
        if decided.answer == TIMED_OUT:
            raise CallbackExpired(callback.callback_id)
        if decided.answer != answer:
            raise CallbackAnswered(callback.callback_id)
        if has_ended and not await self._was_heard(callback):
            raise SessionEnded(callback.session_id)

    async def _has_ended_with(self, session_id: str, message: m.CallbackAnswered) -> bool:
        """Deliver the answer; return whether the journal that waited for it has ended, with or without it."""
        try:
            await self._router.deliver(session_id, message)
        except SessionEnded:
            return True
        # A later generation takes no answer to what an earlier one asked.
        head = await self._ports.heads.get(session_id)
        return head is not None and head.status is SessionStatus.CONTINUED

    async def _was_heard(self, callback: Callback) -> bool:
        """Return whether the session had the answer before it ended; see `was_heard`."""
        state = await read_state(self._ports.journal, callback.session_id)
        return state is not None and was_heard(state, callback)

    async def _approved(self, callback: Callback, result: Json) -> JsonObject:
        """Return the answer of a person with a token: who may give it stands in the journal, not in the token."""
        answer = _approval(result)
        order = await self._order(callback.session_id, callback.operation)
        if order is not None:
            check_approver(order, str(answer["by"]))
        return answer

    async def _sealed(self, callback: Callback, result: Json) -> Json:
        # Two answers may come at once: each under a key of its own, and the one that wins is referred to.
        digest = hashlib.sha256(canonical_json(result).encode()).hexdigest()[:16]
        key = payload_key(callback.session_id, f"{callback.operation}.{digest}")
        return await self._ports.payloads.seal(key, result)

    def _message_id(self, given: str | None) -> str:
        return self._new_id() if given is None else _checked("message_id", given)


def check_token(callback: Callback, token: str) -> None:
    """Return if the token was issued for the callback. Raises `WrongToken`."""
    given = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
    # Every hash is compared, in constant time: the answer's delay tells nothing of any of them.
    known = [hmac.compare_digest(given, issued) for issued in callback.token_sha256]
    if not any(known):
        raise WrongToken(callback.callback_id)


def was_heard(state: SessionState, callback: Callback) -> bool:
    """Return whether the session had the answer before it ended: then its repetition is answered as the first."""
    operation = state.operations.get(callback.operation)
    return operation is not None and operation.is_settled


def check_approver(asked: e.ApprovalRequested, by: str) -> None:
    """Return if `by` may answer. Raises `NotAnApprover`."""
    if isinstance(asked.approvers, list) and by not in asked.approvers:
        raise NotAnApprover(by)


def approvals_waited_for(state: SessionState) -> dict[str, e.ApprovalRequested]:
    """Return what people are asked for and have not answered, by name."""
    orders = ((name, operation.order) for name, operation in state.open_operations.items())
    return {name: order for name, order in orders if isinstance(order, e.ApprovalRequested)}


def _approval_order(state: SessionState, operation: str) -> e.ApprovalRequested | None:
    known = state.operations.get(operation)
    return known.order if known is not None and isinstance(known.order, e.ApprovalRequested) else None


def _checked(field: str, value: str) -> str:
    if ID_PATTERN.fullmatch(value) is None:
        raise Poison("INVALID_MESSAGE", f"{field}: {value!r:.150} is not {ID_SAYS}")
    return value


def _approval(result: Json) -> JsonObject:
    """Return a person's answer as the journal keeps it. Raises `Poison` naming the field that is wrong."""
    fields = result if isinstance(result, dict) else {}
    approved, by, comment = fields.get("approved"), fields.get("by"), fields.get("comment")
    if not isinstance(approved, bool):
        raise Poison("INVALID_MESSAGE", 'result.approved: true or false is needed, as {"approved": …, "by": …}')
    if not isinstance(by, str) or not 1 <= len(by) <= PERSON_LENGTH_MAX:
        raise Poison(
            "INVALID_MESSAGE", f"result.by: the name of who answers is needed (1 to {PERSON_LENGTH_MAX} characters)"
        )
    if comment is not None and (not isinstance(comment, str) or len(comment) > REASON_LENGTH_MAX):
        raise Poison("INVALID_MESSAGE", f"result.comment: a text of at most {REASON_LENGTH_MAX} characters, or nothing")
    return {"approved": approved, "by": by, "comment": comment}


def _nobody() -> str:
    """Return the hash of no token: an item's set must hold something."""
    return "0" * 64
