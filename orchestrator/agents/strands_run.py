"""One run of a Strands agent: from the prompt to its reply, with its questions to people on the way."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import inspect
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias, cast

from strands import Agent
from strands.agent import AgentResult
from strands.interrupt import Interrupt
from strands.multiagent.base import MultiAgentResult
from strands.types.content import ContentBlock, Message
from strands.types.exceptions import EventLoopException, MaxTokensReachedException, StructuredOutputException
from strands.types.session import decode_bytes_values, encode_bytes_values

from orchestrator.agents import AgentReply
from orchestrator.agents.strands_copy import check, check_copyable, copy_for_a_run, silence, tool_names
from orchestrator.agents.strands_outcomes import is_about_doubt, or_text, summed, usage_of
from orchestrator.agents.strands_stages import RecordedStages
from orchestrator.artifacts import ARTIFACT_BYTES_MAX
from orchestrator.calls import Approval
from orchestrator.errors import NonRetryable, RegistrationError
from orchestrator.invocation import CallInDoubt, CallResult, Calls, Invocation, InvocationScope, current_invocation
from orchestrator.payloads import to_json
from orchestrator.scopes import NAME_LENGTH_MAX
from orchestrator.session.frozen import replace
from orchestrator.session.values import Json, JsonObject
from orchestrator.user_code import is_async

PASSES_MAX: Final = 1_000
"""How often one run may stop to ask people, or at a checkpoint."""
OWN_ARGUMENTS: Final = frozenset({"limits", "structured_output_prompt", "invocation_state"})
_DIGEST_KEPT: Final = 16
_NAME_KEPT_MAX: Final = 40
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]")
_MESSAGE_KEYS: Final = frozenset(Message.__required_keys__)
_BLOCK_KEYS: Final = frozenset(ContentBlock.__annotations__)


class MaxTokensReached(NonRetryable):
    """The model's answer was cut off. It is recorded, so that another attempt would be given the same."""

    code = "MAX_TOKENS"


