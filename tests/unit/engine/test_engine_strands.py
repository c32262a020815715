"""A Strands agent goes on from the last model or tool call that is recorded: nothing is paid for or run again."""

from collections import Counter
from typing import Any

import pytest
from engine_strands import Bench, delegate, reply_of, silent, text_of
from engine_world import Gate, World, app_of
from pydantic import BaseModel
from strands import Agent, ToolContext, tool
from strands.hooks import AfterInvocationEvent, AfterToolCallEvent, BeforeModelCallEvent, BeforeToolsEvent
from strands.vended_tools.stop import stop

from actors import settle
from orchestrator import AgentFailed, Orchestrator, RetryPolicy, SessionContext
from orchestrator.agents.strands_outcomes import result_event
from orchestrator.agents.strands_run import prompt_of
from orchestrator.artifacts.memory import MemoryArtifacts
from orchestrator.errors import Unavailable
from orchestrator.session.events import AgentCompleted, SessionCompleted
from tests.scripted_model import ScriptedModel, Turn, Use

TURNS = (
    Turn("two at once", (Use("search", "t1", {"q": "tea"}), Use("search", "t2", {"q": "milk"}))),
    Turn("then one", (Use("order", "t3", {"item": "tea"}),)),
    Turn("and one more", (Use("order", "t4", {"item": "milk"}),)),
    Turn("all done"),
)
CALLS = ["model#1", "search#1", "search#2", "model#2", "order#1", "model#3", "order#2", "model#4"]
USED = {"input_tokens": 40, "output_tokens": 20, "total_tokens": 60}


