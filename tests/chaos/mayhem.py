"""What happens to a fleet under load: kills, freezes, cut lines, rolling deploys, bad weather; all drawn from one seed.

It only breaks things, and notes when: `aftermath.py` looks at what the table holds afterwards.
"""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Final, TypeAlias

from actors.signals import Signal
from tests.chaos.fleet import DRAIN_SECONDS, NODE_TIMEOUT_SECONDS, Berth, Fleet
from tests.chaos.wire import STORMS

PAUSE_SECONDS: Final = (0.3, 1.5)
STORM_SECONDS: Final = (2.0, 6.0)
CALM_SECONDS: Final = (0.5, 2.5)
LONG_SECONDS: Final = (NODE_TIMEOUT_SECONDS + 1.0, NODE_TIMEOUT_SECONDS + 3.0)
"""Freezes and cuts: others have taken the node for dead when it wakes."""
SHORT_SECONDS: Final = (0.2, NODE_TIMEOUT_SECONDS - 2.0)
STOP_SECONDS_MAX: Final = DRAIN_SECONDS + 30.0
"""For a drain in bad weather: requests that insist, and polls that end by themselves."""
UNTOUCHED_MIN: Final = 1

KILL: Final = "SIGKILL"
FREEZE: Final = "freeze past the node timeout"
CUT: Final = "cut off past the node timeout"

Deed: TypeAlias = Callable[[Berth], Coroutine[None, None, None]]


@dataclass(frozen=True, slots=True)
class Loss:
    """A node was lost to the others at that instant, in that way, with these sessions in hand (and their epochs)."""

    way: str
    at: float
    sessions: dict[str, int]


