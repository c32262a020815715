"""The research report on virtual time: hours and days pass in milliseconds, and everybody may die after any event."""

import importlib
from dataclasses import replace
from datetime import timedelta

import pytest
from engine_world import Node, World
from yarl import URL

from actors.signals import Signal
from examples.research_report.texts import AGENTS, analyse, draft_of, questions_on, research, write
from orchestrator import Callback, current_invocation
from orchestrator.notifications import WorldNotice
from orchestrator.notifications.memory import MemoryNotifications
from orchestrator.session.events import SessionCompleted, SessionFailed
from orchestrator.session.values import Json, JsonObject

# The package's own `app` is the application; its module of that name is found here only.
module = importlib.import_module("examples.research_report.app")
DRAFT = draft_of("tea", analyse(research(questions_on("tea"))))
HOURS = 3_600
DAY = timedelta(days=1)


class Agents:
    """The agents as the handler's step sees them: they take what they are given, and answer when the test says."""

    def __init__(self) -> None:
        self.work: dict[str, tuple[str, str, Callback]] = {}

    async def submit(self, agent: str, text: str, callback: Callback) -> None:
        """Take an assignment in the place of the example's own step."""
        self.work[current_invocation().idempotency_key] = agent, text, callback

    async def asked(self, world: World, name: str) -> str:
        """Return the key of the assignment under that name, once the session has handed it over."""
        key = f"s/{name}.submit"
        await world.until(lambda: key in self.work)
        return key

    async def answer(self, world: World, node: Node, name: str) -> None:
        """Do what the session asked under that name."""
        key = await self.asked(world, name)
        agent, text, callback = self.work[key]
        await node.deliveries.callback(callback.id, callback.token, "SUCCESS", {"text": AGENTS[agent](text)}, None)


class Desk(MemoryNotifications):
    """A person's desk: whoever watches the world hears when something is put on it."""

    def __init__(self, changed: Signal) -> None:
        super().__init__()
        self._changed = changed

    async def tell(self, notice: WorldNotice, channel: str) -> None:
        """See `Notifications.tell`."""
        await super().tell(notice, channel)
        self._changed.fire()


def with_a_desk(world: World) -> World:
    """Return the world, with a person in it."""
    world.notifications = Desk(world.changed)
    return world


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> Agents:
    """Agents without a network."""
    there = Agents()
    monkeypatch.setattr(module, "submit", there.submit)
    return there


async def asked_for_approval(world: World) -> None:
    """Return once somebody is asked to approve."""
    await world.until(lambda: bool(world.notifications.approvals))


async def approved(world: World, node: Node, *, approved: bool = True) -> None:
    """Answer the approval, once it is asked for."""
    await asked_for_approval(world)
    await node.deliveries.approve("s", "publish", approved, "ann", "as it is")


async def test_an_approved_draft_becomes_a_report(agents: Agents) -> None:
    """Each takes most of the time it has: the session lives a day and more, and ends with a link of seven days."""
    world = with_a_desk(World())
    async with world.node(module.app) as node:
        await node.start({"topic": "tea"}, session_type="research-report")
        await agents.asked(world, "research")
        await after(world, node, 3.9 * HOURS)
        await agents.answer(world, node, "research")
        await agents.asked(world, "analysis")
        await after(world, node, 1.9 * HOURS)
        await agents.answer(world, node, "analysis")
        await asked_for_approval(world)
        await after(world, node, 23.9 * HOURS)
        await approved(world, node)
        await agents.asked(world, "writing")
        await after(world, node, 0.9 * HOURS)
        await agents.answer(world, node, "writing")
        outcome = result_of(await world.end())
    assert ("COMPLETED", "ann", "as it is") == (outcome["status"], outcome["by"], outcome["comment"])
    assert write(DRAFT) == content(world, outcome["url"])