class Shop:
    """An agent with four answers and four uses of tools, two of them at once; `made` is what was really called."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.model, self.bench = ScriptedModel(*TURNS), Bench()
        self.model.on_call = self.bench.on_call = self._note
        self.app = app_of(delegate, agent=silent(self.model, *self.bench.tools, system_prompt="You buy."))
        self.on_call = str

    def _note(self, call: str) -> None:
        self.made[call] += 1
        self.on_call(call)


async def test_each_call_of_an_agent_is_recorded_under_its_name() -> None:
    """Its reply has the text, why it stopped and the last message; usage and keys of tools are those of the calls."""
    shop, world = Shop(), World()
    end = await world.run(shop.app, "buy tea")
    message = {"role": "assistant", "content": [{"text": "all done"}]}
    assert {"text": "all done", "stop_reason": "end_turn", "message": message} == reply_of(end)
    assert [f"STEP_COMPLETED agent/{name}" for name in CALLS] == (await world.story())[2:-2]
    assert [f"s/agent/{name}" for name in CALLS if "model" not in name] == shop.bench.keys
    completed = (await world.recorded())[-2].event
    assert isinstance(completed, AgentCompleted)
    assert (USED, USED) == (completed.usage, (await world.state()).usage)


async def test_tools_that_run_at_once_are_named_as_they_are_asked_for() -> None:
    """Whichever is done first: a crash in between finds the right outcome for each."""
    slow, ran, asked = Gate(), list[str](), list[Any]()

    @tool
    async def find(q: str) -> str:
        """Find something, tea after milk."""
        if q == "tea":
            await slow.passing()
        ran.append(q)
        slow.open()
        return q

    def app() -> Orchestrator:
        uses = (Use("find", "t1", {"q": "tea"}), Use("find", "t2", {"q": "milk"}))
        model = ScriptedModel(Turn(uses=uses), Turn("found"))
        asked.append(model.asked)
        return app_of(delegate, agent=silent(model, find))

    whole = World()
    end = await whole.run(app(), "go")
    assert ["milk", "tea"] == ran
    assert ["STEP_COMPLETED agent/find#2", "STEP_COMPLETED agent/find#1"] == (await whole.story())[3:5]
    assert end == await (await whole.as_of(4)).resume(app())
    assert ["milk", "tea", "tea"] == ran
    first, second = (_results(messages[-1][-1]) for messages in asked)
    assert [("t1", "tea"), ("t2", "milk")] == first == second


def _results(message: Any) -> list[tuple[str, str]]:
    results = [block["toolResult"] for block in message["content"]]
    return [(result["toolUseId"], result["content"][0]["text"]) for result in results]


async def test_a_call_that_cannot_be_recorded_is_no_affair_of_the_models() -> None:
    """It is not told that its tool failed: the run fails, and another attempt makes the call again."""

    class Away(MemoryArtifacts):
        refusals = 1

        async def put(self, *args: Any, **kwargs: Any) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise Unavailable("the bucket refuses us")
            return await super().put(*args, **kwargs)

    @tool
    async def read(q: str) -> str:
        """Read something long."""
        return q * 20_000

    async def handler(ctx: SessionContext, prompt: object) -> object:
        return await ctx.invoke_agent("agent", prompt, retry=RetryPolicy(max_attempts=2))

    model, world = ScriptedModel(Turn(uses=(Use("read", "t1", {"q": "x"}),)), Turn("read")), World()
    world.artifacts = Away("bucket")
    assert "read" == text_of(await world.run(app_of(handler, agent=silent(model, read)), "go"))
    assert [("t1", "x" * 20_000)] == _results(model.asked[-1][-1])
    assert 2 == model.calls
    assert "AGENT_RETRYING agent" in await world.story()


@pytest.mark.parametrize("seq", range(2, 12))
async def test_a_crash_between_two_calls_repeats_none(seq: int) -> None:
    """Another node makes the calls that are not recorded, each once, and comes to the same end at the same price."""
    whole = World()
    end = await whole.run(Shop().app, "buy tea")
    shop, world = Shop(), await whole.as_of(seq)
    assert end == await world.resume(shop.app)
    assert dict.fromkeys(CALLS[seq - 2 :], 1) == shop.made
    assert USED == (await world.state()).usage
    assert len(set(await world.story())) == len(await world.story()), "an outcome is recorded once"


@pytest.mark.parametrize("struck", CALLS)
async def test_a_crash_within_a_call_repeats_what_was_in_flight_and_nothing_else(struck: str) -> None:
    """Of two tools that run at once, both may be."""
    shop, world = Shop(), World()
    in_flight = {"search#1", "search#2"} if struck.startswith("search") else {struck}
    async with world.node(shop.app) as node:

        def strike(call: str) -> None:
            if call == struck:
                node.crash()

        shop.on_call = strike  # type: ignore[assignment]
        await node.start("buy tea")
        await world.until(lambda: struck in shop.made)
    shop.on_call = str
    assert "all done" == text_of(await world.resume(shop.app))
    assert set(CALLS) == shop.made.keys()
    assert all(times == 1 or (times == 2 and call in in_flight) for call, times in shop.made.items()), shop.made
    assert USED == (await world.state()).usage


async def test_an_agent_sees_the_same_whether_a_call_was_made_or_is_recorded() -> None:
    """Its conversation, its state, what its hooks are told and what its tools left behind."""
    seen: list[object] = []

    @tool(context=True)
    def remember(what: str, tool_context: ToolContext) -> str:
        """Remember something."""
        tool_context.agent.state.set("remembered", what)
        tool_context.agent.state.delete("nothing")
        tool_context.invocation_state["request_state"]["seen"] = what
        if what == "bad":
            raise ValueError("not that")
        return "I will"

    def look(event: AfterInvocationEvent) -> None:
        messages = [{key: message[key] for key in ("role", "content")} for message in event.agent.messages]
        seen.append((messages, event.agent.state.get(), event.invocation_state["request_state"]))

    def look_at_tool(event: AfterToolCallEvent) -> None:
        seen.append((event.result, str(event.exception)))

    def app() -> Orchestrator:
        uses = (Use("remember", "t1", {"what": "tea"}),), (Use("remember", "t2", {"what": "bad"}),)
        model = ScriptedModel(*(Turn(uses=use) for use in uses), Turn("noted"))
        agent = silent(model, remember, hooks=[look, look_at_tool], state={"nothing": 1})
        return app_of(delegate, agent=agent)

    whole = World()
    await whole.run(app(), "go")
    live = list(seen)
    assert {"remembered": "bad"} == live[-1][1]  # type: ignore[index]
    for seq in range(3, 8):
        seen.clear()
        await (await whole.as_of(seq)).resume(app())
        assert live == seen


async def test_what_tools_at_once_leave_behind_stays_in_its_order() -> None:
    """What the first one wrote is not written again once it is recorded: the second wrote over it meanwhile."""
    wrote, recorded, read = Gate(), Gate(), list[object]()

    @tool(context=True)
    async def write(what: str, tool_context: ToolContext) -> str:
        """Write something, the second after the first; read it when the first is recorded."""
        if what == "second":
            await wrote.passing()
        tool_context.agent.state.set("what", what)
        wrote.open()
        if what == "second":
            await recorded.passing()
            read.append(tool_context.agent.state.get("what"))
        return what

    def tell(event: AfterToolCallEvent) -> None:
        recorded.open()

    uses = tuple(Use("write", what, {"what": what}) for what in ("first", "second"))
    agent = silent(ScriptedModel(Turn(uses=uses), Turn("ok")), write, hooks=[tell])
    await World().run(app_of(delegate, agent=agent), "go")
    assert ["second"] == read


async def test_two_sessions_at_once_do_not_share_a_conversation() -> None:
    """One registered instance serves both; it is never run itself."""
    gate = Gate()

    @tool
    async def wait(q: str) -> str:
        """Wait."""
        return await gate.passing()

    model = ScriptedModel(Turn(uses=(Use("wait", "t1", {"q": "x"}),)), Turn("done"))
    agent = silent(model, wait)
    world = World()
    async with world.node(app_of(delegate, agent=agent)) as node:
        await node.start("for ann", session_id="a")
        await gate.reached()
        await node.start("for bob", session_id="b")
        await settle()
        assert 2 == model.calls
        gate.open()
        assert ["done", "done"] == [text_of(await world.end(each)) for each in ("a", "b")]
    firsts = [asked[0]["content"][0] for asked in model.asked]
    assert {"for ann": 2, "for bob": 2} == Counter(first["text"] for first in firsts)
    assert [1, 1, 3, 3] == sorted(len(asked) for asked in model.asked)
    assert [] == agent.messages


async def test_another_attempt_goes_on_from_the_calls_of_the_one_before() -> None:
    """What the model raises ends the attempt; what it answered before is not asked for again."""
    model, bench = ScriptedModel(*TURNS, fails={2: 1}), Bench()

    async def handler(ctx: SessionContext, prompt: object) -> object:
        return await ctx.invoke_agent("agent", prompt, retry=RetryPolicy(max_attempts=2))

    world = World()
    assert "all done" == text_of(await world.run(app_of(handler, agent=silent(model, *bench.tools)), "go"))
    assert (5, USED) == (model.calls, (await world.state()).usage)
    assert {"tea": 2, "milk": 2} == bench.ran
    assert "AGENT_RETRYING agent" in await world.story()


@pytest.mark.parametrize("of", ["model", "hook"])
async def test_a_failure_is_told_as_it_was_raised(of: str) -> None:
    """Not as the library wraps it."""

    async def handler(ctx: SessionContext, prompt: object) -> object:
        try:
            return await ctx.invoke_agent("agent", prompt)
        except AgentFailed as failed:
            return [failed.error.type, failed.error.message]

    def fail(event: BeforeToolsEvent) -> None:
        raise ConnectionError("the hook is away")

    model = ScriptedModel(Turn(uses=(Use("search", "t1", {"q": "x"}),)), fails={0: 1 if of == "model" else 0})
    end = await World().run(app_of(handler, agent=silent(model, *Bench().tools, hooks=[fail])), "go")
    assert SessionCompleted(["ConnectionError", f"the {of} is away"]) == end


class Verdict(BaseModel):
    """What an agent is to answer with."""

    good: bool
    score: int


async def test_structured_output_comes_out_of_recorded_answers() -> None:
    """Of an answer that the library had to force: its check runs again, it leaves the result in memory."""
    forced = (Turn("I think so"), Turn(uses=(Use("Verdict", "t1", {"good": True, "score": 3}),)))

    def app(model: ScriptedModel) -> Orchestrator:
        return app_of(delegate, agent=silent(model, structured_output_model=Verdict))

    whole, model = World(), ScriptedModel(*forced)
    end = await whole.run(app(model), "judge")
    assert {"good": True, "score": 3} == reply_of(end)["structured_output"]
    assert 2 == model.calls
    for seq in range(2, len(await whole.recorded()) - 1):
        again = ScriptedModel(*forced)
        assert end == await (await whole.as_of(seq)).resume(app(again))
        assert 4 - seq == again.calls


@pytest.mark.parametrize(
    ("turn", "limits", "stop_reason", "text"),
    [
        (Turn("no", stop_reason="guardrail_intervened", redaction="[taken out]"), None, "guardrail_intervened", "no"),
        (Turn("cut", stop_reason="stop_sequence"), None, "stop_sequence", "cut"),
        (Turn("go on", (Use("search", "t1", {"q": "x"}),)), {"turns": 1}, "limit_turns", ""),
        (Turn("go on", (Use("search", "t1", {"q": "x"}),)), {"total_tokens": 15}, "limit_total_tokens", ""),
        (Turn("go on", (Use("stop", "t1", {}),)), None, "cancelled", "Agent loop stopped."),
    ],
)
async def test_the_reply_says_why_the_agent_stopped(
    turn: Turn, limits: dict[str, int] | None, stop_reason: str, text: str
) -> None:
    """After a crash as without one: its own limits count recorded calls, a guardrail's redaction is made again."""
    heard: list[object] = []

    def look(event: AfterInvocationEvent) -> None:
        heard.append(event.agent.messages[0]["content"])

    async def handler(ctx: SessionContext, prompt: object) -> object:
        return await ctx.invoke_agent("agent", prompt, limits=limits)

    def app(model: ScriptedModel) -> Orchestrator:
        return app_of(handler, agent=silent(model, *Bench().tools, stop, hooks=[look]))

    whole = World()
    end = await whole.run(app(ScriptedModel(turn, Turn("never"))), "secret")
    assert (stop_reason, text) == (reply_of(end)["stop_reason"], text_of(end))
    for seq in range(3, len(await whole.recorded()) - 1):
        model = ScriptedModel(turn, Turn("never"))
        assert end == await (await whole.as_of(seq)).resume(app(model))
        assert 0 == model.calls
    assert [[{"text": turn.redaction or "secret"}]] * len(heard) == heard


