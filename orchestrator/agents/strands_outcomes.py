"""What a model or a tool gave, as JSON that is recorded, and as the library's events that it is handed back as.

Both are inverse: what is yielded to an agent was read from the recorded JSON, whether it was made now or in another
process. The JSON is in journals: a reader of every release has to understand it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from strands import Agent
from strands.interrupt import Interrupt
from strands.middleware import ExecuteToolContext, InvokeModelContext
from strands.types._events import ModelStreamChunkEvent, ToolInterruptEvent
from strands.types.events import ModelStopReason, ToolResultEvent, TypedEvent
from strands.types.session import decode_bytes_values, encode_bytes_values
from strands.types.tools import ToolResult

from orchestrator.agents.usage import NAMES
from orchestrator.artifacts import ARTIFACT_BYTES_MAX
from orchestrator.errors import NotSerializable, describe, storable
from orchestrator.invocation import CallResult
from orchestrator.payloads import PayloadTooLarge, to_json
from orchestrator.session.values import Json, JsonObject

Events: TypeAlias = AsyncGenerator[TypedEvent, None]
AGAIN: Final = ".again"
_DOUBT: Final = re.compile(r"#\d+(\.\d+)?\.again")
_NOT_REPEATED: Final = (
    "Error: the tool was interrupted. It may or may not have run, and a person decided that it is not run again."
)


class ToolFailed(Exception):
    """What a tool raised in another process, where its class is not known in this one: its type and its text."""


# --- a model's answer ------------------------------------------------------------------------------------------------


async def ask_model(ctx: InvokeModelContext, events: Events) -> CallResult:
    """Return the answer that the stream ends with, as it is recorded."""
    redactions: list[object] = []
    stop: ModelStopReason | None = None
    async for event in events:
        if isinstance(event, ModelStopReason):
            stop = event
        elif isinstance(event, ModelStreamChunkEvent) and "redactContent" in event.chunk:
            redactions.append(event.chunk)
        else:
            _call_back(cast("Agent", ctx.agent), event, ctx.invocation_state)
    assert stop is not None, "a model's stream ends with its stop reason"
    answer = {
        "stop_reason": stop.stop_reason,
        "message": stop.message,
        "usage": stop.usage,
        "metrics": stop.metrics,
        "redactions": redactions,
    }
    return CallResult(_recordable(answer, "answer"), usage_of(stop.usage))


def answer_events(given: JsonObject) -> tuple[*tuple[ModelStreamChunkEvent, ...], ModelStopReason]:
    """Return the events of a recorded answer: the stop reason is the last.

    Before it, what a guardrail redacted: the agent's loop takes it out of what the user wrote.
    """
    answer: dict[str, Any] = decode_bytes_values(given)
    stop = ModelStopReason(answer["stop_reason"], answer["message"], answer["usage"], answer["metrics"])
    return (*(ModelStreamChunkEvent(chunk) for chunk in answer["redactions"]), stop)


def usage_of(usage: Mapping[str, Any]) -> JsonObject:
    """Return the counts under our names."""
    return {ours: usage[theirs] for theirs, ours in NAMES.items() if theirs in usage}


def summed(usage: Mapping[str, Json], more: Mapping[str, Json], *, sign: int = 1) -> JsonObject:
    """Return both counts together; with a `sign` of -1, the first without the second."""
    return {name: _number(usage.get(name)) + sign * _number(more.get(name)) for name in {**usage, **more}}


def _number(count: Json) -> int:
    return count if isinstance(count, int) else 0


# --- what a tool gave ------------------------------------------------------------------------------------------------


async def run_tool(ctx: ExecuteToolContext, events: Events) -> tuple[TypedEvent, JsonObject]:
    """Run the tool; return what it gave as an event, and as it is recorded: with what it left behind in its agent."""
    agent = cast("Agent", ctx.agent)
    before = _Left.of(agent, ctx.invocation_state)
    given: ToolResultEvent | ToolInterruptEvent | None = None
    async for event in events:
        if isinstance(event, ToolResultEvent | ToolInterruptEvent):
            given = event
        else:
            _call_back(agent, event, ctx.invocation_state)
    assert given is not None, "a tool's stream ends with its result"
    outcome = _interrupts(given) if isinstance(given, ToolInterruptEvent) else _result(ctx, given)
    left = before.changes(_Left.of(agent, ctx.invocation_state))
    return given, {**outcome, "left": left} if left else outcome


def _interrupts(event: ToolInterruptEvent) -> JsonObject:
    asked = [{"id": each.id, "name": each.name, "reason": or_text(each.reason)} for each in event.interrupts]
    return {"interrupts": cast("Json", asked)}


def _result(ctx: ExecuteToolContext, event: ToolResultEvent) -> JsonObject:
    try:
        outcome: JsonObject = {"result": _recordable(event.tool_result, "result")}
    except (NotSerializable, PayloadTooLarge) as error:
        # It has run: rather than that it runs again after a crash, the model learns that its result was no good.
        return {"result": cast("Json", _error_result(ctx, f"Error: {describe(error).message}"))}
    if event.exception is not None:
        outcome["error"] = _error(event.exception)
    return outcome


def result_event(given: Mapping[str, Any], made: TypedEvent | None) -> ToolResultEvent:
    """Return the event of a recorded result. `made` is what the tool gave here, `None` if it ran in another process."""
    error = given.get("error")
    # Hooks decide by its class whether to try again: they have to see the same one in every process.
    exception = made.exception if isinstance(made, ToolResultEvent) else None if error is None else _revived(error)
    return ToolResultEvent(cast("ToolResult", decode_bytes_values(given["result"])), exception)


def _error(error: Exception) -> JsonObject:
    failure, kind = describe(error), type(error)
    return {
        "type": failure.type,
        "message": failure.message,
        "class": [kind.__module__, kind.__qualname__],
        "args": [or_text(each) for each in error.args],
        "attributes": {name: or_text(value) for name, value in vars(error).items()},
    }


def _revived(error: Mapping[str, Any]) -> Exception:
    """Return the exception as far as it was JSON, of its own class if that is loaded here."""
    module, name = error["class"]
    # By no import: a journal names classes, it does not choose what code is loaded.
    kind = getattr(sys.modules.get(module), name, None)
    unknown = ToolFailed(f"{error['type']}: {error['message']}")
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return unknown
    try:
        # Not its `__init__`, which may want anything.
        revived = kind.__new__(kind)
    except TypeError:
        return unknown
    revived.args = tuple(error["args"])
    vars(revived).update(error["attributes"])
    return revived


def interrupt_event(ctx: ExecuteToolContext, given: Mapping[str, Any]) -> ToolInterruptEvent:
    """Return the event of what a tool is recorded to have asked."""
    return ToolInterruptEvent(ctx.tool_use, [Interrupt(**asked) for asked in given["interrupts"]])


@dataclass(frozen=True, slots=True)
class _Left:
    """What a tool may leave behind in its agent: its state, the state of the request, the wish to stop."""

    state: dict[str, Any]
    request: dict[str, Any]
    is_stopping: bool
    message: str | None

    @classmethod
    def of(cls, agent: Agent, invocation_state: Mapping[str, Any]) -> _Left:
        request = dict(invocation_state.get("request_state") or {})
        return cls(agent.state.get(), request, agent._deferred_cancel, agent._cancel_message)

    def changes(self, after: _Left) -> JsonObject:
        """Return what is to be done to an agent that did not run the tool; `{}` for nothing."""
        found: JsonObject = {}
        for name, old, new in (("state", self.state, after.state), ("request", self.request, after.request)):
            if changed := {key: or_text(value) for key, value in new.items() if key not in old or old[key] != value}:
                found[name] = changed
            if gone := sorted(old.keys() - new.keys()):
                found[f"{name}_without"] = list(gone)
        if after.is_stopping and not self.is_stopping:
            found["stop"] = {"message": after.message}
        return found


def leave(left: Json, agent: Agent, invocation_state: dict[str, Any]) -> None:
    """Do to the agent what a tool is recorded to have done to it in another process."""
    changes: dict[str, Any] = left if isinstance(left, dict) else {}
    for key, value in changes.get("state", {}).items():
        agent.state.set(key, value)
    for key in changes.get("state_without", ()):
        agent.state.delete(key)
    request = invocation_state.setdefault("request_state", {})
    request.update(changes.get("request", {}))
    for key in changes.get("request_without", ()):
        request.pop(key, None)
    if "stop" in changes:
        agent.cancel(message=changes["stop"]["message"], after_current_tools=True)


# --- a tool in doubt -------------------------------------------------------------------------------------------------


def is_about_doubt(interrupt: Interrupt) -> bool:
    """Return whether it is our own, which asks if a call in doubt is to be made again."""
    return _DOUBT.search(interrupt.name) is not None


def doubt_about(ctx: ExecuteToolContext) -> JsonObject:
    """Return what a person is asked about a tool that may have run."""
    tool = ctx.tool_use["name"]
    question = f"The tool {tool!r} may or may not have run: run it again?"
    return {"question": question, "tool": tool, "input": or_text(ctx.tool_use["input"])}


def not_repeated(ctx: ExecuteToolContext) -> ToolResult:
    """Return what the model is told of a tool that is not to run again."""
    return cast("ToolResult", _error_result(ctx, _NOT_REPEATED))


def _error_result(ctx: ExecuteToolContext, text: str) -> dict[str, object]:
    return {"toolUseId": ctx.tool_use["toolUseId"], "status": "error", "content": [{"text": text}]}


# ---------------------------------------------------------------------------------------------------------------------


def _call_back(agent: Agent, event: TypedEvent, invocation_state: dict[str, Any]) -> None:
    """Tell the agent's callback handler as it happens; the stream itself goes on only once the call is recorded."""
    if event.is_callback_event:
        event.prepare(invocation_state)
        agent.callback_handler(**event.as_dict())


def _recordable(value: Mapping[str, Any], name: str) -> Json:
    return to_json(encode_bytes_values(value), name, bytes_max=ARTIFACT_BYTES_MAX)


def or_text(value: object) -> Json:
    """Return the value as JSON; what is none, as the text that it prints as."""
    try:
        return to_json(encode_bytes_values(value), "value")
    except (NotSerializable, PayloadTooLarge):
        return storable(repr(value))
