"""What every part of `decide` returns."""

from __future__ import annotations

from typing import Final, TypeAlias

from orchestrator.session.events import Event

Decision: TypeAlias = tuple[Event, ...]

NOTHING: Final[Decision] = ()
