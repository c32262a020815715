"""What the world outside is told of sessions: once if all is well, else until it is heard, never in the way (I6)."""

import asyncio
from datetime import timedelta

import pytest
from engine_life import live, look_after, until_suspended
from engine_world import Diary, Gate, World, app_of

from actors import settle
from orchestrator import SessionContext
from orchestrator.answers import success
from orchestrator.callbacks import approval_id_of
from orchestrator.notifications import (
    EVENTS,
    LOG,
    TASK_TOKEN,
    TOPIC,
    WEBHOOK,
    NotDelivered,
    WorldNotice,
    notification_id,
)
from orchestrator.notifications.memory import MemoryNotifications
from orchestrator.notifications.tries import BACKOFF_MAX, GIVEN_UP_AFTER, TRIES_MAX
from orchestrator.owned_head import OUTBOX_GRACE, OwnedHead, Rest
from orchestrator.session import events as e
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import format_instant
from orchestrator.views import session_view

END_ID = notification_id("s")
ASKED_ID = notification_id("s", "publish")
HANGS = NotDelivered("TIMEOUT")


async def one_step(ctx: SessionContext) -> str:
    """Do one thing."""
    return await Diary().step(ctx, "a")


async def asks(ctx: SessionContext) -> bool:
    """Ask a person."""
    return (await ctx.request_approval("publish", {"url": "x"})).approved


def telling(*channels: str, tenant_limit: int = 0) -> World:
    """Return a world that hears of ends on these channels."""
    world = World(tenant_limit=tenant_limit)
    world.notifications = MemoryNotifications(channels_of_end=channels)
    return world


def asking_on(*channels: str) -> World:
    """Return a world in which people are asked on these channels."""
    world = World()
    world.notifications = MemoryNotifications(channels_of_approval=channels)
    return world


async def left(world: World) -> dict[str, object]:
    """Return what HEAD says is undelivered: the attempts of each."""
    undelivered = (await world.head()).attributes.get("undelivered", {})
    assert isinstance(undelivered, dict)
    return {name: each["attempts"] for name, each in undelivered.items() if isinstance(each, dict)}


async def test_an_end_is_told_once_on_every_channel_under_one_id() -> None:
    """Then nothing is owed, and nothing is written down of it."""
    world = telling(EVENTS, WEBHOOK)
    async with world.node(app_of(one_step)) as node:
        await node.start()
        await world.end()
        assert [(EVENTS, END_ID), (WEBHOOK, END_ID)] == world.notifications.told
        head = await world.head()
        assert ((), None, None, {}) == (head.outbox, head.owner, head.wake_at, head.attributes)
        notice = world.notifications.ends[0]
        assert (SessionStatus.COMPLETED, "a", None) == (notice.state, notice.result, notice.error)


async def test_a_channel_that_fails_delays_no_other_and_no_slot_and_keeps_nothing_in_memory() -> None:
    """The rest of the outbox waits in HEAD, due for the next try, and says what went wrong."""
    world = telling(WEBHOOK, EVENTS, tenant_limit=1)
    world.notifications.faults[WEBHOOK] = HANGS
    async with world.node(app_of(one_step)) as node:
        await node.start()
        await world.end()
        assert [(EVENTS, END_ID)] == world.notifications.told
        assert 0 == (await world.quotas.get("default")).used
        assert 0 == len(node.system)
        head = await world.head()
        assert ((WEBHOOK,), None) == (head.outbox, head.owner)
        assert {WEBHOOK: 1} == await left(world)
        assert head.wake_at == world.clock.now() + timedelta(seconds=1.5)
        line = world.logged("notification_failed")[0]
        assert (WEBHOOK, END_ID, "TIMEOUT", 1) == tuple(
            line[name] for name in ("notification", "notification_id", "code", "attempts")
        )


