"""The composition root: builds every room of a node, runs them under one TaskGroup, and stops them in order.

Two stops: stop taking (not ready, queue left alone), then stop working (drain, hand over). Nothing else starts tasks.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from itertools import count
from typing import TYPE_CHECKING, Final

import structlog

from actors import ActorSystem, BusySignal, Clock, SystemClock
from orchestrator.agents import Agent
from orchestrator.agents.local import LocalAgent
from orchestrator.app import Orchestrator
from orchestrator.aws.bucket import Bucket
from orchestrator.aws.clients import Clients, connect
from orchestrator.aws.faults import Patience, Reachability
from orchestrator.aws.queue import find_queue
from orchestrator.aws.table import Table
from orchestrator.cluster import NodeRecord
from orchestrator.cluster.dynamodb import DynamoDBHeads, DynamoDBNodes
from orchestrator.errors import Poison, Unavailable
from orchestrator.health import Health, LoopWatch
from orchestrator.http.server import HttpPorts, serving
from orchestrator.intake import Envelope
from orchestrator.intake.formats import Reader
from orchestrator.intake.sqs import SQSIntake, StoreBody
from orchestrator.journal.dynamodb import DynamoDBJournal
from orchestrator.performer import Performer
from orchestrator.process_identity import own_process
from orchestrator.rescuer import Rescuer, RescuerPorts
from orchestrator.router import FIRST_EPOCH, IdempotencyConflict, NodeCapacity, Router
from orchestrator.session.values import compact_json, truncate_to_millis
from orchestrator.session_actor import SessionPorts, SessionSupervisor
from orchestrator.settings import Settings
from orchestrator.telemetry import trace_ids
from orchestrator.user_code import contain_exits

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

STEP_THREADS_MAX: Final = 64
EXIT_FENCED: Final = 70
"""The exit code of a node that fenced itself (sysexits: internal software error); its supervisor starts a new one."""
COLLECTOR_THRESHOLDS: Final = (50_000, 20, 100)
INTAKE_STOP_SECONDS_MAX: Final = 10.0

log: FilteringBoundLogger = structlog.get_logger("orchestrator")


@dataclass(frozen=True, slots=True)
class Ready:
    """A node that takes sessions: its id and where its HTTP endpoints are (`host:port`)."""

    node_id: str
    address: str


def fence(reason: str) -> None:
    """End this process before it does anything else: others may own its sessions by now (rule 3)."""
    log.critical("node_fenced", reason=reason)
    os._exit(EXIT_FENCED)


def abandon() -> None:
    """End this process, in order but for code that will not end."""
    os._exit(0)


@asynccontextmanager
async def stop_signals() -> AsyncIterator[asyncio.Event]:
    """Yield an event that SIGTERM, SIGINT and SIGHUP set."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    # SIGHUP comes when the terminal closes: what was started must be stopped then, too.
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for each in signals:
        loop.add_signal_handler(each, stop.set)
    try:
        yield stop
    finally:
        for each in signals:
            loop.remove_signal_handler(each)


