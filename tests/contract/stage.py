"""What the contract suites stand on: a store per implementation, in a table of its own, and short ways to say an event.

To add an implementation: one more way to open a store, one more name in `STORES` of `conftest`.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Final

import pytest

from actors import Clock, ManualClock, SystemClock
from orchestrator.aws.clients import Clients, connect
from orchestrator.aws.faults import Patience, Reachability
from orchestrator.aws.group_commit import BATCH_WRITES_MAX
from orchestrator.aws.provision import table_definition
from orchestrator.aws.table import Table
from orchestrator.callbacks import Callbacks
from orchestrator.callbacks.dynamodb import DynamoDBCallbacks
from orchestrator.callbacks.memory import MemoryCallbacks
from orchestrator.cluster import Head, Heads, NodeRecord, Nodes
from orchestrator.cluster.dynamodb import DynamoDBHeads, DynamoDBNodes
from orchestrator.cluster.memory import MemoryHeads, MemoryNodes
from orchestrator.encryption.cipher import PayloadCipher
from orchestrator.encryption.key_ring import KeyRing
from orchestrator.encryption.memory import MemoryKeys
from orchestrator.inbox import Inbox, WakeUps
from orchestrator.inbox.dynamodb import DynamoDBInbox, DynamoDBWakeUps
from orchestrator.inbox.memory import MemoryInbox, MemoryWakeUps
from orchestrator.journal import Journal
from orchestrator.journal.dynamodb import DynamoDBJournal
from orchestrator.journal.memory import MemoryJournal
from orchestrator.objects import LatestWrites
from orchestrator.objects.dynamodb import DynamoDBLatestWrites
from orchestrator.objects.memory import MemoryLatestWrites
from orchestrator.schedules import Schedules
from orchestrator.schedules.dynamodb import DynamoDBSchedules
from orchestrator.schedules.memory import MemorySchedules
from orchestrator.session.events import Event, Recorded, SessionResumed, SessionStarted, StepCompleted
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import Json
from orchestrator.tenants import Quotas
from orchestrator.tenants.dynamodb import DynamoDBQuotas
from orchestrator.tenants.memory import MemoryQuotas
from orchestrator.usage import Usage
from orchestrator.usage.dynamodb import DynamoDBUsage
from orchestrator.usage.memory import MemoryUsage
from tests.contract.waiting import START
from tests.emulators import REGION, Emulator, access_key, fresh_account
from tests.simulation.dynamodb import SimTable
from tests.simulation.network import clients_at_once
from tests.simulation.world import World

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb.type_defs import AttributeValueTypeDef

LIMIT_DEFAULT: Final = 2
"""Slots of a tenant for whom no limit was set."""
RETENTION: Final = timedelta(days=90)
SESSION: Final = "session-1"
POKE_KEY: Final = "the key of node-a"

_table_numbers = count(1)
_event_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Store:
    """One implementation of the protocols of what is stored. What expires there does so by `clock`."""

    journal: Journal
    heads: Heads
    nodes: Nodes
    inbox: Inbox
    wake_ups: WakeUps
    callbacks: Callbacks
    quotas: Quotas
    latest_writes: LatestWrites
    schedules: Schedules
    usage: Usage
    clock: ManualClock


@dataclass(frozen=True, slots=True)
class OpenTable:
    """A product table on an emulator, and the means to look at it from outside."""

    table: Table
    name: str
    clients: Clients
    patience: Patience
    carrier: asyncio.Task[None]
    clock: ManualClock = field(default_factory=lambda: ManualClock(START))

    def journal(self) -> DynamoDBJournal:
        """Return a journal on it."""
        return DynamoDBJournal(self.table, retention=RETENTION)

    def heads(self) -> DynamoDBHeads:
        """Return the HEADs on it."""
        return DynamoDBHeads(self.table)

    def nodes(self) -> DynamoDBNodes:
        """Return the nodes on it."""
        return DynamoDBNodes(self.table)

    def inbox(self) -> DynamoDBInbox:
        """Return the inboxes on it."""
        return DynamoDBInbox(self.table, clock=self.clock, retention=RETENTION)

    def wake_ups(self) -> DynamoDBWakeUps:
        """Return the wake-ups on it."""
        return DynamoDBWakeUps(self.table, clock=self.clock)

    def callbacks(self) -> DynamoDBCallbacks:
        """Return the callbacks on it."""
        return DynamoDBCallbacks(self.table, clock=self.clock)

    def quotas(self) -> DynamoDBQuotas:
        """Return the slots and queues on it."""
        return DynamoDBQuotas(self.table, limit_default=LIMIT_DEFAULT)

    async def wire_item(self, pk: str, sk: str) -> "dict[str, AttributeValueTypeDef] | None":
        """Return an item as it stands on the wire, by a client that knows nothing of the product."""
        answer = await self.clients.dynamodb.get_item(
            TableName=self.name, Key={"PK": {"S": pk}, "SK": {"S": sk}}, ConsistentRead=True
        )
        return answer.get("Item")

    async def items_count(self) -> int:
        """Return how many items the table holds."""
        pages = self.clients.dynamodb.get_paginator("scan").paginate(TableName=self.name, Select="COUNT")
        return sum([page["Count"] async for page in pages])


@contextmanager
def aws_environment(endpoint_url: str, key: str) -> Iterator[None]:
    """Let the SDK's own variables lead to that endpoint and account."""
    foreign = {name for name in os.environ if name.startswith("AWS_")}
    settings = {
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    before = dict(os.environ)
    try:
        for name in foreign:
            del os.environ[name]
        os.environ.update(settings)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@asynccontextmanager
async def clients_of(endpoint_url: str, key: str) -> AsyncIterator[Clients]:
    """Yield the product's own clients, with its own configuration, led to that endpoint and account."""
    with aws_environment(endpoint_url, key):
        async with connect() as clients:
            yield clients


def patience_of(name: str = "table", *, clock: Clock | None = None, draw: float = 0.0) -> Patience:
    """Return a patience whose every backoff is `draw` of the greatest; none at all unless told."""
    clock = clock or SystemClock()
    return Patience(clock, Reachability(name, clock), lambda: draw)


async def end_tasks(*tasks: asyncio.Task[None]) -> None:
    """Cancel the tasks and wait for their end; a task that failed by itself raises here."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def open_table(
    emulator: Emulator, *, through: str | None = None, patience: Patience | None = None
) -> AsyncIterator[OpenTable]:
    """Create a table of the product in an account of its own and carry its writes; `through` is a proxy's address."""
    key = access_key(emulator, fresh_account())
    name = f"orchestrator-{next(_table_numbers)}"
    async with clients_of(through or emulator.endpoint_url, key) as clients:
        await clients.dynamodb.create_table(**table_definition(name))
        patience = patience or patience_of()
        # moto answers 500 to a PartiQL statement with parameters.
        most = 1 if emulator.name == "moto" else BATCH_WRITES_MAX
        table = Table(clients.dynamodb, clients.signed_dynamodb, name, patience, batch_writes_max=most)
        carrier = asyncio.create_task(table.run(), name="table")
        try:
            yield OpenTable(table, name, clients, patience, carrier)
        finally:
            await end_tasks(carrier)


@asynccontextmanager
async def table_beside(opened: OpenTable, *, patience: Patience | None = None) -> AsyncIterator[OpenTable]:
    """Carry writes to the same table as another node would: with a group commit and a patience of its own."""
    patience = patience or patience_of()
    table = Table(opened.clients.dynamodb, opened.clients.signed_dynamodb, opened.name, patience)
    carrier = asyncio.create_task(table.run(), name="table beside")
    try:
        yield OpenTable(table, opened.name, opened.clients, patience, carrier)
    finally:
        await end_tasks(carrier)


@asynccontextmanager
async def open_store(emulator: Emulator | None) -> AsyncIterator[Store]:
    """Yield the implementations of all protocols on that emulator; on `None`, those in memory."""
    if emulator is None:
        clock, heads = ManualClock(START), MemoryHeads()
        yield Store(
            journal=MemoryJournal(),
            heads=heads,
            nodes=MemoryNodes(),
            inbox=MemoryInbox(),
            wake_ups=MemoryWakeUps(),
            callbacks=MemoryCallbacks(clock=clock),
            quotas=MemoryQuotas(heads, limit_default=LIMIT_DEFAULT),
            latest_writes=MemoryLatestWrites(clock=clock),
            schedules=MemorySchedules(),
            usage=MemoryUsage(),
            clock=clock,
        )
        return
    async with open_table(emulator) as opened:
        yield _store_on(opened.table, opened.clock)


def cipher() -> PayloadCipher:
    """Return what encrypts under a key of its own."""
    keys = MemoryKeys()
    return PayloadCipher(KeyRing(keys, ManualClock(START), key_arn=keys.create(), context={}))


@asynccontextmanager
async def simulated_store(cipher: PayloadCipher | None = None) -> AsyncIterator[Store]:
    """Yield the implementations on the table that the simulation runs on: it must refuse what the real ones refuse."""
    client, signed = clients_at_once(SimTable(World(0), lambda: 0.0, pytest.fail))
    table = Table(client, signed, "orchestrator", patience_of())
    carrier = asyncio.create_task(table.run(), name="table")
    try:
        yield _store_on(table, ManualClock(START), cipher)
    finally:
        await end_tasks(carrier)


def _store_on(table: Table, clock: ManualClock, cipher: PayloadCipher | None = None) -> Store:
    return Store(
        journal=DynamoDBJournal(table, retention=RETENTION, cipher=cipher),
        heads=DynamoDBHeads(table),
        nodes=DynamoDBNodes(table),
        inbox=DynamoDBInbox(table, clock=clock, retention=RETENTION, cipher=cipher),
        wake_ups=DynamoDBWakeUps(table, clock=clock),
        callbacks=DynamoDBCallbacks(table, clock=clock, cipher=cipher),
        quotas=DynamoDBQuotas(table, limit_default=LIMIT_DEFAULT),
        latest_writes=DynamoDBLatestWrites(table, clock=clock),
        schedules=DynamoDBSchedules(table),
        usage=DynamoDBUsage(table, retention=RETENTION),
        clock=clock,
    )


# --- events ----------------------------------------------------------------------------------------------------------


def recorded(seq: int, event: Event | None = None, *, epoch: int = 1, node: str = "node-a") -> Recorded:
    """Return an event for place `seq`, under an event id of its own; event 1 is the session's start unless told."""
    if event is None:
        event = started() if seq == 1 else StepCompleted(f"step-{seq}", {"n": seq}, 1)
    return Recorded(seq, event, START + timedelta(seconds=seq), epoch, node, f"event-{next(_event_numbers)}")


def started(payload: Json = None) -> SessionStarted:
    """Return the event that accepts a session."""
    return SessionStarted("research", "acme", payload, "0" * 64, trace=None)


def resumed(seq: int, *, epoch: int, node: str) -> Recorded:
    """Return the event by which a new epoch takes over."""
    return recorded(seq, SessionResumed(), epoch=epoch, node=node)


async def append(journal: Journal, *events: Recorded, session_id: str = SESSION) -> None:
    """Append the events of a session that started at `START`."""
    await journal.append(session_id, events, started_at=START)


async def events_of(journal: Journal, session_id: str = SESSION, *, after: int = 0) -> list[Recorded]:
    """Return all that the journal holds of the session."""
    return [event async for event in journal.read(session_id, after=after)]


# --- HEADs and nodes -------------------------------------------------------------------------------------------------


def head(
    session_id: str = SESSION,
    *,
    owner: str | None = "node-a",
    status: SessionStatus = SessionStatus.RUNNING,
    epoch: int = 1,
    nonce: str = "nonce-1",
    updated_at: datetime = START,
    wake_at: datetime | None = None,
    session_type: str = "research",
    tenant: str = "acme",
    inbox_version: int = 0,
    takeovers: int = 0,
    attributes: Mapping[str, Json] | None = None,
    outbox: tuple[str, ...] = (),
    created_at: datetime = START,
) -> Head:
    """Return a HEAD as the router would create it."""
    return Head(
        session_id=session_id,
        session_type=session_type,
        tenant=tenant,
        status=status,
        owner=owner,
        epoch=epoch,
        last_seq=1,
        inbox_version=inbox_version,
        claim_nonce=nonce,
        takeovers=takeovers,
        created_at=created_at,
        updated_at=updated_at,
        wake_at=wake_at,
        attributes=attributes or {},
        outbox=outbox,
    )


def node(node_id: str = "node-a", *, beat: int = 0, started_at: datetime = START) -> NodeRecord:
    """Return a registration."""
    return NodeRecord(node_id, beat, "10.0.0.1:8080", started_at, "0.1.0", process="1:2:3", poke_key=POKE_KEY)


async def ids(found: AsyncIterator[str]) -> Sequence[str]:
    """Return the ids that an index yields."""
    return [session_id async for session_id in found]
