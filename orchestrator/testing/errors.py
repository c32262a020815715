"""What a test is told when its session does not do what the test wants of it. Each text names what to do."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import OrchestratorError
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import ErrorRecord


class SessionDidNotComplete(OrchestratorError):
    """The session ended without a result, or is BLOCKED. `error` is what its journal (or its head) holds."""

    code = "SESSION_DID_NOT_COMPLETE"

    def __init__(self, session_id: str, state: SessionStatus, error: ErrorRecord) -> None:
        super().__init__(f"{session_id} is {state}: {error.type}: {error.message}")
        self.session_id = session_id
        self.state = state
        self.error = error


class NothingHappens(OrchestratorError):
    """However much time passed, nothing would happen: the session waits for what only the test can bring."""

    code = "NOTHING_HAPPENS"

    def __init__(self, session_id: str, state: SessionStatus, waits_for: str) -> None:
        super().__init__(
            f"{session_id} is {state}, and no time that passes will change that. It waits for {waits_for}: send that "
            "before you ask for the result"
        )
        self.session_id = session_id


class TimeStandsStill(OrchestratorError):
    """A step or an agent has been running for too long; time does not pass by itself meanwhile."""

    code = "TIME_STANDS_STILL"

    def __init__(self, running: Sequence[str], seconds: float) -> None:
        super().__init__(
            f"{', '.join(running)}: running for over {seconds:g} s, and time does not pass by itself while a step or "
            "an agent runs. Let it end, or let time pass under it with `await env.skip(...)`, as for a timeout"
        )
        self.running = tuple(running)


class NotAsked(OrchestratorError):
    """The session has not asked for that callback or approval, or has its answer already."""

    code = "NOT_ASKED"

    def __init__(self, session_id: str, asked: str, waits_for: str) -> None:
        super().__init__(
            f"{session_id} has not asked for {asked}, or not yet; it waits for {waits_for}. If time has to pass first, "
            "let it: `await env.skip(...)`"
        )
        self.session_id = session_id
