"""What a session has spent: tokens, cost, agent runs and their time, summed over all its generations.

The sums are folded from the journal like the rest of the state. They are counted from what agents report, so whatever
stands there is taken as it is meant and never past its bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from orchestrator.session import events as e
from orchestrator.session.frozen import quick, replace
from orchestrator.session.values import Json, JsonObject, format_instant, instant_of

INPUT_TOKENS: Final = "input_tokens"
OUTPUT_TOKENS: Final = "output_tokens"
TOKENS: Final = "total_tokens"
COST: Final = "cost"
COUNTED: Final = (INPUT_TOKENS, OUTPUT_TOKENS, TOKENS, COST)
"""The counts that caps look at, and that go along into the next generation. Others are summed, and limit nothing."""
COUNT_MAX: Final = 10**15
"""No report counts for more, nor for less than nothing: a sum must stay a number, whatever an agent says."""
MONTH_PATTERN: Final = r"[0-9]{4}-(?:0[1-9]|1[0-2])"
SPENT: Final = "spent"
"""Under this name `SessionStarted.carried` holds what the generations before have spent."""
WALL_TIME: Final = "wall_time"
"""The cap on how long a session may take, in seconds."""
TENANTS: Final = "tenant_"
"""Stands before the name of a cap that is the tenant's and not the session's own."""
ASKING: Final = "@budget"
"""The operation by which people are asked; behind it `#2`, `#3` … No name of a handler's operation begins like it."""


@quick
@dataclass(frozen=True, slots=True)
class Asking:
    """People are asked whether the session may go on at its cap, since `at`; `resumed_seq` is its latest takeover."""

    operation: str
    at: datetime
    cap: str
    resumed_seq: int = 0


@quick
@dataclass(frozen=True, slots=True)
class Spent:
    """What caps look at besides `SessionState.usage`.

    `since` is when the wall time began to count. `agent_calls` counts attempts of agent runs as they are ordered,
    `agent_seconds` the time of those that ended. `grants` is how often people gave the session its budget once more,
    `asked` how often they were asked; `excused_month` ("2026-01") is when it may pass its tenant's caps.
    """

    since: datetime
    agent_calls: int = 0
    agent_seconds: float = 0.0
    grants: int = 0
    asked: int = 0
    asking: Asking | None = None
    excused_month: str | None = None

    def resumed(self, seq: int) -> Spent:
        """Return this as it is once another epoch has taken the session over."""
        return self if self.asking is None else replace(self, asking=replace(self.asking, resumed_seq=seq))

    def answered(self, *, is_yes: bool, at: datetime, wall_time: float | None) -> Spent:
        """Return this once people have said whether the session may go on: with every cap one budget higher.

        Or, at a cap of its tenant's, with leave to pass those for the rest of the month.
        """
        assert self.asking is not None, "an answer is to a question"
        heard = replace(self, asking=None)
        if not is_yes:
            return heard
        if self.asking.cap.startswith(TENANTS):
            return replace(heard, excused_month=month_of(at))
        # What it waited for the answer is not taken off its time.
        due = self.since if wall_time is None else max(self.since + timedelta(seconds=wall_time), at)
        return replace(heard, grants=self.grants + 1, since=due)


SPENDING: Final = (
    *(e.AgentStarted, e.AgentCompleted, e.AgentFailed, e.AgentRetrying),
    *(e.ApprovalRequested, e.CallbackCompleted, e.CallbackFailed, e.CallbackTimedOut),
)
"""The events that `spent_after` looks at."""


def spent_after(
    spent: Spent,
    event: e.Event,
    at: datetime,
    *,
    attempt_since: datetime | None,
    budget: Mapping[str, Json] | None,
) -> Spent:
    """Return what is spent after an event; `attempt_since` is when the attempt began that it may end."""
    match event:
        case e.AgentStarted():
            return replace(spent, agent_calls=spent.agent_calls + 1)
        case e.AgentRetrying():
            return replace(_with_time(spent, attempt_since, at), agent_calls=spent.agent_calls + 1)
        case e.AgentCompleted() | e.AgentFailed():
            return _with_time(spent, attempt_since, at)
        case e.ApprovalRequested(operation=operation) if is_of_session(operation):
            cap = event.subject.get("cap") if isinstance(event.subject, dict) else None
            return replace(spent, asking=Asking(operation, at, str(cap)), asked=spent.asked + 1)
        case e.CallbackCompleted(result=result) if _answers(event, spent.asking):
            return spent.answered(is_yes=is_yes(result), at=at, wall_time=limit_of(budget, WALL_TIME))
        case e.CallbackFailed() | e.CallbackTimedOut() if _answers(event, spent.asking):
            return spent.answered(is_yes=False, at=at, wall_time=None)
        case _:
            return spent


