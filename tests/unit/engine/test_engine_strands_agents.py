"""Which Strands agents an application may have: instances, which each run copies, and functions that make them."""

import copy
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from engine_strands import Bench, delegate, reply_of, silent, text_of
from engine_trials import until_end
from engine_world import World, app_of
from strands import Agent, tool
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.hooks import BeforeModelCallEvent, HookProvider, HookRegistry
from strands.multiagent import GraphBuilder
from strands.plugins import Plugin
from strands.session.file_session_manager import FileSessionManager

from orchestrator import AgentFailed, Orchestrator, SessionContext
from orchestrator.agents.strands import StrandsAgent, is_strands_agent
from orchestrator.agents.strands_copy import copy_for_a_run
from orchestrator.agents.strands_run import fitting
from orchestrator.errors import RegistrationError
from orchestrator.scopes import NAME_LENGTH_MAX
from orchestrator.session.events import SessionCompleted
from tests.scripted_model import ScriptedModel, Turn, Use

PAGE = Path(__file__).parents[3] / "docs" / "agents.md"

SHARED = {
    "model",
    "_sandbox",
    "tool_executor",
    "tracer",
    "callback_handler",
    "_intervention_registry",
    "_plugin_registry",
    "_default_structured_output_model",
}
"""What runs use and do not change; what its plugins know, they know by agent."""


def test_a_copy_shares_nothing_that_a_run_changes() -> None:
    """Every attribute of the library's agent is either one of those, its own, or cannot change at all."""
    agent = silent(ScriptedModel(Turn("x")), *Bench().tools, system_prompt="be", state={"a": 1}, messages=[_said("hi")])
    own = copy_for_a_run(agent)
    assert vars(agent).keys() == vars(own).keys()
    fixed = (str, bool, int, type(None))
    same = {name for name, value in vars(agent).items() if vars(own)[name] is value and not isinstance(value, fixed)}
    assert SHARED - {"_default_structured_output_model"} == same
    own.messages[0]["content"][0]["text"] = "changed"
    own.state.set("a", 2)
    own.system_prompt = "other"
    assert ("hi", 1, "be") == (agent.messages[0]["content"][0]["text"], agent.state.get("a"), agent.system_prompt)


def test_the_hooks_of_what_is_copied_are_those_of_the_copy() -> None:
    """A conversation manager, a retry strategy and a subclass of `Agent` count in their own run."""

    class Counting(Agent, HookProvider):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.calls = 0
            self.hooks.add_hook(self)

        def register_hooks(self, registry: HookRegistry, **_: Any) -> None:
            registry.add_callback(BeforeModelCallEvent, self.count)

        def count(self, event: BeforeModelCallEvent) -> None:
            self.calls += 1

    agent = Counting(model=ScriptedModel(Turn("x")), conversation_manager=SlidingWindowConversationManager(per_turn=1))
    own = copy_for_a_run(agent)
    event = BeforeModelCallEvent(agent=own)
    for callback in own.hooks.get_callbacks_for(event):
        callback(event)
    assert (0, 1) == (agent.calls, own.calls)
    counts = [each.conversation_manager.get_state()["model_call_count"] for each in (agent, own)]
    assert [0, 1] == counts


def test_a_copy_that_is_dropped_leaves_the_clients_of_its_agent_open() -> None:
    """Tool providers (MCP clients) end with the agent that was registered."""
    agent = silent(ScriptedModel(Turn("x")))
    gone: list[str] = []

    class Provider:
        def remove_consumer(self, consumer: str) -> None:
            gone.append(consumer)

    agent.tool_registry._tool_providers = [Provider()]  # type: ignore[list-item]
    copy_for_a_run(agent).cleanup()
    assert [] == gone
    agent.cleanup()
    assert [agent.tool_registry._registry_id] == gone


class Diary(Plugin):
    """A plugin of somebody's."""

    name = "diary"

    def init_agent(self, agent: Agent) -> None:
        """Have something to do with one agent."""


