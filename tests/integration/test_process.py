"""A node as a process among others: it is told to stop at any moment, and nobody may read what it logs."""

import asyncio
import fcntl
import json
import os
import resource
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from orchestrator.local import free_port
from tests.integration.chatty_app import LINES
from tests.integration.deployment import WAIT_SECONDS_MAX, WARM, Deployment, Line, start_message
from tests.integration.warm import WarmProcess

CHATTY = "tests.integration.chatty_app:app"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the size of a pipe, /dev/full and prlimit are Linux's")
SLOW_MODULE = """
import os
os.write(2, b'{"event": "importing"}\\n')
while True:
    os.read(0, 1) or __import__("signal").pause()
"""


async def test_a_node_that_is_told_to_stop_while_it_starts_ends_at_once_and_well(
    deployment: Deployment, tmp_path: Path
) -> None:
    """While its application is imported, and while it waits for a table that does not answer."""
    (tmp_path / "slow.py").write_text(SLOW_MODULE)
    importing = await deployment.start("slow:app", wait=False, PYTHONPATH=f"{tmp_path}")
    await importing.logged("importing")
    importing.signal(signal.SIGTERM)
    assert 0 == await importing.ended()

    asked = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as table:
        host, port = table.sockets[0].getsockname()
        waiting = await deployment.start(wait=False, AWS_ENDPOINT_URL_DYNAMODB=f"http://{host}:{port}")
        await asked.wait()
        waiting.signal(signal.SIGTERM)
        assert 0 == await waiting.ended()
        await waiting.logged("stopped_before_ready")


async def test_a_node_that_is_told_twice_to_stop_hands_over_what_it_works_on(deployment: Deployment) -> None:
    """The first time it gives its sessions a minute, the second time none, a third changes nothing.

    And it ends, though a thread of theirs does not.
    """
    worker = await deployment.start(CHATTY, ORCHESTRATOR_DRAIN_SECONDS="60")
    await deployment.send(start_message("waits", session_id="long"))
    await worker.logged("session_accepted", session_id="long")
    worker.signal(signal.SIGTERM)
    await worker.logged("node_draining")
    worker.signal(signal.SIGTERM)
    await worker.logged("drain_cut_short")
    worker.signal(signal.SIGTERM)
    assert 0 == await worker.ended()
    head = await deployment.head("long")
    assert ("RUNNING", False) == (head["state"], "owner" in head)
    # It took its leave, so that nobody waits for its beat.
    assert '"declared_dead_at"' in await deployment.everything()


@LINUX
async def test_a_node_works_on_when_its_log_is_not_read_and_when_nobody_can_read_it(deployment: Deployment) -> None:
    """What a full pipe does not take is counted; a closed pipe and a full disk are written to in vain."""
    reads, writes = os.pipe()
    # So that it holds a page.
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4_096)
    full = os.open("/dev/full", os.O_WRONLY)
    node = await _Node.start(deployment, onto=(full, writes))
    os.close(full)
    os.close(writes)
    assert LINES == await node.result("chatty", "unread")
    assert (200, "HEALTHY") == await node.health()
    log, pipe = await _reader(reads)
    lost, result = await asyncio.gather(_logged(log, "output_lost"), node.result("chatty", "read"))
    assert (LINES, "not read in time") == (result, lost["reason"])
    assert isinstance(lost["writes"], int)
    assert LINES < lost["writes"] + 4_096
    pipe.close()
    assert LINES == await node.result("chatty", "closed")
    assert (200, "HEALTHY") == await node.health()
    assert 0 == await node.stopped()