def _with_time(spent: Spent, attempt_since: datetime | None, at: datetime) -> Spent:
    if attempt_since is None:
        return spent
    # A clock that was set back gives no time back.
    return replace(spent, agent_seconds=spent.agent_seconds + max(0.0, (at - attempt_since).total_seconds()))


def time_within(since: datetime, until: datetime, spans: Iterable[tuple[datetime, datetime]]) -> timedelta:
    """Return how much of the time from `since` until `until` lies in any of these spans; what several cover, once."""
    took, counted_until = timedelta(), since
    for began, ended in sorted(spans):
        took += max(timedelta(), min(ended, until) - max(began, counted_until))
        counted_until = max(counted_until, ended)
    return took


def _answers(event: e.CallbackCompleted | e.CallbackFailed | e.CallbackTimedOut, asking: Asking | None) -> bool:
    return asking is not None and event.operation == asking.operation


def summed(total: JsonObject | None, usage: JsonObject | None) -> JsonObject | None:
    """Return the sum, key by key, of the counts in both; what is no number is left out."""
    if not usage:
        return total
    sums: JsonObject = dict(total or {})
    for key, count in _counts(usage).items():
        sums[key] = _number(sums.get(key)) + count
    return sums


def rest_of(usage: JsonObject | None, counted: JsonObject) -> JsonObject:
    """Return what a run used besides its calls; a run that says less than its calls did changes nothing."""
    return {key: max(0, count - _number(counted.get(key))) for key, count in _counts(usage or {}).items()}


def number_of(usage: Mapping[str, Json] | None, key: str) -> float:
    """Return a count; 0 where there is none."""
    return 0 if usage is None else min(max(_number(usage.get(key)), 0), COUNT_MAX)


def is_of_session(operation: str) -> bool:
    """Return whether the operation is the session's own: its handler has not asked for it, and is not to see it."""
    return operation.startswith("@")


def is_yes(answer: Json) -> bool:
    """Return whether the answer to an approval is a yes."""
    return isinstance(answer, dict) and answer.get("approved") is True


def month_of(instant: datetime) -> str:
    """Return the calendar month (UTC) of an instant of the journal, such as `2026-01`."""
    return format_instant(instant)[:7]


def carried_from(spent: Spent, usage: JsonObject | None) -> JsonObject:
    """Return what the next generation has to know of what this one and those before it spent."""
    counted: JsonObject = {key: count for key, count in (usage or {}).items() if key in COUNTED}
    return {
        "since": format_instant(spent.since),
        "agent_calls": spent.agent_calls,
        "agent_seconds": spent.agent_seconds,
        "grants": spent.grants,
        "excused_month": spent.excused_month,
        "usage": counted,
    }


def spent_before(carried: Mapping[str, Json] | None, started_at: datetime) -> tuple[Spent, JsonObject | None]:
    """Return what was spent before a session began, and the usage in it: nothing, in a first generation."""
    fields = None if carried is None else carried.get(SPENT)
    if not isinstance(fields, dict):
        return Spent(started_at), None
    usage, month = fields.get("usage"), fields.get("excused_month")
    spent = Spent(
        since=instant_of(str(fields["since"])) if "since" in fields else started_at,
        agent_calls=round(number_of(fields, "agent_calls")),
        agent_seconds=number_of(fields, "agent_seconds"),
        grants=round(number_of(fields, "grants")),
        excused_month=month if isinstance(month, str) else None,
    )
    return spent, summed(None, usage if isinstance(usage, dict) else None)


def limit_of(budget: Mapping[str, Json] | None, cap: str) -> float | None:
    """Return a cap of a budget as a session began with it; `None` where it has no such cap."""
    limit = None if budget is None else budget.get(cap)
    return limit if isinstance(limit, int | float) and not isinstance(limit, bool) and limit > 0 else None


def _counts(usage: JsonObject) -> dict[str, float]:
    """Return the counts of one report; with the sum of its tokens, where it names only what they are made of."""
    found: dict[str, float] = {}
    for key, count in usage.items():
        # A bool is an int.
        if not isinstance(count, int | float) or isinstance(count, bool):
            continue
        if key in COUNTED:
            found[key] = min(max(count, 0), COUNT_MAX)
        elif -COUNT_MAX <= count <= COUNT_MAX:
            found[key] = count
    if TOKENS not in found and (INPUT_TOKENS in found or OUTPUT_TOKENS in found):
        found[TOKENS] = found.get(INPUT_TOKENS, 0) + found.get(OUTPUT_TOKENS, 0)
    return found


def _number(value: Json) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0
