"""Events of EventBridge, as a rule sends them on without an input transformer (User Guide, "Events")."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.intake.parsing import checked
from orchestrator.session.values import Json
from orchestrator.triggers import Event

_FIELDS: Final = frozenset({"source", "detail-type"})
TEXT_LENGTH_MAX: Final = 1_024

Text = Annotated[str, Field(min_length=1, max_length=TEXT_LENGTH_MAX)]


class _Event(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    id: Text
    source: Text
    detail_type: Text = Field(alias="detail-type")
    time: str | None = None
    region: str | None = None
    account: str | None = None
    resources: list[str] = Field(default_factory=list)
    detail: dict[str, object]


def is_event(body: dict[str, Json]) -> bool:
    """Return whether it says that it is an event of EventBridge."""
    return body.keys() >= _FIELDS


def event_of(body: dict[str, Json]) -> Event:
    """Return the event. Raises `Poison` naming the first field that is wrong."""
    read = checked(_Event, body)
    return Event(
        id=read.id,
        source=read.source,
        detail_type=read.detail_type,
        time=read.time,
        region=read.region,
        account=read.account,
        resources=tuple(read.resources),
        detail=read.detail,
    )
