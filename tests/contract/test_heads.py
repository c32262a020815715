"""What `Heads` keeps: who owns a session, and on what each write depends (rules 1, 2, 8, 12, 13; I7)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from orchestrator.cluster import ENDS_NOW, Head, Heads, NotOwner
from orchestrator.session.transitions import SessionStatus
from tests.contract.head_stage import HOUR, LATER, claim, end, listed, release
from tests.contract.stage import SESSION, head, ids
from tests.contract.waiting import START

MILLISECOND = timedelta(milliseconds=1)

Change = Callable[[Heads, Head], Awaitable[Head]]


def settle_takeovers(heads: Heads, seen: Head) -> Awaitable[Head]:
    return heads.settle_takeovers(seen)


def end_owing(heads: Heads, seen: Head, *outbox: str) -> Awaitable[Head]:
    return heads.end(
        seen, SessionStatus.COMPLETED, last_seq=9, at=LATER, outbox=outbox or ("note-1",), wake_at=LATER + HOUR
    )


def settle_outbox(heads: Heads, seen: Head) -> Awaitable[Head]:
    return heads.settle_outbox(replace(seen, status=SessionStatus.COMPLETED), ())


def annotate(heads: Heads, seen: Head) -> Awaitable[Head]:
    return heads.annotate(seen, seen.attributes)


CHANGES = [claim, end, end_owing, release, settle_takeovers, settle_outbox, annotate]

every_change = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)


async def bump(heads: Heads) -> Head:
    bumped = await heads.bump_inbox(SESSION)
    assert bumped is not None
    return bumped


# --- the insert ------------------------------------------------------------------------------------------------------


async def test_an_unknown_session_has_no_head(heads: Heads) -> None:
    """`get` returns `None`, and is no error."""
    assert await heads.get("never-seen") is None


async def test_a_created_head_is_read_back_equal(heads: Heads) -> None:
    """Every attribute comes back, the absent ones as absent."""
    plain = head("plain", owner=None)
    full = replace(
        head("full", wake_at=LATER, inbox_version=3, takeovers=2, attributes={"why": "日本", "n": 10**40, "x": None}),
        continued_as="full:g2",
        last_seq=12_345,
        outbox=("started", "日本", "ended"),
    )
    assert [plain, full] == [await heads.create(plain), await heads.create(full)]
    assert [plain, full] == [await heads.get("plain"), await heads.get("full")]


async def test_a_session_that_waits_for_its_turn_is_created_queued_and_due(heads: Heads) -> None:
    """It has no owner, is listed as queued, and comes up again by itself."""
    queued = await heads.create(head(owner=None, status=SessionStatus.QUEUED, wake_at=LATER))
    assert queued == await heads.get(SESSION)
    assert [SESSION] == await ids(heads.due(LATER))
    assert [SESSION] == [each.session_id for each in (await listed(heads, status="QUEUED")).heads]


async def test_a_second_insert_returns_the_first_and_changes_nothing(heads: Heads) -> None:
    """The nonce of what comes back tells who created the session (rule 2)."""
    first, second = head(nonce="mine"), head(nonce="theirs", owner="node-b")
    await heads.create(first)
    assert first == await heads.create(second)
    assert first == await heads.get(SESSION)


async def test_the_same_insert_again_returns_ones_own_nonce(heads: Heads) -> None:
    """An insert whose answer was lost is read back as a success (rule 2)."""
    mine = head(nonce="mine")
    await heads.create(mine)
    assert mine == await heads.create(mine)


@pytest.mark.usefixtures("isolated")
async def test_of_many_creators_exactly_one_finds_its_own_nonce(heads: Heads) -> None:
    """Ten racing inserts: all are told the same HEAD."""
    rivals = [head(nonce=f"nonce-{n}", owner=f"node-{n}") for n in range(10)]
    told = await asyncio.gather(*(heads.create(rival) for rival in rivals))
    assert [await heads.get(SESSION)] * 10 == told
    assert 1 == sum(rival.claim_nonce == got.claim_nonce for rival, got in zip(rivals, told, strict=True))


# --- every other write -----------------------------------------------------------------------------------------------


@every_change
async def test_a_change_of_an_unknown_session_creates_nothing(heads: Heads, change: Change) -> None:
    """Every write but the insert requires that HEAD exists (rule 1)."""
    with pytest.raises(NotOwner):
        await change(heads, head(takeovers=3))
    assert await heads.get(SESSION) is None
    assert [] == await ids(heads.owned_by("node-b"))
    assert () == (await listed(heads)).heads


async def test_changes_of_unknown_sessions_that_travel_together_create_nothing(heads: Heads) -> None:
    """Rule 1 holds for what leaves in one request, too; and what is known among them is changed."""
    await heads.create(head("known"))
    outcomes = await asyncio.gather(
        *(end(heads, head(name)) for name in ("unknown-1", "known", "unknown-2", "unknown-3")), return_exceptions=True
    )
    assert [True, False, True, True] == [isinstance(outcome, NotOwner) for outcome in outcomes]
    assert [None, None, None] == [await heads.get(f"unknown-{n}") for n in (1, 2, 3)]
    assert ["known"] == [each.session_id for each in (await listed(heads)).heads]


@every_change
async def test_a_change_under_an_older_epoch_is_refused(heads: Heads, change: Change) -> None:
    """Who lost the session to a claim cannot write its HEAD any more (I7)."""
    old = await heads.create(head(takeovers=3))
    new = await heads.claim(old, node_id="node-c", nonce="nonce-c", at=LATER, from_dead_owner=False)
    with pytest.raises(NotOwner):
        await change(heads, old)
    assert new == await heads.get(SESSION)


@every_change
async def test_a_change_returns_head_as_it_stands_then(heads: Heads, change: Change) -> None:
    """What a write returns is what a read finds."""
    seen = await heads.create(head(takeovers=3, attributes={"kept": True}))
    changed = await change(heads, seen)
    assert changed == await heads.get(SESSION)
    assert {"kept": True} == changed.attributes


@pytest.mark.parametrize("change", [end, end_owing, release], ids=["end", "end_owing", "release"])
async def test_giving_up_is_refused_when_a_delivery_came_in_between(heads: Heads, change: Change) -> None:
    """The inbox version is a condition of every passivation and end (rule 8)."""
    standing = await heads.create(head(inbox_version=4))
    with pytest.raises(NotOwner):
        await change(heads, replace(standing, inbox_version=3))
    assert standing == await heads.get(SESSION)


async def test_a_claim_takes_over_with_the_next_epoch(heads: Heads) -> None:
    """Owner, epoch and nonce are the claimer's, the session runs, nothing is due (rule 13)."""
    seen = await heads.create(head(owner=None, status=SessionStatus.SUSPENDED, epoch=6, wake_at=LATER))
    claimed = await claim(heads, seen)
    expected = replace(
        seen,
        owner="node-b",
        epoch=7,
        claim_nonce="nonce-2",
        status=SessionStatus.RUNNING,
        wake_at=None,
        updated_at=LATER,
    )
    assert expected == claimed


