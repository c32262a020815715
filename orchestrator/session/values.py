"""The small values that events, messages and the state share: JSON, errors, retry policies, ids.

Nothing here knows what a session does. Add a value when two of its neighbours need it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import Final, TypeAlias

import orjson
import pydantic_core

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]

ID_LENGTH_MAX: Final = 128
ID_PATTERN: Final = re.compile(rf"[A-Za-z0-9_.:-]{{1,{ID_LENGTH_MAX}}}")
ID_SAYS: Final = f"an id (1 to {ID_LENGTH_MAX} of A-Z a-z 0-9 _ . : -)"
"""The pattern in words, for whoever is told that something is none."""
SESSION_ID_LENGTH_MAX: Final = 110
"""A given session id leaves room for the suffix of its later generations (`:g2`) within 128 characters."""
SESSION_TYPE_PATTERN: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
AGENT_NAME_LENGTH_MAX: Final = 128
SESSION_LIFE_MAX: Final = timedelta(days=400)
"""No session lives longer: what expires this long after its session's start plus the retention is of an ended one."""
DELAY_SECONDS_MAX: Final = SESSION_LIFE_MAX.total_seconds()
"""No pause is longer than the longest life of a session."""
TENANT_DEFAULT: Final = "default"
PERSON_LENGTH_MAX: Final = 200
"""The longest name of who answers an approval."""
APPROVAL_PREFIX: Final = "approval-"
"""Begins the id of a callback that a person answers."""
YEAR_MIN: Final = 2
YEAR_MAX: Final = 9_000
"""Years from which every pause and every life can be counted back and on."""

# Made once: `json.dumps` makes an encoder for each call that asks for anything but its defaults.
# What they are given was parsed or copied, so it is a tree; to look for circles would take a third as long again.
_STRICT: Final = partial(
    json.JSONEncoder, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
)
_CANONICAL: Final = _STRICT(sort_keys=True)
_COMPACT: Final = _STRICT()
_GENERATION_SUFFIX = re.compile(r":g\d+\Z")


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """What a journal keeps of an error: its Python type, its stable code and its text."""

    type: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class RetrySpec:
    """How often and how far apart an operation is tried; durations in seconds."""

    max_attempts: int = 1
    initial_delay: float = 1.0
    max_delay: float = 60.0
    multiplier: float = 2.0

    def delay_after(self, attempt: int, jitter: float, least: float = 0.0) -> timedelta:
        """Return the pause after failed attempt `attempt` (from 1): full jitter, `jitter` drawn from [0, 1).

        It is at least `least` seconds long, as far as the policy has pauses of that length at all.
        Full jitter: a uniform draw between zero and the exponential bound (AWS Architecture Blog, "Exponential
        Backoff And Jitter").
        """
        try:
            bound = min(self.max_delay, self.initial_delay * self.multiplier ** (attempt - 1))
        except OverflowError:
            # A float overflows long before a patient policy runs out of attempts.
            bound = self.max_delay
        drawn = min(bound, DELAY_SECONDS_MAX) * jitter
        return timedelta(seconds=max(drawn, min(least, self.max_delay, DELAY_SECONDS_MAX)))

    def left_until(self, next_attempt_at: datetime, now: datetime) -> float:
        """Return the seconds until an attempt is due: never more than a pause is long, wherever the clock was set."""
        return min(self.max_delay, max(0.0, (next_attempt_at - now).total_seconds()))


def truncate_to_millis(instant: datetime) -> datetime:
    """Return the instant as the journal can keep it: UTC, whole milliseconds."""
    # Kept, because the events of one append have one time, and their session's items have it too.
    utc = instant if instant.tzinfo is UTC else instant.astimezone(UTC)
    # Called for every event; `replace` takes twice as long.
    return utc - timedelta(microseconds=utc.microsecond % 1000)


def next_milli(instant: datetime) -> datetime:
    """Return the first instant, not before this one, that a journal can keep: what falls due is never early."""
    kept = truncate_to_millis(instant)
    return kept if kept == instant else kept + timedelta(milliseconds=1)


def instant_of(text: str) -> datetime:
    """Return the instant that `format_instant` wrote.

    Raises:
        ValueError: it is none, has no zone, or lies so far off that a deadline behind it would be none.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        # Its own text quotes what it was given.
        raise ValueError("an instant was expected, not another text") from None
    if instant.tzinfo is None:
        raise ValueError("an instant without its zone")
    if not YEAR_MIN <= instant.year <= YEAR_MAX:
        raise ValueError("an instant of another age")
    return instant


@lru_cache(maxsize=256)
def format_instant(instant: datetime) -> str:
    """Return an RFC 3339 instant with milliseconds, such as `2026-01-31T12:00:00.000Z`."""
    # Kept, because the events of one append have one time, and their session's items have it too.
    utc = instant if instant.tzinfo is UTC else instant.astimezone(UTC)
    return f"{utc.isoformat(timespec='milliseconds')[:-6]}Z"


def is_valid_id(text: str) -> bool:
    """Return whether the text may be an id anywhere in the contract."""
    return ID_PATTERN.fullmatch(text) is not None


def is_valid_agent_name(name: object) -> bool:
    """Return whether an agent may have that name: a text of 1 to 128 characters that can be printed."""
    return isinstance(name, str) and 1 <= len(name) <= AGENT_NAME_LENGTH_MAX and name.isprintable()


def is_valid_session_id(text: str) -> bool:
    """Return whether a caller may choose this session id: no generation suffix, at most 110 characters."""
    # `.` and `..` would mean another place in a URL or a key.
    is_name = is_valid_id(text) and text.strip(".") != ""
    return is_name and len(text) <= SESSION_ID_LENGTH_MAX and _GENERATION_SUFFIX.search(text) is None


def derive_session_id(tenant: str, session_type: str, idempotency_key: str) -> str:
    """Return the one session id of these three: the same three give the same id on every node, for ever (I4)."""
    digest = hashlib.sha256(canonical_json([tenant, session_type, idempotency_key]).encode()).hexdigest()
    return f"{session_type}-{digest[:32]}"


def digest_of_operation(session_id: str, operation: str) -> str:
    """Return a text (32 hexadecimal digits) that names one operation of one session, wherever ids are asked for."""
    return hashlib.sha256(f"{session_id}/{operation}".encode()).hexdigest()[:32]


def approval_id_of(session_id: str, operation: str) -> str:
    """Return the id of the callback that a person answers."""
    return f"{APPROVAL_PREFIX}{digest_of_operation(session_id, operation)}"


def payload_digest(session_type: str, tenant: str, payload: Json) -> str:
    """Return the SHA-256 (hex) that tells whether two starts of one session id ask for the same thing (I4)."""
    return hashlib.sha256(canonical_json([session_type, tenant, payload]).encode()).hexdigest()


def json_bytes(value: object) -> bytes:
    """Return the UTF-8 of the value's JSON, without white space: the cheapest way to what only machines read.

    Raises:
        ValueError: a part of it has no JSON, a text no UTF-8, or it is nested some 250 levels deep.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        # It has no room for whole numbers over 64 bits; the other one has, and says what is wrong with the rest.
        return pydantic_core.to_json(value)


def canonical_json(value: Json) -> str:
    """Return JSON text that is equal for equal values: keys sorted, no white space."""
    return _CANONICAL.encode(value)


def compact_json(value: Json | Mapping[str, Json]) -> str:
    """Return JSON text without white space, keys in the order given."""
    return _COMPACT.encode(value)
