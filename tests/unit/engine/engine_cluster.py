"""A cluster that lives by itself: nodes with their rescuers come and go.

To change it: no plots and no checks here. Unlike a `Node` of `engine_world`, a node here ends as a process does: its
requests are never answered. No threads, so that what happens depends on the draws alone: payloads stay inline, steps
and agents are async.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Coroutine
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import fields
from random import Random
from typing import Any, TypeVar

import structlog
from engine_line import Line, PowerCut
from engine_world import World

from actors import settle
from actors.signals import Signal, next_turn
from orchestrator import Orchestrator
from orchestrator.agents.local import LocalAgents
from orchestrator.cluster import NodeRecord
from orchestrator.cluster.directory import Directory
from orchestrator.cluster.memory import MemoryNodes
from orchestrator.rescuer import Rescuer, RescuerPorts
from orchestrator.testing.node import Adapters, Setup, build_node
from orchestrator.testing.node import Node as BuiltNode

HEARTBEAT_SECONDS = 1.0
NODE_TIMEOUT_SECONDS = 8.0
TURNS_MAX = 1_000_000
TURNS_OF_A_CALL = (0, 0, 0, 1, 2, 5, 12)

T = TypeVar("T")


class Fenced(BaseException):
    """The process ends: others may have its sessions."""


class Traffic(Line):
    """A line on which each call takes some turns, as chance has it. Cut, it leaves whoever calls without an answer."""

    def __init__(self, changed: Signal, draws: Random) -> None:
        super().__init__(changed)
        self._draws = draws

    async def out(self, name: str) -> None:
        """Carry a request to the table."""
        await self._pause()
        await self._carried(super().out(name))

    async def back(self, name: str) -> None:
        """Carry the answer back."""
        await self._pause()
        await self._carried(super().back(name))

    async def _pause(self) -> None:
        for _ in range(self._draws.choice(TURNS_OF_A_CALL)):
            await next_turn()

    async def _carried(self, way: Coroutine[Any, Any, None]) -> None:
        try:
            await way
        except PowerCut:
            await asyncio.get_running_loop().create_future()


class Lined:
    """Any adapter at the end of a line; its calls go by the name of their room: `heads.claim`."""

    def __init__(self, adapter: object, line: Line, room: str) -> None:
        self._adapter = adapter
        self._line = line
        self._room = room

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._adapter, name)
        if not inspect.iscoroutinefunction(method) and not inspect.isasyncgenfunction(method):
            # What waits for nothing asks nobody.
            return method
        line, call = self._line, f"{self._room}.{name}"

        async def answered(*args: object, **kwargs: object) -> object:
            await line.out(call)
            answer: object = await method(*args, **kwargs)
            await line.back(call)
            return answer

        async def streamed(*args: object, **kwargs: object) -> AsyncIterator[object]:
            await line.out(call)
            read = [each async for each in method(*args, **kwargs)]
            await line.back(call)
            for each in read:
                yield each

        return streamed if inspect.isasyncgenfunction(method) else answered


class Member:
    """One node, from its registration to its death or to the end of its drain."""

    def __init__(self, node_id: str, built: BuiltNode, rescuer: Rescuer, line: Line) -> None:
        self.node_id = node_id
        self.router = built.router
        self.capacity = built.capacity
        self.deliveries = built.deliveries
        self.line = line
        self.gone = asyncio.Event()
        self._system = built.system
        self.rescuer = rescuer
        self._asked_to_stop = asyncio.Event()

    def stop(self) -> None:
        """Ask it to drain."""
        self._asked_to_stop.set()

    def die(self) -> None:
        """End it as a power cut does."""
        self.line.cut()
        self.gone.set()
        self.stop()

    async def live(self, drain_seconds: float) -> None:
        """Serve until asked to stop; then drain, unless it is dead."""
        async with self._system:
            rescuing = asyncio.ensure_future(self._serving())
            await self._asked_to_stop.wait()
            with suppress(PowerCut):
                await _first(self._drain(drain_seconds), self.gone.wait())
            rescuing.cancel()
            with suppress(asyncio.CancelledError, BaseExceptionGroup):
                await rescuing
        self.gone.set()

    async def _serving(self) -> None:
        await self.rescuer.enter()
        await self.rescuer.run()

    async def _drain(self, seconds: float) -> None:
        self.router.drain()
        self.rescuer.drain()
        await self._system.drain(seconds)
        await self.rescuer.leave()


class Cluster:
    """Nodes over one world. `draws` decides how many turns calls take."""

    def __init__(
        self,
        app: Orchestrator,
        world: World,
        draws: Random,
        threads: Executor,
        *,
        registry: MemoryNodes | None = None,
    ) -> None:
        self._app = app
        self._draws = draws
        self._threads = threads
        self.registry = registry or MemoryNodes()
        self._lives: dict[Member, asyncio.Task[None]] = {}
        self.world = world
        self.drain_seconds = 3.0
        self.sessions_max = 1_000

    @property
    def members(self) -> tuple[Member, ...]:
        """Who lives, drains or has just died."""
        return tuple(self._lives)

    def join(self) -> None:
        """Let one node more come."""
        world, node_id = self.world, f"node-{self.world.number()}"
        line = Traffic(world.changed, self._draws)
        adapters = Adapters(
            **{each.name: _lined(getattr(world, each.name), each.name, line) for each in fields(Adapters)}
        )
        setup = Setup(
            app=self._app,
            node_id=node_id,
            clock=world.clock,
            threads=self._threads,
            agents=LocalAgents(self._app, self._threads, world.clock).named,
            number=world.number,
            sessions_max=self.sessions_max,
            passivate_after=world.passivate_after,
        )
        built = build_node(setup, adapters)
        member = Member(node_id, built, self._rescuer(built, adapters, line), line)
        self._lives[member] = asyncio.ensure_future(member.live(self.drain_seconds))

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and what it sets off run; bury who died of it."""
        self.world.clock.advance(seconds)
        await settle(TURNS_MAX)
        for member, life in tuple(self._lives.items()):
            if member.line.is_cut:
                member.die()
            if life.done():
                life.result()
                del self._lives[member]

    async def close(self) -> None:
        """End all nodes."""
        for member in self.members:
            member.die()
        while self._lives:
            await self.pass_time(1)

    def _rescuer(self, built: BuiltNode, adapters: Adapters, line: Line) -> Rescuer:
        world = self.world

        def fence(reason: str) -> None:
            line.cut()
            raise Fenced(reason)

        nodes = _lined(self.registry, "nodes", line)
        ports = RescuerPorts(
            node=NodeRecord(built.node_id, 0, "", world.clock.now(), "1"),
            nodes=nodes,
            directory=Directory(nodes, own_id=built.node_id),
            heads=adapters.heads,
            wake_ups=adapters.wake_ups,
            router=built.router,
            capacity=built.capacity,
            clock=world.clock,
            may_retry=built.supervisor.may_retry,
            on_fenced=fence,
            log=structlog.get_logger("orchestrator"),
        )
        rescuer = Rescuer(ports, heartbeat_seconds=HEARTBEAT_SECONDS, node_timeout_seconds=NODE_TIMEOUT_SECONDS)
        world.pokes.answer(built.node_id, rescuer.poked)
        return rescuer


def _lined(adapter: object, room: str, line: Line) -> Any:
    return Lined(adapter, line, room)


async def _first(work: Awaitable[T], end: Awaitable[object]) -> T:
    """Return what comes of the work. Raises `PowerCut` where the end comes first."""
    working, ending = asyncio.ensure_future(work), asyncio.ensure_future(end)
    try:
        await asyncio.wait([working, ending], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise PowerCut
        return working.result()
    finally:
        for each in (working, ending):
            each.cancel()
