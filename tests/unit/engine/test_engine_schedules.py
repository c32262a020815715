"""Schedules: each occurrence is one session, whoever runs, whoever dies, and whatever the clocks do in spring."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any

import pytest
import structlog
from engine_line import at_the_end_of
from engine_world import NOON, Node, World

from actors import settle
from orchestrator import Occurrence, Orchestrator, RegistrationError, SessionContext
from orchestrator.cron import Schedule, schedule
from orchestrator.scheduler import FORGOTTEN_AFTER, LATE, MISSED_MAX, Scheduler
from orchestrator.schedules import ScheduleName
from orchestrator.schedules.memory import MemorySchedules
from orchestrator.session.values import format_instant

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def reports(cron: str = "30 * * * *", **schedule: Any) -> Orchestrator:
    """Return an application whose sessions of type `report` start as the schedule says."""
    app = Orchestrator()

    @app.on_schedule(cron, **schedule)
    @app.session("report")
    async def report(ctx: SessionContext, given: object) -> object:
        return given

    return app


class Clockwork:
    """Nodes that see to schedules in one world; `marks` outlive them."""

    def __init__(self) -> None:
        self.world = World()
        self.marks = MemorySchedules()

    @asynccontextmanager
    async def node(
        self, app: Orchestrator, node_id: str = "node-1", *, sessions_max: int = 1_000
    ) -> AsyncIterator[Node]:
        """Run a node with its scheduler; it ends with the block, as one that crashed does."""
        async with self.world.node(app, node_id, sessions_max=sessions_max) as node:
            marks = at_the_end_of(node.line, self.marks, writes=frozenset({"seen_to", "begin"}))
            schedules = app.triggers().schedules
            scheduler = Scheduler(schedules, marks, node.router.start, self.world.clock, structlog.get_logger())
            running = asyncio.get_running_loop().create_task(scheduler.run())
            try:
                yield node
            finally:
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await running

    async def until(self, instant: datetime) -> None:
        """Let time pass up to the instant, with a turn for everybody every half minute."""
        while (left := (instant - self.world.clock.now()).total_seconds()) > 0:
            await self.world.pass_time(min(30.0, left))

    async def begin(self, app: Orchestrator) -> None:
        """Let a node run for a moment, so that the schedules of the application are known."""
        async with self.node(app):
            await settle()

    def set_clock(self, instant: datetime) -> None:
        """Let time pass while nobody runs."""
        self.world.clock.advance((instant - self.world.clock.now()).total_seconds())

    async def inputs(self) -> list[Any]:
        """Return what the sessions were started with, in order."""
        return [(await self.world.state(head.session_id)).started.input for head in self.world.heads.all()]

    async def started_for(self) -> list[str]:
        """Return the instants that the sessions are of, in order."""
        return [given["scheduled_at"] for given in await self.inputs()]


async def test_each_occurrence_is_one_session_across_nodes() -> None:
    """They do not know each other; the handler receives what it is due for."""
    works, app = Clockwork(), reports(timezone="Europe/Zurich")
    async with works.node(app), works.node(app, "node-2"):
        await works.until(NOON + 3 * HOUR)
    assert [
        {"cron": "30 * * * *", "timezone": "Europe/Zurich", "scheduled_at": f"2026-01-01T{hour}:30:00.000Z"}
        for hour in (12, 13, 14)
    ] == await works.inputs()
    assert NOON + 30 * MINUTE == Occurrence.model_validate((await works.inputs())[0]).scheduled_at


async def test_a_session_starts_the_moment_that_it_is_due() -> None:
    """Not at the next look at the clock."""
    works = Clockwork()
    async with works.node(reports()):
        await works.until(NOON + 30 * MINUTE - timedelta(seconds=1))
        assert [] == await works.inputs()
        await works.world.pass_time(1)
        assert 1 == len(await works.inputs())


async def test_an_input_of_its_own_and_a_tenant() -> None:
    """Instead of the occurrence."""
    works = Clockwork()
    async with works.node(reports(input={"depth": 3}, tenant="acme")):
        await works.until(NOON + HOUR)
    assert [{"depth": 3}] == await works.inputs()
    assert ["acme"] == [head.tenant for head in works.world.heads.all()]


async def test_wherever_a_node_dies_each_occurrence_is_one_session() -> None:
    """At any of its calls; whoever comes next, a moment later or in an hour, starts what is left."""
    for call in range(1, 12):
        works, app = Clockwork(), reports(missed="all")
        await works.begin(app)
        async with works.node(app, "node-2") as node:
            node.line.cut_at(call)
            await works.until(NOON + 90 * MINUTE)
        works.set_clock(NOON + 3 * HOUR)
        async with works.node(app, "node-3"):
            await works.until(NOON + 4 * HOUR)
        expected = [f"2026-01-01T{hour}:30:00.000Z" for hour in (12, 13, 14, 15)]
        assert expected == await works.started_for(), call


@pytest.mark.parametrize("call", ["append", "create", "seen_to"])
async def test_a_crash_on_the_way_neither_loses_nor_repeats_an_occurrence(call: str) -> None:
    """Before the start, in the middle of it, and between it and the mark; whoever comes next does what is left."""
    works, app = Clockwork(), reports()
    async with works.node(app) as node:
        node.line.cut_before(call)
        await works.until(NOON + 31 * MINUTE)
    async with works.node(app, "node-2"):
        await works.until(NOON + 32 * MINUTE)
    assert ["2026-01-01T12:30:00.000Z"] == await works.started_for()
    async with works.node(app, "node-3"):
        assert [] == works.world.logged("occurrences_missed")
        await works.until(NOON + 100 * MINUTE)
    assert ["2026-01-01T12:30:00.000Z", "2026-01-01T13:30:00.000Z"] == await works.started_for()


async def test_what_came_due_while_the_table_did_not_answer_is_started_however_late() -> None:
    """It was seen, so it is not missed; also where missed ones are skipped. Each refusal is logged with its place."""
    works = Clockwork()
    async with works.node(reports(missed="skip")) as node:
        for _ in range(2 * 12 * 3):
            node.line.fail_once("append", OSError("no table"))
            await works.world.pass_time(30)
        assert [] == await works.inputs()
        node.line.fail_once("append", OSError("no table"), after=1_000)
        await works.world.pass_time(60)
    assert ["2026-01-01T12:30:00.000Z"] == await works.started_for()
    assert [] == works.world.logged("occurrences_missed")
    refused = works.world.logged("schedule_failed")
    assert refused
    assert all("_start_one" in "".join(line["frames"]) for line in refused)


@pytest.mark.parametrize(
    ("missed", "made_up"),
    [("skip", []), ("latest", ["15:30"]), ("all", ["12:30", "13:30", "14:30", "15:30"])],
)
async def test_what_came_due_while_no_node_ran_is_made_up_for_as_declared(missed: str, made_up: list[str]) -> None:
    """By two nodes that start at once, once; and whoever starts after them knows of it."""
    works, app = Clockwork(), reports(missed=missed)
    await works.begin(app)
    works.set_clock(NOON + 4 * HOUR)
    async with works.node(app), works.node(app, "node-2"):
        await works.until(NOON + 5 * HOUR)
    expected = [f"2026-01-01T{each}:00.000Z" for each in (*made_up, "16:30")]
    assert expected == await works.started_for()
    assert [(4, len(made_up))] * 2 == [
        (line["missed"], line["made_up"]) for line in works.world.logged("occurrences_missed")
    ]
    async with works.node(app, "node-3"):
        await works.until(NOON + 5 * HOUR + MINUTE)
    assert expected == await works.started_for()
    assert 2 == len(works.world.logged("occurrences_missed"))


async def test_what_was_passed_over_is_told_once() -> None:
    """Not by every node that starts until the schedule is due again."""
    works, app = Clockwork(), reports(missed="skip")
    await works.begin(app)
    works.set_clock(NOON + 4 * HOUR)
    for _ in range(3):
        await works.begin(app)
    assert 1 == len(works.world.logged("occurrences_missed"))


async def test_an_occurrence_is_one_session_where_the_code_changes_its_input() -> None:
    """In the middle of a deployment nodes disagree; whoever is first says, and the other one goes on."""
    works = Clockwork()
    async with works.node(reports(input=1)), works.node(reports(input=2), "node-2"):
        await works.until(NOON + 2 * HOUR)
    assert 2 == len(await works.inputs())
    assert [] == works.world.errors_logged()


async def test_of_very_many_missed_the_last_hundred_are_made_up_for() -> None:
    """Nobody wants the thousands of a week at once."""
    works, app = Clockwork(), reports("* * * * *", missed="all")
    await works.begin(app)
    works.set_clock(NOON + DAY)
    async with works.node(app):
        await works.world.pass_time(0)
    late = int(LATE / MINUTE) + 1
    started = await works.started_for()
    assert [MISSED_MAX + late, format_instant(NOON + DAY)] == [len(started), started[-1]]
    assert started == sorted(started)


async def test_what_is_hardly_late_is_not_missed() -> None:
    """A deployment that falls on eight o'clock skips nothing."""
    for late, expected in ((LATE, 1), (LATE + timedelta(milliseconds=1), 0)):
        works, app = Clockwork(), reports(missed="skip")
        await works.begin(app)
        works.set_clock(NOON + 30 * MINUTE + late)
        async with works.node(app):
            await settle()
            assert expected == len(await works.inputs())


