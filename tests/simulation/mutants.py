"""Deliberate breaks of the product, one guard each: the simulation must find every one of them, or it proves nothing.

To change it: a new guard of an invariant gets a mutant here, and a line in `docs/proofs.md`. `seeds` are those within
which it must be found, `breaks` the invariants of which the checker must name one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from orchestrator import session_actor
from orchestrator.artifacts.coding import Encoder
from orchestrator.artifacts.payloads import PayloadStore
from orchestrator.aws import items
from orchestrator.aws.items import Insert
from orchestrator.cluster import Head, claimed
from orchestrator.cluster.dynamodb import DynamoDBHeads
from orchestrator.cluster.head_items import changes
from orchestrator.driver import Driver
from orchestrator.errors import Poison, Stale
from orchestrator.in_flight import InFlight
from orchestrator.inbox.codec import decode_message
from orchestrator.intake import Envelope
from orchestrator.journal import JournalConflict
from orchestrator.journal.dynamodb import DynamoDBJournal
from orchestrator.notifications import NotDelivered
from orchestrator.notifications.channels import Channels
from orchestrator.reception import Reception
from orchestrator.replay import Turnstile
from orchestrator.rescuer import Rescuer
from orchestrator.router import Router
from orchestrator.session import decide
from orchestrator.session import events as e
from orchestrator.session.mail import Mail
from orchestrator.session.notices import Announce
from orchestrator.session.state import SessionState
from orchestrator.session_actor import SessionActor
from orchestrator.tenants.dynamodb import DynamoDBQuotas, _slot_key

Make: TypeAlias = Callable[[Any], Any]
Calls: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One break. `replaced` names what is replaced: owner, attribute, and the function that makes it from the old.

    It is looked for where nobody outside hears of an end, unless it `has_bus`, and where nobody pauses or kills, unless
    it `has_operator`: fewer calls, so fewer seeds.
    """

    name: str
    breaks: tuple[str, ...]
    seeds: range
    replaced: tuple[tuple[Any, str, Make], ...]
    has_bus: bool = False
    has_operator: bool = False

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the product be broken while the block runs."""
        before = [(owner, name, vars(owner)[name]) for owner, name, _ in self.replaced]
        try:
            for owner, name, make in self.replaced:
                setattr(owner, name, make(vars(owner)[name]))
            yield
        finally:
            for owner, name, old in before:
                setattr(owner, name, old)


def takes_failures_for_told(before: Calls) -> Calls:
    async def tell(self: Channels, notice: Any, channel: str) -> None:
        with suppress(NotDelivered):
            await before(self, notice, channel)

    return tell


def always(value: object) -> Make:
    """Return what makes a function that returns the value, whatever it is asked."""
    return lambda before: lambda *args, **kwargs: value


def never(_: object) -> property:
    """Return a property that is false."""
    return property(always(False)(None))


def nothing(before: Calls) -> Calls:
    """Return a coroutine function that does nothing."""

    async def idle(*args: object, **kwargs: object) -> None:
        await asyncio.sleep(0)

    return idle


# --- the journal ---------------------------------------------------------------------------------------------------


def unconditional_put(before: Calls) -> Calls:
    def lone_put(table: str, write: Insert) -> Any:
        request = before(table, write)
        del request["ConditionExpression"]
        return request

    return lone_put


def conflict_taken_for_success(before: Calls) -> Calls:
    async def append(self: DynamoDBJournal, session_id: str, events: Any, **kwargs: Any) -> None:
        try:
            await before(self, session_id, events, **kwargs)
        except JournalConflict:
            # Creation has conflicts of its own.
            if events[0].seq == 1:
                raise

    return append


def resumes_behind_higher_epochs(before: Calls) -> Calls:
    async def resume(self: Any) -> None:
        while not self._state.has_ended:
            await self._head.settle_takeovers(self._state)
            try:
                recorded = self._stamp((e.SessionResumed(),), self._now())
                await self._ports.journal.append(self._session_id, recorded, started_at=self._state.started_at)
            except JournalConflict:
                self._known_state = await self._read()
                continue
            self._known_state = await self._read()
            return

    return resume


# --- ownership -----------------------------------------------------------------------------------------------------


def claims_whatever_stands_there(before: Calls) -> Calls:
    async def claim(self: DynamoDBHeads, head: Head, **how: Any) -> Head:
        wanted = claimed(head, **how)
        return await self._write(head, wanted, changes(head, wanted), {})

    return claim


def releases_whatever_came(before: Calls) -> Calls:
    async def release(self: DynamoDBHeads, head: Head, *args: Any, **kwargs: Any) -> Head:
        current = await self.get(head.session_id)
        if current is not None and current.epoch == head.epoch:
            head = replace(head, inbox_version=current.inbox_version)
        released: Head = await before(self, head, *args, **kwargs)
        return released

    return release


def finds_nothing(before: Calls) -> Calls:
    async def none(*args: object, **kwargs: object) -> AsyncIterator[str]:
        for each in list[str]():
            yield each

    return none


# --- the door ------------------------------------------------------------------------------------------------------


def acknowledges_before_it_is_written(before: Calls) -> Calls:
    running: set[asyncio.Task[Any]] = set()

    async def start(self: Reception, *args: Any) -> None:
        running.add(asyncio.ensure_future(before(self, *args)))

    return start


def drops_rubbish(before: Calls) -> Calls:
    async def handle(self: Reception, envelope: Envelope) -> None:
        with suppress(Poison):
            await before(self, envelope)

    return handle


# --- results and effects -------------------------------------------------------------------------------------------


def once_is_at_least_once(before: Calls) -> Calls:
    async def step(self: Driver, operation: str, call: Any) -> object:
        return await before(self, operation, replace(call, semantics="at_least_once"))

    return step


def forgets_step_results(before: Calls) -> Calls:
    async def reach(self: Turnstile, operation_id: str, *args: Any, **kwargs: Any) -> Any:
        known = await before(self, operation_id, *args, **kwargs)
        return None if operation_id.startswith(("step", "thread")) else known

    return reach


def performs_before_it_is_durable(before: Calls) -> Calls:
    async def commit(self: Any, events: Any, now: Any) -> None:
        recorded = self._stamp(events, now)
        for each in recorded:
            self._fold(each)
        if not self._state.has_ended:
            self._in_flight.perform(self._state)
        try:
            await self._ports.journal.append(self._session_id, recorded, started_at=self._state.started_at)
        except JournalConflict as conflict:
            raise Stale(str(conflict)) from None

    return commit


def clears_the_outbox_first(before: Calls) -> Calls:
    async def tell_all(self: Any, told: Any) -> None:
        await self._head.settle_outbox(())
        for notice in told:
            if not isinstance(notice, Announce):
                await self._performer.tell(notice)
        await self.telling.announce([each for each in told if isinstance(each, Announce)], self.log)

    return tell_all


# --- messages ------------------------------------------------------------------------------------------------------


def empties_the_inbox_first(before: Calls) -> Calls:
    async def read_inbox(self: Any) -> None:
        version = self._head.current.inbox_version
        waiting = await self._ports.inbox.read(self._session_id)
        await self._ports.inbox.delete(self._session_id, [item.message_id for item in waiting])
        for item in waiting:
            if self._is_released or self._state.has_ended:
                return
            await self._take(decode_message(item))
        self._inbox_read = version

    return read_inbox


def looks_at_the_version_last(before: Calls) -> Calls:
    async def read_inbox(self: Any) -> None:
        await before(self)
        if not self._is_released:
            await self._head.refresh()
            self._inbox_read = self._head.current.inbox_version

    return read_inbox


# --- slots and payloads --------------------------------------------------------------------------------------------


def gives_slots_back_twice(before: Calls) -> Calls:
    async def free(self: Any, tenant: str, session_id: str) -> None:
        slot = _slot_key(tenant, session_id)
        await self._table.delete(slot)
        await self._table.write_all([self._tally(tenant, "attribute_exists(SK)", used=-1)])

    return free


def stores_no_object(before: Calls) -> Calls:
    async def put(self: Any, key: str, raw: bytes) -> Any:
        encoder = Encoder(compressed=True)
        encoder.feed(raw)
        return encoder.ref("bucket", key)

    return put


def seals_nothing(before: Calls) -> Calls:
    async def seal(self: PayloadStore, key: str, value: Any) -> Any:
        return value

    return seal


MUTANTS: Final[tuple[Mutant, ...]] = (
    Mutant(
        "an event is written whatever stands in its place",
        ("I1",),
        range(30),
        ((items, "lone_put", unconditional_put), (Insert, "is_batchable", lambda _: False)),
    ),
    Mutant(
        "whoever meets another's event takes it for its own",
        ("I1", "I2", "I4", "I5", "I7"),
        range(90, 110),
        ((DynamoDBJournal, "append", conflict_taken_for_success),),
    ),
    Mutant(
        "a node acknowledges a start before it is written",
        ("I3",),
        range(30),
        ((Reception, "_start", acknowledges_before_it_is_written),),
    ),
    Mutant(
        "another payload under the same key is the same", ("I4",), range(30), ((decide, "same_start", always(True)),)
    ),
    Mutant("`at_most_once` is `at_least_once`", ("I5", "I6"), range(30), ((Driver, "step", once_is_at_least_once),)),
    Mutant("a replay forgets the results of steps", ("I5",), range(30), ((Turnstile, "reach", forgets_step_results),)),
    Mutant(
        "effects run before the event that orders them is durable",
        ("I6",),
        range(30),
        ((SessionActor, "_commit", performs_before_it_is_durable),),
    ),
    Mutant("what an end sets off is forgotten", ("I6", "I10"), range(30), ((session_actor, "notices", always(())),)),
    Mutant(
        "an outbox is cleared before it is told",
        ("I6", "I8", "I10"),
        range(30),
        ((InFlight, "_tell_all", clears_the_outbox_first),),
    ),
    Mutant(
        "what a channel does not take is taken for told",
        ("I6",),
        range(30),
        ((Channels, "tell", takes_failures_for_told),),
        has_bus=True,
    ),
    Mutant(
        "a claimer appends behind a higher epoch",
        ("I7",),
        range(445, 465),
        ((SessionActor, "_resume", resumes_behind_higher_epochs),),
    ),
    Mutant("a claim is not recorded in the journal", ("I7",), range(30), ((SessionActor, "_resume", nothing),)),
    Mutant(
        "a claim takes what somebody else has claimed since",
        ("I5", "I7"),
        range(10, 60),
        ((DynamoDBHeads, "claim", claims_whatever_stands_there),),
    ),
    Mutant("nobody looks at dead nodes", ("I8",), range(30), ((Rescuer, "_look_at", nothing),)),
    Mutant("nobody looks for what is due", ("I8",), range(30), ((DynamoDBHeads, "due", finds_nothing),)),
    Mutant(
        "a session leaves memory whatever came in meanwhile",
        ("I8", "I9"),
        range(80, 130),
        ((DynamoDBHeads, "release", releases_whatever_came),),
    ),
    Mutant(
        "a message is taken from the inbox before it is journaled",
        ("I9",),
        range(190, 225),
        ((SessionActor, "_read_inbox", empties_the_inbox_first),),
    ),
    Mutant(
        "the inbox is read before its version",
        ("I8", "I9"),
        range(10, 30),
        ((SessionActor, "_read_inbox", looks_at_the_version_last),),
    ),
    Mutant(
        "a message to another node's session goes nowhere",
        ("I9",),
        range(30),
        ((Router, "_leave_in_inbox", nothing),),
    ),
    Mutant("a session forgets which messages it took", ("I9",), range(30), ((Mail, "is_known", always(False)),)),
    Mutant(
        "a pause is journaled, and not kept",
        ("I9",),
        range(10),
        ((SessionState, "is_held", never),),
        has_operator=True,
    ),
    Mutant(
        "a slot is given back without a look at whether it is there",
        ("I10",),
        range(85, 105),
        ((DynamoDBQuotas, "free", gives_slots_back_twice),),
    ),
    Mutant("rubbish is acknowledged and forgotten", ("I11",), range(30), ((Reception, "handle", drops_rubbish),)),
    Mutant(
        "payloads of any size stay in the journal",
        ("I12",),
        range(80, 140),
        ((PayloadStore, "seal", seals_nothing),),
    ),
    Mutant("a reference is written, and no object", ("I12",), range(30), ((PayloadStore, "_put", stores_no_object),)),
)
