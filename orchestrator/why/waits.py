"""What the operations of an open session wait for, each as a `Wait`: pure, from its state and what its node sees.

A new kind of order is one more arm in `_of_order`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from orchestrator.artifacts import disclosed
from orchestrator.cluster import SIGNALS_AWAITED
from orchestrator.session import events as e
from orchestrator.session.spending import ASKING, is_of_session
from orchestrator.session.state import Operation, SessionState
from orchestrator.session.transitions import Phase
from orchestrator.session.values import Json, format_instant
from orchestrator.why import Facts, UnderWay, Wait, for_how_long, lasting

LATE: Final = timedelta(minutes=1)
"""So much later than its time, somebody should have seen to what is due."""
SUBJECT_LENGTH_MAX: Final = 200


def waits_of(facts: Facts) -> Iterator[Wait]:
    """Yield what an open session waits for, in the order it was asked for; nothing where nothing can be told."""
    state, under_way = facts.state, facts.under_way
    if state is None:
        return
    told = 0
    for operation in sorted(state.operations.values(), key=lambda each: each.started_seq):
        if operation.operation_id in state.open_operations or (not operation.is_settled and operation.order is None):
            if operation.operation_id in state.asking_runs and _asks(operation, state):
                # Its questions are told of themselves.
                continue
            told += 1
            yield _of(operation, facts)
    known = {operation.operation_id for operation in state.operations.values() if not operation.is_settled}
    signals = _signals(facts, state)
    if under_way is not None:
        yield from _unrecorded(under_way, known, facts, state)
    elif not told and not signals and not (state.is_held and facts.node is None):
        yield _unseen(facts, state)
    for name in signals:
        yield _signal(name, facts, state)


def _asks(run: Operation, state: SessionState) -> bool:
    return any(each.agent_run == run.operation_id for each in state.open_operations.values())


def _of(operation: Operation, facts: Facts) -> Wait:
    if operation.phase is Phase.RETRYING:
        return _retry(operation, facts)
    if operation.order is not None:
        return _of_order(operation, operation.order, facts)
    return _runs(operation.operation_id, f"{operation.kind} `{operation.operation_id}`", operation.changed_at, facts)


def _of_order(operation: Operation, order: e.Event, facts: Facts) -> Wait:
    name, since, session_id, now = operation.operation_id, operation.changed_at, facts.head.session_id, facts.now
    waiting = for_how_long(since, now)
    match order:
        case e.AgentStarted():
            what = f"agent `{order.agent}` (operation `{name}`, attempt {operation.attempt})"
            return _runs(name, what, since, facts, timeout=order.timeout)
        case e.TimerStarted(signal=None, fire_at=until):
            says = f"It sleeps (timer `{name}`) {waiting}{_until(until, now)}."
            return Wait("timer", says, since, until, name)
        case e.TimerStarted(signal=signal, fire_at=until):
            says = f"It waits for signal `{signal}` {waiting}{_until(until, now)}."
            command = f"orchestrator signal {session_id} {signal} --data 'null'"
            return Wait("signal", says, since, until, name, commands=(command,))
        case e.CallbackCreated(callback_id=callback_id, times_out_at=due):
            waiting = f"{waiting}{_until(due, now)}"
            says = f"It waits for callback `{name}` to be answered by whoever has its token, {waiting}."
            command = f"orchestrator callback {callback_id} --token - --success 'null'"
            return Wait("callback", says, since, due, name, commands=(command,))
        case e.ApprovalRequested(times_out_at=due):
            return _approval(operation, order, facts, due)
        case e.ChildStarted(child_id=child_id, session_type=session_type):
            says = f"It waits for its child session {child_id} ({session_type}, operation `{name}`) {waiting}."
            return Wait("child", says, since, operation=name, commands=(f"orchestrator why {child_id}",))
        case _:
            raise AssertionError(f"{type(order).__name__} orders nothing")


def _approval(operation: Operation, order: e.ApprovalRequested, facts: Facts, due: datetime | None) -> Wait:
    session_id, name = facts.head.session_id, operation.operation_id
    who = _people(order.approvers)
    waiting = f"{for_how_long(operation.changed_at, facts.now)}{_until(due, facts.now)}"
    if is_of_session(name):
        what, asked = "budget", ASKING.removeprefix("@")
        says = f"Its budget is spent ({_short(disclosed(order.subject))}): it waits for {who} to grant more, {waiting}."
    else:
        what, asked = "approval", name
        says = f"It waits for {who} to approve `{name}` ({_short(disclosed(order.subject))}), {waiting}."
    # A name is any text: it must come through a shell as it is, and as nothing else.
    by = shlex.quote(str(order.approvers[0])) if isinstance(order.approvers, list) and order.approvers else "WHO"
    commands = tuple(f"orchestrator {word} {session_id} {asked} --by {by}" for word in ("approve", "reject"))
    return Wait(what, says, operation.changed_at, due, name, commands=commands)


def _retry(operation: Operation, facts: Facts) -> Wait:
    error, due = operation.error, operation.next_attempt_at or operation.changed_at
    why = "" if error is None else f" after {error.type}: {error.message}"
    name, left = f"{operation.kind} `{operation.operation_id}`", due - facts.now
    if due <= facts.now:
        return _runs(operation.operation_id, f"{name}, attempt {operation.attempt}{why}", due, facts)
    at = f"is due at {format_instant(due)} (in {lasting(left)})"
    says = f"It waits to try {name} again{why}: attempt {operation.attempt} {at}."
    return Wait("retry", says, operation.changed_at, due, operation.operation_id, node=facts.node)


def _runs(operation: str, what: str, since: datetime, facts: Facts, *, timeout: float | None = None) -> Wait:
    owner, limit = facts.node, "" if timeout is None else f", at most {lasting(timedelta(seconds=timeout))}"
    until = None if timeout is None else since + timedelta(seconds=timeout)
    if owner is None:
        says = f"It was running {what} {for_how_long(since, facts.now)}; the next node that has it runs that again."
        return Wait("takeover", says, since, until, operation)
    says = f"It runs {what} on node {owner} {for_how_long(since, facts.now)}{limit}."
    return Wait("running", says, since, until, operation, node=owner)


def _unrecorded(under_way: UnderWay, known: set[str], facts: Facts, state: SessionState) -> Iterator[Wait]:
    """Yield what runs or waits on the session's node, and no event tells of."""
    since, node = state.updated_at, facts.node
    quiet = for_how_long(since, facts.now)
    if under_way.operations == ():
        says = f"Its handler runs code of its own on node {node}, between operations; nothing was recorded {quiet}."
        yield Wait("handler", says, since, node=node)
    for name in under_way.operations or ():
        if name not in known:
            says = f"It runs step `{name}` on node {node}; nothing was recorded {quiet}."
            yield Wait("running", says, since, operation=name, node=node)


