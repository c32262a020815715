"""`Schedule`: when sessions of a type start by themselves, as a cron expression says; and what becomes of missed ones.

Values and dates; `orchestrator.scheduler` starts the sessions. Summer time is `cronsim`'s business, which follows
Debian's cron: see `docs/triggers.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias, cast, get_args
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict

from orchestrator.errors import RegistrationError
from orchestrator.session.values import Json, derive_session_id, format_instant
from orchestrator.triggers import check_texts, checked_tenant

CRON_LENGTH_MAX: Final = 256
FIELDS: Final = 5
SOME_DAY: Final = datetime(2024, 1, 1, tzinfo=UTC)
"""From here on an expression must come true within 50 years: on which day is tried makes no difference."""

Missed: TypeAlias = Literal["skip", "latest", "all"]


class Occurrence(BaseModel):
    """What a handler started by `on_schedule` receives unless `input` was given: which time of which schedule it is.

    `scheduled_at` is the instant that the expression means (UTC), however late the session begins.
    """

    model_config = ConfigDict(frozen=True)

    cron: str
    timezone: str
    scheduled_at: datetime


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron expression in a time zone. Change one of them, or the tenant, and it is another schedule."""

    cron: str
    timezone: str
    missed: Missed
    has_input: bool
    input: Json
    tenant: str
    session_type: str = ""

    @property
    def label(self) -> str:
        """How it was declared."""
        return f"on_schedule({self.cron!r}, timezone={self.timezone!r})"

    @property
    def name(self) -> str:
        """What tells it from the other schedules of its session type."""
        return f"{self.tenant} {self.timezone} {self.cron}"

    def occurrences(self, after: datetime) -> Iterator[datetime]:
        """Yield the instants (UTC) at which it is due after that one, in order, each once."""
        last = after
        for local in CronSim(self.cron, after.astimezone(ZoneInfo(self.timezone))):
            # A fixed time of day is looked for by the hands of the clock, which are set back in autumn.
            at = local.astimezone(UTC)
            if at > last:
                yield at
                last = at

    def next_after(self, after: datetime) -> datetime:
        """Return the first instant (UTC) after that one."""
        return next(self.occurrences(after))

    def session_id(self, at: datetime) -> str:
        """Return the id of the session of that occurrence: the same on every node."""
        key = f"schedule:{self.timezone} {self.cron}@{format_instant(at)}"
        return derive_session_id(self.tenant, self.session_type, key)

    def payload(self, at: datetime) -> Json:
        """Return the input of the session of that occurrence."""
        if self.has_input:
            return self.input
        occurrence = Occurrence(cron=self.cron, timezone=self.timezone, scheduled_at=at)
        return {**occurrence.model_dump(), "scheduled_at": format_instant(at)}


def schedule(cron: object, timezone: object, missed: object, tenant: object, given: tuple[Json, ...]) -> Schedule:
    """Return the schedule, checked; `given` holds the input, or nothing. Raises `RegistrationError`: what to mend."""
    label = f"on_schedule({cron!r:.300})"
    check_texts(label, cron=cron, timezone=timezone)
    expression, zone = " ".join(str(cron).lower().split()), str(timezone)
    if len(expression) > CRON_LENGTH_MAX or len(expression.split()) != FIELDS:
        raise RegistrationError(
            f"{label}: cron has not {FIELDS} fields: minute, hour, day of the month, month, day of the week; "
            "write '0 8 * * mon-fri' for eight o'clock on working days"
        )
    if missed not in get_args(Missed):
        raise RegistrationError(f"{label}: missed {missed!r:.100} is none of 'skip', 'latest', 'all'")
    _check_zone(label, zone)
    made = Schedule(
        cron=expression,
        timezone=zone,
        missed=cast("Missed", missed),
        has_input=bool(given),
        input=given[0] if given else None,
        tenant=checked_tenant(label, tenant),
    )
    try:
        if next(made.occurrences(SOME_DAY), None) is None:
            raise RegistrationError(f"{label}: cron never comes true: no month has such a day")
    except CronSimError as error:
        raise RegistrationError(
            f"{label}: cron: {error}; write numbers, names (mon, jan), lists (1,15), ranges (mon-fri), steps (*/15)"
        ) from None
    return made


def _check_zone(label: str, zone: str) -> None:
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise RegistrationError(
            f"{label}: timezone {zone!r:.100} is not known here; write a name of the IANA database, such as "
            "'Europe/Zurich' or 'UTC' (where no zone is known, the machine lacks the package tzdata)"
        ) from None
