"""Triggers: which events from outside start sessions of which type, and what of an event a start is derived from.

Values, checked where they are declared; `orchestrator.intake` reads events and asks them. To add a kind of trigger, add
its model, its value with `matches`, and a decorator in `orchestrator.app`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, TypeAlias, cast

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from orchestrator.errors import RegistrationError
from orchestrator.session.values import ID_PATTERN, ID_SAYS, TENANT_DEFAULT, Json, JsonObject


class S3Object(BaseModel):
    """What a handler started by `on_s3_object` receives: which object was created, not its content. Size in bytes."""

    model_config = ConfigDict(frozen=True)

    bucket: str
    key: str
    version_id: str | None = None
    etag: str | None = None
    sequencer: str | None = None
    size: int | None = None
    event_name: str = "ObjectCreated:Put"
    event_time: str | None = None


class Event(BaseModel):
    """What a handler started by `on_event` receives: an event of EventBridge (User Guide, "Events").

    `time` is an RFC 3339 text as it came, `detail` what the source says.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    source: str
    detail_type: str = Field(validation_alias=AliasChoices("detail_type", "detail-type"))
    time: str | None = None
    region: str | None = None
    account: str | None = None
    resources: tuple[str, ...] = ()
    # Parsed JSON already: checking each of its parts again would cost as much as all the rest.
    detail: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Derivation:
    """What of a start is derived from the event, by functions of the user's: its input, its tenant, its key.

    `None` stands for the event itself, the default tenant, and a key from what tells the event from every other.
    """

    transform: Callable[[Any], object] | None = None
    tenant: str | Callable[[Any], str] | None = None
    key: Callable[[Any], str] | None = None


@dataclass(frozen=True, slots=True)
class S3Trigger:
    """Objects created under `prefix` with `suffix` start sessions; `bucket` may hold wildcards (`*`).

    `label` names it to whoever declared it; `is_ordered`: what is older than what was seen of its key starts nothing.
    """

    label: str
    bucket: str
    prefix: str
    suffix: str
    is_ordered: bool
    derivation: Derivation
    session_type: str = ""

    def matches(self, created: S3Object) -> bool:
        """Return whether the object starts a session of this type."""
        return (
            fnmatchcase(created.bucket, self.bucket)
            and created.key.startswith(self.prefix)
            and created.key.endswith(self.suffix)
        )


Match: TypeAlias = "Callable[[Event], bool] | Mapping[str, object]"
"""Which events are meant: a function that says so, or a pattern as in a rule of EventBridge."""


@dataclass(frozen=True, slots=True)
class EventTrigger:
    """Events of a source and a detail type, both with wildcards (`*`), that `match` lets pass start sessions."""

    label: str
    source: str
    detail_type: str
    match: Match | None
    derivation: Derivation
    session_type: str = ""

    def matches(self, event: Event) -> bool:
        """Return whether the event starts a session of this type. Raises what the user's own function raises."""
        if not (fnmatchcase(event.source, self.source) and fnmatchcase(event.detail_type, self.detail_type)):
            return False
        if callable(self.match):
            return bool(self.match(event))
        return self.match is None or fits(self.match, _as_it_came(event))


# --- what is declared is checked -----------------------------------------------------------------------------------


def derivation(label: str, transform: object, tenant: object, key: object) -> Derivation:
    """Return what a trigger derives. Raises `RegistrationError` naming the argument that is none."""
    for name, function in (("transform", transform), ("key", key)):
        if function is not None:
            check_function(label, name, function)
    if callable(tenant):
        check_function(label, "tenant", tenant)
    elif tenant is not None:
        checked_tenant(label, tenant)
    return Derivation(cast("Any", transform), cast("Any", tenant), cast("Any", key))


def check_function(label: str, name: str, function: object) -> None:
    """Raise `RegistrationError` unless it is a plain function: it is called while a message is read."""
    if not callable(function):
        raise RegistrationError(f"{label}: {name} {function!r:.100} is no function of one argument")
    if inspect.iscoroutinefunction(function):
        raise RegistrationError(f"{label}: {name} must be a plain function: let the handler do what takes time")


def checked_tenant(label: str, tenant: object) -> str:
    """Return the tenant, the default one for `None`. Raises `RegistrationError` for what is no tenant."""
    if tenant is None:
        return TENANT_DEFAULT
    if not isinstance(tenant, str) or ID_PATTERN.fullmatch(tenant) is None:
        raise RegistrationError(f"{label}: tenant {tenant!r:.150} is not {ID_SAYS}")
    return tenant


