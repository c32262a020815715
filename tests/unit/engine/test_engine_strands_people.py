"""What a Strands agent asks of people is an approval: its interrupts, and its tools that may or may not have run."""

import copy
from collections import Counter
from datetime import timedelta

import pytest
from engine_strands import Bench, delegate, silent, text_of
from engine_trials import Plot, pass_seconds, same_end_whatever_happens, told, told_after_crash, told_live, until_end
from engine_world import Gate, Node, World, app_of
from strands import ToolContext, tool
from strands.hooks import BeforeToolCallEvent, BeforeToolsEvent
from strands.vended_interventions.hitl import HumanInTheLoop

from actors import settle
from orchestrator import Approval, ApprovalTimedOut, RetryPolicy, SessionContext, current_invocation
from orchestrator.agents.strands import Answer, StrandsAgent
from orchestrator.session.events import AgentCompleted, ApprovalRequested, SessionCompleted
from orchestrator.session.transitions import SessionStatus
from tests.scripted_model import ScriptedModel, Turn, Use

BUY = (
    Turn("both", (Use("order", "t1", {"item": "tea"}), Use("order", "t2", {"item": "milk"}))),
    Turn("bought"),
)


def answered(name: str, *, yes: bool = True, comment: str | None = None) -> Plot:
    """Return the act of a person who answers that question."""

    async def act(_: World, node: Node) -> None:
        await node.deliveries.approve("s", f"agent/{name}", yes, "ann", comment)

    return act


def ask_first(event: BeforeToolCallEvent) -> None:
    """Let nobody order without a yes."""
    answer = event.interrupt("may it?", reason={"item": event.tool_use["input"]["item"]})
    if answer != "y":
        event.cancel_tool = f"{answer.by} said no: {answer.comment}"


def results_in(model: ScriptedModel) -> list[str]:
    """Return what the model was told of its tools, at its last call."""
    return [block["toolResult"]["content"][0]["text"] for block in model.asked[-1][-1]["content"]]


async def test_what_hooks_ask_is_answered_by_people_whatever_happens() -> None:
    """All questions of one answer of the model are put at once; each answer goes to the tool that it is about."""
    model, bench = ScriptedModel(*BUY), Bench()
    app = app_of(delegate, agent=silent(model, *bench.tools, hooks=[ask_first]))
    plot = told(answered("ask:may-it-#2", yes=False, comment="no milk"), answered("ask:may-it-#1"))
    story = await same_end_whatever_happens(app, plot)
    assert [
        "STEP_COMPLETED agent/model#1",
        "APPROVAL_REQUESTED agent/ask:may-it-#1",
        "APPROVAL_REQUESTED agent/ask:may-it-#2",
        "CALLBACK_COMPLETED agent/ask:may-it-#2",
        "CALLBACK_COMPLETED agent/ask:may-it-#1",
        "STEP_COMPLETED agent/order#1",
        "STEP_COMPLETED agent/model#2",
    ] == story[2:-2]
    assert ["ordered tea", "ann said no: no milk"] == results_in(model)


async def test_an_agent_that_asks_costs_no_memory() -> None:
    """Nothing of it is left on any node while a person thinks; the subject says what it is about."""
    app = app_of(delegate, agent=silent(ScriptedModel(*BUY), *Bench().tools, hooks=[ask_first]))
    world = World()
    async with world.node(app) as node:
        await node.start("go")
        await pass_seconds(world, node, 40)
        assert (SessionStatus.SUSPENDED, None) == ((await world.head()).status, node.system.get("s"))
        for number in (1, 2):
            await answered(f"ask:may-it-#{number}")(world, node)
        assert "bought" == text_of(await until_end(world, node))
    asked = [each.event for each in await world.recorded() if isinstance(each.event, ApprovalRequested)]
    assert [{"interrupt": "may it?", "reason": {"item": item}} for item in ("tea", "milk")] == [
        each.subject for each in asked
    ]