async def serve(
    app: Orchestrator, settings: Settings, *, stop: asyncio.Event, on_ready: Callable[[Ready], None] | None = None
) -> None:
    """Run one node until `stop` is set, then drain it.

    Raises:
        Unavailable: a setting, a permission, the table or the queue is wrong; the text names it.
    """
    async with AsyncExitStack() as stack:
        clients = await stack.enter_async_context(connect())
        node = await _build(app, settings, clients, stack)
        _calm_collector()
        contain_exits(asyncio.get_running_loop())
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

    Sessions free themselves by reference counts; with the defaults, the collector walks all live ones again and again,
    which was a tenth of a busy node's CPU (`docs/performance.md`).
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
    reader: Reader
    intake: SQSIntake
    rescuer: Rescuer
    health: Health
    loop_watch: LoopWatch
    http: HttpPorts
    abandon: Callable[[], None]

    async def run(self, stop: asyncio.Event, on_ready: Callable[[Ready], None] | None) -> None:
        """Run until `stop`, then stop taking, stop working, and leave."""
        async with asyncio.TaskGroup() as tasks:
            carrier = tasks.create_task(self.table.run(), name="table")
            watch = tasks.create_task(self.loop_watch.run(), name="loop watch")
            async with serving(self.http, host=self.settings.host, port=self.settings.port) as address, self.system:
                await self.rescuer.enter()
                rescuing = tasks.create_task(self.rescuer.run(), name="rescuer")
                receiving = tasks.create_task(self.intake.run(self.handle), name="intake")
                self.health.is_ready = True
                log.info("node_ready", node=self.http.node_id, address=address)
                if on_ready is not None:
                    on_ready(Ready(self.http.node_id, address))
                await stop.wait()
                stuck = await self._drain(receiving)
                rescuing.cancel()
                await asyncio.wait({rescuing})
                await self.rescuer.leave()
                log.info("node_stopped", node=self.http.node_id, stuck=list(stuck))
                if stuck:
                    # A handler that ignores its cancellation would hold the process for ever.
                    self.abandon()
            carrier.cancel()
            watch.cancel()

    async def handle(self, envelope: Envelope) -> None:
        """Do what an envelope asks; returning means that it is durable. Raises `Poison` for what never can be."""
        for request in self.reader.read(envelope):
            try:
                accepted = await self.router.start(request)
            except IdempotencyConflict as conflict:
                raise Poison(conflict.code, str(conflict)) from None
            known = {"session_id": accepted.session_id, "message_id": envelope.message_id, **trace_ids(request.trace)}
            if accepted.is_new:
                log.info("session_accepted", epoch=FIRST_EPOCH, session_type=request.session_type, **known)
            else:
                log.info("duplicate_absorbed", **known)

    async def _drain(self, receiving: asyncio.Task[None]) -> tuple[str, ...]:
        """Stop taking, then stop working; return the sessions whose handler would not end."""
        log.info("node_draining", node=self.http.node_id, sessions=len(self.system))
        self.health.is_draining = True
        self.router.is_draining = True
        self.rescuer.drain()
        self.intake.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(INTAKE_STOP_SECONDS_MAX):
                await asyncio.shield(receiving)
        report = await self.system.drain(self.settings.drain_seconds)
        receiving.cancel()
        log.info("node_drained", finished=len(report.finished), handed_over=len(report.cut))
        return report.stuck


async def _build(app: Orchestrator, settings: Settings, clients: Clients, stack: AsyncExitStack) -> Node:
    """Build every room, from the ground up. Raises `Refused` where the table or a queue is not to be had."""
    clock = SystemClock()
    threads = stack.enter_context(_threads())
    table_patience, queue_patience = _patience("table", clock), _patience("queue", clock)
    table = Table(clients.dynamodb, settings.table, table_patience, signed=clients.signed_dynamodb)
    await table.check()
    capacity = NodeCapacity(settings.max_sessions)
    ports = _session_ports(app, settings, table, clock, threads)
    system = ActorSystem(clock=clock, busy=BusySignal(clock), on_end=capacity.changed)
    capacity.watch(system)
    supervisor = SessionSupervisor(clock)
    router = Router(system, ports, capacity, supervisor)
    intake = await _intake(settings, clients, capacity, queue_patience)
    rescuer = _rescuer(settings, table, router, capacity, supervisor)
    loop_watch = LoopWatch(clock, stall_seconds_max=settings.node_timeout_seconds, on_stalled=fence)
    reachability = {"table": table_patience.reachability.unreachable_for, "queue": intake.unreachable_for}
    health = Health(busy=system.busy, system=system, loop=loop_watch, reachability=reachability)
    reader = Reader(app, lambda: uuid.uuid4().hex, payload_bytes_max=settings.inline_limit_bytes)
    return Node(
        settings=settings,
        table=table,
        system=system,
        router=router,
        reader=reader,
        intake=intake,
        rescuer=rescuer,
        health=health,
        loop_watch=loop_watch,
        http=HttpPorts(ports.node_id, health, router, reader, ports.heads, ports.journal, settings.api_keys, log),
        abandon=abandon,
    )