@pytest.mark.parametrize(("from_dead_owner", "takeovers"), [(True, 3), (False, 2)])
async def test_only_a_claim_from_a_dead_owner_counts_as_takeover(
    heads: Heads, from_dead_owner: bool, takeovers: int
) -> None:
    """Healthy wakes and drains do not count (rule 12)."""
    seen = await heads.create(head(takeovers=2))
    claimed = await heads.claim(seen, node_id="node-b", nonce="n", at=LATER, from_dead_owner=from_dead_owner)
    assert takeovers == claimed.takeovers


@pytest.mark.parametrize(
    ("owner", "epoch"), [("node-x", 1), (None, 1), ("node-a", 2), ("node-a", 0)], ids=["owner", "none", "later", "past"]
)
async def test_a_claim_of_what_was_misread_is_refused(heads: Heads, owner: str | None, epoch: int) -> None:
    """Owner and epoch must still be what was read."""
    standing = await heads.create(head())
    with pytest.raises(NotOwner):
        await claim(heads, replace(standing, owner=owner, epoch=epoch))
    assert standing == await heads.get(SESSION)


@pytest.mark.usefixtures("isolated")
async def test_of_many_claimers_exactly_one_wins(heads: Heads) -> None:
    """Ten survivors claim the same orphan: one epoch, one owner, nine are refused (rule 2)."""
    seen = await heads.create(head())
    claims = [
        heads.claim(seen, node_id=f"node-{n}", nonce=f"nonce-{n}", at=LATER, from_dead_owner=True) for n in range(10)
    ]
    outcomes = await asyncio.gather(*claims, return_exceptions=True)
    won = [outcome for outcome in outcomes if isinstance(outcome, Head)]
    assert [await heads.get(SESSION)] == won
    assert 9 == sum(isinstance(outcome, NotOwner) for outcome in outcomes)


