"""Whatever stands in the table is read or refused by name: it is within reach of other hands, and of other versions.

To change it: a new kind of item, or a new attribute, is read by something, and that something belongs here (I11).
"""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final, cast

from any_messages import NOON, messages
from any_messages import starts as told_starts
from any_values import anything, examples, json_like, odd, odd_texts, spoiled, spoiled_text
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.answers import TIMED_OUT, failure, message_of, success
from orchestrator.aws.items import Item, from_wire, to_wire
from orchestrator.callbacks import Callback, UnreadableCallback
from orchestrator.callbacks.dynamodb import _callback
from orchestrator.callbacks.dynamodb import _item as callback_item
from orchestrator.cluster import Head, UnreadableHead, claimed
from orchestrator.cluster.dynamodb import _node
from orchestrator.cluster.head_items import _item as head_item
from orchestrator.cluster.head_items import changes, head_of
from orchestrator.inbox import UnreadableMessage
from orchestrator.inbox.codec import decode_message, encode_message
from orchestrator.inbox.dynamodb import _message
from orchestrator.journal import UnreadableEvent
from orchestrator.journal.codec import data_of, decode, encode, operation_of, type_name
from orchestrator.journal.dynamodb import _item as event_item
from orchestrator.journal.dynamodb import _recorded
from orchestrator.journal.folding import read_state
from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.decide import decide
from orchestrator.session.notices import notices
from orchestrator.session.owed import next_instant, owed
from orchestrator.session.state import SessionState, begin, evolve
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import ErrorRecord, Json, RetrySpec, compact_json, format_instant
from orchestrator.tenants import Quota
from orchestrator.tenants.dynamodb import DynamoDBQuotas
from orchestrator.views import _state_view, event_view, head_view

names: Final = st.sampled_from(["a", "b", "go", "s-1"])
instants: Final = st.integers(0, 10**9).map(lambda millis: NOON + timedelta(milliseconds=millis))
plain: Final = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(0, 9) | st.text("ab", max_size=3)
payloads: Final = plain | st.lists(plain, max_size=2) | st.dictionaries(names, plain, max_size=2)
errors: Final = st.builds(ErrorRecord, names, names, names)
carried: Final = st.fixed_dictionaries(
    {},
    optional={
        "known": st.dictionaries(names, names, max_size=2),
        "signals": st.lists(st.fixed_dictionaries({"name": names, "message_id": names, "data": plain}), max_size=2),
    },
)
FIELDS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "str": names,
    "int": st.integers(1, 3),
    "datetime": instants,
    "ErrorRecord": errors,
    "Json": payloads,
    "str | None": st.none() | names,
    "datetime | None": st.none() | instants,
    "float | None": st.none() | st.floats(0, 1e6),
    "JsonObject | None": st.none() | carried,
    "RetrySpec | None": st.none() | st.builds(RetrySpec, st.integers(1, 5)),
}
"""What fits a field of an event, by its annotation."""


def any_event(*kinds: type[e.Event]) -> st.SearchStrategy[Any]:
    """Return a strategy for valid events of these kinds."""
    return st.one_of(
        [st.builds(kind, **{f.name: FIELDS[str(f.type)] for f in dataclasses.fields(kind)}) for kind in kinds]
    )


events: Final = any_event(*e.TYPE_NAMES)


def wire_text(value: object) -> str:
    """Return JSON text as anybody may write it: NaN, lone surrogates and all."""
    return json.dumps(value)


# --- events --------------------------------------------------------------------------------------------------------


@given(event=events, data=st.data())
@examples(500)
def test_an_event_with_some_of_its_data_spoiled_is_an_event_or_unreadable(event: e.Event, data: st.DataObject) -> None:
    """And an event that was read can be written, and shown."""
    text = wire_text(data.draw(spoiled(st.just(data_of(event)))))
    with suppress(UnreadableEvent):
        read = decode(type_name(event), operation_of(event), text)
        encode(read)
        view = event_view("s", e.Recorded(1, read, NOON, 1, "n", "e"))
        compact_json(view).encode()


