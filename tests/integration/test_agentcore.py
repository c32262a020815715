"""A real node behind Bedrock AgentCore Runtime's data plane, called by the client of AgentCore's own SDK.

The data plane is a gateway of ours that does what the API reference says of `InvokeAgentRuntime`; the client is
`AgentCoreRuntimeClient`, with its signatures, its checks and its retries.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from bedrock_agentcore.runtime import AgentCoreRuntimeClient
from bedrock_agentcore.runtime.models import REQUEST_ID_HEADER, SESSION_HEADER, PingStatus
from botocore.exceptions import ClientError, ParamValidationError

from orchestrator.http.connections import listening
from orchestrator.session.values import Json
from tests.emulators import REGION
from tests.integration.deployment import Deployment, Worker

ARN = f"arn:aws:bedrock-agentcore:{REGION}:123456789012:runtime/orders-a1b2c3d4e5"
PASSED_ON = ("Content-Type", "Accept", "traceparent", "X-Amzn-Trace-Id", "baggage", SESSION_HEADER)
CLIENT_FAULT = 424
"""`RuntimeClientError`: what the service makes of a container's 4xx."""


@dataclass
class Gateway:
    """The data plane before one container. `answers_to_lose`: how many answers its clients never see."""

    deployment: Deployment
    worker: Worker
    answers_to_lose: int = 0
    invocations: list[str] = field(default_factory=list)

    async def invoke(self, request: web.Request) -> web.StreamResponse:
        """Pass an invocation on to the container, and its answer back as it comes."""
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        headers |= {REQUEST_ID_HEADER: str(uuid4()), "WorkloadAccessToken": "a secret"}
        assert ARN == request.match_info["arn"]
        self.invocations.append(request.headers[SESSION_HEADER])
        url = f"{self.worker.base_url}/invocations"
        async with self.deployment.http.post(url, data=await request.read(), headers=headers) as inner:
            if self.answers_to_lose:
                self.answers_to_lose -= 1
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            if 400 <= inner.status < 500:
                fault: Json = {"message": (await inner.json(content_type=None))["error"]}
                return web.json_response(fault, status=CLIENT_FAULT, headers={"x-amzn-ErrorType": "RuntimeClientError"})
            known = {SESSION_HEADER: request.headers[SESSION_HEADER], "Content-Type": inner.headers["Content-Type"]}
            outer = web.StreamResponse(status=inner.status, headers=known)
            await outer.prepare(request)
            async for chunk in inner.content.iter_any():
                await outer.write(chunk)
            return outer


@asynccontextmanager
async def data_plane(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """Run a node and the gateway before it; the SDK finds the gateway by its own environment variable."""
    gateway = Gateway(deployment, await deployment.start())
    application = web.Application()
    application.router.add_post("/runtimes/{arn}/invocations", gateway.invoke)
    async with listening(application, host="127.0.0.1", port=0) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_AGENTCORE", f"http://{address}")
        yield gateway


async def test_the_client_of_agentcores_sdk_drives_a_node(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answered at once, absorbed when it retries, streamed when it asks; its own words for ids, errors and pings."""
    async with data_plane(deployment, monkeypatch) as gateway:
        client = await asyncio.to_thread(AgentCoreRuntimeClient, region=REGION)

        async def invoke(payload: Json, **options: str) -> tuple[dict[str, Any], str]:
            def call() -> tuple[dict[str, Any], str]:
                body = json.dumps(payload).encode()
                answer = client.invoke_agent_runtime(agentRuntimeArn=ARN, payload=body, **options)
                return answer, answer["response"].read().decode()

            return await asyncio.to_thread(call)

        # A client that names no runtime session has one made by botocore, which it keeps through its retries.
        gateway.answers_to_lose = 1
        echo: Json = {"session_type": "echo", "input": "hello"}
        answer, body = await invoke(echo, contentType="application/json")
        made = answer["runtimeSessionId"]
        assert [made, made] == gateway.invocations
        assert (200, {"session_id": made, "status": "ACCEPTED"}) == (answer["statusCode"], json.loads(body))
        await gateway.worker.logged("session_ended", session_id=made)
        assert [True, False] == [
            line["is_new"] for line in await gateway.worker.logged("invocation_accepted", times=2, session_id=made)
        ]

        # The next turn of the same conversation, as a stream.
        order: Json = {"session_type": "order", "input": {"item": "tea", "amount": 2}}
        answer, body = await invoke(order, runtimeSessionId=made, accept="text/event-stream")
        assert "text/event-stream" == answer["contentType"]
        told = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]
        turn = told[0]["session_id"]
        assert turn != made
        assert ["ACCEPTED", "RUNNING", "COMPLETED"] == [each["status"] for each in told]
        assert {"number": f"{turn}/tea", "total": 4} == told[-1]["result"]

        with pytest.raises(ParamValidationError, match="runtimeSessionId"):
            await invoke(echo, runtimeSessionId="x" * 32)
        with pytest.raises(ClientError, match="session_type: 'none' is not declared"):
            await invoke({"session_type": "none"}, runtimeSessionId=made)

        _, ping = await deployment.ask(gateway.worker, "GET", "/ping")
        assert PingStatus.HEALTHY == PingStatus(ping["status"])
        assert "a secret" not in await deployment.everything() + "".join(gateway.worker.raw)
