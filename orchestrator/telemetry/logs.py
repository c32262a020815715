"""Logs: one event a line, no payload and no token in any of them."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable
from functools import cache
from typing import Final, Literal

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

FRAMES_MAX: Final = 8
# Without the frames' variables: they hold inputs, prompts and whatever else a log must not.
_TRACEBACKS: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure_logging(log_format: Literal["json", "console"], *, level: int = logging.INFO) -> None:
    """Send our logs, and warnings of the libraries, to standard error: JSON lines, or coloured text for a terminal."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    renderers: list[Processor] = (
        [_TRACEBACKS, _without_texts, structlog.processors.JSONRenderer(_json_line)]
        if log_format == "json"
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # It quotes the bytes of requests that it cannot parse, keys and bodies among them.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


def _json_line(event: EventDict, *, default: Callable[[object], object]) -> str:
    try:
        # A fifth of the CPU of the standard library's encoder.
        return orjson.dumps(event, default).decode()
    except TypeError:
        # A text has no UTF-8, or a number has more than 64 bits.
        return _line_encoder(default).encode(event)


@cache
def _line_encoder(default: Callable[[object], object]) -> json.JSONEncoder:
    # Made once: `json.dumps` makes an encoder for each call that asks for anything but its defaults.
    return json.JSONEncoder(ensure_ascii=False, default=default)


def _without_texts(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Keep an exception's types and places, and drop its texts: they quote what was wrong, and that may be payload."""
    for stack in event.get("exception") or ():
        if isinstance(stack, dict):
            stack.pop("exc_value", None)
    return event


def frames_of(error: BaseException) -> list[str]:
    """Return where an error came from, innermost last: places only, for its text and its variables may be payload."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
    return [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]


def silent_while(log: FilteringBoundLogger, is_silent: Callable[[], bool]) -> FilteringBoundLogger:
    """Return a logger that says nothing while `is_silent()`: a replayed handler repeats no line."""

    def gate(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        if is_silent():
            raise structlog.DropEvent
        return event

    def forward(_: WrappedLogger, __: str, event: EventDict) -> tuple[tuple[object, ...], EventDict]:
        return (event.pop("event"),), event

    gated: FilteringBoundLogger = structlog.wrap_logger(
        log, processors=[gate, forward], wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET)
    )
    return gated