async def test_claims_that_travel_together_return_the_inbox_version_that_stands(heads: Heads) -> None:
    """A message that came after HEAD was read left its note with the dead owner: its claimer must learn of it (I9)."""
    read = [await heads.create(head(name)) for name in ("session-1", "session-2", "session-3")]
    await bump(heads)
    taken = await asyncio.gather(
        *(heads.claim(seen, node_id="node-b", nonce="n", at=LATER, from_dead_owner=True) for seen in read)
    )
    assert [1, 0, 0] == [claimed.inbox_version for claimed in taken]
    assert [await heads.get(seen.session_id) for seen in read] == taken


async def test_an_end_leaves_no_owner_and_nothing_due(heads: Heads) -> None:
    """The session's last seq and status stand in HEAD, and no index of open work finds it."""
    seen = await heads.create(head(wake_at=LATER))
    expected = replace(seen, status=SessionStatus.COMPLETED, owner=None, last_seq=9, wake_at=None, updated_at=LATER)
    assert expected == await end(heads, seen)
    assert [] == await ids(heads.owned_by("node-a"))
    assert [] == await ids(heads.due(LATER + HOUR))


async def test_an_end_that_goes_on_elsewhere_says_where(heads: Heads) -> None:
    """Reads and deliveries follow `continued_as`."""
    seen = await heads.create(head())
    continued = await heads.end(seen, SessionStatus.CONTINUED, last_seq=9, at=LATER, continued_as="session-1:g2")
    assert (SessionStatus.CONTINUED, "session-1:g2") == (continued.status, continued.continued_as)
    assert continued == await heads.get(SESSION)


async def test_a_release_leaves_no_owner_and_is_due_when_asked(heads: Heads) -> None:
    """A suspended session is found by its wake-up, and by no owner."""
    seen = await heads.create(head())
    released = await heads.release(
        seen, SessionStatus.BLOCKED, last_seq=5, at=LATER, wake_at=LATER + HOUR, attributes={"blocked": "step"}
    )
    expected = replace(
        seen,
        status=SessionStatus.BLOCKED,
        owner=None,
        last_seq=5,
        wake_at=LATER + HOUR,
        updated_at=LATER,
        attributes={"blocked": "step"},
    )
    assert expected == released == await heads.get(SESSION)
    assert [] == await ids(heads.owned_by("node-a"))
    assert [SESSION] == await ids(heads.due(LATER + HOUR))


async def test_attributes_are_emptied_by_an_empty_mapping(heads: Heads) -> None:
    """`None` keeps them, an empty mapping takes them away."""
    seen = await heads.create(head(attributes={"blocked": "step"}))
    await heads.release(seen, SessionStatus.SUSPENDED, last_seq=5, at=LATER, wake_at=None, attributes={})
    standing = await heads.get(SESSION)
    assert standing is not None
    assert {} == standing.attributes


async def test_takeovers_settle_at_one(heads: Heads) -> None:
    """Progress since the last takeover starts the count again, at the takeover that was survived (rule 12)."""
    seen = await heads.create(head(takeovers=4))
    assert replace(seen, takeovers=1) == await heads.settle_takeovers(seen)


async def test_takeovers_that_are_settled_already_stay_so(heads: Heads) -> None:
    """A write that changes nothing is still a write that says whether HEAD is ours."""
    seen = await heads.create(head(takeovers=1))
    assert seen == await heads.settle_takeovers(seen)


# --- the outbox of an end --------------------------------------------------------------------------------------------


