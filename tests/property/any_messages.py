"""Messages to a session, and starts of one, as hypothesis draws them: few names, so that they meet.

To change it: no test logic here. A new kind of message is built here, and told by `test_session_rules.py`.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from orchestrator.session import messages as m
from orchestrator.session.decide import start
from orchestrator.session.values import DELAY_SECONDS_MAX, ErrorRecord, Json, RetrySpec

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

texts = st.text(max_size=8)
leaves: st.SearchStrategy[Json] = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
)
json_values: st.SearchStrategy[Json] = (
    leaves | st.lists(leaves, max_size=2) | st.dictionaries(texts, leaves, max_size=2)
)
json_objects = st.dictionaries(texts, json_values, max_size=2)
operations = st.sampled_from(["a", "b", "a#2", "c", "s/d", "s/d#2"])
attempts = st.integers(1, 4)
errors = st.builds(ErrorRecord, texts, texts, texts)
draws = st.floats(0, 1, exclude_max=True)
positive = st.floats(0, 1e300, allow_nan=False)
retries = st.builds(
    RetrySpec,
    max_attempts=st.integers(1, 1_000_000),
    initial_delay=positive,
    max_delay=positive,
    multiplier=st.floats(1, 1e300),
)

counts = st.dictionaries(
    st.sampled_from(["input_tokens", "output_tokens", "total_tokens", "cost", "requests"]),
    st.integers(-(10**20), 10**20) | st.integers(0, 9) | st.floats(allow_nan=False, allow_infinity=False) | json_values,
    max_size=3,
)
budgets = st.fixed_dictionaries(
    {},
    optional={
        "tokens": st.integers(1, 20),
        "cost": st.floats(0.1, 9.0),
        "agent_calls": st.integers(1, 3),
        "wall_time": st.floats(1.0, 1e6),
        "on_reached": st.just("ask"),
        "approval_timeout": st.floats(1.0, 1e6),
    },
)

step_messages: st.SearchStrategy[m.Message] = st.one_of(
    st.builds(m.StepStarting, operations, attempts, st.booleans()),
    st.builds(m.StepSucceeded, operations, attempts, json_values),
    st.builds(m.StepAttemptFailed, operations, attempts, errors, retries, st.booleans(), draws),
)
agent_messages: st.SearchStrategy[m.Message] = st.one_of(
    st.builds(
        m.AgentRequested,
        operations,
        texts,
        json_values,
        kwargs=st.none() | json_objects,
        timeout=st.none() | positive,
        retry=st.none() | retries,
        knew_of_stop=st.booleans(),
    ),
    st.builds(m.AgentSucceeded, operations, attempts, json_values, st.none() | counts),
    st.builds(m.CallAtCap, operations),
    st.builds(
        m.TenantCapReached,
        operations,
        attempts,
        st.sampled_from(["tokens", "cost"]),
        st.floats(1, 9),
        st.floats(9, 99),
        st.just("2026-01"),
    ),
    st.builds(m.AgentAttemptFailed, operations, attempts, errors, st.booleans(), draws),
    st.builds(m.CallStarting, operations, operations),
    st.builds(m.CallEnded, operations, operations, json_values, st.none() | json_objects, st.none() | errors),
)
seconds = st.floats(0, 1e6) | st.just(DELAY_SECONDS_MAX)
timeouts = st.none() | seconds
names = st.sampled_from(["go", "stop"])
message_ids = st.integers(1, 8).map("m{}".format)
others = st.sampled_from(["x-1", "x-2"])
"""Callback ids and child ids: few, so that the right one is met as well as a wrong one."""

waiting_messages: st.SearchStrategy[m.Message] = st.one_of(
    st.builds(m.TimerRequested, operations, seconds, st.booleans()),
    st.builds(m.TimerDue, operations),
    st.builds(m.SignalAwaited, operations, names, timeouts, st.booleans()),
    st.builds(m.CallbackRequested, operations, others, timeouts, st.booleans()),
    st.builds(
        m.ApprovalAsked,
        operations,
        others,
        json_values,
        st.none() | st.lists(texts, max_size=2),
        timeouts,
        st.booleans(),
    ),
    st.builds(m.ChildRequested, operations, texts, others, json_values, st.booleans()),
    st.builds(m.PatchReached, texts),
)
many = st.integers(1, 20).map("op#{}".format)
requests: st.SearchStrategy[m.Message] = st.one_of(
    st.builds(m.StepStarting, many, st.just(1)),
    st.builds(m.AgentRequested, many, texts, json_values, retry=retries),
    st.builds(m.TimerRequested, many, seconds),
    st.builds(m.SignalAwaited, many, names, timeouts),
    st.builds(m.CallbackRequested, many, others, timeouts),
    st.builds(m.ApprovalAsked, many, others, json_values, st.none(), timeouts),
    st.builds(m.ChildRequested, many, texts, others, json_values),
)
"""What begins an operation, under a name that is likely to be new."""

signals_sent = st.builds(m.SignalSent, message_ids, names, json_values)
delivered: st.SearchStrategy[m.Delivered] = st.one_of(
    signals_sent,
    st.builds(m.CancelAsked, message_ids, texts),
    st.builds(m.PauseAsked, message_ids, texts),
    st.builds(m.ResumeAsked, message_ids, texts),
    st.builds(m.CallbackAnswered, others, operations, json_values, st.none() | errors, st.booleans()),
    st.builds(m.ChildEnded, message_ids, operations, others, json_values, st.none() | errors),
)
progress_messages: st.SearchStrategy[m.Message] = st.builds(
    m.ProgressMade, operations, texts, st.none() | st.floats(0, 100), json_values
)
alarms: st.SearchStrategy[m.Message] = st.sampled_from([m.TimeLimitReached(), m.WallTimeReached(), m.GraceOver()])
ends: st.SearchStrategy[m.Message] = st.one_of(
    st.builds(m.HandlerReturned, json_values, st.booleans()),
    st.builds(m.HandlerRaised, errors, st.booleans()),
    st.builds(m.HandlerContinued, json_values, st.booleans()),
    st.builds(m.CrashLoopDetected, st.integers(1, 10)),
)
dismissals: st.SearchStrategy[m.Message] = st.builds(m.Dismissed, message_ids, texts)
"""Told only to a session that never ran: its journal is short, and knows no message."""
messages = st.one_of(step_messages, agent_messages, waiting_messages, delivered, progress_messages, alarms, ends)
starts = st.builds(
    replace,
    st.builds(lambda payload: start("main", "acme", payload, trace=None, task_token=None), json_values),
    parent=st.none() | texts,
    parent_operation=st.none() | texts,
    time_limit=timeouts,
    patches=st.none() | st.lists(texts, max_size=2),
    budget=st.none() | budgets,
)
instants = st.integers(0, 10**12).map(lambda millis: NOON + timedelta(milliseconds=millis))
