"""What every `Journal` keeps (I1, I2, I7): the protocol's promises, none of an implementation's own."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from orchestrator.journal import Journal, JournalConflict
from orchestrator.session.events import (
    AgentCompleted,
    AgentRetrying,
    AgentStarted,
    Event,
    ProgressReported,
    SessionCompleted,
    SessionFailed,
    StepCompleted,
    StepFailed,
    StepStarted,
)
from orchestrator.session.values import ErrorRecord, Json, RetrySpec
from tests.contract.stage import SESSION, append, events_of, recorded, resumed, started
from tests.contract.waiting import START

ERROR = ErrorRecord("ValueError", "UNHANDLED", 'three ♥ "quotes" and a\nline')

TRICKY_RESULTS: list[Json] = [
    None,
    "",
    {},
    [],
    False,
    0,
    -0.5,
    1e-300,
    1.7976931348623157e308,
    0.1 + 0.2,
    10**60,
    -(2**63) - 1,
    "\x00\x1f\x7f",
    "日本語 ÄÖÜ \U0001f980 e\u0301 \u2028 \\u0041 \\",
    {"": {"": [None, "", {}]}, "PK": "SESSION#other", "?": "'; --", 'quo"te': 1},
    [[[[[[[[1]]]]]]]],
]

EVERY_KIND: list[Event] = [
    started({"topic": "tea"}),
    StepStarted("fetch", 1),
    StepCompleted("fetch", None, 1),
    StepFailed("fetch#2", ERROR, 3),
    AgentStarted("writer", "writer-agent", ["prompt"], 2, {"k": None}, 1.5, RetrySpec(3, 0.5)),
    AgentRetrying("writer", ERROR, 1, datetime(2026, 2, 1, 0, 0, 0, 5000, tzinfo=UTC)),
    AgentCompleted("writer", "", 2, {"input_tokens": 7}),
    ProgressReported("progress", "half way", 50.5, {"page": 1}),
    SessionCompleted(None),
    SessionFailed(ERROR),
]


async def test_an_unknown_session_has_no_events(journal: Journal) -> None:
    """Reading what was never written yields nothing, and is no error."""
    assert [] == await events_of(journal, "never-seen")


async def test_what_was_appended_is_read_back_in_order(journal: Journal) -> None:
    """Every event comes back equal, with its seq, instant, epoch, node and event id."""
    written = [recorded(seq) for seq in range(1, 13)]
    for event in written:
        await append(journal, event)
    assert written == await events_of(journal)


async def test_every_kind_of_event_comes_back_equal(journal: Journal) -> None:
    """Optional fields, `None` results and error records survive the journal."""
    written = [recorded(seq, event) for seq, event in enumerate(EVERY_KIND, 1)]
    await append(journal, *written)
    assert written == await events_of(journal)


async def test_tricky_values_come_back_equal(journal: Journal) -> None:
    """Empty, huge and foreign-looking values are the same values afterwards, and of the same type."""
    written = [recorded(seq, StepCompleted(f"op#{seq}", value, 1)) for seq, value in enumerate(TRICKY_RESULTS, 1)]
    await append(journal, *written)
    read = [event.event for event in await events_of(journal)]
    assert [repr(event.event) for event in written] == [repr(event) for event in read]


async def test_reading_after_a_seq_skips_up_to_and_with_it(journal: Journal) -> None:
    """`after` is exclusive, and past the end there is nothing."""
    await append(journal, *(recorded(seq) for seq in range(1, 12)))
    assert [10, 11] == [event.seq for event in await events_of(journal, after=9)]
    assert [] == await events_of(journal, after=11)


async def test_sessions_do_not_see_each_other(journal: Journal) -> None:
    """A session id that begins like another one, or holds the separators of keys, is a session of its own."""
    names = ["a", "ab", "a:g2", "a#EVENT", "A"]
    written = {name: recorded(1, started(name)) for name in names}
    for name, event in written.items():
        await append(journal, event, session_id=name)
    assert {name: [event] for name, event in written.items()} == {
        name: await events_of(journal, name) for name in names
    }


async def test_a_place_that_is_taken_conflicts_and_shows_who_took_it(journal: Journal) -> None:
    """The second writer of a seq gets `JournalConflict` with the first one's event, which stands unchanged (I1)."""
    first, second = recorded(1), recorded(1, started("other"), epoch=2, node="node-b")
    await append(journal, first)
    with pytest.raises(JournalConflict) as conflict:
        await append(journal, second)
    assert (SESSION, first) == (conflict.value.session_id, conflict.value.existing)
    assert [first] == await events_of(journal)