@given(
    event=events,
    item=st.dictionaries(
        st.sampled_from(["SK", "status", "at", "data", "operation", "epoch", "node", "event_id"]),
        anything | odd_texts | st.integers() | st.floats(0, 9) | st.booleans() | st.binary() | st.none(),
        max_size=3,
    ),
    seq=st.integers(1, 10**10),
)
@examples(500)
def test_an_event_item_with_some_of_its_attributes_spoiled_is_an_event_or_unreadable(
    event: e.Event, item: Item, seq: int
) -> None:
    """Missing ones too."""
    recorded = e.Recorded(seq, event, NOON, 1, "n", "e")
    changed = {**event_item("s", recorded, 1), **item}
    with suppress(UnreadableEvent):
        read = _recorded({name: value for name, value in changed.items() if value is not None or name == "SK"})
        format_instant(read.at)


@given(
    first=told_starts,
    told=st.lists(messages, max_size=15),
    strange=st.lists(st.tuples(st.integers(0, 20), events), max_size=2),
    data=st.data(),
)
@examples(400)
def test_any_journal_folds_or_is_unreadable(
    first: e.SessionStarted, told: list[m.Message], strange: list[tuple[int, e.Event]], data: st.DataObject
) -> None:
    """Events that can be read one by one may contradict each other; of what folds, everything else can be told."""
    journal = list(recorded_of(first, told))
    for place, event in strange:
        journal.insert(place % (len(journal) + 1), event)
    order = data.draw(st.permutations(range(len(journal)))) if data.draw(st.booleans()) else range(len(journal))
    spoilt = data.draw(st.sets(st.sampled_from(range(len(journal))), max_size=2))
    rows = []
    for place in order:
        event = journal[place]
        fields = st.just(data_of(event))
        text = wire_text(data.draw(spoiled(fields, times_max=2) if place in spoilt else fields))
        rows.append((type_name(event), operation_of(event), text))
    state = asyncio.run(folded(rows))
    if state is not None:
        assert_usable(state)


def recorded_of(first: e.SessionStarted, told: list[m.Message]) -> Iterator[e.Event]:
    """Yield what a session records that is told these messages."""
    state = begin("s", e.Recorded(1, first, NOON, 1, "n", "e1"))
    yield first
    for message in told:
        for event in decide(state, message, NOON):
            yield event
            state = evolve(state, e.Recorded(state.last_seq + 1, event, NOON, 1, "n", "e"))


async def folded(rows: Sequence[tuple[str, str | None, str]]) -> SessionState | None:
    """Return the state of such a journal; `None` where it is unreadable."""

    class Rows:
        async def append(self, session_id: str, events: Sequence[e.Recorded], *, started_at: datetime) -> None:
            raise AssertionError("nobody writes")

        async def read(self, session_id: str, *, after: int = 0) -> AsyncIterator[e.Recorded]:
            for seq, row in enumerate(rows, 1):
                yield e.Recorded(seq, decode(*row), NOON, 1, "n", f"e{seq}")

    try:
        return await read_state(Rows(), "s")
    except UnreadableEvent:
        return None


def assert_usable(state: SessionState) -> None:
    """Ask of a state what a node asks of it."""
    next_instant(owed(state))
    notices(state)
    compact_json(_state_view(a_head(), state)).encode()
    for message in (m.TimeLimitReached(), m.GraceOver(), m.HandlerReturned(None), m.HandlerContinued(None)):
        for event in decide(state, message, NOON):
            encode(event)
    for name in ("go", "a"):
        state.mail.contradicts(m.SignalSent("a", name, None))
        decide(state, m.SignalAwaited("w", name), NOON)


# --- HEAD and nodes ------------------------------------------------------------------------------------------------


