"""The tokens of one run: a fresh one for each callback that it may hand out, and none in what the journal keeps.

Not journaled: an activation that may hand a callback out again issues another token, and each works.
"""

from __future__ import annotations

from orchestrator.callbacks import TOKENS_MAX, expiry_of, issued_with
from orchestrator.callbacks import Callback as StandingCallback
from orchestrator.errors import describe
from orchestrator.handler_ports import HandlerPorts
from orchestrator.session.events import CallbackCreated
from orchestrator.session.state import Operation
from orchestrator.session.values import ErrorRecord


class CallbackTokens:
    """Issues the tokens of one session's run."""

    def __init__(self, session_id: str, ports: HandlerPorts) -> None:
        self._session_id = session_id
        self._ports = ports
        self._tokens: list[str] = []

    def new(self) -> str:
        """Return a token that works once it is issued."""
        token = self._ports.new_token()
        self._tokens.append(token)
        return token

    async def issue(
        self, token: str, operation: str, order: CallbackCreated, *, submitted: Operation | None
    ) -> StandingCallback | None:
        """Let the token work, unless the callback is handed out already; return how that stands then.

        `submitted` is the callback's own step, which hands it out and does not run again. Raises what
        `Callbacks.issue` does.
        """
        callbacks = self._ports.callbacks
        if submitted is not None and submitted.is_settled:
            there = await callbacks.get(order.callback_id)
            if there is not None:
                return there
        issued = issued_with(token, order.callback_id, self._session_id, operation, order.times_out_at)
        standing = await callbacks.issue(issued, expires_at=expiry_of(self._ports.clock.now()))
        if not issued.token_sha256 & standing.token_sha256:
            self._ports.log.warning("callback_has_too_many_tokens", operation=operation, tokens=TOKENS_MAX)
        return standing

    def described(self, error: BaseException) -> ErrorRecord:
        """Return what the journal keeps of an exception of user code, without the tokens that its text quotes."""
        return describe(error, self._tokens)
