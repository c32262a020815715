"""What `Usage` keeps: a session is counted by its running total, once, however often and by whomever it is told."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from orchestrator.usage import NO_CAPS, NOTHING, Caps, Total, Usage

JUNE = datetime(2026, 6, 30, 23, 59, 59, 999_000, tzinfo=UTC)
JULY = datetime(2026, 7, 1, tzinfo=UTC)
FIRST = Total(input_tokens=30, output_tokens=10, tokens=40, cost_micros=720, agent_calls=1, agent_millis=2_500)
SECOND = Total(input_tokens=60, output_tokens=20, tokens=80, cost_micros=1_440, agent_calls=2, agent_millis=5_000)


async def found(tenants: AsyncIterator[str]) -> list[str]:
    """Return the tenants, in order of their names."""
    return sorted([tenant async for tenant in tenants])


async def test_a_tenant_nobody_knows_has_spent_nothing_and_has_no_caps(usage: Usage) -> None:
    """No item is needed for that."""
    assert NOTHING == await usage.month("acme", "2026-06")
    assert NO_CAPS == await usage.caps("acme")
    assert [] == await found(usage.tenants("2026-06"))
    assert [] == await found(usage.capped())


async def test_what_is_new_of_a_session_is_added_once(usage: Usage) -> None:
    """A repetition adds nothing, nor does who comes late with less: the total of a frozen node."""
    for total in (FIRST, FIRST, SECOND, FIRST, SECOND):
        await usage.count("acme", "s", total, at=JUNE)
    assert SECOND == await usage.month("acme", "2026-06")


async def test_sessions_and_tenants_are_counted_each_by_itself(usage: Usage) -> None:
    """And each in the month in which it spent."""
    await usage.count("acme", "s", FIRST, at=JUNE)
    await usage.count("acme", "t", FIRST, at=JUNE)
    await usage.count("other", "s", SECOND, at=JUNE)
    await usage.count("acme", "s", SECOND, at=JULY)
    assert FIRST + FIRST == await usage.month("acme", "2026-06")
    assert SECOND == await usage.month("other", "2026-06")
    assert FIRST == await usage.month("acme", "2026-07")
    assert ["acme", "other"] == await found(usage.tenants("2026-06"))
    assert ["acme"] == await found(usage.tenants("2026-07"))


@pytest.mark.usefixtures("isolated")
async def test_sessions_that_are_counted_at_once_lose_nothing(usage: Usage) -> None:
    """Nor is one counted twice that two nodes tell of."""
    counts = [usage.count("acme", f"s{n % 4}", FIRST, at=JUNE) for n in range(8)]
    await asyncio.gather(*counts)
    assert FIRST + FIRST + FIRST + FIRST == await usage.month("acme", "2026-06")


async def test_what_does_not_fit_under_a_cap_on_calls_is_not_taken_at_all(usage: Usage) -> None:
    """What was taken before fits for ever; who is refused hears how many calls go before its last one."""
    assert await usage.take("acme", "s", SECOND, calls_max=1, at=JUNE) == 1
    assert NOTHING == await usage.month("acme", "2026-06")
    assert await usage.take("acme", "s", FIRST, calls_max=1, at=JUNE) is None
    assert await usage.take("acme", "t", FIRST, calls_max=1, at=JUNE) == 1
    assert await usage.take("acme", "s", FIRST, calls_max=1, at=JUNE) is None
    assert await usage.take("acme", "t", SECOND, calls_max=2, at=JUNE) == 2
    assert await usage.take("acme", "t", FIRST, calls_max=2, at=JUNE) is None
    assert FIRST + FIRST == await usage.month("acme", "2026-06")
    assert await usage.take("acme", "t", FIRST, calls_max=2, at=JULY) is None
    assert NOTHING == await usage.month("acme", "2026-07")


@pytest.mark.usefixtures("isolated")
async def test_takers_at_once_take_as_many_calls_as_fit(usage: Usage) -> None:
    """Neither more, nor fewer."""
    takes = [usage.take("acme", f"s{n}", FIRST, calls_max=3, at=JUNE) for n in range(5)]
    assert 3 == (await asyncio.gather(*takes)).count(None)
    assert 3 == (await usage.month("acme", "2026-06")).agent_calls


async def test_caps_are_set_changed_and_unset(usage: Usage) -> None:
    """What is not named is as the settings say; 0 stands for no cap."""
    await usage.set_caps("acme", Caps(tokens=1_000, cost=2.5), at=JUNE)
    assert Caps(tokens=1_000, cost=2.5) == await usage.caps("acme")
    await usage.set_caps("acme", Caps(tokens=0, agent_calls=7, agent_seconds=0.5), at=JULY)
    assert Caps(tokens=0, agent_calls=7, agent_seconds=0.5) == await usage.caps("acme")
    await usage.set_caps("other", Caps(agent_calls=1), at=JULY)
    assert ["acme", "other"] == await found(usage.capped())
    await usage.set_caps("acme", NO_CAPS, at=JULY)
    assert NO_CAPS == await usage.caps("acme")
    assert ["other"] == await found(usage.capped())