async def test_a_new_or_a_changed_schedule_starts_from_now() -> None:
    """Whatever is missed of the one before it."""
    works = Clockwork()
    await works.begin(reports(missed="all"))
    works.set_clock(NOON + DAY)
    for changed in (reports("15 * * * *", missed="all"), reports(timezone="Asia/Kolkata", missed="all")):
        async with works.node(changed):
            await settle()
            assert [] == await works.inputs()


async def test_a_schedule_that_nobody_declared_for_long_is_a_new_one() -> None:
    """A month after it would have been due."""
    for after, expected in ((timedelta(0), 0), (-MINUTE, 1)):
        works, app = Clockwork(), reports(missed="latest")
        await works.begin(app)
        works.set_clock(NOON + 30 * MINUTE + FORGOTTEN_AFTER + after)
        async with works.node(app):
            await settle()
            # At that very instant another one is due, and that one counts.
            made_up = [at for at in await works.started_for() if at < format_instant(works.world.clock.now() - LATE)]
            assert expected == len(made_up)


async def test_a_clock_that_is_set_back_repeats_nothing() -> None:
    """And one that is set on passes over nothing that is hardly late."""
    works = Clockwork()
    async with works.node(reports()) as node:
        await works.until(NOON + 31 * MINUTE)
        calls = node.line.calls
        works.world.clock.set_wall(NOON)
        for _ in range(70):
            await works.world.pass_time(30)
        assert [["2026-01-01T12:30:00.000Z"], calls] == [await works.started_for(), node.line.calls]
        works.world.clock.set_wall(NOON + HOUR + 31 * MINUTE)
        await works.world.pass_time(30)
    assert ["2026-01-01T12:30:00.000Z", "2026-01-01T13:30:00.000Z"] == await works.started_for()


