"""One simulated node: the product's own composition root, on a machine whose time and power belong to the simulation.

To change it: what happens to a process from outside, and nothing of what it does. The rooms are built by
`orchestrator.service.build`, as in production; only the HTTP server is left out, whose routes call the same rooms.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from random import Random
from typing import NoReturn, TypeVar

from actors import Cancellable
from orchestrator import Orchestrator
from orchestrator.cluster.directory import Directory
from orchestrator.http.server import HttpPorts
from orchestrator.machine import Machine
from orchestrator.pokes import UnknownNode, signature
from orchestrator.service import Listen, Node, build
from orchestrator.settings import Settings
from orchestrator.stopping import Stop
from tests.simulation.loops import SimLoop
from tests.simulation.network import Cloud, Line
from tests.simulation.world import World

T = TypeVar("T")

GUARD_SECONDS = (0.0, 0.1, 0.4, 0.6)
"""How soon after a freeze the thread that guards the loop takes its turn."""
GUARD_HANDLES_MAX = 400
HTTP_WAY_SECONDS = (0.001, 0.004, 0.05)
HTTP_PATIENCE_SECONDS = 20.0
POKES_THAT_ARRIVE = 0.8


class Unanswered(Exception):
    """The node gave no answer: it is gone, does not take anything, or is too slow."""


class _Ended(BaseException):
    """The process has ended; nothing of it runs any more."""


class SimPokes:
    """`Pokes` of one node, over the simulation's network; `find` returns who answers at an address."""

    def __init__(self, node: SimNode, directory: Directory, find: Callable[[str], SimNode | None]) -> None:
        self._node = node
        self._directory = directory
        self._find = find
        self._under_way: set[asyncio.Task[None]] = set()

    async def poke(self, node_id: str) -> None:
        """See `Pokes.poke`."""
        self._under_way.add(self._node.loop.create_task(self._carry(node_id)))

    async def run(self) -> None:
        """See `Pokes.run`: they carry themselves."""
        await self._node.loop.create_future()

    async def _carry(self, node_id: str) -> None:
        record = await self._directory.find(node_id)
        if record is not None and record.poke_key is not None:
            self._node.poke(self._find(record.address), node_id, signature(record.poke_key, node_id))


class _Threads(Executor):
    """What is handed to it runs on the simulation's threads, whichever executor it is."""


class SimClock:
    """A `Clock` whose wall time is wrong by some seconds, which may change."""

    def __init__(self, world: World, loop: SimLoop) -> None:
        self._world = world
        self._loop = loop
        self.wrong_by = 0.0

    def now(self) -> datetime:
        """See `Clock.now`."""
        return self._world.wall(self.wrong_by)

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._world.time

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Cancellable:
        """See `Clock.call_later`."""
        return self._loop.call_later(seconds, callback)


