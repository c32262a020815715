"""Whatever goes wrong with a request, the answer is a problem with a stable code, and shows nothing of our insides."""

import asyncio

import pytest
from aiohttp import web
from http_stage import NOON, PATIENCE_SECONDS, Stage, stage

from actors import ManualClock, settle
from orchestrator.cluster import Head
from orchestrator.cluster.memory import MemoryHeads
from orchestrator.errors import Unavailable
from orchestrator.http.bodies import ANSWER_BYTES_MAX, BODY_BYTES_MAX
from orchestrator.http.connections import listening
from orchestrator.http.server import HANDLER_SECONDS_MAX

JSON = {"Content_Type": "application/json"}


class FailingHeads(MemoryHeads):
    """Heads that fail, or never answer."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self._error = error
        self.asked = asyncio.Event()

    async def get(self, session_id: str) -> Head | None:
        """See `Heads.get`."""
        self.asked.set()
        if self._error is None:
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")
        raise self._error


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "NOT_FOUND"),
        ("GET", "/sessions/s/", 404, "NOT_FOUND"),
        ("GET", "/", 404, "NOT_FOUND"),
        ("DELETE", "/sessions", 405, "METHOD_NOT_ALLOWED"),
        ("PUT", "/sessions/s", 405, "METHOD_NOT_ALLOWED"),
        ("OPTIONS", "/ping", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/callbacks/c", 405, "METHOD_NOT_ALLOWED"),
    ],
)
async def test_what_does_not_exist_is_a_problem(method: str, path: str, status: int, code: str) -> None:
    """An unknown path, or a method that a path does not know."""
    async with stage() as node:
        assert (status, code) == await node.code(method, path)


async def test_a_method_that_is_not_allowed_is_told_which_are() -> None:
    """RFC 9110: 405 carries Allow."""
    async with stage() as node, node.http.delete(f"{node.url}/sessions") as answer:
        assert {"GET", "HEAD", "POST"} == set(answer.headers["Allow"].split(","))


@pytest.mark.parametrize(
    ("data", "headers", "status", "code"),
    [
        (b"{", JSON, 422, "INVALID_JSON"),
        (b"", JSON, 422, "INVALID_MESSAGE"),
        (b"[]", JSON, 422, "INVALID_MESSAGE"),
        (b"{}", {"Content_Type": "text/plain"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        (b"{}", {}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        (b"no gzip", {**JSON, "Content_Encoding": "gzip"}, 400, "BAD_BODY"),
        (b" " * (BODY_BYTES_MAX + 1), JSON, 413, "BODY_TOO_LARGE"),
        (b"{}", {**JSON, "Expect": "a-miracle"}, 417, "EXPECTATION_FAILED"),
    ],
)
async def test_a_body_that_cannot_be_taken_is_a_problem(
    data: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    """Type, size, encoding and form, each with its own code."""
    async with stage() as node:
        assert (status, code) == await node.code("POST", "/sessions", data=data, **headers)


async def test_bodies_of_messages_are_held_to_the_same_limits() -> None:
    """Also where a body is optional: one that is there counts."""
    async with stage() as node:
        limits = {
            "/sessions/s/signals/a": BODY_BYTES_MAX,
            "/sessions/s/cancel": BODY_BYTES_MAX,
            "/sessions/s/approvals/a": BODY_BYTES_MAX,
            "/callbacks/c": ANSWER_BYTES_MAX,
        }
        for path, limit in limits.items():
            large = b'"' + b"x" * limit + b'"'
            assert (413, "BODY_TOO_LARGE") == await node.code("POST", path, data=large, **JSON)
            assert (415, "UNSUPPORTED_MEDIA_TYPE") == await node.code("POST", path, data=b"{}")
            assert (422, "INVALID_JSON") == await node.code("POST", path, data=b"NaN", **JSON)


async def test_a_body_that_says_it_is_too_large_is_not_waited_for() -> None:
    """413 before its first byte; a chunked one, which says nothing, is counted as it comes."""
    head = b"POST /sessions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\n"
    async with stage() as node:
        told = await _spoken(node, head + b"Content-Length: 99999999999\r\n\r\n", first=b'"BODY_TOO_LARGE"')
        assert told.startswith(b"HTTP/1.1 413 ")
        chunk = b"%x\r\n%s\r\n" % (BODY_BYTES_MAX, b" " * BODY_BYTES_MAX)
        told = await _spoken(node, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2, first=b'"BODY_TOO_LARGE"')
        assert told.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("sent", [b"", b"GET /pi", b"GET /ping HTTP/1.1\r\nHost: a\r\n"], ids=repr)
async def test_a_client_that_never_finishes_its_request_is_cut_off(sent: bytes) -> None:
    """A connection without a whole head ends when its time is over, with all that it holds."""
    async with listening(web.Application(), host="127.0.0.1", port=0, idle_seconds_max=0.05) as address:
        host, _, port = address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert b"" == await reader.read()
        writer.close()


async def test_a_client_that_waits_for_100_continue_gets_it() -> None:
    """curl does so for larger bodies."""
    async with (
        stage() as node,
        node.http.post(f"{node.url}/sessions", json={"session_type": "echo"}, expect100=True) as answer,
    ):
        assert 202 == answer.status


@pytest.mark.parametrize(
    "sent",
    [
        b"tea, please\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\nX: " + b"secret" * 5_000 + b"\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\nsecret header\r\n\r\n",
        b"POST /sessions HTTP/1.1\r\nHost: a\r\nContent-Length: secret\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_problem_that_quotes_nothing(sent: bytes) -> None:
    """A line that cannot be read may hold a key; the connection is closed."""
    async with stage() as node:
        head, _, body = (await _spoken(node, sent)).partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 400 Bad Request\r\n", b"HTTP/1.0 400 Bad Request\r\n"))
        assert b"Content-Type: application/problem+json" in head
        assert b'"code": "BAD_REQUEST"' in body
        assert b"secret" not in body
        assert b"tea" not in body


async def test_a_handler_that_takes_too_long_is_given_up() -> None:
    """503 TIMEOUT with Retry-After, by the node's clock."""
    clock, heads = ManualClock(NOON), FailingHeads(None)
    async with stage(clock=clock, heads=heads) as node:
        asking = asyncio.ensure_future(node.code("GET", "/sessions/s"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await heads.asked.wait()
        clock.advance(HANDLER_SECONDS_MAX - 0.1)
        await settle()
        assert not asking.done()
        clock.advance(0.1)
        assert (503, "TIMEOUT") == await asking


async def test_our_own_bug_shows_nothing() -> None:
    """500 INTERNAL; the log has the exception, the answer has not."""
    async with stage(heads=FailingHeads(ValueError("secret payload"))) as node:
        status, problem = await node.ask("GET", "/sessions/s")
        assert (500, "INTERNAL") == (status, problem["code"])
        assert "secret" not in str(problem)
        assert ["request_failed"] == [line["event"] for line in node.logs]


async def test_a_timeout_of_something_else_is_a_bug_and_no_timeout_of_ours() -> None:
    """Only the limit's own expiry says TIMEOUT."""
    async with stage(heads=FailingHeads(TimeoutError())) as node:
        assert (500, "INTERNAL") == await node.code("GET", "/sessions/s")


async def test_a_refusal_of_what_is_behind_us_may_be_tried_again() -> None:
    """503 with the fault's own code and Retry-After."""
    refusing = FailingHeads(Unavailable("table: secret"))
    async with stage(heads=refusing) as node, node.http.get(f"{node.url}/sessions/s") as answer:
        problem = await answer.json(content_type=None)
        assert (503, "UNAVAILABLE", "5") == (answer.status, problem["code"], answer.headers["Retry-After"])
        assert "secret" not in str(problem)


async def test_who_has_no_key_learns_how_to_show_one_and_nothing_else() -> None:
    """401 with WWW-Authenticate, also where the path or the method does not exist; probes are open."""
    async with stage(keys=["right"]) as node:
        for method, path in (("GET", "/nowhere"), ("DELETE", "/sessions"), ("GET", "/docs"), ("GET", "/openapi.json")):
            async with node.http.request(method, f"{node.url}{path}") as answer:
                assert (401, "Bearer") == (answer.status, answer.headers["WWW-Authenticate"]), path
            async with node.http.request(
                method, f"{node.url}{path}", headers={"Authorization": "Bearer right"}
            ) as answer:
                assert 401 != answer.status
        for path in ("/ping", "/health", "/ready"):
            assert 200 == (await node.ask("GET", path))[0]
        for path in ("/pingpong", "/ready/", "/healthy"):
            assert (401, "UNAUTHORIZED") == await node.code("GET", path)


async def _spoken(node: Stage, sent: bytes, *, first: bytes = b"") -> bytes:
    """Return all that comes back for these bytes, until the node closes the connection, or up to a `first` text."""
    host, _, port = node.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await (reader.readuntil(first) if first else reader.read())
    finally:
        writer.close()
