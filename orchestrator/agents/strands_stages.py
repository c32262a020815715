"""The two stages of a Strands agent's loop, recorded: what a model or a tool once gave, its agent is given ever after.

Ours is the innermost middleware, so that what is recorded is the call itself: the user's own middleware and hooks run
around it, again on every run, and see the same whether it was made now or in another process. Both ways go through the
recorded JSON, so that no agent depends on which it was.

A name is the same on every run: `model#3` is the third answer, `search#2` the second time that an answer asks for
`search`, whichever tool is done first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, cast

from strands import Agent
from strands.middleware import ExecuteToolContext, ExecuteToolStage, InvokeModelContext, InvokeModelStage
from strands.types.events import ToolResultEvent, TypedEvent
from strands.types.tools import AgentTool

from orchestrator.agents.strands_copy import agent_within, copy_for_a_run, keeps_its_context, silence, tool_over
from orchestrator.agents.strands_outcomes import (
    AGAIN,
    Events,
    answer_events,
    ask_model,
    doubt_about,
    interrupt_event,
    leave,
    not_repeated,
    result_event,
    run_tool,
    summed,
    usage_of,
)
from orchestrator.errors import RegistrationError
from orchestrator.invocation import CallInDoubt, CallResult
from orchestrator.session.values import Json, JsonObject

NextModel: TypeAlias = Callable[[InvokeModelContext], Events]
NextTool: TypeAlias = Callable[[ExecuteToolContext], Events]
MODEL: Final = "model"
_STRUCTURED_OUTPUT: Final = "structured_output"


class Recorder(Protocol):
    """What the stages need of the run that they are part of."""

    async def record(
        self, name: str, work: Callable[[], Awaitable[CallResult]], *, at_most_once: bool = False
    ) -> JsonObject:
        """Return what the call gave: recorded before, or made and recorded now.

        Raises:
            CallInDoubt: it began before a crash, was to be made once, and nothing says how it ended.
            Exception: what `work` raised; nothing is recorded then.
        """
        ...

    def is_at_most_once(self, tool: str) -> bool:
        """Return whether that tool is never to run again where it may have run."""
        ...

    def spent(self, usage: Mapping[str, Json]) -> None:
        """Count what a call used, whether it was made now or is recorded."""
        ...

    def as_call(self, name: str) -> AbstractContextManager[None]:
        """Let `current_invocation()` be the call of that name in the block, so that a tool has a key of its own."""
        ...


@dataclass(slots=True)
class ToolUse:
    """One use of a tool that a model's answer asks for. `calls_made` counts its recorded calls.

    There are several where a call ended in a question to a person, was in doubt, or where a hook asked for another.
    `repeats` is the call in doubt that the next one makes again.
    """

    name: str
    calls_made: int = 0
    repeats: str | None = None
    is_running: bool = False
    is_settled: bool = False

    @property
    def call(self) -> str:
        """The name of its next call."""
        return self.name if not self.calls_made else f"{self.name}.{self.calls_made + 1}"


@dataclass(slots=True)
class ToolUses:
    """The uses of tools that the last answer asks for, by their id; named by the order that they stand in."""

    prefix: str
    _by_id: dict[str, list[ToolUse]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    def asked_for(self, message: Mapping[str, Any]) -> None:
        """Name the uses in a new answer."""
        self._by_id = {}
        for block in message["content"]:
            if "toolUse" in block:
                use = block["toolUse"]
                # A tool of that name would share the model's.
                name = f"{use['name']}-tool" if use["name"] == MODEL else use["name"]
                number = self._counts[name] = self._counts.get(name, 0) + 1
                self._by_id.setdefault(use["toolUseId"], []).append(ToolUse(f"{self.prefix}{name}#{number}"))

    def of(self, tool_use_id: str) -> ToolUse | None:
        """Return the use of that id; `None` where no answer asks for it (`agent.tool.search()`)."""
        # Some models give several uses the same id: each run of it is then another use.
        uses = [use for use in self._by_id.get(tool_use_id, ()) if not use.is_running]
        return next((use for use in uses if not use.is_settled), uses[-1] if uses else None)


class RecordedStages:
    """The stages of one agent. `prefix` stands before the names of its calls, and is empty but for an agent's tool."""

    def __init__(
        self, recorder: Recorder, prefix: str = "", *, tell_spent: Callable[[Mapping[str, Json]], None] | None = None
    ) -> None:
        self.usage: JsonObject = {}
        self._recorder = recorder
        self._prefix = prefix
        self._tell_spent = recorder.spent if tell_spent is None else tell_spent
        self._answers = 0
        self._uses = ToolUses(prefix)
        self._within: dict[str, RecordedStages] = {}
        self._kept: dict[str, AgentTool] = {}

    def attach_to(self, agent: Agent) -> None:
        """Record what this agent does from now on.

        Raises:
            RegistrationError: another run records it already.
        """
        handlers = agent._middleware_registry._handlers.get(InvokeModelStage, [])
        if any(isinstance(getattr(each.handler, "__self__", None), RecordedStages) for each in handlers):
            raise RegistrationError(f"agent {agent.name!r} was made for another run: each run needs one of its own")
        agent.add_middleware(InvokeModelStage, self.answer)
        agent.add_middleware(ExecuteToolStage, self.use)

    def spent(self, usage: Mapping[str, Json]) -> None:
        """Count what was used, here and in all that this is within."""
        self.usage = summed(self.usage, usage)
        self._tell_spent(usage)

    # --- the model -----------------------------------------------------------------------------------------------

    async def answer(self, ctx: InvokeModelContext, next_fn: NextModel) -> Events:
        """Yield what the model answers. A call that raises is not recorded, and its name is the next one's."""
        name = f"{self._prefix}{MODEL}#{self._answers + 1}"
        events = answer_events(await self._recorder.record(name, partial(self._ask, ctx, next_fn)))
        self._answers += 1
        self._uses.asked_for(events[-1].message)
        self.spent(usage_of(events[-1].usage))
        for event in events:
            yield event

    async def _ask(self, ctx: InvokeModelContext, next_fn: NextModel) -> CallResult:
        return await ask_model(ctx, next_fn(ctx))

    # --- tools ---------------------------------------------------------------------------------------------------

    async def use(self, ctx: ExecuteToolContext, next_fn: NextTool) -> Events:
        """Yield what the tool gives; of one in doubt, ask whether it shall run again."""
        use = self._uses.of(ctx.tool_use["toolUseId"])
        inner = agent_within(ctx.tool)
        within: RecordedStages | None = None
        if ctx.tool is not None and use is not None and inner is not None:
            tool, within = self._recorded_agent(ctx.tool, inner, use)
            ctx = ctx.replace(tool=tool)
        if use is None or _has_to_run_again(ctx.tool):
            async for event in next_fn(ctx):
                yield event
            return
        use.is_running = True
        try:
            outcome = await self._outcome(ToolRun(use, ctx, next_fn, within))
        finally:
            use.is_running = False
        yield outcome

    async def _outcome(self, run: ToolRun) -> TypedEvent:
        use, ctx = run.use, run.ctx
        at_most_once = run.within is None and self._recorder.is_at_most_once(ctx.tool_use["name"])
        while True:
            try:
                given = await self._recorder.record(use.call, partial(self._call, run), at_most_once=at_most_once)
            except CallInDoubt:
                # An interrupt, as if a hook had asked: the tools beside it come to their end first.
                if not ctx.interrupt(f"{use.call}{AGAIN}", reason=doubt_about(ctx)).response:
                    use.is_settled = True
                    return ToolResultEvent(not_repeated(ctx))
                # Under the key of the first: whoever was asked then knows that it is the same.
                use.repeats = use.repeats or use.call
                use.calls_made += 1
                continue
            use.repeats = None
            use.calls_made += 1
            return await self._event(run, given)

    async def _call(self, run: ToolRun) -> CallResult:
        before = {} if run.within is None else run.within.usage
        with self._recorder.as_call(run.use.repeats or run.use.call):
            run.event, outcome = await run_tool(run.ctx, run.next_fn(run.ctx))
        if run.within is not None:
            # Its calls have it too, each its own; this is for whoever is handed the outcome and sees no calls.
            outcome["usage"] = summed(run.within.usage, before, sign=-1)
        return CallResult(outcome, None)

    async def _event(self, run: ToolRun, given: JsonObject) -> TypedEvent:
        ran_here = run.event is not None
        if not ran_here:
            leave(given.get("left"), cast("Agent", run.ctx.agent), run.ctx.invocation_state)
        if "interrupts" in given:
            if run.within is None:
                return interrupt_event(run.ctx, given)
            # The agent within has to come to that point again, by its own recorded calls: the answer is for it.
            return run.event or (await run_tool(run.ctx, run.next_fn(run.ctx)))[0]
        if run.within is not None and not ran_here:
            self.spent(cast("JsonObject", given["usage"]))
        run.use.is_settled = True
        return result_event(given, run.event)

    def _recorded_agent(self, tool: AgentTool, inner: Agent, use: ToolUse) -> tuple[AgentTool, RecordedStages]:
        """Return the agent's tool over a copy of its agent, and the stages that record its calls under this use."""
        keeps = keeps_its_context(tool)
        prefix = f"{self._prefix}{tool.tool_name}:" if keeps else f"{use.name}:"
        if keeps and prefix in self._kept:
            return self._kept[prefix], self._within[prefix]
        own = copy_for_a_run(inner)
        silence(own)
        if prefix not in self._within:
            self._within[prefix] = RecordedStages(self._recorder, prefix, tell_spent=self.spent)
        # The same stages where an interrupt parts one use into two runs: the second counts on.
        self._within[prefix].attach_to(own)
        replaced = tool_over(tool, own)
        if keeps:
            self._kept[prefix] = replaced
        return replaced, self._within[prefix]


@dataclass(slots=True)
class ToolRun:
    """A tool about to run. `within` are the stages of the agent that it stands for, `event` what it gave, if it ran."""

    use: ToolUse
    ctx: ExecuteToolContext
    next_fn: NextTool
    within: RecordedStages | None
    event: TypedEvent | None = None


def _has_to_run_again(tool: AgentTool | None) -> bool:
    """Return whether the tool runs again after a crash, since what it leaves in memory cannot be had otherwise.

    That is the check of the structured output, which does nothing else; and an agent that keeps its context from call
    to call, whose own calls are recorded.
    """
    return tool is not None and (tool.tool_type == _STRUCTURED_OUTPUT or keeps_its_context(tool))