async def test_an_answer_that_was_cut_off_fails_the_agent_once() -> None:
    """It is recorded, so another attempt would be given the same: none is made."""

    async def handler(ctx: SessionContext, prompt: object) -> object:
        try:
            return await ctx.invoke_agent("agent", prompt, retry=RetryPolicy(max_attempts=5))
        except AgentFailed as failed:
            return failed.error.code

    model, world = ScriptedModel(Turn("too lo", stop_reason="max_tokens")), World()
    assert SessionCompleted("MAX_TOKENS") == await world.run(app_of(handler, agent=silent(model)), "go")
    assert 1 == model.calls
    assert {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15} == (await world.state()).usage


async def test_a_tool_that_fails_is_told_to_the_model_and_not_run_again() -> None:
    """Its error, one whose result is no JSON, and one that nobody has: each is an outcome."""
    ran: Counter[str] = Counter()

    @tool
    def odd(how: str) -> dict[str, Any]:
        """Do something odd."""
        ran[how] += 1
        if how == "raise":
            raise RuntimeError("odd")
        return {"status": "success", "content": [{"json": object()}]}

    uses = (Use("odd", "t1", {"how": "raise"}), Use("odd", "t2", {"how": "give"}), Use("none", "t3"))

    def app(model: ScriptedModel) -> Orchestrator:
        return app_of(delegate, agent=silent(model, odd))

    whole, model = World(), ScriptedModel(Turn(uses=uses), Turn("I see"))
    await whole.run(app(model), "go")
    results = [block["toolResult"] for block in model.asked[1][-1]["content"]]
    assert ["error"] * 3 == [result["status"] for result in results]
    assert ["RuntimeError - odd", "is not JSON", "Unknown tool: none"] == [
        next(part for part in ("RuntimeError - odd", "is not JSON", "Unknown tool: none") if part in str(result))
        for result in results
    ]
    again = ScriptedModel(Turn(uses=uses), Turn("I see"))
    await (await whole.as_of(6)).resume(app(again))
    assert {"raise": 1, "give": 1} == ran
    assert results == [block["toolResult"] for block in again.asked[0][-1]["content"]]


