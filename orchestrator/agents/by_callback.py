"""Agents that take their work and answer later: they are handed a callback, and the run is parked until it is redeemed.

Nothing is kept in memory meanwhile. The sending is a recorded call: after a crash, the same answer is waited for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Final

from orchestrator.agents import AgentReply
from orchestrator.agents.payload import payload_of
from orchestrator.agents.usage import usage_of
from orchestrator.errors import CallbackFailed, OperationTimedOut
from orchestrator.invocation import CallResult, current_invocation
from orchestrator.remote import AgentReportedFailure, quoted
from orchestrator.session.values import Json

FIELD: Final = "callback"
"""What the callback is called beside the prompt: `{"url", "token", "callback_id"}`."""


async def answered_later(
    prompt: Json, kwargs: Mapping[str, Json], send: Callable[[bytes], Awaitable[object]]
) -> AgentReply:
    """Have the prompt sent, with a callback beside it, and return what that is answered.

    An answer that failed, or did not come, in an attempt before this one is let be, and the prompt is sent anew.

    Raises:
        AgentReportedFailure: the answer is a failure. OperationTimedOut: none came in time.
    """
    run = current_invocation()
    calls = run.calls
    assert calls is not None, "an agent run without its calls"
    for number in count(1):
        name = f"answer.{number}"

        async def sent(name: str = name) -> CallResult:
            ticket = await calls.callback(name)
            token: Json = {"url": ticket.url, "token": ticket.token, "callback_id": ticket.callback_id}
            await send(payload_of(prompt, {**kwargs, FIELD: token}))
            return CallResult(run.attempt)

        is_ours = await calls.run(f"send.{number}", sent) == run.attempt
        try:
            answer = await calls.answer(name)
        except CallbackFailed as failed:
            if is_ours:
                raise AgentReportedFailure(quoted(failed.error.message)) from None
        except OperationTimedOut:
            if is_ours:
                raise
        else:
            return AgentReply(answer, usage_of(answer))
    raise AssertionError("there is a number after each")
