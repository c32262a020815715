"""Opens the connections to AWS, for as long as a `with` block lasts.

Our own patience decides about retries, so botocore makes exactly one attempt of each call.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore.configprovider import ConfiguredEndpointProvider
from botocore.exceptions import BotoCoreError

from orchestrator.aws.exchange import ExchangeLimits, exchange_with
from orchestrator.aws.faults import CONNECTION_FAULTS
from orchestrator.aws.signed import DYNAMODB, SQS, SignedClient
from orchestrator.errors import SettingsError, Unavailable
from orchestrator.remote import AgentService
from orchestrator.telemetry.context import TRACEPARENT, trace_headers

if TYPE_CHECKING:
    from aiobotocore.credentials import AioCredentials
    from botocore.client import ClientMeta
    from types_aiobotocore_bedrock_agentcore import BedrockAgentCoreClient
    from types_aiobotocore_dynamodb import DynamoDBClient
    from types_aiobotocore_events import EventBridgeClient
    from types_aiobotocore_kms import KMSClient
    from types_aiobotocore_lambda import LambdaClient
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_sns import SNSClient
    from types_aiobotocore_sqs import SQSClient
    from types_aiobotocore_stepfunctions import SFNClient

CONNECTIONS_MAX: Final = 50
CONNECT_SECONDS_MAX: Final = 5
READ_SECONDS_MAX: Final = 30
"""Over the longest poll of a queue (20 s)."""
AGENT_CONNECTIONS_MAX: Final = 1_000
"""Each run of an agent holds one for as long as it takes."""
AGENT_READ_SECONDS_MAX: Final = 930
"""Over the longest run of a function (Lambda, "Quotas": 900 s) and the longest wait for a runtime's answer (15 min)."""

_AGENTS: Final = AioConfig(
    max_pool_connections=AGENT_CONNECTIONS_MAX,
    read_timeout=AGENT_READ_SECONDS_MAX,
    # What stands between would take a connection that is silent for minutes for a dead one.
    tcp_keepalive=True,
)

_OUTLET_CONFIG: Final = AioConfig(connect_timeout=2, read_timeout=7)
"""A notice that takes longer than ten seconds is tried again later."""

UNREACHABLE: Final = (BotoCoreError, *CONNECTION_FAULTS)
"""What opening or probing a connection raises where nothing answers."""


class Outlets(Protocol):
    """The clients of the services that not every node needs; each is opened when it is first asked for."""

    async def events(self) -> EventBridgeClient:
        """Return the client of EventBridge."""
        ...

    async def sns(self) -> SNSClient:
        """Return the client of SNS."""
        ...

    async def stepfunctions(self) -> SFNClient:
        """Return the client of Step Functions."""
        ...

    async def kms(self, region: str | None = None) -> KMSClient:
        """Return the client of KMS in that region, or in our own."""
        ...


@dataclass(frozen=True, slots=True)
class Clients:
    """One client of each service, sharing one session and its credentials."""

    dynamodb: DynamoDBClient
    sqs: SQSClient
    s3: S3Client
    signed_dynamodb: SignedClient
    signed_sqs: SignedClient
    outlets: Outlets
    region: str
    functions: Mapping[str, LambdaClient] = field(default_factory=dict)
    """By region, those that agents are called in."""
    runtimes: Mapping[str, BedrockAgentCoreClient] = field(default_factory=dict)
    """By region, too."""


def _config() -> AioConfig:
    return AioConfig(
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=CONNECTIONS_MAX,
        connect_timeout=CONNECT_SECONDS_MAX,
        read_timeout=READ_SECONDS_MAX,
        # Requests are built in this package alone and typed; checking each against the model costs a tenth of a call.
        parameter_validation=False,
    )