async def test_what_was_not_delivered_is_tried_again_by_any_node_until_it_is() -> None:
    """Only that, further and further apart; and no event is appended behind the end (I2)."""
    world, app = telling(EVENTS, WEBHOOK), app_of(one_step)
    world.notifications.faults[WEBHOOK] = HANGS
    async with world.node(app) as node:
        await node.start()
        await world.end()
    story = await world.story()
    async with world.node(app, "node-2") as node:
        pauses = []
        for attempts in range(2, 8):
            head = await world.head()
            assert head.wake_at is not None
            pauses.append((head.wake_at - world.clock.now()).total_seconds())
            await world.pass_time(pauses[-1])
            await look_after(world, node)
            assert {WEBHOOK: attempts} == await left(world)
        assert [1.5, 3, 6, 12, 24, 48] == pauses
        world.notifications.faults.clear()
        await live(world, node)
        head = await world.head()
        assert ((), None, {}) == (head.outbox, head.wake_at, head.attributes)
    assert [(EVENTS, END_ID), (WEBHOOK, END_ID)] == world.notifications.told
    assert story == await world.story()


@pytest.mark.parametrize(
    ("call", "told"),
    [("end", []), ("settle_outbox", [EVENTS])],
    ids=["before it told anybody", "before it wrote down whom it told"],
)
async def test_a_node_that_dies_at_the_telling_leaves_it_to_another(call: str, told: list[str]) -> None:
    """At least once, under exactly one id."""
    world, app = telling(EVENTS), app_of(one_step)
    async with world.node(app) as node:
        if call == "end":
            node.line.cut_after(call)
        else:
            node.line.cut_before(call)
        await node.start()
        await settle()
        assert told == [channel for channel, _ in world.notifications.told]
    async with world.node(app, "node-2") as node:
        await world.pass_time(OUTBOX_GRACE.total_seconds())
        await live(world, node, dead=("node-1",))
    assert {(EVENTS, END_ID)} == set(world.notifications.told)
    assert len(told) + 1 == len(world.notifications.told)


async def test_a_former_owner_that_comes_back_to_its_end_tells_nobody() -> None:
    """Its terminal event won, but another epoch wrote HEAD's end, and told: the zombie is silent (I6, I7)."""
    world, app = telling(EVENTS, WEBHOOK), app_of(one_step)
    async with world.node(app) as zombie, world.node(app, "node-2") as heir:
        zombie.line.hold_on("end")
        await zombie.start()
        await zombie.line.until_held()
        assert await heir.claim(dead_owner="node-1")
        await world.end()
        assert [(EVENTS, END_ID), (WEBHOOK, END_ID)] == world.notifications.told
        zombie.line.thaw()
        await settle()
        await world.pass_time(60)
        assert [(EVENTS, END_ID), (WEBHOOK, END_ID)] == world.notifications.told
        assert 0 == len(zombie.system)


async def test_what_nobody_takes_for_a_week_is_given_up_and_stays_on_record() -> None:
    """With an error in the log; no pause is longer than an hour."""
    world, app = telling(WEBHOOK), app_of(one_step)
    world.notifications.faults[WEBHOOK] = HANGS
    async with world.node(app) as node:
        await node.start()
        ended_at = world.clock.now()
        await world.end()
        while (wake_at := (await world.head()).wake_at) is not None:
            pause = wake_at - world.clock.now()
            assert pause <= BACKOFF_MAX
            await world.pass_time(pause.total_seconds())
            await look_after(world, node)
        assert GIVEN_UP_AFTER <= world.clock.now() - ended_at <= GIVEN_UP_AFTER + BACKOFF_MAX
        assert ((), None) == ((await world.head()).outbox, (await world.head()).owner)
        (line,) = world.logged("notification_given_up")
        assert ("error", {WEBHOOK: line["attempts"]}) == (line["log_level"], await left(world))


async def test_a_receiver_that_wants_no_more_of_it_is_asked_no_more() -> None:
    """Given up at the first answer that is final."""
    world = telling(WEBHOOK, EVENTS)
    world.notifications.faults[WEBHOOK] = NotDelivered("HTTP_410", is_final=True)
    async with world.node(app_of(one_step)) as node:
        await node.start()
        await world.end()
        assert ((), None) == ((await world.head()).outbox, (await world.head()).wake_at)
        assert 1 == len(world.logged("notification_given_up"))


