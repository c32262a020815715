"""What `Quotas` keeps: slots, their count, and the queue for them; all that changes together (I10, rule 9)."""

import asyncio
from datetime import datetime, timedelta

import pytest

from orchestrator.cluster import Head, Heads, NotOwner
from orchestrator.session.transitions import SessionStatus
from orchestrator.tenants import DISMISSED, SLOT, Quota, Quotas
from tests.contract.stage import LIMIT_DEFAULT, head
from tests.contract.waiting import START

LATER = START + timedelta(minutes=5)
SECOND = timedelta(seconds=1)


def running(session_id: str, *, tenant: str = "acme", nonce: str = "") -> Head:
    """Return the HEAD of a session that runs in a slot of its own."""
    return head(session_id, tenant=tenant, nonce=nonce or f"nonce of {session_id}", attributes={SLOT: True})


def queued(session_id: str, *, tenant: str = "acme", since: datetime = START) -> Head:
    """Return the HEAD of a session that waits for a slot."""
    return head(
        session_id,
        tenant=tenant,
        status=SessionStatus.QUEUED,
        owner=None,
        nonce=f"nonce of {session_id}",
        created_at=since,
        updated_at=since,
        wake_at=since + timedelta(seconds=30),
    )


async def promote(quotas: Quotas, seen: Head, *, node_id: str | None = "node-b") -> Head | None:
    """Promote it at `LATER` under a nonce that no other promotion has."""
    return await quotas.promote(seen, node_id=node_id, nonce=f"{node_id} takes {seen.session_id}", at=LATER)


async def counts(quotas: Quotas, tenant: str = "acme") -> tuple[int, int]:
    """Return how many slots are used and how many sessions wait."""
    quota = await quotas.get(tenant)
    return quota.used, quota.queued


async def fill(quotas: Quotas, *waiting: str) -> list[Head]:
    """Take both slots of the tenant and let others wait, a second apart; return the HEADs of these."""
    assert await quotas.admit(running("first")) is not None
    assert await quotas.admit(running("second")) is not None
    heads = [queued(session_id, since=START + n * SECOND) for n, session_id in enumerate(waiting)]
    for each in heads:
        assert each == await quotas.enqueue(each)
    return heads


async def test_a_tenant_nobody_knows_has_the_default_limit_and_nothing_in_use(quotas: Quotas) -> None:
    """No item is needed for that."""
    assert Quota("acme", LIMIT_DEFAULT) == await quotas.get("acme")


async def test_sessions_are_admitted_up_to_the_limit(quotas: Quotas, heads: Heads) -> None:
    """HEAD and slot come together or not at all."""
    assert running("a") == await quotas.admit(running("a"))
    assert running("b") == await quotas.admit(running("b"))
    assert await quotas.admit(running("c")) is None
    assert running("a") == await heads.get("a")
    assert await heads.get("c") is None
    assert (2, 0) == await counts(quotas)


async def test_the_slots_of_one_tenant_are_not_those_of_another(quotas: Quotas) -> None:
    """One whose slots are all taken takes nothing from others."""
    await fill(quotas, "third")
    assert await quotas.admit(running("a", tenant="other")) is not None
    assert (1, 0) == await counts(quotas, "other")


async def test_a_session_that_was_admitted_before_takes_no_second_slot(quotas: Quotas) -> None:
    """The HEAD that stands there is returned: its nonce tells whose it is. It is no matter whether there is room."""
    await quotas.admit(running("a"))
    assert running("a") == await quotas.admit(running("a", nonce="another"))
    await quotas.admit(running("b"))
    assert running("a") == await quotas.admit(running("a", nonce="another"))
    assert running("a") == await quotas.enqueue(queued("a"))
    assert (2, 0) == await counts(quotas)


async def test_nobody_waits_while_there_is_room(quotas: Quotas, heads: Heads) -> None:
    """A slot that was given back since it was asked for is taken, not waited for."""
    assert await quotas.enqueue(queued("a")) is None
    await quotas.admit(running("b"))
    assert await quotas.enqueue(queued("a")) is None
    assert await heads.get("a") is None
    assert (1, 0) == await counts(quotas)


async def test_who_finds_no_room_waits_and_is_listed_in_order_of_arrival(quotas: Quotas, heads: Heads) -> None:
    """Whatever the order in which the waits were recorded, and whatever the ids are."""
    await fill(quotas)
    for session_id, seconds in (("a", 2), ("c", 0), ("b", 1)):
        await quotas.enqueue(queued(session_id, since=START + seconds * SECOND))
    assert ("c", "b", "a") == await quotas.oldest("acme", 10)
    assert ("c", "b") == await quotas.oldest("acme", 2)
    assert () == await quotas.oldest("other", 10)
    assert (2, 3) == await counts(quotas)
    page = await heads.listing(status=SessionStatus.QUEUED, session_type=None, tenant="acme", cursor=None, limit=10)
    assert ["a", "b", "c"] == [each.session_id for each in page.heads]


