"""What `Schedules` keeps: how far each schedule has been seen to, wherever and however often it is said."""

import asyncio
from datetime import datetime, timedelta

import pytest

from orchestrator.schedules import ScheduleName
from tests.contract.stage import Store
from tests.contract.waiting import START

DAILY = ScheduleName("report", "default Europe/Zurich 0 8 * * mon-fri")
EXPIRES_AT = START + timedelta(days=31)
HOUR = timedelta(hours=1)


async def begun(store: Store, now: datetime = START, schedule: ScheduleName = DAILY) -> datetime:
    """Return the mark as a node finds it that starts at that instant."""
    return await store.schedules.begin(schedule, now=now, expires_at=EXPIRES_AT)


async def test_a_new_schedule_begins_now_and_its_mark_moves_on_and_never_back(store: Store) -> None:
    """Whoever comes later learns from when on to look; of two nodes that see to it, one is behind."""
    assert [START, START] == [await begun(store), await begun(store, START + HOUR)]
    for hours in (2, 2, 1):
        await store.schedules.seen_to(DAILY, START + hours * HOUR, expires_at=EXPIRES_AT)
    assert START + 2 * HOUR == await begun(store)


async def test_a_mark_is_of_one_schedule_and_can_be_set_where_none_is(store: Store) -> None:
    """Of the same type there may be several, and the same of several types; an item may have been deleted."""
    await store.schedules.seen_to(DAILY, START + HOUR, expires_at=EXPIRES_AT)
    others = (ScheduleName("report", "acme Europe/Zurich 0 8 * * mon-fri"), ScheduleName("other", DAILY.name))
    assert [START, START] == [await begun(store, START, other) for other in others]
    assert START + HOUR == await begun(store)


async def test_a_schedule_that_nobody_saw_to_any_more_begins_anew(store: Store) -> None:
    """From its instant on; until then it counts, and each time that it is seen to keeps it for longer."""
    await begun(store)
    assert START == await begun(store, EXPIRES_AT - timedelta(seconds=1))
    assert EXPIRES_AT == await store.schedules.begin(DAILY, now=EXPIRES_AT, expires_at=EXPIRES_AT + HOUR)
    await store.schedules.seen_to(DAILY, EXPIRES_AT + HOUR / 2, expires_at=EXPIRES_AT + 2 * HOUR)
    assert EXPIRES_AT + HOUR / 2 == await begun(store, EXPIRES_AT + HOUR)


@pytest.mark.usefixtures("isolated")
async def test_of_nodes_that_see_to_it_at_once_the_latest_mark_stays(store: Store) -> None:
    """And all that began at once begin from the same instant."""
    marks = await asyncio.gather(*(begun(store, START + number * HOUR) for number in range(6)))
    assert 1 == len(set(marks))
    moves = (store.schedules.seen_to(DAILY, START + n * HOUR, expires_at=EXPIRES_AT) for n in range(10, 20))
    await asyncio.gather(*moves)
    assert START + 19 * HOUR == await begun(store)