async def test_an_outbox_of_newer_code_is_kept_for_it() -> None:
    """A channel that this code does not have is tried again, by whoever has it."""
    world, app = telling("pigeon"), app_of(one_step)
    world.notifications.faults["pigeon"] = NotDelivered("NO_SUCH_CHANNEL")
    async with world.node(app) as node:
        await node.start()
        await world.end()
        assert ("pigeon",) == (await world.head()).outbox


async def test_a_task_is_kept_alive_and_told_only_of_a_session_that_has_one() -> None:
    """Its token goes nowhere else."""
    world = telling(TASK_TOKEN, EVENTS)
    async with world.node(app_of(one_step)) as node:
        await node.start()
        await world.end()
        assert ([EVENTS], []) == ([each for each, _ in world.notifications.told], world.notifications.tasks_kept)
        event = e.SessionStarted("main", "default", None, "", None, task_token="token-1")
        await node.router.begin("s2", event)
        await world.end("s2")
        assert (["token-1"], "token-1") == (world.notifications.tasks_kept, world.notifications.ends[-1].task_token)
        assert [TASK_TOKEN, EVENTS] == [channel for channel, _ in world.notifications.told[1:]]
    assert "token-1" not in repr([world.notifications.ends, world.logs, world.standing])


async def test_a_topic_that_takes_no_approval_keeps_no_session_in_memory_and_fails_none() -> None:
    """It leaves as any other that waits, is fetched back to try again, and says so in HEAD meanwhile."""
    world, app = asking_on(LOG, TOPIC), app_of(asks)
    world.notifications.faults[TOPIC] = NotDelivered("InternalError")
    async with world.node(app) as node:
        await node.start()
        await settle()
        assert {"approval:2:topic": 1} == await left(world), "while it is in memory, too"
        assert not node.system.busy.is_busy, "who waits to try again keeps no task from being scaled in"
        await until_suspended(world, node)
        head = await world.head()
        assert head.status is SessionStatus.SUSPENDED
        assert head.wake_at is not None
        attempts = (await left(world))["approval:2:topic"]
        await world.pass_time((head.wake_at - world.clock.now()).total_seconds())
        await look_after(world, node)
        assert {"approval:2:topic": int(str(attempts)) + 1} == await left(world)
        assert [(LOG, ASKED_ID)] == world.notifications.told, "who has heard of it is not told again"
        world.notifications.faults.clear()
        await world.pass_time(3_600)
        await look_after(world, node)
        assert [(LOG, ASKED_ID), (TOPIC, ASKED_ID)] == world.notifications.told
        await node.deliveries.approve("s", "publish", True, "ann", None)
        await live(world, node)
    assert [] == world.failures()


async def test_people_are_asked_once_however_often_the_session_leaves_memory() -> None:
    """Only a node that died before it left may have told them without a trace."""

    async def handler(ctx: SessionContext) -> object:
        return await asyncio.gather(ctx.request_approval("publish"), ctx.sleep(50), ctx.sleep(100), ctx.sleep(150))

    world, app = asking_on(LOG, TOPIC), app_of(handler)
    world.passivate_after = 5
    async with world.node(app) as node:
        await node.start()
        for _ in range(200):
            await world.pass_time(1)
            await look_after(world, node)
        assert 3 == len(world.logged("session_resumed"))
        assert [(LOG, ASKED_ID), (TOPIC, ASKED_ID)] == world.notifications.told
        await node.deliveries.approve("s", "publish", True, "ann", None)
        await live(world, node)
        assert {} == (await world.head()).attributes.get("undelivered", {})


@pytest.mark.parametrize("fails", [False, True], ids=["of which all have heard", "that a channel does not take"])
async def test_an_answer_that_was_decided_and_never_brought_is_found_at_an_approval(fails: bool) -> None:
    """Whoever was to bring it may have died: the next activation looks, whether or not it is time to ask again."""
    world, app = asking_on(LOG, TOPIC), app_of(asks)
    if fails:
        world.notifications.faults[TOPIC] = HANGS
    async with world.node(app) as node:
        await node.start()
        await settle()
        await until_suspended(world, node)
        callback_id = approval_id_of("s", "publish")
        await world.callbacks.decide(callback_id, success({"approved": True, "by": "ann", "comment": None}))
        assert await node.claim(only_unowned=True)
        assert e.SessionCompleted(True) == await world.end()


