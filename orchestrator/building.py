"""Builds the rooms of a node that take more than a line: what its sessions are given, and its intake.

`service` puts them together; nothing here starts a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Protocol, TypeAlias

import structlog

from actors import ActorSystem, BusySignal
from orchestrator.agents import Connections
from orchestrator.agents.local import LocalAgents
from orchestrator.app import Orchestrator
from orchestrator.artifacts.payloads import PayloadStore
from orchestrator.artifacts.s3 import S3Artifacts
from orchestrator.artifacts.session_files import SessionFiles
from orchestrator.aws.agents import AgentRuntimes, LambdaFunctions
from orchestrator.aws.bucket import Bucket
from orchestrator.aws.clients import Clients
from orchestrator.aws.faults import Patience, Reachability
from orchestrator.aws.inspection import SKEW_SECONDS_MAX
from orchestrator.aws.keys import MasterKeys
from orchestrator.aws.outlets import Bus, Tasks, Topic
from orchestrator.aws.queue import find_queue
from orchestrator.aws.table import Table
from orchestrator.callbacks.dynamodb import DynamoDBCallbacks
from orchestrator.capacity import NodeCapacity
from orchestrator.cluster import Head, Nodes
from orchestrator.cluster.directory import Directory
from orchestrator.cluster.dynamodb import DynamoDBHeads, DynamoDBNodes
from orchestrator.deliveries import SessionDeliveries
from orchestrator.encryption.cipher import PayloadCipher
from orchestrator.encryption.kms import payload_cipher
from orchestrator.health import Health, LoopWatch
from orchestrator.inbox import WakeUps
from orchestrator.inbox.dynamodb import DynamoDBInbox, DynamoDBWakeUps
from orchestrator.intake.dead_letters import DEAD_LETTERS_PREFIX
from orchestrator.intake.sqs import SQSIntake, StoreBody
from orchestrator.journal.dynamodb import DynamoDBJournal
from orchestrator.machine import Machine
from orchestrator.memory_pressure import MemoryPressure, hand_back
from orchestrator.notifications import Notifications
from orchestrator.notifications.channels import Channels
from orchestrator.notifications.eventbridge import EventBridgeChannel
from orchestrator.notifications.log import LogChannel
from orchestrator.notifications.memory import MemoryNotifications
from orchestrator.notifications.sns import SNSChannel
from orchestrator.notifications.stepfunctions import StepFunctionsChannel
from orchestrator.notifications.webhooks import WebhookChannel
from orchestrator.outside import NodeOutside
from orchestrator.performer import Performer
from orchestrator.pokes import Pokes, PokingWakeUps
from orchestrator.pokes.http import HttpPokes
from orchestrator.protection import TaskProtection
from orchestrator.router import Router
from orchestrator.session.values import compact_json
from orchestrator.session_ports import SessionPorts
from orchestrator.session_supervisor import SessionSupervisor
from orchestrator.settings import Settings
from orchestrator.stuck import StuckWatch
from orchestrator.telemetry.port import SILENT, Telemetry
from orchestrator.tenant_budgets import TenantBudgets
from orchestrator.tenants.dynamodb import DynamoDBQuotas
from orchestrator.usage import Caps
from orchestrator.usage.dynamodb import DynamoDBUsage
from orchestrator.why import Owner, UnderWay
from orchestrator.why.facts import Gathering

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

log: FilteringBoundLogger = structlog.get_logger("orchestrator")


class Dependency(Protocol):
    """A service that a node cannot do without."""

    def unreachable_for(self) -> float:
        """Return for how many seconds it has not answered; 0 while it does."""
        ...


PokesFor: TypeAlias = Callable[[Directory], Pokes]


def patience_for(name: str, machine: Machine, telemetry: Telemetry = SILENT) -> Patience:
    """Return how the calls to one service are repeated, and whether it can be reached."""
    return Patience(machine.clock, Reachability(name, machine.clock, log=log), machine.draw, telemetry=telemetry)


def new_node_id(machine: Machine) -> str:
    """Return an id that is never used again, so that whatever names a node names one life of one process."""
    return machine.new_hex()[:12]


async def encryption(
    settings: Settings, clients: Clients, machine: Machine, telemetry: Telemetry
) -> tuple[PayloadCipher, MasterKeys]:
    """Build what encrypts payloads, and the keys that it has from KMS.

    Raises:
        SettingsError: KMS refuses the key that the settings name.
    """
    keys = MasterKeys(clients.outlets, patience_for("keys", machine, telemetry))
    cipher = payload_cipher(settings, keys, machine.clock)
    await cipher.check()
    return cipher, keys


def session_ports(  # noqa: PLR0913, PLR0917 - what the rooms of a node are built on
    app: Orchestrator,
    settings: Settings,
    table: Table,
    bucket: Bucket,
    cipher: PayloadCipher,
    machine: Machine,
    node_id: str,
    address: PublicAddress,
    outside: Callable[[], NodeOutside],
    notifications: Notifications,
    lent: Connections | None = None,
    telemetry: Telemetry = SILENT,
) -> SessionPorts:
    """Build what every session of this node is given."""
    numbers, clock = count(1), machine.clock
    retention = timedelta(days=settings.retention_days)
    artifacts = S3Artifacts(bucket, cipher)
    callbacks = DynamoDBCallbacks(table, clock=clock, cipher=cipher)
    usage = DynamoDBUsage(table, retention=retention)
    payloads = PayloadStore(artifacts, inline_bytes_max=settings.inline_limit_bytes)
    return SessionPorts(
        node_id=node_id,
        app=app,
        journal=DynamoDBJournal(table, retention=retention, cipher=cipher),
        heads=DynamoDBHeads(table),
        inbox=DynamoDBInbox(table, clock=clock, retention=retention, cipher=cipher),
        callbacks=callbacks,
        quotas=DynamoDBQuotas(table, limit_default=settings.tenant_limit),
        payloads=payloads,
        artifacts=SessionFiles(artifacts, machine.new_hex),
        performer=Performer(
            agents=LocalAgents(app, machine.threads, clock, connections=lent).named,
            clock=clock,
            draw=machine.draw,
            callbacks=callbacks,
            payloads=payloads,
            new_token=machine.new_token,
            callback_url=address.callback_url,
            outside=outside,
            notifications=notifications,
            budgets=TenantBudgets(usage, clock, defaults=Caps(**(settings.tenant_budget or {}))),
            price_of=app.agent_price,
            telemetry=telemetry,
        ),
        clock=clock,
        threads=machine.threads,
        draw=machine.draw,
        new_id=lambda: f"{node_id}.{next(numbers)}",
        new_token=machine.new_token,
        callback_url=address.callback_url,
        budget_default=settings.session_budget,
        fruitless_resumes_max=settings.max_fruitless_resumes,
        passivate_after=settings.passivate_after_seconds,
        telemetry=telemetry,
        log=log,
    )


def connections(clients: Clients, machine: Machine) -> Connections:
    """Build what this node lends to agents that run elsewhere."""
    now = machine.clock.now
    return Connections(
        clock=machine.clock,
        draw=machine.draw,
        functions={region: LambdaFunctions(client, now) for region, client in clients.functions.items()},
        runtimes={region: AgentRuntimes(client, now) for region, client in clients.runtimes.items()},
    )


@asynccontextmanager
async def deliveries_of_no_node(
    settings: Settings, table: Table, bucket: Bucket, cipher: PayloadCipher, machine: Machine
) -> AsyncIterator[SessionDeliveries]:
    """Yield the deliveries of a process that is no node: it claims nothing, and leaves its messages where nodes look.

    So a command reaches a session though no message gets through the queue, past nodes that are full or far behind.
    Leaving the block waits until the nodes that have such sessions were poked, as far as they can be reached from here.
    """
    address = PublicAddress(settings)
    ports = session_ports(
        Orchestrator(),
        settings,
        table,
        bucket,
        cipher,
        machine,
        new_node_id(machine),
        address,
        _nobody_outside,
        MemoryNotifications(),
    )
    system, capacity = ActorSystem(clock=machine.clock), NodeCapacity(1)
    capacity.watch(system)
    pokes = HttpPokes(Directory(DynamoDBNodes(table), own_id=ports.node_id), log)
    wake_ups = PokingWakeUps(DynamoDBWakeUps(table, clock=machine.clock), pokes)
    router = Router(system, ports, wake_ups, capacity, SessionSupervisor(machine.clock))
    # As a node that drains: what it wakes is left to others.
    router.drain()
    carrying = asyncio.ensure_future(pokes.run())
    try:
        yield SessionDeliveries(router, machine.new_hex)
        await pokes.settled()
    finally:
        carrying.cancel()
        await asyncio.wait({carrying})


def _nobody_outside() -> NodeOutside:
    raise AssertionError("a process that runs no sessions reaches none from them")


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The other nodes: their registrations, what this node knows of them, and how it leaves them notes."""

    nodes: Nodes
    directory: Directory
    wake_ups: WakeUps
    pokes: Pokes