class NoStructuredOutput(NonRetryable):
    """The model's answers hold no structured output. They are recorded, so another attempt would be given the same."""

    code = "NO_STRUCTURED_OUTPUT"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a `StrandsAgent` declares beside its agent; `approval_timeout` in seconds."""

    at_most_once: frozenset[str]
    approvers: tuple[str, ...] | None
    approval_timeout: float | None
    respond: Callable[[Approval], object]

    def check(self, agent: Agent) -> None:
        """Raise `RegistrationError` for a tool that the agent does not have."""
        if unknown := sorted(self.at_most_once - tool_names(agent)):
            raise RegistrationError(f"at_most_once: agent {agent.name!r} has no tool {', '.join(unknown)}")


Runner: TypeAlias = Callable[[object, Mapping[str, object]], Awaitable[AgentReply]]


def runner_of(agent: object, terms: Terms) -> Runner:
    """Return what runs such an agent, each time one of its own. Raises `RegistrationError` for what it cannot run."""
    if isinstance(agent, Agent):
        check_copyable(agent)
        terms.check(agent)
        return partial(_run, partial(_copied, agent), terms)
    if callable(agent):
        return partial(_run, partial(_made, agent), terms)
    raise RegistrationError(f"{agent!r:.100} is neither a strands.Agent nor a function that makes one")


async def _copied(agent: Agent) -> Agent:
    return copy_for_a_run(agent)


async def _made(make: Callable[[], object]) -> Agent:
    # In a thread: to make an agent is to make clients, and to ask MCP servers for their tools.
    made = make() if is_async(make) else await asyncio.to_thread(make)
    agent = await made if inspect.isawaitable(made) else made
    if not isinstance(agent, Agent):
        raise RegistrationError(f"{make!r:.100} made {agent!r:.100}, which is no strands.Agent")
    check(agent)
    return agent


async def _run(
    source: Callable[[], Awaitable[Agent]], terms: Terms, prompt: object, kwargs: Mapping[str, object]
) -> AgentReply:
    """Return what the agent replies, going on from the calls that are recorded under the current invocation.

    Raises:
        MaxTokensReached, NoStructuredOutput: another attempt would be given the same recorded answers.
        Exception: whatever the agent's model or hooks raise.
    """
    invocation = current_invocation()
    if invocation.calls is None:
        raise NonRetryable(
            "a Strands agent is run by ctx.invoke_agent: a step or a tool has nothing to record its calls with"
        )
    agent = await source()
    terms.check(agent)
    silence(agent)
    return await _Run(agent, terms, invocation, invocation.calls).reply(prompt, kwargs)


class _Run:
    """One run, as its stages see it (`Recorder`)."""

    def __init__(self, agent: Agent, terms: Terms, invocation: Invocation, calls: Calls) -> None:
        self._agent = agent
        self._terms = terms
        self._invocation = invocation
        self._calls = calls
        self._usage: JsonObject = {}
        self._asked: Counter[str] = Counter()
        self._broken: BaseException | None = None

    async def reply(self, prompt: object, kwargs: Mapping[str, object]) -> AgentReply:
        """Run the agent to its end."""
        RecordedStages(self).attach_to(self._agent)
        given = prompt_of(prompt)
        try:
            for _ in range(PASSES_MAX):
                result = await self._pass(given, kwargs)
                if result.stop_reason == "interrupt":
                    given = await self._answers(result.interrupts or ())
                elif result.stop_reason == "checkpoint":
                    assert result.checkpoint is not None
                    given = {"checkpointResume": {"checkpoint": result.checkpoint.to_dict()}}
                else:
                    return AgentReply(_said_in(result), self._usage or None)
        finally:
            # Of a run that ends early, threads are left that run tools: they may look at the signal.
            self._agent.cancel()
        raise NonRetryable(f"the agent stopped {PASSES_MAX} times to ask or at a checkpoint")

    async def _pass(self, given: object, kwargs: Mapping[str, object]) -> AgentResult:
        try:
            result = await self._agent.invoke_async(cast("Any", given), **_options(kwargs))
        except EventLoopException as error:
            raise (self._broken or error.original_exception) from error
        except MaxTokensReachedException as error:
            raise MaxTokensReached(str(error)) from error
        except StructuredOutputException as error:
            raise NoStructuredOutput(str(error)) from error
        if self._broken is not None:
            raise self._broken
        return result

    async def _answers(self, interrupts: Sequence[Interrupt]) -> list[object]:
        """Ask people, all questions at once, and return the prompt that carries their answers."""
        # Tools that run at once may ask in any order; the ids are the same on every run.
        ordered = sorted(interrupts, key=lambda interrupt: interrupt.id)
        names = [self._question_name(interrupt) for interrupt in ordered]
        approvals = await self._ask_all(list(zip(names, ordered, strict=True)))
        return [
            {"interruptResponse": {"interruptId": interrupt.id, "response": self._response(interrupt, approval)}}
            for interrupt, approval in zip(ordered, approvals, strict=True)
        ]

    # --- what the stages ask for ---------------------------------------------------------------------------------

    async def record(
        self, name: str, work: Callable[[], Awaitable[CallResult]], *, at_most_once: bool = False
    ) -> JsonObject:
        """See `Recorder.record`."""
        raised: list[Exception] = []

        async def made() -> CallResult:
            try:
                return await work()
            except Exception as error:
                raised.append(error)
                raise

        try:
            given = await self._calls.run(fitting(name), made, at_most_once=at_most_once)
        except CallInDoubt:
            raise
        except Exception as error:
            if error not in raised:
                # Not the agent's affair: it would take it for what its model or its tool raised, and go on.
                self._broken = error
                self._agent.cancel()
            raise
        assert isinstance(given, dict), "what the stages record is an object"
        return given

    def is_at_most_once(self, tool: str) -> bool:
        """See `Recorder.is_at_most_once`."""
        return tool in self._terms.at_most_once

    def as_call(self, name: str) -> InvocationScope:
        """See `Recorder.as_call`."""
        operation = f"{self._invocation.operation}/{fitting(name)}"
        # A tool has no calls of its own: they would be named like those of the agent.
        return InvocationScope(replace(self._invocation, operation=operation, calls=None))

    def spent(self, usage: Mapping[str, Json]) -> None:
        """See `Recorder.spent`."""
        self._usage = summed(self._usage, usage)

    # --- people --------------------------------------------------------------------------------------------------

    def _question_name(self, interrupt: Interrupt) -> str:
        if is_about_doubt(interrupt):
            return interrupt.name
        # No tool can be called so: the names of questions are none of its calls'.
        name = f"ask:{_UNSAFE.sub('-', interrupt.name)[:_NAME_KEPT_MAX]}"
        self._asked[name] += 1
        return f"{name}#{self._asked[name]}"

    async def _ask_all(self, questions: Sequence[tuple[str, Interrupt]]) -> list[Approval]:
        try:
            async with asyncio.TaskGroup() as asking:
                asked = [asking.create_task(self._ask(name, interrupt)) for name, interrupt in questions]
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        return [task.result() for task in asked]

    async def _ask(self, name: str, interrupt: Interrupt) -> Approval:
        reason = or_text(interrupt.reason)
        subject: Json = reason if is_about_doubt(interrupt) else {"interrupt": interrupt.name, "reason": reason}
        return await self._calls.ask(
            fitting(name), subject, approvers=self._terms.approvers, timeout=self._terms.approval_timeout
        )

    def _response(self, interrupt: Interrupt, approval: Approval) -> object:
        response = approval.approved if is_about_doubt(interrupt) else self._terms.respond(approval)
        if response is None:
            raise NonRetryable("respond returned None, which the library takes for no answer: it would ask for ever")
        return response


def prompt_of(prompt: object) -> object:
    """Return what the library takes as a prompt: a text, messages, content blocks or `None`; other JSON as its text.

    Bytes in blocks, images say, stand as the library writes them: `{"__bytes_encoded__": true, "data": "<base64>"}`.
    """
    if prompt is None or isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(isinstance(part, dict) for part in prompt):
        are_messages = all(part.keys() >= _MESSAGE_KEYS for part in prompt)
        if are_messages or all(part.keys() & _BLOCK_KEYS for part in prompt):
            return decode_bytes_values(copy.deepcopy(prompt))
    return json.dumps(prompt, ensure_ascii=False)


def fitting(name: str) -> str:
    """Return the name of a call; of one too long, as much of it as there is room for beside what tells it apart."""
    if len(name) <= NAME_LENGTH_MAX:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_KEPT]
    return f"{name[: NAME_LENGTH_MAX - _DIGEST_KEPT - 1]}.{digest}"


def _options(kwargs: Mapping[str, object]) -> dict[str, Any]:
    options = {name: kwargs[name] for name in ("limits", "structured_output_prompt") if name in kwargs}
    given = kwargs.get("invocation_state") or {}
    if not isinstance(given, Mapping):
        raise NonRetryable(f"invocation_state: {given!r:.100} is no object")
    others = {name: value for name, value in kwargs.items() if name not in OWN_ARGUMENTS}
    return {**options, "invocation_state": {**copy.deepcopy(dict(given)), **others}}


def reply_in(answer: object) -> AgentReply | None:
    """Return the reply in what the library answers; `None` for anything else. Its usage is that of this one call."""
    if isinstance(answer, AgentResult):
        invocation = answer.metrics.latest_agent_invocation
        return AgentReply(_said_in(answer), None if invocation is None else usage_of(invocation.usage))
    if isinstance(answer, MultiAgentResult):
        said = to_json(encode_bytes_values(answer.to_dict()), "result", bytes_max=ARTIFACT_BYTES_MAX)
        return AgentReply(said, usage_of(answer.accumulated_usage))
    return None


def _said_in(result: AgentResult) -> Json:
    reply: dict[str, object] = {
        "text": str(result).rstrip("\n"),
        "stop_reason": result.stop_reason,
        "message": {"role": result.message["role"], "content": result.message["content"]},
    }
    if result.structured_output is not None:
        reply["structured_output"] = result.structured_output.model_dump(mode="json")
    return to_json(encode_bytes_values(reply), "result", bytes_max=ARTIFACT_BYTES_MAX)