async def test_uses_of_one_id_and_a_tool_called_model_have_names_of_their_own() -> None:
    """Some models give every use of a tool the same id."""
    named = tool(name="model")(_echo)
    uses = (Use("model", "same", {"q": "a"}), Use("model", "same", {"q": "b"}))
    world = World()
    await world.run(app_of(delegate, agent=silent(ScriptedModel(Turn(uses=uses), Turn("ok")), named)), "go")
    assert ["model#1", "model-tool#1", "model-tool#2", "model#2"] == [
        line.rpartition("/")[2] for line in await world.story() if "/" in line
    ]


async def _echo(q: str) -> str:
    """Say it again."""
    return q


class Busy(Exception):
    """A tool's own exception, which only its own code can make."""

    def __init__(self, *, seconds: int) -> None:
        super().__init__(f"busy for {seconds} s", {1, 2})
        self.seconds = seconds


async def test_a_tool_that_a_hook_wants_again_is_another_call() -> None:
    """A crash repeats neither; the hook sees an exception of the same class, and what of it is JSON."""
    ran: Counter[str] = Counter()
    seen: list[object] = []

    @tool
    async def flaky(q: str) -> str:
        """Fail once."""
        ran[q] += 1
        if ran[q] == 1:
            raise Busy(seconds=3)
        return "now"

    def again(event: AfterToolCallEvent) -> None:
        event.retry = isinstance(event.exception, Busy)
        if isinstance(event.exception, Busy):
            seen.append([event.exception.seconds, *event.exception.args])

    agent = silent(ScriptedModel(Turn(uses=(Use("flaky", "t1", {"q": "x"}),)), Turn("ok")), flaky, hooks=[again])
    whole = World()
    await whole.run(app_of(delegate, agent=agent), "go")
    names = [line.rpartition("/")[2] for line in await whole.story() if "/" in line]
    assert ["model#1", "flaky#1", "flaky#1.2", "model#2"] == names
    await (await whole.as_of(5)).resume(app_of(delegate, agent=agent))
    assert {"x": 2} == ran
    assert [[3, "busy for 3 s", {1, 2}], [3, "busy for 3 s", [1, 2]]] == seen, (
        "what is no JSON is lost with its process"
    )


