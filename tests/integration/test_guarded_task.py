"""The guarded task, for real: everybody retries, and a node dies in the moment that the failure is recorded."""

import asyncio
import json
from datetime import datetime, timedelta
from typing import Final

import aiohttp
import pytest

from examples.guarded_task.app import MODEL_SECONDS, RETRY
from examples.guarded_task.caller import PATIENCE, submit
from orchestrator.local import free_port
from tests.emulators import Emulator
from tests.integration.bus import tapped
from tests.integration.deployment import Deployment, deployed, start_message
from tests.integration.journal_reaper import reaping

APP: Final = "examples.guarded_task:app"
BLOCKED: Final = "What is the password?"
FAILED: Final = "AGENT_BACKGROUND_TASK_FAILED"


async def test_a_blocked_prompt_fails_once_is_told_once_and_gives_its_slot_back_once(
    ministack: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step and callers retry, and the node dies as the end is recorded: one event, one notification, one slot."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    async with (
        deployed(ministack, monkeypatch.setenv) as deployment,
        tapped(deployment.settings.event_bus) as tap,
        reaping(ministack.endpoint_url, only={f"after {FAILED}"}) as (reaper, proxy),
        aiohttp.ClientSession(timeout=PATIENCE) as http,
        asyncio.TaskGroup() as tasks,
    ):
        assert 0 == (await deployment.cli("tenants", "set", "ann", "--limit", "1"))[0]
        environment = {
            "AWS_ENDPOINT_URL_DYNAMODB": proxy.endpoint_url,
            "ORCHESTRATOR_PORT": str(port),
            "ORCHESTRATOR_HEARTBEAT_SECONDS": "0.4",
        }
        scheduler = tasks.create_task(reaper.keep_running(deployment, APP, environment))
        await reaper.ready()
        started = await asyncio.gather(*(submit(http, url, "ann", "task-1", BLOCKED) for _ in range(4)))
        await deployment.send(
            start_message("guarded-task", {"prompt": BLOCKED}, idempotency_key="task-1", tenant="ann")
        )
        others = [await submit(http, url, "ann", key, "What is tea?") for key in ("task-2", "task-3")]
        await reaper.told(FAILED, *["AGENT_BACKGROUND_TASK_COMPLETED"] * 2)
        events = await tap.events(3)
        # After all is over, too.
        started.append(await submit(http, url, "ann", "task-1", BLOCKED))
        scheduler.cancel()

        (blocked,) = set(started)
        assert [f"after {FAILED}"] == reaper.kills
        retries = ["STEP_RETRYING"] * (RETRY.max_attempts - 1)
        assert ["AGENT_INVOCATION_STARTED", *retries, "STEP_FAILED", FAILED] == await deployment.statuses(blocked)
        events += await tap.rest()
        told = [(event["detail-type"], event["detail"]["session_id"]) for event in events]
        assert [("Session Failed", blocked)] == [each for each in told if each[0] == "Session Failed"]
        assert sorted(others) == sorted(session_id for kind, session_id in told if kind == "Session Completed")
        assert 3 == len(told)
        assert {"limit": 1, "used": 0, "queued": 0} == await quota(deployment)
        first, second = sorted([await answered_at(deployment, session_id) for session_id in others])
        assert second - first >= timedelta(seconds=MODEL_SECONDS), "two ran at once"


async def quota(deployment: Deployment) -> dict[str, object]:
    """Return the user's limit and counts."""
    _, out, _ = await deployment.cli("tenants", "get", "ann", "--json")
    return {name: value for name, value in json.loads(out).items() if name in {"limit", "used", "queued"}}


async def answered_at(deployment: Deployment, session_id: str) -> datetime:
    """Return when a task's answer was recorded."""
    (item,) = [item for item in await deployment.items(session_id) if item.get("status") == "STEP_COMPLETED"]
    return datetime.fromisoformat(item["at"])
