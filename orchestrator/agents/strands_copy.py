"""A Strands agent for one run: an `Agent` is one conversation and refuses a second one at a time, a node has many.

The library offers no copy of an agent, so this is one, attribute by attribute: what a run changes is its own, what it
only uses (model, tools, hooks, handlers) is shared. A test walks every attribute of an `Agent`, so that a release of
the library with a new one fails it. What cannot be told apart so is refused: there, a function that
makes the agent is the way.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from strands import Agent
from strands.agent._concurrency import _ConcurrencyController
from strands.agent.state import AgentState
from strands.handlers.callback_handler import PrintingCallbackHandler, null_callback_handler
from strands.hooks import HookRegistry
from strands.interrupt import _InterruptState
from strands.middleware._registry import MiddlewareRegistry
from strands.telemetry.metrics import EventLoopMetrics
from strands.tools._caller import _ToolCaller
from strands.tools.registry import ToolRegistry

from orchestrator.errors import RegistrationError

if TYPE_CHECKING:
    from strands.types.tools import AgentTool

AgentT = TypeVar("AgentT", bound=Agent)

_SHAREABLE_PLUGINS: Final = frozenset({"strands:model", "strands:agent-delegation"})
"""The plugins that every agent has; they keep what they know by agent."""


def check(agent: Agent) -> None:
    """Raise `RegistrationError` for an agent that cannot go on from recorded calls."""
    if agent._session_manager is not None:
        raise RegistrationError(
            f"agent {agent.name!r} has a session_manager: after a crash the conversation is made anew from the "
            "recorded calls, and would find itself there already; leave it out"
        )
    if agent.model.stateful:
        raise RegistrationError(
            f"agent {agent.name!r} has a stateful model: its conversation is the provider's, and cannot be made anew "
            "from recorded calls; set it to be stateless"
        )
    if agent._background_tasks is not None:
        raise RegistrationError(
            f"agent {agent.name!r} has background_tasks: when their results come in is up to chance, and cannot be "
            "made anew from recorded calls; leave them out"
        )


def check_copyable(agent: Agent) -> None:
    """Raise `RegistrationError` for an agent that cannot be copied for each run, or not go on from recorded calls."""
    check(agent)
    plugins = sorted(agent._plugin_registry._plugins.keys() - _SHAREABLE_PLUGINS)
    if plugins:
        raise RegistrationError(
            f"agent {agent.name!r} has plugins ({', '.join(plugins)}), which belong to one conversation: "
            "register a function without parameters that makes the agent, and each run has its own"
        )


def copy_for_a_run(agent: AgentT) -> AgentT:
    """Return the agent as it stands, with a conversation of its own; nothing that a run changes is shared."""
    check_copyable(agent)
    # Not its `__init__`: that of a user's subclass may want anything.
    own = copy.copy(agent)
    own.messages = copy.deepcopy(agent.messages)
    own.state = AgentState(agent.state.get())
    own._system_prompt_content = copy.deepcopy(agent._system_prompt_content)
    own._model_state = copy.deepcopy(agent._model_state)
    own.trace_attributes = dict(agent.trace_attributes)
    own.baggage_attributes = dict(agent.baggage_attributes)
    own.conversation_manager = copy.copy(agent.conversation_manager)
    own._retry_strategy = copy.copy(agent._retry_strategy)
    own.event_loop_metrics = EventLoopMetrics()
    own.trace_span = None
    own._interrupt_state = _InterruptState()
    own._cancel_signal = threading.Event()
    own._concurrency = _ConcurrencyController(agent._concurrency.mode)
    own.tool_caller = _ToolCaller(own)
    own.tool_registry = _tools_of(agent)
    moved = ((agent, own), (agent.conversation_manager, own.conversation_manager))
    own.hooks = _hooks_of(agent, (*moved, (agent._retry_strategy, own._retry_strategy)))
    own._middleware_registry = _middleware_of(agent)
    return own


def silence(agent: Agent) -> None:
    """Take the library's default callback away, which prints what the model says: standard output is the log here."""
    if isinstance(agent.callback_handler, PrintingCallbackHandler):
        agent.callback_handler = null_callback_handler


def _tools_of(agent: Agent) -> ToolRegistry:
    # Its tool providers stay with the agent: they are told once that it is gone, not after each run.
    tools = ToolRegistry()
    tools.registry = dict(agent.tool_registry.registry)
    tools.dynamic_tools = dict(agent.tool_registry.dynamic_tools)
    tools.tool_config = copy.deepcopy(agent.tool_registry.tool_config)
    return tools


def _hooks_of(agent: Agent, moved: Iterable[tuple[object, object]]) -> HookRegistry:
    own = {id(old): new for old, new in moved}
    hooks = HookRegistry()
    for event, entries in agent.hooks._registered_callbacks.items():
        for entry in entries:
            hooks.add_callback(event, _moved(entry.callback, own), order=entry.order)
    return hooks


def _moved(callback: Callable[..., Any], own: dict[int, object]) -> Callable[..., Any]:
    """Return the callback, bound to the run's own object where it is a method of one that was copied."""
    new = own.get(id(getattr(callback, "__self__", None)))
    return callback if new is None else getattr(new, callback.__name__)


def _middleware_of(agent: Agent) -> MiddlewareRegistry:
    middleware = MiddlewareRegistry()
    middleware._handlers = {stage: list(handlers) for stage, handlers in agent._middleware_registry._handlers.items()}
    return middleware


def agent_within(tool: AgentTool | None) -> Agent | None:
    """Return the agent that a tool stands for (`agent.as_tool()`); `None` for any other tool."""
    inner = getattr(tool, "agent", None) if tool is not None and tool.tool_type == "agent" else None
    return inner if isinstance(inner, Agent) else None


def keeps_its_context(tool: AgentTool) -> bool:
    """Return whether an agent's tool goes on with one conversation from call to call (`preserve_context=True`)."""
    return bool(getattr(tool, "_preserve_context", False))


def tool_over(tool: AgentTool, inner: Agent) -> AgentTool:
    """Return an agent's tool that runs this agent instead of its own."""
    own = copy.copy(tool)
    vars(own).update(_agent=inner, _lock=threading.Lock())
    return own


def tool_names(agent: Agent) -> set[str]:
    """Return the names of the agent's tools, with those of the agents among them in place of their own."""
    names = set[str]()
    for name, tool in agent.tool_registry.registry.items():
        inner = agent_within(tool)
        names |= {name} if inner is None else tool_names(inner)
    return names
