"""Events ↔ the JSON of a journal, the same for every adapter: what is written today must be readable for years.

Reading is strict about what the code needs and blind to fields it does not know, so that older code reads newer ones.
What it complains of it never quotes: a payload may stand there, and the text of an error ends in a log.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from typing import Final

from orchestrator.journal import UnreadableEvent, UnwritableEvent
from orchestrator.payloads import stored_json
from orchestrator.session.events import EVENT_TYPES, TYPE_NAMES, Event
from orchestrator.session.values import ErrorRecord, Json, JsonObject, RetrySpec, format_instant, instant_of, json_bytes

_OPERATION: Final = "operation"
_USAGE: Final = "usage"
_APART: Final = "encrypted"
ENCRYPTED: Final[JsonObject] = {_APART: True}
"""Stands for a payload where only its ciphertext is stored, for whoever reads the table without the key."""
ENCRYPTED_TEXT: Final = "[encrypted]"
"""The same, where a text is expected."""
NUMBER_MAX: Final = sys.float_info.max
"""A whole number over this one is no float."""


def type_name(event: Event) -> str:
    """Return the event's type name in the contract (`STEP_COMPLETED`)."""
    return TYPE_NAMES[type(event)]


def operation_of(event: Event) -> str | None:
    """Return the operation id the event belongs to; `None` for those of the whole session."""
    operation = getattr(event, _OPERATION, None)
    return operation if isinstance(operation, str) else None


def data_of(event: Event) -> JsonObject:
    """Return the event's own fields as JSON; optional ones that are `None` are left out, results never are.

    Raises:
        ValueError: a field is a number that JSON has no word for (in payloads the doors refuse them).
    """
    data: JsonObject = {}
    for name, has_default, write in _DATA_FIELDS[type(event)]:
        value = getattr(event, name)
        if value is not None:
            data[name] = value if write is None else write(value)
        elif not has_default:
            data[name] = None
    return data


def encode(event: Event) -> str:
    """Return the event's `data` text.

    Raises:
        UnwritableEvent: a field holds what is not JSON.
    """
    try:
        return json_bytes(data_of(event)).decode()
    except ValueError as error:
        kind = type(event).__name__
        raise UnwritableEvent(f"a {kind} event holds what is not JSON: {type(error).__name__}") from None


def encode_apart(event: Event) -> tuple[str, bytes | None]:
    """Return the event's `data` text with a mark in place of each payload, and the payloads; `None` where it has none.

    Raises:
        UnwritableEvent: a field holds what is not JSON.
    """
    whole, kind = encode(event), type(event)
    data = _fields(stored_json(whole))
    payloads: JsonObject = {}
    for name, value in data.items():
        if name in _PAYLOADS[kind] or (name == _USAGE and not _is_counts(value)):
            payloads[name] = value
    if not payloads:
        return whole, None
    marks = {name: _marked(value, _ANNOTATIONS[kind][name]) for name, value in payloads.items()}
    # Its own mark: else whoever takes the ciphertext away would have us take the marks for what was recorded.
    return json_bytes({**data, **marks, **ENCRYPTED}).decode(), json_bytes(payloads)


def decode(
    status: str, operation: str | None, data: str, payloads: bytes | None = None, *, shows_marks: bool = False
) -> Event:
    """Return the event of such an item; `payloads` are those that `encode_apart` took out.

    Without them, an event that had some is refused, unless the caller `shows_marks` to people in their place.

    Raises:
        UnreadableEvent: the type is not known to this version, or its data do not fit.
    """
    kind = EVENT_TYPES.get(status)
    if kind is None:
        raise UnreadableEvent(f"the journal holds an event of type {status}, which this version does not know")
    try:
        loaded = _fields(stored_json(data))
        if payloads is not None:
            loaded |= _fields(stored_json(payloads.decode()))
        elif _APART in loaded:
            if not shows_marks:
                raise TypeError("its payloads are encrypted, and are not there")
            # Nobody looks at these by themselves, and a state is folded from what they hold.
            loaded = {name: value for name, value in loaded.items() if _holds_more(kind, name, value)}
        values = {name: read(loaded[name]) for name, read in _FIELD_READERS[kind] if name in loaded}
        make: Callable[..., Event] = kind
        return make(**values) if operation is None else make(operation=operation, **values)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UnreadableEvent(f"the data of a {status} event cannot be read: {error}") from error


def _kind(value: Json) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "one that JSON has no word for"
    return "null" if value is None else type(value).__name__


def _finite(value: float) -> Json:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not JSON")
    return value


def _as_object(value: ErrorRecord | RetrySpec) -> Json:
    parts = {f.name: getattr(value, f.name) for f in fields(value)}
    return {name: _finite(part) if isinstance(part, float) else part for name, part in parts.items()}


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text was expected, not {_kind(value)}")
    return value


