"""How much of an agent a node runs: so many at once, so many starts a minute. Who waits is served in order of arrival.

A run's place is taken before its token, so that a run begins the moment the bucket lets it: tokens are never saved up
by runs that cannot begin yet. Who is cancelled while it waits has taken nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext

from actors import Clock
from orchestrator.agents import Agent, AgentReply
from orchestrator.app import AgentLimits, Rate
from orchestrator.session.values import Json


class LimitedAgent:
    """An `Agent` that lets another one run no more often, and no more at once, than it may on this node."""

    def __init__(self, agent: Agent, limits: AgentLimits, clock: Clock) -> None:
        self._agent = agent
        # Both kinds of lock of asyncio hand over in order of arrival.
        self._places: AbstractAsyncContextManager[object] = (
            nullcontext() if limits.max_concurrency is None else asyncio.Semaphore(limits.max_concurrency)
        )
        self._bucket = None if limits.rate is None else TokenBucket(limits.rate, clock)

    async def run(self, prompt: Json, kwargs: Mapping[str, Json]) -> AgentReply:
        """See `Agent.run`."""
        async with self._places:
            if self._bucket is not None:
                await self._bucket.take()
            return await self._agent.run(prompt, kwargs)


class TokenBucket:
    """Holds as many tokens as the rate names, full at first, and is filled evenly: a burst, then a steady flow.

    Kept as one number, the instant at which the bucket will be full again (the generic cell rate algorithm).
    """

    def __init__(self, rate: Rate, clock: Clock) -> None:
        self._clock = clock
        self._interval = rate.seconds / rate.times
        self._emptied_by = rate.seconds - self._interval
        self._full_at = clock.monotonic()
        self._turn = asyncio.Lock()

    async def take(self) -> None:
        """Return once there is a token, and take it."""
        async with self._turn:
            wait = self._full_at - self._emptied_by - self._clock.monotonic()
            if wait > 0:
                await self._clock.sleep(wait)
            self._full_at = max(self._full_at, self._clock.monotonic()) + self._interval
