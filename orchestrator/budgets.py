"""What a session may spend and what an agent costs, as an application declares it.

`Budget` and `Price` are checked when they are made, so that a mistake stops the deployment and not a session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from orchestrator.calls import Duration, optional_seconds_of
from orchestrator.session.budget import spec_of
from orchestrator.session.spending import COST, INPUT_TOKENS, OUTPUT_TOKENS, number_of
from orchestrator.session.values import JsonObject

_MILLION: Final = 1_000_000
PRICE_MAX: Final = 1_000_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one session may spend over all its generations, and what happens at the first cap that it reaches.

    Attributes:
        tokens: of all its agents, as they report them.
        cost: as its agents report it, or as their `Price` makes it; in whatever currency those are.
        agent_calls: attempts of agent runs.
        wall_time: from its start, whatever it does meanwhile (`timedelta` or seconds).
        on_reached: `"fail"` ends it as `BUDGET_EXCEEDED`; `"ask"` asks people first, by an approval named `budget`:
            a yes gives it as much once more.
        approvers: who may say so; anybody unless given.
        approval_timeout: how long to wait for the answer; for ever unless given. No answer in time is a no.

    Raises:
        ValueError: a field is not as it must be; the text names it.
    """

    tokens: int | None = None
    cost: float | None = None
    agent_calls: int | None = None
    wall_time: Duration | None = None
    on_reached: Literal["fail", "ask"] = "fail"
    approvers: Sequence[str] | None = None
    approval_timeout: Duration | None = None

    def __post_init__(self) -> None:
        # Made for its errors.
        _ = self.spec

    @property
    def spec(self) -> JsonObject:
        """The budget as the journal keeps it."""
        return spec_of(
            {
                "tokens": self.tokens,
                "cost": self.cost,
                "agent_calls": self.agent_calls,
                "wall_time": optional_seconds_of(self.wall_time, "wall_time"),
                "on_reached": self.on_reached,
                "approvers": self.approvers,
                "approval_timeout": optional_seconds_of(self.approval_timeout, "approval_timeout"),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What an agent's tokens cost, per million, in whatever currency: it gives the cost that the agent does not report.

    Raises:
        ValueError: a price is no number from 0 to 1,000,000; the text names it.
    """

    input: float
    output: float

    def __post_init__(self) -> None:
        for name, price in (("input", self.input), ("output", self.output)):
            # A bool is an int, and annotations bind nobody.
            if type(price) not in {int, float} or not 0 <= price <= PRICE_MAX:
                raise ValueError(f"{name}: {price!r:.100} is no price of a million tokens (0 to {PRICE_MAX:,.0f})")

    def cost_of(self, usage: JsonObject) -> float:
        """Return what that usage costs."""
        spent = number_of(usage, INPUT_TOKENS) * self.input + number_of(usage, OUTPUT_TOKENS) * self.output
        return spent / _MILLION


def priced(usage: JsonObject | None, price: Price | None) -> JsonObject | None:
    """Return a report of usage with its cost, where it names none and the agent has a price."""
    if usage is None or price is None or COST in usage:
        return usage
    return {**usage, COST: price.cost_of(usage)}
