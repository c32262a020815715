"""An AWS emulator as a child process on loopback, for `orchestrator dev`, the demo and tests: no account, no Docker.

It starts with only the services the product needs, keeps its state in a folder, and is always told to end in order,
because it saves its state only then.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from orchestrator.errors import Unavailable
from orchestrator.process_identity import identity_of, is_gone

EMULATOR_MODULE: Final = "ministack"
EMULATOR_PORT: Final = 4566
SERVICES: Final = "dynamodb,sqs,s3,sns,events,states,lambda,iam,sts"
START_TRIES_MAX: Final = 300
START_TRY_SECONDS: Final = 0.1
STOP_SECONDS_MAX: Final = 20.0
HOLDER: Final = "holder"
LOCK: Final = "lock"
REGION: Final = "us-east-1"
CREDENTIAL: Final = "local"
"""Not twelve digits, which the emulator would take for an account of its own; and nothing that AWS would accept."""

# A proxy of the machine has no business between us and loopback.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Emulator:
    """A running emulator and what a client of it must have in its environment."""

    endpoint_url: str
    wait: Callable[[], Awaitable[int]]
    """Returns the exit code when its process has ended."""

    @property
    def environment(self) -> dict[str, str]:
        """The SDK's own variables that lead to this emulator and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": CREDENTIAL,
            "AWS_SECRET_ACCESS_KEY": CREDENTIAL,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }


@asynccontextmanager
async def emulator(*, port: int, state: Path | None) -> AsyncIterator[Emulator]:
    """Run the emulator while the block runs; with `state`, it goes on from what it saved there.

    Raises:
        Unavailable: it is not installed, its state is in use, its port is taken, or it does not come up.
    """
    if find_spec(EMULATOR_MODULE) is None:
        raise Unavailable(f"the emulator {EMULATOR_MODULE} is not installed: pip install 'session-orchestrator[dev]'")
    with nullcontext() if state is None else _held(state):
        await _end_left_behind(state)
        if not _is_free(port):
            raise Unavailable(f"port {port} is taken; choose another one with --emulator-port")
        async with _child(port, state) as running:
            yield running


@contextmanager
def _held(state: Path) -> Iterator[None]:
    """Keep the state to this process. The system lets go of it in whichever way the process ends (flock(2))."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Unavailable(
                f"{state} is in use by process {lock.read().strip()}: end that one first, or start this one in another "
                "folder, with an --emulator-port and an ORCHESTRATOR_PORT of its own"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@asynccontextmanager
async def _child(port: int, state: Path | None) -> AsyncIterator[Emulator]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        EMULATOR_MODULE,
        env=_environment(port, state),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        # Of its own group, so that Ctrl-C reaches us alone and the node drains before its table is gone.
        start_new_session=True,
    )
    try:
        _remember(state, child.pid)
        running = Emulator(f"http://127.0.0.1:{port}", child.wait)
        await _until_ready(child, running)
        yield running
    finally:
        await _end(child)


def _remember(state: Path | None, pid: int) -> None:
    """Write down which process holds the state, for a successor of a parent that could not end it."""
    if state is not None:
        (state / HOLDER).write_text(identity_of(pid) or "")


async def _end_left_behind(state: Path | None) -> None:
    """End an emulator that a killed parent left on this state; it saves what it holds first."""
    holder = state / HOLDER if state is not None else None
    if holder is None or not await asyncio.to_thread(holder.exists):
        return
    identity = await asyncio.to_thread(holder.read_text)
    pid = identity.split("/")[2:3]
    if not pid or identity_of(int(pid[0])) != identity:
        return
    os.kill(int(pid[0]), signal.SIGTERM)
    for _ in range(START_TRIES_MAX):
        if is_gone(identity):
            return
        await asyncio.sleep(START_TRY_SECONDS)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


def _environment(port: int, state: Path | None) -> dict[str, str]:
    # The user's own AWS settings stay out of the child, all but what any program needs.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "ORCHESTRATOR_"))}
    saved = (
        {}
        if state is None
        else {
            "PERSIST_STATE": "1",
            "STATE_DIR": str(state.resolve()),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str((state / "s3").resolve()),
        }
    )
    return {
        **kept,
        **saved,
        # Or it would take no URL that is signed with them.
        "AWS_ACCESS_KEY_ID": CREDENTIAL,
        "AWS_SECRET_ACCESS_KEY": CREDENTIAL,
        "BIND_HOST": "127.0.0.1",
        # Or it would tidy up containers of the machine's engine.
        "DOCKER_HOST": "unix:///nonexistent",
        # Or the addresses of queues it restores would say localhost, which may be another interface.
        "MINISTACK_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "EDGE_PORT": str(port),
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "SERVICES": SERVICES,
        "LOG_LEVEL": "ERROR",
    }


async def _until_ready(child: asyncio.subprocess.Process, running: Emulator) -> None:
    for _ in range(START_TRIES_MAX):
        if child.returncode is not None:
            raise Unavailable(f"the emulator ended at once with exit code {child.returncode}")
        if await asyncio.to_thread(_answers, f"{running.endpoint_url}/_ministack/ready"):
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), START_TRY_SECONDS)
    raise Unavailable(f"the emulator does not answer at {running.endpoint_url}")


def _answers(url: str) -> bool:
    try:
        with _opener.open(url, timeout=1) as answer:
            return answer.status == 200 and bool(json.loads(answer.read() or b"{}") is not None)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is not None:
        return
    child.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(child.wait(), STOP_SECONDS_MAX)
    except TimeoutError:
        child.kill()
        await child.wait()