async def test_the_librarys_own_question_to_people_is_an_approval() -> None:
    """`HumanInTheLoop` as it is: a yes lets the tool run, a no is told to the model."""
    model, bench = ScriptedModel(*BUY), Bench()
    app = app_of(delegate, agent=silent(model, *bench.tools, interventions=[HumanInTheLoop()]))
    world = World()
    name = "ask:strands-human-in-the-loop#"
    async with world.node(app) as node:
        await node.start("go")
        await settle()
        await answered(f"{name}1")(world, node)
        await answered(f"{name}2", yes=False)(world, node)
        await until_end(world, node)
    assert {"tea": 1} == bench.ran
    assert ["ordered tea", "CONFIRMATION_FAILED"] == [text.partition(":")[0] for text in results_in(model)]


async def test_what_a_tool_asks_is_answered_whatever_happens() -> None:
    """The tool runs once to ask and once with the answer, as the library has it, however often the agent starts."""
    ran: Counter[str] = Counter()

    @tool(context=True)
    async def pay(euros: int, tool_context: ToolContext) -> str:
        """Pay."""
        answer = tool_context.interrupt("pay", reason=f"{euros} euros")
        ran[answer] += 1
        return f"{answer.approved} by {answer.by}"

    turns = Turn(uses=(Use("pay", "t1", {"euros": 3}),)), Turn("paid")
    agent = silent(ScriptedModel(*turns), pay)
    story = await same_end_whatever_happens(app_of(delegate, agent=agent), told(answered("ask:pay#1")))
    calls = [
        "STEP_COMPLETED agent/pay#1",
        "APPROVAL_REQUESTED agent/ask:pay#1",
        "CALLBACK_COMPLETED agent/ask:pay#1",
        "STEP_COMPLETED agent/pay#1.2",
    ]
    assert calls == story[3:7]
    ran.clear()
    # One that must not run twice asks in one call and pays in another.
    once = await told_live(
        app_of(delegate, agent=StrandsAgent(agent, at_most_once={"pay"})), told(answered("ask:pay#1"))
    )
    assert calls == [line for line in await once.story() if "STEP_STARTED" not in line][3:7]
    assert {"y": 1} == ran


async def test_questions_about_a_whole_answer_of_the_model_are_told_apart() -> None:
    """A hook may ask before each round of tools, always under the same name."""

    def ask(event: BeforeToolsEvent) -> None:
        if event.interrupt("round", reason=None) != "y":
            event.cancel = "not now"

    turns = (Turn(uses=(Use("order", "t1", {"item": "tea"}),)), Turn(uses=(Use("order", "t2", {"item": "milk"}),)))
    bench = Bench()
    app = app_of(delegate, agent=silent(ScriptedModel(*turns, Turn("ok")), *bench.tools, hooks=[ask]))
    world = World()
    async with world.node(app) as node:
        await node.start("go")
        for number, yes in ((1, True), (2, False)):
            await settle()
            await answered(f"ask:round#{number}", yes=yes)(world, node)
        await until_end(world, node)
    assert {"tea": 1} == bench.ran


async def test_what_an_agent_within_a_tool_asks_is_answered_whatever_happens() -> None:
    """Its calls are recorded one by one under the use of the tool, and so it comes to its question again."""
    bench = Bench()
    inner = silent(ScriptedModel(*BUY), *bench.tools, hooks=[ask_first], name="buyer", description="Buys")
    outer = ScriptedModel(Turn(uses=(Use("buyer", "b1", {"input": "tea and milk"}),)), Turn("all bought"))
    app = app_of(delegate, agent=silent(outer, inner))
    plot = told(*(answered(f"ask:may-it-#{number}") for number in (2, 1)))
    whole = await told_live(app, plot)
    story = await whole.story()
    for seq in range(3, len(story)):
        after = await told_after_crash(app, plot, whole, seq, passivate_after=0.4)
        assert (await whole.recorded())[-1].event == (await after.recorded())[-1].event
        assert sorted({*story, "SESSION_RESUMED"}) == sorted({*await after.story(), "SESSION_RESUMED"})
    within = [f"buyer#1:{call}" for call in ("order#1", "order#2", "model#2")]
    assert ["model#1", "buyer#1:model#1", "buyer#1", *within, "buyer#1.2", "model#2"] == [
        line.partition("agent/")[2] for line in story if line.startswith("STEP_COMPLETED")
    ]