async def test_the_same_event_again_is_no_conflict(journal: Journal) -> None:
    """An append whose answer was lost is repeated under its event id, and changes nothing."""
    first = recorded(1)
    await append(journal, first)
    await append(journal, first)
    assert [first] == await events_of(journal)


async def test_several_events_again_are_no_conflict(journal: Journal) -> None:
    """A decision of several events is recognised as our own as well."""
    first, rest = recorded(1), [recorded(2), recorded(3), recorded(4)]
    await append(journal, first)
    await append(journal, *rest)
    await append(journal, *rest)
    assert [first, *rest] == await events_of(journal)


async def test_several_events_are_written_all_or_none(journal: Journal) -> None:
    """One taken place among several keeps all of them out."""
    standing = [recorded(1), recorded(2, node="node-b")]
    await append(journal, *standing)
    with pytest.raises(JournalConflict) as conflict:
        await append(journal, recorded(2), recorded(3))
    assert standing[1] == conflict.value.existing
    assert standing == await events_of(journal)


async def test_an_event_that_stands_already_does_not_vouch_for_those_after_it(journal: Journal) -> None:
    """Returning means that every event is durable: one that stands already does not vouch for those after it."""
    ours, more = recorded(1), recorded(2)
    await append(journal, ours)
    await append(journal, ours, more)
    assert [ours, more] == await events_of(journal)


async def test_a_resumption_fences_the_former_owner(journal: Journal) -> None:
    """Once the new epoch's event is durable, the old owner's next append fails and shows that epoch (I7)."""
    await append(journal, recorded(1))
    resumption = resumed(2, epoch=2, node="node-b")
    await append(journal, resumption)
    with pytest.raises(JournalConflict) as conflict:
        await append(journal, recorded(2))
    assert (2, "node-b") == (conflict.value.existing.epoch, conflict.value.existing.node)


async def test_of_many_writers_of_one_place_exactly_one_wins(journal: Journal) -> None:
    """Ten racing writers: one event stands, nine are told which one it is."""
    rivals = [recorded(1, started(n), node=f"node-{n}") for n in range(10)]
    outcomes = await asyncio.gather(*(append(journal, event) for event in rivals), return_exceptions=True)
    (standing,) = await events_of(journal)
    assert [rivals.index(standing)] == [n for n, outcome in enumerate(outcomes) if outcome is None]
    refused = [outcome.existing for outcome in outcomes if isinstance(outcome, JournalConflict)]
    assert [standing] * 9 == refused


async def test_many_sessions_append_at_once(journal: Journal) -> None:
    """What leaves together in one request lands in its own session each."""
    written = {f"session-{n}": recorded(1, started(n)) for n in range(60)}
    await asyncio.gather(*(append(journal, event, session_id=name) for name, event in written.items()))
    assert {name: [event] for name, event in written.items()} == {
        name: await events_of(journal, name) for name in written
    }


async def test_a_conflict_among_many_sessions_hits_that_session_alone(journal: Journal) -> None:
    """A write that fails its condition fails alone, whatever travels with it."""
    taken = recorded(1, node="node-b")
    await append(journal, taken, session_id="session-7")
    outcomes = await asyncio.gather(
        *(append(journal, recorded(1), session_id=f"session-{n}") for n in range(20)), return_exceptions=True
    )
    assert [7] == [n for n, outcome in enumerate(outcomes) if isinstance(outcome, JournalConflict)]
    assert 19 == outcomes.count(None)


async def test_an_instant_of_another_zone_is_read_back_as_the_same_moment(journal: Journal) -> None:
    """Instants keep their milliseconds, whatever their zone was."""
    at = START.astimezone(timezone(timedelta(hours=5, minutes=45)))
    await append(journal, replace(recorded(1), at=at))
    assert [START] == [event.at for event in await events_of(journal)]
