"""What the tests of remote agents stand on: the real server as a process, and sessions that call it.

Sessions run on the engine in memory, on a clock that passes whenever somebody sleeps on it; the wire is real.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import aiohttp
from engine_world import NOON, World, app_of

from actors import ManualClock
from orchestrator import A2AAgent, OperationFailed, Orchestrator, RetryPolicy, SessionContext
from orchestrator.agents import Connections
from orchestrator.callbacks.memory import MemoryCallbacks
from orchestrator.session.events import SessionCompleted
from orchestrator.session.values import Json

SECONDS_MAX: Final = 20.0
ONCE: Final = RetryPolicy(max_attempts=1)
TWICE: Final = RetryPolicy(max_attempts=2)


class HurriedClock(ManualClock):
    """A clock on which every sleep is over at once, and has taken its time all the same; unless it is stopped."""

    def __init__(self, start: datetime = NOON) -> None:
        super().__init__(start)
        self.goes = asyncio.Event()
        self.goes.set()

    async def sleep(self, seconds: float) -> None:
        """See `ManualClock.sleep`."""
        await self.goes.wait()
        self.advance(max(0.0, seconds))
        await asyncio.sleep(0)


@dataclass
class Analyst:
    """The real server in a process of its own."""

    port: int
    process: asyncio.subprocess.Process
    http: aiohttp.ClientSession

    def url(self, interface: str = "jsonrpc") -> str:
        """Return where an interface of it is."""
        return f"http://127.0.0.1:{self.port}/{interface}"

    async def told(self) -> dict[str, list[str]]:
        """Return what it was asked so far, and what it cancelled."""
        async with self.http.get(self.url("told")) as answer:
            found: dict[str, list[str]] = await answer.json()
            return found

    async def release(self, gate: str) -> None:
        """Let those go on who wait there."""
        async with self.http.post(self.url(f"release/{gate}")):
            pass

    async def kill(self) -> None:
        """End it as nobody should."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def analyst(port: int = 0) -> AsyncIterator[Analyst]:
    """Run the server while the block runs, on any port unless told."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.contract.a2a_server",
        str(port),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(SECONDS_MAX):
            listening = int(await process.stdout.readline())
        async with aiohttp.ClientSession() as http:
            yield Analyst(listening, process, http)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def world() -> World:
    """Return a world whose nodes lend connections to agents, and where time passes as it is slept away."""
    made = World()
    made.clock = HurriedClock()
    made.callbacks = MemoryCallbacks(clock=made.clock)
    made.connections = Connections(clock=made.clock, draw=lambda: 0.0)
    return made


def app_with(agent: A2AAgent, prompt: Json, *, retry: RetryPolicy = ONCE, timeout: float | None = None) -> Orchestrator:
    """Return an application whose session asks that agent, and returns its answer, or the code of its error."""

    async def main(ctx: SessionContext) -> object:
        try:
            return await ctx.invoke_agent("analyst", prompt, retry=retry, timeout=timeout)
        except OperationFailed as failed:
            return {"code": failed.error.code, "message": failed.error.message}

    return app_of(main, analyst=agent)


async def outcome(there: World, app: Orchestrator) -> Json:
    """Run the session to its end and return what it returned."""
    async with there.node(app) as node:
        await node.start()
        return await returned(there)


async def returned(there: World) -> Json:
    """Return what the session returned, once it has ended."""
    end = await there.end()
    assert isinstance(end, SessionCompleted), end
    return end.result


async def code_of(agent: A2AAgent, prompt: Json = "x") -> str:
    """Run a session that asks that agent once, and return the code of the error that it ends in."""
    result = await outcome(world(), app_with(agent, prompt))
    assert isinstance(result, dict), result
    return str(result["code"])
