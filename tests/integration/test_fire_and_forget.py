"""Fire and forget: a function that hands over and returns, and two state machines that come to the session's end."""

import asyncio
import json
import runpy
import statistics
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from examples.fire_and_forget import deploy
from orchestrator.session.values import JsonObject
from tests.emulators import REGION
from tests.integration.bus import client
from tests.integration.deployment import WAIT_SECONDS_MAX, Deployment

if TYPE_CHECKING:
    from types_aiobotocore_events import EventBridgeClient
    from types_aiobotocore_stepfunctions import SFNClient

APP: Final = "examples.fire_and_forget:app"
FUNCTION: Final = Path(deploy.__file__).with_name("submit.py")
WORK_SECONDS_MAX: Final = 0.05
CALLS: Final = 9
AGENT_SECONDS: Final = 1.0
LOOK_AGAIN_SECONDS: Final = 0.2
ENDED: Final = {"SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"}


async def test_the_function_hands_over_with_one_request_and_next_to_no_work(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under 50 ms of its own, one message a call, and no orchestrator that would have to be there."""
    monkeypatch.setenv("QUEUE_URL", deployment.queue_url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    requests: list[str] = []

    def calls() -> list[float]:
        function = runpy.run_path(str(FUNCTION))
        function["sqs"].meta.events.register("before-send.sqs", lambda request, **_: requests.append(request.url))
        seconds = []
        for number in range(CALLS):
            event = {"order": {"id": f"e-{number}", "detail": {"order": "o", "amount": 1}}, "task_token": "t"}
            before = time.thread_time()
            assert {"session_id": f"analysis-e-{number}"} == function["handler"](event, None)
            seconds.append(time.thread_time() - before)
        function["sqs"].close()
        return seconds

    seconds = await asyncio.to_thread(calls)
    assert statistics.median(seconds) < WORK_SECONDS_MAX, seconds
    assert CALLS == len(requests) == await deployment.queue_depth()


async def test_both_state_machines_come_to_the_end_of_the_session_they_started(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By task token and by looking into the table, success and failure; the same event twice is one session."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    arns = await deploy.deploy(
        poll_seconds=1, environment={"AWS_ENDPOINT_URL": deployment.environment["AWS_ENDPOINT_URL"]}
    )
    async with AsyncExitStack() as stack:
        events, states = await client(stack, "events"), await client(stack, "stepfunctions")
        for detail_type in deploy.MACHINES:
            await placed(events, detail_type, f"{detail_type}: good", 2_000)
            await placed(events, detail_type, f"{detail_type}: empty", 0)
        # Nobody is there yet: what was handed over waits in the queue.
        worker = await deployment.start(APP, AGENT_SECONDS=str(AGENT_SECONDS))
        ends = await ended(states, arns, 2)
        for detail_type, name in deploy.MACHINES.items():
            (good, empty) = sorted(ends[name], key=lambda end: str(end["status"]), reverse=True)
            assert "SUCCEEDED" == good["status"]
            assert {"order": f"{detail_type}: good", "risk": "high"} == json.loads(good["output"])
            assert ("FAILED", "AGENT_FAILED") == (empty["status"], empty["error"])
            assert "nothing to analyse" in empty["cause"]

        again = next(end for end in ends["poll"] if end["status"] == "SUCCEEDED")
        await states.start_execution(stateMachineArn=arns["poll"], input=again["input"])
        three = (await ended(states, {"poll": arns["poll"]}, 3))["poll"]
        assert [again["output"]] * 2 == [end["output"] for end in three if end["status"] == "SUCCEEDED"]
    assert 4 == len(await worker.logged("session_accepted"))


async def placed(events: "EventBridgeClient", detail_type: str, order: str, amount: int) -> None:
    """Tell the bus of an order."""
    detail: JsonObject = {"order": order, "amount": amount}
    entry: Any = {"Source": deploy.SOURCE, "DetailType": detail_type, "Detail": json.dumps(detail)}
    assert 0 == (await events.put_events(Entries=[entry]))["FailedEntryCount"]


async def ended(states: "SFNClient", arns: dict[str, str], count: int) -> dict[str, list[dict[str, Any]]]:
    """Return each machine's executions, once so many have ended. Step Functions tells nobody: one has to look."""
    found: dict[str, list[dict[str, Any]]] = {}
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        for name, arn in arns.items():
            while len(found.get(name, ())) < count:
                listed = await states.list_executions(stateMachineArn=arn)
                done = [each["executionArn"] for each in listed["executions"] if each["status"] in ENDED]
                found[name] = [dict(await states.describe_execution(executionArn=each)) for each in done]
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
    return found