async def test_a_rejected_draft_goes_no_further(agents: Agents) -> None:
    """Nobody is asked to write."""
    world = with_a_desk(World())
    async with world.node(module.app) as node:
        await node.start({"topic": "tea"}, session_type="research-report")
        await agents.answer(world, node, "research")
        await agents.answer(world, node, "analysis")
        await approved(world, node, approved=False)
        outcome = result_of(await world.end())
    assert ("REJECTED", "ann", "as it is") == (outcome["status"], outcome["by"], outcome["comment"])
    assert DRAFT == content(world, outcome["url"])
    assert {"s/research.submit", "s/analysis.submit"} == set(agents.work)


@pytest.mark.parametrize(
    ("answered", "silent", "hours", "code"),
    [
        ([], "research", 4, "OPERATION_TIMED_OUT"),
        (["research"], "analysis", 2, "OPERATION_TIMED_OUT"),
        (["research", "analysis"], "publish", 24, "APPROVAL_TIMED_OUT"),
    ],
)
async def test_who_does_not_answer_in_time_is_not_waited_for(
    agents: Agents, answered: list[str], silent: str, hours: int, code: str
) -> None:
    """The session fails, and says at what."""
    world = with_a_desk(World())
    async with world.node(module.app) as node:
        await node.start({"topic": "tea"}, session_type="research-report")
        for name in answered:
            await agents.answer(world, node, name)
        await (asked_for_approval(world) if silent == "publish" else agents.asked(world, silent))
        await after(world, node, hours * HOURS - 1)
        assert "AGENT_BACKGROUND_TASK_FAILED" != (await world.story())[-1]
        await after(world, node, 2)
        end = await world.end()
    assert isinstance(end, SessionFailed)
    assert code == end.error.code


async def test_a_crash_after_any_event_changes_nothing_but_the_record_of_it(agents: Agents) -> None:
    """Whoever takes over goes on, and the journal tells the same story."""
    world = with_a_desk(World())
    await whole(world, agents, begins=True)
    told, handed_over = await world.story(), agents.work
    for seq in range(1, len(told)):
        earlier = with_a_desk(await world.as_of(seq))
        # The bucket and the tokens that were handed out are still there.
        earlier.artifacts = world.artifacts
        # Work that was handed over after this point has not been handed over yet.
        agents.work = {
            key: work for key, work in handed_over.items() if f"STEP_COMPLETED {key.removeprefix('s/')}" in told[:seq]
        }
        for _, _, callback in agents.work.values():
            issued = await world.callbacks.get(callback.id)
            assert issued is not None
            await earlier.callbacks.issue(replace(issued, answer=None), expires_at=world.clock.now() + DAY)
        outcome = await whole(earlier, agents, begins=False)
        assert ("COMPLETED", "ann") == (outcome["status"], outcome["by"]), seq
        assert told == [event for event in await earlier.story() if event != "SESSION_RESUMED"]
        assert write(DRAFT) == content(earlier, outcome["url"])


async def whole(world: World, agents: Agents, *, begins: bool) -> JsonObject:
    """Go from where the journal is to the end, everybody answering at once; return the result."""
    async with world.node(module.app, "node-1" if begins else "node-2") as node:
        before = [] if begins else await world.story()
        if begins:
            await node.start({"topic": "tea"}, session_type="research-report")
        else:
            assert await node.claim(dead_owner="node-1")
        for name in ("research", "analysis", "publish", "writing"):
            if f"CALLBACK_COMPLETED {name}" in before:
                continue
            await (approved(world, node) if name == "publish" else agents.answer(world, node, name))
        return result_of(await world.end())


async def after(world: World, node: Node, seconds: float) -> None:
    """Let time pass; a session that left memory meanwhile is woken as the rescuer would."""
    await world.pass_time(seconds)
    await node.claim(only_unowned=True)


def content(world: World, url: Json) -> str:
    """Return what a link leads to; it must be good for seven days."""
    assert "604800" == URL(str(url)).query["expires"]
    return world.artifacts.objects[URL(str(url)).path.removeprefix("/")].body.decode()


def result_of(end: object) -> JsonObject:
    """Return the result of a session that completed."""
    assert isinstance(end, SessionCompleted), end
    assert isinstance(end.result, dict)
    return end.result
