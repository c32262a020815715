"""The part of `decide` for what a session may spend: at a cap it ends, or asks people first, as its budget declares.

A cap stops new spending: an agent run that is asked for, a retry of one that is due. What runs then runs to its end and
is counted, so a session can pass its cap by what was under way. As everywhere in `decide`: pure, total, and an
unwelcome message decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, assert_never

from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.decision import NOTHING, Decision
from orchestrator.session.spending import ASKING, COST, TENANTS, TOKENS, WALL_TIME, is_yes, limit_of, number_of
from orchestrator.session.state import Operation, SessionState
from orchestrator.session.transitions import OperationKind
from orchestrator.session.values import (
    DELAY_SECONDS_MAX,
    PERSON_LENGTH_MAX,
    ErrorRecord,
    Json,
    JsonObject,
    approval_id_of,
    next_milli,
)

OWN: Final = "budget"
"""Cause of the stop of a session that has spent its own budget."""
TENANTS_OWN: Final = "tenant_budget"
"""Cause of the stop of a session whose tenant has spent what it may."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A cap with nothing left under it; `unit` says of what."""

    cap: str
    limit: float
    used: float

    @property
    def says(self) -> str:
        """The cap in words."""
        whose = "the tenant's" if self.cap.startswith(TENANTS) else "the session's"
        unit = _UNITS.get(self.cap.removeprefix(TENANTS), self.cap)
        return f"{whose} budget is spent: {_amount(self.used)} of {_amount(self.limit)} {unit}"


_UNITS: Final = {
    "tokens": "tokens",
    "cost": "cost",
    "agent_calls": "agent calls",
    "agent_seconds": "seconds of agent runs",
    WALL_TIME: "seconds of wall time",
}


def limits(state: SessionState) -> dict[str, float]:
    """Return the caps that hold for the session now, by name, without that on time: each grant adds one budget more."""
    declared = ((cap, limit_of(state.started.budget, cap)) for cap in ("tokens", "cost", "agent_calls"))
    return {cap: limit * (1 + state.spent.grants) for cap, limit in declared if limit is not None}


def used(state: SessionState) -> dict[str, float]:
    """Return what the session has spent under each of those caps."""
    return {
        "tokens": number_of(state.usage, TOKENS),
        "cost": number_of(state.usage, COST),
        "agent_calls": state.spent.agent_calls,
    }


def wall_time_over_at(state: SessionState) -> datetime | None:
    """Return when the session's wall time is spent; `None` where nothing limits it."""
    limit = limit_of(state.started.budget, WALL_TIME)
    return None if limit is None else next_milli(state.spent.since + timedelta(seconds=min(limit, DELAY_SECONDS_MAX)))


def reached(state: SessionState, now: datetime) -> Reached | None:
    """Return the first cap with nothing left under it; `None` where the session may spend more."""
    if state.started.budget is None:
        return None
    spent = used(state)
    for cap, limit in limits(state).items():
        if spent[cap] >= limit:
            return Reached(cap, limit, spent[cap])
    return _wall_time_reached(state, now)


def decide_refused_run(state: SessionState, operation: str, at_cap: Reached, now: datetime) -> Decision:
    """Decide about an agent run that a handler asks for at a cap. Held back until people have answered, it is nothing.

    Of a session that is to end anyway, it fails: what cleans up may spend no more either.
    """
    if state.stop is not None:
        return (e.AgentFailed(operation, _error(at_cap), attempt=1),)
    return _stop_or_ask(state, at_cap, now)


def decide_refused_retry(
    state: SessionState, failed: e.AgentFailed, retrying: e.AgentRetrying, now: datetime
) -> Decision:
    """Decide about an attempt that failed and is to be made again, of a session that may have reached a cap."""
    at_cap = reached(state, now)
    if at_cap is None or (state.spent.asking is not None and state.stop is None):
        return (retrying,)
    if state.stop is not None:
        return (failed,)
    events = _stop_or_ask(state, at_cap, now)
    # Who is told no hears how the last attempt went; who is told yes has one more.
    return (retrying if asks(state) else failed, *events)


def decide_cap(
    state: SessionState, message: m.WallTimeReached | m.CallAtCap | m.TenantCapReached, now: datetime
) -> Decision:
    """Decide about a cap that something else than the handler found reached."""
    match message:
        case m.WallTimeReached():
            at_cap = _wall_time_reached(state, now)
            return NOTHING if at_cap is None or state.stop is not None else _stop_or_ask(state, at_cap, now)
        case m.CallAtCap():
            at_cap = reached(state, now)
            return NOTHING if at_cap is None else _refused_within(state, message.agent_run, at_cap, now)
        case m.TenantCapReached():
            return _tenant_cap_reached(state, message, now)
        case _:
            assert_never(message)