def _patience(name: str, clock: Clock) -> Patience:
    return Patience(clock, Reachability(name, clock), random.SystemRandom().random)


def _session_ports(
    app: Orchestrator, settings: Settings, table: Table, clock: Clock, threads: ThreadPoolExecutor
) -> SessionPorts:
    # Never used again, so that whatever names a node names one life of one process.
    node_id = uuid.uuid4().hex[:12]
    numbers = count(1)
    draw = random.SystemRandom().random
    return SessionPorts(
        node_id=node_id,
        app=app,
        journal=DynamoDBJournal(table, retention=timedelta(days=settings.retention_days)),
        heads=DynamoDBHeads(table),
        performer=Performer(agents=_lookup(app, settings, threads), clock=clock, draw=draw),
        clock=clock,
        threads=threads,
        draw=draw,
        new_id=lambda: f"{node_id}.{next(numbers)}",
        fruitless_resumes_max=settings.max_fruitless_resumes,
        payload_bytes_max=settings.inline_limit_bytes,
        log=log,
    )


async def _intake(settings: Settings, clients: Clients, capacity: NodeCapacity, patience: Patience) -> SQSIntake:
    # What is insisted on must not speak for whether the queue hands out messages.
    chores = _patience("queue chores", patience.clock)
    intake = SQSIntake(
        queue=await find_queue(clients, settings.queue, chores),
        dead_letters=await find_queue(clients, settings.dead_letter_queue_name, chores),
        store_body=_body_store(Bucket(clients.s3, settings.bucket, chores)),
        capacity=capacity,
        patience=patience,
        clock=patience.clock,
        log=log,
    )
    capacity.subscribe(intake.room_changed)
    return intake


def _rescuer(
    settings: Settings, table: Table, router: Router, capacity: NodeCapacity, supervisor: SessionSupervisor
) -> Rescuer:
    record = NodeRecord(
        node_id=router.ports.node_id,
        beat=0,
        address=f"{socket.gethostname()}:{settings.port}",
        started_at=truncate_to_millis(router.ports.clock.now()),
        version=version("session-orchestrator"),
        process=own_process(),
    )
    ports = RescuerPorts(
        node=record,
        nodes=DynamoDBNodes(table),
        heads=router.ports.heads,
        router=router,
        capacity=capacity,
        clock=router.ports.clock,
        may_retry=supervisor.may_retry,
        on_fenced=fence,
        log=log,
    )
    return Rescuer(
        ports, heartbeat_seconds=settings.heartbeat_seconds, node_timeout_seconds=settings.node_timeout_seconds
    )


def _lookup(app: Orchestrator, settings: Settings, threads: ThreadPoolExecutor) -> Callable[[str], Agent | None]:
    def agent_named(name: str) -> Agent | None:
        target = app.agent_named(name)
        if target is None:
            return None
        return LocalAgent(target, threads, payload_bytes_max=settings.inline_limit_bytes)

    return agent_named


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Yield the threads of sync steps and agents; one that never returns is left behind, not waited for."""
    threads = ThreadPoolExecutor(STEP_THREADS_MAX, thread_name_prefix="step")
    try:
        yield threads
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _body_store(bucket: Bucket) -> StoreBody:
    async def store(message_id: str, body: str) -> str:
        raw = body.encode()
        key = f"dead-letters/{message_id}.json"
        await bucket.put(key, raw, content_type="application/json")
        digest = hashlib.sha256(raw).hexdigest()
        return compact_json({"artifact": f"s3://{bucket.name}/{key}", "bytes": len(raw), "sha256": digest})

    return store
