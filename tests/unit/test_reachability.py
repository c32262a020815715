"""What a node says of a dependency that does not answer."""

from datetime import UTC, datetime

import structlog
from structlog.testing import CapturingLogger

from actors import ManualClock
from orchestrator.aws.faults import TELL_AFTER_SECONDS, Reachability


def test_a_dependency_that_stays_away_is_told_once_and_so_is_its_return() -> None:
    """What is back before anybody could look is not."""
    clock, told = ManualClock(datetime(2026, 1, 1, tzinfo=UTC)), CapturingLogger()
    reachability = Reachability("table", clock, log=structlog.wrap_logger(told, processors=[]))
    for seconds in (0.0, TELL_AFTER_SECONDS - 1):
        clock.advance(seconds)
        reachability.failed(ConnectionError("refused"))
    reachability.succeeded()
    assert [] == told.calls
    for seconds in (0.0, TELL_AFTER_SECONDS, 1.0):
        clock.advance(seconds)
        reachability.failed(ConnectionError("refused"))
    reachability.succeeded()
    reachability.succeeded()
    assert [
        ("warning", {"event": "dependency_unreachable", "dependency": "table", "error": "ConnectionError: refused"}),
        ("info", {"event": "dependency_reachable", "dependency": "table", "after": TELL_AFTER_SECONDS + 1}),
    ] == [(call.method_name, call.kwargs) for call in told.calls]