async def test_an_end_with_an_outbox_is_due_after_its_grace(heads: Heads) -> None:
    """No owner; until the grace is over nobody is told to send what its writer is sending (rule 13)."""
    seen = await heads.create(head())
    ended = await end_owing(heads, seen, "note-1", "note-2")
    expected = replace(
        seen,
        status=SessionStatus.COMPLETED,
        owner=None,
        last_seq=9,
        wake_at=LATER + HOUR,
        updated_at=LATER,
        outbox=("note-1", "note-2"),
    )
    assert expected == ended == await heads.get(SESSION)
    assert [] == await ids(heads.due(LATER + HOUR - MILLISECOND))
    assert [SESSION] == await ids(heads.due(LATER + HOUR))


@pytest.mark.parametrize(
    ("outbox", "wake_at"), [(("note-1",), None), ((), LATER)], ids=["never due", "due for nothing"]
)
async def test_an_end_is_due_for_its_outbox_alone(
    heads: Heads, outbox: tuple[str, ...], wake_at: datetime | None
) -> None:
    """An outbox that is never due would be lost with its writer; an end due for nothing would be looked at for ever."""
    seen = await heads.create(head())
    with pytest.raises(AssertionError, match="outbox"):
        await heads.end(seen, SessionStatus.COMPLETED, last_seq=9, at=LATER, outbox=outbox, wake_at=wake_at)
    assert seen == await heads.get(SESSION)


async def test_a_claim_of_an_ended_session_keeps_its_end_and_its_outbox(heads: Heads) -> None:
    """It is claimed in order to send; nothing but the ownership changes, and nobody else is told to."""
    ended = await end_owing(heads, await heads.create(head()))
    claimed = await heads.claim(ended, node_id="node-b", nonce="nonce-2", at=LATER + HOUR, from_dead_owner=False)
    expected = replace(ended, owner="node-b", epoch=2, claim_nonce="nonce-2", wake_at=None)
    assert expected == claimed == await heads.get(SESSION)
    assert [] == await ids(heads.due(LATER + 2 * HOUR))
    assert [SESSION] == await ids(heads.owned_by("node-b"))


async def test_what_is_left_of_an_outbox_stays_due(heads: Heads) -> None:
    """Half of it is sent: whoever takes over sends the rest."""
    ended = await end_owing(heads, await heads.create(head()), "note-1", "note-2")
    later = LATER + 2 * HOUR
    settled = await heads.settle_outbox(ended, ("note-2",), wake_at=later, attributes={"tries": 1})
    expected = replace(ended, outbox=("note-2",), wake_at=later, attributes={"tries": 1})
    assert expected == settled == await heads.get(SESSION)
    assert [] == await ids(heads.due(later - timedelta(seconds=1)))
    assert [SESSION] == await ids(heads.due(later))


async def test_what_is_left_of_a_claimed_outbox_is_given_up_by_its_owner(heads: Heads) -> None:
    """Nobody keeps a session in memory only to try again later; what HEAD says besides stays."""
    ended = await end_owing(heads, await heads.create(replace(head(), attributes={"kept": True})), "note-1", "note-2")
    claimed = await claim(heads, ended)
    settled = await heads.settle_outbox(claimed, ("note-2",), wake_at=LATER + HOUR)
    assert replace(claimed, outbox=("note-2",), owner=None, wake_at=LATER + HOUR) == settled
    assert {"kept": True} == settled.attributes
    assert [] == await ids(heads.owned_by("node-b"))


async def test_an_outbox_is_left_due_and_an_empty_one_is_not(heads: Heads) -> None:
    """One that nobody would ever look at again, or look at for nothing, is a bug of the caller's."""
    ended = await end_owing(heads, await heads.create(head()))
    with pytest.raises(AssertionError, match="due"):
        await heads.settle_outbox(ended, ("note-1",))
    with pytest.raises(AssertionError, match="due"):
        await heads.settle_outbox(ended, (), wake_at=LATER)


async def test_a_note_on_head_changes_nothing_else(heads: Heads) -> None:
    """Neither its owner nor what came into its inbox meanwhile, which the writer has not seen."""
    seen = await heads.create(head())
    await heads.bump_inbox(SESSION)
    noted = await heads.annotate(seen, {"undelivered": {"topic": 3}})
    expected = replace(seen, inbox_version=seen.inbox_version + 1, attributes={"undelivered": {"topic": 3}})
    assert expected == noted == await heads.get(SESSION)
    assert {} == (await heads.annotate(noted, {})).attributes


