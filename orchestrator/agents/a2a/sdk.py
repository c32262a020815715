"""Remote agents through `a2a-sdk`: protocol 1.0 and 0.3, over whichever of its transports the agent's card names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import httpx
from a2a.client import A2ACardResolver, Client, ClientCallContext, ClientConfig, ClientFactory
from a2a.client.errors import A2AClientError, A2AClientTimeoutError, AgentCardResolutionError
from a2a.types import (
    AgentCard,
    CancelTaskRequest,
    GetTaskRequest,
    Message,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    TaskPushNotificationConfig,
)
from a2a.utils.constants import TransportProtocol
from a2a.utils.errors import (
    A2AError,
    InternalError,
    InvalidAgentResponseError,
    MethodNotFoundError,
    TaskNotFoundError,
)
from google.protobuf import json_format  # type: ignore[import-untyped] # it has no stubs

from orchestrator.agents.a2a.http import WORK_SECONDS_MAX, fault_of
from orchestrator.agents.a2a.tasks import Outgoing, PushAddress, RemoteTask, parts_of, reply_in, task_of
from orchestrator.errors import OrchestratorError
from orchestrator.remote import (
    AgentRefused,
    AgentTaskLost,
    AgentUnreachable,
    AgentUnreadable,
    AgentUnwell,
    quoted,
)
from orchestrator.session.values import JsonObject

DIALECT: Final = "a2a"
CARD_PATHS: Final = ("/.well-known/agent-card.json", "/.well-known/agent.json")
"""Where the card stands, and where it stood before 0.3."""
_NO_CARD: Final = frozenset({404, 405, 410})
_RUBBISH: Final = (json_format.Error, ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What the SDK raises over answers that are not as it expects; their texts quote the answer."""


class MethodUnknown(OrchestratorError):
    """The peer knows no method of these generations."""

    code = "A2A_METHOD_UNKNOWN"


@dataclass(frozen=True, slots=True)
class SdkPeer:
    """A peer that has a card, which says where it is, and whether it can push."""

    client: Client
    url: str
    pushes: bool
    dialect: str = DIALECT

    async def submit(self, message: Outgoing) -> RemoteTask:
        """See `Peer.submit`. Raises `MethodUnknown` for a peer that is older than its card says."""
        asked = json_format.ParseDict({"parts": parts_of(message.prompt), "metadata": message.metadata}, Message())
        asked.message_id, asked.role = message.message_id, Role.ROLE_USER
        if message.context_id is not None:
            asked.context_id = message.context_id
        if message.task_id is not None:
            asked.task_id = message.task_id
        configuration = SendMessageConfiguration(return_immediately=True, history_length=0)
        if message.push is not None:
            configuration.task_push_notification_config.CopyFrom(_push_config("", message.push))
        request = SendMessageRequest(message=asked, configuration=configuration)
        with _translated():
            async for answer in self.client.send_message(request, context=ClientCallContext(timeout=WORK_SECONDS_MAX)):
                if answer.HasField("task"):
                    return task_of(_json_of(answer.task))
                return reply_in(_json_of(answer.message))
        raise AgentUnreadable("its answer is empty")

    async def get(self, task_id: str) -> RemoteTask:
        """See `Peer.get`."""
        with _translated():
            return task_of(_json_of(await self.client.get_task(GetTaskRequest(id=task_id, history_length=0))))

    async def subscribe(self, task_id: str, address: PushAddress) -> None:
        """See `Peer.subscribe`."""
        with _translated():
            await self.client.create_task_push_notification_config(_push_config(task_id, address))

    async def cancel(self, task_id: str) -> None:
        """See `Peer.cancel`."""
        with _translated():
            await self.client.cancel_task(CancelTaskRequest(id=task_id))


async def peer_with_card(http: httpx.AsyncClient, url: str) -> SdkPeer | None:
    """Return the peer as its card describes it; `None` where it has no card."""
    with _translated():
        card = await _card_of(http, url)
        if card is None:
            return None
        bindings = [TransportProtocol.JSONRPC.value, TransportProtocol.HTTP_JSON.value]
        config = ClientConfig(streaming=False, polling=True, httpx_client=http, supported_protocol_bindings=bindings)
        ways = [way for way in card.supported_interfaces if way.protocol_binding in bindings]
        if not ways:
            raise AgentRefused("its card names neither JSON-RPC nor HTTP+JSON")
        return SdkPeer(ClientFactory(config).create(card), ways[0].url, card.capabilities.push_notifications)


async def _card_of(http: httpx.AsyncClient, url: str) -> AgentCard | None:
    for path in CARD_PATHS:
        try:
            return await A2ACardResolver(http, url, path).get_agent_card()
        except AgentCardResolutionError as error:
            if error.status_code not in _NO_CARD:
                raise
    return None


def _push_config(task_id: str, address: PushAddress) -> TaskPushNotificationConfig:
    # One a task: each takes the place of the one before.
    return TaskPushNotificationConfig(id="session-orchestrator", task_id=task_id, url=address.url, token=address.token)


def _json_of(message: object) -> JsonObject:
    found: JsonObject = json_format.MessageToDict(message)
    return found


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OrchestratorError:
        raise
    except A2AError as error:
        raise _fault_of(error) from None
    except httpx.HTTPError as error:
        raise fault_of(error) from None
    except _RUBBISH as error:
        raise AgentUnreadable(f"its answer is not what the protocol says: {type(error).__name__}") from None


def _fault_of(error: A2AError) -> Exception:
    cause = error.__cause__
    match error:
        case A2AClientTimeoutError():
            return AgentUnreachable("no answer in time")
        case A2AClientError() if isinstance(cause, httpx.HTTPError):
            return fault_of(cause)
        case A2AClientError() if isinstance(cause, json.JSONDecodeError | json_format.ParseError):
            return AgentUnreadable(f"its answer is not what the protocol says: {type(cause).__name__}")
        case TaskNotFoundError():
            return AgentTaskLost(quoted(error.message))
        case MethodNotFoundError():
            return MethodUnknown(quoted(error.message))
        case InternalError() | InvalidAgentResponseError():
            return AgentUnwell(quoted(error.message))
        case A2AClientError():
            return AgentUnreadable(quoted(error.message))
        case _:
            return AgentRefused(f"{type(error).__name__}: {quoted(error.message)}")