async def test_agents_within_tools_are_recorded_and_paid_for_once() -> None:
    """Each use of one is a conversation of its own, two at once included; the reply counts what they used."""
    whole, end = World(), None
    for seq in range(1, 16):
        bench, inside = Bench(), ScriptedModel(Turn(uses=(Use("search", "t1", {"q": "x"}),)), Turn("found"))
        inner = silent(inside, *bench.tools, name="finder", description="Finds")
        uses = Use("finder", "f1", {"input": "a"}), Use("finder", "f2", {"input": "b"})
        outside = ScriptedModel(Turn(uses=uses), Turn("both found"))
        app = app_of(delegate, agent=silent(outside, inner))
        if end is None:
            end = await whole.run(app, "go")
            assert {f"s/agent/finder#{n}:search#1" for n in (1, 2)} == set(bench.keys)
            continue
        recorded = [line for line in (await whole.story())[:seq] if line.startswith("STEP_COMPLETED")]
        world = await whole.as_of(seq)
        assert end == await world.resume(app)
        asked = inside.calls + outside.calls
        assert 6 - sum("model" in line for line in recorded) == asked
        assert 2 - sum("search" in line for line in recorded) == bench.ran.total()
        (last,) = [each.event for each in await world.recorded() if isinstance(each.event, AgentCompleted)]
        assert {"input_tokens": 60, "output_tokens": 30, "total_tokens": 90} == last.usage
        assert last.usage == (await world.state()).usage


async def test_an_agent_that_keeps_its_context_has_it_after_a_crash() -> None:
    """`preserve_context=True`: its conversation is made again from its recorded calls."""
    whole, end = World(), None
    for seq in range(1, 7):
        inside = ScriptedModel(Turn("first"), Turn("second"))
        inner = silent(inside, name="friend", description="Talks").as_tool(preserve_context=True)
        turns = [Turn(uses=(Use("friend", f"f{n}", {"input": str(n)}),)) for n in (1, 2)]
        outside = ScriptedModel(*turns, Turn("talked"))
        app = app_of(delegate, agent=silent(outside, inner))
        if end is None:
            end = await whole.run(app, "go")
            assert [1, 3] == [len(asked) for asked in inside.asked]
            continue
        assert end == await (await whole.as_of(seq)).resume(app)
        # The last call of the one outside was not recorded yet: it is made with what the one within said.
        assert ["second\n"] == results_in(outside)
        assert [] == [asked for asked in inside.asked if len(asked) not in {1, 3}]


@pytest.mark.parametrize(
    ("yes", "told_model", "orders", "calls"),
    [
        (True, "ordered tea", 2, ["order#1.2"]),
        (False, "Error: the tool was interrupted. It may or may not have run, and", 1, []),
    ],
)
async def test_a_tool_that_must_not_run_twice_is_asked_about_after_a_crash(
    yes: bool, told_model: str, orders: int, calls: list[str]
) -> None:
    """A person says whether it runs again, then under the same key; the tool beside it does not wait for that."""
    model, bench = ScriptedModel(Turn("", (*BUY[0].uses[:1], Use("search", "t9", {"q": "x"}))), Turn("bought")), Bench()
    gate = Gate()
    began = list[str]()

    @tool
    async def order(item: str) -> str:
        """Order something, and die at it."""
        began.append(current_invocation().idempotency_key)
        if len(began) == 1:
            await gate.passing()
        return f"ordered {item}"

    agent = StrandsAgent(silent(model, order, bench.tools[0]), at_most_once={"order"})
    app, world = app_of(delegate, agent=agent), World()
    async with world.node(app) as node:
        await node.start("go")
        await gate.reached()
        node.crash()
    async with world.node(app, "node-2") as node:
        assert await node.claim(dead_owner="node-1")
        await pass_seconds(world, node, 3)
        asked = [each.event for each in await world.recorded() if isinstance(each.event, ApprovalRequested)]
        question = "The tool 'order' may or may not have run: run it again?"
        assert [{"question": question, "tool": "order", "input": {"item": "tea"}}] == [each.subject for each in asked]
        await answered("order#1.again", yes=yes)(world, node)
        assert "bought" == text_of(await until_end(world, node))
    assert (["s/agent/order#1"] * orders, 2) == (began, model.calls)
    assert any(text.startswith(told_model) for text in results_in(model))
    story = await world.story()
    assert calls == [line.rpartition("/")[2] for line in story if line.startswith("STEP_COMPLETED agent/order")]
    assert "STEP_COMPLETED agent/search#1" in story