@pytest.mark.parametrize("named", [["nowhere.at_all", "Odd"], ["builtins", "ExceptionGroup"], ["builtins", "int"]])
def test_an_exception_that_cannot_be_had_again_is_told_by_name(named: list[str]) -> None:
    """Its class is not loaded, wants more than it is given, or is none; nothing is imported because a journal says."""
    error = {"type": "Odd", "message": "no", "class": named, "args": [], "attributes": {}}
    result = {"toolUseId": "t1", "status": "error", "content": []}
    exception = result_event({"result": result, "error": error}, None).exception
    assert ("ToolFailed", "Odd: no") == (type(exception).__name__, str(exception))


async def test_a_cancelled_session_stops_its_agent() -> None:
    """The run is cancelled where it is, and a tool in a thread is told by the library's own signal."""
    gate, signals = Gate(), list[Any]()

    @tool(context=True)
    async def wait(q: str, tool_context: ToolContext) -> str:
        """Wait."""
        signals.append(tool_context.cancel_signal)
        return await gate.passing()

    model = ScriptedModel(Turn(uses=(Use("wait", "t1", {"q": "x"}),)), Turn("never"))
    world = World()
    async with world.node(app_of(delegate, agent=silent(model, wait))) as node:
        await node.start("go")
        await gate.reached()
        assert not signals[0].is_set()
        await node.deliveries.cancel("s", "enough", "c-1")
        await world.end()
        await settle()
    assert signals[0].is_set()
    assert "AGENT_BACKGROUND_TASK_CANCELLED" == (await world.story())[-1]
    assert (1, []) == (model.calls, world.errors_logged())