def decide_answer(state: SessionState, answered: Decision) -> Decision:
    """Return the events of an answer to an approval, and what follows where it asked whether to go on at a cap."""
    asking, stop = state.spent.asking, state.stop
    answer = answered[0] if answered else None
    if asking is None or stop is not None or getattr(answer, "operation", None) != asking.operation:
        return answered
    match answer:
        case e.CallbackCompleted(result=result) if is_yes(result):
            return answered
        case e.CallbackCompleted(result={"by": by}):
            why = f"{by} did not grant more"
        case e.CallbackTimedOut():
            why = "nobody granted more in time"
        case _:
            why = "more was not granted"
    order = state.operations[asking.operation].order
    subject = order.subject if isinstance(order, e.ApprovalRequested) and isinstance(order.subject, dict) else {}
    at_cap = Reached(asking.cap, number_of(subject, "limit"), number_of(subject, "used"))
    return (*answered, e.CancelRequested(f"{at_cap.says}; {why}", cause=_cause(at_cap)))


def end_of(cause: str, reason: str) -> ErrorRecord | None:
    """Return what a session failed with that ended for that cause; `None` for one that is no budget."""
    if cause == OWN:
        return ErrorRecord("BudgetExceeded", "BUDGET_EXCEEDED", reason)
    if cause == TENANTS_OWN:
        return ErrorRecord("TenantBudgetExceeded", "TENANT_BUDGET_EXCEEDED", reason)
    return None


def approval_meant(state: SessionState, name: str) -> str:
    """Return the operation that people mean by an approval's name: `budget` is also the latest question about that."""
    asked = state.spent.asked
    if name != ASKING.removeprefix("@") or name in state.operations or not asked:
        return name
    return _asking_id(asked)


def asks(state: SessionState) -> bool:
    """Return whether the session asks people at a cap instead of ending."""
    return (state.started.budget or {}).get("on_reached") == "ask"


def waits_for_grant(operation: Operation, state: SessionState) -> bool:
    """Return whether an agent run waits for people to say whether the session may go on.

    One that was under way when they were asked goes on, for as long as its node has the session.
    """
    asking = state.spent.asking
    if asking is None or state.stop is not None:
        return False
    is_due_later = operation.next_attempt_at is not None and operation.next_attempt_at > asking.at
    return is_due_later or operation.changed_seq < asking.resumed_seq


def _tenant_cap_reached(state: SessionState, message: m.TenantCapReached, now: datetime) -> Decision:
    operation = state.open_operations.get(message.operation)
    if operation is None or operation.attempt != message.attempt:
        return NOTHING
    at_cap = Reached(f"{TENANTS}{message.cap}", message.limit, message.used)
    if state.stop is None and state.spent.excused_month == message.month:
        # It was excused since, and may begin after all.
        return NOTHING
    return _refused_within(state, message.operation, at_cap, now)


def _refused_within(state: SessionState, agent_run: str, at_cap: Reached, now: datetime) -> Decision:
    """Decide about an agent run that was ordered and may not go on; one that cleans up fails."""
    operation = state.open_operations.get(agent_run)
    if operation is None or operation.kind is not OperationKind.AGENT:
        return NOTHING
    if state.stop is None:
        return _stop_or_ask(state, at_cap, now)
    is_interrupted = operation.started_seq < state.stop.seq
    return NOTHING if is_interrupted else (e.AgentFailed(agent_run, _error(at_cap), operation.attempt),)


def _wall_time_reached(state: SessionState, now: datetime) -> Reached | None:
    over_at = wall_time_over_at(state)
    limit = limit_of(state.started.budget, WALL_TIME)
    if over_at is None or limit is None or now < over_at:
        return None
    return Reached(WALL_TIME, limit, limit + (now - over_at).total_seconds())


def _stop_or_ask(state: SessionState, at_cap: Reached, now: datetime) -> Decision:
    if state.spent.asking is not None:
        return NOTHING
    if not asks(state):
        return (e.CancelRequested(at_cap.says, cause=_cause(at_cap)),)
    budget, number = state.started.budget or {}, state.spent.asked + 1
    timeout = limit_of(budget, "approval_timeout")
    operation = _asking_id(number)
    subject: JsonObject = {"cap": at_cap.cap, "limit": at_cap.limit, "used": at_cap.used}
    return (
        e.ApprovalRequested(
            operation=operation,
            callback_id=approval_id_of(state.session_id, operation),
            subject=subject,
            approvers=budget.get("approvers"),
            times_out_at=None
            if timeout is None
            else next_milli(now + timedelta(seconds=min(timeout, DELAY_SECONDS_MAX))),
        ),
    )


