"""What a session may spend, as tables: when a cap is reached, what then happens, and what a next generation knows."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from session_history import CANCEL, ERROR, LATER, NOON, ORDERED, STARTED, after

from orchestrator import Budget, Orchestrator, Price, RegistrationError
from orchestrator.agents.usage import usage_of
from orchestrator.budgets import priced
from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.budget import approval_meant, caps_of, limits, spec_of, wall_time_over_at
from orchestrator.session.decide import decide
from orchestrator.session.notices import StartNext, notices
from orchestrator.session.owed import WALL_TIME_KEY, RunAgent, owed
from orchestrator.session.spending import COUNT_MAX, is_of_session
from orchestrator.session.state import SessionState
from orchestrator.session.values import Json, JsonObject, approval_id_of

NOTHING = ()
YES: JsonObject = {"approved": True, "by": "ann", "comment": None}
NO: JsonObject = {"approved": False, "by": "ann", "comment": None}
FAILING: JsonObject = {"tokens": 100}
ASKING: JsonObject = {"tokens": 100, "on_reached": "ask", "approvers": ["ann"], "approval_timeout": 60.0}
REQUEST = m.AgentRequested("b", "researcher", "more")
SPENT = "the session's budget is spent: 120 of 100 tokens"
STOPPED = e.CancelRequested(SPENT, cause="budget")
TENANT_CAP = m.TenantCapReached("a", 1, "cost", 5.0, 6.5, "2026-01")


def done(operation: str, tokens: Json) -> tuple[e.Event, ...]:
    """Return an agent run that used so much."""
    return (
        replace(ORDERED, operation=operation),
        e.AgentCompleted(operation, "r", 1, {"total_tokens": tokens}),
    )


def spent(budget: JsonObject | None, *events: e.Event) -> SessionState:
    """Return a session under that budget after an agent run of 120 tokens, and these events."""
    return after(*done("a", 120), *events, started=replace(STARTED, budget=budget))


def question(number: int = 1, now: datetime = LATER, cap: str = "tokens") -> e.ApprovalRequested:
    """Return what people are asked at a cap."""
    operation = "@budget" if number == 1 else f"@budget#{number}"
    subject: JsonObject = {"cap": cap, "limit": 100 * number, "used": 120}
    due = now + timedelta(seconds=60)
    return e.ApprovalRequested(operation, approval_id_of("s", operation), subject, ["ann"], due)


ASKED = question()


@pytest.mark.parametrize(
    ("budget", "is_reached"),
    [
        (None, False),
        ({"tokens": 121}, False),
        ({"tokens": 120}, True),
        ({"agent_calls": 2}, False),
        ({"agent_calls": 1}, True),
        ({"cost": 0.01}, False),
        ({"wall_time": 301.0}, False),
        ({"wall_time": 300.0}, True),
        ({"tokens": 1_000, "agent_calls": 1}, True),
        ({"tokens": "much", "agent_calls": None, "cost": -1, "wall_time": True}, False),
    ],
    ids=str,
)
def test_a_session_spends_no_more_once_a_cap_is_reached(budget: JsonObject | None, is_reached: bool) -> None:
    """An agent run that is asked for then stops the session; what is no cap limits nothing."""
    (event,) = decide(spent(budget), REQUEST, LATER)
    assert (e.CancelRequested if is_reached else e.AgentStarted) is type(event)


def test_who_asks_is_asked_once_and_nothing_begins_meanwhile() -> None:
    """Whatever the handler asks for; what is under way ends, and people may answer."""
    state = spent(ASKING)
    assert (ASKED,) == decide(state, REQUEST, LATER)
    state = spent(ASKING, ASKED)
    for request in (REQUEST, m.TimerRequested("t", 1.0), m.StepStarting("x", 1), m.SignalAwaited("w", "go")):
        assert NOTHING == decide(state, request, LATER)
    assert (e.StepCompleted("x", 1, 1),) == decide(state, m.StepSucceeded("x", 1, 1), LATER)


def answer(**fields: object) -> m.CallbackAnswered:
    """Return an answer to the first question."""
    return m.CallbackAnswered(ASKED.callback_id, ASKED.operation, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "outcome", "why"),
    [
        (answer(result=YES), e.CallbackCompleted("@budget", YES), None),
        (answer(result=NO), e.CallbackCompleted("@budget", NO), "ann did not grant more"),
        (answer(timed_out=True), e.CallbackTimedOut("@budget"), "nobody granted more in time"),
        (answer(error=ERROR), e.CallbackFailed("@budget", ERROR), "more was not granted"),
    ],
    ids=["yes", "no", "in time", "failed"],
)
def test_a_yes_lets_a_session_go_on_and_anything_else_ends_it(
    message: m.CallbackAnswered, outcome: e.Event, why: str | None
) -> None:
    """A yes gives every cap once more; a second answer decides nothing."""
    follows = () if why is None else (e.CancelRequested(f"{SPENT}; {why}", cause="budget"),)
    assert (outcome, *follows) == decide(spent(ASKING, ASKED), message, LATER)
    state = spent(ASKING, ASKED, outcome, *follows)
    assert NOTHING == decide(state, message, LATER)
    assert ({"tokens": 200} if why is None else {"tokens": 100}) == limits(state)
    if why is None:
        assert e.AgentStarted is type(decide(state, REQUEST, LATER)[0])
        again = after(*done("a", 120), ASKED, outcome, *done("c", 80), started=replace(STARTED, budget=ASKING))
        (asked,) = decide(again, REQUEST, LATER)
        assert isinstance(asked, e.ApprovalRequested)
        assert ("@budget#2", {"cap": "tokens", "limit": 200, "used": 200}) == (asked.operation, asked.subject)
        assert "@budget" == approval_meant(again, "budget")


def test_a_session_that_is_to_end_anyway_asks_nobody_and_spends_no_more() -> None:
    """What cleans up hears that its agent run failed; a question that is open is not waited for."""
    cleaning = replace(REQUEST, knew_of_stop=True)
    for budget in (FAILING, ASKING):
        (refused,) = decide(spent(budget, CANCEL), cleaning, LATER)
        assert isinstance(refused, e.AgentFailed)
        assert ("b", "BUDGET_EXCEEDED") == (refused.operation, refused.error.code)
    state = spent(ASKING, ASKED, CANCEL)
    assert (e.TimerStarted("t", LATER + timedelta(seconds=1)),) == decide(
        state, m.TimerRequested("t", 1.0, knew_of_stop=True), LATER
    )
    assert (e.CallbackCompleted("@budget", NO),) == decide(state, answer(result=NO), LATER)


def test_a_retry_at_the_cap_is_not_made() -> None:
    """Who fails hears of the last attempt; who asks makes the next one when people say yes."""
    failed = m.AgentAttemptFailed("b", 1, ERROR, is_retryable=True, jitter=0.5)
    due = LATER + timedelta(seconds=5)
    retrying = e.AgentRetrying("b", ERROR, 1, due)
    ordered = replace(ORDERED, operation="b")
    assert (e.AgentFailed("b", ERROR, 1), STOPPED) == decide(spent(FAILING, ordered), failed, LATER)
    assert (retrying, ASKED) == decide(spent(ASKING, ordered), failed, LATER)
    assert (retrying,) == decide(spent(None, ordered), failed, LATER)
    state = spent(ASKING, ordered, retrying, ASKED)
    assert ("b", 2) not in owed(state)
    assert ("b", 2) in owed(spent(ASKING, ordered, retrying, ASKED, e.CallbackCompleted("@budget", YES)))


def test_a_run_under_way_goes_on_while_people_are_asked_until_its_node_is_gone() -> None:
    """It was begun within the budget; begun anew by another node, it would spend what nobody granted."""
    ordered = replace(ORDERED, operation="b")
    state = spent(ASKING, ordered, ASKED)
    assert isinstance(owed(state)["b", 1], RunAgent)
    state = spent(ASKING, ordered, ASKED, e.SessionResumed())
    assert ("b", 1) not in owed(state)
    state = spent(ASKING, ordered, ASKED, e.SessionResumed(), e.CallbackCompleted("@budget", YES))
    assert ("b", 1) in owed(state)


def test_a_call_of_an_agent_run_is_spending_too() -> None:
    """It asks before it is made. One within the budget decides nothing."""
    running = (ORDERED, e.StepCompleted("a/model", "r", 1, {"total_tokens": 120}, "a"))
    state = after(*running, started=replace(STARTED, budget=FAILING))
    assert (STOPPED,) == decide(state, m.CallAtCap("a"), LATER)
    assert NOTHING == decide(after(*running, started=replace(STARTED, budget={"tokens": 121})), m.CallAtCap("a"), LATER)
    assert NOTHING == decide(state, m.CallAtCap("b"), LATER)


def test_wall_time_rings_once_it_is_over() -> None:
    """From the start of the session, whatever it does; an early alarm decides nothing."""
    state = after(started=replace(STARTED, budget={"wall_time": 300.0}))
    ring = owed(state)[WALL_TIME_KEY]
    assert (LATER, m.WallTimeReached()) == (ring.at, ring.message)  # type: ignore[union-attr]
    assert NOTHING == decide(state, m.WallTimeReached(), LATER - timedelta(seconds=1))
    (stop,) = decide(state, m.WallTimeReached(), LATER)
    assert e.CancelRequested("the session's budget is spent: 300 of 300 seconds of wall time", "budget") == stop
    assert NOTHING == decide(after(CANCEL, started=state.started), m.WallTimeReached(), LATER)
    assert WALL_TIME_KEY not in owed(after(CANCEL, started=state.started))


def test_a_granted_wall_time_is_a_whole_one() -> None:
    """What passed until somebody answered is not taken off."""
    started = replace(STARTED, budget={"wall_time": 2.0, "on_reached": "ask"})
    asked = replace(question(cap="wall_time"), approvers=None, times_out_at=None)
    state = after(asked, e.SignalReceived("go", "m", None), started=started)
    assert WALL_TIME_KEY not in owed(state)
    state = after(asked, *(e.SignalReceived("go", f"m{n}", None) for n in range(5)), started=started)
    granted = after(
        asked,
        *(e.SignalReceived("go", f"m{n}", None) for n in range(5)),
        e.CallbackCompleted("@budget", YES),
        started=started,
    )
    assert granted.updated_at + timedelta(seconds=2) == wall_time_over_at(granted)


@pytest.mark.parametrize("budget", [None, FAILING, {"on_reached": "ask"}], ids=str)
def test_a_tenants_cap_stops_a_session_as_its_own_does(budget: JsonObject | None) -> None:
    """Or it asks, and a yes lets it pass for the rest of the month."""
    state = after(ORDERED, started=replace(STARTED, budget=budget))
    (event,) = decide(state, TENANT_CAP, LATER)
    if budget is None or "on_reached" not in budget:
        assert e.CancelRequested("the tenant's budget is spent: 6.5 of 5 cost", "tenant_budget") == event
        return
    assert isinstance(event, e.ApprovalRequested)
    assert {"cap": "tenant_cost", "limit": 5.0, "used": 6.5} == event.subject
    asked = after(ORDERED, event, started=state.started)
    assert NOTHING == decide(asked, TENANT_CAP, LATER)
    excused = after(ORDERED, event, e.CallbackCompleted("@budget", YES), started=state.started)
    assert "2026-01" == excused.spent.excused_month
    assert 0 == excused.spent.grants
    assert NOTHING == decide(excused, TENANT_CAP, LATER)
    assert (e.ApprovalRequested,) == tuple(map(type, decide(excused, replace(TENANT_CAP, month="2026-02"), LATER)))
    refused = decide(asked, answer(result=NO), LATER)
    assert "tenant_budget" == refused[1].cause  # type: ignore[union-attr]


@pytest.mark.parametrize("message", [TENANT_CAP, m.CallAtCap("a")], ids=lambda each: type(each).__name__)
def test_a_cap_met_by_a_run_that_is_over_or_cleans_up_stops_nothing_twice(message: m.Message) -> None:
    """One that was interrupted is over; one that cleans up fails."""
    started = replace(STARTED, budget={"agent_calls": 1})
    assert NOTHING == decide(after(ORDERED, CANCEL, started=started), message, LATER)
    assert NOTHING == decide(after(*done("a", 1), started=started), message, LATER)
    assert NOTHING == decide(after(started=started), message, LATER)
    (failed,) = decide(after(CANCEL, ORDERED, started=started), message, LATER)
    assert isinstance(failed, e.AgentFailed)


def test_what_was_spent_goes_along_into_the_next_generation() -> None:
    """With the budget, the grants and since when; so does the next one's next."""
    state = spent(ASKING, ASKED, e.CallbackCompleted("@budget", YES), e.SessionContinued(None, "s:g2"))
    (notice, counted) = notices(state)
    assert isinstance(notice, StartNext)
    following = after(*done("a", 79), started=notice.started, session_id="s:g2")
    assert ({"tokens": 200}, 2) == (limits(following), following.spent.agent_calls)
    assert {"total_tokens": 199} == following.usage
    assert state.spent.since == following.spent.since
    assert e.AgentStarted is type(decide(following, REQUEST, LATER)[0])
    over = after(*done("a", 80), started=notice.started, session_id="s:g2")
    assert e.ApprovalRequested is type(decide(over, REQUEST, LATER)[0])
    assert "usage" == counted.notice_id


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([{"input_tokens": 3, "output_tokens": 4}], {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}),
        ([{"input_tokens": 3}, {"total_tokens": 10}], {"input_tokens": 3, "total_tokens": 13}),
        ([{"total_tokens": -5, "cost": -0.5}], {"total_tokens": 0, "cost": 0}),
        ([{"total_tokens": 10**400}], {"total_tokens": COUNT_MAX}),
        ([{"total_tokens": 1e300}, {"total_tokens": 1e300}], {"total_tokens": 2 * COUNT_MAX}),
        ([{"total_tokens": True, "cost": "much"}], {}),
        ([{"cached": 10**400, "requests": 2}], {"requests": 2}),
    ],
    ids=str,
)
def test_whatever_an_agent_reports_a_sum_is_a_number(reports: list[JsonObject], expected: JsonObject) -> None:
    """Never less than before, and never past what a number holds."""
    events = [
        event
        for n, report in enumerate(reports)
        for event in (replace(ORDERED, operation=f"a{n}"), e.AgentCompleted(f"a{n}", None, 1, report))
    ]
    assert expected == after(*events).usage