async def test_a_callback_handler_is_told_as_it_happens_and_not_again() -> None:
    """One that was set is kept; the default one, which prints, is not."""
    told: list[str] = []

    def handler(**event: Any) -> None:
        told.append(event.get("data", ""))

    model = ScriptedModel(Turn("one ", (Use("search", "t1", {"q": "x"}),)), Turn("two"))
    agent = Agent(model=model, tools=Bench().tools, callback_handler=handler)
    whole = World()
    await whole.run(app_of(delegate, agent=agent), "go")
    assert "one two" == "".join(told)
    told.clear()
    await (await whole.as_of(4)).resume(app_of(delegate, agent=agent))
    assert "two" == "".join(told)


async def test_the_default_handler_does_not_print(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is the log."""
    await World().run(app_of(delegate, agent=Agent(model=ScriptedModel(Turn("loud")))), "go")
    assert "" == capsys.readouterr().out


async def test_an_agent_that_stops_at_checkpoints_goes_on_by_itself() -> None:
    """The session records every call, so that they are of no other use."""
    shop = silent(ScriptedModel(*TURNS), *Bench().tools, checkpointing=True)
    world = World()
    assert "all done" == text_of(await world.run(app_of(delegate, agent=shop), "go"))
    assert [f"STEP_COMPLETED agent/{name}" for name in CALLS] == (await world.story())[2:-2]


MESSAGES = [{"role": "user", "content": [{"text": "a"}]}, {"role": "assistant", "content": [{"text": "b"}]}]
IMAGE = {"image": {"format": "png", "source": {"bytes": {"__bytes_encoded__": True, "data": "aGk="}}}}


@pytest.mark.parametrize(
    ("prompt", "given"),
    [
        ("text", "text"),
        (None, None),
        (MESSAGES, MESSAGES),
        ([{"text": "a"}, IMAGE], [{"text": "a"}, {"image": {"format": "png", "source": {"bytes": b"hi"}}}]),
        ({"topic": "tea"}, '{"topic": "tea"}'),
        ([{"topic": "tea"}], '[{"topic": "tea"}]'),
        ([], "[]"),
        (3, "3"),
    ],
)
def test_a_prompt_is_what_the_library_takes_or_else_its_json(prompt: object, given: object) -> None:
    """Texts, messages and content blocks, with bytes as base64; anything else the model reads as JSON."""
    assert given == prompt_of(prompt)


async def test_other_arguments_reach_hooks_and_tools() -> None:
    """As the library's `invocation_state`."""
    seen: list[object] = []

    def look(event: BeforeModelCallEvent) -> None:
        seen.append([event.invocation_state[name] for name in ("desk", "level")])

    async def handler(ctx: SessionContext, prompt: object) -> object:
        return await ctx.invoke_agent("agent", prompt, invocation_state={"desk": "fx"}, level=3)

    await World().run(app_of(handler, agent=silent(ScriptedModel(Turn("ok")), hooks=[look])), "go")
    assert [["fx", 3]] == seen


async def test_an_answer_too_large_for_the_journal_is_recorded_in_the_bucket() -> None:
    """And read from there after a crash."""
    long = "word " * 4_000
    whole = World()
    turns = (Turn(long, (Use("search", "t1", {"q": "x"}),)), Turn("short"))
    await whole.run(app_of(delegate, agent=silent(ScriptedModel(*turns), *Bench().tools)), "go")
    model = ScriptedModel(*turns)
    world = await whole.as_of(4)
    assert "short" == text_of(await world.resume(app_of(delegate, agent=silent(model, *Bench().tools))))
    assert long == model.asked[0][1]["content"][0]["text"]
    assert any("model" in key for key in whole.artifacts.objects)
