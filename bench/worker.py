"""Runs `orchestrator serve` as it is, pinned to a core; on request it counts its requests or samples its CPU time.

It hooks the HTTP client that carries the SDK's requests, and the exchange that carries the product's own; what they do
is not touched.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from bench import answers
from orchestrator.aws.exchange import Exchange

FIRST_POLL = "AmazonSQS.ReceiveMessage"
CORE = "BENCH_CORE"
MARK = "BENCH_MARK"
"""File that gets the process's CPU seconds as it first asks the queue for messages."""
METER = "BENCH_METER"
"""File that gets the requests made since then, at SIGUSR2."""
SAMPLES = "BENCH_SAMPLES"
CALLS = "BENCH_CALLS"
"""Files that get a profile of the time since then, at SIGUSR2: sampled, or of every call."""
DUMPED = "BENCH_DUMPED"
"""File that appears when they are written."""


class Hooks:
    """What happens at the first poll of the queue, with each request, and at SIGUSR2."""

    def __init__(self) -> None:
        self._has_begun = False
        self._requests: list[tuple[str, str]] = []

    def install(self) -> None:
        """See every request that leaves this process, until it has all that was asked for."""
        sdk: Any = aiohttp.ClientSession
        own: Any = Exchange
        send, post = sdk._request, own.post

        async def sent(session: aiohttp.ClientSession, *args: Any, **kwargs: Any) -> Any:
            self._see(kwargs.get("headers"), kwargs.get("data"))
            return await send(session, *args, **kwargs)

        async def posted(exchange: Exchange, headers: Mapping[str, str], body: bytes) -> Any:
            self._see(headers, body)
            if self._has_begun and METER not in os.environ:
                # From here on the process is the product's alone.
                sdk._request, own.post = send, post
            return await post(exchange, headers, body)

        sdk._request, own.post = sent, posted
        signal.signal(signal.SIGUSR2, lambda *_: self._dump())

    def _see(self, headers: Mapping[str, Any] | None, body: object) -> None:
        operation = _operation(headers)
        if not self._has_begun and operation == FIRST_POLL:
            self._begin()
        if self._has_begun and operation is not None:
            self._requests.append((operation, _text(body)))

    def _begin(self) -> None:
        self._has_begun = True
        Path(os.environ[MARK]).write_text(json.dumps({"cpu": time.process_time(), "at": time.time()}))
        self._begin_profile()

    def _begin_profile(self) -> None:
        if SAMPLES in os.environ:
            from bench.sampler import Sampler  # noqa: PLC0415 - a plain run must not load it

            self._sampler = Sampler()
            self._sampler.start()
        if CALLS in os.environ:
            from cProfile import Profile  # noqa: PLC0415 - a plain run must not load it

            self._calls = Profile()
            self._calls.enable()

    def _dump(self) -> None:
        if SAMPLES in os.environ:
            self._sampler.stop()
            self._sampler.write(Path(os.environ[SAMPLES]))
        if CALLS in os.environ:
            self._calls.disable()
            self._calls.dump_stats(os.environ[CALLS])
        if METER in os.environ:
            Path(os.environ[METER]).write_text(json.dumps(self._requests))
        Path(os.environ[DUMPED]).touch()


def _operation(given: Mapping[str, Any] | None) -> str | None:
    """Return such as `DynamoDB_20120810.PutItem`; `S3` for other signed requests, `None` for unsigned ones."""
    headers = {str(name).lower(): value for name, value in (given or {}).items()}
    target = headers.get("x-amz-target")
    if target is None:
        return "S3" if "authorization" in headers else None
    return target.decode() if isinstance(target, bytes) else str(target)


def _text(body: object) -> str:
    return body.decode(errors="replace") if isinstance(body, bytes) else ""


def main() -> None:
    """Be `orchestrator serve bench.app:app`."""
    if CORE in os.environ:
        os.sched_setaffinity(0, {int(os.environ[CORE])})
    answers.install()
    Hooks().install()
    sys.argv = ["orchestrator", "serve", "bench.app:app"]
    from orchestrator.cli import main as orchestrator  # noqa: PLC0415 - after the hooks

    orchestrator()


if __name__ == "__main__":
    main()
