"""An event from outside → the starts of all triggers that match it, each by itself: one that fails stops no other.

The only place that calls what users declare with a trigger (`match`, `transform`, `tenant`, `key`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from orchestrator.app import Triggers
from orchestrator.artifacts import ARTIFACT_BYTES_MAX
from orchestrator.errors import NotSerializable, Poison, describe, storable
from orchestrator.intake import Start, Triggered
from orchestrator.intake.eventbridge import event_of
from orchestrator.intake.parsing import KEY_LENGTH_MAX
from orchestrator.intake.s3 import ObjectEvent, object_event, object_event_in
from orchestrator.objects import ObjectWrite
from orchestrator.payloads import PayloadTooLarge, to_json
from orchestrator.session.values import TENANT_DEFAULT, Json
from orchestrator.triggers import Event, EventTrigger, S3Object, S3Trigger

TRIGGER_FAILED: Final = "TRIGGER_FAILED"
NO_TRIGGER: Final = "NO_TRIGGER"

Trigger: TypeAlias = S3Trigger | EventTrigger


@dataclass(frozen=True, slots=True)
class Asked:
    """What a trigger asks for: a session of that type with that input, once for its key."""

    session_type: str
    input: Json
    tenant: str
    key: str
    trace: str | None


class Triggering:
    """The triggers of an application. `start` checks what one asks for, and raises `Poison`."""

    def __init__(self, triggers: Triggers, start: Callable[[Asked], Start]) -> None:
        self._triggers = triggers
        self._start = start

    def record(self, record: Json, path: str, trace: str | None) -> Triggered:
        """Return what a record of an S3 notification sets off."""
        try:
            told = object_event(record, path)
        except Poison as poison:
            return Triggered(refusals=(poison,))
        attempt = _Attempt(self._start, trace, f"{path}: ")
        self._objects(told, attempt)
        if told.is_created and not attempt.has_matched:
            attempt.refuse(_unmatched(told))
        return attempt.outcome(told.write)

    def event(self, body: dict[str, Json], where: str, trace: str | None) -> Triggered:
        """Return what an event of EventBridge sets off; `where` its body stood. Raises `Poison` for what is none."""
        event = event_of(body)
        told = object_event_in(event)
        attempt = _Attempt(self._start, trace, where)
        if told is not None:
            self._objects(told, attempt)
        for trigger in self._triggers.events:
            with_event = partial(_derived, trigger, event, event.id)
            attempt.at(trigger, partial(trigger.matches, event), with_event)
        if not attempt.has_matched and (told is None or told.is_created):
            said = f"no trigger matches source {event.source!r:.200}, detail-type {event.detail_type!r:.200}"
            attempt.refuse(_unmatched(told) if told is not None else Poison(NO_TRIGGER, said))
        return attempt.outcome(None if told is None else told.write)

    def _objects(self, told: ObjectEvent, attempt: _Attempt) -> None:
        written = told.object
        matching = [trigger for trigger in self._triggers.s3 if trigger.matches(written)]
        for trigger in matching if told.is_created else ():
            attempt.at(trigger, lambda: True, partial(_derived, trigger, written, told.identity))
        # An older one that comes late finds nothing any more.
        attempt.notes = attempt.notes or (told.is_removed and any(trigger.is_ordered for trigger in matching))


class _Attempt:
    """What the triggers make of one event, so far."""

    def __init__(self, start: Callable[[Asked], Start], trace: str | None, where: str) -> None:
        self._start = start
        self._trace = trace
        self._where = where
        self._starts: dict[str, tuple[Start, bool]] = {}
        self._refusals: list[Poison] = []
        self.has_matched = False
        self.notes = False

    def at(self, trigger: Trigger, matches: Callable[[], bool], derived: Callable[[str | None], Asked]) -> None:
        """Try one trigger: it starts, or is refused, or does not match."""
        is_ordered = isinstance(trigger, S3Trigger) and trigger.is_ordered
        try:
            if not _called("match", matches):
                return
            self.has_matched = True
            start = self._start(derived(self._trace))
        except Poison as poison:
            self.has_matched = True
            self.refuse(Poison(poison.reason, f"{_name(trigger)}: {poison}"))
            return
        # Two triggers of one type that match the same event are one session: the first one's.
        self._starts.setdefault(start.session_id, (start, is_ordered))
        self.notes = self.notes or is_ordered

    def refuse(self, poison: Poison) -> None:
        """Note that something cannot be started."""
        self._refusals.append(Poison(poison.reason, f"{self._where}{poison}"))

    def outcome(self, write: ObjectWrite | None) -> Triggered:
        """Return it all."""
        kept = self._starts.values()
        if write is None or not self.notes:
            return Triggered(starts=tuple(start for start, _ in kept), refusals=tuple(self._refusals))
        return Triggered(
            starts=tuple(start for start, is_ordered in kept if not is_ordered),
            ordered=tuple(start for start, is_ordered in kept if is_ordered),
            write=write,
            refusals=tuple(self._refusals),
        )


def together(refusals: Iterable[Poison]) -> Poison:
    """Return the one dead letter of an envelope: the first reason, and what is wrong everywhere."""
    first, *others = refusals
    return Poison(first.reason, "; ".join(str(each) for each in (first, *others)))


def _derived(trigger: Trigger, source: S3Object | Event, identity: str, trace: str | None) -> Asked:
    declared = trigger.derivation
    value: object = source
    if declared.transform is not None:
        value = _called("transform", partial(declared.transform, source))
    try:
        payload = to_json(value, "input", bytes_max=ARTIFACT_BYTES_MAX)
    except (NotSerializable, PayloadTooLarge) as error:
        raise Poison("INVALID_INPUT", str(error)) from None
    tenant = declared.tenant
    if callable(tenant):
        tenant = _text("tenant", _called("tenant", partial(tenant, source)))
    key = identity
    if declared.key is not None:
        key = _text("key", _called("key", partial(declared.key, source)))
    return Asked(trigger.session_type, payload, TENANT_DEFAULT if tenant is None else tenant, key, trace)


def _called(name: str, function: Callable[[], object]) -> object:
    try:
        return function()
    except (Exception, SystemExit) as error:
        # The border to user code: whatever it raises, this event is refused and the next one is read.
        said = describe(error)
        raise Poison(TRIGGER_FAILED, f"{name} raised {said.type}: {said.message[:300]}") from error


def _text(name: str, value: object) -> str:
    # A lone surrogate has no UTF-8, and no id is derived from it.
    if isinstance(value, str) and 1 <= len(value) <= KEY_LENGTH_MAX and storable(value) == value:
        return value
    said = f"{name}: a text of 1 to {KEY_LENGTH_MAX} characters is needed, not {value!r:.100}"
    raise Poison(TRIGGER_FAILED, said)


def _name(trigger: Trigger) -> str:
    return f"{trigger.label} of session type {trigger.session_type!r}"


def _unmatched(told: ObjectEvent) -> Poison:
    return Poison(NO_TRIGGER, f"no trigger matches s3://{told.object.bucket}/{told.object.key:.200}")