async def test_an_id_with_signs_in_it_is_found_in_the_queue(quotas: Quotas) -> None:
    """Colons, dots and dashes are no separators."""
    waiting = await fill(quotas, "a:b.c-d_e:g")
    assert ("a:b.c-d_e:g",) == await quotas.oldest("acme", 10)
    await quotas.free("acme", "first")
    assert await promote(quotas, waiting[0]) is not None


async def test_a_session_that_waits_twice_waits_once(quotas: Quotas) -> None:
    """A start that repeats finds its HEAD."""
    waiting = await fill(quotas, "a")
    assert waiting[0] == await quotas.enqueue(queued("a", since=LATER))
    assert waiting[0] == await quotas.admit(running("a"))
    assert (2, 1) == await counts(quotas)


async def test_nobody_overtakes_those_who_wait(quotas: Quotas) -> None:
    """A slot that is free is theirs: whoever comes now waits behind them."""
    waiting = await fill(quotas, "a")
    await quotas.free("acme", "first")
    assert await quotas.admit(running("b")) is None
    assert await quotas.enqueue(queued("b", since=LATER)) is not None
    assert ("a", "b") == await quotas.oldest("acme", 10)
    assert await promote(quotas, waiting[0]) is not None
    assert (2, 1) == await counts(quotas)


async def test_a_slot_is_given_back_once(quotas: Quotas) -> None:
    """Told twice, or of a session that has none, it changes nothing."""
    await fill(quotas)
    for session_id in ("first", "first", "nobody"):
        await quotas.free("acme", session_id)
    await quotas.free("nobody", "first")
    assert (1, 0) == await counts(quotas)
    assert (0, 0) == await counts(quotas, "nobody")
    assert await quotas.admit(running("b")) is not None


async def test_a_promoted_session_is_claimed_and_has_a_slot(quotas: Quotas, heads: Heads) -> None:
    """The next epoch, this owner, nothing due: as a claim; and it is in the queue no more."""
    (waiting,) = await fill(quotas, "a")
    await quotas.free("acme", "first")
    promoted = await promote(quotas, waiting)
    assert promoted is not None
    assert promoted == await heads.get("a")
    assert ("node-b", 2, SessionStatus.RUNNING, None) == (
        promoted.owner,
        promoted.epoch,
        promoted.status,
        promoted.wake_at,
    )
    assert {SLOT: True} == promoted.attributes
    assert () == await quotas.oldest("acme", 10)
    assert (2, 0) == await counts(quotas)


async def test_a_session_is_promoted_for_whoever_has_room(quotas: Quotas, heads: Heads) -> None:
    """Without a node it is due at once, in a slot, and nobody's."""
    (waiting,) = await fill(quotas, "a")
    await quotas.free("acme", "first")
    promoted = await promote(quotas, waiting, node_id=None)
    assert promoted is not None
    assert promoted == await heads.get("a")
    assert (None, 2, SessionStatus.RUNNING, LATER) == (
        promoted.owner,
        promoted.epoch,
        promoted.status,
        promoted.wake_at,
    )
    assert ["a"] == [session_id async for session_id in heads.due(LATER)]


async def test_nobody_is_promoted_without_a_free_slot(quotas: Quotas, heads: Heads) -> None:
    """It waits as before."""
    (waiting,) = await fill(quotas, "a")
    assert await promote(quotas, waiting) is None
    assert waiting == await heads.get("a")
    assert (2, 1) == await counts(quotas)


async def test_a_session_is_promoted_once(quotas: Quotas) -> None:
    """Who comes second finds it taken, though another slot is free."""
    (waiting,) = await fill(quotas, "a")
    await quotas.free("acme", "first")
    await quotas.free("acme", "second")
    assert await promote(quotas, waiting) is not None
    with pytest.raises(NotOwner):
        await promote(quotas, waiting, node_id="node-c")
    with pytest.raises(NotOwner):
        await quotas.dismiss(waiting, node_id="node-c", nonce="n", at=LATER)
    assert (1, 0) == await counts(quotas)


async def test_a_message_that_came_since_head_was_read_is_not_lost_in_a_promotion(quotas: Quotas, heads: Heads) -> None:
    """Whoever promotes looks again, and then knows that there is something in the inbox."""
    (waiting,) = await fill(quotas, "a")
    await quotas.free("acme", "first")
    assert await heads.bump_inbox("a") is not None
    for change in (promote(quotas, waiting), quotas.dismiss(waiting, node_id="node-b", nonce="n", at=LATER)):
        with pytest.raises(NotOwner):
            await change
    seen = await heads.get("a")
    assert seen is not None
    promoted = await promote(quotas, seen)
    assert promoted is not None
    assert 1 == promoted.inbox_version


async def test_one_whose_instant_was_put_off_is_promoted_all_the_same(quotas: Quotas, heads: Heads) -> None:
    """And is not due after that."""
    (waiting,) = await fill(quotas, "a")
    await heads.make_due(waiting, at=LATER)
    await quotas.free("acme", "first")
    assert await promote(quotas, waiting) is not None
    assert [] == [session_id async for session_id in heads.due(LATER + timedelta(days=1))]