def a_head(**changed: Any) -> Head:
    """Return a HEAD as we write it."""
    known: dict[str, Any] = {
        "session_id": "s",
        "session_type": "main",
        "tenant": "acme",
        "status": SessionStatus.RUNNING,
        "owner": "node-1",
        "epoch": 2,
        "last_seq": 7,
        "inbox_version": 1,
        "claim_nonce": "n",
        "takeovers": 0,
        "created_at": NOON,
        "updated_at": NOON,
        "wake_at": NOON,
        "attributes": {"slot": True},
        "outbox": ("slot", "parent"),
    }
    return Head(**{**known, **changed})


values: Final = (
    anything
    | odd_texts
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.binary()
    | st.frozensets(anything, min_size=1, max_size=2)
    | st.none()
    | (json_like | odd).map(wire_text)
)
"""What an attribute can hold; `None` for one that is not there."""
HEAD_ATTRIBUTES: Final = sorted({*head_item(a_head()), "shape"} - {"PK", "SK"})


@given(changed=st.dictionaries(st.sampled_from(HEAD_ATTRIBUTES), values, max_size=3))
@example({"attributes": "[" * 100_000})
@example({"outbox": "[" * 100_000})
@example({"attributes": "[]"})
@example({"outbox": '{"slot": 1}'})
@example({"created_at": "2026-01-01T00:00:00"})
@example({"wake_at": "9999-12-31T23:59:59.999999-12:00"})
@examples(500)
def test_any_head_item_is_a_head_or_unreadable(changed: Item) -> None:
    """And a HEAD that was read can be shown, compared, claimed and written again."""
    item: Item = {name: value for name, value in {**head_item(a_head()), **changed}.items() if value is not None}
    try:
        head = head_of(item)
    except UnreadableHead:
        return
    head_view(head)
    after = claimed(head, node_id="n", nonce="m", at=NOON, from_dead_owner=True)
    to_wire(changes(head, after))
    assert head.updated_at - timedelta(hours=1) < head.updated_at
    assert all(isinstance(each, str) for each in (*head.outbox, *head.attributes))
    compact_json(head.attributes).encode()


NODE_ATTRIBUTES: Final = ["beat", "address", "started_at", "version", "process", "sessions", "declared_dead_at"]


@given(item=st.dictionaries(st.sampled_from(NODE_ATTRIBUTES), values, max_size=7))
@examples(300)
def test_any_registration_is_a_node(item: Item) -> None:
    """Whoever stumbled over one would look after none of the others."""
    present = {name: value for name, value in item.items() if value is not None}
    node = _node({"PK": "NODES", "SK": "NODE#n", **present})
    assert ("declared_dead_at" in present) == (node.declared_dead_at is not None)
    for instant in (node.started_at, node.declared_dead_at):
        assert instant is None or (instant < NOON or instant >= NOON)


# --- what waits, and what was promised -----------------------------------------------------------------------------

delivered: Final = st.one_of(
    st.builds(m.SignalSent, names, names, payloads),
    st.builds(m.CancelAsked, names, names),
    st.builds(m.PauseAsked, names, names),
    st.builds(m.ResumeAsked, names, names),
    st.builds(m.KillAsked, names, names),
    st.builds(m.CallbackAnswered, names, names, payloads, st.none() | errors, st.booleans()),
    st.builds(m.ChildEnded, names, names, names, payloads, st.none() | errors),
)


@given(message=delivered, data=st.data(), position=values, free=st.none() | anything | odd.map(wire_text))
@example(m.CancelAsked("m", "r"), None, 1, "[" * 100_000)
@examples(500)
def test_any_inbox_item_is_a_message_or_unreadable(
    message: m.Delivered, data: st.DataObject | None, position: Any, free: str | None
) -> None:
    """And what was read can be decided about, and its event written."""
    body = free
    if body is None and data is not None:
        body = wire_text(data.draw(spoiled(st.just(json.loads(encode_message(message))))))
    item = _message({"PK": "SESSION#s", "SK": "INBOX#m", "body": body, "position": position})
    with suppress(UnreadableMessage):
        read = decode_message(item)
        encode_message(read)
        assert_decidable(read)