def neighbours(table: Table, machine: Machine, node_id: str, pokes_for: PokesFor | None) -> Neighbours:
    """Build what connects this node to the others; without `pokes_for` they are poked over HTTP."""
    nodes = DynamoDBNodes(table)
    directory = Directory(nodes, own_id=node_id)
    pokes = HttpPokes(directory, log) if pokes_for is None else pokes_for(directory)
    wake_ups = PokingWakeUps(DynamoDBWakeUps(table, clock=machine.clock), pokes)
    return Neighbours(nodes, directory, wake_ups, pokes)


class PublicAddress:
    """Where callbacks reach this node: `ORCHESTRATOR_PUBLIC_URL`, or where it listens."""

    def __init__(self, settings: Settings) -> None:
        self._url = (settings.public_url or "").rstrip("/")

    def bound(self, address: str) -> None:
        """Note where the node listens (`host:port`)."""
        self._url = self._url or f"http://{address}"

    def callback_url(self, callback_id: str) -> str:
        """Return the address that completes a callback."""
        return f"{self._url}/callbacks/{callback_id}"


def channels(settings: Settings, clients: Clients, machine: Machine) -> Channels:
    """Build what tells the world: the channels that the settings name."""
    outlets, clock, topic_arn = clients.outlets, machine.clock, settings.approval_topic_arn
    bus = Bus(outlets, settings.event_bus) if settings.event_bus else None
    is_named = "event_bus" in settings.model_fields_set
    url, secret = settings.webhook_url, settings.webhook_secret
    return Channels(
        log=LogChannel(log),
        tasks=StepFunctionsChannel(Tasks(outlets), clock, log, heartbeat_seconds=settings.task_heartbeat_seconds),
        bus=None if bus is None else EventBridgeChannel(bus, clock, log, is_named=is_named),
        topic=SNSChannel(Topic(outlets, topic_arn)) if topic_arn else None,
        webhook=WebhookChannel(url, secret.get_secret_value(), clock) if url and secret is not None else None,
    )


