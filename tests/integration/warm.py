"""`orchestrator` processes without the second that each spends on imports: forked from one that has done them.

A child is a process of its own, with its own environment, files and end; what it inherits is modules, which hold no
state of a run. `python -m tests.integration.warm FD` is the parent; `WarmStart` asks it, one for each pytest process.
How `orchestrator` starts from nothing is tried in `test_dev.py`, `test_demo.py` and `test_readme.py`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

REQUEST_BYTES_MAX: Final = 180_000
LINE_BYTES_MAX: Final = 2**22
FILES: Final = 4
"""What a request carries: standard input, output and error, and where the process's id and exit code are told."""
IMPORTS: Final = ("orchestrator.service", "orchestrator.cli.main", "uvloop", "aiobotocore.session")


@dataclass(slots=True)
class WarmProcess:
    """One process: as much of `asyncio.subprocess.Process` as tests use."""

    pid: int
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    _end: asyncio.Task[int]

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal; `None` while it runs."""
        return self._end.result() if self._end.done() else None

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        return await asyncio.shield(self._end)

    async def printed(self) -> tuple[bytes, bytes]:
        """Return its standard output and standard error, once it has ended."""
        out, err, _ = await asyncio.gather(self.stdout.read(), self.stderr.read(), self.wait())
        return out, err


class WarmStart:
    """Starts processes; the parent is started with the first of them, and ends when `close` is called."""

    def __init__(self) -> None:
        self._parent: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    async def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdin: bytes = b"",
        onto: tuple[int, int] | None = None,
    ) -> WarmProcess:
        """Run `orchestrator` with those arguments and that input, in that environment and nothing else.

        What it prints goes `onto` other files than its `stdout` and `stderr`, where two are named.
        """
        out, err, end = os.pipe(), os.pipe(), os.pipe()
        printed = (out[1], err[1]) if onto is None else (os.dup(onto[0]), os.dup(onto[1]))
        theirs = [_file_of(stdin), *printed, end[1]]
        asked = json.dumps({"arguments": list(arguments), "environment": dict(environment)}).encode()
        assert len(asked) <= REQUEST_BYTES_MAX, len(asked)
        try:
            socket.send_fds(self._connected(), [asked], theirs)
        finally:
            for each in {*theirs, out[1], err[1]}:
                os.close(each)
        stdout, stderr, told = [await _reader(pipe[0]) for pipe in (out, err, end)]
        pid = int(await told.readline())
        return WarmProcess(pid, stdout, stderr, asyncio.ensure_future(_told_end(told)))

    def _connected(self) -> socket.socket:
        if self._line is None:
            self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                command = [sys.executable, "-m", "tests.integration.warm", str(theirs.fileno())]
                self._parent = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        return self._line

    def close(self) -> None:
        """End the parent, and with it what it started."""
        if self._line is not None and self._parent is not None:
            self._line.close()
            self._parent.wait()


async def _reader(pipe: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", buffering=0)
    )
    return reader


async def _told_end(told: asyncio.StreamReader) -> int:
    return int(await told.read() or -signal.SIGKILL)


def _file_of(text: bytes) -> int:
    """Return a file that holds the text, to be read from its beginning."""
    file = os.memfd_create("stdin")
    os.write(file, text)
    os.lseek(file, 0, os.SEEK_SET)
    return file


# --- the parent ----------------------------------------------------------------------------------------------------


def _serve(line: socket.socket) -> Callable[[], None] | None:
    """Fork for every request until whoever asks is gone; in a child, return what it is to run."""
    ends: dict[int, int] = {}
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        readable, _, _ = select.select([line.fileno(), woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            _tell_ends(ends)
        if line.fileno() not in readable:
            continue
        asked, files, _, _ = socket.recv_fds(line, REQUEST_BYTES_MAX, FILES)
        if not asked:
            break
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for each in (line.detach(), woken, wakes, *ends.values()):
                os.close(each)
            return _child(json.loads(asked), files)
        end = files.pop()
        os.write(end, b"%d\n" % pid)
        ends[pid] = end
        for each in files:
            os.close(each)
    for pid in ends:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return None


def _tell_ends(ends: dict[int, int]) -> None:
    """Tell the exit code of every child that has ended."""
    while ends:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        end = ends.pop(pid)
        with suppress(BrokenPipeError):
            os.write(end, b"%d\n" % os.waitstatus_to_exitcode(status))
        os.close(end)


def _child(asked: dict[str, object], files: list[int]) -> Callable[[], None]:
    """Take the files and the environment that were asked for; return what runs the command."""
    arguments, environment = asked["arguments"], asked["environment"]
    assert isinstance(arguments, list)
    assert isinstance(environment, dict)
    for number, each in enumerate(files[:3]):
        os.dup2(each, number)
    for each in files:
        os.close(each)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each not in sys.path]
    sys.argv = ["orchestrator", *arguments]
    from orchestrator.cli import main

    return main


if __name__ == "__main__":
    for name in IMPORTS:
        __import__(name)
    # What is there already is nobody's garbage: a child that looked through it would copy all of its pages.
    gc.freeze()
    # At the top of the program, so that a child ends as any interpreter does.
    with socket.socket(fileno=int(sys.argv[1])) as asks:
        run = _serve(asks)
    if run is not None:
        run()
