"""Lambda functions as agents, by ARN: `Invoke`, and wait for what the function returns (15 minutes at most).

The function is given the prompt as its event, and whose run it is as `context.client_context.custom`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from orchestrator.agents import Agent, AgentReply, Connections
from orchestrator.agents.by_callback import answered_later
from orchestrator.agents.payload import json_of, payload_of, reply_of
from orchestrator.errors import RegistrationError
from orchestrator.invocation import current_invocation
from orchestrator.remote import AgentReportedFailure, AgentService, quoted
from orchestrator.session.values import Json, JsonObject, compact_json

if TYPE_CHECKING:
    from orchestrator.aws.agents import LambdaFunctions

SERVICE: Final = "lambda"
_ARN: Final = re.compile(
    r"arn:aws[a-z-]*:lambda:[a-z0-9-]+:\d{12}:function:[A-Za-z0-9_-]+(:(\$LATEST|[A-Za-z0-9_-]+))?"
)


@dataclass(frozen=True, slots=True)
class LambdaAgent:
    """A Lambda function as an agent: `app.agent("scorer")(LambdaAgent("arn:aws:lambda:…"))`.

    A version or an alias stands at the end of the ARN. One that `answers_later` is started and not waited for: its
    event holds a `callback` beside the prompt, which whoever finishes the work redeems.

    Raises:
        RegistrationError: `arn` is no function's.
    """

    arn: str
    answers_later: bool = False

    def __post_init__(self) -> None:
        if _ARN.fullmatch(self.arn) is None:
            raise RegistrationError(f"LambdaAgent: {self.arn!r:.200} is not the ARN of a Lambda function")

    @property
    def service(self) -> AgentService:
        """Where the function is called."""
        return AgentService(SERVICE, self.arn.split(":")[3])

    def connected(self, connections: Connections) -> Agent:
        """Return the agent as a node runs it."""
        return LambdaRun(self, connections.functions[self.service.region])


@dataclass(frozen=True, slots=True)
class LambdaRun:
    """An `Agent` over a function."""

    agent: LambdaAgent
    functions: LambdaFunctions

    async def run(self, prompt: Json, kwargs: Mapping[str, Json]) -> AgentReply:
        """See `Agent.run`."""
        if self.agent.answers_later:
            return await answered_later(prompt, kwargs, partial(self.functions.send, self.agent.arn))
        answer = await self.functions.invoke(self.agent.arn, payload_of(prompt, kwargs), _client_context())
        if answer.error is not None:
            raise AgentReportedFailure(_what_it_raised(json_of(answer.payload)))
        return reply_of(answer.payload)


def _client_context() -> str:
    """Return who asks, in the one place that a function sees beside its event (Lambda, `Invoke`, `ClientContext`)."""
    run = current_invocation()
    custom: JsonObject = {
        "session_id": run.session_id,
        "operation": run.operation,
        "attempt": run.attempt,
        "idempotency_key": run.idempotency_key,
    }
    # Its limit is 3,583 bytes: ids are 128 characters at most.
    return base64.b64encode(compact_json({"custom": custom}).encode()).decode()


def _what_it_raised(error: Json) -> str:
    if not isinstance(error, dict):
        return quoted(error)
    return f"{quoted(error.get('errorType', 'Error'))}: {quoted(error.get('errorMessage', ''))}"
