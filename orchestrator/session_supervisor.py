"""What the failure of a session's actor means for the node, and when the session may be tried here again."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from actors import Clock, Directive, Failure
from orchestrator.telemetry.port import SILENT, Telemetry

FAILURES_MAX: Final = 50
FAILURES_WITHIN_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 5.0
RETRY_SECONDS_MAX: Final = 3_600.0
HELD_BACK_MAX: Final = 10_000
HELD_BACK_QUIET_SECONDS: Final = 3_600.0


class SessionSupervisor:
    """Stops every session actor that failed: HEAD stays, so the node's own audit takes the session up again.

    A node on which session after session fails is sick itself: past the limit the failure escalates, and the node shows
    UNHEALTHY.
    """

    def __init__(self, clock: Clock, telemetry: Telemetry = SILENT) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._recent: deque[float] = deque(maxlen=FAILURES_MAX)
        self._held_back: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def may_retry(self, session_id: str) -> bool:
        """Return whether the audit may take the session up again: not at once where its actor failed before.

        Each try leaves a SESSION_RESUMED, so a session that fails here each time is tried less and less often.
        """
        _, not_before = self._held_back.get(session_id, (0, 0.0))
        return self._clock.monotonic() >= not_before

    def __call__(self, failure: Failure) -> Directive:
        """Return STOP, or ESCALATE after too many failures within a minute."""
        now = self._clock.monotonic()
        self._hold_back(failure.actor_id, now)
        # Another node may have it next: the actor that failed tells nobody that it left.
        self._telemetry.forget(failure.actor_id)
        self._recent.append(now)
        is_sick = len(self._recent) == FAILURES_MAX and now - self._recent[0] < FAILURES_WITHIN_SECONDS
        return Directive.ESCALATE if is_sick else Directive.STOP

    def _hold_back(self, session_id: str, now: float) -> None:
        failures, since = self._held_back.pop(session_id, (0, 0.0))
        if now - since > HELD_BACK_QUIET_SECONDS:
            failures = 0
        delay = min(RETRY_SECONDS_MAX, RETRY_SECONDS * 2.0 ** min(failures, 16))
        self._held_back[session_id] = (failures + 1, now + delay)
        if len(self._held_back) > HELD_BACK_MAX:
            self._held_back.popitem(last=False)
