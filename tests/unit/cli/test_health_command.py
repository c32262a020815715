"""The container's probe: straight to the node, one answer, the contract's exit codes."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

PATIENCE_SECONDS = 20.0
HEALTHY = b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"status":"HEALTHY"}'


async def test_the_probe_is_told_what_the_node_says_of_itself() -> None:
    """Exit 0 with its health, past any proxy that the environment names; `--url` may end in a slash."""
    async with saying(HEALTHY) as url:
        for address in (url, f"{url}/"):
            code, out, err = await probed(address, "--json", http_proxy="http://127.0.0.1:9")
            assert (0, {"status": "HEALTHY"}) == (code, json.loads(out)), err
        assert (0, "status  HEALTHY\n", "") == await probed(url)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 34\r\n\r\n{"status":"UNHEALTHY","checks":{}}', 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 4),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", 4),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>", 4),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", 4),
        (b"SSH-2.0-OpenSSH\r\n", 4),
        (b"", 4),
    ],
)
async def test_an_answer_that_is_no_nodes_is_one_line(said: bytes, code: int) -> None:
    """Exit 1 is an unhealthy node, 4 anything that is none."""
    async with saying(said) as url:
        found, out, err = await probed(url)
        assert (code, code == 1) == (found, bool(out)), err
        assert (0 if code == 1 else 1) == len(err.splitlines()), err


@pytest.mark.parametrize("url", ["ftp://a", "a:8080", "http://a:many"])
async def test_an_address_that_is_none_is_one_line(url: str) -> None:
    """Exit 2, or 4 where it looks like one."""
    code, out, err = await probed(url)
    assert (True, "", 1) == (code in {2, 4}, out, len(err.splitlines())), err


@asynccontextmanager
async def saying(answer: bytes) -> AsyncIterator[str]:
    """Say this to whoever connects and sends a line."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def probed(url: str, *arguments: str, **environment: str) -> tuple[int | None, str, str]:
    """Return the probe's exit code, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orchestrator", "health", "--url", url, *arguments),
        env={"PYTHONPATH": ":".join(sys.path), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()