class Stateful(ScriptedModel):
    """A model whose conversation is kept by its provider."""

    @property
    def stateful(self) -> bool:
        """It does."""
        return True


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"plugins": [Diary()]}, "plugins (diary)"),
        ({"model": Stateful(Turn("x"))}, "stateful model"),
        ({"background_tasks": True}, "background_tasks"),
        ({"context_manager": "auto"}, "plugins (strands:context-manager)"),
    ],
)
def test_an_agent_that_cannot_go_on_is_refused_where_it_is_declared(options: dict[str, Any], told: str) -> None:
    """The text says what it has, and what to do."""
    agent = Agent(**{"model": ScriptedModel(Turn("x")), **options})
    with pytest.raises(RegistrationError) as refused:
        StrandsAgent(agent)
    assert told in str(refused.value)


async def test_an_agent_with_a_session_of_its_own_is_refused(tmp_path: Any) -> None:
    """One that was registered as it is fails its run, and says why."""

    async def handler(ctx: SessionContext, prompt: object) -> object:
        try:
            return await ctx.invoke_agent("agent", prompt)
        except AgentFailed as failed:
            return f"{failed.error.type}: {failed.error.message}"

    manager = FileSessionManager("one", storage_dir=str(tmp_path))
    agent = Agent(model=ScriptedModel(Turn("x")), session_manager=manager)
    end = await World().run(app_of(handler, agent=agent), "go")
    assert isinstance(end, SessionCompleted)
    assert "RegistrationError: agent 'Strands Agents' has a session_manager" in str(end.result)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"at_most_once": {"pay"}}, "no tool pay"),
        ({"at_most_once": "order"}, "not one text"),
        ({"approval_timeout": -1}, "approval_timeout"),
    ],
)
def test_terms_that_cannot_hold_are_refused(options: dict[str, Any], told: str) -> None:
    """Where they are declared."""
    with pytest.raises(RegistrationError) as refused:
        StrandsAgent(silent(ScriptedModel(Turn("x")), *Bench().tools), **options)
    assert told in str(refused.value)