async def test_a_full_and_a_draining_node_accept_what_is_due() -> None:
    """Whoever has room runs it."""
    for is_draining in (False, True):
        works, app = Clockwork(), reports()
        async with works.node(app, sessions_max=1_000 if is_draining else 0) as node:
            if is_draining:
                node.router.drain()
            await works.until(NOON + 31 * MINUTE)
            assert [None] == [head.owner for head in works.world.heads.all()]
        async with works.node(app, "node-2") as node:
            (head,) = works.world.heads.all()
            assert await node.claim(head.session_id, only_unowned=True)
            await works.world.end(head.session_id)


async def test_a_clock_that_was_wrong_by_decades_makes_nobody_count_them() -> None:
    """A machine may start without the time, and be told it later."""
    works, app = Clockwork(), reports("* * * * *", missed="latest")
    works.world.clock.set_wall(datetime(1970, 1, 1, tzinfo=UTC))
    async with works.node(app):
        await settle()
        works.world.clock.set_wall(NOON)
        await works.world.pass_time(30)
    (told,) = works.world.logged("occurrences_missed")
    assert FORGOTTEN_AFTER / MINUTE >= told["missed"]
    # The last that was missed, and those of the last five minutes.
    assert 1 + LATE / MINUTE == len(await works.inputs())


# --- summer time -----------------------------------------------------------------------------------------------------


SPRING, AUTUMN = datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        # 02:30 does not exist on the 29th: the hands jump from 02:00 to 03:00, which is 01:00 UTC.
        ("30 2 * * *", SPRING, ["29 01:00", "30 00:30"]),
        # 02:30 comes twice on the 25th, at 00:30 and at 01:30 UTC: the first one counts.
        ("30 2 * * *", AUTUMN, ["25 00:30", "26 01:30"]),
        ("0 8 * * *", SPRING, ["29 06:00", "30 06:00"]),
        ("0 8 * * *", AUTUMN, ["25 07:00", "26 07:00"]),
        ("0 2,3 * * sun", SPRING, ["29 01:00"]),
        # With a step, what is asked of the hour that is missing, or comes twice, is left out, or runs twice.
        ("*/30 2 * * *", SPRING, ["30 00:00", "30 00:30"]),
        ("*/30 2 * * *", AUTUMN, ["25 00:00", "25 00:30", "25 01:00", "25 01:30", "26 01:00", "26 01:30"]),
        # What runs every hour goes on doing so: in spring no hour is missing, in autumn there is one more.
        ("0 * 29 3 *", SPRING, [f"{hour // 24 + 28} {hour % 24:02}:00" for hour in range(23, 23 + 23)]),
        ("0 * 25 10 *", AUTUMN, [f"{hour // 24 + 24} {hour % 24:02}:00" for hour in range(22, 22 + 25)]),
    ],
)
def test_a_fixed_time_comes_once_on_the_days_that_the_clocks_change(
    cron: str, after: datetime, expected: list[str]
) -> None:
    """A time that does not exist comes right after the gap; one that comes twice, the first time."""
    assert expected == [f"{at:%d %H:%M}" for at in due(cron, after, after + 44 * HOUR)]


