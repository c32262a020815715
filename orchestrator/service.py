"""The composition root: builds every room of a node, runs them under one TaskGroup, and stops them in order.

Two stops: stop taking (not ready, queue left alone), then stop working (drain, hand over). Nothing else starts tasks.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog

from actors import ActorSystem, BusySignal
from orchestrator.app import Orchestrator
from orchestrator.aws.bucket import Bucket
from orchestrator.aws.clients import Clients, connect
from orchestrator.aws.table import Table
from orchestrator.building import (
    Dependency,
    Neighbours,
    PokesFor,
    PublicAddress,
    channels,
    connections,
    encryption,
    gathering,
    health_of,
    loop_watch_for,
    memory_pressure,
    neighbours,
    new_node_id,
    note_clock,
    patience_for,
    session_ports,
    sqs_intake,
    stuck_watch,
    task_protection,
)
from orchestrator.capacity import NodeCapacity
from orchestrator.cluster import NodeRecord
from orchestrator.cluster.directory import Directory
from orchestrator.cluster.shares import first_taker
from orchestrator.deliveries import SessionDeliveries
from orchestrator.errors import Unavailable
from orchestrator.health import Health, LoopWatch
from orchestrator.http.addresses import reachable_address
from orchestrator.http.server import HttpPorts, serving
from orchestrator.intake.formats import Reader
from orchestrator.intake.sqs import SQSIntake
from orchestrator.machine import Machine, this_machine
from orchestrator.memory_pressure import MemoryPressure
from orchestrator.notifications.channels import Channels
from orchestrator.objects.dynamodb import DynamoDBLatestWrites
from orchestrator.outside import NodeOutside
from orchestrator.pokes import Pokes
from orchestrator.protection import TaskProtection
from orchestrator.reception import Reception
from orchestrator.rescuer import Rescuer, RescuerPorts
from orchestrator.router import Router
from orchestrator.scheduler import Scheduler
from orchestrator.schedules.dynamodb import DynamoDBSchedules
from orchestrator.session.values import truncate_to_millis
from orchestrator.session_supervisor import SessionSupervisor
from orchestrator.settings import Settings
from orchestrator.stopping import Stop
from orchestrator.stuck import StuckWatch
from orchestrator.telemetry.port import Telemetry
from orchestrator.user_code import contain_exits
from orchestrator.vitals import Vitals
from orchestrator.why.facts import Gathering

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

COLLECTOR_THRESHOLDS: Final = (50_000, 5, 2)
"""Seldom, for sessions leave no cycles; what handlers and agents leave is found after half a million objects."""
INTAKE_STOP_SECONDS_MAX: Final = 10.0
LEAVE_SECONDS_PATIENT: Final = 10.0
"""How long a node tries to take its leave of a table that does not answer: others find it gone without, only later."""
LEAVE_SECONDS_MAX: Final = 2.0
"""How long who insists on the end waits for a node to take its leave: of the table, and of a collector of spans."""

Listen: TypeAlias = Callable[[HttpPorts], AbstractAsyncContextManager[str]]
"""Opens the HTTP endpoints for as long as a block lasts, which gets their address (`host:port`)."""

log: FilteringBoundLogger = structlog.get_logger("orchestrator")


@dataclass(frozen=True, slots=True)
class Ready:
    """A node that takes sessions: its id and where its HTTP endpoints are (`host:port`)."""

    node_id: str
    address: str


async def serve(
    app: Orchestrator, settings: Settings, *, stop: Stop, on_ready: Callable[[Ready], None] | None = None
) -> None:
    """Run one node until it is told to stop, then drain it.

    Raises:
        Unavailable: a setting, a permission, the table or the queue is wrong; the text names it.
    """
    async with connect(app.agent_services()) as clients:
        with this_machine() as machine:
            node = await build(app, settings, clients, machine)
            _calm_collector()
            try:
                await node.run(stop, on_ready)
            except BaseExceptionGroup as group:
                known, _ = group.split(Unavailable)
                if known is None:
                    raise
                # One line says it; a tree of task groups would hide it.
                raise _first_of(known) from None


def _first_of(group: BaseExceptionGroup[Unavailable]) -> Unavailable:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


def _calm_collector() -> None:
    """Take what was built so far out of the cyclic collector's sight, and let it look less often.

    With the defaults it walks all live sessions again and again, which was a tenth of a busy node's CPU
    (`docs/performance.md`).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


