"""What the sessions of each tenant have spent, by calendar month (UTC), and what a tenant may spend in one.

`Usage` is the protocol; `dynamodb` and `memory` keep it, and one contract suite holds both to it. A session is counted
by its running total: what is new of it is added in one transaction with the note of what was counted, so no crash,
retry or duplicate makes a month drift.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final, Protocol

from orchestrator.session.spending import COST, INPUT_TOKENS, OUTPUT_TOKENS, TOKENS, number_of
from orchestrator.session.state import SessionState
from orchestrator.session.values import JsonObject

MICROS: Final = 1_000_000
"""Costs are counted in millionths: sums of whole numbers do not depend on their order."""
MILLIS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Total:
    """What was spent: whole numbers, so that they can be added anywhere. Cost in millionths, time in milliseconds."""

    input_tokens: int = 0
    output_tokens: int = 0
    tokens: int = 0
    cost_micros: int = 0
    agent_calls: int = 0
    agent_millis: int = 0

    def __add__(self, other: Total) -> Total:
        """Return the sum."""
        return Total(*(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)))

    @property
    def counts(self) -> tuple[int, ...]:
        """Its numbers, in order."""
        return tuple(getattr(self, name) for name in COUNTS)

    def beyond(self, counted: Total) -> Total:
        """Return what of this was not counted yet. A total that is older than what was counted adds nothing."""
        pairs = zip(self.counts, counted.counts, strict=True)
        return Total(*(max(0, mine - known) for mine, known in pairs))


COUNTS: Final = tuple(field.name for field in fields(Total))
NOTHING: Final = Total()


@dataclass(frozen=True, slots=True)
class Caps:
    """What a tenant may spend in a calendar month; 0 is no cap, and `None` what the settings say for every tenant."""

    tokens: int | None = None
    cost: float | None = None
    agent_calls: int | None = None
    agent_seconds: float | None = None

    def over(self, default: Caps) -> Caps:
        """Return these caps, with those of `default` where none is set."""
        names = (field.name for field in fields(Caps))
        chosen = {
            name: getattr(default, name) if getattr(self, name) is None else getattr(self, name) for name in names
        }
        return Caps(**chosen)

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return bool(self.tokens or self.cost or self.agent_calls or self.agent_seconds)


NO_CAPS: Final = Caps()


class Usage(Protocol):
    """What tenants spent, and their caps."""

    async def count(self, tenant: str, session_id: str, total: Total, *, at: datetime) -> None:
        """Add what is new in a session's total to its tenant's month at that instant; nothing for one counted before.

        `session_id` is the one that the session was accepted under: its generations have one running total.
        """
        ...

    async def take(self, tenant: str, session_id: str, total: Total, *, calls_max: int, at: datetime) -> int | None:
        """Count as `count` does, if the tenant's month holds no more than `calls_max` agent calls then: all or nothing.

        Return `None` once it is counted, before or now; where it does not fit, how many calls go before its last one.
        """
        ...

    async def month(self, tenant: str, month: str) -> Total:
        """Return what the tenant spent in that month ("2026-01"), as of now (a consistent read)."""
        ...

    def tenants(self, month: str) -> AsyncIterator[str]:
        """Yield the tenants that spent anything in that month; may be a little late."""
        ...

    async def caps(self, tenant: str) -> Caps:
        """Return what was set for the tenant itself (a consistent read)."""
        ...

    async def set_caps(self, tenant: str, caps: Caps, *, at: datetime) -> None:
        """Set what the tenant may spend, in place of what was set before."""
        ...

    def capped(self) -> AsyncIterator[str]:
        """Yield the tenants for whom caps were set; may be a little late."""
        ...


def total_of(state: SessionState) -> Total:
    """Return what a session has spent up to now, over all its generations."""
    usage = state.usage
    return Total(
        input_tokens=round(number_of(usage, INPUT_TOKENS)),
        output_tokens=round(number_of(usage, OUTPUT_TOKENS)),
        tokens=round(number_of(usage, TOKENS)),
        cost_micros=round(number_of(usage, COST) * MICROS),
        agent_calls=state.spent.agent_calls,
        agent_millis=round(state.spent.agent_seconds * MILLIS),
    )


def usage_view(total: Total) -> JsonObject:
    """Return a total as people see it: cost and seconds in whole ones."""
    return {
        "input_tokens": total.input_tokens,
        "output_tokens": total.output_tokens,
        "total_tokens": total.tokens,
        "cost": total.cost_micros / MICROS,
        "agent_calls": total.agent_calls,
        "agent_seconds": total.agent_millis / MILLIS,
    }


def spent_under(total: Total) -> Mapping[str, float]:
    """Return what was spent under each cap, by its name in `Caps`."""
    return {
        "tokens": total.tokens,
        "cost": total.cost_micros / MICROS,
        "agent_calls": total.agent_calls,
        "agent_seconds": total.agent_millis / MILLIS,
    }
