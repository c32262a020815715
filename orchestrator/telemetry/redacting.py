"""A handler's own log lines without what its session type declared as nobody's business (`redact=`)."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from orchestrator.redaction import Redaction
from orchestrator.telemetry.logs import frames_of


def redacting(log: FilteringBoundLogger, redaction: Redaction) -> FilteringBoundLogger:
    """Return a logger whose lines hold nothing of that: under its name, or in any text.

    Of an exception it keeps the type and where it came from, whatever the format: its text quotes what was wrong.
    """

    def clean(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        error = _error_in(event.pop("exc_info", None))
        cleaned = redaction.of(dict(event))
        assert isinstance(cleaned, dict), "a mapping stays one"
        if error is not None:
            cleaned |= {"error": type(error).__name__, "frames": frames_of(error)}
        return cleaned

    def forward(_: WrappedLogger, __: str, event: EventDict) -> tuple[tuple[object, ...], EventDict]:
        return (event.pop("event", ""),), event

    cleaning: FilteringBoundLogger = structlog.wrap_logger(
        log, processors=[clean, forward], wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET)
    )
    return cleaning


def _error_in(exc_info: object) -> BaseException | None:
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as error, _):
            return error
    return sys.exc_info()[1] if exc_info else None
