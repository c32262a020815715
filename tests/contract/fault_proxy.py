"""A proxy in front of an emulator, in the test's own loop: it logs every request and does to it what a test asks.

Emulators never throttle, reset or lose an answer; the wire does. A fault is armed for a number of requests of one
operation, and those that it does not take pass through. To add a fault, write one more `Fault` below.
"""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import aiohttp
from aiohttp import web
from yarl import URL

from tests.contract.waiting import Log

BODY_BYTES_MAX: Final = 32 * 1024 * 1024
HOP_HEADERS: Final = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})
BATCH: Final = "BatchExecuteStatement"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it left the client. What is no JSON has no `body`, and its HTTP method for an operation."""

    operation: str
    body: dict[str, Any]

    @property
    def statements(self) -> list[dict[str, Any]]:
        """The statements of a batch; none for other requests."""
        statements: list[dict[str, Any]] = self.body.get("Statements", [])
        return statements

    def parameters(self) -> list[list[str]]:
        """Return the parameters of each statement as plain texts: enough to know a write by its keys."""
        return [[str(next(iter(p.values()))) for p in s.get("Parameters", [])] for s in self.statements]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client is told; the connection is cut after `cut_after` bytes of the body, where that is given."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None


Forward: TypeAlias = Callable[[bytes], Awaitable[Answer]]
Fault: TypeAlias = Callable[[Request, bytes, Forward], Awaitable[Answer]]
CUT: Final = Answer(200, b"", cut_after=0)


async def reset(_request: Request, _raw: bytes, _forward: Forward) -> Answer:
    """Cut the connection before the service saw the request."""
    return CUT


async def pass_on(_request: Request, raw: bytes, forward: Forward) -> Answer:
    """Do nothing to it: the next fault is for a later request."""
    return await forward(raw)


async def lost_answer(_request: Request, raw: bytes, forward: Forward) -> Answer:
    """Let the request take effect, then cut the connection."""
    await forward(raw)
    return CUT


async def half_an_answer(_request: Request, raw: bytes, forward: Forward) -> Answer:
    """Let the request take effect, and cut the connection in the middle of the answer."""
    answer = await forward(raw)
    return replace(answer, cut_after=max(1, len(answer.body) // 2))


async def garbled(_request: Request, raw: bytes, forward: Forward) -> Answer:
    """Let the request take effect, and answer 200 with what is no JSON."""
    answer = await forward(raw)
    return replace(answer, body=answer.body[: len(answer.body) // 2] + b"\x00<")


def refusal(code: str, *, status: int = 400, **fields: object) -> Fault:
    """Answer with that error; the service never sees the request."""
    body = json.dumps({"__type": f"com.amazonaws#{code}", "message": f"injected {code}", **fields}).encode()

    async def answer(_request: Request, _raw: bytes, _forward: Forward) -> Answer:
        return Answer(status, body, {"Content-Type": "application/x-amz-json-1.0"})

    return answer


async def html_page(_request: Request, _raw: bytes, _forward: Forward) -> Answer:
    """Answer as a load balancer does that has nobody behind it."""
    return Answer(503, b"<html><body>Service Unavailable</body></html>", {"Content-Type": "text/html"})


def statements_fail(code: str, is_hit: Callable[[dict[str, Any]], bool]) -> Fault:
    """Fail the statements that are hit inside a batch that succeeds; the service sees only the others."""

    async def answer(request: Request, _raw: bytes, forward: Forward) -> Answer:
        passing = [s for s in request.statements if not is_hit(s)]
        answered: list[Any] = []
        headers: dict[str, str] = {"Content-Type": "application/x-amz-json-1.0"}
        if passing:
            real = await forward(json.dumps({**request.body, "Statements": passing}).encode())
            assert real.status == 200, f"the batch was answered {real.status}: {real.body!r}"
            answered, headers = json.loads(real.body)["Responses"], real.headers
        rest = iter(answered)
        failed = {"Error": {"Code": code, "Message": f"injected {code}"}}
        merged = [failed if is_hit(s) else next(rest) for s in request.statements]
        return Answer(200, json.dumps({"Responses": merged}).encode(), headers)

    return answer


def rewritten(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Fault:
    """Let another request than the client's own reach the service."""

    async def answer(request: Request, _raw: bytes, forward: Forward) -> Answer:
        return await forward(json.dumps(change(request.body)).encode())

    return answer


