"""`Session`: a test's handle on one session, for all that people and systems outside can do with it.

It follows the session through its generations, as `ctx.continue_as_new` makes them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.artifacts import ARTIFACT_BYTES_MAX
from orchestrator.callbacks import callback_id_of
from orchestrator.cluster import BLOCKED_ERROR, Head
from orchestrator.inbox import UnknownSession
from orchestrator.payloads import to_json
from orchestrator.session.events import ApprovalRequested, CallbackCreated, ChildStarted, Recorded
from orchestrator.session.state import Operation, SessionState, replay
from orchestrator.session.transitions import ENDED, SessionStatus
from orchestrator.session.values import SESSION_LIFE_MAX, ErrorRecord, JsonObject
from orchestrator.testing.errors import NotAsked, NothingHappens, SessionDidNotComplete
from orchestrator.testing.recorded import SUFFIX, written
from orchestrator.views import event_view

if TYPE_CHECKING:
    from orchestrator.testing.virtual import Environment

LIFE_MAX: Final[timedelta] = SESSION_LIFE_MAX
"""How much time may pass while a test waits for a result: no session lives longer."""
_OVER: Final = ENDED - {SessionStatus.CONTINUED} | {SessionStatus.BLOCKED}


@dataclass(frozen=True, slots=True)
class PromisedCallback:
    """A callback that a session waits for: who has `url` and `token` may answer it, and so may the test."""

    id: str
    token: str = field(repr=False)
    url: str
    _env: Environment = field(repr=False)

    async def succeed(self, result: object = None) -> None:
        """Answer it with a result (JSON, or a model).

        Raises:
            CallbackAnswered: it has another answer. CallbackExpired: it has timed out. SessionEnded: nobody waits.
        """
        value = to_json(result, "result", bytes_max=ARTIFACT_BYTES_MAX)
        await self._env.node.deliveries.callback(self.id, self.token, "SUCCESS", value, None)
        await self._env.rest()

    async def fail(self, error: str) -> None:
        """Answer it with a failure: the handler gets `CallbackFailed`. Raises as `succeed` does."""
        await self._env.node.deliveries.callback(self.id, self.token, "FAILURE", None, error)
        await self._env.rest()


class Session:
    """One session of an environment."""

    def __init__(self, env: Environment, session_id: str) -> None:
        """Made by `env.start` and `env.session`."""
        self._env = env
        self.session_id = session_id

    def __repr__(self) -> str:
        """Name it."""
        return f"Session({self.session_id!r})"

    # --- what is to be seen --------------------------------------------------------------------------------------

    def state(self) -> SessionStatus:
        """Return the session's state by its name in the contract: `"SUSPENDED"`, `"COMPLETED"` and so on."""
        return self._head().status

    def events(self) -> list[JsonObject]:
        """Return the journal, as `orchestrator events ID --json` prints it; of the latest generation."""
        session_id = self._head().session_id
        return [event_view(session_id, recorded) for recorded in self._recorded()]

    def record(self, folder: str | Path) -> Path:
        """Write the journal to `<folder>/<session id>.jsonl`, for `testing.replay`, and return that path."""
        path = Path(folder) / f"{self._head().session_id}{SUFFIX}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written(self.events()), encoding="utf-8")
        return path

    async def result(self) -> Any:
        """Return the result, as the handler's return annotation has it; time passes as it is needed.

        Raises:
            SessionDidNotComplete: it failed, was cancelled, or is BLOCKED.
            NothingHappens: it waits for what only the test can bring. TimeStandsStill: a step or an agent does not end.
        """
        latest = self._env.now + LIFE_MAX

        def is_over() -> bool:
            return self.state() in _OVER or self._env.now > latest

        if not await self._env.until(is_over, passing_time=True):
            raise NothingHappens(self.session_id, self.state(), self._waits_for())
        state, folded = self.state(), self._folded()
        if state is not SessionStatus.COMPLETED:
            raise SessionDidNotComplete(self.session_id, state, self._error(state, folded))
        payload = await self._env.node.router.ports.payloads.open(folded.result)
        declared = self._env.app.session_type(folded.started.session_type)
        return payload if declared is None else declared.result_type.load(payload, "result")

    # --- what comes from outside ---------------------------------------------------------------------------------

    async def signal(self, name: str, data: object = None, *, message_id: str | None = None) -> None:
        """Send a signal. Raises `SessionEnded`, `MessageConflict` for a message id of another one."""
        value = to_json(data, "data", bytes_max=ARTIFACT_BYTES_MAX)
        await self._env.node.deliveries.signal(self.session_id, name, value, message_id)
        await self._env.rest()

    async def cancel(self, reason: str | None = None) -> None:
        """Ask the session to end. Raises `SessionEnded`."""
        await self._env.node.deliveries.cancel(self.session_id, reason, None)
        await self._env.rest()

    async def callback(self, name: str) -> PromisedCallback:
        """Return the callback of that name which the session created, with a token that works.

        Raises:
            NotAsked: it has not created one, or not yet: time does not pass here.
        """
        await self._asked(name, CallbackCreated, f"a callback {name!r}")
        head = self._head()
        callback_id, token = callback_id_of(head.session_id, name), f"token-{self._env.tables.number()}"
        issued = await self._env.tables.callbacks.add_tokens(callback_id, [hashlib.sha256(token.encode()).hexdigest()])
        if issued is None:
            raise NotAsked(self.session_id, f"a callback {name!r}", self._waits_for())
        return PromisedCallback(callback_id, token, self._env.node.router.ports.callback_url(callback_id), self._env)

    async def approve(self, name: str, *, by: str, comment: str | None = None) -> None:
        """Say yes to an approval, in a person's name.

        Raises:
            NotAsked: the session has not asked for it, or not yet. NotAnApprover: it is for others to answer.
            CallbackAnswered: it has another answer. CallbackExpired: it has timed out. SessionEnded: nobody waits.
        """
        await self._answer(name, approved=True, by=by, comment=comment)

    async def reject(self, name: str, *, by: str, comment: str | None = None) -> None:
        """Say no to an approval, in a person's name. Raises as `approve` does."""
        await self._answer(name, approved=False, by=by, comment=comment)

    async def _answer(self, name: str, *, approved: bool, by: str, comment: str | None) -> None:
        await self._asked(name, ApprovalRequested, f"an approval {name!r}")
        await self._env.node.deliveries.approve(self.session_id, name, approved, by, comment)
        await self._env.rest()

    async def _asked(self, name: str, order: type[CallbackCreated] | type[ApprovalRequested], what: str) -> None:
        def is_asked() -> bool:
            operation = self._folded().operations.get(name)
            return operation is not None and isinstance(operation.order, order)

        if not await self._env.until(is_asked, passing_time=False):
            raise NotAsked(self.session_id, what, self._waits_for())

    # --- reading -------------------------------------------------------------------------------------------------

    def _head(self) -> Head:
        heads = {head.session_id: head for head in self._env.tables.heads.all()}
        head = heads.get(self.session_id)
        if head is None:
            raise UnknownSession(self.session_id)
        while head.continued_as in heads:
            head = heads[head.continued_as]
        return head

    def _recorded(self) -> list[Recorded]:
        return self._env.tables.journal.events(self._head().session_id)

    def _folded(self) -> SessionState:
        session_id = self._head().session_id
        folded = replay(session_id, self._env.tables.journal.events(session_id))
        assert folded is not None, f"HEAD of {session_id} stands over an empty journal"
        return folded

    def _error(self, state: SessionStatus, folded: SessionState) -> ErrorRecord:
        if folded.error is not None:
            return folded.error
        if state is SessionStatus.BLOCKED:
            return ErrorRecord("Blocked", "BLOCKED", str(self._head().attributes.get(BLOCKED_ERROR, "")))
        return ErrorRecord("Endless", "ENDLESS", f"it did not end within {LIFE_MAX.days} days; it is {state}")

    def _waits_for(self) -> str:
        operations = self._folded().operations.values()
        waiting = [_described(operation) for operation in operations if not operation.is_settled]
        # A wait for a signal without a time limit leaves no event until the signal is there.
        return ", ".join(waiting) or "nothing that its journal shows: a signal, maybe"


def _described(operation: Operation) -> str:
    child = f" ({operation.order.child_id})" if isinstance(operation.order, ChildStarted) else ""
    return f"{operation.kind} {operation.operation_id!r}{child}"