def _asking_id(number: int) -> str:
    return ASKING if number == 1 else f"{ASKING}#{number}"


def _error(at_cap: Reached) -> ErrorRecord:
    error = end_of(_cause(at_cap), at_cap.says)
    assert error is not None, f"{at_cap.cap} is a budget's"
    return error


def _cause(at_cap: Reached) -> str:
    return TENANTS_OWN if at_cap.cap.startswith(TENANTS) else OWN


def _amount(number: float) -> str:
    """Return a number as people read it: no digits that nobody counts, no exponent."""
    return f"{number:,.6f}".rstrip("0").rstrip(".")


def spec_of(fields: Mapping[str, object]) -> JsonObject:
    """Return a budget as a journal keeps it, from its fields (`wall_time` and `approval_timeout` in seconds).

    Raises:
        ValueError: a field is unknown or not as it must be; the text names it.
    """
    unknown = fields.keys() - {*_FIELDS, "on_reached", "approvers"}
    if unknown:
        raise ValueError(
            f"{min(map(str, unknown)):.100}: a budget has {', '.join((*_FIELDS, 'on_reached', 'approvers'))}"
        )
    spec: JsonObject = {}
    for name, (most, is_whole) in _FIELDS.items():
        if fields.get(name) is not None:
            spec[name] = cap_of(name, fields[name], most=most, is_whole=is_whole)
    on_reached, approvers = fields.get("on_reached", "fail"), fields.get("approvers")
    if on_reached not in {"fail", "ask"}:
        raise ValueError(f"on_reached: {on_reached!r:.100} is neither 'fail' nor 'ask'")
    if on_reached == "ask":
        spec["on_reached"] = "ask"
    elif approvers is not None or "approval_timeout" in spec:
        raise ValueError("approvers, approval_timeout: nobody is asked unless on_reached is 'ask'")
    elif not spec:
        raise ValueError("a budget without a cap limits nothing")
    if approvers is not None:
        spec["approvers"] = _names(approvers)
    return spec


_FIELDS: Final[dict[str, tuple[float, bool]]] = {
    "tokens": (10**15, True),
    "cost": (10**9, False),
    "agent_calls": (10**9, True),
    WALL_TIME: (DELAY_SECONDS_MAX, False),
    "approval_timeout": (DELAY_SECONDS_MAX, False),
}
"""Field → its greatest value, and whether it is a whole number."""

TENANT_CAPS: Final[dict[str, tuple[float, bool]]] = {
    "tokens": (10**15, True),
    "cost": (10**9, False),
    "agent_calls": (10**9, True),
    "agent_seconds": (10**9, False),
}
"""What a tenant may spend in a calendar month: each with its greatest value, and whether it is a whole number."""


def caps_of(fields: Mapping[str, object]) -> dict[str, float]:
    """Return the caps of a tenant. Raises `ValueError` for what are none; the text names the field."""
    unknown = fields.keys() - TENANT_CAPS.keys()
    if unknown:
        raise ValueError(f"{min(map(str, unknown)):.100}: a tenant's budget has {', '.join(TENANT_CAPS)}")
    return {
        name: cap_of(name, value, most=TENANT_CAPS[name][0], is_whole=TENANT_CAPS[name][1])
        for name, value in fields.items()
    }


def cap_of(name: str, value: object, *, most: float, is_whole: bool) -> float:
    """Return a cap. Raises `ValueError` for what is none; the text names it."""
    # A bool is an int.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if (
        not isinstance(value, int | float)
        or not is_number
        or not 0 < value <= most
        or (is_whole and value != int(value))
    ):
        kind = "whole number" if is_whole else "number"
        raise ValueError(f"{name}: {value!r:.100} is no {kind} over 0 and up to {most:,.0f}")
    return int(value) if is_whole else float(value)


def _names(approvers: object) -> Json:
    names = [*approvers] if isinstance(approvers, list | tuple) else []
    if not names or not all(isinstance(name, str) and 1 <= len(name) <= PERSON_LENGTH_MAX for name in names):
        raise ValueError(
            f"approvers: {approvers!r:.100} is no list of names (1 to {PERSON_LENGTH_MAX} characters each)"
        )
    return [str(name) for name in names]