async def test_a_node_that_dies_while_people_are_asked_asks_them_again_under_the_same_id() -> None:
    """Nobody knows whether they heard; they can tell that it is the same question."""
    world, app = asking_on(LOG), app_of(asks)
    async with world.node(app) as node:
        await node.start()
        await settle()
        node.crash()
    async with world.node(app, "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        assert [(LOG, ASKED_ID)] * 2 == world.notifications.told


async def test_thousands_of_approvals_that_nobody_takes_burst_no_head() -> None:
    """HEAD is one item: what it does not record is tried once more (I12)."""

    async def handler(ctx: SessionContext) -> object:
        return await ctx.gather(*[ctx.request_approval(f"a{number}") for number in range(TRIES_MAX + 50)])

    world = asking_on(TOPIC)
    world.notifications.faults[TOPIC] = HANGS
    async with world.node(app_of(handler)) as node:
        await node.start()
        await settle()
        await until_suspended(world, node)
        assert TRIES_MAX == len(await left(world))


class Hanging(MemoryNotifications):
    """A webhook whose target answers no one until it is let go."""

    def __init__(self) -> None:
        super().__init__(channels_of_end=(WEBHOOK, EVENTS))
        self.gate = Gate()

    async def tell(self, notice: WorldNotice, channel: str) -> None:
        """See `Notifications.tell`."""
        if channel == WEBHOOK:
            await self.gate.passing()
        await super().tell(notice, channel)


async def test_a_target_that_hangs_delays_no_other_and_no_slot() -> None:
    """The parent, the slot and the bus have heard of it before the target answers, if it ever does."""
    world = World(tenant_limit=1)
    world.notifications = hanging = Hanging()
    async with world.node(app_of(one_step)) as node:
        await node.start()
        await world.end()
        await hanging.gate.reached()
        await settle()
        assert ([(EVENTS, END_ID)], 0) == (hanging.told, (await world.quotas.get("default")).used)
        await node.start(session_id="next")
        assert SessionStatus.QUEUED is not (await world.head("next")).status
        hanging.gate.open()
        await settle()
        assert (WEBHOOK, END_ID) in hanging.told
        assert () == (await world.head()).outbox


async def test_a_note_of_what_is_undelivered_hides_no_message_that_came_meanwhile() -> None:
    """The owner keeps the inbox version that it read behind: to leave with a newer one loses a message (rule 5)."""
    world = World()
    async with world.node(app_of(asks)) as node:
        await node.start()
        await settle()
        head = await world.head()
        owned = OwnedHead(world.heads, head, "node-1")
        await world.heads.bump_inbox("s")
        await owned.annotate({"undelivered": {}})
        assert (head.inbox_version, {"undelivered": {}}) == (owned.current.inbox_version, owned.current.attributes)
        rest = Rest(SessionStatus.SUSPENDED, None)
        assert not await owned.released(rest, last_seq=2, at=world.clock.now())


async def test_a_status_shows_what_is_undelivered_and_what_was_given_up() -> None:
    """By name, with how often it was tried, when it is tried again, and of what it failed."""
    world, app = telling(EVENTS, WEBHOOK, "pigeon"), app_of(one_step)
    world.notifications.faults |= {WEBHOOK: HANGS, "pigeon": NotDelivered("HTTP_410", is_final=True)}
    async with world.node(app) as node:
        await node.start()
        await world.end()
        shown = (await session_view(world.heads, world.journal, "s"))["undelivered"]
        now = format_instant(world.clock.now())
        later = format_instant(world.clock.now() + timedelta(seconds=1.5))
        assert [
            {"notification": WEBHOOK, "attempts": 1, "since": now, "next_try_at": later, "last_error": "TIMEOUT"},
            {"notification": "pigeon", "attempts": 1, "since": now, "next_try_at": None, "last_error": "HTTP_410"},
        ] == shown
        world.notifications.faults.clear()
        await live(world, node)
        shown = (await session_view(world.heads, world.journal, "s"))["undelivered"]
        assert isinstance(shown, list)
        assert ["pigeon"] == [each["notification"] for each in shown if isinstance(each, dict)]