def check_texts(label: str, **texts: object) -> None:
    """Raise `RegistrationError` for the first argument that is no text."""
    for name, text in texts.items():
        if not isinstance(text, str):
            raise RegistrationError(f"{label}: {name} {text!r:.100} is no text")


# --- patterns (EventBridge User Guide, "Event patterns") -------------------------------------------------------------

_MATCHERS: Final[dict[str, Callable[[object, object], bool]]] = {
    "prefix": lambda given, value: isinstance(value, str) and value.startswith(str(given)),
    "suffix": lambda given, value: isinstance(value, str) and value.endswith(str(given)),
    "anything-but": lambda given, value: not any(_same(each, value) for each in _several(given)),
}
_EXISTS: Final = "exists"
_ABSENT: Final = object()


def check_match(label: str, match: object) -> None:
    """Raise `RegistrationError` unless it is a function of an event, a pattern that is understood here, or `None`."""
    if callable(match):
        check_function(label, "match", match)
    elif match is not None:
        _check_pattern(label, "match", match)


def _check_pattern(label: str, path: str, pattern: object) -> None:
    if not isinstance(pattern, Mapping):
        raise RegistrationError(
            f"{label}: {path} {pattern!r:.100} is neither a function nor a pattern such as "
            "{'detail': {'status': ['FAILED', {'prefix': 'TIMED_'}]}}"
        )
    for name, expected in pattern.items():
        inner = f"{path}.{name}"
        if isinstance(expected, Mapping):
            _check_pattern(label, inner, expected)
        elif isinstance(expected, list | tuple):
            for one in expected:
                _check_expected(label, inner, one)
        else:
            raise RegistrationError(
                f"{label}: {inner} {expected!r:.100} is no list of values; write [{expected!r:.100}] "
                "as in a rule of EventBridge"
            )


def _check_expected(label: str, path: str, one: object) -> None:
    if isinstance(one, Mapping):
        known = {*_MATCHERS, _EXISTS}
        if len(one) != 1 or next(iter(one)) not in known:
            raise RegistrationError(f"{label}: {path} {dict(one)!r:.100}: one of {', '.join(sorted(known))} is known")
        ((kind, given),) = one.items()
        if kind in {"prefix", "suffix"} and not isinstance(given, str):
            raise RegistrationError(f"{label}: {path}: {kind} {given!r:.100} is no text")
        if kind == _EXISTS and not isinstance(given, bool):
            raise RegistrationError(f"{label}: {path}: exists {given!r:.100} is neither true nor false")
    elif not isinstance(one, str | int | float | bool | None):
        raise RegistrationError(f"{label}: {path} {one!r:.100} is no text, number, true, false or null")


def fits(pattern: Mapping[str, object], value: object) -> bool:
    """Return whether an event, or a part of one, has everywhere one of the values that a checked pattern lists."""
    if not isinstance(value, Mapping):
        return False
    return all(_field_fits(expected, value.get(name, _ABSENT)) for name, expected in pattern.items())


def _field_fits(expected: object, value: object) -> bool:
    if isinstance(expected, Mapping):
        # What is absent has no parts, and `exists: false` of one of them holds.
        return fits(expected, {} if value is _ABSENT else value)
    assert isinstance(expected, Sequence), "the pattern was checked"
    # Of a list in the event, one that fits is enough.
    values = value if isinstance(value, list | tuple) else (value,)
    return any(_one_fits(one, each) for one in expected for each in values)


def _one_fits(one: object, value: object) -> bool:
    if not isinstance(one, Mapping):
        return value is not _ABSENT and _same(one, value)
    ((kind, given),) = one.items()
    if kind == _EXISTS:
        return bool(given) is (value is not _ABSENT)
    return value is not _ABSENT and _MATCHERS[str(kind)](given, value)


def _same(one: object, other: object) -> bool:
    # To Python, true is one.
    return one == other and isinstance(one, bool) is isinstance(other, bool)


def _several(given: object) -> Sequence[object]:
    return given if isinstance(given, list | tuple) else (given,)


def _as_it_came(event: Event) -> JsonObject:
    fields: dict[str, Json] = event.model_dump(mode="python")
    return {"detail-type" if name == "detail_type" else name: value for name, value in fields.items()}
