"""Facts → words: the sentences about a session as a whole, by its state; what its operations wait for is in `waits`.

Pure, and total over the states that a HEAD can show: a state that is added needs an arm in `_by_state`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, assert_never

from orchestrator.cluster import BLOCKED_ERROR, Head
from orchestrator.notifications.tries import APPROVAL, tries_in
from orchestrator.session import events as e
from orchestrator.session.ending import grace_over_at
from orchestrator.session.transitions import ENDED, SessionStatus
from orchestrator.session.values import format_instant
from orchestrator.why import Explanation, Facts, Owner, Wait, for_how_long, lasting
from orchestrator.why.waits import waits_of

_CODE: Final = "deploy code that matches, and it goes on by itself"
MENDING: Final = {
    "NON_DETERMINISM": f"Its handler does not match its journal: {_CODE}.",
    "UNKNOWN_CHANGE": f"The code that runs is older than the session: {_CODE}.",
    "UNKNOWN_SESSION_TYPE": f"No node declares its type: {_CODE}.",
    "UNREADABLE_EVENT": "A newer version wrote its journal, or it was changed by hand: run the version that wrote it.",
    "ALTERED_EVENT": "An encrypted payload of its journal was changed: restore the item, and it goes on by itself.",
    "UNREADABLE_MESSAGE": "A newer version wrote a message in its inbox: run the version that wrote it.",
    "ARTIFACT_MISSING": "A payload is not in the bucket: restore the object, and it goes on by itself.",
    "ARTIFACT_ALTERED": "A payload in the bucket was changed: restore the object, and it goes on by itself.",
    "ARTIFACT_FOREIGN": "A payload is in another bucket than ours: set ORCHESTRATOR_BUCKET to the one it was put into.",
    "AWS_REFUSED": "AWS refuses us: mend what `orchestrator doctor` finds, and it goes on by itself.",
    "PAYLOAD_KEY_REFUSED": "KMS refuses us the key: mend what `orchestrator doctor` finds, and it goes on by itself.",
}
"""Error code → what mends a session that is blocked by it."""
_REFUSALS: Final = frozenset({"AWS_REFUSED", "PAYLOAD_KEY_REFUSED"})
_REPLAYED: Final = frozenset({"NON_DETERMINISM", "UNKNOWN_CHANGE", "UNKNOWN_SESSION_TYPE"})


def explain(facts: Facts) -> Explanation:
    """Return why the session does not go on, or that it has ended, and how."""
    head, state = facts.head, facts.state
    status = head.status if state is None or not state.has_ended else state.status
    if state is not None and state.is_paused and status in {SessionStatus.RUNNING, SessionStatus.SUSPENDED}:
        status = SessionStatus.PAUSED
    whole = [_is(head, status, facts), *_by_state(status, facts)]
    if status in ENDED:
        return Explanation(head.session_id, status.value, head.owner, tuple(whole), tuple(_undelivered(facts)))
    if status is not SessionStatus.QUEUED:
        whole += [*_stop(facts), *_ownership(facts), *_stuck(facts)]
    waits = tuple(_with_child(wait, facts) for wait in waits_of(facts)) if status is not SessionStatus.QUEUED else ()
    first = tuple(_first_waits(status, facts))
    return Explanation(head.session_id, status.value, head.owner, tuple(whole), (*first, *waits, *_untold(facts)))


def unknown(session_id: str, *, dead: str | None, queued: int | None) -> Explanation:
    """Return what there is to say of a session that was never accepted.

    `dead` is the code and text of its start in the dead-letter queue, `queued` about how many messages wait in the
    queue: `None` where nobody looked.
    """
    sentences = [f"No session {session_id} was ever accepted."]
    if dead is not None:
        sentences.append(f"Its start lies in the dead-letter queue: {dead}.")
        sentences.append("Mend the reason, then: orchestrator redrive --dry-run")
    else:
        sentences.append("Among the dead letters that were looked at is none that starts it.")
        if queued:
            sentences.append(f"About {queued} messages wait in the queue, and its start may be one of them: see that")
            sentences[-1] += " nodes run, and have room."
        elif queued is not None:
            sentences.append("The queue is empty: see that it was sent to this queue, and that the id is right.")
    return Explanation(session_id, "UNKNOWN", None, tuple(sentences))


def _is(head: Head, status: SessionStatus, facts: Facts) -> str:
    where = f", on node {head.owner}" if head.owner is not None and status not in ENDED else ""
    at = head.updated_at if facts.state is None else facts.state.updated_at
    return (
        f"Session {head.session_id} ({head.session_type}, tenant {head.tenant}) is {status}{where}; "
        f"its last change was {lasting(facts.now - at)} ago, at {format_instant(at)}."
    )


def _by_state(status: SessionStatus, facts: Facts) -> Iterator[str]:
    state = facts.state
    match status:
        case SessionStatus.QUEUED | SessionStatus.RUNNING | SessionStatus.SUSPENDED | SessionStatus.BLOCKED:
            if facts.unreadable is not None:
                yield f"Its journal cannot be read: {facts.unreadable}."
        case SessionStatus.PAUSED:
            yield "It begins nothing new until it is resumed; what had begun goes on to its end."
        case SessionStatus.COMPLETED:
            yield f"Its handler returned; `orchestrator status {facts.head.session_id}` shows the result."
        case SessionStatus.FAILED | SessionStatus.CANCELLED:
            if state is not None and state.error is not None:
                yield f"It ended with {state.error.type} ({state.error.code}): {state.error.message}"
        case SessionStatus.CONTINUED:
            following = facts.head.continued_as or (None if state is None else state.continued_as)
            yield f"It goes on as {following}, which is about to begin."
        case _:
            assert_never(status)


def _first_waits(status: SessionStatus, facts: Facts) -> Iterator[Wait]:
    """Yield what the session as a whole waits for."""
    head, state = facts.head, facts.state
    if status is SessionStatus.QUEUED:
        yield _slot(facts)
    if status is SessionStatus.PAUSED:
        pause = None if state is None else state.pause
        since = head.updated_at if pause is None else pause.at
        reason = "" if pause is None or not pause.reason else f": {pause.reason}"
        says = f"It is paused {for_how_long(since, facts.now)}{reason}"
        yield Wait("resume", says, since, commands=(f"orchestrator resume {head.session_id}",))
    if status is SessionStatus.BLOCKED:
        yield _blocked(facts)


def _slot(facts: Facts) -> Wait:
    head, place = facts.head, facts.place
    says = f"It waits for a slot of tenant {head.tenant} {for_how_long(head.created_at, facts.now)}"
    if place is not None:
        ahead = "others are" if place.ahead is None else f"{place.ahead} {'is' if place.ahead == 1 else 'are'}"
        says += f": {place.used} of {place.limit} are in use, {place.queued} wait, and {ahead} before it"
    commands = f"orchestrator tenants set {head.tenant} --limit N", f"orchestrator list --tenant {head.tenant}"
    return Wait("slot", f"{says}.", head.created_at, head.wake_at, commands=commands)


def _blocked(facts: Facts) -> Wait:
    head = facts.head
    error = str(head.attributes.get(BLOCKED_ERROR, "")) or "nobody recorded why"
    code = error.partition(":")[0]
    mending = MENDING.get(code, "It is tried again by itself, and goes on once the reason is gone.")
    until = head.wake_at
    again = "" if until is None else f" It is tried again at {format_instant(until)}, and when a node starts."
    says = f"It is blocked {for_how_long(head.updated_at, facts.now)} by {error}. {mending}{again}"
    # Whatever it is told, a node looks at it then: one that is not paused is only tried again by that.
    commands = tuple(f"orchestrator {word} {head.session_id}" for word in ("resume", "cancel"))
    if code in _REFUSALS:
        commands = ("orchestrator doctor", *commands)
    elif code in _REPLAYED:
        commands = (f"orchestrator replay {head.session_id} MODULE:APP", *commands)
    return Wait("code" if code in _REPLAYED else "mending", says, head.updated_at, until, commands=commands)


def _stop(facts: Facts) -> Iterator[str]:
    stop = None if facts.state is None else facts.state.stop
    if stop is None:
        return
    over_at = grace_over_at(stop)
    what = "Its handler may clean up" if stop.forced_at is None else "Its undo steps may take"
    yield (
        f"It is to end {for_how_long(stop.at, facts.now)} ({stop.cause}{f': {stop.reason}' if stop.reason else ''}). "
        f"{what} until {format_instant(over_at)}; `orchestrator kill {facts.head.session_id}` ends it now."
    )


def _ownership(facts: Facts) -> Iterator[str]:
    """Yield whether the node that has it lives, or who will have it."""
    head = facts.head
    if facts.owner is not None:
        yield from _of_owner(facts.owner)
    elif head.status is SessionStatus.RUNNING:
        due = "" if head.wake_at is None else f", due since {format_instant(head.wake_at)}"
        yield f"No node has it{due}: the next one with room takes it over."
    if facts.living == 0:
        yield "No node is registered as living: nothing goes on until one runs (orchestrator serve MODULE:APP)."
    if head.takeovers > 1:
        yield f"It was taken over from dead nodes {head.takeovers} times in a row without progress: a crash loop?"


def _of_owner(owner: Owner) -> Iterator[str]:
    record = owner.record
    if record is None:
        yield f"Node {owner.node_id} is not registered any more: another node takes the session over."
    elif record.declared_dead_at is not None:
        since = format_instant(record.declared_dead_at)
        yield f"Node {owner.node_id} is dead or drained since {since}: another node takes the session over."
    elif owner.beats is False:
        yield f"Node {owner.node_id} ({record.address}) does not beat: others take the session over once they see that."


def _stuck(facts: Facts) -> Iterator[str]:
    if facts.under_way is not None and facts.under_way.is_stuck:
        yield f"Node {facts.head.owner} takes it for stuck: nothing was recorded for much longer than usual."


def _with_child(wait: Wait, facts: Facts) -> Wait:
    operation = None if facts.state is None or wait.operation is None else facts.state.operations.get(wait.operation)
    order = None if operation is None else operation.order
    if not isinstance(order, e.ChildStarted) or order.child_id not in facts.children:
        return wait
    child = facts.children[order.child_id]
    if child is None:
        return replace(wait, says=f"{wait.says} It was not accepted yet: this session still has to start it.")
    return replace(wait, child=explain(child))


def _undelivered(facts: Facts) -> Iterator[Wait]:
    """Yield what an ended session still has to tell."""
    head = facts.head
    tries = {name: each for name, each in tries_in(head.attributes).items() if not name.startswith(APPROVAL)}
    for name in dict.fromkeys((*head.outbox, *tries)):
        tried = tries.get(name)
        if tried is None:
            says = f"It still has to tell `{name}` of its end, {for_how_long(head.updated_at, facts.now)}."
            yield Wait("outbox", says, head.updated_at, head.wake_at)
        else:
            then = "that was given up" if tried.next_at is None else f"next at {format_instant(tried.next_at)}"
            says = f"It could not tell `{name}` of its end in {tried.attempts} tries ({tried.error}); {then}."
            yield Wait("outbox", says, tried.since, tried.next_at)


def _untold(facts: Facts) -> Iterator[Wait]:
    """Yield the approvals that some channel was not told of."""
    for name, tried in tries_in(facts.head.attributes).items():
        if name.startswith(APPROVAL):
            channel = name.rpartition(":")[2]
            then = "given up" if tried.next_at is None else f"next at {format_instant(tried.next_at)}"
            says = f"`{channel}` was not told of an approval in {tried.attempts} tries ({tried.error}); {then}."
            yield Wait("outbox", says, tried.since, tried.next_at)