async def sqs_intake(
    settings: Settings,
    clients: Clients,
    cipher: PayloadCipher,
    capacity: NodeCapacity,
    machine: Machine,
    telemetry: Telemetry,
) -> SQSIntake:
    """Find the queues and build the intake on them. Raises `Unavailable` where one is not to be had."""
    # What is insisted on must not speak for whether the queue hands out messages.
    chores = patience_for("queue chores", machine, telemetry)
    intake = SQSIntake(
        queue=await find_queue(clients, settings.queue, chores),
        dead_letters=await find_queue(clients, settings.dead_letter_queue_name, chores),
        store_body=_body_store(Bucket(clients.s3, settings.bucket, chores), cipher),
        capacity=capacity,
        patience=patience_for("queue", machine, telemetry),
        clock=machine.clock,
        telemetry=telemetry,
        log=log,
    )
    capacity.subscribe(intake.room_changed)
    return intake


def task_protection(machine: Machine, busy: BusySignal) -> TaskProtection | None:
    """Build what keeps this task from being scaled in; `None` where no ECS agent is."""
    if machine.ecs_agent_uri is None:
        return None
    return TaskProtection(machine.ecs_agent_uri, busy=busy, clock=machine.clock, draw=machine.draw, log=log)


def loop_watch_for(settings: Settings, machine: Machine, telemetry: Telemetry) -> LoopWatch:
    """Build what ends this process when its loop stands still for as long as others wait for its beat."""
    return LoopWatch(
        machine.clock,
        stall_seconds_max=settings.node_timeout_seconds,
        on_stalled=machine.fence,
        guard=machine.guard,
        on_late=telemetry.loop_lag,
    )


def memory_pressure(machine: Machine, capacity: NodeCapacity) -> MemoryPressure:
    """Build what holds new sessions back while memory is short."""
    on_change = capacity.short_of_memory
    return MemoryPressure(machine.used_memory, on_change=on_change, relieve=hand_back, clock=machine.clock, log=log)


def note_clock(at_aws: datetime | None, machine: Machine) -> None:
    """Warn of a clock that is wrong: timers fire by it, and AWS refuses what is signed far from its own time."""
    seconds = 0.0 if at_aws is None else (machine.clock.now() - at_aws).total_seconds()
    if abs(seconds) > SKEW_SECONDS_MAX:
        log.warning("clock_wrong", seconds_ahead=round(seconds, 1), advice="set the clock; orchestrator doctor")


def health_of(
    system: ActorSystem, loop: LoopWatch, dependencies: Mapping[str, Dependency], stuck: StuckWatch
) -> Health:
    """Build what says whether this node is well, and reaches what it depends on."""
    reachability = {name: each.unreachable_for for name, each in dependencies.items()}
    return Health(busy=system.busy, system=system, loop=loop, reachability=reachability, stuck=lambda: stuck.count)


def stuck_watch(settings: Settings, system: ActorSystem, machine: Machine) -> StuckWatch:
    """Build what finds sessions that hang."""
    return StuckWatch(
        system, machine.clock, log, factor=settings.stuck_after_factor, seconds_min=settings.stuck_after_seconds
    )


def gathering(ports: SessionPorts, nodes: Nodes, stuck: StuckWatch) -> Gathering:
    """Build what this node explains sessions from: the tables, and its own memory."""

    async def look(head: Head, owner: Owner) -> tuple[UnderWay | None, bool | None]:
        is_here = owner.node_id == ports.node_id
        return (stuck.under_way(head.session_id), True) if is_here else (None, None)

    return Gathering(ports.heads, ports.journal, nodes, ports.quotas, ports.clock, look)


def _body_store(bucket: Bucket, cipher: PayloadCipher) -> StoreBody:
    async def store(message_id: str, body: str) -> str:
        raw = body.encode()
        ref = await S3Artifacts(bucket, cipher).put_over(f"{DEAD_LETTERS_PREFIX}{message_id}.json", raw)
        return compact_json(ref.to_json())

    return store