async def test_a_queued_session_is_dismissed_without_a_slot(quotas: Quotas, heads: Heads) -> None:
    """It leaves the queue, is claimed, and is marked as one whose handler never runs."""
    (waiting, _) = await fill(quotas, "a", "b")
    dismissed = await quotas.dismiss(waiting, node_id="node-b", nonce="n", at=LATER)
    assert dismissed == await heads.get("a")
    assert ("node-b", 2, SessionStatus.RUNNING) == (dismissed.owner, dismissed.epoch, dismissed.status)
    assert {DISMISSED: True} == dismissed.attributes
    assert ("b",) == await quotas.oldest("acme", 10)
    assert (2, 1) == await counts(quotas)


async def test_a_limit_of_ones_own_counts_instead_of_the_default(quotas: Quotas) -> None:
    """Greater or smaller, before the tenant's first session or after."""
    assert Quota("acme", 1, is_own=True) == await quotas.set_limit("acme", 1, at=START)
    assert await quotas.admit(running("a")) is not None
    assert await quotas.admit(running("b")) is None
    assert Quota("acme", 3, is_own=True, used=1) == await quotas.set_limit("acme", 3, at=LATER)
    for session_id in "bc":
        assert await quotas.admit(running(session_id)) is not None
    assert await quotas.admit(running("d")) is None


async def test_a_limit_below_what_is_in_use_takes_nothing_away(quotas: Quotas) -> None:
    """Nobody new is let in until enough have ended."""
    (waiting,) = await fill(quotas, "a")
    await quotas.set_limit("acme", 1, at=LATER)
    await quotas.free("acme", "first")
    assert await promote(quotas, waiting) is None
    await quotas.free("acme", "second")
    assert await promote(quotas, waiting) is not None
    assert (1, 0) == await counts(quotas)


async def test_a_limit_of_zero_is_none(quotas: Quotas) -> None:
    """Whoever waits may run, and nobody has to wait."""
    (waiting,) = await fill(quotas, "a")
    assert Quota("acme", 0, is_own=True, used=2, queued=1) == await quotas.set_limit("acme", 0, at=LATER)
    assert await promote(quotas, waiting) is not None
    assert await quotas.admit(running("b")) is not None
    assert await quotas.enqueue(queued("c")) is None
    assert (4, 0) == await counts(quotas)


async def test_tenants_with_a_limit_and_without_are_found(quotas: Quotas) -> None:
    """By what was set last; one for whom nothing was set is in neither list."""
    await quotas.admit(running("a", tenant="nobody"))
    await quotas.set_limit("acme", 3, at=START)
    await quotas.set_limit("free", 0, at=START)
    await quotas.set_limit("other", 0, at=START)
    await quotas.set_limit("other", 5, at=LATER)
    assert {"acme", "other"} == {tenant async for tenant in quotas.tenants(limited=True)}
    assert {"free"} == {tenant async for tenant in quotas.tenants(limited=False)}


@pytest.mark.usefixtures("isolated")
async def test_many_at_once_get_no_more_slots_than_there_are(quotas: Quotas) -> None:
    """Ten ask at once; each is in or has to wait, and the count is right."""
    await quotas.set_limit("acme", 3, at=START)
    admitted = await asyncio.gather(*(quotas.admit(running(f"s{n}")) for n in range(10)))
    assert 3 == sum(each is not None for each in admitted)
    assert (3, 0) == await counts(quotas)


@pytest.mark.usefixtures("isolated")
async def test_of_many_nodes_that_promote_a_session_one_gets_it(quotas: Quotas) -> None:
    """All see the same one at the head of the queue."""
    (waiting,) = await fill(quotas, "a")
    await quotas.free("acme", "first")
    await quotas.free("acme", "second")
    outcomes = await asyncio.gather(
        *(promote(quotas, waiting, node_id=f"node-{n}") for n in range(4)), return_exceptions=True
    )
    assert 1 == sum(isinstance(each, Head) for each in outcomes)
    assert 3 == sum(isinstance(each, NotOwner) for each in outcomes)
    assert (1, 0) == await counts(quotas)


@pytest.mark.usefixtures("isolated")
async def test_a_slot_that_everybody_gives_back_at_once_is_given_back_once(quotas: Quotas) -> None:
    """The count is exact and never below nothing, and each of those who wait gets in once."""
    waiting = await fill(quotas, "a", "b", "c")
    await asyncio.gather(*(quotas.free("acme", "first") for _ in range(10)))
    assert (1, 3) == await counts(quotas)
    for seen in waiting:
        promoted = await asyncio.gather(
            *(promote(quotas, seen, node_id=f"node-{n}") for n in range(4)),
            *(quotas.free("acme", "first") for _ in range(4)),
            return_exceptions=True,
        )
        assert 1 == sum(isinstance(each, Head) for each in promoted)
        assert not [each for each in promoted if isinstance(each, Exception) and not isinstance(each, NotOwner)]
        await asyncio.gather(*(quotas.free("acme", seen.session_id) for _ in range(10)))
    assert (1, 0) == await counts(quotas)
    await asyncio.gather(*(quotas.free("acme", each) for each in ("first", "second", "a", "b", "c") * 5))
    assert (0, 0) == await counts(quotas)
