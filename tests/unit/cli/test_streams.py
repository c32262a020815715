"""What a process prints when nobody reads it."""

import fcntl
import io
import json
import os
import sys
import time
from collections.abc import Iterator

import pytest

from orchestrator.cli.streams import WAIT_SECONDS_MAX, LossyFile, keep_streams_from_stopping_us

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the size of a pipe, and /dev/full, are Linux's")
PIPE_BYTES = 8_192


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds two pages."""
    reads, writes = os.pipe()
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield reads, writes
    os.close(reads)
    os.close(writes)


def test_a_line_that_was_torn_ends_before_the_next_one_that_says_so(pipe: tuple[int, int]) -> None:
    """Whoever reads lines reads whole ones again."""
    reads, writes = pipe
    file = LossyFile(writes)
    assert 9_001 == file.write(b"a" * 9_000 + b"\n")
    assert 7 == file.write(b"unread\n")
    assert b"a" * PIPE_BYTES == os.read(reads, PIPE_BYTES)
    file.write(b"read\n")
    empty, told, rest = os.read(reads, PIPE_BYTES).splitlines()
    assert (b"", b"read") == (empty, rest)
    notice = json.loads(told)
    assert ("output_lost", 2, "not read in time") == (notice["event"], notice["writes"], notice["reason"])


def test_a_reader_that_stands_still_is_waited_for_once(pipe: tuple[int, int]) -> None:
    """A burst may come through; a hundred lines that nobody reads do not stop a node for ten seconds."""
    file = LossyFile(pipe[1])
    before = time.monotonic()
    for _ in range(100):
        file.write(b"x" * PIPE_BYTES)
    assert WAIT_SECONDS_MAX <= time.monotonic() - before < 10 * WAIT_SECONDS_MAX


@pytest.mark.parametrize(("closed", "reason"), [(True, "Broken pipe"), (False, "No space left on device")])
def test_a_closed_pipe_and_a_full_disk_raise_nothing(closed: bool, reason: str) -> None:
    """What is lost is known by its reason."""
    reads, pipe = os.pipe()
    os.close(reads)
    full = os.open("/dev/full", os.O_WRONLY)
    file = LossyFile(pipe if closed else full)
    text = io.TextIOWrapper(file, line_buffering=True)
    for _ in range(3):
        print("in vain", file=text, flush=True)
    assert (3, reason) == file.lost
    os.close(pipe)
    os.close(full)


def test_streams_that_were_closed_from_the_start_are_written_to_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to whatever has got their number meanwhile, which may be a connection."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    keep_streams_from_stopping_us()
    for stream in (sys.stdout, sys.stderr):
        print("nobody hears it", file=stream, flush=True)
        assert stream.fileno() > 2
        assert not stream.isatty()
        os.close(stream.fileno())