@dataclass(frozen=True, slots=True)
class Node:
    """All rooms of one node, built and not yet running."""

    settings: Settings
    table: Table
    system: ActorSystem
    router: Router
    reception: Reception
    intake: SQSIntake
    rescuer: Rescuer
    scheduler: Scheduler
    address: PublicAddress
    health: Health
    loop_watch: LoopWatch
    http: HttpPorts
    listen: Listen
    protection: TaskProtection | None
    memory: MemoryPressure
    pokes: Pokes
    channels: Channels
    telemetry: Telemetry
    vitals: Vitals
    stuck: StuckWatch
    abandon: Callable[[], None]

    async def run(self, stop: Stop, on_ready: Callable[[Ready], None] | None) -> None:
        """Run until told to stop, then stop taking, stop working, and leave; told twice, do not wait for work."""
        contain_exits(asyncio.get_running_loop())
        async with asyncio.TaskGroup() as tasks:
            carriers = [
                tasks.create_task(self.table.run(), name="table"),
                tasks.create_task(self.loop_watch.run(), name="loop watch"),
                tasks.create_task(self.memory.run(), name="memory"),
                tasks.create_task(self.pokes.run(), name="pokes"),
                tasks.create_task(self.channels.run(), name="channels"),
                tasks.create_task(self.vitals.run(), name="vitals"),
            ]
            async with self.listen(self.http) as address, self.system:
                self.address.bound(address)
                await self.rescuer.enter(address=reachable_address(address))
                stop.started()
                rescuing = tasks.create_task(self.rescuer.run(), name="rescuer")
                receiving = tasks.create_task(self.intake.run(self.reception.handle), name="intake")
                scheduling = tasks.create_task(self.scheduler.run(), name="schedules")
                watching = tasks.create_task(self.stuck.run(), name="stuck sessions")
                if self.protection is not None:
                    tasks.create_task(self.protection.run(), name="protection")
                self.health.is_ready = True
                log.info("node_ready", node=self.http.node_id, address=address)
                if on_ready is not None:
                    on_ready(Ready(self.http.node_id, address))
                await stop.asked.wait()
                stuck = await self._drain(receiving, stop)
                rescuing.cancel()
                scheduling.cancel()
                watching.cancel()
                await asyncio.wait({rescuing, scheduling, watching})
                async with stop.unless_insisted(grace=LEAVE_SECONDS_MAX):
                    await self._leave()
                    await self.telemetry.flush()
                log.info("node_stopped", node=self.http.node_id, stuck=list(stuck))
                if stuck:
                    # A handler that ignores its cancellation would hold the process for ever.
                    self.abandon()
            for carrier in carriers:
                carrier.cancel()

    async def _drain(self, receiving: asyncio.Task[None], stop: Stop) -> tuple[str, ...]:
        """Stop taking, then stop working; return the sessions whose handler would not end."""
        began_with = frozenset(self.system.ids())
        log.info("node_draining", node=self.http.node_id, sessions=len(began_with))
        self.health.is_draining = True
        if self.protection is not None:
            self.protection.drain()
        self.router.drain()
        self.rescuer.drain()
        self.intake.stop()
        report = None
        async with stop.unless_insisted():
            with suppress(TimeoutError):
                async with asyncio.timeout(INTAKE_STOP_SECONDS_MAX):
                    await asyncio.shield(receiving)
            report = await self.system.drain(self.settings.drain_seconds)
        if report is None:
            log.warning("drain_cut_short")
            report = await self.system.drain(0)
        receiving.cancel()
        # Some have ended while the last poll of the queue ran out: the system's own drain began after that.
        finished = began_with.union(report.finished).difference(report.cut)
        log.info("node_drained", finished=len(finished), handed_over=len(report.cut))
        return report.stuck

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_SECONDS_PATIENT):
                await self.rescuer.leave()
        except TimeoutError:
            log.warning("node_not_signed_off", advice="others take it for dead after its timeout")