@pytest.mark.parametrize("is_claimed", [False, True], ids=["by its writer", "by a claimer"])
async def test_an_empty_outbox_leaves_no_owner_and_nothing_due(heads: Heads, is_claimed: bool) -> None:
    """No index of open work finds the session any more."""
    ended = await end_owing(heads, await heads.create(head()))
    before = await claim(heads, ended) if is_claimed else ended
    settled = await heads.settle_outbox(before, ())
    assert replace(before, owner=None, wake_at=None, outbox=()) == settled == await heads.get(SESSION)
    assert [] == await ids(heads.owned_by("node-b"))
    assert [] == await ids(heads.due(LATER + 2 * HOUR))


async def test_an_outbox_that_is_settled_already_is_settled_again(heads: Heads) -> None:
    """A settlement whose answer was lost is repeated, and changes nothing."""
    ended = await end_owing(heads, await heads.create(head()))
    settled = await heads.settle_outbox(ended, ())
    assert settled == await heads.settle_outbox(ended, ()) == await heads.settle_outbox(settled, ())


async def test_an_outbox_that_somebody_claimed_is_not_its_writers_to_settle(heads: Heads) -> None:
    """The writer that comes back after its grace learns that a later epoch sends now (I7)."""
    ended = await end_owing(heads, await heads.create(head()))
    claimed = await claim(heads, ended)
    with pytest.raises(NotOwner):
        await heads.settle_outbox(ended, ())
    assert claimed == await heads.get(SESSION)


async def test_an_open_session_has_no_outbox_to_settle(heads: Heads) -> None:
    """Settling it would give up its owner: that is a bug of the caller's."""
    seen = await heads.create(head())
    with pytest.raises(AssertionError, match="open"):
        await heads.settle_outbox(seen, ())
    assert seen == await heads.get(SESSION)


# --- deliveries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["node-a", None])
async def test_a_delivery_counts_up_the_inbox_and_is_told_the_owner(heads: Heads, owner: str | None) -> None:
    """All of HEAD comes back, whoever owns it; nothing else of it changes."""
    seen = await heads.create(head(owner=owner, inbox_version=4, attributes={"kept": True}))
    assert [5, 6] == [bumped.inbox_version for bumped in (await bump(heads), await bump(heads))]
    assert replace(seen, inbox_version=7) == await bump(heads) == await heads.get(SESSION)


async def test_a_delivery_to_an_unknown_session_creates_nothing(heads: Heads) -> None:
    """`None` says that there is nobody to deliver to (rule 1)."""
    assert await heads.bump_inbox("unknown") is None
    assert await heads.get("unknown") is None


@pytest.mark.usefixtures("isolated")
async def test_of_deliveries_at_once_each_is_told_a_version_of_its_own(heads: Heads) -> None:
    """No two share one: each makes the giving up of HEAD as read before it fail."""
    seen = await heads.create(head())
    bumped = await asyncio.gather(*(bump(heads) for _ in range(10)))
    assert set(range(1, 11)) == {each.inbox_version for each in bumped}
    with pytest.raises(NotOwner):
        await release(heads, seen)


async def test_an_unowned_session_can_be_made_due(heads: Heads) -> None:
    """A full node leaves a delivered session to whoever has room (rule 13)."""
    seen = await heads.create(head(owner=None, status=SessionStatus.SUSPENDED))
    assert replace(seen, wake_at=START) == await heads.make_due(seen, at=START) == await heads.get(SESSION)
    assert [SESSION] == await ids(heads.due(START))


async def test_a_session_that_is_due_can_be_made_due_at_another_time(heads: Heads) -> None:
    """The newest instant counts; the same one again is no error."""
    seen = await heads.create(head(owner=None, status=SessionStatus.SUSPENDED, wake_at=LATER))
    sooner = await heads.make_due(seen, at=START)
    assert [sooner, sooner] == [await heads.make_due(seen, at=START), await heads.make_due(sooner, at=START)]
    assert [SESSION] == await ids(heads.due(START))