@dataclass(slots=True)
class Mayhem:
    """Everything that is done to one fleet."""

    fleet: Fleet
    chance: Random
    losses: list[Loss] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    black_outs: list[float] = field(default_factory=list)
    storms: list[tuple[float, float]] = field(default_factory=list)
    _deck: list[Deed] = field(default_factory=list)
    _is_peace: bool = False
    _freed: Signal = field(default_factory=Signal)
    _deploying: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def rage(self, seconds: float) -> None:
        """Do harm for that long, then wait until the last of it is over and the weather calm."""
        ends_at = time.monotonic() + seconds
        weather = asyncio.create_task(self._weather())
        async with asyncio.TaskGroup() as under_way:
            while time.monotonic() < ends_at:
                await asyncio.sleep(self.chance.uniform(*PAUSE_SECONDS))
                deed, berth = self._next_card(), self._victim()
                if deed in {self.kill_alone, self.freeze_alone}:
                    await self._in_peace(deed)
                elif deed in {self.roll, self.black_out}:
                    under_way.create_task(deed(self.fleet.berths[0]))
                elif berth is not None:
                    berth.is_taken = True
                    under_way.create_task(self._do(deed, berth))
                else:
                    self._deck.append(deed)
        weather.cancel()
        await asyncio.wait({weather})
        for berth in self.fleet.berths:
            berth.weather.turn(None)

    def _next_card(self) -> Deed:
        """Draw from a deck, so that a short run sees everything once; what takes long comes from the second one on."""
        if not self._deck:
            alone = [self.kill_alone, self.freeze_alone] if self.done else []
            self._deck = [
                *alone,
                *[self.kill] * 6,
                *[self.freeze] * 3,
                self.freeze_and_kill,
                *[self.doze] * 2,
                *[self.cut_off] * 2,
                self.stop,
                self.roll,
                self.black_out,
            ]
            self.chance.shuffle(self._deck)
        return self._deck.pop()

    def _victim(self) -> Berth | None:
        """Return a node to which something may happen now; some others must be left, or nobody could take over."""
        free = [berth for berth in self.fleet.berths if berth.worker is not None and not berth.is_taken]
        return self.chance.choice(free) if len(free) > UNTOUCHED_MIN else None

    async def _do(self, deed: Deed, berth: Berth) -> None:
        try:
            await deed(berth)
        finally:
            berth.is_taken = False
            self._freed.fire()

    async def _lose(self, way: str, berth: Berth, do: Callable[[], None]) -> None:
        """Do to the node what makes it lost to the others, and note what it had in hand before and after."""
        node_id = berth.node_id
        assert node_id is not None, "a victim has been ready"
        before, at = await self.fleet.owned(node_id), time.time()
        do()
        after = await self.fleet.owned(node_id)
        self.losses.append(Loss(way, at, {id_: epoch for id_, epoch in before.items() if after.get(id_) == epoch}))
        self.done[way] += 1

    # --- what happens to one node --------------------------------------------------------------------------------

    async def kill(self, berth: Berth) -> None:
        await self._lose(KILL, berth, lambda: berth.signal(signal.SIGKILL))

    async def freeze(self, berth: Berth) -> None:
        """A zombie: others take over, then it goes on where it was."""
        worker = berth.worker
        await self._lose(FREEZE, berth, lambda: berth.signal(signal.SIGSTOP))
        await asyncio.sleep(self.chance.uniform(*LONG_SECONDS))
        if berth.worker is worker:
            berth.signal(signal.SIGCONT)

    async def freeze_and_kill(self, berth: Berth) -> None:
        await self._lose(FREEZE, berth, lambda: berth.signal(signal.SIGSTOP))
        await asyncio.sleep(self.chance.uniform(*LONG_SECONDS))
        self.done[KILL] += 1
        berth.signal(signal.SIGKILL)

    async def kill_alone(self, berth: Berth) -> None:
        await self.kill(berth)
        await asyncio.sleep(LONG_SECONDS[0])

    async def freeze_alone(self, berth: Berth) -> None:
        await self.freeze(berth)

    async def doze(self, berth: Berth) -> None:
        """A freeze too short for anybody to take over."""
        self.done["freeze within the node timeout"] += 1
        berth.signal(signal.SIGSTOP)
        await asyncio.sleep(self.chance.uniform(*SHORT_SECONDS))
        berth.signal(signal.SIGCONT)

    async def cut_off(self, berth: Berth) -> None:
        """Nothing of it reaches AWS, until all of it does, long after."""
        try:
            await self._lose(CUT, berth, berth.weather.hold)
            await asyncio.sleep(self.chance.uniform(*LONG_SECONDS))
        finally:
            berth.weather.release()

    async def stop(self, berth: Berth) -> None:
        """Scale in, or one step of a deploy."""
        self.done["SIGTERM"] += 1
        worker = berth.worker
        if worker is None:
            return
        berth.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                code = await worker.process.wait()
        except TimeoutError:
            self.complaints.append("a drain took too long:\n" + "\n".join(worker.raw[-30:]))
            worker.process.kill()
        else:
            self.done[f"SIGTERM ended with exit {code}"] += 1

    async def _in_peace(self, deed: Deed) -> None:
        """Do it to one node while nothing else happens to any: so long takes a takeover that nothing disturbs."""
        self._is_peace = True
        try:
            for each in self.fleet.berths:
                each.weather.turn(None)
            if self.storms:
                self.storms[-1] = (self.storms[-1][0], min(self.storms[-1][1], time.time()))
            async with self._deploying:
                await self._freed.until(lambda: not any(each.is_taken for each in self.fleet.berths))
                await self.fleet.until_ready()
                berth = self.chance.choice(self.fleet.berths)
                berth.is_taken = True
                await self._do(deed, berth)
        finally:
            self._is_peace = False

    # --- what happens to all -------------------------------------------------------------------------------------

    async def roll(self, _: Berth) -> None:
        """Deploy: the next version of the code, node by node."""
        self.done["rolling deploy"] += 1
        self.fleet.deploys += 1
        for berth in self.fleet.berths:
            async with self._deploying:
                if berth.worker is None or berth.is_taken:
                    continue
                berth.is_taken = True
                await self._do(self.stop, berth)
                await self.fleet.until_ready(berth)

    async def black_out(self, _: Berth) -> None:
        """Kill every node at once: nobody is left to take over until the scheduler starts new ones."""
        self.black_outs.append(time.time())
        self.done["all killed at once"] += 1
        for berth in self.fleet.berths:
            if berth.worker is not None:
                self.done[KILL] += 1
                berth.signal(signal.SIGCONT)
                berth.signal(signal.SIGKILL)

    async def _weather(self) -> None:
        """Let storms pass over one line or over all, until cancelled."""
        while True:
            await asyncio.sleep(self.chance.uniform(*CALM_SECONDS))
            if self._is_peace:
                continue
            storm = self.chance.choice(list(STORMS))
            berths = self.fleet.berths if self.chance.random() < 0.6 else [self.chance.choice(self.fleet.berths)]
            self.done[f"storm: {storm}"] += 1
            for berth in berths:
                berth.weather.turn(storm)
            begun, lasts = time.time(), self.chance.uniform(*STORM_SECONDS)
            self.storms.append((begun, begun + lasts))
            await asyncio.sleep(lasts)
            for berth in berths:
                berth.weather.turn(None)