def assert_decidable(message: m.Delivered) -> None:
    """Decide about a message, and write down what comes of it."""
    started = e.SessionStarted("main", "acme", None, "0", None)
    state = asyncio.run(folded([(type_name(started), None, encode(started))]))
    assert state is not None
    assert not state.mail.contradicts(message)
    for event in decide(state, message, NOON):
        encode(event)


answers: Final[st.SearchStrategy[str]] = st.one_of(
    st.just(TIMED_OUT), payloads.map(lambda result: success(cast("Json", result))), errors.map(failure)
)


@given(
    changed=st.dictionaries(
        st.sampled_from(["session_id", "operation", "token_sha256", "answer", "times_out_at", "expires_at"]), values
    ),
    answer=spoiled_text(answers) | odd.map(wire_text),
)
@example({}, "[" * 100_000)
@examples(500)
def test_any_callback_item_is_a_callback_or_unreadable(changed: Item, answer: str) -> None:
    """And the message of an answer that was read can be decided about."""
    promised = Callback("cb-1", "s", "a", frozenset({"0" * 64}), NOON, answer)
    item: Item = {
        name: value for name, value in {**callback_item(promised, NOON), **changed}.items() if value is not None
    }
    try:
        callback = _callback(item)
        assert callback.times_out_at is None or (callback.times_out_at < NOON or callback.times_out_at >= NOON)
        if callback.answer is not None:
            assert_decidable(message_of(callback))
    except UnreadableCallback:
        pass


@given(item=st.dictionaries(st.sampled_from(["limit", "used", "queued", "state_key", "updated_at"]), values))
@examples(200)
def test_any_count_of_a_tenant_is_a_quota(item: Item) -> None:
    """What is no number counts as none."""
    quotas = DynamoDBQuotas.__new__(DynamoDBQuotas)
    quotas.limit_default = 2
    quota = quotas._quota("acme", {name: value for name, value in item.items() if value is not None})
    assert isinstance(quota, Quota)
    assert all(isinstance(number, int) for number in (quota.limit, quota.used, quota.queued))


# --- the wire form -------------------------------------------------------------------------------------------------

typed: Final = st.one_of(
    st.fixed_dictionaries({"S": anything}),
    st.fixed_dictionaries({"N": st.sampled_from(["0", "-1", "1.5", "1E+125", "1E-130", "9" * 38])}),
    st.fixed_dictionaries({"BOOL": st.booleans()}),
    st.fixed_dictionaries({"B": st.sampled_from(["", "AAAA"])}),
    st.fixed_dictionaries({"SS": st.lists(anything, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"NS": st.just(["1", "2"])}),
    st.fixed_dictionaries({"BS": st.just(["AAAA"])}),
    st.fixed_dictionaries({"NULL": st.just(True)}),
    st.fixed_dictionaries({"L": st.just([{"S": "x"}, {"NULL": True}])}),
    st.fixed_dictionaries({"M": st.just({"a": {"N": "1"}})}),
)
"""A value of each of DynamoDB's types (API Reference, "AttributeValue")."""


@given(wire=st.dictionaries(st.sampled_from(HEAD_ATTRIBUTES), typed, max_size=4))
@examples(300)
def test_an_attribute_of_any_type_is_read(wire: dict[str, Any]) -> None:
    """One of a type that is never written counts as absent: a tag that somebody put on an item spoils no listing."""
    item = from_wire(wire)
    for name, value in wire.items():
        assert (name in item) is not ({"NS", "BS", "NULL", "L", "M"} & value.keys() != set())
    with suppress(UnreadableHead):
        head_of({**{n: v for n, v in head_item(a_head()).items() if v is not None}, **item})
