"""What `Callbacks` keeps: promised answers, of which the first one wins for good (rule 10)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.callbacks import TOKENS_MAX, Callback, Callbacks
from tests.contract.stage import Store
from tests.contract.waiting import START

ID = "callback-1"
EXPIRES_AT = START + timedelta(days=30)
CALLBACK = Callback(ID, "session-1", "approve", frozenset({"aa"}), times_out_at=START + timedelta(hours=1))

Change = Callable[[Callbacks], Awaitable[Callback | None]]


def decide(callbacks: Callbacks) -> Awaitable[Callback | None]:
    return callbacks.decide(ID, '"late"')


def add_tokens(callbacks: Callbacks) -> Awaitable[Callback | None]:
    return callbacks.add_tokens(ID, ["late"])


def add_no_tokens(callbacks: Callbacks) -> Awaitable[Callback | None]:
    return callbacks.add_tokens(ID, [])


every_change = pytest.mark.parametrize(
    "change", [decide, add_tokens, add_no_tokens], ids=lambda change: change.__name__
)


async def issue(callbacks: Callbacks, *tokens: str) -> Callback:
    return await callbacks.issue(replace(CALLBACK, token_sha256=frozenset(tokens)), expires_at=EXPIRES_AT)


async def expire(store: Store, *tokens: str, answer: str | None = None) -> None:
    """Leave a callback behind whose life is over in this very moment."""
    await issue(store.callbacks, *tokens)
    if answer is not None:
        await store.callbacks.decide(ID, answer)
    store.clock.set_wall(EXPIRES_AT)


# --- issuing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "callback",
    [
        CALLBACK,
        Callback("Z.z_0:9-" * 16, "session:g2", "a b/日本", frozenset({"aa", "bb", "cc"})),
        Callback("bare", "s", "o", frozenset()),
        replace(CALLBACK, answer='{"why":"日本"}'),
    ],
    ids=["usual", "never times out", "no token", "answered"],
)
async def test_an_issued_callback_is_read_back_equal(callbacks: Callbacks, callback: Callback) -> None:
    """Every attribute comes back, the absent ones as absent."""
    assert callback == await callbacks.issue(callback, expires_at=EXPIRES_AT)
    assert callback == await callbacks.get(callback.callback_id)


async def test_a_callback_issued_again_keeps_every_token(callbacks: Callbacks) -> None:
    """After a crash a fresh token is handed out; the ones handed out before go on working."""
    await issue(callbacks, "aa", "bb")
    both = replace(CALLBACK, token_sha256=frozenset({"aa", "bb", "cc"}))
    assert both == await issue(callbacks, "bb", "cc") == await callbacks.get(ID)
    assert both == await issue(callbacks)


async def test_a_callback_issued_again_keeps_its_answer_and_its_timeout(callbacks: Callbacks) -> None:
    """Only tokens are added to what stands there."""
    await issue(callbacks, "aa")
    await callbacks.decide(ID, '"yes"')
    again = replace(CALLBACK, times_out_at=None, token_sha256=frozenset({"bb"}))
    expected = replace(CALLBACK, answer='"yes"', token_sha256=frozenset({"aa", "bb"}))
    assert expected == await callbacks.issue(again, expires_at=EXPIRES_AT) == await callbacks.get(ID)


async def test_a_callback_keeps_no_more_tokens_than_an_item_can_hold(callbacks: Callbacks) -> None:
    """A session that wakes a hundred thousand times would burst it; those that were handed out first go on working."""
    first = [f"{n:064x}" for n in range(TOKENS_MAX)]
    full = await issue(callbacks, *first)
    assert full == await issue(callbacks, "f" * 64) == await callbacks.get(ID)
    assert frozenset(first) == full.token_sha256


@pytest.mark.usefixtures("isolated")
async def test_of_a_callback_issued_at_once_every_token_works(callbacks: Callbacks) -> None:
    """Ten nodes that each believe to own the session: no token is lost."""
    tokens = frozenset(f"token-{n}" for n in range(10))
    told = await asyncio.gather(*(issue(callbacks, token) for token in tokens))
    assert all(token in callback.token_sha256 for token, callback in zip(tokens, told, strict=True))
    assert replace(CALLBACK, token_sha256=tokens) == await callbacks.get(ID)


@pytest.mark.parametrize(
    "other", [replace(CALLBACK, session_id="session-2"), replace(CALLBACK, operation="x")], ids=["session", "operation"]
)
async def test_a_callback_of_another_operation_gets_no_token(callbacks: Callbacks, other: Callback) -> None:
    """Ids are made so that this cannot be; where it is, nobody's token opens another's callback."""
    await issue(callbacks, "aa")
    with pytest.raises(AssertionError, match="two operations"):
        await callbacks.issue(replace(other, token_sha256=frozenset({"bb"})), expires_at=EXPIRES_AT)
    assert CALLBACK == await callbacks.get(ID)


async def test_tokens_added_work_too(callbacks: Callbacks) -> None:
    """The callback comes back with all of them; what was there already is no error."""
    await issue(callbacks, "aa")
    assert CALLBACK == await callbacks.add_tokens(ID, [])
    both = replace(CALLBACK, token_sha256=frozenset({"aa", "bb"}))
    assert both == await callbacks.add_tokens(ID, iter(["bb", "aa", "bb"])) == await callbacks.get(ID)


@every_change
async def test_an_unknown_callback_is_none_and_stays_unknown(callbacks: Callbacks, change: Change) -> None:
    """A made-up id creates nothing (rule 1)."""
    assert await change(callbacks) is None
    assert await callbacks.get(ID) is None


# --- deciding --------------------------------------------------------------------------------------------------------


async def test_the_first_answer_wins(callbacks: Callbacks) -> None:
    """Later ones are told the first, however late; what they said is nowhere."""
    await issue(callbacks, "aa")
    decided = replace(CALLBACK, answer='{"approved":true}')
    assert decided == await callbacks.decide(ID, '{"approved":true}')
    assert decided == await callbacks.decide(ID, '{"approved":false}')
    assert decided == await callbacks.decide(ID, '{"approved":true}')
    assert decided == await callbacks.get(ID)


@pytest.mark.usefixtures("isolated")
async def test_of_many_answers_at_once_all_are_told_the_one_that_won(callbacks: Callbacks) -> None:
    """Ten callers and the timer: one answer."""
    await issue(callbacks, "aa")
    told = await asyncio.gather(*(callbacks.decide(ID, str(n)) for n in range(10)))
    assert [await callbacks.get(ID)] * 10 == told
    assert told[0] is not None
    assert told[0].answer in {str(n) for n in range(10)}


async def test_callbacks_are_decided_each_alone(callbacks: Callbacks) -> None:
    """One whose id begins like another's is another."""
    names = ["c", "c1", "c11"]
    for name in names:
        await callbacks.issue(replace(CALLBACK, callback_id=name), expires_at=EXPIRES_AT)
    await callbacks.decide("c1", '"yes"')
    found = [await callbacks.get(name) for name in names]
    assert [None, '"yes"', None] == [each.answer for each in found if each]


