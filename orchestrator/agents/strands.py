"""Strands agents (`strands-agents`, the extra `strands`), durable inside.

Each model call and each tool call is recorded through the library's middleware, and a run that begins again after a
crash is handed what is recorded: tokens are paid for once, and a tool that ran is not run again (ADR 0021). A
`strands.Agent` works as it is; `StrandsAgent` around one declares more. This module loads without the library.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Collection
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from orchestrator.calls import Approval, Duration, optional_seconds_of
from orchestrator.errors import RegistrationError

if TYPE_CHECKING:
    from strands import Agent

    from orchestrator.agents import AgentReply

AgentOrMaker: TypeAlias = "Agent | Callable[[], Agent | Awaitable[Agent]]"


class Answer(str):
    """What a hook or a tool that asked (`interrupt(…)`) is given: `"y"` or `"n"`, and who said so.

    The library's own handlers (`HumanInTheLoop`) take these letters.
    """

    approved: bool
    by: str
    comment: str | None

    @classmethod
    def of(cls, approval: Approval) -> Answer:
        """Return the answer that an approval is."""
        answer = cls("y" if approval.approved else "n")
        answer.approved, answer.by, answer.comment = approval.approved, approval.by, approval.comment
        return answer


class StrandsAgent:
    """A `strands.Agent` as an agent of an application: `app.agent("trader")(StrandsAgent(agent, …))`.

    Every run begins with the agent as it was handed in and has a conversation of its own, so that sessions never mix.
    """

    def __init__(
        self,
        agent: AgentOrMaker,
        *,
        at_most_once: Collection[str] = (),
        approvers: Collection[str] | None = None,
        approval_timeout: Duration | None = None,
        respond: Callable[[Approval], object] = Answer.of,
    ) -> None:
        """Declare how an agent runs.

        Args:
            agent: an instance, which each run copies, or a function (sync or async) without parameters that makes one
                for each run.
            at_most_once: names of tools that do not run again by themselves where they may have run: a person decides.
            approvers: who may answer what the agent asks; `None` for anybody.
            approval_timeout: how long its questions stand open (`timedelta` or seconds); then the run fails.
            respond: what a hook or a tool that asked is given for a person's answer; an `Answer` unless set.

        Raises:
            RegistrationError: the library is missing, the agent cannot be run so, or it has no tool of such a name.
        """
        if isinstance(at_most_once, str):
            raise RegistrationError("at_most_once: a collection of names of tools, not one text")
        try:
            timeout = optional_seconds_of(approval_timeout, "approval_timeout")
        except ValueError as error:
            raise RegistrationError(str(error)) from None
        people = None if approvers is None else tuple(approvers)
        library = _adapter()
        terms = library.Terms(frozenset(at_most_once), people, timeout, respond)
        self._run: Callable[[object, dict[str, object]], Awaitable[AgentReply]] = library.runner_of(agent, terms)

    async def invoke_async(self, prompt: object, **kwargs: object) -> AgentReply:
        """Run the agent, from its first call that is not recorded yet.

        Args:
            prompt: a text; a list of messages or content blocks; `None` to go on with the agent's own messages. Of any
                other JSON, the model is given the text.
            kwargs: `limits`, `structured_output_prompt` and `invocation_state` are the library's own; any other goes
                to the `invocation_state` too, where hooks and tools find it.
        """
        return await self._run(prompt, kwargs)


def is_strands_agent(target: object) -> TypeGuard[Agent]:
    """Return whether it is a `strands.Agent`; the library is not loaded for the question."""
    library = sys.modules.get("strands")
    return library is not None and isinstance(target, library.Agent)


def reply_in(answer: object) -> AgentReply | None:
    """Return the reply in what a Strands agent, graph or swarm answers; `None` for anything else."""
    # An answer of the library's says of its module that it is: nothing is loaded for the question.
    return _adapter().reply_in(answer) if type(answer).__module__.startswith("strands.") else None


def _adapter() -> ModuleType:
    """Return what stands on the library, which is an extra."""
    try:
        return import_module("orchestrator.agents.strands_run")
    except ModuleNotFoundError as missing:
        raise RegistrationError(
            f"Strands agents need the extra `strands`: pip install 'session-orchestrator[strands]' ({missing})"
        ) from missing
