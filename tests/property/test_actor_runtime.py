"""The actor runtime against a plain model: two lists per actor, what was accepted and what was handled.

To change it: a new way to reach an actor is a new rule here; the law at the end stays.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from any_values import FACTOR
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors import (
    ActorContext,
    ActorError,
    ActorRef,
    ActorStopped,
    ActorSystem,
    AskTimeout,
    Directive,
    DrainReport,
    DuplicateActor,
    ManualClock,
    Reply,
    SystemDraining,
    settle,
)
from actors.signals import next_turn

IDS = st.sampled_from(["a", "b"])
KINDS = st.sampled_from(["plain", "fail", "slow", "echo", "work", "child", "stop", "watch", "broken work"])


@dataclass(frozen=True, slots=True)
class Note:
    """A message: what to do, and a number that tells it from all others."""

    kind: str
    number: int
    is_apart: bool = False
    """Nobody sees it being accepted: it is held to a law of its own."""


@dataclass(slots=True)
class Watching:
    """That one life asked to be told of the end of another, and how often it was."""

    watcher: "Life"
    target: "ActorRef[Note]"
    told: int = 0


@dataclass(slots=True)
class Life:
    """What one life of an actor was given, and what it did."""

    ref: ActorRef[Note]
    accepted: list[Note] = field(default_factory=list)
    handled: list[Note] = field(default_factory=list)
    is_slow: bool = False


class Model:
    """The actor under test, and the book-keeping beside it."""

    def __init__(self, machine: "ActorRuntime", context: ActorContext[Note]) -> None:
        self.machine = machine
        self.context = context
        self.life = machine.life_of(context.ref)

    async def activate(self) -> None:
        """Take a turn."""
        await next_turn()

    async def receive(self, message: Note) -> None:
        """Do as the note says, and write it down unless cut off."""
        try:
            await self.perform(message)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self.life.handled.append(message)
            raise
        self.life.handled.append(message)

    async def deactivate(self) -> None:
        """Take a turn."""
        await next_turn()

    async def perform(self, message: Note) -> None:
        """Do as the note says."""
        match message.kind:
            case "fail":
                raise ValueError(message)
            case "slow":
                self.life.is_slow = True
                await self.context.clock.sleep(5)
                self.life.is_slow = False
            case "echo":
                self.tell_self()
            case "work":
                work = self.context.clock.sleep(7)
                self.context.background.start("work", work, lambda outcome: self.tell_self())
            case "broken work":
                self.context.background.start("broken", broken(), lambda outcome: self.tell_self())
            case "watch":
                self.watch_others()
            case "end":
                self.machine.watches[message.number].told += 1
            case "ask":
                self.machine.replies[message.number].set(message.number)
            case "stop":
                self.context.stop()
            case "child":
                child_id = self.context.actor_id + "-child"
                await quietly(lambda: self.context.spawn(child_id, self.machine.build, mailbox_max=2))

    def watch_others(self) -> None:
        """Ask to be told of the end of everybody, itself not."""
        for ref in self.machine.system.refs():
            if ref.actor_id != self.context.actor_id:
                note = self.machine.note("end", is_apart=True)
                self.machine.watches[note.number] = Watching(self.life, ref)
                self.context.watch(ref, lambda terminated, note=note: note)  # type: ignore[misc]

    def tell_self(self) -> None:
        """Send a plain note to itself."""
        note = self.machine.note("plain")
        self.context.tell_self(note)
        self.life.accepted.append(note)


async def broken() -> None:
    """Fail, a turn later."""
    await next_turn()
    raise ValueError("broken")


def in_books(notes: Iterable[Note]) -> list[Note]:
    """Return those notes of which it is known when they were accepted."""
    return [note for note in notes if not note.is_apart]


async def quietly(call: Callable[[], Awaitable[object]]) -> object:
    """Return what `call` leads to, or the error that the runtime promises."""
    try:
        return await call()
    except (ActorError, ValueError) as error:
        return error


class ActorRuntime(RuleBasedStateMachine):
    """Anything may happen in any order and in any turn of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.lives: dict[int, Life] = {}
        self.numbers = 0
        self.is_draining = False
        self.senders: list[asyncio.Task[object]] = []
        self.drains: list[asyncio.Task[DrainReport]] = []
        self.watches: dict[int, Watching] = {}
        self.replies: dict[int, Reply[int]] = {}
        self.leaving = self.loop.create_future()
        self.living = self.loop.create_task(self.live())
        self.run(settle())

    def run(self, work: Awaitable[object]) -> object:
        """Run the loop until `work` is done."""

        async def step() -> object:
            return await work

        return self.loop.run_until_complete(step())

    async def live(self) -> None:
        """Keep a system, and those who talk to it, until `leaving` is done."""
        async with asyncio.TaskGroup() as group, ActorSystem(clock=self.clock) as system:
            self.group, self.system = group, system
            await self.leaving

    def build(self, context: ActorContext[Note]) -> Model:
        """Build the actor under test."""
        return Model(self, context)

    def life_of(self, ref: ActorRef[Note]) -> Life:
        """Return the books of this life, new ones if it is new."""
        return self.lives.setdefault(id(ref._cell), Life(ref))

    def note(self, kind: str, *, is_apart: bool = False) -> Note:
        """Return a message like no other."""
        self.numbers += 1
        return Note(kind, self.numbers, is_apart)

    async def send(self, ref: ActorRef[Note] | None, how: str, note: Note) -> None:
        """Tell in one of two ways, and write down what was accepted, in the step in which it was."""
        assert ref is not None
        if how == "tell":
            await ref.tell(note)
            self.life_of(ref).accepted.append(note)
        elif ref.offer(note):
            self.life_of(ref).accepted.append(note)

    @initialize(directive=st.sampled_from(list(Directive)))
    def begin(self, directive: Directive) -> None:
        """Start with one actor, so that no example is about nothing."""
        self.spawn("a", None, directive)

    @rule(
        actor_id=IDS,
        idle_after=st.sampled_from([None, 3.0]),
        directive=st.sampled_from(list(Directive)),
    )
    def spawn(self, actor_id: str, idle_after: float | None, directive: Directive) -> None:
        """Spawn, and be refused exactly when draining or when the id lives."""

        async def attempt() -> None:
            # In one step, because an actor may end in the turn before.
            is_alive = self.system.get(actor_id) is not None
            expected = SystemDraining if self.is_draining else DuplicateActor if is_alive else ActorRef
            outcome = await quietly(
                lambda: self.system.spawn(
                    actor_id, self.build, mailbox_max=2, idle_after=idle_after, supervisor=lambda failure: directive
                )
            )
            assert expected is type(outcome)

        self.run(attempt())

    @rule(actor_id=IDS, how=st.sampled_from(["tell", "offer"]), kinds=st.lists(KINDS, min_size=1, max_size=4))
    def tell(self, actor_id: str, how: str, kinds: list[str]) -> None:
        """Let as many senders send a note each, some of them perhaps waiting for room."""
        self.tell_to(self.system.get(actor_id) or self.system.get("a-child"), how, kinds)

    @precondition(lambda self: self.system.get("a-child"))
    @rule(how=st.sampled_from(["tell", "offer"]), kinds=st.lists(KINDS, min_size=1, max_size=4))
    def tell_a_child(self, how: str, kinds: list[str]) -> None:
        """Do the same with an actor that another one supervises."""
        self.tell_to(self.system.get("a-child"), how, kinds)

    def tell_to(self, ref: ActorRef[Note] | None, how: str, kinds: list[str]) -> None:
        """Create the senders, and let them have their turn."""
        for note in map(self.note, kinds if ref is not None else ()):
            self.senders.append(self.group.create_task(quietly(partial(self.send, ref, how, note))))
        self.turns(1)

    @rule(actor_id=IDS, timeout=st.sampled_from([None, 0.0, 4.0]))
    def ask(self, actor_id: str, timeout: float | None) -> None:
        """Ask, and be answered what was asked, or told that nobody will answer, or not in time."""
        ref = self.system.get(actor_id)
        if ref is not None:
            self.senders.append(self.group.create_task(self.asked(ref, timeout)))
            self.turns(1)

    async def asked(self, ref: ActorRef[Note], timeout: float | None) -> object:
        """Ask once, and check the answer."""
        note = self.note("ask", is_apart=True)

        def make(reply: Reply[int]) -> Note:
            self.replies[note.number] = reply
            return note

        answer = await quietly(lambda: ref.ask(make, timeout))
        if isinstance(answer, BaseException):
            assert isinstance(answer, ActorStopped | AskTimeout)
            assert timeout is not None or isinstance(answer, ActorStopped)
        else:
            assert note.number == answer
        return answer

    @rule(actor_id=IDS, kind=st.sampled_from(["plain", "fail"]))
    def have_handled(self, actor_id: str, kind: str) -> None:
        """Wait until a note was handled: then it was, or it raised what it raises, or nobody will handle it."""
        ref = self.system.get(actor_id)
        if ref is not None:
            self.senders.append(self.group.create_task(self.heard(ref, kind)))
            self.turns(1)

    async def heard(self, ref: ActorRef[Note], kind: str) -> object:
        """Have one note handled, and check how that went."""
        outcome = await quietly(lambda: ref.handled(self.note(kind, is_apart=True)))
        if kind == "fail":
            assert isinstance(outcome, ValueError | ActorStopped)
        else:
            assert outcome is None or isinstance(outcome, ActorStopped)
        return outcome

    @precondition(lambda self: self.senders)
    @rule(which=st.integers(0, 100))
    def cancel_a_sender(self, which: int) -> None:
        """A cancelled tell was not accepted: the books, which do not list it, must be right all the same."""
        self.senders[which % len(self.senders)].cancel()

    @rule(actor_id=IDS)
    def stop(self, actor_id: str) -> None:
        """Stop, without waiting for the end."""
        self.senders.append(self.group.create_task(quietly(lambda: self.system.stop(actor_id))))

    @rule(turns=st.integers(1, 6))
    def turns(self, turns: int) -> None:
        """Let the loop go on a little."""

        async def some() -> None:
            for _ in range(turns):
                await next_turn()

        self.run(some())

    @rule(seconds=st.sampled_from([0.5, 3.0, 5.0, 8.0]))
    def advance(self, seconds: float) -> None:
        """Let time pass, without letting the loop go on."""
        self.clock.advance(seconds)

    @rule()
    def settle(self) -> None:
        """Come to rest: whoever is not busy has nothing left to handle."""
        self.run(settle())
        for life in self.lives.values():
            if life.ref.is_alive and not life.is_slow:
                assert life.accepted == in_books(life.handled)
        for watching in self.watches.values():
            if watching.watcher.ref.is_alive and not watching.watcher.is_slow:
                assert watching.told == (not watching.target.is_alive)

    @precondition(lambda self: not self.is_draining)
    @rule(timeout=st.sampled_from([0.0, 4.0, 20.0]), chance=st.integers(0, 4))
    def drain(self, timeout: float, chance: int) -> None:
        """Begin to drain, once in a while."""
        if chance == 0:
            self.is_draining = True
            self.drains.append(self.group.create_task(self.system.drain(timeout)))
            self.turns(1)

    @invariant()
    def every_accepted_message_is_handled_once_in_order_or_reported(self) -> None:
        """For a life that has ended, the two lists together are what was accepted; for others, handled is a prefix."""
        for life in self.lives.values():
            rest, handled = life.ref._cell.terminated, in_books(life.handled)
            if rest is not None:
                assert life.accepted == handled + in_books(note for note in rest.unhandled if isinstance(note, Note))
            else:
                assert life.accepted[: len(handled)] == handled
            assert len(set(life.handled)) == len(life.handled)

    @invariant()
    def an_end_is_told_once_to_each_who_watches_and_not_before_it(self) -> None:
        """Nothing is told of the living, and nothing twice."""
        assert all(watching.told <= (not watching.target.is_alive) for watching in self.watches.values())

    def teardown(self) -> None:
        """Leave: drains end in time, everybody is accounted for, and no task is left."""
        if self.drains:
            for _ in range(4):
                self.clock.advance(20)
                self.run(settle())
            assert self.drains[0].done()
            assert 0 == len(self.system)
        self.leaving.set_result(None)
        self.run(settle())
        assert self.living.done()
        self.living.result()
        self.every_accepted_message_is_handled_once_in_order_or_reported()
        assert all(not life.ref.is_alive for life in self.lives.values())
        assert set() == asyncio.all_tasks(self.loop)
        self.loop.close()


ActorRuntime.TestCase.settings = settings(max_examples=150 * FACTOR, stateful_step_count=40, deadline=None)
TestActorRuntime = ActorRuntime.TestCase