async def test_what_is_to_end_now_is_not_put_off_by_who_has_not_seen_that(heads: Heads) -> None:
    """A signal and a kill at once: a full node would not take what is due like everything else."""
    seen = await heads.create(head(owner=None, status=SessionStatus.SUSPENDED, wake_at=LATER))
    killed = await heads.make_due(seen, at=ENDS_NOW)
    with pytest.raises(NotOwner):
        await heads.make_due(seen, at=START)
    assert killed == await heads.get(SESSION)


async def test_what_is_to_end_now_goes_before_what_was_made_due_at_once(heads: Heads) -> None:
    """The other way round, the kill counts as well; of two others, the first."""
    seen = await heads.create(head(owner=None, status=SessionStatus.SUSPENDED, wake_at=LATER))
    woken = await heads.make_due(seen, at=START)
    with pytest.raises(NotOwner):
        await heads.make_due(seen, at=START + HOUR)
    assert woken == await heads.get(SESSION)
    assert replace(woken, wake_at=ENDS_NOW) == await heads.make_due(seen, at=ENDS_NOW) == await heads.get(SESSION)


async def test_a_session_is_made_due_as_long_as_its_owner_has_it(heads: Heads) -> None:
    """Should that one be dead; but not where HEAD was read before it was claimed."""
    owned = await heads.create(head())
    with pytest.raises(NotOwner):
        await heads.make_due(replace(owned, owner=None), at=LATER)
    assert owned == await heads.get(SESSION)
    due = await heads.make_due(owned, at=ENDS_NOW)
    assert replace(owned, wake_at=ENDS_NOW, inbox_version=owned.inbox_version + 1) == due == await heads.get(SESSION)
    assert [SESSION] == await ids(heads.due(ENDS_NOW))
    taken = await claim(heads, owned)
    with pytest.raises(NotOwner):
        await heads.make_due(owned, at=ENDS_NOW)
    assert taken == await heads.get(SESSION)


async def test_what_is_to_end_now_stays_so_from_owner_to_owner(heads: Heads) -> None:
    """The one that claims it may die, too."""
    owned = await heads.create(head())
    taken = await claim(heads, await heads.make_due(owned, at=ENDS_NOW))
    assert ENDS_NOW == taken.wake_at
    assert [SESSION] == await ids(heads.due(ENDS_NOW))


@pytest.mark.parametrize(("give_up", "due_at"), [(end, None), (release, LATER + HOUR)])
async def test_who_gives_up_a_session_says_when_it_is_due(
    heads: Heads, give_up: Callable[[Heads, Head], Awaitable[Head]], due_at: datetime | None
) -> None:
    """Where it was made due since its owner read HEAD, that one has to read it again."""
    owned = await heads.create(head())
    due = await heads.make_due(owned, at=ENDS_NOW)
    with pytest.raises(NotOwner):
        await give_up(heads, owned)
    assert due_at == (await give_up(heads, due)).wake_at
    assert [] == await ids(heads.due(LATER))


async def test_a_session_that_was_owned_since_cannot_be_made_due(heads: Heads) -> None:
    """Its last owner knew better when it is due: the epoch tells."""
    seen = await heads.create(head(owner=None, status=SessionStatus.SUSPENDED))
    released = await release(heads, await claim(heads, seen))
    with pytest.raises(NotOwner):
        await heads.make_due(seen, at=START)
    assert released == await heads.get(SESSION)


async def test_an_unknown_session_cannot_be_made_due(heads: Heads) -> None:
    """Rule 1: it creates nothing."""
    with pytest.raises(NotOwner):
        await heads.make_due(head(owner=None), at=START)
    assert await heads.get(SESSION) is None


async def test_a_claim_ends_a_wake_up_that_it_has_not_seen(heads: Heads) -> None:
    """Made due between the claimer's look and its claim, the session must not stay due under its owner (rule 13)."""
    seen = await heads.create(head(owner=None, status=SessionStatus.SUSPENDED))
    await heads.make_due(seen, at=START)
    claimed = await claim(heads, seen)
    assert claimed == await heads.get(SESSION)
    assert [] == await ids(heads.due(LATER))
