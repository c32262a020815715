"""Agents on Bedrock AgentCore Runtime, by ARN: `InvokeAgentRuntime`, answered by JSON or by a stream of events.

Every attempt of one operation is made in one session of the runtime, so that it finds again what it has in memory.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from orchestrator.agents import Agent, AgentReply, Connections
from orchestrator.agents.by_callback import answered_later
from orchestrator.agents.farewell import outcome_of
from orchestrator.agents.payload import VALUES_MAX, json_of, name_of_run, payload_of, reply_of
from orchestrator.errors import RegistrationError
from orchestrator.invocation import current_invocation
from orchestrator.remote import AgentAnswerTooLarge, AgentReportedFailure, AgentService, AgentUnreadable, quoted
from orchestrator.session.values import Json

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from orchestrator.aws.agents import AgentRuntimes

SERVICE: Final = "bedrock-agentcore"
EVENT_STREAM: Final = "text/event-stream"
_ARN: Final = re.compile(r"arn:aws[a-z-]*:bedrock-agentcore:[a-z0-9-]+:\d{12}:runtime/[A-Za-z0-9_-]+(:[0-9]+)?")

log: FilteringBoundLogger = structlog.get_logger("orchestrator")


@dataclass(frozen=True, slots=True)
class AgentCoreAgent:
    """A runtime as an agent: `app.agent("summariser")(AgentCoreAgent("arn:aws:bedrock-agentcore:…"))`.

    `qualifier` names an endpoint of it, `DEFAULT` unless given. Of one that `answers_later`, as asynchronous agents do,
    what it returns at once is ignored: its request holds a `callback` beside the prompt, which it redeems when it is
    done.

    Raises:
        RegistrationError: `arn` is no runtime's.
    """

    arn: str
    qualifier: str | None = None
    answers_later: bool = False

    def __post_init__(self) -> None:
        if _ARN.fullmatch(self.arn) is None:
            raise RegistrationError(f"AgentCoreAgent: {self.arn!r:.200} is not the ARN of an AgentCore runtime")

    @property
    def service(self) -> AgentService:
        """Where the runtime is called."""
        return AgentService(SERVICE, self.arn.split(":")[3])

    def connected(self, connections: Connections) -> Agent:
        """Return the agent as a node runs it."""
        return RuntimeRun(self, connections.runtimes[self.service.region])


@dataclass(frozen=True, slots=True)
class RuntimeRun:
    """An `Agent` over a runtime."""

    agent: AgentCoreAgent
    runtimes: AgentRuntimes

    async def run(self, prompt: Json, kwargs: Mapping[str, Json]) -> AgentReply:
        """See `Agent.run`."""
        if self.agent.answers_later:
            return await answered_later(prompt, kwargs, self._invoke)
        content_type, body = await self._invoke(payload_of(prompt, kwargs))
        if content_type.partition(";")[0].strip().lower() == EVENT_STREAM:
            return AgentReply(result=list(_events_of(body)))
        return reply_of(body)

    async def _invoke(self, payload: bytes) -> tuple[str, bytes]:
        """Return the answer; ends the session in the runtime if nobody waits for that any more."""
        run = current_invocation()
        session = name_of_run(run.idempotency_key)
        try:
            return await self.runtimes.invoke(self.agent.arn, self.agent.qualifier, session, payload, run.trace)
        except asyncio.CancelledError:
            if run.is_over():
                await self._stop(session)
            raise

    async def _stop(self, session: str) -> None:
        """Have the runtime end the session, which costs for as long as it lives."""
        code = await outcome_of(self.runtimes.stop(self.agent.arn, self.agent.qualifier, session))
        log.info("remote_session_stopped", runtime_session_id=session, code=code)


def _events_of(body: bytes) -> Iterator[Json]:
    """Yield what each event of a stream holds: JSON as it is, any other text as one.

    The format is WHATWG HTML's, "Server-sent events".

    Raises:
        AgentReportedFailure: an event says that the agent failed, as the SDK of AgentCore tells of it.
        AgentUnreadable: it is no UTF-8. AgentAnswerTooLarge: it has too many events.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise AgentUnreadable(f"its stream ({len(body)} bytes) is no UTF-8") from None
    blocks = text.replace("\r\n", "\n").replace("\r", "\n").split("\n\n")
    if len(blocks) > VALUES_MAX:
        raise AgentAnswerTooLarge(f"its stream has more than {VALUES_MAX} events: have it answer by links")
    for block in blocks:
        lines = [line.removeprefix("data:").removeprefix(" ") for line in block.split("\n") if line.startswith("data:")]
        if lines:
            yield _event_of("\n".join(lines))


def _event_of(data: str) -> Json:
    try:
        event = json_of(data.encode())
    except AgentUnreadable:
        return data
    match event:
        case {"error": error, "error_type": kind}:
            raise AgentReportedFailure(f"{quoted(kind)}: {quoted(error)}")
        case _:
            return event