def test_calls_are_counted_as_they_are_ordered_and_time_as_runs_end() -> None:
    """A second an event; an attempt that waited for its turn counts from then."""
    retrying = e.AgentRetrying("a", ERROR, 1, NOON + timedelta(seconds=2, milliseconds=500))
    state = after(ORDERED, retrying, e.AgentCompleted("a", "r", 2), *done("b", 1))
    assert (3, 1.0 + 0.5 + 1.0) == (state.spent.agent_calls, state.spent.agent_seconds)


def test_the_sessions_own_operations_have_names_that_no_handler_uses() -> None:
    """A handler's approval named `budget` is its own."""
    mine = e.ApprovalRequested("budget", "ap-1", None)
    assert "budget" == approval_meant(spent(ASKING, ASKED, mine), "budget")
    assert "@budget" == approval_meant(spent(ASKING, ASKED), "budget")
    assert "budget" == approval_meant(spent(ASKING), "budget")
    assert (True, False) == (is_of_session("@budget#2"), is_of_session("budget"))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "limits nothing"),
        ({"tokens": 0}, "tokens: 0"),
        ({"tokens": 1.5}, "tokens: 1.5"),
        ({"tokens": True}, "tokens: True"),
        ({"tokens": "many"}, "tokens: 'many'"),
        ({"cost": float("nan")}, "cost: nan"),
        ({"cost": float("inf")}, "cost: inf"),
        ({"agent_calls": -1}, "agent_calls: -1"),
        ({"wall_time": timedelta(0)}, "wall_time: "),
        ({"wall_time": timedelta(days=401)}, "wall_time: "),
        ({"tokens": 1, "on_reached": "stop"}, "on_reached: 'stop'"),
        ({"tokens": 1, "approvers": ["ann"]}, "nobody is asked"),
        ({"tokens": 1, "on_reached": "ask", "approvers": "ann"}, "approvers: 'ann'"),
        ({"tokens": 1, "on_reached": "ask", "approvers": [""]}, "approvers: "),
        ({"tokens": 1, "on_reached": "ask", "approval_timeout": 0}, "approval_timeout: "),
    ],
    ids=str,
)
def test_a_budget_that_makes_no_sense_stops_the_import(fields: dict[str, object], says: str) -> None:
    """The text names the field."""
    with pytest.raises(ValueError, match=says):
        Budget(**fields)  # type: ignore[arg-type]


