"""A real node before a fake agent of ECS: protected while it works, and given up as it drains."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from orchestrator.session.values import Json, JsonObject
from tests.integration.deployment import WAIT_SECONDS_MAX, Deployment, start_message


@asynccontextmanager
async def ecs_agent(asked: asyncio.Queue[Json]) -> AsyncIterator[str]:
    """Serve the agent's endpoint; yields its address as ECS would give it."""

    async def put(request: web.Request) -> web.Response:
        body = await request.json()
        asked.put_nowait(body)
        return web.json_response({"protection": {"ProtectionEnabled": body["ProtectionEnabled"]}})

    app = web.Application()
    app.router.add_put("/api/1/task-protection/v1/state", put)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/api/1"
    finally:
        await runner.cleanup()


async def test_a_node_tells_ecs_that_it_works_and_that_it_leaves(deployment: Deployment, tmp_path: Path) -> None:
    """Protected with the first step, given up by the drain that lets the step finish."""
    asked: asyncio.Queue[Json] = asyncio.Queue()
    gate = tmp_path / "gate"
    order: JsonObject = {"item": "tea", "amount": 1, "gate": str(gate)}
    async with ecs_agent(asked) as agent_uri, asyncio.timeout(WAIT_SECONDS_MAX):
        worker = await deployment.start(ECS_AGENT_URI=agent_uri)
        assert asked.empty(), "an idle node asks for nothing"
        await deployment.send(start_message("order", order, session_id="p-1"))
        assert {"ProtectionEnabled": True, "ExpiresInMinutes": 10} == await asked.get()
        worker.signal(signal.SIGTERM)
        assert {"ProtectionEnabled": False} == await asked.get()
        gate.touch()
        # The drain has stopped taking: what ends its last poll changes nothing.
        await deployment.send({"Event": "s3:TestEvent"})
        assert 0 == await worker.ended()
    assert "COMPLETED" == (await deployment.head("p-1"))["state"]