@dataclass(slots=True)
class _Armed:
    operation: str
    fault: Fault
    left: int


class FaultProxy:
    """Stands between a client and an emulator. `requests` is what came, `answered` what was answered whole."""

    def __init__(self, upstream: str) -> None:
        self.endpoint_url = ""
        self.requests: Log[Request] = Log()
        self.answered: Log[Request] = Log()
        self._upstream = upstream
        self._armed: list[_Armed] = []
        self._gate = asyncio.Event()
        self._gate.set()

    def arm(self, operation: str, *faults: Fault, times: int = 1) -> None:
        """Do this to the next requests of that operation: each fault `times` times, in the order given."""
        self._armed += [_Armed(operation, fault, times) for fault in faults]

    def disarm(self) -> None:
        """Let everything pass from now on."""
        self._armed.clear()

    @property
    def is_disarmed(self) -> bool:
        """Whether every armed fault has happened: a test that injected nothing proves nothing."""
        return not self._armed

    def hold(self) -> None:
        """Keep requests from now on: they are logged, and wait."""
        self._gate.clear()

    def release(self) -> None:
        """Let the kept requests go on."""
        self._gate.set()

    def of(self, *operations: str) -> list[Request]:
        """Return the requests of these operations so far, in order."""
        return [request for request in self.requests.entries if request.operation in operations]

    async def handle(self, incoming: web.Request, session: aiohttp.ClientSession) -> web.StreamResponse:
        """Answer one request."""
        raw = await incoming.read()
        target = incoming.headers.get("X-Amz-Target", "").rpartition(".")[2]
        request = Request(target or incoming.method, json.loads(raw) if target else {})
        self.requests.add(request)
        await self._gate.wait()

        async def forward(body: bytes) -> Answer:
            headers = {name: value for name, value in incoming.headers.items() if name.lower() not in HOP_HEADERS}
            url = URL(f"{self._upstream}{incoming.raw_path}", encoded=True)
            sent = session.request(
                incoming.method, url, data=io.BytesIO(body), headers=headers, skip_auto_headers={"Accept-Encoding"}
            )
            async with sent as answer:
                kept = {n: v for n, v in answer.headers.items() if n.lower() not in HOP_HEADERS}
                return Answer(answer.status, await answer.read(), kept)

        answer = await self._treat(request, raw, forward)
        # A checksum of the whole is wrong for a part or for a body of ours.
        headers = {n: v for n, v in answer.headers.items() if n.lower() != "x-amz-crc32"}
        if answer.cut_after is None:
            self.answered.add(request)
            return web.Response(status=answer.status, body=answer.body, headers=headers)
        if incoming.transport is None:
            # The client has not waited.
            return web.Response()
        cut = web.StreamResponse(status=answer.status, headers=headers)
        cut.content_length = len(answer.body)
        if answer.cut_after:
            await cut.prepare(incoming)
            await cut.write(answer.body[: answer.cut_after])
        incoming.transport.close() if answer.cut_after else incoming.transport.abort()
        return cut

    async def _treat(self, request: Request, raw: bytes, forward: Forward) -> Answer:
        for armed in self._armed:
            if armed.operation in {request.operation, "*"}:
                armed.left -= 1
                if not armed.left:
                    self._armed.remove(armed)
                return await armed.fault(request, raw, forward)
        return await forward(raw)


@asynccontextmanager
async def fault_proxy(upstream: str, proxy: FaultProxy | None = None) -> AsyncIterator[FaultProxy]:
    """Run a proxy in front of `upstream`, or this one, while the block runs."""
    proxy = proxy or FaultProxy(upstream)
    # Bytes pass as they are: an object that is stored compressed has a checksum of what was compressed.
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def handle(request: web.Request) -> web.StreamResponse:
            return await proxy.handle(request, session)

        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None, auto_decompress=False)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            proxy.endpoint_url = f"http://{host}:{port}"
            yield proxy
        finally:
            proxy.release()
            await runner.cleanup()


def batch_sizes(requests: Sequence[Request]) -> list[int]:
    """Return how many writes each request carried."""
    return [len(request.statements) or 1 for request in requests]
