"""What the sparse indexes over HEADs answer: who owns what, what is due, and the listing that people ask for (I8)."""

import asyncio
from datetime import timedelta
from itertools import pairwise

from orchestrator.cluster import DUE_SHARDS, Heads, Page
from orchestrator.session.transitions import ENDED, SessionStatus
from tests.contract.head_stage import HOUR, LATER, all_pages, claim, end, listed
from tests.contract.stage import SESSION, head, ids
from tests.contract.waiting import START


async def test_owned_by_follows_the_owner(heads: Heads) -> None:
    """Each session is listed under its present owner alone; unowned ones under nobody (I8)."""
    for n in range(30):
        await heads.create(head(f"session-{n}", owner=f"node-{'abc'[n % 3]}" if n % 4 else None))
    moving = await heads.get("session-1")
    assert moving is not None
    await heads.claim(moving, node_id="node-c", nonce="n", at=LATER, from_dead_owner=True)
    expected = {f"session-{n}" for n in range(30) if n % 4 and n % 3 == 2} | {"session-1"}
    assert expected == set(await ids(heads.owned_by("node-c")))
    assert "session-1" not in await ids(heads.owned_by("node-b"))
    assert [] == await ids(heads.owned_by("node"))


async def test_due_finds_what_is_due_by_then_and_nothing_else(heads: Heads) -> None:
    """The instant itself counts, a millisecond later does not; what has no wake-up is never due."""
    for n in range(20):
        await heads.create(head(f"session-{n}", owner=None, wake_at=START + timedelta(milliseconds=n)))
    await heads.create(head("awake"))
    due = await ids(heads.due(START + timedelta(milliseconds=9)))
    assert {f"session-{n}" for n in range(10)} == set(due)
    assert len(due) == len(set(due))
    places = [int(name.partition("-")[2]) for name in due]
    assert sum(before > after for before, after in pairwise(places)) < DUE_SHARDS, "the longest due first in a shard"


async def test_a_claim_takes_a_session_out_of_the_due(heads: Heads) -> None:
    """Nobody is told to wake what somebody woke (rule 13)."""
    seen = await heads.create(head(owner=None, wake_at=START))
    await claim(heads, seen)
    assert [] == await ids(heads.due(LATER))


async def test_a_session_released_again_is_due_at_its_newest_wake_up(heads: Heads) -> None:
    """The index forgets the wake-up before."""
    seen = await heads.create(head())
    first = await heads.release(seen, SessionStatus.SUSPENDED, last_seq=2, at=LATER, wake_at=START)
    await heads.release(first, SessionStatus.SUSPENDED, last_seq=3, at=LATER, wake_at=START + HOUR)
    assert [] == await ids(heads.due(START + timedelta(minutes=59)))
    assert [SESSION] == await ids(heads.due(START + HOUR))


async def test_a_listing_shows_the_newest_change_first(heads: Heads) -> None:
    """By `updated_at`, whatever the order of creation and the state."""
    minutes = [5, 1, 9, 3, 7]
    for n in minutes:
        status = SessionStatus.COMPLETED if n > 4 else SessionStatus.RUNNING
        await heads.create(head(f"session-{n}", updated_at=START + timedelta(minutes=n), status=status))
    assert [9, 7, 5, 3, 1] == [int(h.session_id.partition("-")[2]) for h in (await listed(heads)).heads]


async def test_an_empty_listing_is_one_empty_page(heads: Heads) -> None:
    """No sessions, no cursor."""
    assert Page((), None) == await listed(heads)


async def test_a_listing_shows_what_people_ask_for(heads: Heads) -> None:
    """Type, tenant, state and both instants are those of HEAD."""
    seen = await heads.create(head(tenant="zeta", session_type="report"))
    ended = await end(heads, seen)
    (shown,) = (await listed(heads)).heads
    wanted = (ended.session_id, ended.session_type, ended.tenant, ended.status, ended.created_at, ended.updated_at)
    assert wanted == (
        shown.session_id,
        shown.session_type,
        shown.tenant,
        shown.status,
        shown.created_at,
        shown.updated_at,
    )


async def test_filters_keep_only_what_fits_all_of_them(heads: Heads) -> None:
    """State, type and tenant, alone and together, over pages smaller than what is skipped."""
    expected: dict[tuple[SessionStatus, str, str], set[str]] = {}
    for n in range(24):
        status = (SessionStatus.RUNNING, SessionStatus.FAILED, SessionStatus.QUEUED)[n % 3]
        kind, tenant = ("research", "report")[n % 2], ("acme", "zeta")[n // 2 % 2]
        await heads.create(
            head(
                f"session-{n}",
                status=status,
                session_type=kind,
                tenant=tenant,
                updated_at=START + timedelta(seconds=n),
            )
        )
        expected.setdefault((status, kind, tenant), set()).add(f"session-{n}")
    for (status, kind, tenant), names in expected.items():
        assert names == set(await all_pages(heads, 2, status=status, session_type=kind, tenant=tenant))
    failed = {name for (status, _, _), names in expected.items() if status == SessionStatus.FAILED for name in names}
    assert failed == set(await all_pages(heads, 5, status="FAILED"))
    assert [] == await all_pages(heads, 5, tenant="acm")


async def test_pages_show_every_session_once_and_in_order(heads: Heads) -> None:
    """Cursors lead from the newest to the oldest without gap or repetition, and the last page has none."""
    await asyncio.gather(
        *(heads.create(head(f"session-{n:02d}", updated_at=START + timedelta(milliseconds=n))) for n in range(12))
    )
    newest_first = [f"session-{n:02d}" for n in range(11, -1, -1)]
    for limit in (2, 5, 11, 12, 13):
        assert newest_first == await all_pages(heads, limit), f"in pages of {limit}"


async def test_pages_lose_no_session_that_changed_in_the_same_millisecond(heads: Heads) -> None:
    """Sessions that arrive together are all listed, however small the page."""
    everyone = [f"session-{n:02d}" for n in range(12)]
    await asyncio.gather(*(heads.create(head(name)) for name in everyone))
    for limit in (2, 5):
        assert everyone == sorted(await all_pages(heads, limit)), f"in pages of {limit}"


async def test_a_session_moves_between_states_in_the_listing(heads: Heads) -> None:
    """It is listed under its present state alone."""
    await end(heads, await heads.create(head()))
    assert [SessionStatus.COMPLETED] == [s for s in SessionStatus if (await listed(heads, status=s)).heads]
    assert SessionStatus.COMPLETED in ENDED


BAD_CURSORS = [
    "",
    "nonsense",
    "!!!!",
    "-1",
    "1.5",
    "W10=",  # []
    "bnVsbA==",  # null
    "eyJhIjogMX0=",  # {"a": 1}
    "WyJ4IiwgMV0=",  # ["x", 1]
    "/+//",
    "é",
    "Wy0xZTMwMCwgImEiXQ==",  # [-1e300, "a"]
    "W05hTiwgImEiXQ==",  # [NaN, "a"]
]


async def test_a_cursor_that_no_listing_returned_is_a_value_error(heads: Heads) -> None:
    """Whatever a caller makes up is refused by name, and stops nothing (I11)."""
    await heads.create(head())
    told: dict[str, str] = {}
    for cursor in BAD_CURSORS:
        try:
            await listed(heads, cursor=cursor)
        except (ValueError, OverflowError) as error:
            told[cursor] = f"{type(error).__name__}: {str(error).partition(':')[0]}"
    assert dict.fromkeys(BAD_CURSORS, "ValueError: cursor") == told
