"""`orchestrator dev`: one command with everything it needs, and state that survives a restart of both."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from orchestrator.aws.clients import connect
from orchestrator.cli.output import Exit
from orchestrator.local import HOLDER, emulator, free_port

SECONDS_MAX = 40.0
ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def developing(folder: Path, ports: Mapping[str, int]) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run `orchestrator dev` in a folder until the block ends; yields the process and what it printed until ready."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orchestrator", "dev", "tests.integration.sample_app:app"),
        *("--emulator-port", str(ports["emulator"])),
        cwd=folder,
        env=_environment({"ORCHESTRATOR_PORT": str(ports["http"])}),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        # A group of its own, as a shell makes one for what it starts.
        start_new_session=True,
    )
    assert process.stderr is not None
    async with AsyncExitStack() as stack:
        stack.callback(_kill, process)
        printed = ""
        async with asyncio.timeout(SECONDS_MAX):
            while "orchestrator submit" not in printed:
                line = await process.stderr.readline()
                assert line, f"dev ended early:\n{printed}"
                printed += line.decode()
        drained = asyncio.ensure_future(process.stderr.read())
        yield process, printed
        async with asyncio.timeout(SECONDS_MAX):
            await process.wait()
            await drained


async def test_what_dev_holds_survives_a_restart_of_it_and_its_emulator(tmp_path: Path) -> None:
    """Ctrl-C ends both in order; the next start finds the session; the environment file leads to it and to the node."""
    ports = {"emulator": free_port(), "http": free_port()}
    async with developing(tmp_path, ports) as (process, printed):
        assert f"http://127.0.0.1:{ports['http']}" in printed
        ended = json.loads(await _cli(tmp_path, "submit", "echo", "--input", "7", "--key", "k", "--wait", "--json"))
        assert ("COMPLETED", 7) == (ended["state"], ended["result"])
        assert "HEALTHY" in await _cli(tmp_path, "health")
        # A terminal sends it to the whole group, which the emulator must not be in.
        os.killpg(process.pid, signal.SIGINT)
    assert 0 == process.returncode
    assert not await asyncio.to_thread(_answers, ports["emulator"])
    async with developing(tmp_path, ports) as (process, _):
        listed = json.loads(await _cli(tmp_path, "list", "--json"))
        assert (ended["session_id"], "COMPLETED") == (listed["session_id"], listed["state"])
        process.send_signal(signal.SIGTERM)
    assert 0 == process.returncode


async def test_dev_ends_with_its_emulator_and_says_so(tmp_path: Path) -> None:
    """At once, though nothing that it has to write can be written any more."""
    ports = {"emulator": free_port(), "http": free_port()}
    async with developing(tmp_path, ports) as (process, _):
        submitted = ("submit", "never-returns", "--key", "k", "--json")
        assert "session_id" in await _cli(tmp_path, *submitted)
        identity = await asyncio.to_thread((tmp_path / ".orchestrator/emulator" / HOLDER).read_text)
        os.kill(int(identity.split("/")[2]), signal.SIGKILL)
    assert Exit.UNREACHABLE == process.returncode


async def test_a_second_dev_in_a_folder_is_refused_and_does_the_first_no_harm(tmp_path: Path) -> None:
    """One line says who runs there and what to do, whatever ports it was given; the first one goes on."""
    ports = {"emulator": free_port(), "http": free_port()}
    async with developing(tmp_path, ports) as (process, _):
        for port in (ports["emulator"], free_port()):
            code, said = await _refused(tmp_path, port)
            assert (4, 1) == (code, len(said.splitlines())), said
            assert f"is in use by process {process.pid}" in said
        ended = json.loads(await _cli(tmp_path, "submit", "echo", "--input", "7", "--wait", "--json"))
        assert "COMPLETED" == ended["state"]
        # What a kill leaves behind stands in nobody's way.
        process.kill()
    async with developing(tmp_path, ports) as (process, _):
        process.send_signal(signal.SIGTERM)
    assert 0 == process.returncode


async def test_anybody_can_read_by_a_link_that_the_environment_of_dev_signs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The emulator knows the credentials that it tells its clients to use: it checks those of a link."""
    # What the machine itself is configured with is not the emulator's to know.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "else")
    async with emulator(port=free_port(), state=None) as local:
        for name, value in local.environment.items():
            monkeypatch.setenv(name, value)
        async with connect() as clients, aiohttp.ClientSession() as http:
            await clients.s3.create_bucket(Bucket="files")
            await clients.s3.put_object(Bucket="files", Key="a", Body=b"for all")
            link = await clients.s3.generate_presigned_url("get_object", Params={"Bucket": "files", "Key": "a"})
            async with http.get(URL(link, encoded=True)) as answer:
                assert (200, b"for all") == (answer.status, await answer.read())


async def _refused(folder: Path, emulator_port: int) -> tuple[int | None, str]:
    """Start `dev` where it cannot; return its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orchestrator", "dev", "tests.integration.sample_app:app"),
        *("--emulator-port", str(emulator_port)),
        cwd=folder,
        env=_environment({"ORCHESTRATOR_PORT": str(free_port())}),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS_MAX):
            _, said = await process.communicate()
    finally:
        _kill(process)
    return process.returncode, said.decode()


async def _cli(folder: Path, *arguments: str) -> str:
    """Run a command in the environment that dev wrote down; return its standard output."""
    written = (folder / ".orchestrator" / "dev.env").read_text()
    variables = dict(line.removeprefix("export ").split("=", 1) for line in written.splitlines())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orchestrator", *arguments),
        env=_environment(variables),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS_MAX):
        out, _ = await process.communicate()
    assert 0 == process.returncode
    return out.decode()


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    ours = ("AWS_", "ORCHESTRATOR_")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        "PYTHONPATH": str(ROOT),
        **variables,
    }


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


def _answers(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