@LINUX
async def test_a_node_works_on_when_no_file_can_be_written_and_outside_ecs(
    deployment: Deployment, tmp_path: Path
) -> None:
    """The disk is full, there is no home, the endpoints of ECS are not there; only a step that writes is told so."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    full = os.open("/dev/full", os.O_WRONLY)
    node = await _Node.start(
        deployment,
        onto=(full, full),
        HOME="/nonexistent",
        ECS_AGENT_URI="http://[not an address",
        ECS_CONTAINER_METADATA_URI_V4=f"{nowhere}/v4/task",
    )
    os.close(full)
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (0, 0))
    assert "OSError" == await node.result("writes", "file", value=str(tmp_path / "file"))
    assert LINES == await node.result("chatty", "log")
    assert (200, "HEALTHY") == await node.health()
    assert 0 == await node.stopped()


BAD_SETTINGS = {
    "ORCHESTRATOR_APP": ({"ORCHESTRATOR_APP": ""}, 2, "set ORCHESTRATOR_APP"),
    "ORCHESTRATOR_HOST": ({"ORCHESTRATOR_HOST": "192.0.2.1"}, 4, "cannot listen on 192.0.2.1"),
    "ORCHESTRATOR_NODE_TIMEOUT_SECONDS": ({"ORCHESTRATOR_HEARTBEAT_SECONDS": "9"}, 2, "at least twice"),
    "ORCHESTRATOR_QUEUE": (
        {"ORCHESTRATOR_QUEUE": "https://sqs.eu-west-1.amazonaws.com/123456789012/sessions"},
        2,
        "lies in eu-west-1, but AWS_REGION is us-east-1",
    ),
    "ORCHESTRATOR_APPROVAL_TOPIC_ARN": ({"ORCHESTRATOR_APPROVAL_TOPIC_ARN": "approvers"}, 2, "not the ARN"),
    "AWS_REGION": ({"AWS_REGION": "", "AWS_DEFAULT_REGION": ""}, 2, "not set"),
    "AWS_SECRET_ACCESS_KEY": ({"AWS_SECRET_ACCESS_KEY": ""}, 4, "missing"),
}


async def test_settings_that_are_missing_or_contradict_each_other_are_named_in_one_line(
    deployment: Deployment,
) -> None:
    """With the exit code that says whose affair it is: 2 of whoever set them, 4 of what is not there."""

    async def said(wrong: dict[str, str]) -> tuple[int, str]:
        code, _, err = await deployment.cli("serve", ORCHESTRATOR_PORT="0", **{"ORCHESTRATOR_APP": CHATTY} | wrong)
        return code, err

    answers = await asyncio.gather(*(said(wrong) for wrong, _, _ in BAD_SETTINGS.values()))
    for (name, (_, code, text)), (ended, line) in zip(BAD_SETTINGS.items(), answers, strict=True):
        assert (code, 1) == (ended, line.count("\n")), line
        assert name in line
        assert text in line


async def test_a_setting_that_is_misspelt_is_named_in_the_log(deployment: Deployment) -> None:
    """It has no effect, which nobody would see."""
    worker = await deployment.start(ORCHESTRATOR_TABEL="sessions")
    (line,) = await worker.logged("unknown_settings")
    assert ["ORCHESTRATOR_TABEL"] == line["names"]


# --- a node that nobody listens to -----------------------------------------------------------------------------------


class _Node:
    """A node whose log tells nothing: it is known by its port."""

    def __init__(self, deployment: Deployment, process: WarmProcess, url: str) -> None:
        self._deployment = deployment
        self._url = url
        self.process = process

    @classmethod
    async def start(cls, deployment: Deployment, *, onto: tuple[int, int], **environment: str) -> "_Node":
        port = str(free_port())
        everything = {**os.environ, **deployment.environment, "ORCHESTRATOR_PORT": port, **environment}
        return cls(deployment, await WARM.start(["serve", CHATTY], everything, onto=onto), f"http://127.0.0.1:{port}")

    async def result(self, session_type: str, key: str, *, value: str = "tea") -> object:
        code, out, err = await self._deployment.cli(
            *("submit", session_type, "--input", json.dumps(value), "--key", key, "--wait"),
        )
        assert 0 == code, err
        return json.loads(out)

    async def health(self) -> tuple[int, object]:
        """Return how well it is, once it works on nothing."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while True:
                async with self._deployment.http.get(f"{self._url}/health") as answer:
                    found = await answer.json()
                    if found["status"] != "HEALTHY_BUSY":
                        return answer.status, found["status"]

    async def stopped(self) -> int:
        """Return its exit code, once it was told to stop and did; the second time it does not wait for its poll."""
        self.process.terminate()
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            try:
                while True:
                    async with self._deployment.http.get(f"{self._url}/ready") as answer:
                        if answer.status != 200:
                            break
            except aiohttp.ClientError:
                pass
            self.process.terminate()
            return await self.process.wait()


async def _reader(pipe: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", buffering=0)
    )
    return reader, transport


async def _logged(log: asyncio.StreamReader, event: str) -> Line:
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        async for each in log:
            if f'"{event}"'.encode() in each:
                line: Line = json.loads(each)
                return line
    raise AssertionError(f"{event} was not logged")
