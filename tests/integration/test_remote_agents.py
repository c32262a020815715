"""Remote agents of real nodes: a node that is killed takes no task with it, and one that pushes is not waited for."""

import asyncio
import signal

from orchestrator.session.values import JsonObject
from tests.contract.a2a_stage import analyst
from tests.integration.deployment import WAIT_SECONDS_MAX, Deployment, start_message

APP = "tests.integration.remote_app:app"


async def test_a_killed_node_starts_no_second_task_and_a_push_wakes_a_session_that_left_memory(
    deployment: Deployment,
) -> None:
    """The next node follows the task that was submitted; what the agent pushes ends the wait of the other session."""
    async with analyst() as remote:
        first = await deployment.start(APP, ANALYST_URL=remote.url())
        followed: JsonObject = {"agent": "followed", "prompt": "wait kill"}
        await deployment.send(start_message("ask", followed, session_id="followed"))
        await submitted(deployment, "followed")
        first.signal(signal.SIGKILL)
        await first.ended()
        second = await deployment.start(
            APP,
            ANALYST_URL=remote.url(),
            ORCHESTRATOR_HEARTBEAT_SECONDS="0.2",
            ORCHESTRATOR_PASSIVATE_AFTER_SECONDS="0",
        )
        await second.logged("session_claimed", session_id="followed")
        pushing: JsonObject = {
            "session_type": "ask",
            "session_id": "pushing",
            "input": {"agent": "pushing", "prompt": "wait push"},
        }
        # Not by the queue: the poll of the node that was killed is still open there, and would swallow it for a while.
        assert 202 == (await deployment.ask(second, "POST", "/sessions", pushing))[0]
        await second.logged("session_suspended", session_id="pushing")
        for gate in ("kill", "push"):
            await remote.release(gate)
        await second.logged("session_ended", times=2)
        told = await remote.told()

    for session in ("followed", "pushing"):
        result = await deployment.result(session)
        assert isinstance(result, dict)
        assert "waited" == result["text"]
    assert 2 == len(told["asked"])


async def submitted(deployment: Deployment, session_id: str) -> None:
    """Return once the submission of the session's task is durable."""
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while "STEP_COMPLETED" not in await deployment.statuses(session_id):
            pass