async def test_a_timeout_that_has_passed_does_not_decide(store: Store) -> None:
    """Who decides is the session's timer, by an answer of its own: until then any answer wins."""
    await issue(store.callbacks, "aa")
    store.clock.set_wall(START + timedelta(hours=2))
    assert replace(CALLBACK, answer='"yes"') == await store.callbacks.decide(ID, '"yes"')


# --- expiring --------------------------------------------------------------------------------------------------------


@every_change
async def test_an_expired_callback_counts_as_absent(store: Store, change: Change) -> None:
    """DynamoDB deletes late: until then it is there, and to nobody's use."""
    await expire(store, "aa")
    assert await store.callbacks.get(ID) is None
    assert await change(store.callbacks) is None


@every_change
async def test_a_change_leaves_an_expired_callback_as_it_is(store: Store, change: Change) -> None:
    """A node whose clock is ahead tells its caller `None`: then it must not have decided for the others."""
    await expire(store, "aa")
    await change(store.callbacks)
    store.clock.set_wall(START)
    assert CALLBACK == await store.callbacks.get(ID)


async def test_an_expired_callback_lives_to_the_second(store: Store) -> None:
    """Up to its instant it is there."""
    await issue(store.callbacks, "aa")
    store.clock.set_wall(EXPIRES_AT - timedelta(seconds=1))
    assert CALLBACK == await store.callbacks.get(ID)


async def test_an_expired_callback_is_issued_afresh(store: Store) -> None:
    """Neither its tokens nor its answer nor its timeout come back."""
    await expire(store, "aa", answer='"old"')
    fresh = Callback(ID, "session-2", "other", frozenset({"bb"}))
    later = EXPIRES_AT + timedelta(days=30)
    assert fresh == await store.callbacks.issue(fresh, expires_at=later) == await store.callbacks.get(ID)
    assert replace(fresh, answer='"new"') == await store.callbacks.decide(ID, '"new"')


@pytest.mark.usefixtures("isolated")
async def test_of_an_expired_callback_issued_afresh_at_once_every_token_works(store: Store) -> None:
    """Who comes second to the replacement joins it."""
    await expire(store, "old")
    later = EXPIRES_AT + timedelta(days=30)
    tokens = frozenset({"aa", "bb", "cc"})
    await asyncio.gather(
        *(store.callbacks.issue(replace(CALLBACK, token_sha256=frozenset({t})), expires_at=later) for t in tokens)
    )
    assert replace(CALLBACK, token_sha256=tokens) == await store.callbacks.get(ID)