@pytest.mark.parametrize(
    "cron", ["30 2 * * *", "45 2 * * *", "*/20 2 * * *", "0 2,3 * * *", "15 * * * *", "5 1-3 * * *"]
)
@pytest.mark.parametrize("day", [SPRING, AUTUMN])
def test_from_whenever_one_looks_the_same_instants_are_due(cron: str, day: datetime) -> None:
    """A node that starts in the hour that comes twice sees what the others see, and nothing that is over."""
    all_of_them = due(cron, day, day + DAY)
    for quarters in range(4 * 24):
        start = day + quarters * HOUR / 4
        assert [at for at in all_of_them if at > start] == due(cron, start, day + DAY)


def zurich(cron: str) -> Schedule:
    return schedule(cron, "Europe/Zurich", "skip", None, ())


def due(cron: str, after: datetime, until: datetime) -> list[datetime]:
    return list(takewhile(lambda at: at <= until, zurich(cron).occurrences(after)))


# --- what is declared wrongly ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"cron": "0 8 * *"}, "cron has not 5 fields: minute, hour, day of the month"),
        ({"cron": "0 0 8 * * mon"}, "cron has not 5 fields"),
        ({"cron": "0 25 * * *"}, "cron: Bad hour; write numbers, names (mon, jan)"),
        ({"cron": "0 8 * * mon-fry"}, "cron: Bad day-of-week"),
        ({"cron": "0 0 31 2 *"}, "cron: Bad day-of-month"),
        ({"cron": "9" * 5_000 + " * * * *"}, "cron has not 5 fields"),
        ({"cron": 5}, "cron 5 is no text"),
        ({"cron": "@daily"}, "cron has not 5 fields"),
        ({"timezone": "Europe/Zürich"}, "timezone 'Europe/Zürich' is not known here; write a name of the IANA"),
        ({"timezone": "../etc/passwd"}, "is not known here"),
        ({"timezone": "Europe"}, "is not known here"),
        ({"timezone": ""}, "is not known here"),
        ({"timezone": None}, "timezone None is no text"),
        ({"missed": "some"}, "missed 'some' is none of 'skip', 'latest', 'all'"),
        ({"tenant": "a b"}, "tenant 'a b' is not an id"),
        ({"input": object()}, "input: "),
    ],
)
def test_a_schedule_declared_wrongly_is_refused_when_it_is_declared(wrong: dict[str, Any], text: str) -> None:
    """With the argument that is wrong, and what would be right."""
    with pytest.raises(RegistrationError) as caught:
        reports(**{"cron": "0 8 * * mon-fri", **wrong})
    assert text in str(caught.value)


def test_a_schedule_whose_handler_takes_something_else_is_refused_when_the_application_is_loaded() -> None:
    """No session would ever begin."""
    app = Orchestrator()

    @app.on_schedule("0 8 * * *")
    @app.session("report")
    async def report(ctx: SessionContext, depth: int) -> None: ...

    with pytest.raises(RegistrationError, match=r"'0 8 \* \* \*'.*'report': input: .*receives an Occurrence unless"):
        app.triggers()


def test_a_schedule_declared_twice_is_refused() -> None:
    """Whichever way it is written; in another time zone it is another one."""
    app = reports("0 8 * * MON")
    report = app.session_types[0].handler
    app.on_schedule("0 8 * * mon", timezone="Europe/Zurich")(report)
    app.triggers()
    app.on_schedule(" 0  8 * * Mon")(report)
    with pytest.raises(RegistrationError, match="is declared twice for session type 'report'"):
        app.triggers()


def test_the_name_of_a_schedule_is_what_makes_it_another() -> None:
    """It stands in the table."""
    (made,) = reports("0 8 * * MON-FRI", timezone="Europe/Zurich", tenant="acme").triggers().schedules
    assert ScheduleName("report", "acme Europe/Zurich 0 8 * * mon-fri") == ScheduleName(made.session_type, made.name)
