"""Calls agents that run on AWS: Lambda functions, and runtimes of Bedrock AgentCore.

Errors leave as those of `orchestrator.remote`. No call is repeated here: a run has its retry policy, and the agent may
have run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.aws.faults import CONNECTION_FAULTS, Verdict, error_code, verdict_of
from orchestrator.remote import (
    ANSWER_BYTES_MAX,
    AgentAnswerTooLarge,
    AgentCutOff,
    AgentRefused,
    AgentReportedFailure,
    AgentThrottled,
    AgentUnreachable,
    AgentUnwell,
    quoted,
    seconds_until,
)

if TYPE_CHECKING:
    from types_aiobotocore_bedrock_agentcore import BedrockAgentCoreClient
    from types_aiobotocore_bedrock_agentcore.type_defs import (
        InvokeAgentRuntimeRequestTypeDef,
        StopRuntimeSessionRequestTypeDef,
    )
    from types_aiobotocore_lambda import LambdaClient

PIECE_BYTES: Final = 256 * 1024
FUNCTION_PROMPT_BYTES_MAX: Final = 6 * 1024 * 1024
"""Lambda, "Quotas": invocation payload, synchronous, 6 MB."""
EVENT_BYTES_MAX: Final = 1024 * 1024
"""Lambda, "Quotas": invocation payload, asynchronous, 1 MB."""
RUNTIME_PROMPT_BYTES_MAX: Final = 100_000_000
"""Bedrock AgentCore, `InvokeAgentRuntime`: length of `payload`."""
_LATER: Final = frozenset({408, 409, 410})
"""A function that is being updated, woken (SnapStart), or whose file system is away: all of these pass."""
_RAN_AND_FAILED: Final = 424
"""`RuntimeClientError`: what runs in the runtime answered by an error."""


class Body(Protocol):
    """The body of an answer, as it comes in."""

    async def read(self, amount: int) -> bytes:
        """Return the next bytes, `b""` at its end."""
        ...


@dataclass(frozen=True, slots=True)
class FunctionAnswer:
    """What a function returned, or raised: `error` is `None`, or `Handled`/`Unhandled` where it raised."""

    payload: bytes
    error: str | None


@dataclass(frozen=True, slots=True)
class LambdaFunctions:
    """The functions of one region. `now` is the wall clock."""

    client: LambdaClient
    now: Callable[[], datetime]

    async def invoke(self, function: str, payload: bytes, context: str) -> FunctionAnswer:
        """Run the function and return its answer. `context` is what it sees as `context.client_context` (base64)."""
        _check_length(payload, FUNCTION_PROMPT_BYTES_MAX)
        with _translated(self.now):
            answer = await self.client.invoke(
                FunctionName=function, InvocationType="RequestResponse", ClientContext=context, Payload=payload
            )
            async with answer["Payload"] as body:
                whole = b"".join([piece async for piece in _pieces(body)])
        return FunctionAnswer(whole, answer.get("FunctionError"))

    async def send(self, function: str, payload: bytes) -> None:
        """Have the function run some time soon; return once Lambda has taken that on."""
        _check_length(payload, EVENT_BYTES_MAX)
        with _translated(self.now):
            await self.client.invoke(FunctionName=function, InvocationType="Event", Payload=payload)


@dataclass(frozen=True, slots=True)
class AgentRuntimes:
    """The runtimes of one region. `now` is the wall clock."""

    client: BedrockAgentCoreClient
    now: Callable[[], datetime]

    async def invoke(
        self, arn: str, qualifier: str | None, runtime_session: str, payload: bytes, trace: str | None
    ) -> tuple[str, bytes]:
        """Run the agent; return the content type of its answer, and all of it, streamed or not."""
        _check_length(payload, RUNTIME_PROMPT_BYTES_MAX)
        request: InvokeAgentRuntimeRequestTypeDef = {
            "agentRuntimeArn": arn,
            "runtimeSessionId": runtime_session,
            "contentType": "application/json",
            "accept": "application/json, text/event-stream",
            "payload": payload,
        }
        if qualifier is not None:
            request["qualifier"] = qualifier
        if trace is not None:
            request["traceParent"] = trace
        with _translated(self.now):
            answer = await self.client.invoke_agent_runtime(**request)
            async with answer["response"] as body:
                whole = b"".join([piece async for piece in _pieces(body)])
        return answer.get("contentType", ""), whole

    async def stop(self, arn: str, qualifier: str | None, runtime_session: str) -> None:
        """End the session in the runtime, whatever runs in it."""
        request: StopRuntimeSessionRequestTypeDef = {"agentRuntimeArn": arn, "runtimeSessionId": runtime_session}
        if qualifier is not None:
            request["qualifier"] = qualifier
        with _translated(self.now):
            await self.client.stop_runtime_session(**request)


async def _pieces(body: Body) -> AsyncIterator[bytes]:
    left = ANSWER_BYTES_MAX
    try:
        while piece := await body.read(PIECE_BYTES):
            left -= len(piece)
            if left < 0:
                raise AgentAnswerTooLarge(f"its answer has more than {ANSWER_BYTES_MAX} bytes: have it answer by links")
            yield piece
    except CONNECTION_FAULTS as error:
        raise AgentCutOff(f"its answer ended in the middle: {type(error).__name__}") from error


def _check_length(payload: bytes, bytes_max: int) -> None:
    if len(payload) > bytes_max:
        raise AgentRefused(f"the prompt has {len(payload)} bytes; AWS takes at most {bytes_max}")


@contextmanager
def _translated(now: Callable[[], datetime]) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _fault_of(error, now()) from error
    except CONNECTION_FAULTS as error:
        raise AgentUnreachable(f"no answer from AWS: {type(error).__name__}") from error
    except BotoCoreError as error:
        raise AgentRefused(f"the request was not sent: {type(error).__name__}") from error


def _fault_of(error: ClientError, now: datetime) -> Exception:
    about = error.response.get("ResponseMetadata", {})
    status = about.get("HTTPStatusCode", 0)
    text = f"{error_code(error)}: {quoted(error.response.get('Error', {}).get('Message', ''))}"
    verdict = verdict_of(error)
    if status == _RAN_AND_FAILED:
        return AgentReportedFailure(text)
    if verdict is Verdict.LATER:
        retry_after = about.get("HTTPHeaders", {}).get("retry-after")
        return AgentThrottled(text, retry_after=seconds_until(retry_after, now))
    if verdict is Verdict.RETRY or status in _LATER:
        return AgentUnwell(text)
    return AgentRefused(text)