def _whole(value: Json) -> int:
    # Whatever is counted in an event is counted from one.
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TypeError(f"a whole number from 1 was expected, not {_kind(value)}")
    return value


def _number(value: Json) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not -NUMBER_MAX <= value <= NUMBER_MAX:
        raise TypeError(f"a number was expected, not {_kind(value)}")
    return value


def _instant(value: Json) -> datetime:
    return instant_of(_text(value))


def _fields(value: Json) -> JsonObject:
    if not isinstance(value, dict):
        raise TypeError(f"an object was expected, not {_kind(value)}")
    return value


def _record(value: Json) -> ErrorRecord:
    record = _fields(value)
    return ErrorRecord(_text(record["type"]), _text(record["code"]), _text(record["message"]))


def _policy(value: Json) -> RetrySpec:
    policy, default = _fields(value), RetrySpec()
    read = RetrySpec(
        max_attempts=_whole(policy.get("max_attempts", default.max_attempts)),
        initial_delay=_number(policy.get("initial_delay", default.initial_delay)),
        max_delay=_number(policy.get("max_delay", default.max_delay)),
        multiplier=_number(policy.get("multiplier", default.multiplier)),
    )
    if read.initial_delay < 0 or read.max_delay < 0 or read.multiplier < 1:
        raise TypeError("a policy whose pauses are none")
    return read


def _optional(read: Callable[[Json], object]) -> Callable[[Json], object]:
    return lambda value: None if value is None else read(value)


_READERS: Final[dict[str, Callable[[Json], object]]] = {
    "str": _text,
    "int": _whole,
    "datetime": _instant,
    "ErrorRecord": _record,
    "Json": lambda value: value,
    "str | None": _optional(_text),
    "datetime | None": _optional(_instant),
    "float | None": _optional(_number),
    "JsonObject | None": _optional(_fields),
    "RetrySpec | None": _optional(_policy),
}
"""How a field is read back, by its annotation in `events`: a new kind of field needs its line here."""

_WRITERS: Final[dict[str, Callable[..., Json] | None]] = {
    **dict.fromkeys(("str", "int", "Json", "str | None", "JsonObject | None")),
    "datetime": format_instant,
    "datetime | None": format_instant,
    "ErrorRecord": _as_object,
    "float | None": _finite,
    "RetrySpec | None": _as_object,
}
"""How a field is written, by its annotation; `None` for what is JSON as it is. A new kind of field needs its line."""

_DATA_FIELDS: Final = {
    kind: tuple((f.name, f.default is None, _WRITERS[str(f.type)]) for f in fields(kind) if f.name != _OPERATION)
    for kind in TYPE_NAMES
}
"""The fields of each event that stand in its data, whether one may be left out, and how it is written."""

_FIELD_READERS: Final = {
    kind: tuple((f.name, _READERS[str(f.type)]) for f in fields(kind) if f.name != _OPERATION) for kind in TYPE_NAMES
}

_CLEAR: Final = frozenset(
    {
        *("session_type", "tenant", "trace", "parent", "parent_operation", "time_limit", "patches", "budget"),
        *("attempt", "agent", "agent_run", _USAGE, "timeout", "retry", "next_attempt_at", "fire_at", "signal"),
        *(
            "callback_id",
            "times_out_at",
            "name",
            "message_id",
            "change_id",
            "child_id",
            "cause",
            "percent",
            "continued_as",
        ),
        # Of `VALUE_RECORDED`, which says where an outcome stands, and never what it is.
        "value",
    }
)
"""Fields that stay readable in the table whatever is encrypted: the structure that people on call and pollers read.

A new field is a payload unless it is named here. Of an error, the text is one; its type and code are not.
"""

_PAYLOADS: Final = {
    kind: frozenset(f.name for f in fields(kind) if f.name != _OPERATION) - _CLEAR for kind in TYPE_NAMES
}
"""The fields of each event that may hold what users sent, made or were told."""

_ANNOTATIONS: Final = {kind: {f.name: str(f.type) for f in fields(kind)} for kind in TYPE_NAMES}


def _holds_more(kind: type[Event], name: str, value: Json) -> bool:
    return value != ENCRYPTED or _ANNOTATIONS[kind].get(name) != "JsonObject | None"


def _is_counts(value: Json) -> bool:
    return isinstance(value, dict) and all(isinstance(count, int | float) for count in value.values())


def _marked(value: Json, annotation: str) -> Json:
    """Return what stands for a payload, of a kind that its place in the event can hold."""
    if annotation == "ErrorRecord" and isinstance(value, dict):
        return {**value, "message": ENCRYPTED_TEXT}
    return ENCRYPTED_TEXT if annotation in {"str", "str | None"} else dict(ENCRYPTED)