def _signals(facts: Facts, state: SessionState) -> tuple[str, ...]:
    """Return the waits for signals that no event tells of: those that its node sees, or left in HEAD."""
    if facts.under_way is not None:
        return facts.under_way.signals
    left = facts.head.attributes.get(SIGNALS_AWAITED)
    if facts.head.owner is not None or not isinstance(left, list):
        return ()
    return tuple(name for name in left if isinstance(name, str) and name not in state.operations)


def _signal(operation: str, facts: Facts, state: SessionState) -> Wait:
    name, since = operation.rpartition("/")[2].partition("#")[0], state.updated_at
    says = f"It waits for signal `{name}`, without a time limit, {for_how_long(since, facts.now)}."
    command = f"orchestrator signal {facts.head.session_id} {name} --data 'null'"
    return Wait("signal", says, since, operation=operation, commands=(command,))


def _unseen(facts: Facts, state: SessionState) -> Wait:
    """Return what is to be said of a session of whose operations none is on record as open."""
    since, node = state.updated_at, facts.node
    quiet = for_how_long(since, facts.now)
    last = max(state.operations.values(), key=lambda each: each.changed_seq, default=None)
    after = "from its first line on" if last is None else f"after {last.kind} `{last.operation_id}`"
    if node is None:
        says = f"Its handler is to go on {after}, on the next node that has it; {quiet}."
        return Wait("takeover", says, since, facts.head.wake_at)
    says = (
        f"Its handler runs {after}: a step, which is recorded when it ends, or code of its own; {quiet}. Node {node} "
        "tells which, where it can be reached from (and has a key of ORCHESTRATOR_API_KEYS)."
    )
    return Wait("handler", says, since, node=node)


def _until(until: datetime | None, now: datetime) -> str:
    if until is None:
        return ", without a time limit"
    if until > now:
        return f", until {format_instant(until)} (in {lasting(until - now)})"
    late = " and no node has seen to it: see whether one lives" if now - until > LATE else ""
    return f", until {format_instant(until)}, which is {lasting(now - until)} ago{late}"


def _people(approvers: Json) -> str:
    return " or ".join(str(each) for each in approvers) if isinstance(approvers, list) and approvers else "anybody"


def _short(subject: Json) -> str:
    text = json.dumps(subject, ensure_ascii=False)
    return text if len(text) <= SUBJECT_LENGTH_MAX else f"{text[: SUBJECT_LENGTH_MAX - 1]}…"