async def test_a_tool_cut_off_by_its_agents_timeout_is_asked_about() -> None:
    """The next attempt does not run it again by itself either."""
    gate = Gate()

    @tool
    async def order(item: str) -> str:
        """Order something, slowly."""
        return await gate.passing()

    async def handler(ctx: SessionContext, prompt: object) -> object:
        retry = RetryPolicy(max_attempts=2, initial_delay=timedelta(seconds=1))
        return await ctx.invoke_agent("agent", prompt, timeout=20, retry=retry)

    model = ScriptedModel(Turn(uses=BUY[0].uses[:1]), Turn("bought"))
    app = app_of(handler, agent=StrandsAgent(silent(model, order), at_most_once={"order"}))
    world = World()
    async with world.node(app) as node:
        await node.start("go")
        await pass_seconds(world, node, 25)
        assert "APPROVAL_REQUESTED agent/order#1.again" == (await world.story())[-1]
        gate.open()
        await answered("order#1.again")(world, node)
        assert "bought" == text_of(await until_end(world, node))
    assert ["passed"] == results_in(model)


async def test_a_question_that_nobody_answers_in_time_fails_the_agent() -> None:
    """`approval_timeout` bounds it; only `approvers` may answer."""

    async def handler(ctx: SessionContext, prompt: object) -> object:
        try:
            return await ctx.invoke_agent("agent", prompt)
        except ApprovalTimedOut as late:
            return late.error.message

    agent = silent(ScriptedModel(*BUY), *Bench().tools, hooks=[ask_first])
    world = World()
    app = app_of(handler, agent=StrandsAgent(agent, approval_timeout=60, approvers=["bob"]))
    async with world.node(app) as node:
        await node.start("go")
        message = "agent/ask:may-it-#1: ApprovalTimedOut: nobody answered in time"
        assert SessionCompleted(message) == await until_end(world, node)
    asked = [each.event for each in await world.recorded() if isinstance(each.event, ApprovalRequested)]
    assert [["bob"], ["bob"]] == [each.approvers for each in asked]


async def test_an_agent_may_be_given_another_kind_of_answer() -> None:
    """A hook that wants more than yes or no: `respond` makes it of what the person said."""
    heard: list[object] = []

    def ask(event: BeforeToolCallEvent) -> None:
        heard.append(event.interrupt("where to?"))

    agent = silent(ScriptedModel(Turn(uses=BUY[0].uses[:1]), Turn("ok")), *Bench().tools, hooks=[ask])
    app = app_of(delegate, agent=StrandsAgent(agent, respond=lambda approval: {"to": approval.comment}))
    world = World()
    async with world.node(app) as node:
        await node.start("go")
        await settle()
        await answered("ask:where-to-#1", comment="Oslo")(world, node)
        await until_end(world, node)
    assert [{"to": "Oslo"}] == heard


def test_an_answer_is_a_letter_that_says_who_gave_it() -> None:
    """So that hooks of the library and hooks of ours both take it."""
    answer = Answer.of(Approval(approved=False, by="ann", comment="later"))
    for each in (answer, copy.deepcopy(answer)):
        assert ("n", False, "ann", "later") == (each, each.approved, each.by, each.comment)