@asynccontextmanager
async def connect(agents: Collection[AgentService] = ()) -> AsyncIterator[Clients]:
    """Yield clients made from the environment (region, endpoint and credentials are the SDK's own settings).

    `agents` are the services, besides, that agents are called through.

    Raises:
        SettingsError: no region is set, or an endpoint that is no address.
        Unavailable: no credentials can be found.
    """
    session = get_session()
    region = session.get_config_variable("region") or os.environ.get("AWS_REGION")
    if not region:
        raise SettingsError("AWS_REGION: not set; name the region of the queue, the table and the bucket")
    config = _config()
    async with AsyncExitStack() as stack:
        try:
            for service in ("dynamodb", "sqs", "s3", *sorted({each.name for each in agents})):
                _check_endpoint(_endpoint_of(session, service))
            credentials = await session.get_credentials()
            if credentials is None:
                raise Unavailable("no AWS credentials: set AWS_PROFILE or AWS_ACCESS_KEY_ID, or give the task a role")
            s3_config = config.merge(_s3_config(session))
            patient = config.merge(_AGENTS)
            dynamodb = await stack.enter_async_context(
                session.create_client("dynamodb", region_name=region, config=config)
            )
            sqs = await stack.enter_async_context(session.create_client("sqs", region_name=region, config=config))
            yield Clients(
                dynamodb=dynamodb,
                sqs=sqs,
                s3=await stack.enter_async_context(session.create_client("s3", region_name=region, config=s3_config)),
                signed_dynamodb=await stack.enter_async_context(
                    _signed(session, credentials, dynamodb.meta, service="dynamodb", target=DYNAMODB)
                ),
                signed_sqs=await stack.enter_async_context(
                    _signed(session, credentials, sqs.meta, service="sqs", target=SQS)
                ),
                outlets=_Outlets(stack, session, region, config.merge(_OUTLET_CONFIG)),
                region=region,
                functions={
                    region: _traced(
                        await stack.enter_async_context(
                            session.create_client("lambda", region_name=region, config=patient)
                        )
                    )
                    for region in _regions_of("lambda", agents)
                },
                runtimes={
                    region: await stack.enter_async_context(
                        session.create_client("bedrock-agentcore", region_name=region, config=patient)
                    )
                    for region in _regions_of("bedrock-agentcore", agents)
                },
            )
        except BotoCoreError as error:
            raise Unavailable(f"AWS cannot be reached: {error}") from error


def _traced(functions: LambdaClient) -> LambdaClient:
    """Let functions that are called become children of the agent run that calls them (Lambda, "Using X-Ray")."""

    def add_trace(params: dict[str, Any], **_: object) -> None:
        params["headers"].update({name: text for name, text in trace_headers().items() if name != TRACEPARENT})

    functions.meta.events.register("before-call.lambda.Invoke", add_trace)
    return functions


def _regions_of(service: str, agents: Collection[AgentService]) -> tuple[str, ...]:
    return tuple(sorted(each.region for each in agents if each.name == service))


class _Outlets:
    """See `Outlets`. Not opened at the start: many nodes need none of them, and each takes a while to make."""

    def __init__(self, stack: AsyncExitStack, session: AioSession, region: str, config: AioConfig) -> None:
        self._stack = stack
        self._session = session
        self._region = region
        self._config = config
        self._opening = asyncio.Lock()
        self._clients: dict[tuple[str, str], Any] = {}

    async def events(self) -> EventBridgeClient:
        client: EventBridgeClient = await self._client("events")
        return client

    async def sns(self) -> SNSClient:
        client: SNSClient = await self._client("sns")
        return client

    async def stepfunctions(self) -> SFNClient:
        client: SFNClient = await self._client("stepfunctions")
        return client

    async def kms(self, region: str | None = None) -> KMSClient:
        client: KMSClient = await self._client("kms", region)
        return client

    async def _client(self, service: str, region: str | None = None) -> Any:
        place = (service, region or self._region)
        async with self._opening:
            if place not in self._clients:
                opening = self._session.create_client(service, region_name=place[1], config=self._config)
                self._clients[place] = await self._stack.enter_async_context(opening)
            return self._clients[place]


@asynccontextmanager
async def _signed(
    session: AioSession, credentials: AioCredentials, meta: ClientMeta, *, service: str, target: str
) -> AsyncIterator[SignedClient]:
    url = f"{meta.endpoint_url.rstrip('/')}/"
    limits = ExchangeLimits(CONNECTIONS_MAX, CONNECT_SECONDS_MAX, READ_SECONDS_MAX)
    async with exchange_with(url, limits, ca_bundle=session.get_config_variable("ca_bundle")) as exchange:
        yield SignedClient(exchange, credentials, url=url, region=meta.region_name, service=service, target=target)


def _endpoint_of(session: AioSession, service: str) -> str | None:
    """Return the address that the environment or the profile sets for a service; `None` where it is AWS's own."""
    provider = ConfiguredEndpointProvider(
        full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name=service
    )
    url: str | None = provider.provide()
    return url


def _check_endpoint(url: str | None) -> None:
    """Return if requests can be sent there: the SDK raises a `ValueError` that names no setting, if any."""
    try:
        parts = None if url is None else urlsplit(url)
        # To ask for the port is to parse it.
        is_address = parts is None or (parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0)
    except ValueError:
        is_address = False
    if not is_address:
        raise SettingsError(f"AWS_ENDPOINT_URL: {url!r:.150} is not an http address")


def _s3_config(session: AioSession) -> AioConfig:
    """Return what S3 wants besides: URLs signed by version 4, and the bucket in the path where an endpoint is set."""
    endpoint_url = _endpoint_of(session, "s3")
    return AioConfig(
        signature_version="s3v4",
        # The name of an emulator's host does not resolve with a bucket's name in front.
        s3={"addressing_style": "virtual" if endpoint_url is None else "path"},
        # Artifacts are checked by a hash of their own, and S3 has no checksum for the parts that we read.
        response_checksum_validation="when_required",
    )