def test_what_is_no_budget_and_no_price_is_refused_where_it_is_declared() -> None:
    """Annotations bind nobody."""
    app = Orchestrator()
    with pytest.raises(RegistrationError, match="is no Budget"):
        app.session("main", budget={"tokens": 1})  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match="is no Price"):
        app.agent("a", price=3)  # type: ignore[arg-type]
    for price in (-1, float("nan"), True, "3"):
        with pytest.raises(ValueError, match="output: "):
            Price(input=1, output=price)  # type: ignore[arg-type]


def test_a_budget_as_json_names_what_it_does_not_know() -> None:
    """As a setting gives it: durations in seconds."""
    assert {"tokens": 5, "wall_time": 60.0} == spec_of({"tokens": 5, "wall_time": 60})
    with pytest.raises(ValueError, match="token: a budget has tokens"):
        spec_of({"token": 5})
    assert {"tokens": 5, "cost": 2.0} == caps_of({"tokens": 5, "cost": 2})
    with pytest.raises(ValueError, match="wall_time: a tenant's budget has"):
        caps_of({"wall_time": 5})
    with pytest.raises(ValueError, match="agent_calls: 0"):
        caps_of({"agent_calls": 0})


def test_usage_is_known_under_whatever_names_its_library_has() -> None:
    """Those that are counted go before; what is no report is none."""
    bedrock: JsonObject = {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7, "cacheReadInputTokens": 1}
    counted = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "cache_read_input_tokens": 1}
    assert counted == usage_of({"usage": bedrock})
    assert {"input_tokens": 5, "output_tokens": 6} == usage_of({"usage": {"prompt_tokens": 5, "completion_tokens": 6}})
    assert {"input_tokens": 9} == usage_of({"usage": {"inputTokens": 3, "input_tokens": 9}})
    assert None is usage_of({"usage": [3]}) is usage_of("text") is usage_of({"usage": {"a": object()}})


def test_a_price_gives_the_cost_that_an_agent_does_not_report() -> None:
    """Per million tokens."""
    price = Price(input=3, output=15)
    assert {"input_tokens": 1_000, "output_tokens": 100, "cost": 0.0045} == priced(
        {"input_tokens": 1_000, "output_tokens": 100}, price
    )
    assert {"input_tokens": 1_000, "cost": 7} == priced({"input_tokens": 1_000, "cost": 7}, price)
    assert None is priced(None, price)
    assert {"input_tokens": 1} == priced({"input_tokens": 1}, None)