class SimNode:
    """A process of ours, from its start to its end. `on_end()` is called once, when it has ended."""

    def __init__(
        self,
        cloud: Cloud,
        name: str,
        app: Orchestrator,
        settings: Settings,
        on_end: Callable[[], None],
        find: Callable[[str], SimNode | None],
    ) -> None:
        """`find` returns the node at an address."""
        self._cloud = cloud
        self._find = find
        self._world = cloud.world
        self._settings = settings
        self._app = app
        self._on_end = on_end
        # Of its own, so that what one node draws changes nothing for another.
        self._chance = Random(cloud.world.chance.random())
        self._gone: list[Callable[[], None]] = []
        self._stop: Stop | None = None
        self._rooms: Node | None = None
        self.name = name
        self.address = f"{name}.simulated:8080"
        self.loop = cloud.world.loop(name)
        self.line = Line(cloud, self.loop)
        self.clock = SimClock(cloud.world, self.loop)
        self.is_alive = True
        self.is_frozen = False
        self.is_draining = False

    # --- its life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the process."""
        self._world.note(self.name, "starts")
        self.loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._stop = Stop()
        self._main = self.loop.create_task(self._live(self._stop), name="main")

    async def _live(self, stop: Stop) -> None:
        try:
            self._rooms = rooms = await build(
                self._app,
                self._settings,
                self.line.clients(),
                self._machine(),
                _listening(self.address),
                lambda directory: SimPokes(self, directory, self._find),
            )
            await rooms.run(stop, None)
        except Exception as error:
            self._end(f"failed: {error!r}")
            raise
        self._end("drained")

    def _machine(self) -> Machine:
        return Machine(
            clock=self.clock,
            draw=self._chance.random,
            new_hex=lambda: f"{self._chance.getrandbits(128):032x}",
            new_token=lambda: f"token-{self._chance.getrandbits(64):016x}",
            threads=_Threads(),
            process=None,
            fence=self._fence,
            abandon=self._abandon,
            # Its thread is played by `freeze`: nothing else makes this loop late.
            guard=lambda watch: None,
        )

    def _fence(self, reason: str) -> NoReturn:
        self._end(f"fenced itself: {reason}")
        raise _Ended

    def _abandon(self) -> NoReturn:
        self._end("ended, with code that would not")
        raise _Ended

    def _end(self, why: str) -> None:
        if not self.is_alive:
            return
        self.is_alive = False
        self.line.is_cut = self.loop.is_stopped = True
        self._world.note(self.name, why)
        for gone in self._gone:
            gone()
        self._on_end()

    # --- what happens to it --------------------------------------------------------------------------------------

    @property
    def takes(self) -> bool:
        """Whether one may ask it something."""
        return self.is_alive and not self.is_draining and self._rooms is not None and self._rooms.health.is_ready

    @property
    def node_id(self) -> str:
        """The id under which it is registered; empty before it has one."""
        return "" if self._rooms is None else self._rooms.http.node_id

    @property
    def rooms(self) -> Node:
        """What it is built of."""
        assert self._rooms is not None, f"{self.name} is not built yet"
        return self._rooms

    def kill(self) -> None:
        """End the process at once, as SIGKILL does."""
        self._end("killed")

    def drain(self) -> None:
        """Ask the process to end, as SIGTERM does."""
        if self.is_alive and not self.is_draining:
            self.is_draining = True
            self._world.note(self.name, "is asked to stop")
            self.loop.call_soon(self._asked_to_stop)

    def _asked_to_stop(self) -> None:
        if self._stop is not None:
            self._stop.tell()

    def freeze(self, seconds: float) -> None:
        """Stop the process for some time, as SIGSTOP does, or a machine that is starved."""
        if not self.is_alive or self.is_frozen:
            return
        self._world.note(self.name, f"freezes for {seconds:g} s")
        self.is_frozen = self.loop.is_stopped = True
        self._world.after(seconds, lambda: self._thaw(seconds))

    def _thaw(self, seconds: float) -> None:
        if not self.is_alive:
            return
        self._world.note(self.name, "goes on")
        self.is_frozen = False
        self.loop.thaw()
        if seconds > self._settings.node_timeout_seconds:
            # The thread and the loop both go on now; which is first, and by how much, is chance.
            chance = self._world.chance
            if chance.random() < 0.5:
                self.loop.after, self.loop.countdown = self._guard, chance.randint(1, GUARD_HANDLES_MAX)
            elif chance.random() < 0.5:
                self._world.after(chance.choice(GUARD_SECONDS), self._guard)

    def _guard(self) -> None:
        self._end("fenced itself: the loop stood still")

    # --- what is asked of it -------------------------------------------------------------------------------------

    def ask(self, call: Callable[[Node], Awaitable[T]], answer: Callable[[T | None, Exception | None], None]) -> None:
        """Ask it something over HTTP, and have the answer brought; `Unanswered` where there is none."""
        is_over = False

        def once(result: T | None, error: Exception | None) -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                answer(result, error)

        def unanswered() -> None:
            once(None, Unanswered(self.name))

        async def serve() -> None:
            try:
                result, error = await call(self.rooms), None
            except Exception as raised:
                result, error = None, raised
            if self.is_alive:
                self._world.after(self._way(), lambda: once(result, error) if self.is_alive else unanswered())

        def arrive() -> None:
            if self.takes:
                self.loop.call_soon(lambda: self.loop.create_task(serve()))
            else:
                unanswered()

        self._gone.append(unanswered)
        self._world.after(self._way(), arrive)
        self._world.after(HTTP_PATIENCE_SECONDS, unanswered)

    def poke(self, other: SimNode | None, node_id: str, signed: str) -> None:
        """Poke another node; now and then that is lost on the way."""

        def arrive() -> None:
            if other is not None and other.takes:
                with suppress(UnknownNode):
                    other.rooms.http.doorbell.push(node_id, signed)

        if self.is_alive and self._world.chance.random() < POKES_THAT_ARRIVE:
            self._world.after(self._way(), arrive)

    def _way(self) -> float:
        return self._world.chance.choice(HTTP_WAY_SECONDS)


def _listening(address: str) -> Listen:
    @asynccontextmanager
    async def listen(_: HttpPorts) -> AsyncIterator[str]:
        yield address

    return listen