def test_what_is_no_agent_is_refused() -> None:
    """Neither one nor a function that makes one."""
    with pytest.raises(RegistrationError, match="neither"):
        StrandsAgent("agent")  # type: ignore[arg-type]


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that names Strands agents and lacks it stops when it is imported."""
    monkeypatch.delitem(sys.modules, "orchestrator.agents.strands_run")
    monkeypatch.setitem(sys.modules, "strands", None)
    with pytest.raises(RegistrationError, match=r"session-orchestrator\[strands\]"):
        StrandsAgent(lambda: None)  # type: ignore[arg-type, return-value]
    assert not is_strands_agent(object())


async def test_a_function_without_parameters_makes_the_agent_of_each_run() -> None:
    """With plugins and all; bare, or within `StrandsAgent`, whose terms hold for it too."""
    made: list[Agent] = []
    turns = Turn(uses=(Use("search", "t1", {"q": "x"}),)), Turn("done")

    def make() -> Agent:
        made.append(silent(ScriptedModel(*turns), *Bench().tools, plugins=[Diary()]))
        return made[-1]

    app = Orchestrator()
    app.agent("agent")(make)
    app.session("main")(delegate)
    assert "done" == text_of(await World().run(app, "go"))
    again = app_of(delegate, agent=StrandsAgent(make, at_most_once={"search"}))
    world = World()
    assert "done" == text_of(await world.run(again, "go"))
    assert [4, 4] == [len(agent.messages) for agent in made]
    assert "STEP_STARTED agent/search#1" in await world.story()


async def test_a_made_agent_of_another_kind_is_run_as_that() -> None:
    """A function without parameters is no agent itself: it could not take a prompt."""

    class Echo:
        async def invoke_async(self, prompt: object, **_: object) -> object:
            return prompt

    def make() -> Echo:
        return Echo()

    assert SessionCompleted("go") == await World().run(app_of(delegate, agent=make), "go")


@pytest.mark.parametrize(
    ("give", "told"), [("nothing", "cannot be called"), ("the same", "each run needs one of its own")]
)
async def test_a_function_that_makes_no_agent_of_its_own_fails_the_run(give: str, told: str) -> None:
    """The text says what it made."""
    same = silent(ScriptedModel(Turn("x")))

    async def handler(ctx: SessionContext, prompt: object) -> object:
        texts: list[object] = []
        for _ in range(2):
            try:
                texts.append(text_of(SessionCompleted(await ctx.invoke_agent("agent", prompt))))
            except AgentFailed as failed:
                texts.append(failed.error.message)
        return texts[-1]

    end = await World().run(app_of(handler, agent=lambda: None if give == "nothing" else same), "go")
    assert isinstance(end, SessionCompleted)
    assert told in str(end.result)


async def test_what_the_library_answers_is_a_reply_whoever_calls_it() -> None:
    """An agent of one's own around one of the library's, whose calls are not recorded one by one; and a graph."""

    class Wrapped:
        async def invoke_async(self, prompt: str, **_: object) -> object:
            return await silent(ScriptedModel(Turn("done"))).invoke_async(prompt)

    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    world = World()
    end = await world.run(app_of(delegate, agent=Wrapped()), "go")
    assert ("done", "end_turn", usage) == (text_of(end), reply_of(end)["stop_reason"], (await world.state()).usage)
    builder = GraphBuilder()
    builder.add_node(silent(ScriptedModel(Turn("a")), name="a"), "a")
    builder.set_execution_timeout(60)
    world = World()
    end = await world.run(app_of(delegate, agent=builder.build()), "go")
    assert ("completed", usage) == (reply_of(end)["status"], (await world.state()).usage)


async def test_a_tool_cannot_run_a_recorded_agent_of_its_own() -> None:
    """Its calls would be named like those of the agent that the tool is of: `as_tool` names them apart."""
    within = StrandsAgent(silent(ScriptedModel(Turn("never"))))

    @tool
    async def ask(q: str) -> str:
        """Ask another agent."""
        return str(await within.invoke_async(q))

    model = ScriptedModel(Turn(uses=(Use("ask", "t1", {"q": "x"}),)), Turn("ok"))
    await World().run(app_of(delegate, agent=silent(model, ask)), "go")
    assert "has nothing to record its calls with" in str(model.asked[-1])


async def test_a_subclass_is_made_once_and_copied_for_each_run() -> None:
    """`@app.agent(…)` on a class of its own kind, as on any other."""

    class Polite(Agent):
        def __init__(self) -> None:
            super().__init__(model=ScriptedModel(Turn("please")), system_prompt="Be polite.")

    assert "please" == text_of(await World().run(app_of(delegate, agent=Polite), "go"))


async def test_what_the_page_shows_runs_as_it_stands() -> None:
    """Its application, on a scripted model; and the terms that it declares further down."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    turns = Turn(uses=(Use("order", "t1", {"item": "tea"}),)), Turn("bought")
    model = ScriptedModel(*turns)
    names: dict[str, Any] = {"model": model}
    exec(blocks[0].replace("Agent(tools", "Agent(model=model, tools"), names)
    world = World()
    async with world.node(names["app"]) as node:
        await node.start("tea", session_type="buy")
        end = await until_end(world, node)
    assert SessionCompleted("bought") == end
    assert "ordered tea under s/buyer/order#1" in str(model.asked[-1])
    app = Orchestrator()
    exec(blocks[2], {"app": app, "agent": silent(model, tool(name="place_order")(_order))})
    assert isinstance(app.agent_named("trader"), StrandsAgent)


def _order(item: str) -> str:
    """Order something."""
    return item


def test_a_name_too_long_for_a_call_keeps_apart_what_it_names() -> None:
    """An agent within an agent may have tools of 64 characters each."""
    long = ["x" * 64 + "#1:" + "y" * 64 + f"#{n}" for n in (1, 2)]
    names = [fitting(name) for name in long]
    assert ("search#1", 2, NAME_LENGTH_MAX) == (fitting("search#1"), len(set(names)), len(names[0]))
    assert names == [fitting(copy.copy(name)) for name in long]


def _said(text: str) -> Any:
    return {"role": "user", "content": [{"text": text}]}