async def build(
    app: Orchestrator,
    settings: Settings,
    clients: Clients,
    machine: Machine,
    listen: Listen | None = None,
    pokes_for: PokesFor | None = None,
) -> Node:
    """Build every room, from the ground up; without `listen` the HTTP endpoints are where the settings say.

    Raises:
        Unavailable: the table, a queue or the payload key is not to be had.
    """
    clock, node_id = machine.clock, new_node_id(machine)
    telemetry = await machine.telemetry_of(node_id)
    table_patience = patience_for("table", machine, telemetry)
    table = Table(clients.dynamodb, clients.signed_dynamodb, settings.table, table_patience)
    note_clock(await table.check(), machine)
    capacity = NodeCapacity(settings.max_sessions)
    outside, address, told = list[NodeOutside](), PublicAddress(settings), channels(settings, clients, machine)
    bucket = Bucket(clients.s3, settings.bucket, patience_for("bucket", machine, telemetry))
    lent, (cipher, keys) = connections(clients, machine), await encryption(settings, clients, machine, telemetry)
    ports = session_ports(
        app, settings, table, bucket, cipher, machine, node_id, address, lambda: outside[0], told, lent, telemetry
    )
    system = ActorSystem(clock=clock, busy=BusySignal(clock), on_end=capacity.changed)
    capacity.watch(system)
    supervisor = SessionSupervisor(clock, telemetry)
    near = neighbours(table, machine, ports.node_id, pokes_for)
    router = Router(system, ports, near.wake_ups, capacity, supervisor)
    outside.append(NodeOutside(router, ports.new_token))
    deliveries, reader = SessionDeliveries(router, machine.new_hex), Reader(app, machine.new_hex)
    intake = await sqs_intake(settings, clients, cipher, capacity, machine, telemetry)
    rescuer = _rescuer(settings, near, router, capacity, supervisor, machine)
    loop_watch = loop_watch_for(settings, machine, telemetry)
    stuck = stuck_watch(settings, system, machine)
    dependencies: dict[str, Dependency] = {"table": table_patience.reachability, "queue": intake, "keys": keys}
    health = health_of(system, loop_watch, dependencies, stuck)
    return Node(
        settings=settings,
        table=table,
        system=system,
        router=router,
        reception=Reception(router, deliveries, reader, DynamoDBLatestWrites(table, clock=clock), log),
        intake=intake,
        rescuer=rescuer,
        scheduler=Scheduler(app.triggers().schedules, DynamoDBSchedules(table), router.start, clock, log),
        address=address,
        health=health,
        loop_watch=loop_watch,
        http=_http_ports(settings, router, rescuer, health, reader, deliveries, gathering(ports, near.nodes, stuck)),
        listen=listen or partial(serving, host=settings.host, port=settings.port),
        protection=task_protection(machine, system.busy),
        memory=memory_pressure(machine, capacity),
        pokes=near.pokes,
        channels=told,
        telemetry=telemetry,
        vitals=_vitals(telemetry, system, health, router, near.directory),
        stuck=stuck,
        abandon=machine.abandon,
    )


def _vitals(telemetry: Telemetry, system: ActorSystem, health: Health, router: Router, directory: Directory) -> Vitals:
    ports = router.ports
    return Vitals(
        telemetry=telemetry,
        system=system,
        health=health,
        heads=ports.heads,
        is_mine=lambda chore: first_taker(chore, directory.takers) == ports.node_id,
        clock=ports.clock,
        log=log,
    )


def _http_ports(  # noqa: PLR0913, PLR0917 - what the endpoints reach
    settings: Settings,
    router: Router,
    rescuer: Rescuer,
    health: Health,
    reader: Reader,
    deliveries: SessionDeliveries,
    facts: Gathering,
) -> HttpPorts:
    return HttpPorts(
        node_id=router.ports.node_id,
        health=health,
        router=router,
        reader=reader,
        heads=router.ports.heads,
        journal=router.ports.journal,
        clock=router.ports.clock,
        api_keys=settings.api_keys,
        log=log,
        deliveries=deliveries,
        doorbell=rescuer.doorbell,
        gathering=facts,
    )


def _rescuer(
    settings: Settings,
    near: Neighbours,
    router: Router,
    capacity: NodeCapacity,
    supervisor: SessionSupervisor,
    machine: Machine,
) -> Rescuer:
    record = NodeRecord(
        node_id=router.ports.node_id,
        beat=0,
        address="",
        started_at=truncate_to_millis(machine.clock.now()),
        version=version("session-orchestrator"),
        process=machine.process,
        poke_key=machine.new_token(),
    )
    ports = RescuerPorts(
        node=record,
        nodes=near.nodes,
        directory=near.directory,
        heads=router.ports.heads,
        wake_ups=near.wake_ups,
        router=router,
        capacity=capacity,
        clock=machine.clock,
        may_retry=supervisor.may_retry,
        on_fenced=machine.fence,
        log=log,
    )
    return Rescuer(
        ports, heartbeat_seconds=settings.heartbeat_seconds, node_timeout_seconds=settings.node_timeout_seconds
    )
